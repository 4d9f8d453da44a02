//! The mutex, with Go's fairness: who comes while it is free takes it, also past those that wait; once the oldest has
//! waited for a millisecond it is handed over in order.
//!
//! Who delivers: `unlock`. If the oldest waiter is patient (under `PATIENCE`) the mutex becomes free and that waiter is
//! told to try again; at most one is told at a time (`told`). If it has waited longer, the mutex stays locked and is
//! its own. Who claims: `Node::fire`; after it the owner calls `confirm`, which says whether it has the mutex.
//!
//! | end of a wait | what happens |
//! |---|---|
//! | handed over | it holds the mutex |
//! | told to try | `confirm` takes the mutex if it is free, else the waiter enlists again, with its old age, in its old place |
//! | time-out, cancel | the node is taken out |
//! | signal | aside: passed over, it keeps its place |
//! | vanished after it was fired | `vanish`: unlocks, or tells the next |
//! | closed event loop | as one that vanished after it was fired |
//! | fork | the child's queue is empty, nobody is told; locked stays locked (as with `threading.Lock`) |
//! | exit | as every list (`wait.rs`): cancelled, then left; nobody unlocks |
//!
//! Where threads run side by side, who finds it locked by another one that is about to let go looks a few times more
//! before he waits (`try_lock_soon`): a wait costs a switch. Not where somebody waits already: then it is held for longer.
//!
//! Invariant, under the lock: if it is free and somebody waits (not aside), one is told.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::Host;
use crate::prim::Kept;
use crate::runtime::{Runtime, epoch};
use crate::sched::{Ticket, Waker};
use crate::wait::{List, Node, Wakeup};

/// How long newcomers may pass, in nanoseconds. Go's.
pub const PATIENCE: u64 = 1_000_000;

/// Looks of `try_lock_soon`, some 20 ns each: together about what a wait costs.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 16 };

/// A waiter's place.
#[repr(C)]
pub struct Turn {
    node: Node,
    /// When it began to wait; 0: not yet.
    since: u64,
    /// Fired as its owner.
    granted: bool,
    /// Fired, and has not confirmed.
    told: bool,
}

