//! Word to an asyncio loop that the operation of one of its tasks has happened. Who drops it unread, a loop that is
//! closed with what was queued, gives back what was delivered: the task, though it may live on, never runs again.
//!
//! Who reads it: the loop's own thread. Who drops it: whoever has the last reference, attached. `vanished` looks whether
//! the operation still waits, so word that comes after a cancel which took the value does no harm.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::Op;

/// Queued in a loop beside the future that it is about.
#[pyclass(frozen, name = "Told", module = "gorun._gorun")]
pub struct PyTold {
    op: Py<PyAny>,
    read: AtomicBool,
}

#[pymethods]
impl PyTold {
    #[new]
    fn new(op: Py<PyAny>) -> PyResult<Self> {
        if !super::is_operation(op.as_ptr()) {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "word is of an operation",
            ));
        }
        Ok(Self {
            op,
            read: AtomicBool::new(false),
        })
    }

    /// The loop has got to it.
    fn read(&self) {
        // Relaxed: who drops it got its reference from this thread, or is this thread.
        self.read.store(true, Ordering::Relaxed);
    }

    /// What of it the collector sees. It has no `clear`: the queue that a cycle leads through has one.
    #[allow(clippy::needless_pass_by_value, reason = "PyO3 wants it so")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.op)
    }
}

impl Drop for PyTold {
    fn drop(&mut self) {
        if !*self.read.get_mut() {
            Op(self.op.as_ptr().cast()).vanished();
        }
    }
}
