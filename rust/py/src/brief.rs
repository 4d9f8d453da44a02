//! A lock for a few words that are touched by attached threads only: on a GIL build they exclude each other anyway, and
//! it is no lock at all.
//!
//! Invariant: what `with` runs moves words. It drops no Python object, calls nothing of Python's and does not detach, so
//! on a GIL build no other thread can come in between.

#[cfg(not(Py_GIL_DISABLED))]
use std::cell::UnsafeCell;

#[cfg(Py_GIL_DISABLED)]
use gorun_core::prim::Lock;

/// See the file head.
#[cfg(Py_GIL_DISABLED)]
pub struct Brief<T>(Lock<T>);

/// See the file head.
#[cfg(not(Py_GIL_DISABLED))]
pub struct Brief<T>(UnsafeCell<T>);

// SAFETY: attached threads only, one at a time (file head).
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<T: Send> Sync for Brief<T> {}

#[cfg(Py_GIL_DISABLED)]
impl<T> Brief<T> {
    /// Around `value`.
    pub const fn new(value: T) -> Self {
        Self(Lock::new(value))
    }

    /// Runs `f` on the value, alone. Attached.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }

    /// The value, for somebody who has all of it to himself: a dealloc.
    pub fn alone(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

#[cfg(not(Py_GIL_DISABLED))]
impl<T> Brief<T> {
    /// Around `value`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Runs `f` on the value, alone. Attached.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: we hold the GIL, and `f` neither gives it up nor comes back here (file head).
        f(unsafe { &mut *self.0.get() })
    }

    /// The value, for somebody who has all of it to himself: a dealloc.
    pub fn alone(&mut self) -> &mut T {
        self.0.get_mut()
    }
}
