//! Driving a goroutine: its first call, each resume of its coroutine, its end. The only code that runs bodies.
//!
//! How a step ends is decided by what the coroutine yields: our own operation, which left an `Intent` behind (park or
//! yield); a bare None (one `gosched`); anything else is a foreign awaitable and gets a TypeError at that await.
//!
//! Invariants:
//! - Exclusive resume: only the M that took the goroutine from a queue comes here with it.
//! - After `Intent::Park` was committed another M may run the goroutine: nothing of it is touched.
//! - Frames here that call into Python have no destructor pending but `HangOnUnwind`: up to 3.12 a thread that wants
//!   the interpreter while it finalizes is unwound by force, and must stop here instead.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use gorun_core::host::Outcome;
use gorun_core::sched::{M, Park, flag};
use pyo3::ffi::{self, PyObject};

use crate::body::{Ended, Form, Owned, clear, clear_call};
use crate::context;
use crate::errors::{self, attached, fetch};
use crate::host::Py;
use crate::local::local;
use crate::rt::{PyG, Rt};
use crate::tick::Step;
use crate::unwind::{HangOnUnwind, may_unwind};
use crate::{go, goroutine, ops};

unsafe extern "C-unwind" {
    fn PyIter_Send(iter: *mut PyObject, arg: *mut PyObject, result: *mut *mut PyObject) -> c_int;
    fn PyObject_Vectorcall(
        f: *mut PyObject,
        args: *const *mut PyObject,
        nargsf: usize,
        kwnames: *mut PyObject,
    ) -> *mut PyObject;
    fn PyObject_Call(f: *mut PyObject, args: *mut PyObject, kwargs: *mut PyObject)
    -> *mut PyObject;
}

type Send = unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut *mut PyObject) -> c_int;
type Vectorcall = unsafe extern "C-unwind" fn(
    *mut PyObject,
    *const *mut PyObject,
    usize,
    *mut PyObject,
) -> *mut PyObject;
type Call =
    unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

const PYGEN_RETURN: c_int = 0;
const PYGEN_NEXT: c_int = 1;

/// What an operation of ours asked for before it yielded itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    None,
    Yield,
    Park,
}

/// Left by operation `op`, which yields itself next.
pub fn intend(op: *mut PyObject, intent: Intent) {
    local().intent.set((op, intent));
}

/// One step.
pub fn resume(rt: Rt, m: &M<Py>, g: PyG, cancelled: bool) -> Outcome {
    let b = g.body.get();
    let l = local();
    // SAFETY: this M runs the goroutine: the body is ours, until a park is committed.
    unsafe {
        if (*b).form == Form::Wake {
            return wake(rt, m, g);
        }
        if (*b).form == Form::Tick {
            return tick(rt, m, g);
        }
        if g.flags.load(Ordering::Relaxed) & flag::TIMER != 0 {
            rt.count_begun(g);
        }
        if context::enter(l, b).is_err() {
            // Somebody entered this goroutine's own context elsewhere (it can be had by introspection only).
            return end(rt, m, g, Ended::Error, fetch(), false);
        }
        let mut throw: *mut PyObject = null_mut();
        if (*b).form != Form::Coroutine || cancelled {
            match first(g, cancelled) {
                First::Coroutine => {}
                First::Ended(how, value) => return end(rt, m, g, how, value, true),
            }
        }
        loop {
            let mut value: *mut PyObject = null_mut();
            let guard = HangOnUnwind;
            let coroutine = (*b).what;
            let sent = if throw.is_null() {
                let send: Send = may_unwind(PyIter_Send);
                send(coroutine, ffi::Py_None(), &raw mut value)
            } else {
                throw_in(coroutine, &raw mut throw, &raw mut value)
            };
            std::mem::forget(guard);
            if sent == PYGEN_RETURN {
                return end(rt, m, g, Ended::Value, value, true);
            }
            if sent != PYGEN_NEXT {
                return end(rt, m, g, Ended::Error, null_mut(), true);
            }
            let (op, intent) = l.intent.replace((null_mut(), Intent::None));
            let intent = if value == op {
                intent
            } else if value == ffi::Py_None() {
                Intent::Yield
            } else {
                ops::meant(value, g)
            };
            if intent == Intent::None {
                throw = foreign(value);
            }
            // What a coroutine yields may be nobody else's: it may go here.
            ffi::Py_DECREF(value);
            if intent == Intent::None {
                continue;
            }
            if (*b).blocking > 0 {
                // Its P was given away, and is taken back by this M: it cannot leave it here.
                errors::runtime_error("await inside `with gorun.blocking()`");
                throw = fetch();
                continue;
            }
            if intent == Intent::Park {
                context::leave(l, b);
                g.set_since(rt.coarse_now());
                match g.waker.word.park() {
                    Park::Parked => return Outcome::Parked,
                    Park::Fired(_) => {
                        // Ready before it slept: go on, in its own context again.
                        if context::enter(l, b).is_err() {
                            return end(rt, m, g, Ended::Error, fetch(), false);
                        }
                        continue;
                    }
                }
            }
            context::leave(l, b);
            return Outcome::Yield;
        }
    }
}

