//! The word of a P: an M that comes back from a body against sysmon that takes the P. The real `OwnerWord`.
#![cfg(loom)]

use gorun_core::sched::{OwnerWord, Seat, Token};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A P with a queue that only its holder may touch (loom's cell sees races), and the seats of the M and of the next one.
struct Place {
    owner: OwnerWord,
    seat: Seat,
    next: Seat,
    queue: UnsafeCell<u32>,
}

impl Place {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            owner: OwnerWord::new(),
            seat: Seat::new(),
            next: Seat::new(),
            queue: UnsafeCell::new(0),
        })
    }

    fn touch(&self) {
        // SAFETY: loom checks that nobody else does.
        self.queue.with_mut(|q| unsafe { *q += 1 });
    }

    /// An M inside the scheduler, then inside a body.
    fn begin(&self) -> Token {
        let token = self.owner.acquire(&self.seat);
        self.touch();
        self.owner.leave(token, &self.seat);
        token
    }

    /// What sysmon does with an M that blocks; the next M runs in the same thread.
    fn take(&self) -> bool {
        let Some(seen) = self.owner.in_body(&self.seat) else {
            return false;
        };
        if !self.owner.retake(seen, &self.seat) {
            return false;
        }
        let next = self.owner.acquire(&self.next);
        self.touch();
        self.owner.leave(next, &self.next);
        true
    }
}

/// The M returns while sysmon takes its P and the next M acquires it: one of the two has it. Fails if `retake` does not
/// compare, or if the orderings are relaxed.
#[test]
fn enter_against_retake() {
    loom::model(|| {
        let p = Place::new();
        let token = p.begin();
        let sysmon = {
            let p = p.clone();
            thread::spawn(move || p.take())
        };
        let back = p.owner.enter(token, &p.seat);
        if back {
            p.touch();
            p.owner.release(token);
        }
        let taken = sysmon.join().unwrap();
        assert!(!(back && taken), "two holders");
        assert!(back || taken, "no holder");
    });
}

/// The M returns when the next one is inside a body already: it must not take that one's place. Fails without a new
/// number in `acquire`.
#[test]
fn enter_against_the_next_body() {
    loom::model(|| {
        let p = Place::new();
        let token = p.begin();
        let sysmon = {
            let p = p.clone();
            thread::spawn(move || p.take())
        };
        // Twice: the operations of a body.
        for _ in 0..2 {
            if !p.owner.enter(token, &p.seat) {
                break;
            }
            p.touch();
            p.owner.leave(token, &p.seat);
        }
        let taken = sysmon.join().unwrap();
        assert_eq!(
            p.owner.enter(token, &p.seat),
            !taken,
            "an old token opens a new acquisition"
        );
    });
}

/// sysmon saw a body, slept, and acts on it when the P has changed hands: nothing happens. Fails if `retake` heeds the
/// mode only.
#[test]
fn retake_against_release_and_acquire() {
    loom::model(|| {
        let p = Place::new();
        let token = p.begin();
        let seen = p.owner.in_body(&p.seat).unwrap();
        let sysmon = {
            let p = p.clone();
            thread::spawn(move || p.owner.retake(seen, &p.seat))
        };
        let back = p.owner.enter(token, &p.seat);
        if back {
            p.owner.release(token);
            let next = p.owner.acquire(&p.seat);
            p.owner.leave(next, &p.seat);
            // The new acquisition is not the one that was seen.
            assert!(p.owner.enter(next, &p.seat));
            p.touch();
        }
        assert_ne!(sysmon.join().unwrap(), back);
    });
}
