//! The rings without a model: records of any size, in order, over the end; nonsense is told; sleeping and waking for real.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::testing::Rng;

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn file(size: usize) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size as u64).unwrap();
    fd
}

fn pair() -> (End<Mapped>, End<Mapped>) {
    let fd = file(Mapped::SIZE);
    let map = || Mapped::new(fd.as_fd(), 0).unwrap();
    (End::new(map(), Side::Parent), End::new(map(), Side::Worker))
}

fn send(end: &End<Mapped>, bytes: &[u8]) -> Sent {
    end.send(&[bytes]).unwrap()
}

fn receive(end: &End<Mapped>, most: usize) -> Vec<Vec<u8>> {
    let (mut batch, mut found) = (end.receive().unwrap(), Vec::new());
    while found.len() < most
        && let Some(mut record) = batch.next().unwrap()
    {
        let mut bytes = vec![0; record.left()];
        assert!(record.read(&mut bytes));
        batch.done(bytes.len());
        found.push(bytes);
    }
    let _: Call = batch.release();
    found
}

/// Whatever the sizes, the pieces and the turns: what arrives is what was sent, and it is refused only where there is no
/// room. Mutations: `write` forgets a part's rest; `Cursor` does not go round; `done` takes a word less.
#[test]
fn against_a_queue() {
    let mut rng = Rng(5);
    let mut below = |n: usize| rng.below(n as u64) as usize;
    let (parent, worker) = pair();
    for (from, to) in [(&parent, &worker), (&worker, &parent)] {
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        let mut used = 0;
        for _ in 0..20_000 {
            if below(3) > 0 {
                let bound = [9, 100, 5000, 70_000][below(4)];
                let size = below(bound);
                let bytes: Vec<u8> = (0..size).map(|i| (i * 7 + model.len()) as u8).collect();
                let (cut, also) = (below(size + 1), below(size + 1));
                let (a, b) = (cut.min(also), cut.max(also));
                let words = 1 + size.div_ceil(8);
                match from
                    .send(&[&bytes[..a], &bytes[a..b], &bytes[b..]])
                    .unwrap()
                {
                    Sent::There(_) => {
                        used += words;
                        assert!(used <= 1 << 14);
                        model.push_back(bytes);
                    }
                    Sent::Full => assert!(used + words > 1 << 14),
                }
            } else {
                for bytes in receive(to, below(40)) {
                    used -= 1 + bytes.len().div_ceil(8);
                    assert_eq!(Some(bytes), model.pop_front());
                }
            }
            assert_eq!(to.has_some(), !model.is_empty());
        }
    }
}

/// Mutation: `send` does not compare with `most`.
#[test]
fn what_never_fits_is_refused() {
    let (parent, worker) = pair();
    let large = vec![1; parent.most()];
    assert!(matches!(send(&parent, &large), Sent::There(_)));
    assert_eq!(receive(&worker, 9), [large]);
    let larger = vec![1; parent.most() + 1];
    assert_eq!(parent.send(&[&larger]), Err(Refused::TooLarge));
    assert!(!worker.has_some());
}

/// A peer may write anything anywhere: it is told, and nothing is read beyond what there is. Mutations: `receive`, `next`
/// or `room` does not check.
#[test]
fn nonsense_is_told() {
    let (parent, worker) = pair();
    let way = parent.incoming();
    way.tail.0.store(1 << 20, Ordering::Relaxed);
    assert!(matches!(parent.receive(), Err(Refused::Torn)));
    way.tail.0.store(3, Ordering::Relaxed);
    for size in [17, 1 << 40, u64::MAX] {
        parent.memory.data(1)[0].store(size, Ordering::Relaxed);
        assert!(matches!(
            parent.receive().unwrap().next(),
            Err(Refused::Torn)
        ));
    }
    parent.memory.data(1)[0].store(16, Ordering::Relaxed);
    assert!(parent.receive().unwrap().next().unwrap().is_some());
    parent.outgoing().head.0.store(7, Ordering::Relaxed);
    assert_eq!(parent.send(&[b"x"]), Err(Refused::Torn));
    drop(worker);
}

/// Mutation: `Turn::take` always succeeds.
#[test]
fn one_at_a_time() {
    let (parent, worker) = pair();
    let _ = send(&parent, b"one");
    let batch = worker.receive().unwrap();
    assert!(matches!(worker.receive(), Err(Refused::Busy)));
    let _ = batch.release();
    assert_eq!(receive(&worker, 9).len(), 1); // what was not `done` is still there
}

