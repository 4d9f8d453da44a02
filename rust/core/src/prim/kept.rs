//! `Kept`: a lock that attached threads alone take, with no safe point while it is held (DESIGN: the rule for locks).
//!
//! Where the interpreter lets one thread at a time be attached, that thread is alone in here already, and what a real
//! lock costs (two locked instructions, each as dear as twenty others) buys nothing: so there it only notes that it is
//! held. The embedder says so once, before the first one is taken (`one_at_a_time`); the core's own tests do not.
//!
//! Invariants, where it only notes:
//! - The holder does not detach, and calls nothing that could. So nobody ever finds it held; who does would have found
//!   a broken rule, and panics rather than go on.
//! - Handing the interpreter from thread to thread orders the accesses, as a lock would.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Guard, Lock};

static ONE_AT_A_TIME: AtomicBool = AtomicBool::new(false);

/// Says that attached threads run one at a time for as long as this process lives.
pub fn one_at_a_time() {
    ONE_AT_A_TIME.store(true, Ordering::Relaxed);
}

/// See the file head.
pub struct Kept<T> {
    lock: Lock<()>,
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached through a guard, of which there is one at a time.
unsafe impl<T: Send> Sync for Kept<T> {}

/// A held `Kept`.
pub struct KeptGuard<'a, T> {
    kept: &'a Kept<T>,
    real: Option<Guard<'a, ()>>,
}

impl<T> Kept<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            lock: Lock::new(()),
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock; never fails. Attached.
    #[inline]
    pub fn lock(&self) -> KeptGuard<'_, T> {
        if !ONE_AT_A_TIME.load(Ordering::Relaxed) {
            return KeptGuard {
                kept: self,
                real: Some(self.lock.lock()),
            };
        }
        if self.held.load(Ordering::Relaxed) {
            broken();
        }
        self.note()
    }

    /// Takes the lock if it is free. Attached.
    pub fn try_lock(&self) -> Option<KeptGuard<'_, T>> {
        if !ONE_AT_A_TIME.load(Ordering::Relaxed) {
            let real = self.lock.try_lock()?;
            return Some(KeptGuard {
                kept: self,
                real: Some(real),
            });
        }
        (!self.held.load(Ordering::Relaxed)).then(|| self.note())
    }

    #[inline]
    fn note(&self) -> KeptGuard<'_, T> {
        self.held.store(true, Ordering::Relaxed);
        KeptGuard {
            kept: self,
            real: None,
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
        if self.real.is_none() {
            self.kept.held.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;

    /// As long as nobody has said `one_at_a_time` it is a lock: increments of two threads are not lost, and it is refused
    /// while another holds it. Mutation: `lock` only notes.
    #[test]
    fn it_is_a_lock() {
        let kept = Kept::new(0);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..100_000 {
                        *kept.lock() += 1;
                    }
                });
            }
        });
        let held = kept.lock();
        assert_eq!(*held, 200_000);
        assert!(kept.try_lock().is_none());
        drop(held);
        assert!(kept.try_lock().is_some());
    }
}
