//! Word to an asyncio loop that the operation of one of its tasks has happened. Who drops it unread, a loop that is
//! closed with what was queued, gives back what was delivered: the task, though it may live on, never runs again.
//!
//! Who reads it: the loop's own thread. Who drops it: whoever has the last reference, attached. `vanished` looks whether
//! the operation still waits, so word that comes after a cancel which took the value does no harm.
//!
//! Without a GIL what an M made lives until that M runs again: so word that was read keeps nothing alive.

use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::PyTraverseError;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::Op;
use crate::errors::attached;

/// Queued in a loop beside the future that it is about.
#[pyclass(frozen, name = "Told", module = "gorun._gorun")]
pub struct PyTold {
    /// The operation, owned; null once it was read.
    op: AtomicPtr<PyObject>,
}

impl PyTold {
    /// The operation's reference, which is the caller's now; null if it was read.
    fn take(&self) -> *mut PyObject {
        // Relaxed: who drops it got its reference from the thread that read it, or is that thread.
        self.op.swap(null_mut(), Ordering::Relaxed)
    }
}

#[pymethods]
impl PyTold {
    #[new]
    fn new(op: Py<PyAny>) -> PyResult<Self> {
        if !super::is_operation(op.as_ptr()) {
            return Err(PyTypeError::new_err("word is of an operation"));
        }
        Ok(Self {
            op: AtomicPtr::new(op.into_ptr()),
        })
    }

    /// The loop has got to it.
    fn read(slf: &Bound<'_, Self>) {
        // SAFETY: attached, valid objects or null; without references the collector has nothing to look for in this one.
        unsafe {
            ffi::Py_XDECREF(slf.get().take());
            ffi::PyObject_GC_UnTrack(slf.as_ptr().cast());
        }
    }

    /// What of it the collector sees. It has no `clear`: the queue that a cycle leads through has one.
    #[allow(clippy::needless_pass_by_value, reason = "PyO3 wants it so")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let op = self.op.load(Ordering::Relaxed);
        // SAFETY: the field owns the reference: what is made of it for this call is not dropped.
        let op = ManuallyDrop::new(unsafe {
            Bound::from_owned_ptr_or_opt(attached(), op).map(Bound::unbind)
        });
        visit.call(&*op)
    }
}

impl Drop for PyTold {
    fn drop(&mut self) {
        let op = self.take();
        if !op.is_null() {
            Op(op.cast()).vanished();
            // SAFETY: attached, as whoever drops an object; the reference was the field's.
            unsafe { ffi::Py_DECREF(op) };
        }
    }
}
