//! Selects against selects, closers, latches and time-outs. The real code of `select.rs`, `chan.rs` and `wait.rs`.
#![cfg(loom)]

#[path = "loom/hand.rs"]
mod hand;
#[path = "loom/host.rs"]
mod host;

use std::sync::Arc;
use std::time::Duration;

use gorun_core::chan::{Chan, Fate, Place, Side};
use gorun_core::sched::{Ticket, Waker};
use gorun_core::select::{Case, Event, On, Select};
use gorun_core::wait::{End, Latch, Node};
use hand::{AT_ONCE, Choose, recv as recv_one, rt, send as send_one, wait};
use host::Rt;
use loom::thread;

type Ch = Arc<Chan<u64>>;
type One = Case<u64, Ch, Ended>;

/// A latch as a case.
struct Ended(Arc<Latch>);

impl Event for Ended {
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
    unsafe fn enlist(&self, node: *mut Node, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: the same promise.
        unsafe { self.0.enlist(node, waker, ticket) }
    }
    unsafe fn delist(&self, node: *mut Node) {
        // SAFETY: the same promise.
        unsafe { self.0.delist(node) };
    }
}

fn recv(ch: &Ch) -> One {
    Case::new(On::Chan(Side::Recv, ch.clone()), Place::new())
}

fn send(ch: &Ch, v: u64) -> One {
    Case::new(On::Chan(Side::Send, ch.clone()), Place::with(v))
}

fn ended(l: &Arc<Latch>) -> One {
    Case::new(On::Latch(Ended(l.clone())), Place::new())
}

/// What a select left behind: which case, its fate, and the values of all.
type Left = (Option<usize>, Option<Fate>, Vec<Option<u64>>);

fn choose<const N: usize>(
    rt: Rt<false>,
    cases: [One; N],
    random: u64,
    limit: Option<Duration>,
) -> Left {
    let mut op = Choose {
        rt,
        select: Select::new(cases),
        random,
        won: None,
    };
    let end = wait(rt, &mut op, limit);
    if end == End::Timeout {
        op.won = None;
    }
    let fates = op.select.cases.iter().map(|c| c.place.fate);
    let open = fates.filter(|f| *f == Fate::Open).count();
    assert!(open + 1 >= N, "two cases happened");
    let fate = op.won.map(|k| op.select.cases[k].place.fate);
    let values = op.select.cases.iter().map(|c| c.place.value).collect();
    (op.won, fate, values)
}

/// Two channels, the first at the lower address: they are locked in that order, which must be the same in each run of a
/// model, or loom cannot repeat what it has seen.
fn chans() -> (Ch, Ch) {
    let (a, b) = (Arc::new(Chan::new(0)), Arc::new(Chan::new(0)));
    if Arc::as_ptr(&a) < Arc::as_ptr(&b) {
        (a, b)
    } else {
        (b, a)
    }
}

/// A select against a select, each with both sides: they meet once, in one direction. Fails (by a deadlock) if channels
/// are locked in the callers' order, or if a case is registered before all have been tried; and if a lost `fire` counts.
#[test]
fn select_against_select() {
    for random in [1, 2] {
        loom::model(move || {
            let (rt, (a, b)) = (rt(), chans());
            let (c, d) = (a.clone(), b.clone());
            let other = thread::spawn(move || choose(rt, [send(&c, 1), recv(&d)], random, None));
            let mine = choose(rt, [send(&b, 2), recv(&a)], 1, None);
            let other = other.join().unwrap();
            let done = Some(Fate::Done);
            if mine.0 == Some(0) {
                assert_eq!(mine, (Some(0), done, vec![None, None]));
                assert_eq!(other, (Some(1), done, vec![Some(1), Some(2)]));
            } else {
                assert_eq!(mine, (Some(1), done, vec![Some(2), Some(1)]));
                assert_eq!(other, (Some(0), done, vec![None, None]));
            }
            // SAFETY: all threads have ended.
            unsafe { rt.model_free() };
        });
    }
}

