//! The rings without a model: records of any size, in order, over the end; nonsense is told; sleeping and waking for real.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::testing::Rng;

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn file(size: usize) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size as u64).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    fd
}

/// What a wait that must not take LONG says.
fn at_once(wait: impl FnOnce() -> Result<Waited, Refused>) -> Waited {
    let began = Instant::now();
    let found = wait().unwrap();
    assert!(began.elapsed() < LONG.unwrap(), "nobody woke it");
    found
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
        && let Some(mut record) = batch.peek().unwrap()
    {
        let mut bytes = vec![0; record.left()];
        assert!(record.read(&mut bytes));
        batch.done();
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

/// A peer may write anything anywhere: it is told, and nothing is read beyond what there is. Mutations: `receive`, `peek`,
/// `read` or `room` does not check; `arm` of a parent looks at `closed`.
#[test]
fn nonsense_is_told() {
    let (parent, worker) = pair();
    let way = parent.incoming();
    way.tail.0.store(1 << 20, Ordering::Relaxed);
    assert!(matches!(parent.receive(), Err(Refused::Torn)));
    way.tail.0.store(3, Ordering::Relaxed);
    for size in [17, 1 << 40, u64::MAX] {
        parent.memory.data(1)[0].put(size);
        assert!(matches!(
            parent.receive().unwrap().peek(),
            Err(Refused::Torn)
        ));
    }
    parent.memory.data(1)[0].put(16);
    {
        let mut batch = parent.receive().unwrap();
        let mut record = batch.peek().unwrap().unwrap();
        assert!(!record.read(&mut [0; 24]));
        assert!(!record.read(&mut [0; 3]));
        assert!(record.read(&mut [0; 16]));
    }
    parent.memory.words().closed.0.store(1, Ordering::Relaxed);
    way.tail.0.store(0, Ordering::Relaxed);
    assert!(!parent.arm(), "a worker closes nothing");
    parent.outgoing().head.0.store(7, Ordering::Relaxed);
    assert_eq!(parent.send(&[b"x"]), Err(Refused::Torn));
    drop(worker);
}

/// Mutations: `Turn::take` always succeeds; nobody holds what it gives.
#[test]
fn one_at_a_time() {
    let (parent, worker) = pair();
    let _ = send(&parent, b"one");
    let batch = worker.receive().unwrap();
    assert!(matches!(worker.receive(), Err(Refused::Busy)));
    assert_eq!(worker.wait(Duration::ZERO, LONG), Err(Refused::Busy));
    let _ = batch.release();
    assert_eq!(receive(&worker, 9).len(), 1); // what was not `done` is still there
    let turn = Turn::take(&worker.sending);
    assert_eq!(worker.send(&[b"x"]), Err(Refused::Busy));
    assert_eq!(worker.wait_for_room(LONG), Err(Refused::Busy));
    drop(turn);
    let _ = send(&worker, b"x");
}

/// A file that is too short, or becomes so, would be a bus error. Mutations: no `fstat`; no look at the seals.
#[test]
fn the_file_is_large_enough_for_ever() {
    let fd = file(Mapped::SIZE);
    assert!(Mapped::new(fd.as_fd(), 4096).is_err());
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, Mapped::SIZE as u64).unwrap();
    assert!(Mapped::new(fd.as_fd(), 0).is_err());
}

/// Who claims a batch has it alone. Mutations: `claim` stores; `claim_back` does.
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
    assert_eq!(parent.claim_back(4), 5); // nothing is undone
    assert!(worker.claim(6));
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
/// in the parent; `release` never calls.
#[test]
fn there_and_back_again() {
    let (parent, worker) = pair();
    let (parent, n) = (Arc::new(parent), 20_000_u32);
    let echo = thread::spawn(move || {
        let mut seen = 0;
        loop {
            let look_out = Duration::from_micros(u64::from(seen % 3));
            match at_once(|| worker.wait(look_out, LONG)) {
                Waited::Ready => {}
                Waited::Closed => return seen,
                Waited::Nothing => continue,
            }
            for bytes in receive(&worker, usize::MAX) {
                seen += 1;
                while send(&worker, &bytes) == Sent::Full {
                    assert_eq!(at_once(|| worker.wait_for_room(LONG)), Waited::Ready);
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
        while let Some(mut record) = batch.peek().unwrap() {
            let mut bytes = vec![0; record.left()];
            assert!(record.read(&mut bytes));
            batch.done();
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

/// Closing ends each kind of sleep of a worker, and one that looks out. Mutations: `close` wakes nobody; only the one that
/// reads; `wait` looks out for records alone.
#[test]
fn close_ends_every_wait() {
    type Wait = fn(&End<Mapped>) -> Result<Waited, Refused>;
    let waits: [Wait; 3] = [
        |worker| worker.wait(Duration::ZERO, LONG),
        |worker| worker.wait(LONG.unwrap(), LONG),
        |worker| {
            while matches!(send(worker, &[0; 60_000]), Sent::There(_)) {}
            worker.wait_for_room(LONG)
        },
    ];
    for wait in waits {
        let (parent, worker) = pair();
        let found = thread::spawn(move || at_once(|| wait(&worker)));
        thread::sleep(Duration::from_millis(20));
        parent.close();
        assert_eq!(found.join().unwrap(), Waited::Closed);
        assert_eq!(parent.arm(), parent.has_some(), "closing is no record");
    }
}

/// Time that is up. Mutations: `wait` ignores `timeout`, or looks out for longer; `wait_for_room` ignores it.
#[test]
fn a_wait_has_its_limit() {
    let (_parent, worker) = pair();
    let limit = Some(Duration::from_millis(1));
    for look_out in [Duration::ZERO, LONG.unwrap()] {
        assert_eq!(at_once(|| worker.wait(look_out, limit)), Waited::Nothing);
    }
    while matches!(send(&worker, &[0; 60_000]), Sent::There(_)) {}
    assert_eq!(at_once(|| worker.wait_for_room(limit)), Waited::Ready);
}
