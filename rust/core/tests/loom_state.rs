//! The word of a waiter: its ends against each other. The real `StateWord`.
#![cfg(loom)]

use gorun_core::sched::{Cancel, Fire, Park, Phase, StateWord, Verdict};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

/// A waiter whose body is touched by whoever may run it, and by nobody else (loom's cell sees races).
struct Waiter {
    word: StateWord,
    body: UnsafeCell<u32>,
    /// How often it was woken.
    woken: AtomicU32,
}

impl Waiter {
    fn running() -> Arc<Self> {
        let w = Self {
            word: StateWord::new(),
            body: UnsafeCell::new(0),
            woken: AtomicU32::new(0),
        };
        w.word.renew_running();
        Arc::new(w)
    }

    fn run(&self) {
        // SAFETY: loom checks that nobody else does.
        self.body.with_mut(|b| unsafe { *b += 1 });
    }

    /// Whoever won a parked waiter resumes it.
    fn resume(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        self.word.start();
        self.run();
    }

    /// Parks; goes on at once if somebody fired before.
    fn park(&self) {
        self.run();
        if let Park::Fired(_) = self.word.park() {
            self.resume();
        }
    }
}

/// Ready, time-out and cancel race with each other and with the parking: one wins, the waiter is woken once, and its
/// body passes from the thread that parked it to the one that resumes it. Fails if `fire` does not take ARMED away,
/// if `park` is a load and a store, or if `update` does not release.
#[test]
fn park_against_ready_timeout_cancel() {
    loom::model(|| {
        let w = Waiter::running();
        let ticket = w.word.arm(true).unwrap();
        let ends = [Some(Verdict::Ready), Some(Verdict::Timeout), None].map(|end| {
            let w = w.clone();
            thread::spawn(move || {
                let (won, wake) = match end {
                    Some(v) => {
                        let end = w.word.fire(ticket, v);
                        (end != Fire::Lost, end == Fire::Wake)
                    }
                    None => {
                        let end = w.word.cancel();
                        (
                            w.word.verdict() == Some(Verdict::Cancel),
                            end == Cancel::Wake,
                        )
                    }
                };
                if wake {
                    w.resume();
                }
                won
            })
        });
        w.park();
        let won: Vec<_> = ends.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(won.iter().filter(|w| **w).count(), 1, "one end");
        assert_eq!(w.woken.load(Ordering::Relaxed), 1, "woken once");
        assert_eq!(w.word.phase(), Phase::Running);
        // A cancel that lost is not forgotten.
        assert!(won[2] != w.word.take_cancel());
        w.run();
    });
}

/// A cancel races with the end: either it came in time (and was pending at the end), or it says that it is too late.
/// Fails if `finish` or `cancel` overwrites the word instead of exchanging it.
#[test]
fn cancel_against_finish() {
    loom::model(|| {
        let w = Waiter::running();
        let canceller = {
            let w = w.clone();
            thread::spawn(move || w.word.cancel())
        };
        let pending = w.word.finish();
        match canceller.join().unwrap() {
            Cancel::Set => assert!(pending, "a cancel was accepted and lost"),
            Cancel::Ended => assert!(!pending),
            other => panic!("{other:?}"),
        }
        assert_eq!(w.word.phase(), Phase::Done);
    });
}

/// The wait turns out needless while a cancel cuts it: the cancel stays for the next cancel point. Fails if `disarm`
/// drops the verdict.
#[test]
fn cancel_against_disarm() {
    loom::model(|| {
        let w = Waiter::running();
        w.word.arm(true).unwrap();
        let canceller = {
            let w = w.clone();
            thread::spawn(move || assert_eq!(w.word.cancel(), Cancel::Set))
        };
        w.word.disarm();
        canceller.join().unwrap();
        assert!(w.word.take_cancel(), "a cancel was accepted and lost");
    });
}