/// As above, both with a limit: they meet or they do not, and no value is lost or doubled. Fails if a deliverer that lost
/// leaves the value or the fate in the place.
#[test]
fn select_against_select_with_limits() {
    loom::model(|| {
        let (rt, (a, b)) = (rt(), chans());
        let (c, d) = (a.clone(), b.clone());
        let other = thread::spawn(move || choose(rt, [send(&c, 1), recv(&d)], 1, AT_ONCE));
        let mine = choose(rt, [send(&b, 2), recv(&a)], 2, AT_ONCE);
        let other = other.join().unwrap();
        match (mine.0, other.0) {
            (None, None) => {
                assert_eq!(
                    (mine.2, other.2),
                    (vec![Some(2), None], vec![Some(1), None])
                );
            }
            (Some(0), Some(1)) => {
                assert_eq!(
                    (mine.2, other.2),
                    (vec![None, None], vec![Some(1), Some(2)])
                );
            }
            (Some(1), Some(0)) => {
                assert_eq!(
                    (mine.2, other.2),
                    (vec![Some(2), Some(1)], vec![None, None])
                );
            }
            odd => panic!("{odd:?}"),
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// One channel of a select is closed while a value comes on the other: one of the two happens, and a value that was not
/// received was not sent. Fails if `delist` trusts a fate that it has read before it left the channel.
#[test]
fn select_against_close() {
    loom::model(|| {
        let (rt, (a, b)) = (rt(), chans());
        let (c, d) = (a.clone(), b.clone());
        let closer = thread::spawn(move || assert!(c.close(rt)));
        let sender = thread::spawn(move || send_one(rt, &d, 7, AT_ONCE));
        let (won, fate, values) = choose(rt, [recv(&a), recv(&b)], 1, None);
        closer.join().unwrap();
        let sent = sender.join().unwrap();
        match won {
            Some(0) => {
                assert_eq!((fate, values), (Some(Fate::Closed), vec![None, None]));
                assert_eq!(sent, (Fate::Open, Some(7)));
            }
            Some(1) => {
                assert_eq!((fate, values), (Some(Fate::Done), vec![None, Some(7)]));
                assert_eq!(sent, (Fate::Done, None));
            }
            odd => panic!("{odd:?}"),
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A latch is closed while somebody receives what the select would send: one of the two happens. Fails if a deliverer that
/// lost leaves its fate, or `delist` reads the fates before it has left the channels.
#[test]
fn select_against_a_latch() {
    loom::model(|| {
        let (rt, (a, _)) = (rt(), chans());
        let latch: Arc<Latch> = Arc::default();
        let (c, l) = (a.clone(), latch.clone());
        let closer = thread::spawn(move || assert!(l.close(rt)));
        let receiver = thread::spawn(move || recv_one(rt, &c, AT_ONCE));
        let (won, fate, values) = choose(rt, [ended(&latch), send(&a, 7)], 1, None);
        closer.join().unwrap();
        let got = receiver.join().unwrap();
        match won {
            Some(0) => {
                assert_eq!((fate, values), (Some(Fate::Open), vec![None, Some(7)]));
                assert_eq!(got, (Fate::Open, None));
            }
            Some(1) => {
                assert_eq!((fate, values), (Some(Fate::Done), vec![None, None]));
                assert_eq!(got, (Fate::Done, Some(7)));
            }
            odd => panic!("{odd:?}"),
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Both sides of one channel in each of two selects, and two cases on the same channel: they meet once and nobody meets
/// itself. Fails if a channel that is named twice is locked twice.
#[test]
fn both_sides_of_one_channel() {
    loom::model(|| {
        let (rt, (a, _)) = (rt(), chans());
        let c = a.clone();
        let other = thread::spawn(move || choose(rt, [send(&c, 1), recv(&c)], 1, AT_ONCE));
        let mine = choose(rt, [recv(&a), recv(&a), send(&a, 2)], 1, AT_ONCE);
        let other = other.join().unwrap();
        match (mine.0, other.0) {
            (None, None) => {}
            (Some(k @ (0 | 1)), Some(0)) => assert_eq!((mine.2[k], other.2[0]), (Some(1), None)),
            (Some(2), Some(1)) => assert_eq!((mine.2[2], other.2[1]), (None, Some(2))),
            odd => panic!("{odd:?}"),
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
