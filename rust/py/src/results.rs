//! The `next` of a map: takes a value that is ready without a line of Python.
//!
//! What is taken from is a deque that others fill, and that any thread may take from: so its own `popleft` does it.

use pyo3::exceptions::PyIndexError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::door;
use crate::errors::name;
use crate::latch::fetched;
use crate::unwind;

/// An iterator over what `take` gives: each `next` is a cancel point. Where `take` raises IndexError, `self._advance()`
/// has it filled, or raises StopIteration.
#[pyclass(frozen, subclass, generic, name = "_Results", module = "gorun._gorun")]
pub struct PyResults {
    take: Py<PyAny>,
}

#[pymethods]
impl PyResults {
    #[new]
    fn new(take: Py<PyAny>) -> Self {
        Self { take }
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        door::cancel_point().map_err(fetched)?;
        let py = slf.py();
        let take = slf.get().take.as_ptr();
        loop {
            // SAFETY: attached; a callable that the object holds. A new reference, or null with an error set.
            let value = unsafe { ffi::PyObject_CallNoArgs(take) };
            // SAFETY: as said.
            if let Some(value) = unsafe { Bound::from_owned_ptr_or_opt(py, value) } {
                return Ok(value);
            }
            let error = PyErr::fetch(py);
            if !error.is_instance_of::<PyIndexError>(py) {
                return Err(error);
            }
            // SAFETY: attached; an object, and a name that is interned since the import. A new reference, or null with an
            // error set.
            unsafe {
                let none = unwind::call_method(slf.as_ptr(), name::ADVANCE.get());
                Bound::from_owned_ptr_or_err(py, none)?;
            }
        }
    }

    /// No clear: what the callable takes from belongs to others, which the collector clears.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.take)
    }
}
