//! Timers of the scheduler: one wheel per P, whose entries end waits by time-out.
//!
//! Invariants:
//! - An entry points at a waker with a ticket. Its owner takes it out before it goes on, under the same lock under
//!   which it would fire, so the pointer is good whenever it is used.
//! - What fires here flips states and collects goroutines to be queued; it runs detached as well as attached.

use std::cell::Cell;
use std::ptr::NonNull;

use super::g::{GRef, TimerSlot, Waker};
use super::state::{Fire, Ticket, Verdict};
use crate::host::Host;
use crate::prim::Lock;
use crate::prim::atomic::{AtomicU64, Ordering};
use crate::timer::Wheel;

/// What a timer ends. Packed: an entry of the wheel has 32 bytes, and each sleeper one.
#[repr(C, packed(4))]
pub struct TimerRef {
    /// Never null, so that no entry needs a word to say that it is free.
    waker: NonNull<Waker>,
    /// The end of the ticket's number: the owner is still inside the wait when the entry is looked at (file head), so
    /// this only has to tell it from a few others.
    ticket: u32,
}

const _: () = assert!(size_of::<Option<TimerRef>>() == 12);

// SAFETY: the pointer is used only as the file head says.
unsafe impl Send for TimerRef {}

/// The timers armed under one P.
pub struct Shard {
    wheel: Lock<Wheel<TimerRef>>,
    /// Never later than the earliest entry; u64::MAX if there is none. Written under the lock, read by anybody.
    next: AtomicU64,
}

/// What `Shard::next` says of it: one that is due at the end of time is there all the same.
fn next_of(wheel: &Wheel<TimerRef>) -> u64 {
    wheel
        .next_deadline()
        .map_or(u64::MAX, |t| t.min(u64::MAX / 2))
}

impl Shard {
    /// No timers.
    pub fn new(now: u64) -> Self {
        Self {
            wheel: Lock::new(Wheel::new(now)),
            next: AtomicU64::new(u64::MAX),
        }
    }

    /// Never later than the earliest deadline; u64::MAX for none.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// How many are armed.
    pub fn len(&self) -> usize {
        self.wheel.lock().len()
    }

    /// True if none is armed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arms a timer and notes it in `slot`, under the lock: when it fires, the note is there. True if it is now the
    /// earliest of the shard.
    pub fn add(
        &self,
        id: u32,
        deadline: u64,
        waker: &Waker,
        ticket: Ticket,
        slot: &Cell<TimerSlot>,
    ) -> bool {
        let mut wheel = self.wheel.lock();
        let waker = NonNull::from(waker);
        let ticket = ticket.low();
        let key = wheel.insert(deadline, TimerRef { waker, ticket });
        slot.set(TimerSlot { shard: id, key });
        // Not the deadline itself, which is rounded up to a tick: whoever got up for it would find nothing yet.
        let next = next_of(&wheel);
        let earliest = next < self.next.load(Ordering::Relaxed);
        if earliest {
            self.next.store(next, Ordering::Release);
        }
        earliest
    }

    /// Takes a timer out; nothing happens if it has fired.
    pub fn remove(&self, slot: TimerSlot) {
        let mut wheel = self.wheel.lock();
        wheel.remove(slot.key);
        if wheel.is_empty() {
            self.next.store(u64::MAX, Ordering::Release);
        }
    }

    /// Fires what is due at `now`; the goroutines to be queued are appended to `out`.
    pub fn fire<H: Host>(&self, now: u64, out: &mut Vec<GRef<H>>) {
        if self.next() > now {
            return;
        }
        let mut wheel = self.wheel.lock();
        wheel.advance(now, |t| {
            let waker = t.waker;
            // SAFETY: the entry was still in the wheel, so its owner is still inside the wait (file head).
            if unsafe { waker.as_ref() }
                .word
                .fire_low(t.ticket, Verdict::Timeout)
                == Fire::Wake
            {
                // SAFETY: only goroutines have timer entries: threads time their own sleep.
                out.push(unsafe { GRef::from_waker(waker.as_ptr()) });
            }
        });
        self.next.store(next_of(&wheel), Ordering::Release);
    }
}
