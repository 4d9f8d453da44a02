//! The rings between two processes: records, sleeping, room, claims. The real code of `ring`, in memory of the model.
#![cfg(loom)]

use std::sync::Arc;
use std::time::Duration;

use gorun_core::prim::atomic::AtomicU64;
use gorun_core::ring::{Call, End, Memory, Sent, Side, Waited, Words};
use loom::thread;

struct Small {
    words: Words,
    data: [Vec<AtomicU64>; 2],
}

#[derive(Clone)]
struct Both(Arc<Small>);

impl Memory for Both {
    fn words(&self) -> &Words {
        &self.0.words
    }

    fn data(&self, way: usize) -> &[AtomicU64] {
        &self.0.data[way]
    }
}

/// Room for two records of a word.
fn pair() -> (End<Both>, End<Both>) {
    let data = || (0..4).map(|_| AtomicU64::new(0)).collect();
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
    while let Some(mut record) = batch.next().unwrap() {
        let mut bytes = [0; 8];
        assert!(record.read(&mut bytes));
        batch.done(8);
        found.push(u64::from_ne_bytes(bytes));
    }
    (found, batch.release())
}

/// A worker that sleeps for ever gets all records, whole and in order, from a parent that sends more than there is room
/// for. Fails without a fence in `send` or `arm`, with `tail` or `head` relaxed, if `wait` does not look again after it has
/// armed, or nobody wakes.
#[test]
fn a_worker_sleeps_and_wakes() {
    loom::model(|| {
        let (parent, worker) = pair();
        let reader = thread::spawn(move || {
            let mut found = Vec::new();
            while found.len() < 3 {
                let _: Waited = worker.wait(Duration::ZERO, None);
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
                    assert_eq!(worker.wait_for_room(None), Waited::Ready);
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

/// A parent that sleeps by its bell: it is armed, takes an edge, arms again, looks. Whoever of two threads took the edge.
/// Fails if the parent looks before it arms, or is not armed at the start.
#[test]
fn a_parent_hears_its_bell() {
    loom::model(|| {
        let (parent, worker) = pair();
        // The bell: edges that were written and not taken.
        let bell = Arc::new((loom::sync::Mutex::new(0), loom::sync::Condvar::new()));
        let rung = bell.clone();
        let writer = thread::spawn(move || {
            for n in 1..=2 {
                if send(&worker, n) == Sent::There(Call::Due) {
                    *rung.0.lock().unwrap() += 1;
                    rung.1.notify_one();
                }
            }
        });
        let mut found = receive(&parent).0; // as who looks out does, touching no flag
        while found.len() < 2 {
            let mut edges = bell.0.lock().unwrap();
            while *edges == 0 {
                edges = bell.1.wait(edges).unwrap();
            }
            *edges = 0;
            drop(edges);
            found.extend(receive(&parent).0);
            if parent.arm() {
                found.extend(receive(&parent).0);
            }
        }
        assert_eq!(found, [1, 2]);
        writer.join().unwrap();
    });
}

/// Closing ends a wait that has begun, or is about to. Fails without the fence in `close`.
#[test]
fn closing_wakes() {
    loom::model(|| {
        let (parent, worker) = pair();
        let reader = thread::spawn(move || {
            while worker.wait(Duration::ZERO, None) != Waited::Closed {}
            while send(&worker, 1) != Sent::Full {}
            while worker.wait_for_room(None) != Waited::Closed {}
        });
        parent.close();
        reader.join().unwrap();
    });
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