enum First {
    Coroutine,
    Ended(Ended, *mut PyObject),
}

/// The first step: the call. With a cancel pending the body never runs.
unsafe fn first(g: PyG, cancelled: bool) -> First {
    let b = g.body.get();
    // SAFETY: as in `resume`.
    unsafe {
        let fresh = (*b).form != Form::Coroutine || is_unstarted((*b).what);
        if cancelled && fresh && g.waker.word.take_cancel() {
            let operation = (*b).args[0];
            if (*b).form == Form::Coroutine {
                close((*b).what);
            } else if (*b).what == errors::awaited(attached()) && !operation.is_null() {
                close(operation);
            }
            return First::Ended(Ended::Cancelled, null_mut());
        }
        if (*b).form == Form::Coroutine {
            return First::Coroutine;
        }
        let guard = HangOnUnwind;
        let r = if (*b).form == Form::Call {
            // A copy of the pointers: the body's own stay owned by it during the call.
            let args = [null_mut(), (*b).args[0], (*b).args[1], (*b).args[2]];
            let call: Vectorcall = may_unwind(PyObject_Vectorcall);
            call(
                (*b).what,
                args.as_ptr().add(1),
                (*b).nargs as usize | VECTORCALL_OFFSET,
                null_mut(),
            )
        } else {
            let call: Call = may_unwind(PyObject_Call);
            call((*b).what, (*b).args[0], (*b).args[1])
        };
        std::mem::forget(guard);
        if r.is_null() {
            return First::Ended(Ended::Error, null_mut());
        }
        let r = match operation_as_coroutine(r) {
            Ok(r) => r,
            Err(errors::Raised) => return First::Ended(Ended::Error, null_mut()),
        };
        if ffi::PyCoro_CheckExact(r) == 0 {
            return First::Ended(Ended::Value, r);
        }
        let mut claimed = 0;
        if ffi::Py_REFCNT(r) > 1 {
            // Others know it: nobody else may drive it.
            if !is_unstarted(r) || !go::claim(r) {
                errors::runtime_error(&format!(
                    "{} runs elsewhere or has ended: it cannot become a goroutine",
                    errors::repr(r)
                ));
                ffi::Py_DECREF(r);
                return First::Ended(Ended::Error, null_mut());
            }
            claimed = go::CLAIMED;
        }
        clear_call(g);
        (*b).what = r;
        (*b).form = Form::Coroutine;
        (*b).nargs = claimed;
        First::Coroutine
    }
}

/// An operation that the call returned, as the coroutine that awaits it; anything else as it is. Takes and gives a reference.
unsafe fn operation_as_coroutine(r: *mut PyObject) -> errors::Res<*mut PyObject> {
    if !ops::is_operation(r) {
        return Ok(r);
    }
    // SAFETY: attached; making a coroutine runs no code.
    unsafe {
        let c = ffi::PyObject_CallOneArg(errors::awaited(attached()), r);
        ffi::Py_DECREF(r);
        if c.is_null() {
            Err(errors::Raised)
        } else {
            Ok(c)
        }
    }
}

/// The callee may use the slot before the first argument (PY_VECTORCALL_ARGUMENTS_OFFSET).
const VECTORCALL_OFFSET: usize = 1 << (usize::BITS - 1);

/// True for a coroutine that has not begun.
///
/// # Safety
/// Attached; `coroutine` is one, and nobody runs it now.
pub unsafe fn is_unstarted(coroutine: *mut PyObject) -> bool {
    use pyo3::prelude::*;
    let py = attached();
    // SAFETY: a coroutine by the form; nobody runs it now.
    let c = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
    // CORO_CREATED: it has a frame, which never ran.
    let state = py
        .import("inspect")
        .and_then(|i| i.call_method1("getcoroutinestate", (c,)));
    state
        .and_then(|s| s.extract::<String>())
        .is_ok_and(|s| s == "CORO_CREATED")
}

