//! Done callbacks, and reports of errors that nobody asked for.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::handle::is_unasked;
use super::{handle, is_done, of};
use crate::args::parse;
use crate::body::{Callback, Owned};
use crate::errors::{self, Raised, Res, aside, attached, guard, repr, type_error};
use crate::rt::{PyG, Rt, rt};

pub(super) unsafe extern "C" fn add_done_callback(
    h: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: the interpreter's call on a handle.
        let (g, [f]) = unsafe { (of(h), parse("add_done_callback", ["fn"], 1, args, n, kw)?) };
        if f.is_null() {
            return Err(type_error("add_done_callback() needs a callable"));
        }
        // SAFETY: attached, a valid object.
        if unsafe { ffi::PyCallable_Check(f) } == 0 {
            return Err(type_error(&format!(
                "a done callback must be callable, not {}",
                repr(f)
            )));
        }
        // SAFETY: attached, valid objects; the copy is owned.
        let mut late = unsafe {
            let ctx = crate::context::copy_current()?;
            let made = Callback {
                f: Owned::new(f),
                ctx: Owned::new(ctx),
            };
            ffi::Py_DECREF(ctx);
            Some(made)
        };
        g.latch_or_make();
        gorun_core::wait::join_fence();
        if !is_done(g) {
            g.latch_or_make().with(|e, closed| {
                if !closed {
                    e.callbacks.extend(late.take());
                }
            });
        }
        run_callbacks(rt(), g, late.into_iter().collect(), true)?;
        // SAFETY: a static.
        Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) })
    })
}

/// Takes callbacks out again, by identity; those that have run are gone anyway.
pub(super) unsafe extern "C" fn drop_done_callback(
    h: *mut PyObject,
    f: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: the interpreter's call on a handle, one argument.
        let g = unsafe { of(h) };
        let mut out = Vec::new();
        if let Some(l) = g.latch() {
            l.with(|e, _| {
                let mut i = 0;
                while i < e.callbacks.len() {
                    if e.callbacks[i].f.as_ptr() == f {
                        out.push(e.callbacks.remove(i));
                    } else {
                        i += 1;
                    }
                }
            });
        }
        drop(out); // not under the lock
        // SAFETY: a static.
        Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) })
    })
}

/// Runs done callbacks in order; their errors go to the excepthook. No goroutine is current meanwhile.
///
/// `at_once`: on the thread of who adds one after the end. A KeyboardInterrupt is meant for that thread, and a
/// SystemExit too: they pass to the caller. On an M nobody is there to end by it.
pub fn run_callbacks(rt: Rt, g: PyG, callbacks: Vec<Callback>, at_once: bool) -> Res<()> {
    if callbacks.is_empty() {
        return Ok(());
    }
    let mut passes = None;
    let m = rt.current_m();
    let before = m.and_then(|m| m.set_goroutine(None));
    // SAFETY: attached; the caller keeps `g`.
    let h = unsafe { handle(g) };
    for c in callbacks {
        // SAFETY: attached, valid objects; the context is this callback's own, so it can be entered.
        unsafe {
            ffi::PyContext_Enter(c.ctx.as_ptr());
            let r = ffi::PyObject_CallOneArg(c.f.as_ptr(), h);
            aside(|| {
                ffi::PyContext_Exit(c.ctx.as_ptr());
            });
            if r.is_null() {
                let exc = errors::fetch();
                let is = |class| ffi::PyErr_GivenExceptionMatches(exc, class) != 0;
                let exit = is(ffi::PyExc_SystemExit);
                if at_once && (exit || is(ffi::PyExc_KeyboardInterrupt)) {
                    passes = Some(exc);
                    continue;
                }
                if !exit {
                    report(exc, h);
                }
                ffi::Py_DECREF(exc);
            } else {
                ffi::Py_DECREF(r);
            }
        }
    }
    // SAFETY: owned or null.
    unsafe { ffi::Py_XDECREF(h) };
    if let Some(m) = m {
        m.set_goroutine(before);
    }
    match passes {
        None => Ok(()),
        Some(exc) => {
            errors::put_back(exc);
            Err(Raised)
        }
    }
}

fn report(exc: *mut PyObject, h: *mut PyObject) {
    let py = attached();
    // SAFETY: attached, valid objects.
    unsafe {
        let f = Bound::from_borrowed_ptr(py, errors::report(py));
        let goroutine = if h.is_null() {
            py.None().into_bound(py)
        } else {
            Bound::from_borrowed_ptr(py, h)
        };
        let where_ = if h.is_null() {
            None
        } else {
            crate::site::describe((*of(h).body.get()).site)
        };
        if let Err(e) = f.call1((Bound::from_borrowed_ptr(py, exc), goroutine, where_)) {
            e.write_unraisable(py, None);
        }
    }
}

/// Reports the error of a goroutine that nobody asked for, with handle `h`. The caller holds a reference to `g`.
pub(super) fn report_unasked(g: PyG, h: *mut PyObject) {
    // SAFETY: attached; Done: read-only.
    unsafe {
        let (exc, trace) = ((*g.body.get()).outcome(), (*g.body.get()).trace());
        if exc.is_null() || ffi::PyErr_GivenExceptionMatches(exc, ffi::PyExc_SystemExit) != 0 {
            return;
        }
        ffi::PyException_SetTraceback(
            exc,
            if trace.is_null() {
                ffi::Py_None()
            } else {
                trace
            },
        );
        report(exc, h);
    }
}

/// Reports the errors that nobody asked for and whose handles still live. At the exit: when these die with their modules
/// there is no hook to be found any more, or it is itself what keeps them.
#[pyfunction]
pub fn _report_unasked() {
    let rt = rt();
    for g in rt.ended() {
        // A reference of ours while we look: it is not used again meanwhile.
        if !g.try_retain() {
            continue;
        }
        // SAFETY: Done: read-only.
        if is_unasked(g) && unsafe { (*g.body.get()).take() } {
            report_orphan(g);
        }
        rt.release(g);
    }
}

/// The same for one that has no handle: it gets one for the hook. The caller holds a reference to `g`.
pub fn report_orphan(g: PyG) {
    // SAFETY: attached.
    let h = unsafe { handle(g) };
    report_unasked(g, h);
    // SAFETY: owned or null.
    unsafe { ffi::Py_XDECREF(h) };
}
