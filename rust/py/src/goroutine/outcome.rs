//! How a goroutine ended, and waiting for it.

use std::sync::atomic::Ordering;

use gorun_core::sched::{Phase, WaitReason};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::body::{Ended, Owned};
use crate::door::{self, Waited};
use crate::errors::{self, Raised, Res, attached, repr, restore, runtime_error, timeout_error};
use crate::rt::{PyG, rt};

/// What an error of the body means for the goroutine. Takes and gives owned references.
pub fn classify(g: PyG, exc: *mut PyObject) -> (Ended, *mut PyObject) {
    let py = attached();
    // SAFETY: attached; `exc` is an owned exception.
    unsafe {
        if ffi::PyErr_GivenExceptionMatches(exc, errors::cancelled(py)) == 0 {
            return (Ended::Error, exc);
        }
        let e = Bound::from_borrowed_ptr(py, exc);
        let to = e
            .getattr("_goroutine")
            .and_then(|o| o.extract::<u64>())
            .unwrap_or(0);
        if to == g.id.load(Ordering::Relaxed) {
            return (Ended::Cancelled, cancelled_outcome(g, exc));
        }
        let text = format!(
            "the goroutine ended with a Cancelled that was not delivered to it: {}",
            repr(exc)
        );
        errors::runtime_error(&text);
        let error = errors::fetch();
        ffi::PyException_SetCause(error, exc);
        (Ended::Error, error)
    }
}

/// The GoroutineCancelled for joiners. Takes `cause` (or null).
pub fn cancelled_outcome(g: PyG, cause: *mut PyObject) -> *mut PyObject {
    let py = attached();
    // Without a cause it never began: what was asked for was not delivered.
    let (name, asked) = match g.latch() {
        Some(l) => l.with(|e, _| (e.name.clone(), e.cancels.first_reason().cloned())),
        None => (None, None),
    };
    let reason = if cause.is_null() {
        asked
    } else {
        // SAFETY: attached; a valid exception, and an object that is held meanwhile.
        unsafe {
            let why = Bound::from_borrowed_ptr(py, cause).getattr("reason").ok();
            why.map(|why| Owned::new(why.as_ptr()))
        }
    };
    let id = g.id.load(Ordering::Relaxed);
    let name = name.map_or_else(
        || format!("goroutine {id}"),
        |n| format!("goroutine {id} ({})", errors::repr(n.as_ptr())),
    );
    // SAFETY: attached, valid objects.
    unsafe {
        let why = reason.as_ref().map_or(ffi::Py_None(), Owned::as_ptr);
        let cls = Bound::from_borrowed_ptr(py, errors::goroutine_cancelled(py));
        let made = cls.call1((
            format!("{name} was cancelled"),
            Bound::from_borrowed_ptr(py, why),
        ));
        let exc = match made {
            Ok(e) => e.into_ptr(),
            Err(e) => {
                e.restore(py);
                errors::fetch()
            }
        };
        if !cause.is_null() {
            ffi::PyException_SetCause(exc, cause);
        }
        exc
    }
}

/// The result of a Done goroutine: its value (owned), or its error raised with its first traceback.
pub fn outcome(g: PyG) -> Res<*mut PyObject> {
    let b = g.body.get();
    // SAFETY: Done: read-only.
    unsafe {
        (*b).take();
        match (*b).ended() {
            Ended::Value => Ok(ffi::Py_NewRef((*b).outcome())),
            _ => Err(restore((*b).outcome(), (*b).trace())),
        }
    }
}

/// The body that forked has ended in the child: so does the child, with its output flushed. Takes `value`.
pub fn end_child(how: Ended, value: *mut PyObject) -> ! {
    let py = attached();
    // SAFETY: attached, valid objects.
    unsafe {
        let f = Bound::from_borrowed_ptr(py, errors::end_child(py));
        let error = if how == Ended::Value {
            ffi::Py_None()
        } else {
            value
        };
        let _ = f.call1((Bound::from_borrowed_ptr(py, error),));
        libc::_exit(1)
    }
}

/// True once Done, with what it left visible.
pub fn is_done(g: PyG) -> bool {
    g.waker.word.phase() == Phase::Done
}

/// Waits for the end as the calling thread or goroutine.
pub(super) fn join(g: PyG, timeout: Option<std::time::Duration>) -> Res<Waited> {
    refuse_self(g)?;
    let latch = if is_done(g) {
        None
    } else {
        Some(g.latch_or_make())
    };
    gorun_core::wait::join_fence();
    if is_done(g) {
        return door::cancel_point().map(|()| Waited::Ready);
    }
    refuse_foreign(g)?;
    door::wait(latch, WaitReason::Join, timeout)
}

/// Joining oneself never ends.
pub fn refuse_self(g: PyG) -> Res<()> {
    match rt().current_goroutine() {
        Some((_, me)) if me == g => Err(runtime_error("a goroutine cannot join itself")),
        _ => Ok(()),
    }
}

/// What the parent of a fork ran never ends here.
pub fn refuse_foreign(g: PyG) -> Res<()> {
    if g.epoch.load(Ordering::Relaxed) == rt().epoch() {
        return Ok(());
    }
    Err(runtime_error(
        "this goroutine belongs to the process that forked: it will not end here",
    ))
}

pub(super) fn timed_out(g: PyG) -> Raised {
    timeout_error(&format!(
        "goroutine {} has not ended in time",
        g.id.load(Ordering::Relaxed)
    ))
}
