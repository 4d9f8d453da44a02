//! Gates: hand-over, calls, time-outs and steps aside at the same time. The real code of `gate.rs` and `wait.rs`.
#![cfg(loom)]

#[path = "loom/hand.rs"]
mod hand;
#[path = "loom/host.rs"]
mod host;

use std::sync::Arc;

use gorun_core::gate::{Calls, Flag, Gate, Readers, Rule, Spot, Units};
use hand::{AT_ONCE, Hand, Shared, enter, rt};
use host::Rt;
use loom::thread;

/// Waits before `gate`, by hand.
fn enlist<R: Rule>(rt: Rt<false>, gate: &Gate<R>, want: u64) -> (Hand, Shared<Spot>) {
    let (mut hand, spot) = (Hand::new(rt), Shared::new(Spot::new(want)));
    let (waker, ticket) = hand.arm();
    // SAFETY: shared until the end.
    assert!(unsafe { gate.enlist(spot.get(), waker, ticket) });
    assert!(hand.park());
    (hand, spot)
}

/// A unit is given back while the first of two gives up: the second gets it, at once or when the first gives it back.
/// Fails if one that was late keeps its unit, or `admit` stops at one that was late.
#[test]
fn hand_over_against_a_limit() {
    loom::model(|| {
        let (rt, gate) = (rt(), Arc::new(Gate::new(Units { free: 0 })));
        let (a, b) = (gate.clone(), gate.clone());
        let hasty = thread::spawn(move || {
            if enter(rt, &a, 1, AT_ONCE) {
                a.change(rt, |r| r.free += 1);
            }
        });
        let patient = thread::spawn(move || assert!(enter(rt, &b, 1, None)));
        gate.change(rt, |r| r.free += 1);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_eq!((gate.look(|r| r.free), gate.waiting()), (0, 0));
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A large request at the head gives up while a unit too few is given back: the small one behind it enters. Fails
/// without the look at the head in `delist`.
#[test]
fn a_large_request_gives_up() {
    loom::model(|| {
        let (rt, gate) = (rt(), Arc::new(Gate::new(Units { free: 0 })));
        let (large, at) = enlist(rt, &gate, 3);
        let (small, behind) = enlist(rt, &gate, 1);
        let other = gate.clone();
        let giving_up = thread::spawn(move || {
            assert!(large.expire());
            // SAFETY: enlisted there.
            unsafe { other.delist(rt, at.get()) };
        });
        gate.change(rt, |r| r.free += 2);
        giving_up.join().unwrap();
        assert!(small.is_ready());
        assert_eq!((gate.look(|r| r.free), rt.global_len()), (1, 1));
        at.free();
        behind.free();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// As a Cond's waiter does whose wait has ended otherwise.
fn give_up(rt: Rt<false>, gate: &Gate<Calls>, number: u64) {
    gate.change(rt, |r| {
        if r.give_up(number) {
            r.notify(1);
        }
    });
}

/// A call comes while the first of two gives up: one of them is called. Fails if `undo` forgets a
/// call that met one that was late.
#[test]
fn notify_against_a_limit() {
    loom::model(|| {
        let (rt, gate) = (rt(), Arc::new(Gate::new(Calls::default())));
        let [one, two] = [(); 2].map(|()| gate.change(rt, Calls::take));
        let (first, at) = enlist(rt, &gate, one);
        let (second, behind) = enlist(rt, &gate, two);
        let other = gate.clone();
        let giving_up = thread::spawn(move || {
            let won = first.expire();
            if won {
                // SAFETY: enlisted there.
                unsafe { other.delist(rt, at.get()) };
                give_up(rt, &other, one);
            }
            won
        });
        // If the first has left in between, the second is the only one.
        gate.change(rt, |r| r.notify(1));
        let late = giving_up.join().unwrap();
        assert_eq!((first.is_ready(), second.is_ready()), (!late, late));
        assert_eq!(rt.global_len(), 1);
        assert!(
            !gate.try_enter(one) && !gate.try_enter(two),
            "a call for nobody"
        );
        at.free();
        behind.free();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A call comes while the first of two steps aside, and its check fails: the second is called, if the first was not
/// before. Fails if the call that came while it was aside is not passed on.
#[test]
fn notify_against_a_failed_check() {
    loom::model(|| {
        let (rt, gate) = (rt(), Arc::new(Gate::new(Calls::default())));
        let [one, two] = [(); 2].map(|()| gate.change(rt, Calls::take));
        let (first, at) = enlist(rt, &gate, one);
        let (second, behind) = enlist(rt, &gate, two);
        let other = gate.clone();
        let raising = thread::spawn(move || {
            // As `block_on` does.
            // SAFETY: under the gate's lock; enlisted there.
            unsafe {
                other.aside(at.get());
                let won = first.expire();
                if won {
                    other.delist(rt, at.get());
                    give_up(rt, &other, one);
                }
                won
            }
        });
        gate.change(rt, |r| r.notify(1));
        let raised = raising.join().unwrap();
        assert_eq!((first.is_ready(), second.is_ready()), (!raised, raised));
        assert_eq!(rt.global_len(), 1);
        at.free();
        behind.free();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A flag goes up and down again while one steps aside and comes back: it was up while it waited, so it is in. Fails if
/// `admit` passes over those aside, or `enlist` does not look at `entered`.
#[test]
fn a_flag_against_a_step_aside() {
    loom::model(|| {
        let (rt, gate) = (rt(), Arc::new(Gate::new(Flag::default())));
        let (mut hand, at) = enlist(rt, &gate, 0);
        let other = gate.clone();
        let stepping = thread::spawn(move || {
            // SAFETY: under the gate's lock; enlisted there.
            unsafe {
                other.aside(at.get());
                if !hand.expire() {
                    return (true, hand);
                }
                let (waker, ticket) = hand.arm();
                let waits = other.enlist(at.get(), waker, ticket);
                if waits {
                    hand.park();
                }
                (!waits, hand)
            }
        });
        gate.change(rt, |r| r.set = true);
        gate.change(rt, |r| r.set = false);
        let (inside, hand) = stepping.join().unwrap();
        assert!(inside || hand.is_ready());
        at.free();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A writer with a limit between two readers, while a writer leaves: both readers are in at the end, whatever became of
/// the writer. Fails if `undo` of a writer is forgotten.
#[test]
fn readers_against_a_writer_that_gives_up() {
    loom::model(|| {
        let (rt, gate) = (rt(), Arc::new(Gate::new(Readers::default())));
        assert!(gate.try_enter(Readers::WRITE));
        let (writer, at) = enlist(rt, &gate, Readers::WRITE);
        let (reader, behind) = enlist(rt, &gate, Readers::READ);
        let other = gate.clone();
        let giving_up = thread::spawn(move || {
            if writer.expire() {
                // SAFETY: enlisted there.
                unsafe { other.delist(rt, at.get()) };
            } else {
                other.undo(rt, Readers::WRITE);
            }
        });
        let other = gate.clone();
        let second = thread::spawn(move || assert!(enter(rt, &other, Readers::READ, None)));
        gate.undo(rt, Readers::WRITE);
        giving_up.join().unwrap();
        second.join().unwrap();
        assert!(reader.is_ready());
        assert_eq!(gate.look(|r| (r.readers, r.writer)), (2, false));
        at.free();
        behind.free();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
