//! The goroutine's Python object (the handle), and what is asked of it.
//!
//! Invariants:
//! - At most one handle exists per goroutine at a time; `Body::handle` points at it without owning it. So identity is
//!   equality, and the collector counts the outcome's references once.
//! - A handle owns one reference to its G. A live goroutine needs no handle: the runtime holds it.
//! - The collector looks through a handle only once the goroutine is Done; before, what it holds is alive anyway.
//!
//! Files: `handle` (the object), `methods` (what users call), `outcome` (ends and joins), `cancel`, `callbacks`.

mod callbacks;
mod cancel;
mod handle;
mod methods;
mod outcome;

use gorun_core::sched::G;
use pyo3::ffi::{self, PyObject};

use crate::rawtype::StaticType;
use crate::rt::PyG;

pub use callbacks::{_report_unasked, report_orphan, run_callbacks};
pub use cancel::{deliver, raise, raise_cancelled};
pub use handle::{adopt, alloc, handle};
pub use methods::{_take, current, init};
pub use outcome::{
    cancelled_outcome, classify, end_child, is_done, outcome, refuse_foreign, refuse_self,
};

/// `gorun.Goroutine`.
pub static TYPE: StaticType = StaticType::new();

#[repr(C)]
struct Handle {
    ob_base: PyObject,
    g: *mut G<crate::host::Py>,
    weakrefs: *mut PyObject,
}

/// The goroutine of a handle.
///
/// # Safety
/// `h` is a handle.
pub unsafe fn of(h: *mut PyObject) -> PyG {
    // SAFETY: by the caller's promise; a handle has a G as long as it lives.
    unsafe { PyG::from_ptr((*h.cast::<Handle>()).g) }
}

/// True for a handle.
pub fn is_handle(o: *mut PyObject) -> bool {
    // SAFETY: attached; a valid object.
    unsafe { ffi::Py_TYPE(o) == TYPE.get() }
}
