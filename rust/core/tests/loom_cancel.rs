//! Cancels of several origins: asking against delivery against a scope's end. The real `Cancels` and `StateWord`.
#![cfg(loom)]

use gorun_core::prim::Lock;
use gorun_core::sched::{Cancel, Cancels, Park, StateWord, Verdict};
use loom::sync::Arc;
use loom::thread;

struct Target {
    word: StateWord,
    cancels: Lock<Cancels<()>>,
    /// The scope's own lock: whoever fires it asks under it.
    scope_ended: Lock<bool>,
}

const SCOPE: u64 = 5;

impl Target {
    fn running() -> Arc<Self> {
        let t = Self {
            word: StateWord::new(),
            cancels: Lock::new(Cancels::default()),
            scope_ended: Lock::new(false),
        };
        t.word.renew_running();
        Arc::new(t)
    }

    fn ask(&self, origin: u64) -> Cancel {
        self.cancels.lock().ask(&self.word, origin, None).0
    }

    fn fire_scope(&self) -> bool {
        let ended = self.scope_ended.lock();
        if *ended {
            return false;
        }
        let said = self.ask(SCOPE);
        assert_ne!(said, Cancel::Wake, "nobody parks here");
        true
    }

    fn leave_scope(&self) -> bool {
        let mut ended = self.scope_ended.lock();
        *ended = true;
        self.cancels.lock().withdraw(&self.word, SCOPE).is_some()
    }

    /// A cancel point that does not wait: the origin that is raised.
    fn point(&self) -> Option<u64> {
        self.word.take_cancel().then(|| self.second_half())
    }

    fn second_half(&self) -> u64 {
        let (origin, _) = self
            .cancels
            .lock()
            .deliver(&self.word)
            .expect("the word said so");
        origin
    }

    /// A wait that somebody makes ready, or a cancel cuts: the origin that is raised.
    fn wait(&self) -> Option<u64> {
        if self.word.arm(true).is_err() {
            return Some(self.second_half());
        }
        if self.word.verdict() == Some(Verdict::Cancel) {
            let Park::Fired(_) = self.word.park() else {
                unreachable!()
            };
            self.word.delivered();
            return Some(self.second_half());
        }
        // It turns out needless.
        self.word.disarm();
        None
    }
}

/// A scope fires while its owner passes a cancel point and leaves it: the cancel is delivered, or withdrawn, or never
/// asked for; after the end none is pending. Fails if `withdraw` does not clear the word, or if the scope is fired
/// without its lock.
#[test]
fn fire_against_delivery_against_the_end() {
    loom::model(|| {
        let t = Target::running();
        let timer = {
            let t = t.clone();
            thread::spawn(move || t.fire_scope())
        };
        let delivered = t.point() == Some(SCOPE);
        let withdrawn = t.leave_scope();
        let fired = timer.join().unwrap();
        assert!(!(delivered && withdrawn));
        assert_eq!(fired, delivered || withdrawn);
        assert!(!t.word.cancel_pending(), "after the scope's end");
    });
}

/// A cancel from outside comes in the same instant: whatever the scope does, it is raised, once. Fails if `withdraw`
/// always clears the word.
#[test]
fn a_cancel_from_outside_is_not_lost() {
    loom::model(|| {
        let t = Target::running();
        let timer = {
            let t = t.clone();
            thread::spawn(move || t.fire_scope())
        };
        let outside = {
            let t = t.clone();
            thread::spawn(move || assert_eq!(t.ask(0), Cancel::Set))
        };
        let mut raised: Vec<_> = t.point().into_iter().collect();
        t.leave_scope();
        timer.join().unwrap();
        outside.join().unwrap();
        while let Some(origin) = t.point() {
            assert_eq!(origin, 0, "after the scope's end");
            raised.push(origin);
        }
        assert_eq!(raised.iter().filter(|o| **o == 0).count(), 1);
    });
}

/// The same around a wait that turns out needless. Fails if `disarm` drops the verdict, or if `deliver` does not
/// look for more.
#[test]
fn a_needless_wait_loses_none() {
    loom::model(|| {
        let t = Target::running();
        let askers = [0, 3].map(|origin| {
            let t = t.clone();
            thread::spawn(move || assert_eq!(t.ask(origin), Cancel::Set))
        });
        let mut raised: Vec<_> = t.wait().into_iter().collect();
        askers.into_iter().for_each(|a| a.join().unwrap());
        while let Some(origin) = t.point() {
            raised.push(origin);
        }
        raised.sort_unstable();
        assert_eq!(raised, [0, 3]);
    });
}

/// A cancel against the beginning and the end of a shield: it is due afterwards, never inside. Fails if `set_shield`
/// does not look again.
#[test]
fn ask_against_a_shield() {
    loom::model(|| {
        let t = Target::running();
        let asker = {
            let t = t.clone();
            thread::spawn(move || assert_eq!(t.ask(0), Cancel::Set))
        };
        assert_eq!(t.cancels.lock().set_shield(&t.word, 9), 0);
        assert_eq!(t.point(), None);
        assert_eq!(t.cancels.lock().set_shield(&t.word, 0), 9);
        asker.join().unwrap();
        assert_eq!(t.point(), Some(0));
        assert_eq!(t.point(), None);
    });
}
