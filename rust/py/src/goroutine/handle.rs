//! The handle as an object: made, found again from its goroutine, owned, finalized, looked through.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::AtomicU32;
use std::sync::atomic::{AtomicPtr, Ordering};

use gorun_core::sched::Phase;
use pyo3::ffi::{self, PyObject};

use super::{Handle, TYPE, callbacks, is_done, of};
use crate::body::Ended;
use crate::errors::aside;
use crate::local::local;
use crate::rt::{PyG, rt};

/// Those who read `Body::handle` and try to own what they found. A dying handle waits for them to leave.
#[cfg(Py_GIL_DISABLED)]
static UPGRADING: AtomicU32 = AtomicU32::new(0);

/// A handle without a goroutine: for `adopt`. Null with the error set.
///
/// # Safety
/// Attached.
pub unsafe fn alloc() -> *mut PyObject {
    // SAFETY: the type is ready; a spare handle is the memory of a dead one.
    unsafe {
        let h: *mut Handle = match local().spare_handle.take(&TYPE) {
            Some(h) => h.cast(),
            None => ffi::PyObject_GC_New(TYPE.get()),
        };
        if !h.is_null() {
            (*h).g = null_mut();
            (*h).weakrefs = null_mut();
            enable_try_incref(h.cast());
        }
        h.cast()
    }
}

/// Makes `h` the handle of `g`; takes over one reference to `g`. Runs no code.
///
/// # Safety
/// `h` came from `alloc` just now, `g` has no handle.
pub unsafe fn adopt(h: *mut PyObject, g: PyG) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*h.cast::<Handle>()).g = g.as_ptr();
        // Release: who reads it elsewhere finds a whole handle.
        (*g.body.get()).handle.store(h, Ordering::Release);
    }
}

/// The handle of `g`: the one there is, or a new one. Owned; null with the error set.
///
/// # Safety
/// Attached; the caller keeps `g` alive (runs it, or has a reference).
pub unsafe fn handle(g: PyG) -> *mut PyObject {
    // SAFETY: as promised; the pointer is used only between the two counts, while a dying handle waits.
    unsafe {
        let h = own_handle(&(*g.body.get()).handle);
        if !h.is_null() {
            return h;
        }
        let h = alloc();
        if !h.is_null() {
            g.retain();
            adopt(h, g);
            ffi::PyObject_GC_Track(h.cast());
        }
        h
    }
}

#[cfg(not(Py_GIL_DISABLED))]
unsafe fn enable_try_incref(_h: *mut PyObject) {}

/// The handle in the slot, owned, or null.
#[cfg(not(Py_GIL_DISABLED))]
unsafe fn own_handle(slot: &AtomicPtr<PyObject>) -> *mut PyObject {
    // SAFETY: under the GIL a handle that is still in its slot is alive: its dealloc empties the slot first.
    unsafe { ffi::Py_XNewRef(slot.load(Ordering::Relaxed)) }
}

/// `h` dies: nobody finds it in its slot any more.
#[cfg(not(Py_GIL_DISABLED))]
fn vacate(slot: &AtomicPtr<PyObject>, h: *mut PyObject) {
    if slot.load(Ordering::Relaxed) == h {
        slot.store(null_mut(), Ordering::Relaxed);
    }
}

#[cfg(Py_GIL_DISABLED)]
unsafe fn own_handle(slot: &AtomicPtr<PyObject>) -> *mut PyObject {
    UPGRADING.fetch_add(1, Ordering::SeqCst);
    let h = slot.load(Ordering::SeqCst);
    // SAFETY: a dying handle waits while we are counted.
    let owned = !h.is_null() && unsafe { try_incref(h) };
    UPGRADING.fetch_sub(1, Ordering::Release);
    if owned { h } else { null_mut() }
}

#[cfg(Py_GIL_DISABLED)]
fn vacate(slot: &AtomicPtr<PyObject>, h: *mut PyObject) {
    let _ = slot.compare_exchange(h, null_mut(), Ordering::SeqCst, Ordering::Relaxed);
    while UPGRADING.load(Ordering::SeqCst) != 0 {
        std::hint::spin_loop();
    }
}

#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
unsafe extern "C" {
    fn PyUnstable_EnableTryIncRef(o: *mut PyObject);
    fn PyUnstable_TryIncRef(o: *mut PyObject) -> c_int;
}

#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
unsafe fn enable_try_incref(h: *mut PyObject) {
    // SAFETY: a fresh object of ours.
    unsafe { PyUnstable_EnableTryIncRef(h) }
}

#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
unsafe fn try_incref(h: *mut PyObject) -> bool {
    // SAFETY: enabled at its making; its memory is valid while we are counted in UPGRADING.
    unsafe { PyUnstable_TryIncRef(h) != 0 }
}

