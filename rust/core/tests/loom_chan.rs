//! Channels: senders, receivers, closers, time-outs, cancels and steps aside at the same time. The real code of
//! `chan.rs` and `wait.rs`.
#![cfg(loom)]

#[path = "loom/hand.rs"]
mod hand;
#[path = "loom/host.rs"]
mod host;

use std::sync::Arc;

use gorun_core::chan::{Blocked, Chan, Fate, Place, Side};
use gorun_core::host::Host;
use gorun_core::sched::Cancel;
use gorun_core::wait::End;
use hand::{AT_ONCE, Hand, Shared, on, recv, rt, send};
use host::Model;
use loom::cell::UnsafeCell;
use loom::thread;

/// A value that only its owner may look at.
struct Val(UnsafeCell<u64>);

// SAFETY: loom reports a look without order.
unsafe impl Send for Val {}

impl Val {
    fn new(x: u64) -> Self {
        let v = Self(UnsafeCell::new(0));
        // SAFETY: loom checks it.
        v.0.with_mut(|p| unsafe { *p = x });
        v
    }

    fn get(&self) -> u64 {
        // SAFETY: loom checks it.
        self.0.with(|p| unsafe { *p })
    }
}

/// A sender and a receiver meet, or both time out; the sender that timed out keeps its value. Fails if `deliver` fires
/// before the value lies in the place, if `delist` does not take the lock, or if the one who lost forgets the value.
#[test]
fn send_against_recv_with_limits() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let other = ch.clone();
        let sender = thread::spawn(move || send(rt, &other, Val::new(7), AT_ONCE));
        let got = recv(rt, &ch, AT_ONCE);
        let left = sender.join().unwrap();
        assert_eq!(got.0, left.0);
        let v = got.1.or(left.1).expect("it is somewhere");
        assert_eq!(v.get(), 7);
        assert_eq!(ch.len(), 0);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// One receiver with a limit, one without, and one value: it arrives once, and the one without gets it if the other has
/// given up. Then the channel is closed. Fails if `deliver` gives up after the first that is late.
#[test]
fn one_value_for_two_receivers() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let (a, b) = (ch.clone(), ch.clone());
        let hasty = thread::spawn(move || recv(rt, &a, AT_ONCE));
        let patient = thread::spawn(move || recv(rt, &b, None));
        assert_eq!(send(rt, &ch, 7, None), (Fate::Done, None));
        let hasty = hasty.join().unwrap();
        assert!(ch.close(rt));
        let patient = patient.join().unwrap();
        if hasty.0 == Fate::Done {
            assert_eq!((hasty.1, patient), (Some(7), (Fate::Closed, None)));
        } else {
            assert_eq!((hasty.1, patient), (None, (Fate::Done, Some(7))));
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A full buffer, a sender with a limit and one without, and a receiver: what was sent is received, in order, or
/// buffered. Fails if `recv` lets a sender move up and forgets to wake it, or takes the value of one that is late.
#[test]
fn a_sender_moves_up() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(1)));
        assert_eq!(ch.try_send(rt, &mut Place::with(1)), Ok(()));
        let (a, b) = (ch.clone(), ch.clone());
        let hasty = thread::spawn(move || send(rt, &a, 2, AT_ONCE).1);
        let patient = thread::spawn(move || send(rt, &b, 3, None).1);
        let mut got = vec![recv(rt, &ch, None).1.unwrap()];
        let left = hasty.join().unwrap();
        if left.is_none() {
            got.extend(recv(rt, &ch, None).1);
        }
        assert_eq!(patient.join().unwrap(), None);
        ch.drain(rt, 4, &mut got);
        assert_eq!(got[0], 1);
        got.sort_unstable();
        let expected = if left.is_none() {
            &[1, 2, 3][..]
        } else {
            &[1, 3]
        };
        assert_eq!(got, expected);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A sender, a receiver and a closer: the two meet, or both hear that it is closed and the sender keeps its value. Fails
