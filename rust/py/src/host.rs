//! The scheduler's seam, for Python: how an M starts and stops, how to detach, what sysmon may look at.

use gorun_core::host::{Host, Outcome};
use gorun_core::runtime::Runtime;
use gorun_core::sched::{GRef, M};
use pyo3::ffi;

use crate::body::{Body, Ended, Ext, clear_all};
use crate::errors::{self, aside};
use crate::rt::{Rt, current_m, set_current_m};
use crate::{drive, goroutine};

/// The host.
pub struct Py;

/// Runs `f` without the interpreter.
pub fn detached<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: attached (the callers' promise); `f` touches no Python object. RestoreThread may hang for ever while the
    // interpreter finalizes; nobody holds a core lock here.
    unsafe {
        let state = ffi::PyEval_SaveThread();
        let r = f();
        ffi::PyEval_RestoreThread(state);
        r
    }
}

impl Host for Py {
    type Body = Body;
    type Ext = Ext;

    fn gil() -> bool {
        cfg!(not(Py_GIL_DISABLED))
    }

    fn resume(rt: Rt, m: &M<Self>, g: GRef<Self>, cancelled: bool) -> Outcome {
        drive::resume(rt, m, g, cancelled)
    }

    fn reset(rt: Rt, g: GRef<Self>) -> bool {
        let b = g.body.get();
        // SAFETY: the last reference is ours; `end` is only read.
        let unasked = unsafe {
            (*b).ended() == Ended::Error
                && (*b).taken.load(std::sync::atomic::Ordering::Relaxed) == 0
        };
        if unasked {
            // A handle for the hook; if it keeps it, the goroutine lives on.
            g.set_refs(1);
            // SAFETY: attached; nobody else touches the body.
            unsafe { (*b).take() };
            aside(|| goroutine::report_unasked(rt, g));
            if !g.release() {
                return false;
            }
        }
        // SAFETY: the last reference, attached.
        unsafe { clear_all(g) };
        if let Some(l) = g.take_latch() {
            drop(l);
        }
        true
    }

    fn start_thread(_rt: Rt, id: u32) -> Result<(), String> {
        let py = errors::attached();
        let mut why = None;
        aside(|| {
            // SAFETY: a callable that lives as long as the module.
            let f = unsafe { pyo3::Bound::from_borrowed_ptr(py, errors::start_thread(py)) };
            use pyo3::prelude::*;
            if let Err(e) = f.call1((id,)) {
                why = Some(e.to_string());
            }
        });
        why.map_or(Ok(()), Err)
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        detached(f)
    }

    fn current() -> *const M<Self> {
        current_m()
    }

    fn set_current(m: *const M<Self>) {
        set_current_m(m);
    }

    fn m_started(rt: Rt, id: u32) {
        crate::probe::watch_this_thread(rt, id);
        let py = errors::attached();
        aside(|| {
            // SAFETY: as above.
            let f = unsafe { pyo3::Bound::from_borrowed_ptr(py, errors::m_started(py)) };
            use pyo3::prelude::*;
            if let Err(e) = f.call0() {
                e.restore(py);
            }
        });
    }

    fn m_stopping(rt: Rt, id: u32) {
        crate::probe::unwatch(rt, id);
        // SAFETY: attached, on the M's own thread.
        unsafe {
            crate::context::drop_scratch(crate::local::local());
            crate::ops::drop_spare();
            crate::context::drop_snapshot();
        }
    }
}

/// Tells sysmon about this interpreter.
pub fn set_up_probe(rt: &'static Runtime<Py>) {
    crate::probe::set_up(rt);
}