unsafe fn close(coroutine: *mut PyObject) {
    // SAFETY: attached; an unstarted coroutine's close runs no code of its body.
    unsafe {
        let r = ffi::PyObject_CallMethodNoArgs(coroutine, errors::name::CLOSE.get());
        if r.is_null() {
            ffi::PyErr_WriteUnraisable(coroutine);
        } else {
            ffi::Py_DECREF(r);
        }
    }
}

/// The TypeError for what a foreign awaitable yielded.
unsafe fn foreign(value: *mut PyObject) -> *mut PyObject {
    let py = attached();
    // SAFETY: attached; the function is the module's.
    unsafe {
        let f = errors::foreign(py);
        let e = ffi::PyObject_CallOneArg(f, value);
        if e.is_null() { fetch() } else { e }
    }
}

/// `coroutine.throw(exc)` in the form of a send. Takes the reference in `exc`.
unsafe fn throw_in(
    coroutine: *mut PyObject,
    exc: *mut *mut PyObject,
    value: *mut *mut PyObject,
) -> c_int {
    // SAFETY: attached; references as the API says.
    unsafe {
        let e = std::mem::replace(&mut *exc, null_mut());
        let r = ffi::PyObject_CallMethodOneArg(coroutine, errors::name::THROW.get(), e);
        ffi::Py_DECREF(e);
        if !r.is_null() {
            *value = r;
            return PYGEN_NEXT;
        }
        if ffi::PyErr_ExceptionMatches(ffi::PyExc_StopIteration) != 0 {
            let stop = fetch();
            *value = ffi::PyObject_GetAttrString(stop, c"value".as_ptr());
            ffi::Py_DECREF(stop);
            return PYGEN_RETURN;
        }
        -1
    }
}

/// The end: outcome, joiners, callbacks. `value` is owned; null with Ended::Error means the error that is set.
unsafe fn end(
    rt: Rt,
    m: &M<Py>,
    g: PyG,
    how: Ended,
    value: *mut PyObject,
    entered: bool,
) -> Outcome {
    let b = g.body.get();
    // SAFETY: as in `resume`.
    unsafe {
        let (how, value) = match how {
            Ended::Error => {
                let exc = if value.is_null() { fetch() } else { value };
                goroutine::classify(g, exc)
            }
            Ended::Cancelled => (how, goroutine::cancelled_outcome(g, null_mut())),
            other => (other, value),
        };
        if entered {
            context::leave(local(), b);
        }
        if g.has_timer() {
            // Of a coroutine that it drove by hand and left.
            rt.drop_timer(&g);
        }
        if rt.forked() {
            // This is a child, forked by the body: nobody joins here, and there is no loop to go back to.
            goroutine::end_child(how, value);
        }
        // What it held goes before joiners see the end: they may count references.
        clear_call(g);
        clear(&raw mut (*b).ctx);
        let trace = if how == Ended::Error {
            ffi::PyException_GetTraceback(value)
        } else {
            null_mut()
        };
        (*b).set_outcome(value, trace);
        (*b).end.store(how as u8, Ordering::Release);
        m.set_goroutine(None);
        rt.finish(m, g);
        if let Some(latch) = g.latch() {
            let callbacks = latch.with(|e, _| std::mem::take(&mut e.callbacks));
            // Nothing passes: nobody calls us.
            let _ = goroutine::run_callbacks(rt, g, callbacks, false);
        }
        Outcome::Done
    }
}

/// A timer is due: its step, which runs no Python code but that of a value's `__del__`.
unsafe fn tick(rt: Rt, m: &M<Py>, g: PyG) -> Outcome {
    let b = g.body.get();
    // SAFETY: as in `resume`; the step is this body's own.
    unsafe {
        let step = std::mem::replace(&mut (*b).what, null_mut()).cast::<Step>();
        if !step.is_null() {
            Box::from_raw(step).run();
        }
    }
    m.set_goroutine(None);
    rt.finish(m, g);
    Outcome::Done
}

/// A foreign waiter was won: call what wakes it.
unsafe fn wake(rt: Rt, m: &M<Py>, g: PyG) -> Outcome {
    let b = g.body.get();
    // SAFETY: as in `resume`; the operation that armed it may hold a reference to `g`, not to the body.
    unsafe {
        let f = Owned::new((*b).what);
        clear_call(g);
        let r = ffi::PyObject_CallNoArgs(f.as_ptr());
        if r.is_null() {
            // The loop is closed: nobody waits any more. The operation's dealloc cleans up.
            ffi::PyErr_Clear();
        } else {
            ffi::Py_DECREF(r);
        }
        m.set_goroutine(None);
        rt.finish(m, g);
        Outcome::Done
    }
}
