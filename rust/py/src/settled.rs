//! Our functions and methods made immortal, on free-threaded builds: there each call of a function that another thread
//! made counts it up and down by locked instructions, and every M pulls at the same cache line.
//!
//! Private layout, written: the reference count of an object, as the interpreter's own statics have it (`ob_tid` 0, the
//! local count at its maximum, the shared one 0). Conditions: the object is new, known to the importing thread only, and
//! never to be freed anyway. It is tried on an object of our own first (`set_up`); any doubt leaves all as they are, as
//! GORUN_IMMORTAL=off does.

use pyo3::ffi;
use pyo3::prelude::*;

#[cfg(Py_GIL_DISABLED)]
mod imp {
    use std::sync::atomic::{AtomicBool, Ordering};

    use pyo3::ffi::{self, PyObject};

    static ON: AtomicBool = AtomicBool::new(false);

    /// True if it was done.
    pub fn is_on() -> bool {
        ON.load(Ordering::Relaxed)
    }

    /// # Safety
    /// Attached; the file head's conditions.
    pub unsafe fn settle(o: *mut PyObject) {
        // SAFETY: as promised; untracked, as the interpreter's immortals are.
        unsafe {
            if ffi::PyObject_GC_IsTracked(o) != 0 {
                ffi::PyObject_GC_UnTrack(o.cast());
            }
            (*o).ob_tid = 0;
            (*o).ob_ref_local.store(u32::MAX, Ordering::Relaxed);
            (*o).ob_ref_shared.store(0, Ordering::Relaxed);
        }
    }

    /// Looks whether the interpreter takes such an object for immortal (it is leaked), and does so from now on if it does.
    /// At import, first.
    pub fn set_up() {
        if std::env::var("GORUN_IMMORTAL").is_ok_and(|v| v == "off") {
            return;
        }
        // SAFETY: attached; an object of ours that nobody else knows.
        unsafe {
            let o = ffi::PyList_New(0);
            if o.is_null() {
                ffi::PyErr_Clear();
                return;
            }
            settle(o);
            let immortal = ffi::Py_REFCNT(ffi::Py_None());
            let before = ffi::Py_REFCNT(o) == immortal;
            ffi::Py_INCREF(o);
            ffi::Py_DECREF(o);
            ffi::Py_DECREF(o);
            let on = before
                && ffi::Py_REFCNT(o) == immortal
                && (*o).ob_ref_shared.load(Ordering::Relaxed) == 0;
            ON.store(on, Ordering::Relaxed);
        }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
mod imp {
    pub fn set_up() {}

    /// With the GIL counting is cheap.
    pub fn is_on() -> bool {
        false
    }

    pub unsafe fn settle(_: *mut pyo3::ffi::PyObject) {}
}

pub use imp::{is_on, set_up};

/// Makes an object immortal, if that is done.
///
/// # Safety
/// Attached; the file head's conditions.
pub unsafe fn settle_if_on(o: *mut ffi::PyObject) {
    if is_on() {
        // SAFETY: as promised.
        unsafe { imp::settle(o) }
    }
}

/// Makes the functions of `m`, and the methods of its types, immortal. At its import, last.
pub fn settle_module(m: &Bound<'_, PyModule>) -> PyResult<()> {
    if !is_on() {
        return Ok(());
    }
    for value in m.dict().values() {
        // SAFETY: attached; made by this import, kept by the module or its types as long as the process lives.
        unsafe {
            if ffi::PyCFunction_CheckExact(value.as_ptr()) != 0 {
                imp::settle(value.as_ptr());
            } else if ffi::PyType_Check(value.as_ptr()) != 0 {
                for attribute in value
                    .getattr("__dict__")?
                    .call_method0("values")?
                    .try_iter()?
                {
                    let attribute = attribute?;
                    let kind = ffi::Py_TYPE(attribute.as_ptr());
                    if kind == &raw mut ffi::PyMethodDescr_Type
                        || kind == &raw mut ffi::PyGetSetDescr_Type
                        || kind == &raw mut ffi::PyWrapperDescr_Type
                    {
                        imp::settle(attribute.as_ptr());
                    }
                }
            }
        }
    }
    Ok(())
}
