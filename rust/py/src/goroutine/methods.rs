//! The methods of a handle, and its type.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::callbacks::{add_done_callback, drop_done_callback};
use super::cancel::ask_cancel;
use super::handle::{clear, dealloc, finalize, traverse};
use super::outcome::{join, timed_out};
use super::{Handle, TYPE, handle, is_done, is_handle, of, outcome};
use crate::args::{parse, timeout};
use crate::body::{Ended, Owned};
use crate::door::Waited;
use crate::errors::{Res, attached, guard, repr, type_error};
use crate::ops;
use crate::rawtype::{fast, getter, getters, methods, noargs};
use crate::rt::{PyG, rt};
use crate::work::{Join, Work};

unsafe extern "C" fn result(
    h: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: the interpreter's call on a handle.
        let (g, [t]) = unsafe { (of(h), parse("result", ["timeout"], 1, args, n, kw)?) };
        match join(g, timeout(t)?)? {
            Waited::Ready => outcome(g),
            Waited::Timeout => Err(timed_out(g)),
        }
    })
}

unsafe extern "C" fn exception(
    h: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as in `result`.
        let (g, [t]) = unsafe { (of(h), parse("exception", ["timeout"], 1, args, n, kw)?) };
        if join(g, timeout(t)?)? == Waited::Timeout {
            return Err(timed_out(g));
        }
        let b = g.body.get();
        // SAFETY: Done: read-only.
        unsafe {
            (*b).take();
            Ok(ffi::Py_NewRef(if (*b).ended() == Ended::Value {
                ffi::Py_None()
            } else {
                (*b).outcome()
            }))
        }
    })
}

/// Waits for the end; True if it came in time. Raises only what a signal handler or a cancel of the caller raises.
unsafe extern "C" fn wait(
    h: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as in `result`.
        let (g, [t]) = unsafe { (of(h), parse("_wait", ["timeout"], 1, args, n, kw)?) };
        let ready = join(g, timeout(t)?)? == Waited::Ready;
        // SAFETY: attached.
        Ok(unsafe { ffi::PyBool_FromLong(ready.into()) })
    })
}

unsafe extern "C" fn cancel(
    h: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as in `result`.
        let (g, [reason]) = unsafe { (of(h), parse("cancel", ["reason"], 1, args, n, kw)?) };
        // SAFETY: attached.
        Ok(unsafe { ffi::PyBool_FromLong(ask_cancel(g, reason).into()) })
    })
}

unsafe extern "C" fn done(h: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter's call on a handle.
    unsafe { ffi::PyBool_FromLong(is_done(of(h)).into()) }
}

unsafe extern "C" fn was_cancelled(h: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let g = of(h);
        ffi::PyBool_FromLong((is_done(g) && (*g.body.get()).ended() == Ended::Cancelled).into())
    }
}

/// True if it ended with an error; unlike `exception` this does not count as asking for it.
unsafe extern "C" fn failed(h: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let g = of(h);
        ffi::PyBool_FromLong((is_done(g) && (*g.body.get()).ended() == Ended::Error).into())
    }
}

/// The error of one that has ended with one, else None; counts as asking for it. Never waits, delivers no cancel.
unsafe extern "C" fn error(h: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; Done: read-only.
    unsafe {
        let g = of(h);
        let b = g.body.get();
        if !is_done(g) || (*b).ended() == Ended::Value {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        (*b).take();
        ffi::Py_NewRef((*b).outcome())
    }
}

unsafe extern "C" fn am_await(h: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached, a live object.
    guard(|| ops::make(|| Work::Join(Join::new(unsafe { Owned::new(h) })), None))
}

unsafe extern "C" fn get_id(h: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromUnsignedLongLong(of(h).id.load(Ordering::Relaxed)) }
}

/// The name: what `spawn` said, else that of the function.
pub fn name_of(g: PyG) -> Option<Owned> {
    g.latch().and_then(|l| l.with(|e, _| e.name.clone()))
}

unsafe extern "C" fn get_name(h: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    guard(|| {
        // SAFETY: as above.
        let g = unsafe { of(h) };
        match name_of(g) {
            // SAFETY: attached.
            Some(n) => Ok(unsafe { ffi::Py_NewRef(n.as_ptr()) }),
            None => {
                let s = format!("goroutine-{}", g.id.load(Ordering::Relaxed));
                Ok(pyo3::types::PyString::new(attached(), &s)
                    .into_any()
                    .into_ptr())
            }
        }
    })
}

unsafe extern "C" fn repr_slot(h: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: as above.
        let g = unsafe { of(h) };
        let id = g.id.load(Ordering::Relaxed);
        let state = if is_done(g) {
            // SAFETY: Done: read-only.
            match unsafe { (*g.body.get()).ended() } {
                Ended::Value => "done",
                Ended::Cancelled => "cancelled",
                _ => "failed",
            }
        } else {
            crate::info::state_name(g)
        };
        let name = name_of(g).map_or(String::new(), |n| format!(" {}", repr(n.as_ptr())));
        let s = format!("<Goroutine {id}{name} {state}>");
        Ok(pyo3::types::PyString::new(attached(), &s)
            .into_any()
            .into_ptr())
    })
}

unsafe extern "C" fn class_getitem(cls: *mut PyObject, item: *mut PyObject) -> *mut PyObject {
    // SAFETY: the interpreter's call.
    unsafe { ffi::Py_GenericAlias(cls, item) }
}

unsafe extern "C" fn no_new(
    _: *mut ffi::PyTypeObject,
    _: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    guard(|| Err(type_error("goroutines are made by gorun.go(fn, ...)")))
}

