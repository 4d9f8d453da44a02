//! A goroutine's cancels: asked for from outside, delivered at its cancel points. The protocol is the core's
//! (`sched/cancel.rs`); the list lies under the lock of the goroutine's latch.

use std::sync::atomic::Ordering;

use gorun_core::sched::Cancel;
use pyo3::ffi::{self, PyObject};

use super::is_done;
use crate::body::Owned;
use crate::errors::{self, Raised, attached};
use crate::rt::{PyG, Rt, rt};
use crate::target;

/// Raises `Cancelled` for the goroutine, or the thread inside a scope, that runs here: it is delivered hereby.
pub fn raise_cancelled(rt: Rt) -> Raised {
    match rt.current_goroutine() {
        Some((_, g)) => deliver(g),
        None => target::deliver_to_thread(),
    }
}

/// Raises `Cancelled` on behalf of `g`.
pub fn deliver(g: PyG) -> Raised {
    let word = &g.waker.word;
    let what = g.latch_or_make().with(|e, _| e.cancels.deliver(word));
    raise(what, g.id.load(Ordering::Relaxed))
}

/// Raises what was delivered, to goroutine number `to` (0: a thread).
pub fn raise(what: Option<(u64, Option<Owned>)>, to: u64) -> Raised {
    let py = attached();
    // None: somebody else left a scope of this goroutine, which was told so.
    let (origin, reason) = what.unwrap_or((0, None));
    // SAFETY: attached, valid objects; `exc` and the numbers are owned.
    unsafe {
        let why = reason.as_ref().map_or(ffi::Py_None(), Owned::as_ptr);
        let exc = ffi::PyObject_CallOneArg(errors::cancelled(py), why);
        if exc.is_null() {
            return Raised;
        }
        for (name, n) in [
            (&errors::name::ORIGIN, origin),
            (&errors::name::GOROUTINE, to),
        ] {
            if n != 0 {
                let n = ffi::PyLong_FromUnsignedLongLong(n);
                ffi::PyObject_SetAttr(exc, name.get(), n);
                ffi::Py_XDECREF(n);
            }
        }
        ffi::PyErr_SetObject(ffi::Py_TYPE(exc).cast(), exc);
        ffi::Py_DECREF(exc);
    }
    Raised
}

/// Asks a goroutine to end, from outside; false if it has.
pub fn ask_cancel(g: PyG, reason: *mut PyObject) -> bool {
    let rt = rt();
    if is_done(g) || g.epoch.load(Ordering::Relaxed) != rt.epoch() {
        return false;
    }
    // SAFETY: attached; a valid object or null.
    let reason = (!reason.is_null()).then(|| unsafe { Owned::new(reason) });
    let word = &g.waker.word;
    let (said, unused) = g
        .latch_or_make()
        .with(|e, _| e.cancels.ask(word, 0, reason));
    if said == Cancel::Wake {
        // SAFETY: the cancel won a parked waiter.
        unsafe { rt.wake(&raw const g.waker) };
    }
    drop(unused);
    said != Cancel::Ended
}
