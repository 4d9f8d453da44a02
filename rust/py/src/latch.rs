//! A counted event as a Python class: what the package's own Python code waits on.
//!
//! Who delivers: the last `done`, or `set`. Who claims, and every end of a wait: `gorun_core::wait` (a latch gives nothing
//! that could be lost). Fork: what was open or counted stays so in the child, where nobody waits. It has no close.

use std::sync::atomic::{AtomicI64, Ordering};

use gorun_core::sched::WaitReason;
use gorun_core::wait::Latch;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::args::timeout;
use crate::body::Owned;
use crate::door::{self, Waited};
use crate::errors::{Raised, value_error};
use crate::ops;
use crate::rt::rt;
use crate::work::{LatchWork, Work};

/// One-shot event that opens after `n` calls of `done` (or at once by `set`).
#[pyclass(frozen, name = "Latch", module = "gorun")]
pub struct PyLatch {
    left: AtomicI64,
    latch: Box<Latch<()>>,
}

/// The error that is set, as PyO3 wants it.
pub fn fetched(_: Raised) -> PyErr {
    PyErr::fetch(crate::errors::attached())
}

impl PyLatch {
    /// Counts one; what was left before.
    fn count(&self) -> i64 {
        if cfg!(Py_GIL_DISABLED) {
            // AcqRel: what each did before `done` is seen by those who wake.
            self.left.fetch_sub(1, Ordering::AcqRel)
        } else {
            // Everybody who comes here holds the GIL.
            let n = self.left.load(Ordering::Relaxed);
            self.left.store(n - 1, Ordering::Relaxed);
            n
        }
    }

    /// The latch inside.
    ///
    /// # Safety
    /// `o` is a PyLatch and outlives the result.
    pub unsafe fn of<'a>(o: *mut PyObject) -> &'a Latch<()> {
        // SAFETY: by the caller's promise; the class is frozen, so a shared reference is fine.
        unsafe {
            let b = Bound::from_borrowed_ptr(crate::errors::attached(), o);
            let this: *const PyLatch = b.cast_unchecked::<PyLatch>().get();
            &(*this).latch
        }
    }
}

#[pymethods]
impl PyLatch {
    #[new]
    #[pyo3(signature = (n=1))]
    fn new(n: i64) -> PyResult<Self> {
        if n < 1 {
            return Err(fetched(value_error(&format!(
                "a latch counts from 1 or more, not {n}"
            ))));
        }
        Ok(Self {
            left: AtomicI64::new(n),
            latch: Box::default(),
        })
    }

    /// Opens it now.
    fn set(&self) {
        self.left.store(0, Ordering::Relaxed);
        self.latch.close(rt());
    }

    /// Counts one; the last one opens it.
    fn done(&self) -> PyResult<()> {
        match self.count() {
            1 => {
                self.latch.close(rt());
                Ok(())
            }
            n if n > 1 => Ok(()),
            _ => Err(fetched(value_error(
                "done() was called more often than the latch counts",
            ))),
        }
    }

    /// True once open.
    fn is_set(&self) -> bool {
        self.latch.is_closed()
    }

    /// Waits until open; False if the time is up first.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = limit(timeout)?;
        let end = door::wait(Some(&self.latch), WaitReason::Event, limit).map_err(fetched)?;
        Ok(end == Waited::Ready)
    }

    /// As `wait`, awaited.
    #[pyo3(signature = (timeout=None))]
    fn wait_async<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: attached, a live object.
        let target = unsafe { Owned::new(slf.as_ptr()) };
        let op =
            ops::make(|| Work::Latch(LatchWork::new(target)), limit(timeout)?).map_err(fetched)?;
        // SAFETY: a new reference.
        Ok(unsafe { Bound::from_owned_ptr(slf.py(), op) })
    }
}

fn limit(t: Option<&Bound<'_, PyAny>>) -> PyResult<Option<std::time::Duration>> {
    timeout(t.map_or(std::ptr::null_mut(), Bound::as_ptr)).map_err(fetched)
}