/// Makes the type. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    let one = |name: &'static std::ffi::CStr,
               f: ffi::PyCFunction,
               flags: c_int,
               doc: &'static std::ffi::CStr| ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: f },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    };
    let table = methods(vec![
        fast(c"result", result, c"result($self, timeout=None)\n--\n
Wait for the end, at most timeout seconds (None: for ever), and return what the body returned.

Raises what the body raised, with its first traceback each time; GoroutineCancelled if it was
cancelled; TimeoutError when the time is up; RuntimeError in the goroutine itself. A cancel point.

>>> import gorun
>>> gorun.go(divmod, 7, 2).result(timeout=10.0)
(3, 1)
"),
        fast(c"exception", exception, c"exception($self, timeout=None)\n--\n
Wait for the end, as result does, and return the error of the body, or None if it returned.

A cancelled goroutine gives a GoroutineCancelled.

>>> import gorun
>>> gorun.go([].pop).exception()
IndexError('pop from empty list')
"),
        fast(c"cancel", cancel, c"cancel($self, reason=None)\n--\n
Ask the goroutine to end: Cancelled, with this reason, is raised at its next cancel point.

False if it has ended already. A second call before the delivery changes nothing. One that has not
begun never runs. Where Go has context.Context, which gorun has too.

>>> import gorun
>>> g = gorun.go(gorun.sleep, 3600)
>>> g.cancel('enough'), type(g.exception()).__name__
(True, 'GoroutineCancelled')
"),
        fast(c"_wait", wait, c"_wait($self, timeout=None)\n--\n\nWaits for the end; True if it came in time."),
        noargs(c"done", done, c"done($self, /)\n--\n
True once it has ended; never waits.

>>> import gorun
>>> g = gorun.go(abs, -1)
>>> g.result(), g.done()
(1, True)
"),
        noargs(c"_error", error, c"_error($self, /)\n--\n\nIts error, if it has ended with one."),
        noargs(c"_failed", failed, c"_failed($self, /)\n--\n\nTrue if it ended with an error."),
        noargs(c"cancelled", was_cancelled, c"cancelled($self, /)\n--\n
True if it has ended by a cancel; never waits.

>>> import gorun
>>> g = gorun.go(abs, -1)
>>> g.result(), g.cancelled()
(1, False)
"),
        fast(c"add_done_callback", add_done_callback, c"add_done_callback($self, fn)\n--\n
Call fn(goroutine) at the end, on the thread that ends it, or at once if it has ended.

Callbacks run in the order of adding, each in a copy of the context of this call; current() is None
there, and their errors go to excepthook. One that runs at once passes KeyboardInterrupt and
SystemExit to the caller. Raises TypeError unless fn is callable.

>>> import gorun
>>> g = gorun.go(abs, -1)
>>> g.result()
1
>>> g.add_done_callback(lambda g: print('ended with', g.result()))
ended with 1
"),
        one(c"_drop_done_callback", drop_done_callback, ffi::METH_O, c"_drop_done_callback($self, fn, /)\n--\n\nTakes a callback back, if it has not been called."),
        one(c"__class_getitem__", class_getitem, ffi::METH_O | ffi::METH_CLASS, c"Goroutine[T]"),
    ]);
    let props = getters(vec![
        getter(
            c"id",
            get_id,
            c"The number of the goroutine: from 1, never reused.",
        ),
        getter(
            c"name",
            get_name,
            c"The name that spawn gave it, else goroutine-N.",
        ),
    ]);
    // SAFETY: at import; everything set here lives for ever.
    unsafe {
        let as_async = crate::rawtype::forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
        (*as_async).am_await = Some(am_await);
        TYPE.ready(
            c"gorun.Goroutine",
            c"A goroutine's handle, made by go, spawn and go_many: join it, cancel it, await it.

The goroutine lives on without its handle; an error that nobody asked for goes to excepthook when
the last handle is gone. Go has no such handle: there one writes a channel for the result.

>>> import gorun
>>> async def double(n: int) -> int:
...     return 2 * n
>>> async def main() -> int:
...     return await gorun.go(double, 21)
>>> gorun.run(main)
42
",
            size_of::<Handle>(),
            |t| {
                t.tp_dealloc = Some(dealloc);
                t.tp_traverse = Some(traverse);
                t.tp_clear = Some(clear);
                t.tp_finalize = Some(finalize);
                t.tp_repr = Some(repr_slot);
                t.tp_methods = table;
                t.tp_getset = props;
                t.tp_as_async = as_async;
                t.tp_new = Some(no_new);
                t.tp_weaklistoffset = std::mem::offset_of!(Handle, weakrefs) as ffi::Py_ssize_t;
            },
        )
    }
}

/// The goroutine that runs here, or None outside of one (and in done callbacks).
///
/// >>> import gorun
/// >>> gorun.current() is None
/// True
/// >>> gorun.go(lambda: gorun.current().name).result().startswith("goroutine-")
/// True
#[pyfunction]
pub fn current(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let Some((_, g)) = rt().current_goroutine() else {
        return Ok(py.None());
    };
    // SAFETY: attached; it runs here.
    unsafe { Bound::from_owned_ptr_or_err(py, handle(g)).map(Bound::unbind) }
}

/// Marks the error of a handle as taken: `run` reports it itself.
#[pyfunction]
pub fn _take(h: &Bound<'_, PyAny>) {
    if is_handle(h.as_ptr()) {
        // SAFETY: a handle.
        unsafe { (*of(h.as_ptr()).body.get()).take() };
    }
}
