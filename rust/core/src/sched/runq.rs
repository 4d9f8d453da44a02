//! What waits on a P: a first-come-first-served queue, and `runnext` before it.
//!
//! Two ways to keep it, one per kind of build:
//!
//! - *Free-threaded*: `crossbeam_deque`, and `runnext` as an atomic. Owner and thieves come at once.
//! - *GIL*: a plain deque. The M that holds the P and every thief are attached, so they come one at a time. Only sysmon
//!   is not: it may drain a P that nobody holds (`Runtime::rest_p`), while a thief looks there. Those two exclude each
//!   other by `aside`; sysmon and the M by the owner word. That saves a locked instruction at each push and pop (5 ns of
//!   a switch of 70).
//!
//! Invariants: "owner" is the M that holds the P in mode Sched, or who acquired the P while nobody held it and has
//! `aside`. `len` and `next` may be read by anybody, and are a guess unless by the owner.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_deque::{Steal, Stealer, Worker};

use super::g::{G, GRef};
use super::queue::BATCH;
use crate::host::Host;
use crate::prim::{Guard, Lock, atomic as modelled};

/// Above it an emptied plain deque gives its memory back.
const KEPT: usize = 1024;

/// The queue of one P.
pub struct RunQueue<H: Host> {
    next: modelled::AtomicPtr<G<H>>,
    plain: UnsafeCell<VecDeque<GRef<H>>>,
    /// Of `plain`, for those who only look.
    len: AtomicUsize,
    shared: UnsafeCell<Worker<GRef<H>>>,
    stealer: Stealer<GRef<H>>,
    aside: Lock<()>,
}

impl<H: Host> RunQueue<H> {
    /// Whoever comes here is attached, hence alone (file head). A model runs the other way.
    const ALONE: bool = H::GIL && !cfg!(loom);

    /// An empty one.
    pub fn new() -> Self {
        let shared = Worker::new_fifo();
        Self {
            next: modelled::AtomicPtr::new(null_mut()),
            plain: UnsafeCell::new(VecDeque::new()),
            len: AtomicUsize::new(0),
            stealer: shared.stealer(),
            shared: UnsafeCell::new(shared),
            aside: Lock::new(()),
        }
    }

    /// Before what is not done by the M that holds the P: thieves and whoever drains a free P.
    pub fn aside(&self) -> Option<Guard<'_, ()>> {
        Self::ALONE.then(|| self.aside.lock())
    }

    fn with_plain<R>(&self, f: impl FnOnce(&mut VecDeque<GRef<H>>) -> R) -> R {
        // SAFETY: nobody else is here now (file head); `f` moves pointers only.
        let q = unsafe { &mut *self.plain.get() };
        let r = f(q);
        self.len.store(q.len(), Ordering::Release);
        r
    }

    fn shared(&self) -> &Worker<GRef<H>> {
        // SAFETY: only the owner calls the methods that use it, and takes `&`.
        unsafe { &*self.shared.get() }
    }

    /// Puts `g` into `runnext`; what was there goes to the queue. Executed only by the owner.
    pub fn push_next(&self, g: GRef<H>) {
        let old = if Self::ALONE {
            let old = self.next.load(Ordering::Relaxed);
            self.next.store(g.as_ptr(), Ordering::Release);
            old
        } else if self.next.load(Ordering::Relaxed).is_null() {
            // Release: a thief of runnext (`take_next`) sees what was written to the G before. Only the owner fills the
            // slot, so one that it finds empty stays so, and a thief that comes now takes nothing or `g`.
            self.next.store(g.as_ptr(), Ordering::Release);
            return;
        } else {
            self.next.swap(g.as_ptr(), Ordering::AcqRel)
        };
        if !old.is_null() {
            // SAFETY: put there by `push_next`.
            self.push_back(unsafe { GRef::from_ptr(old) });
        }
    }

    /// Takes `runnext`: the owner, or a thief (`aside`).
    pub fn take_next(&self) -> Option<GRef<H>> {
        let g = self.next.load(Ordering::Relaxed);
        if g.is_null() {
            return None;
        }
        let g = if Self::ALONE {
            self.next.store(null_mut(), Ordering::Relaxed);
            g
        } else {
            self.next.swap(null_mut(), Ordering::AcqRel)
        };
        // SAFETY: put there by `push_next`.
        (!g.is_null()).then(|| unsafe { GRef::from_ptr(g) })
    }

    /// Appends `g`. Executed only by the owner.
    pub fn push_back(&self, g: GRef<H>) {
        if Self::ALONE {
            self.with_plain(|q| q.push_back(g));
        } else {
            self.shared().push(g);
        }
    }

    /// Takes the oldest. Executed only by the owner.
    pub fn pop(&self) -> Option<GRef<H>> {
        if !Self::ALONE {
            return self.shared().pop();
        }
        self.with_plain(|q| {
            let g = q.pop_front();
            if q.is_empty() && q.capacity() > KEPT {
                *q = VecDeque::new();
            }
            g
        })
    }

    /// Moves half of it, the oldest, to the end of `thief`, and takes the first of them. Whoever owns `thief`.
    pub fn steal_into(&self, thief: &Self) -> Option<GRef<H>> {
        if Self::ALONE {
            let _aside = self.aside();
            return self.with_plain(|q| {
                let n = q.len().div_ceil(2).min(BATCH);
                let mut taken = q.drain(..n);
                let first = taken.next();
                thief.with_plain(|t| t.extend(taken));
                first
            });
        }
        loop {
            match self
                .stealer
                .steal_batch_with_limit_and_pop(thief.shared(), BATCH)
            {
                Steal::Success(g) => return Some(g),
                Steal::Empty => return None,
                Steal::Retry => std::hint::spin_loop(),
            }
        }
    }

    /// How many wait, `runnext` included.
    pub fn len(&self) -> usize {
        usize::from(self.has_next()) + self.queued()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        !self.has_next() && self.queued() == 0
    }

    fn has_next(&self) -> bool {
        !self.next.load(Ordering::Acquire).is_null()
    }

    /// How many wait behind `runnext`.
    pub fn queued(&self) -> usize {
        if Self::ALONE {
            self.len.load(Ordering::Acquire)
        } else {
            self.stealer.len()
        }
    }
}

impl<H: Host> Default for RunQueue<H> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
