//! The rings between two processes: records, sleeping, room, claims. The real code of `ring`, in memory of the model.
#![cfg(loom)]

use std::sync::Arc;
use std::time::Duration;

use gorun_core::ring::{Call, Datum, End, Memory, Sent, Side, Waited, Words};
use loom::thread;

struct Small {
    words: Words,
    data: [Vec<Datum>; 2],
}

#[derive(Clone)]
struct Both(Arc<Small>);

impl Memory for Both {
    fn words(&self) -> &Words {
        &self.0.words
    }

    fn data(&self, way: usize) -> &[Datum] {
        &self.0.data[way]
    }
}

/// Room for two records of a word.
fn pair() -> (End<Both>, End<Both>) {
    let data = || (0..4).map(|_| Datum::default()).collect();
    let both = Both(Arc::new(Small {
        words: Words::default(),
        data: [data(), data()],
    }));
    (
        End::new(both.clone(), Side::Parent),
        End::new(both, Side::Worker),
    )
}

fn send(end: &End<Both>, n: u64) -> Sent {
    end.send(&[&n.to_ne_bytes()]).unwrap()
}

fn receive(end: &End<Both>) -> (Vec<u64>, Call) {
    let (mut batch, mut found) = (end.receive().unwrap(), Vec::new());
    while let Some(mut record) = batch.peek().unwrap() {
        let mut bytes = [0; 8];
        assert!(record.read(&mut bytes));
        batch.done();
        found.push(u64::from_ne_bytes(bytes));
    }
    (found, batch.release())
}

/// A worker that sleeps for ever gets all records, whole and in order, from a parent that sends more than there is room
/// for. Fails without a fence in `send` or `arm`, with `tail` or `head` relaxed on either side, if `wait` does not look again after it has
/// armed, or nobody wakes.
#[test]
fn a_worker_sleeps_and_wakes() {
    loom::model(|| {
        let (parent, worker) = pair();
        let reader = thread::spawn(move || {
            let mut found = Vec::new();
            while found.len() < 3 {
                let _: Waited = worker.wait(Duration::ZERO, None).unwrap();
                found.extend(receive(&worker).0);
            }
            found
        });
        for n in 1..=3 {
            loop {
                match send(&parent, n) {
                    Sent::There(Call::Due) => break parent.wake(),
                    Sent::There(Call::None) => break,
                    Sent::Full => thread::yield_now(),
                }
            }
        }
        assert_eq!(reader.join().unwrap(), [1, 2, 3]);
    });
}

/// A worker with too much to say sleeps until its parent has read. Fails without a fence in `send` or `release`, or if
/// `send` does not look again after it has said that it is cramped.
#[test]
fn a_worker_waits_for_room() {
    loom::model(|| {
        let (parent, worker) = pair();
        let writer = thread::spawn(move || {
            for n in 1..=3 {
                while send(&worker, n) == Sent::Full {
                    assert_eq!(worker.wait_for_room(None), Ok(Waited::Ready));
                }
            }
        });
        let mut found = Vec::new();
        while found.len() < 3 {
            let (some, call) = receive(&parent);
            if call == Call::Due {
                parent.wake_sender();
            }
            if some.is_empty() {
                thread::yield_now();
            }
            found.extend(some);
        }
        assert_eq!(found, [1, 2, 3]);
        writer.join().unwrap();
    });
}

/// The bell: whether a byte was written and not read, whether all is over.
#[derive(Default)]
struct Bell {
    state: loom::sync::Mutex<(bool, bool)>,
    change: loom::sync::Condvar,
}

impl Bell {
    fn set(&self, change: impl FnOnce(&mut (bool, bool))) {
        change(&mut self.state.lock().unwrap());
        self.change.notify_all();
    }
}

/// Threads of a parent that sleep by the bell: one hears it, arms, looks; the turn is a lock. One of them looked out first,
/// touching no flag. Fails if a parent looks before it arms, or is not armed at the start.
fn a_parent_hears_its_bell(threads: usize) {
    loom::model(move || {
        let (parent, worker) = pair();
        let bell = Arc::new(Bell::default());
        let rung = bell.clone();
        let writer = thread::spawn(move || {
            for n in 1..=2 {
                if send(&worker, n) == Sent::There(Call::Due) {
                    rung.set(|state| state.0 = true);
                }
            }
        });
        let turn = Arc::new(loom::sync::Mutex::new((parent, Vec::new())));
        let serve = move |turn: Arc<loom::sync::Mutex<(End<Both>, Vec<u64>)>>| {
            loop {
                let mut state = bell.state.lock().unwrap();
                while *state == (false, false) {
                    state = bell.change.wait(state).unwrap();
                }
                if state.1 {
                    return;
                }
                drop(state);
                let mut owned = turn.lock().unwrap();
                bell.state.lock().unwrap().0 = false;
                let _: bool = owned.0.arm();
                let some = receive(&owned.0).0;
                owned.1.extend(some);
                if owned.1.len() == 2 {
                    bell.set(|state| state.1 = true);
                }
            }
        };
        if threads == 1 {
            let mut owned = turn.lock().unwrap();
            let some = receive(&owned.0).0;
            owned.1.extend(some);
            if owned.1.len() == 2 {
                return writer.join().unwrap();
            }
        }
        let (other, served) = (turn.clone(), serve.clone());
        let other = (threads > 1).then(|| thread::spawn(move || served(other)));
        serve(turn.clone());
        if let Some(other) = other {
            other.join().unwrap();
        }
        assert_eq!(turn.lock().unwrap().1, [1, 2]);
        writer.join().unwrap();
    });
}

#[test]
fn one_hears_the_bell() {
    a_parent_hears_its_bell(1);
}

#[test]
fn two_hear_the_bell() {
    a_parent_hears_its_bell(2);
}

/// Closing ends a wait that has begun, or is about to, for records or for room. Fails without the fence in `close`, or if
/// that takes one of the flags only.
#[test]
fn closing_wakes() {
    for for_room in [false, true] {
        loom::model(move || {
            let (parent, worker) = pair();
            let ends = thread::spawn(move || {
                if for_room {
                    while send(&worker, 1) != Sent::Full {}
                    while worker.wait_for_room(None) != Ok(Waited::Closed) {}
                } else {
                    while worker.wait(Duration::ZERO, None) != Ok(Waited::Closed) {}
                }
            });
            parent.close();
            ends.join().unwrap();
        });
    }
}

/// Each batch has one owner, whether the worker or the parent was faster, and the next ones too. Fails if `claim` or
/// `claim_back` is a load and a store.
#[test]
fn claims_are_of_one() {
    loom::model(|| {
        let (parent, worker) = pair();
        let (parent, back) = (
            Arc::new(parent),
            thread::spawn(move || (1..=2).filter(|&n| worker.claim(n)).collect::<Vec<u64>>()),
        );
        let from = parent.claim_back(2);
        let begun = back.join().unwrap();
        assert_eq!(begun, (1..=from).collect::<Vec<u64>>());
    });
}