/// if `enlist` does not look at `closed`, or `close` sets it after it has told those that wait.
#[test]
fn close_against_send_and_recv() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let (a, b) = (ch.clone(), ch.clone());
        let sender = thread::spawn(move || send(rt, &a, 7, None));
        let receiver = thread::spawn(move || recv(rt, &b, None));
        assert!(ch.close(rt));
        let (sent, got) = (sender.join().unwrap(), receiver.join().unwrap());
        match sent.0 {
            Fate::Done => assert_eq!((sent.1, got), (None, (Fate::Done, Some(7)))),
            fate => {
                assert_eq!((fate, sent.1), (Fate::Closed, Some(7)));
                assert_eq!(got, (Fate::Closed, None));
            }
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Who knows that a channel is closed gets no more from those that wait to send. Fails if `take_from_sender` does not
/// look at `closed`.
#[test]
fn nothing_is_sent_after_close() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let mut hand = Hand::new(rt);
        let place = Shared::new(Place::with(7));
        let (waker, ticket) = hand.arm();
        // SAFETY: shared until the end.
        assert!(unsafe { ch.enlist(rt, Side::Send, place.get(), waker, ticket) });
        assert!(hand.park());
        let other = ch.clone();
        let closer = thread::spawn(move || assert!(other.close(rt)));
        let known = ch.is_closed();
        let mut mine = Place::new();
        let r = ch.try_recv(rt, &mut mine);
        assert!(!known || r == Err(Blocked::Closed));
        closer.join().unwrap();
        let place = place.free();
        let fate = if r.is_ok() { Fate::Done } else { Fate::Closed };
        assert_eq!((place.fate, place.value.or(mine.value)), (fate, Some(7)));
        assert_eq!(rt.global_len(), 1);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// The first of three receivers steps aside and comes back while a value is sent: it gets that value, or the second
/// does and the first is first again. Fails if the wait is ended before the step aside (`expire` before `aside`), or if
/// `deliver` does not pass over those aside.
#[test]
fn aside_against_delivery() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let mut hands = [(); 3].map(|()| Hand::new(rt));
        let places = [(); 3].map(|()| Shared::new(Place::new()));
        for (hand, place) in hands.iter_mut().zip(places) {
            let (waker, ticket) = hand.arm();
            // SAFETY: shared until the end.
            assert!(unsafe { ch.enlist(rt, Side::Recv, place.get(), waker, ticket) });
            assert!(hand.park());
        }
        let (other, mut first) = (ch.clone(), hands[0]);
        let stepping = thread::spawn(move || {
            // As `wait_round` does.
            // SAFETY: under the channel's lock.
            other.aside(unsafe { places[0].get() });
            if first.expire() {
                let (waker, ticket) = first.arm();
                // SAFETY: shared until the end.
                let waits = unsafe { other.enlist(rt, Side::Recv, places[0].get(), waker, ticket) };
                assert!(waits);
                // Or somebody has fired by now.
                first.park();
            }
        });
        assert_eq!(ch.try_send(rt, &mut Place::with(1)), Ok(()));
        stepping.join().unwrap();
        assert_eq!(ch.try_send(rt, &mut Place::with(2)), Ok(()));
        let got = places.map(|p| p.free().value);
        assert!(
            got == [Some(1), Some(2), None] || got == [Some(2), Some(1), None],
            "{got:?}"
        );
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A goroutine that blocks in a receive is cancelled while a value comes: it has the value and the cancel is pending, or
/// it raises and the value is not sent. Fails if `deliver` leaves the value with one that is late.
#[test]
fn cancel_against_delivery() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let g = rt.model_g(1);
        let other = ch.clone();
        let waiter = thread::spawn(move || {
            let m = rt.model_m();
            m.set_goroutine(Some(g));
            Model::set_current(&raw const m);
            on(rt, &other, Side::Recv, Place::new(), None)
        });
        let other = ch.clone();
        let sender = thread::spawn(move || other.try_send(rt, &mut Place::with(7)));
        match g.waker.word.cancel() {
            // SAFETY: the cancel won.
            Cancel::Wake => unsafe { rt.wake(&raw const g.waker) },
            said => assert_eq!(said, Cancel::Set),
        }
        let sent = sender.join().unwrap();
        let (end, fate, value) = waiter.join().unwrap();
        if sent.is_ok() {
            assert_eq!((end, fate, value), (End::Ready, Fate::Done, Some(7)));
            assert!(g.waker.word.take_cancel(), "for the next cancel point");
        } else {
            assert_eq!((end, fate, value), (End::Cancelled, Fate::Open, None));
            assert!(!g.waker.word.take_cancel(), "delivered");
        }
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A value is put back, then the channel is closed, while a receiver comes: it gets the value, whenever it came. Fails if
/// `put_back` leaves it in the buffer although somebody waits.
#[test]
fn put_back_against_recv() {
    loom::model(|| {
        let (rt, ch) = (rt(), Arc::new(Chan::new(0)));
        let other = ch.clone();
        let receiver = thread::spawn(move || recv(rt, &other, None));
        ch.put_back(rt, 7);
        assert!(ch.close(rt));
        assert_eq!(receiver.join().unwrap(), (Fate::Done, Some(7)));
        assert!(ch.is_empty());
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