// 3.13t has the same mechanism without a public name: bit 0 of ob_ref_shared means that others may try to own the
// object (a weak reference may exist), which makes its owner count it down with care. Condition: the object is new,
// owned by this thread, its shared field 0. There is no switch: without it `current()` could not find the handle.
#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
unsafe fn enable_try_incref(h: *mut PyObject) {
    // SAFETY: a fresh object that nobody else knows.
    unsafe { (*h).ob_ref_shared.store(1, Ordering::Relaxed) };
}

#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
unsafe fn try_incref(h: *mut PyObject) -> bool {
    // What CPython 3.13 does for weak references: count up locally if we own it, else in the shared field unless that
    // says that the object is going away (0 without the flag, or merged with a count of 0).
    // SAFETY: its memory is valid while we are counted in UPGRADING.
    unsafe {
        let o = &*h;
        if o.ob_tid == own_thread_id() {
            ffi::Py_INCREF(h);
            return true;
        }
        let mut shared = o.ob_ref_shared.load(Ordering::Relaxed);
        loop {
            if shared == 0 || shared == 3 {
                return false;
            }
            match o.ob_ref_shared.compare_exchange_weak(
                shared,
                shared + 4,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => shared = now,
            }
        }
    }
}

#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
fn own_thread_id() -> usize {
    let id: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the thread pointer, as `_Py_ThreadId` does.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) id, options(nostack, readonly, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) id, options(nostack, nomem, preserves_flags));
    }
    id
}

pub(super) unsafe extern "C" fn dealloc(h: *mut PyObject) {
    // SAFETY: called by the interpreter, attached; once, unless the finalizer's hook keeps the handle.
    unsafe {
        let handle = h.cast::<Handle>();
        if !(*handle).g.is_null()
            && is_unasked(of(h))
            && ffi::PyObject_CallFinalizerFromDealloc(h) < 0
        {
            return;
        }
        ffi::PyObject_GC_UnTrack(h.cast());
        if !(*handle).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(h);
        }
        if !(*handle).g.is_null() {
            // At once, also if the rest has to wait: the next handle of `g` is then another one.
            vacate(&(*of(h).body.get()).handle, h);
        }
        local().deaths.end(h, drop_handle);
    }
}

unsafe fn drop_handle(h: *mut PyObject) {
    // SAFETY: the rest of `dealloc`: the handle's reference to its goroutine is still ours.
    unsafe {
        if !(*h.cast::<Handle>()).g.is_null() {
            rt().release(of(h));
        }
        local().spare_handle.give(h);
    }
}

/// True for one that ended with an error that nobody asked for.
pub(super) fn is_unasked(g: PyG) -> bool {
    // SAFETY: Done: read-only.
    is_done(g) && unsafe { (*g.body.get()).ended() == Ended::Error && !(*g.body.get()).is_taken() }
}

/// The last handle goes: the error that nobody asked for is reported now. The collector calls this before it clears
/// anything, so the error is whole; in the dealloc of a handle that it clears, it would not be.
pub(super) unsafe extern "C" fn finalize(h: *mut PyObject) {
    // SAFETY: a handle, attached.
    unsafe {
        if (*h.cast::<Handle>()).g.is_null() {
            return;
        }
        let g = of(h);
        if is_unasked(g) && (*g.body.get()).take() {
            aside(|| callbacks::report_unasked(g, h));
        }
    }
}

pub(super) unsafe extern "C" fn traverse(
    h: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector's call; a Done goroutine's outcome is read-only. No lock is taken.
    unsafe {
        if (*h.cast::<Handle>()).g.is_null() {
            return 0;
        }
        let g = of(h);
        if g.waker.word.phase() != Phase::Done {
            return 0;
        }
        let b = g.body.get();
        for p in [(*b).outcome(), (*b).trace()] {
            if !p.is_null() {
                let r = visit(p, arg);
                if r != 0 {
                    return r;
                }
            }
        }
        0
    }
}

pub(super) unsafe extern "C" fn clear(h: *mut PyObject) -> c_int {
    // SAFETY: the collector found the handle unreachable, so nobody asks for the outcome any more.
    unsafe {
        let g = of(h);
        if g.waker.word.phase() == Phase::Done {
            let b = g.body.get();
            (*b).take();
            let (outcome, trace) = ((*b).outcome(), (*b).trace());
            (*b).set_outcome(ffi::Py_NewRef(ffi::Py_None()), null_mut());
            ffi::Py_XDECREF(outcome);
            ffi::Py_XDECREF(trace);
        }
    }
    0
}