/// Two cancels at once: one is accepted, the other told so, one is delivered.
fn cancel_against_cancel(armed: bool) {
    loom::model(move || {
        let w = Waiter::running();
        if armed {
            w.word.arm(true).unwrap();
        }
        let cancel = {
            let w = w.clone();
            move || w.word.cancel()
        };
        let other = thread::spawn(cancel.clone());
        let said = [cancel(), other.join().unwrap()];
        assert!(said.contains(&Cancel::Set) && said.contains(&Cancel::Already));
        if armed {
            assert_eq!(w.word.park(), Park::Fired(Verdict::Cancel));
            w.word.delivered();
        } else {
            assert!(w.word.take_cancel());
        }
        assert!(!w.word.take_cancel(), "delivered twice");
    });
}

/// Fails without the look for PENDING in `cancel`.
#[test]
fn cancel_against_cancel_of_a_runner() {
    cancel_against_cancel(false);
}

/// Fails without the look for the verdict in `cancel`.
#[test]
fn cancel_against_cancel_of_a_waiter() {
    cancel_against_cancel(true);
}

/// A waker from an earlier wait comes late, while the memory is in use again: it must not end the new wait. Fails if
/// `arm` or `renew` keeps the ticket.
#[test]
fn late_fire_against_the_next_wait() {
    loom::model(|| {
        let w = Waiter::running();
        let old = w.word.arm(false).unwrap();
        let late = {
            let w = w.clone();
            thread::spawn(move || w.word.fire(old, Verdict::Timeout))
        };
        // The first wait is needless, the waiter ends, and its memory becomes another one, which waits.
        w.word.disarm();
        w.word.finish();
        w.word.renew_running();
        let new = w.word.arm(false).unwrap();
        assert_eq!(w.word.park(), Park::Parked);
        assert_ne!(late.join().unwrap(), Fire::Wake, "it ended the next wait");
        assert_eq!(w.word.fire(new, Verdict::Ready), Fire::Wake);
    });
}

/// A timer that goes off against its `stop`: it runs or it is gone, never both. Fails if `revoke` leaves ARMED set.
#[test]
fn fire_against_revoke() {
    loom::model(|| {
        let w = Waiter::running();
        let ticket = w.word.renew_dormant();
        let stop = {
            let w = w.clone();
            thread::spawn(move || w.word.revoke(ticket))
        };
        let fired = w.word.fire(ticket, Verdict::Timeout) == Fire::Wake;
        assert_ne!(fired, stop.join().unwrap());
        assert_eq!(
            w.word.phase(),
            if fired { Phase::Running } else { Phase::New }
        );
    });
}

/// Somebody looks at the body of a parked waiter while it is woken: the two never have it at once, and the waking is
/// not lost. Fails if `inspect` leaves the phase Parked.
#[test]
fn inspect_against_ready() {
    loom::model(|| {
        let w = Waiter::running();
        let ticket = w.word.arm(false).unwrap();
        let inspector = {
            let w = w.clone();
            thread::spawn(move || {
                if w.word.inspect() {
                    w.park();
                }
            })
        };
        let waker = {
            let w = w.clone();
            thread::spawn(move || {
                if w.word.fire(ticket, Verdict::Ready) == Fire::Wake {
                    w.resume();
                }
            })
        };
        w.park();
        inspector.join().unwrap();
        waker.join().unwrap();
        assert_eq!(w.woken.load(Ordering::Relaxed), 1, "woken once");
    });
}

/// A thread sleeps on its own word: nobody may take it aside, for it looks at the phase by itself. Fails if `inspect`
/// does not heed HELD.
#[test]
fn inspect_against_a_thread() {
    loom::model(|| {
        let w = Waiter::running();
        let ticket = w.word.arm(false).unwrap();
        let inspector = {
            let w = w.clone();
            thread::spawn(move || assert!(!w.word.inspect()))
        };
        assert_eq!(w.word.park_held(), Park::Parked);
        assert_eq!(w.word.phase(), Phase::Parked);
        assert_eq!(w.word.fire(ticket, Verdict::Ready), Fire::Wake);
        inspector.join().unwrap();
    });
}