/// A file that is too short would be a bus error later. Mutation: no `fstat`.
#[test]
fn the_file_is_large_enough() {
    let fd = file(Mapped::SIZE);
    assert!(Mapped::new(fd.as_fd(), 4096).is_err());
}

/// Who claims a batch has it alone. Mutation: `claim` stores.
#[test]
fn claims() {
    let (parent, worker) = pair();
    assert!(worker.claim(1));
    assert!(worker.claim(2));
    assert_eq!(parent.claim_back(4), 2);
    assert!(!worker.claim(3));
    assert!(!worker.claim(4));
    assert!(worker.claim(5));
    assert_eq!(parent.claim_back(5), 5);
}

/// A parent is armed from the start, and one record takes that. Mutation: `take` leaves the flag.
#[test]
fn one_call_for_each_time_that_it_was_armed() {
    let (parent, worker) = pair();
    assert_eq!(send(&worker, b"1"), Sent::There(Call::Due));
    assert_eq!(send(&worker, b"2"), Sent::There(Call::None));
    assert!(parent.arm());
    assert_eq!(receive(&parent, 9).len(), 2);
    assert!(!parent.arm());
    assert_eq!(send(&worker, b"3"), Sent::There(Call::Due));
}

/// Two threads as two processes: small rings of room and many records, each side sleeping for real. Mutations: no `wake`
/// in the parent; `wait` does not arm; `release` never calls.
#[test]
fn there_and_back_again() {
    let (parent, worker) = pair();
    let (parent, n) = (Arc::new(parent), 20_000_u32);
    let echo = thread::spawn(move || {
        let mut seen = 0;
        loop {
            match worker.wait(Duration::from_micros(u64::from(seen % 3)), LONG) {
                Waited::Ready => {}
                Waited::Closed => return seen,
                Waited::Nothing => continue,
            }
            for bytes in receive(&worker, usize::MAX) {
                seen += 1;
                while send(&worker, &bytes) == Sent::Full {
                    assert_eq!(worker.wait_for_room(LONG), Waited::Ready);
                }
            }
        }
    });
    let (mut sent, mut got) = (0, 0);
    while got < n {
        let before = got;
        while sent < n && sent < got + 500 {
            let bytes = vec![(sent % 251) as u8; (sent % 700) as usize];
            match send(&parent, &bytes) {
                Sent::Full => break,
                Sent::There(call) => {
                    sent += 1;
                    if call == Call::Due {
                        parent.wake();
                    }
                }
            }
        }
        let (mut batch, mut found) = (parent.receive().unwrap(), Vec::new());
        while let Some(mut record) = batch.next().unwrap() {
            let mut bytes = vec![0; record.left()];
            assert!(record.read(&mut bytes));
            batch.done(bytes.len());
            found.push(bytes);
        }
        if batch.release() == Call::Due {
            parent.wake_sender();
        }
        for bytes in found {
            assert_eq!(bytes, vec![(got % 251) as u8; (got % 700) as usize]);
            got += 1;
        }
        if got == before {
            thread::yield_now();
        }
    }
    parent.close();
    assert_eq!(echo.join().unwrap(), n);
}

/// Closing ends both sleeps of a worker. Mutation: `close` wakes nobody.
#[test]
fn close_ends_every_wait() {
    let (parent, worker) = pair();
    let waits = thread::spawn(move || {
        let found = worker.wait(Duration::ZERO, LONG);
        while matches!(send(&worker, &[0; 60_000]), Sent::There(_)) {}
        (
            found,
            worker.wait_for_room(LONG),
            worker.wait_for_room(LONG),
        )
    });
    thread::sleep(Duration::from_millis(20));
    parent.close();
    let all = waits.join().unwrap();
    assert_eq!(all, (Waited::Closed, Waited::Closed, Waited::Closed));
}

/// Time that is up, and none at all. Mutation: `wait` ignores `timeout`.
#[test]
fn a_wait_has_its_limit() {
    let (_parent, worker) = pair();
    for look_out in [Duration::ZERO, Duration::from_millis(5)] {
        assert_eq!(
            worker.wait(look_out, Some(Duration::from_millis(1))),
            Waited::Nothing
        );
    }
}