impl Turn {
    /// Of one who has not waited yet.
    pub const fn new() -> Self {
        Self {
            node: Node::new(),
            since: 0,
            granted: false,
            told: false,
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

struct Inner {
    locked: bool,
    /// One was told to try and has not come yet: the epoch of that (in a forked child nobody was told), else 0.
    told: u32,
    queue: List,
}

/// See the file head.
pub struct Mutex {
    inner: Kept<Inner>,
    /// As `Inner::locked`, and whether somebody waits: for looks that decide nothing.
    looks_locked: AtomicBool,
    looks_awaited: AtomicBool,
}

impl Default for Mutex {
    fn default() -> Self {
        Self {
            inner: Kept::new(Inner {
                locked: false,
                told: 0,
                queue: List::new(),
            }),
            looks_locked: AtomicBool::new(false),
            looks_awaited: AtomicBool::new(false),
        }
    }
}

/// `unlock` of what is not locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotLocked;

impl Mutex {
    /// True while somebody holds it.
    pub fn is_locked(&self) -> bool {
        self.inner.lock().locked
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> bool {
        self.take(&mut self.inner.lock())
    }

    #[inline]
    fn take(&self, inner: &mut Inner) -> bool {
        self.looks_locked.store(true, Ordering::Relaxed);
        !std::mem::replace(&mut inner.locked, true)
    }

    /// As `try_lock`, by a goroutine that would have to wait otherwise. Attached; it takes less than a microsecond.
    #[inline]
    pub fn try_lock_soon<H: Host>(&self, rt: &'static Runtime<H>) -> bool {
        self.try_lock() || !H::GIL && rt.procs() > 1 && self.look_again()
    }

    #[cold]
    fn look_again(&self) -> bool {
        for _ in 0..LOOKS {
            if self.looks_awaited.load(Ordering::Relaxed) {
                return false;
            }
            if !self.looks_locked.load(Ordering::Relaxed) && self.try_lock() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Takes it, or registers, under one lock. False: taken.
    ///
    /// # Safety
    /// If it says true, the turn stays where it is until it was fired, or `delist`.
    #[must_use]
    pub unsafe fn enlist<H: Host>(
        &self,
        rt: &'static Runtime<H>,
        turn: &mut Turn,
        waker: *const Waker,
        ticket: Ticket,
    ) -> bool {
        let now = rt.now().max(1);
        let mut inner = self.inner.lock();
        let node = &raw mut turn.node;
        // SAFETY: under the lock; pinned by the caller's promise.
        unsafe {
            if self.take(&mut inner) {
                inner.queue.remove(node);
                return false;
            }
            turn.node.belongs_to(waker, ticket);
            if turn.since == 0 {
                turn.since = now;
                inner.queue.push(node);
            } else if !turn.node.is_linked() {
                let next = inner.first_not_older(turn.since);
                inner.queue.insert(node, next);
            }
        }
        self.looks_awaited.store(true, Ordering::Relaxed);
        true
    }

    /// After the wait ended as Ready: true if the mutex is ours, false if somebody was faster.
    pub fn confirm(&self, turn: &mut Turn) -> bool {
        if std::mem::take(&mut turn.granted) {
            return true;
        }
        let mut inner = self.inner.lock();
        if std::mem::take(&mut turn.told) {
            inner.told = 0;
        }
        self.take(&mut inner)
    }

    /// Takes a waiter out: its wait ended otherwise.
    ///
    /// # Safety
    /// The turn was given to `enlist` of this mutex, or to none.
    pub unsafe fn delist(&self, turn: *mut Turn) {
        // SAFETY: under the lock; linked here or nowhere.
        unsafe { self.inner.lock().queue.remove(&raw mut (*turn).node) };
    }

    /// The waiter keeps its place and gets nothing until it enlists again.
    pub fn aside(&self, turn: &mut Turn) {
        let _inner = self.inner.lock();
        turn.node.step_aside();
    }

    /// One that was fired has vanished before it could confirm.
    pub fn vanish<H: Host>(&self, rt: &'static Runtime<H>, turn: &mut Turn) {
        if self.confirm(turn) {
            // Locked by us just now, or handed to us.
            let _ = self.unlock(rt);
        }
    }

    /// Frees it, or hands it over. Anybody may.
    pub fn unlock<H: Host>(&self, rt: &'static Runtime<H>) -> Result<(), NotLocked> {
        let woken = {
            let mut inner = self.inner.lock();
            if !inner.locked {
                return Err(NotLocked);
            }
            let woken = inner.pass(|| rt.now());
            self.looks_locked.store(inner.locked, Ordering::Relaxed);
            self.looks_awaited
                .store(!inner.queue.is_empty(), Ordering::Relaxed);
            woken
        };
        woken.wake(rt);
        Ok(())
    }
}

impl Inner {
    /// Where one stands that has waited since `since`: near the front.
    fn first_not_older(&mut self, since: u64) -> Option<*mut Node> {
        let mut next = self.queue.head();
        while let Some(node) = next {
            // SAFETY: under the lock, as in `pass`.
            unsafe {
                if (*node.cast::<Turn>()).since >= since {
                    break;
                }
                next = (*node).next();
            }
        }
        next
    }

    fn pass(&mut self, now: impl Fn() -> u64) -> Wakeup {
        // SAFETY: under the lock; nodes of this list are the first fields of turns, which their owners keep until they
        // have been fired or had the lock.
        unsafe {
            while let Some(node) = self.queue.first() {
                if self.told == epoch() {
                    break;
                }
                let turn = node.cast::<Turn>();
                let hand_over = now().saturating_sub((*turn).since) >= PATIENCE;
                self.queue.remove(node);
                (*turn).granted = hand_over;
                (*turn).told = !hand_over;
                if let Some(w) = (*node).fire() {
                    self.locked = hand_over;
                    self.told = if hand_over { 0 } else { epoch() };
                    return w;
                }
                (*turn).granted = false;
                (*turn).told = false;
            }
        }
        self.locked = false;
        Wakeup::NONE
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
