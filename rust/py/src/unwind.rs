//! Calls into Python that may not come back: up to 3.12 a thread that wants the interpreter while that finalizes is
//! unwound by force, and what catches that (`errors::guard`, PyO3's trampolines) aborts the process. Such a thread stops
//! here instead, as newer interpreters have it.
//!
//! For whatever runs code of users for long. Invariant: no destructor is pending in a frame of ours but `HangOnUnwind`.

use std::ptr::null_mut;

use pyo3::ffi::PyObject;

unsafe extern "C-unwind" {
    fn PyIter_Next(iter: *mut PyObject) -> *mut PyObject;
    fn PyObject_VectorcallMethod(
        name: *mut PyObject,
        args: *const *mut PyObject,
        nargsf: usize,
        kwnames: *mut PyObject,
    ) -> *mut PyObject;
}

type Next = unsafe extern "C-unwind" fn(*mut PyObject) -> *mut PyObject;
type Method = unsafe extern "C-unwind" fn(
    *mut PyObject,
    *const *mut PyObject,
    usize,
    *mut PyObject,
) -> *mut PyObject;

/// The function as the optimiser must not know it. pyo3-ffi declares the same symbols as functions that never unwind;
/// link-time optimisation merges the declarations, believes that, and drops `HangOnUnwind` (seen: exits of 3.11 aborted
/// in release builds only).
pub fn may_unwind<F: Copy>(f: F) -> F {
    std::hint::black_box(f)
}

/// Stops a forced unwinding for good: the thread hangs, as newer interpreters let it. A panic passes.
pub struct HangOnUnwind;

impl Drop for HangOnUnwind {
    fn drop(&mut self) {
        while !std::thread::panicking() {
            // SAFETY: waits for a signal; no arguments.
            unsafe { libc::pause() };
        }
    }
}

/// `PyIter_Next`.
///
/// # Safety
/// Attached; an iterator.
pub unsafe fn iter_next(iter: *mut PyObject) -> *mut PyObject {
    let (guard, next) = (HangOnUnwind, may_unwind::<Next>(PyIter_Next));
    // SAFETY: as promised.
    let found = unsafe { next(iter) };
    std::mem::forget(guard);
    found
}

/// `o.name()`.
///
/// # Safety
/// Attached; an object and a string.
pub unsafe fn call_method(o: *mut PyObject, name: *mut PyObject) -> *mut PyObject {
    let (guard, method) = (
        HangOnUnwind,
        may_unwind::<Method>(PyObject_VectorcallMethod),
    );
    // SAFETY: as promised.
    let found = unsafe { method(name, &raw const o, 1, null_mut()) };
    std::mem::forget(guard);
    found
}
