//! The channel, step by step against a plain model (`testing::chans`). What happens at the same time is in
//! `tests/loom_chan.rs`.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::testing::chans::{Chans, Entry, Told};
use crate::testing::{Crew, Rng, rt};

type Spot = Box<Place<u64>>;

fn filled(ch: &Chan<u64>, values: impl IntoIterator<Item = u64>) {
    let mut values: VecDeque<u64> = values.into_iter().collect();
    assert_eq!(ch.fill(rt(1), &mut values), Ok(()));
}

fn buffered(ch: &Chan<u64>) -> Vec<u64> {
    ch.lock().buf.iter().copied().collect()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Now {
    Works,
    Waits(Side),
    /// Its time is up and it has not left the channel yet.
    Late(Side),
    Aside(Side),
}

struct World {
    crew: Crew,
    ch: Chan<u64>,
    model: Chans,
    places: Vec<Spot>,
    now: Vec<Now>,
    next: u64,
}

impl World {
    fn value(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Tries once more or waits; the model says which.
    fn enlist(&mut self, i: usize, side: Side) {
        let (waker, ticket) = self.crew.arm(i);
        let sent = self.places[i].value;
        let expected = match side {
            Side::Send => self.model.send(0, sent.unwrap()).map(|()| None),
            Side::Recv => self.model.recv(0).map(Some),
        };
        // SAFETY: boxed, and kept until the round is over.
        let waits =
            unsafe { (self.ch).enlist(self.crew.rt, side, &mut self.places[i], waker, ticket) };
        let place = &self.places[i];
        match expected {
            Err(Blocked::Wait) => {
                assert!(waits && place.fate == Fate::Open && place.value == sent);
                self.crew.park(i);
                let entry = Entry {
                    who: i,
                    case: 0,
                    value: sent.unwrap_or(0),
                    aside: false,
                };
                self.model.register(0, side, entry);
                self.now[i] = Now::Waits(side);
            }
            Err(Blocked::Closed) => {
                assert!(!waits && place.fate == Fate::Closed && place.value == sent);
                self.leave(i);
            }
            Ok(value) => {
                assert!(!waits && place.fate == Fate::Done);
                assert_eq!(place.value, value);
                self.leave(i);
            }
        }
    }

    /// Its wait ended without a wake-up.
    fn leave(&mut self, i: usize) {
        self.crew.disarm(i);
        self.model.forget(i);
        self.now[i] = Now::Works;
    }

    fn delist(&mut self, i: usize, side: Side) {
        let sent = (side == Side::Send).then_some(self.places[i].value.unwrap_or(0));
        // SAFETY: enlisted for this side.
        unsafe { self.ch.delist(side, &raw mut *self.places[i]) };
        assert_eq!(
            (self.places[i].fate, self.places[i].value),
            (Fate::Open, sent)
        );
        self.leave(i);
    }

    fn alone(&mut self, rng: &mut Rng) {
        let rt = self.crew.rt;
        match rng.below(16) {
            0..=4 => {
                let v = self.value();
                let mut place = Place::with(v);
                let r = self.ch.try_send(rt, &mut place);
                assert_eq!(r, self.model.send(0, v));
                assert_eq!(place.value, r.err().map(|_| v));
            }
            5..=9 => {
                let mut place = Place::new();
                let r = self.ch.try_recv(rt, &mut place);
                let expected = self.model.recv(0);
                assert_eq!(r.map(|()| place.value.unwrap()), expected);
            }
            10 => {
                let v = self.value();
                self.ch.put_back(rt, v);
                self.model.put_back(0, v);
            }
            11 | 12 => {
                let n = rng.below(5) as usize;
                let (mut got, mut expected) = (vec![0], vec![0]);
                self.ch.drain(rt, n, &mut got);
                while expected.len() < n {
                    let Ok(v) = self.model.recv(0) else { break };
                    expected.push(v);
                }
                assert_eq!(got, expected);
            }
            13 | 14 => {
                let mut values: VecDeque<u64> = (0..rng.below(5)).map(|_| self.value()).collect();
                let mut rest = values.clone();
                let r = self.ch.fill(rt, &mut values);
                let mut expected = Ok(());
                while let (Ok(()), Some(v)) = (expected, rest.front()) {
                    expected = self.model.send(0, *v);
                    if expected.is_ok() {
                        rest.pop_front();
                    }
                }
                assert_eq!((r, values), (expected, rest));
            }
            _ if rng.below(12) == 0 => {
                assert_eq!(self.ch.close(rt), self.model.close(0));
            }
            _ => {}
        }
    }

    /// Those that were woken are those of the model, in its order, each with what it was told.
    fn compare(&mut self) {
        for i in self.crew.woken() {
            let p = &self.places[i];
            let told = Told {
                who: i,
                case: 0,
                fate: p.fate,
                value: p.value,
            };
            assert!(!self.model.told.is_empty(), "{told:?} out of the blue");
            assert_eq!(told, self.model.told.remove(0));
            assert!(!p.node.is_linked());
            self.now[i] = Now::Works;
        }
        assert_eq!(self.model.told, []);
        assert_eq!(buffered(&self.ch), Vec::from(self.model.all[0].buf.clone()));
        assert_eq!(self.ch.is_closed(), self.model.all[0].closed);
        self.model.check();
    }

    fn step(&mut self, rng: &mut Rng) {
        let i = rng.below(self.now.len() as u64) as usize;
        match self.now[i] {
            Now::Works if rng.below(3) > 0 => {
                let side = [Side::Send, Side::Recv][rng.below(2) as usize];
                let v = self.value();
                *self.places[i] = match side {
                    Side::Send => Place::with(v),
                    Side::Recv => Place::new(),
                };
                self.enlist(i, side);
            }
            Now::Works => self.alone(rng),
            Now::Waits(side) => match rng.below(8) {
                0 => {
                    assert!(self.crew.expire(i));
                    self.model.forget(i);
                    self.now[i] = Now::Late(side);
                }
                1 => {
                    self.ch.aside(&mut self.places[i]);
                    assert!(self.crew.expire(i));
                    self.model.aside(i);
                    self.now[i] = Now::Aside(side);
                }
                _ => self.alone(rng),
            },
            Now::Late(side) => self.delist(i, side),
            Now::Aside(side) if rng.below(4) == 0 => self.delist(i, side),
            Now::Aside(side) => self.enlist(i, side),
        }
        self.compare();
    }
}

fn world(capacity: usize, waiters: usize) -> World {
    World {
        crew: Crew::new(waiters),
        ch: Chan::new(capacity),
        model: Chans::new([capacity]),
        places: (0..waiters).map(|_| Spot::default()).collect(),
        now: vec![Now::Works; waiters],
        next: 0,
    }
}

/// Any operations in any order, waiters that are late or aside among them: values, order and ends are the model's.
/// Mutations: `deliver` keeps the value of one that was late; `pop` takes those that are aside; `enlist` pushes a node
/// that is linked; `recv` forgets the sender that may move up; `put_back` at the back; `close` tells one side only.
#[test]
fn a_channel_is_a_queue_with_waiters() {
    for seed in 1..=60 {
        let mut rng = Rng(seed);
        let mut w = world([0, 1, 3][seed as usize % 3], 6);
        for _ in 0..1500 {
            w.step(&mut rng);
        }
    }
}

/// Closing tells every waiter of both sides but those aside, who find out when they come back. Mutation: `close` stops
/// after its first portion.
#[test]
fn closing_tells_everybody() {
    for side in [Side::Send, Side::Recv] {
        let mut w = world(0, 200);
        for i in 0..200 {
            *w.places[i] = match side {
                Side::Send => Place::with(i as u64),
                Side::Recv => Place::new(),
            };
            w.enlist(i, side);
        }
        w.ch.aside(&mut w.places[7]);
        assert!(w.crew.expire(7));
        w.model.aside(7);
        assert!(w.ch.close(w.crew.rt) && w.model.close(0) && !w.ch.close(w.crew.rt));
        w.compare();
        assert!((0..200).all(|i| (w.now[i] == Now::Works) == (i != 7)));
        w.enlist(7, side);
        assert_eq!(w.now[7], Now::Works);
    }
}

/// Between the moment a channel is closed and the moment a sender is told, nobody gets its value: nothing is sent on a
/// closed channel. Mutation: `take_from_sender` does not look at `closed`.
#[test]
fn a_closed_channel_takes_nothing_from_those_that_wait() {
    for capacity in [0, 1] {
        let mut w = world(capacity, 1);
        filled(&w.ch, 0..capacity as u64);
        w.model.all[0].buf.extend(0..capacity as u64);
        *w.places[0] = Place::with(9);
        w.enlist(0, Side::Send);
        // The first thing that `close` does.
        w.ch.lock().closed = true;
        for v in 0..capacity as u64 {
            let mut place = Place::new();
            assert_eq!(w.ch.try_recv(w.crew.rt, &mut place), Ok(()));
            assert_eq!(place.value, Some(v));
        }
        let mut place = Place::new();
        assert_eq!(w.ch.try_recv(w.crew.rt, &mut place), Err(Blocked::Closed));
        assert!(w.ch.lock().tell_closed().is_some());
        assert_eq!(
            (w.places[0].fate, w.places[0].value),
            (Fate::Closed, Some(9))
        );
    }
}

/// What is taken out by the collector leaves the channel whole. Mutation: `take_buffered` copies.
#[test]
fn the_collector_sees_and_takes_what_is_buffered() {
    let ch = Chan::new(4);
    filled(&ch, 1..=4);
    let mut seen = Vec::new();
    ch.visit(&mut |v| {
        seen.push(*v);
        seen.len() < 3
    });
    assert_eq!(seen, [1, 2, 3]);
    {
        let _held = ch.lock();
        ch.visit(&mut |_| unreachable!("somebody holds the lock"));
    }
    assert_eq!(
        (ch.take_buffered(), ch.len()),
        (VecDeque::from([1, 2, 3, 4]), 0)
    );
    assert!(ch.is_empty() && ch.capacity() == 4 && !ch.is_closed());
    filled(&ch, 5..=8);
}

/// A value that takes a look at its channel when it is dropped.
struct Curious(Rc<(Chan<Curious>, Cell<u32>)>);

impl Drop for Curious {
    fn drop(&mut self) {
        assert!(
            self.0.0.inner.try_lock().is_some(),
            "dropped under the lock"
        );
        self.0.1.set(self.0.1.get() + 1);
    }
}

/// No operation drops a value under the lock, whatever lies in the place it is given. Mutation: `fill` drops what it
/// could not send, before it releases the lock.
#[test]
fn values_are_dropped_outside_of_the_lock() {
    let rt = rt(1);
    let shared = Rc::new((Chan::new(2), Cell::new(0)));
    let ch = &shared.0;
    let value = || Curious(shared.clone());
    for _ in 0..2 {
        ch.try_send(rt, &mut Place::with(value())).unwrap();
    }
    let mut place = Place::with(value());
    assert_eq!(ch.try_send(rt, &mut place), Err(Blocked::Wait));
    drop(place);
    let mut values: VecDeque<_> = [value(), value()].into();
    assert_eq!(ch.fill(rt, &mut values), Err(Blocked::Wait));
    assert_eq!(values.len(), 2);
    drop(values);
    ch.put_back(rt, value());
    let mut out = Vec::new();
    ch.drain(rt, 2, &mut out);
    drop(out);
    assert!(ch.close(rt));
    let mut place = Place::with(value());
    assert_eq!(ch.try_send(rt, &mut place), Err(Blocked::Closed));
    drop(place);
    drop(ch.take_buffered());
    assert_eq!(shared.1.get(), 7);
}
