//! The scheduler's seam, for Python: how an M starts and stops, how to detach, what sysmon may look at.

use std::sync::atomic::{AtomicBool, Ordering};

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

static START_FAILED: AtomicBool = AtomicBool::new(false);

/// Calls one of the package's hooks; its error is printed. Attached, outside the scheduler.
fn call(f: *mut ffi::PyObject, arg: Option<&str>) {
    use pyo3::prelude::*;
    aside(|| {
        let py = errors::attached();
        // SAFETY: a callable that lives as long as the module.
        let f = unsafe { Bound::from_borrowed_ptr(py, f) };
        let done = match arg {
            Some(a) => f.call1((a,)),
            None => f.call0(),
        };
        if let Err(e) = done {
            e.restore(py);
        }
    });
}

/// What somebody attached has to do now and then, done after a wait: idle Ms and threads that wait come by, goroutines
/// do not (theirs is in the middle of an operation).
fn errands() {
    let rt = crate::rt::rt();
    if rt.current_goroutine().is_some() || crate::rt::finalizing() {
        return;
    }
    if rt.take_m_wanted() {
        // If there is none by now, the one who calls `go` next is told.
        at_work(rt, || {
            let _ = rt.ensure_started();
        });
    }
    if rt.take_limit_met() {
        let warn = errors::warn_limit(errors::attached());
        at_work(rt, || call(warn, Some(&rt.max_threads().to_string())));
    }
    if !current_m().is_null() && errors::traced() {
        let sync = errors::sync_trace(errors::attached());
        at_work(rt, || call(sync, None));
    }
}

/// Before a sleep: after a `shutdown` timers stand still, which this wait may be for. Not at the exit, nor in a forked
/// child, whose wheels are empty. Where no thread can be started the wait goes on without.
#[inline]
fn revive() {
    let rt = crate::rt::rt();
    if rt.stands_still() && !crate::rt::finalizing() {
        at_work(rt, || {
            let _ = rt.ensure_started();
        });
    }
}

/// Runs what may be any code on a thread that counts as asleep, being in a wait.
fn at_work(rt: Rt, f: impl FnOnce()) {
    rt.begin_work();
    f();
    rt.end_work();
}

impl Host for Py {
    type Body = Body;
    type Ext = Ext;

    const GIL: bool = cfg!(not(Py_GIL_DISABLED));

    fn resume(rt: Rt, m: &M<Self>, g: GRef<Self>, cancelled: bool) -> Outcome {
        drive::resume(rt, m, g, cancelled)
    }

    fn reset(_rt: Rt, g: GRef<Self>) -> bool {
        let b = g.body.get();
        // SAFETY: the last reference is ours.
        if unsafe { (*b).ended() == Ended::Error && (*b).take() } {
            // It ended without a handle. One is made for the hook; if the hook keeps it, the goroutine lives on.
            g.set_refs(1);
            aside(|| goroutine::report_orphan(g));
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

    fn start_thread(rt: Rt, id: u32) -> Result<(), String> {
        let py = errors::attached();
        let mut why = None;
        crate::probe::test_once(rt);
        aside(|| {
            // SAFETY: a callable that lives as long as the module.
            let f = unsafe { pyo3::Bound::from_borrowed_ptr(py, errors::start_thread(py)) };
            use pyo3::prelude::*;
            if let Err(e) = f.call1((id,)) {
                why = Some(e.to_string());
                // Not dropped: PyO3 would keep it (and the frames in it) for later, as it did not attach this thread.
                e.restore(py);
                // SAFETY: attached.
                unsafe { ffi::PyErr_Clear() };
            }
        });
        let Some(why) = why else { return Ok(()) };
        // Without any other M `go` raises; else the others do the work, and the user is told once in this process.
        if rt.m_counts().0 > 1 && !START_FAILED.swap(true, Ordering::Relaxed) {
            call(errors::warn_start(py), Some(&why));
        }
        Err(why)
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        revive();
        let r = detached(f);
        errands();
        r
    }

    fn current() -> *const M<Self> {
        current_m()
    }

    fn set_current(m: *const M<Self>) {
        set_current_m(m);
    }

    fn tied() -> bool {
        crate::ops::loop_runs_here()
    }

    fn m_started(rt: Rt, id: u32) {
        crate::probe::watch_this_thread(rt, id);
        call(errors::m_started(errors::attached()), None);
    }

    fn m_stopping(rt: Rt, id: u32) {
        crate::probe::unwatch(rt, id);
        // SAFETY: attached, on the M's own thread.
        unsafe {
            crate::context::drop_scratch(crate::local::local());
            crate::ops::drop_spare();
            crate::local::local().spare_handle.free();
            crate::local::local().spare_timer.free();
            crate::context::drop_snapshot();
        }
    }
}

/// Tells sysmon about this interpreter.
pub fn set_up_probe(rt: &'static Runtime<Py>) {
    crate::probe::set_up(rt);
}
