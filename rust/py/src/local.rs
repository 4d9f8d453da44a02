//! Everything thread-local, in one place: in a shared library each look-up of a thread-local is a call, so hot paths get
//! the address once.
//!
//! Invariant: cells only, no `&mut`: callbacks from Python reach the same thread's values at any time.

use std::cell::Cell;
use std::ptr::{null, null_mut};

use gorun_core::sched::M;
use pyo3::ffi::PyObject;

use crate::context::{Scratch, Snapshot};
use crate::drive::Intent;
use crate::host::Py;
use crate::ops::Asked;
use crate::rawtype::{Deaths, Spare};
use crate::select::SelectWork;

/// The values of one thread.
pub struct Local {
    /// Its M, or null.
    pub m: Cell<*const M<Py>>,
    /// The operation that yields itself next, and what it asks for.
    pub intent: Cell<(*mut PyObject, Intent)>,
    /// See `ops/nap.rs`.
    pub nap: Cell<Asked>,
    /// What the asyncio bridge yielded (owned), on its way out of an operation.
    pub foreign_yield: Cell<*mut PyObject>,
    /// A freed plain operation, to be used again: a yield allocates nothing.
    pub spare_op: Cell<*mut PyObject>,
    /// The same with a work.
    pub spare_full: Cell<*mut PyObject>,
    /// The methods of a Mutex that `async with` has bound (`ops/enter.rs`).
    pub spare_enter: Cell<*mut PyObject>,
    pub spare_exit: Cell<*mut PyObject>,
    /// A StopIteration that has ended (`ops/stop.rs`).
    #[cfg(Py_3_12)]
    pub spare_stop: Cell<*mut PyObject>,
    /// A select's memory, without cases (`select.rs`).
    pub spare_select: Cell<*mut SelectWork>,
    /// A Selected that died (`select/selected.rs`).
    #[cfg(not(any(Py_GIL_DISABLED, Py_3_14)))]
    pub spare_selected: Cell<*mut PyObject>,
    /// The last random number.
    pub random: Cell<u64>,
    /// Our objects that die just now.
    pub deaths: Deaths,
    /// The memory of a dead handle: `go` without a use for its result allocates no object.
    pub spare_handle: Spare,
    /// The same of a Timer.
    pub spare_timer: Spare,
    /// See `context.rs`.
    pub scratch: Cell<Scratch>,
    /// See `context.rs`.
    pub snapshot: Cell<Snapshot>,
    /// See `site.rs`: code, instruction, number.
    pub last_site: Cell<(usize, i32, u32)>,
    /// Number of imported modules when asyncio was last found missing.
    pub modules: Cell<isize>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            m: Cell::new(null()),
            intent: Cell::new((null_mut(), Intent::None)),
            nap: Cell::new(Asked::NONE),
            foreign_yield: Cell::new(null_mut()),
            spare_op: Cell::new(null_mut()),
            spare_full: Cell::new(null_mut()),
            spare_enter: Cell::new(null_mut()),
            spare_exit: Cell::new(null_mut()),
            spare_select: Cell::new(null_mut()),
            #[cfg(not(any(Py_GIL_DISABLED, Py_3_14)))]
            spare_selected: Cell::new(null_mut()),
            random: Cell::new(0),
            #[cfg(Py_3_12)]
            spare_stop: Cell::new(null_mut()),
            deaths: Deaths::new(),
            spare_handle: Spare::new(),
            spare_timer: Spare::new(),
            scratch: Cell::new(Scratch::NONE),
            snapshot: Cell::new(Snapshot::NONE),
            last_site: Cell::new((0, 0, 0)),
            modules: Cell::new(-1),
        }
    };
}

/// This thread's values. The result must not leave the thread (nothing here is Sync, so it cannot).
pub fn local() -> &'static Local {
    let p: *const Local = LOCAL.with(std::ptr::from_ref);
    // SAFETY: nothing in it has a destructor, so it is valid until the thread is gone, and we are on it.
    unsafe { &*p }
}
