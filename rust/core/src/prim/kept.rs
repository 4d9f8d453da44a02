//! `Kept`: a lock that attached threads alone take, with no safe point while it is held (DESIGN: the rule for locks).
//!
//! Where the interpreter lets one thread at a time be attached, that thread is alone in here already, and what a real
//! lock costs (a locked instruction, as dear as twenty others) buys nothing: so there it only notes that it is held. The
//! embedder says so once, before the first one is taken (`one_at_a_time`); the core's own tests do not.
//!
//! Elsewhere it is a spin lock that gives way. What is done under it are pointer moves, some tens of nanoseconds, so who
//! finds it held spins for about as long; only if the kernel has taken the holder off its core is it held longer, and
//! then the waiter yields and sleeps. Nobody is woken, so letting go is a plain store: a lock with a futex needs a second
//! locked instruction, to learn whether somebody sleeps.
//!
//! Invariants, where it only notes:
//! - The holder does not detach, and calls nothing that could. So nobody ever finds it held; who does would have found
//!   a broken rule, and panics rather than go on.
//! - Handing the interpreter from thread to thread orders the accesses, as a lock would.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Looks before a waiter gives its core away, and turns of that before it sleeps.
const SPINS: u32 = 128;
const YIELDS: u32 = 8;
const NAP: Duration = Duration::from_micros(20);

static ONE_AT_A_TIME: AtomicBool = AtomicBool::new(false);

/// Says that attached threads run one at a time for as long as this process lives.
pub fn one_at_a_time() {
    ONE_AT_A_TIME.store(true, Ordering::Relaxed);
}

/// See the file head.
pub struct Kept<T> {
    /// Acquire when it is taken, release when it is let go of.
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached through a guard, of which there is one at a time.
unsafe impl<T: Send> Sync for Kept<T> {}

/// A held `Kept`.
pub struct KeptGuard<'a, T> {
    kept: &'a Kept<T>,
}

impl<T> Kept<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock; never fails. Attached.
    #[inline]
    pub fn lock(&self) -> KeptGuard<'_, T> {
        if ONE_AT_A_TIME.load(Ordering::Relaxed) {
            if self.held.load(Ordering::Relaxed) {
                broken();
            }
            self.held.store(true, Ordering::Relaxed);
        } else if self.held.swap(true, Ordering::Acquire) {
            self.wait();
        }
        KeptGuard { kept: self }
    }

    /// Takes the lock if it is free. Attached.
    pub fn try_lock(&self) -> Option<KeptGuard<'_, T>> {
        if self.held.load(Ordering::Relaxed) {
            return None;
        }
        if ONE_AT_A_TIME.load(Ordering::Relaxed) {
            self.held.store(true, Ordering::Relaxed);
        } else if self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(KeptGuard { kept: self })
    }

    /// Until it is ours.
    #[cold]
    fn wait(&self) {
        for turn in 0_u32.. {
            for _ in 0..SPINS {
                // Read only: the holder's line is not pulled to and fro.
                if !self.held.load(Ordering::Relaxed) && !self.held.swap(true, Ordering::Acquire) {
                    return;
                }
                std::hint::spin_loop();
            }
            if turn < YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(NAP);
            }
        }
    }
}

#[cold]
fn broken() -> ! {
    panic!("a lock for attached threads is held by one that detached: please report this");
}

impl<T> Deref for KeptGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only way in while it lives.
        unsafe { &*self.kept.value.get() }
    }
}

impl<T> DerefMut for KeptGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.kept.value.get() }
    }
}

impl<T> Drop for KeptGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.kept.held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;

    /// As long as nobody has said `one_at_a_time` it is a lock: increments of two threads are not lost, and it is refused
    /// while another holds it. More threads than cores, and holders that give theirs away. Mutations: `lock` only notes;
    /// `wait` does not; `try_lock` takes what is held.
    #[test]
    fn it_is_a_lock() {
        let kept = Kept::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..10_000 {
                        let mut held = kept.lock();
                        let n = *held;
                        if n % 16 == 0 {
                            std::thread::yield_now();
                        }
                        *held = n + 1;
                    }
                });
            }
        });
        let held = kept.lock();
        assert_eq!(*held, 40_000);
        assert!(kept.try_lock().is_none());
        drop(held);
        assert!(kept.try_lock().is_some());
    }
}
