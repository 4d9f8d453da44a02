//! The Python types of operations: what the interpreter calls.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;

use pyo3::ffi::{self, PyObject};

use super::{Full, Head, Op, PLAIN, State, Step, WORKING, nap, reused};
use crate::errors::{self, Raised, Res, aside, guard};
use crate::local::local;
use crate::rawtype::{StaticType, fast, forever, methods, noargs, one};
use crate::work::{Job, Work, boolean, none};

/// What `async with` awaits at its end: over before it began. One object for all.
static READY: StaticType = StaticType::new();
static THE_READY: std::sync::atomic::AtomicPtr<PyObject> =
    std::sync::atomic::AtomicPtr::new(null_mut());

fn yielded(this: *mut PyObject) -> *mut PyObject {
    let foreign = local().foreign_yield.replace(null_mut());
    if foreign.is_null() {
        // SAFETY: attached; a live object.
        unsafe { ffi::Py_NewRef(this) }
    } else {
        foreign
    }
}

/// StopIteration(value), also for tuples and exceptions.
fn stop(value: *mut PyObject) {
    // SAFETY: attached; `value` is owned and given up.
    unsafe {
        #[cfg(Py_3_12)]
        if value != ffi::Py_None() {
            super::stop::stop(value);
            return;
        }
        #[cfg(not(Py_3_12))]
        if value != ffi::Py_None() {
            let exc = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value);
            if !exc.is_null() {
                ffi::PyErr_SetObject(ffi::PyExc_StopIteration, exc);
                ffi::Py_DECREF(exc);
            }
        }
        ffi::Py_DECREF(value);
    }
}

pub(super) unsafe extern "C" fn iternext(this: *mut PyObject) -> *mut PyObject {
    let mut done = None;
    let r = guard(|| match stepped(this)? {
        Step::Yield => Ok(yielded(this)),
        Step::Return(v) => {
            done = Some(v);
            Ok(null_mut())
        }
    });
    if let Some(v) = done {
        stop(v);
    }
    r
}

/// One send.
#[inline]
fn stepped(this: *mut PyObject) -> Res<Step> {
    let op = Op(this.cast());
    match op.quick() {
        Some(r) => r,
        None => op.step(),
    }
    .map_err(told_apart)
}

/// The error that an await ends with. Who drives it reads a StopIteration as its end: it becomes the cause of a
/// RuntimeError, as in generators and asyncio's futures.
#[cold]
fn told_apart(raised: Raised) -> Raised {
    // SAFETY: attached, an error is set; the cause is owned, and given away.
    unsafe {
        if ffi::PyErr_ExceptionMatches(ffi::PyExc_StopIteration) == 0 {
            return raised;
        }
        let stop = errors::fetch();
        errors::runtime_error("goroutine raised StopIteration");
        let error = errors::fetch();
        ffi::PyException_SetContext(error, ffi::Py_NewRef(stop));
        ffi::PyException_SetCause(error, stop);
        errors::put_back(error);
    }
    raised
}

pub(super) unsafe extern "C" fn am_send(
    this: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> ffi::PySendResult {
    let mut code = ffi::PySendResult::PYGEN_ERROR;
    let r = guard(|| match stepped(this)? {
        Step::Yield => {
            code = ffi::PySendResult::PYGEN_NEXT;
            Ok(yielded(this))
        }
        Step::Return(v) => {
            code = ffi::PySendResult::PYGEN_RETURN;
            Ok(v)
        }
    });
    // SAFETY: the interpreter's out parameter.
    unsafe { *result = r };
    code
}

unsafe extern "C" fn am_await(this: *mut PyObject) -> *mut PyObject {
    let op = Op(this.cast());
    if op.head().state == State::New
        && let Some(shared) = nap::take_over(op)
    {
        return shared;
    }
    itself(op)
}

/// `__await__` called by hand: what it gives may be sent to later.
unsafe extern "C" fn await_by_hand(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    itself(Op(this.cast()))
}

fn itself(op: Op) -> *mut PyObject {
    // SAFETY: attached.
    let itself = || unsafe { ffi::Py_NewRef(op.object()) };
    if op.head().state == State::New {
        return itself();
    }
    if op.head().state != State::Ended && op.work().is_some_and(|w| w.is_next()) {
        return itself();
    }
    guard(|| Err(reused(op.name())))
}

pub(super) unsafe extern "C" fn send(this: *mut PyObject, _v: *mut PyObject) -> *mut PyObject {
    // SAFETY: as `iternext`.
    let r = unsafe { iternext(this) };
    // SAFETY: attached.
    if r.is_null() && unsafe { ffi::PyErr_Occurred() }.is_null() {
        // SAFETY: a method must set an error; for the slot None needs none.
        unsafe { ffi::PyErr_SetNone(ffi::PyExc_StopIteration) };
    }
    r
}

pub(super) unsafe extern "C" fn throw(
    this: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    _kw: *mut PyObject,
) -> *mut PyObject {
    let mut done = None;
    let r = guard(|| {
        // SAFETY: arguments as the interpreter gave them (type[, value[, traceback]]).
        unsafe {
            let op = Op(this.cast());
            let arg = |i: isize| if i < n { *args.offset(i) } else { null_mut() };
            if op.head().state == State::Foreign {
                let driven = op.drive_inner(Some([arg(0), arg(1), arg(2)]));
                return match driven.map_err(told_apart)? {
                    Step::Yield => Ok(yielded(this)),
                    Step::Return(v) => {
                        done = Some(v);
                        Ok(null_mut())
                    }
                };
            }
            op.withdraw();
            Err(thrown(arg(0), arg(1)))
        }
    });
    if let Some(v) = done {
        // SAFETY: attached.
        if v == unsafe { ffi::Py_None() } {
            // SAFETY: attached, owned.
            unsafe {
                ffi::Py_DECREF(v);
                ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            }
        } else {
            stop(v);
        }
    }
    r
}

/// Sets the error that was thrown in.
unsafe fn thrown(exc: *mut PyObject, value: *mut PyObject) -> Raised {
    // SAFETY: attached; `exc` and `value` are objects or null.
    unsafe {
        if exc.is_null()
            || (ffi::PyExceptionInstance_Check(exc) == 0 && ffi::PyExceptionClass_Check(exc) == 0)
        {
            return errors::type_error("throw() needs an exception");
        }
        if ffi::PyType_Check(exc) != 0 {
            let value = if value.is_null() {
                ffi::Py_None()
            } else {
                value
            };
            ffi::PyErr_SetObject(exc, value);
        } else {
            ffi::PyErr_SetObject(ffi::Py_TYPE(exc).cast(), exc);
        }
    }
    Raised
}

pub(super) unsafe extern "C" fn close(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        let op = Op(this.cast());
        let inner = op.head().inner;
        if op.head().state == State::Foreign && !inner.is_null() {
            // SAFETY: a coroutine that we own.
            unsafe {
                let r = ffi::PyObject_CallMethodNoArgs(inner, errors::name::CLOSE.get());
                if r.is_null() {
                    return Err(Raised);
                }
                ffi::Py_DECREF(r);
            }
        }
        op.withdraw();
        Ok(none())
    })
}

/// For the bridge; see `Op::arm`.
unsafe extern "C" fn arm(this: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    guard(|| Op(this.cast()).arm(callback))
}

/// For the bridge: True if the operation was taken back before it happened.
unsafe extern "C" fn withdraw(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| Ok(boolean(Op(this.cast()).revoke())))
}

/// For the bridge: the loop is closed, nobody takes the result.
unsafe extern "C" fn vanished(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        Op(this.cast()).vanished();
        Ok(none())
    })
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached.
    unsafe {
        let op = Op(this.cast());
        let working = ffi::Py_TYPE(this) == WORKING.get();
        if working {
            ffi::PyObject_GC_UnTrack(this.cast());
        }
        if op.head().state != State::Ended {
            // At once, also if the rest has to wait: the goroutine of its wait may go before that.
            given_up(op);
        }
        if working {
            // A thread-local is a call: most have nothing left that could be the next of a chain.
            match &(*this.cast::<Full>()).work {
                Work::Chan(w) if !w.holds_value() => drop_working(this),
                _ => local().deaths.end(this, drop_working),
            }
        } else {
            drop_inner(op);
            let spare = local().spare_op.replace(this);
            if !spare.is_null() {
                ffi::PyObject_Free(spare.cast());
            }
        }
    }
}

unsafe fn drop_working(this: *mut PyObject) {
    // SAFETY: the rest of `dealloc`.
    unsafe {
        drop_inner(Op(this.cast()));
        let work = &raw mut (*this.cast::<Full>()).work;
        match &mut *work {
            // Said first: most are.
            Work::Chan(w) => std::ptr::drop_in_place(w),
            _ => std::ptr::drop_in_place(work),
        }
        let spare = local().spare_full.replace(this);
        if !spare.is_null() {
            ffi::PyObject_GC_Del(spare.cast());
        }
    }
}

#[inline(always)]
unsafe fn drop_inner(op: Op) {
    let inner = op.head().inner;
    if !inner.is_null() {
        // SAFETY: owned, attached.
        unsafe { ffi::Py_DECREF(inner) };
    }
}

/// It is dropped before its end.
#[cold]
fn given_up(op: Op) {
    match op.head().state {
        State::New => warn_unawaited(op.name()),
        State::Waiting | State::Foreign | State::Yielding => {
            op.withdraw();
        }
        State::Ended => {}
    }
}

/// Frees this thread's spare operations.
pub fn drop_spare() {
    let spare = local().spare_op.replace(null_mut());
    let full = local().spare_full.replace(null_mut());
    crate::select::drop_spare(local().spare_select.replace(null_mut()));
    super::enter::drop_spare();
    crate::select::drop_spare_selected();
    #[cfg(Py_3_12)]
    super::stop::drop_spare();
    // SAFETY: freed memory of operations, or null.
    unsafe {
        ffi::PyObject_Free(spare.cast());
        if !full.is_null() {
            ffi::PyObject_GC_Del(full.cast());
        }
    }
}

pub(super) fn warn_unawaited(name: &str) {
    aside(|| {
        let text = std::ffi::CString::new(format!("gorun operation '{name}' was never awaited"))
            .unwrap_or_default();
        // SAFETY: attached. A warning that was turned into an error is reported as unraisable by `aside`.
        unsafe { ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr(), 1) };
    });
}

unsafe extern "C" fn traverse(
    this: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let op = Op(this.cast());
    let inner = op.head().inner;
    // SAFETY: the collector's call.
    unsafe {
        if !inner.is_null() {
            let r = visit(inner, arg);
            if r != 0 {
                return r;
            }
        }
        op.work().map_or(0, |w| w.visit(&mut |o| visit(o, arg)))
    }
}

unsafe extern "C" fn clear(this: *mut PyObject) -> c_int {
    // The collector found it unreachable. The work stays until dealloc: leaving its lists needs it.
    let op = Op(this.cast());
    if op.head().state != State::New {
        op.withdraw();
    }
    let inner = std::mem::replace(&mut op.head().inner, null_mut());
    // SAFETY: owned.
    unsafe { ffi::Py_XDECREF(inner) };
    0
}

// ---- the one that naps share ----

unsafe extern "C" fn nap_next(this: *mut PyObject) -> *mut PyObject {
    guard(|| match nap::step(this).map_err(told_apart)? {
        // SAFETY: attached; a live object.
        Step::Yield => Ok(unsafe { ffi::Py_NewRef(this) }),
        Step::Return(v) => {
            stop(v);
            Ok(null_mut())
        }
    })
}

unsafe extern "C" fn nap_am_send(
    this: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> ffi::PySendResult {
    let mut code = ffi::PySendResult::PYGEN_ERROR;
    let r = guard(|| match nap::step(this).map_err(told_apart)? {
        Step::Yield => {
            code = ffi::PySendResult::PYGEN_NEXT;
            // SAFETY: attached; a live object.
            Ok(unsafe { ffi::Py_NewRef(this) })
        }
        Step::Return(v) => {
            code = ffi::PySendResult::PYGEN_RETURN;
            Ok(v)
        }
    });
    // SAFETY: the interpreter's out parameter.
    unsafe { *result = r };
    code
}

unsafe extern "C" fn nap_send(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: as `send`.
    unsafe {
        let r = nap_next(this);
        if r.is_null() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
        }
        r
    }
}

unsafe extern "C" fn nap_throw(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    _kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        nap::withdraw();
        // SAFETY: arguments as the interpreter gave them (type[, value[, traceback]]).
        unsafe {
            let arg = |i: isize| if i < n { *args.offset(i) } else { null_mut() };
            Err(thrown(arg(0), arg(1)))
        }
    })
}

unsafe extern "C" fn nap_close(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        nap::withdraw();
        Ok(none())
    })
}

// ---- the one that is over ----

unsafe extern "C" fn ready_send(
    _: *mut PyObject,
    _: *mut PyObject,
    result: *mut *mut PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter's out parameter.
    unsafe { *result = none() };
    ffi::PySendResult::PYGEN_RETURN
}

unsafe extern "C" fn ready_next(_: *mut PyObject) -> *mut PyObject {
    // No error set: the end of the iteration, with None.
    null_mut()
}

/// An awaitable that is over.
pub fn make_ready() -> Res<*mut PyObject> {
    let p = THE_READY.load(std::sync::atomic::Ordering::Relaxed);
    // SAFETY: made at import, never freed.
    Ok(unsafe { ffi::Py_NewRef(p) })
}

/// Makes the types. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    const DOC: &CStr = c"An operation that starts when it is awaited.";
    // In the place of what the slot would be wrapped in.
    let mut by_hand = noargs(c"__await__", await_by_hand, c"The operation itself.");
    by_hand.ml_flags |= ffi::METH_COEXIST;
    let table = || {
        methods(vec![
            one(c"send", send, c"As of a coroutine."),
            fast(c"throw", throw, c"As of a coroutine."),
            noargs(c"close", close, c"As of a coroutine."),
            by_hand,
            one(c"_arm", arm, c"For the asyncio bridge."),
            noargs(c"_withdraw", withdraw, c"For the asyncio bridge."),
            noargs(c"_vanished", vanished, c"For the asyncio bridge."),
        ])
    };
    // SAFETY: at import; everything set here lives for ever.
    unsafe {
        let as_async = forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
        (*as_async).am_await = Some(am_await);
        (*as_async).am_send = Some(am_send);
        for (t, working) in [(&PLAIN, false), (&WORKING, true)] {
            let size = if working {
                size_of::<Full>()
            } else {
                size_of::<Head>()
            };
            t.ready(c"gorun.Operation", DOC, size, |t| {
                t.tp_dealloc = Some(dealloc);
                t.tp_iter = Some(ffi::PyObject_SelfIter);
                t.tp_iternext = Some(iternext);
                t.tp_methods = table();
                t.tp_as_async = as_async;
                if working {
                    t.tp_traverse = Some(traverse);
                    t.tp_clear = Some(clear);
                }
            })?;
        }
        let as_async = forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
        (*as_async).am_await = Some(ffi::PyObject_SelfIter);
        (*as_async).am_send = Some(ready_send);
        READY.ready(c"gorun.Ready", DOC, size_of::<PyObject>(), |t| {
            t.tp_iter = Some(ffi::PyObject_SelfIter);
            t.tp_iternext = Some(ready_next);
            t.tp_as_async = as_async;
        })?;
        #[cfg(Py_3_12)]
        super::stop::init()?;
        let as_async = forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
        (*as_async).am_await = Some(ffi::PyObject_SelfIter);
        (*as_async).am_send = Some(nap_am_send);
        nap::TYPE.ready(c"gorun.Nap", DOC, size_of::<PyObject>(), |t| {
            t.tp_iter = Some(ffi::PyObject_SelfIter);
            t.tp_iternext = Some(nap_next);
            t.tp_methods = methods(vec![
                one(c"send", nap_send, c"As of a coroutine."),
                fast(c"throw", nap_throw, c"As of a coroutine."),
                noargs(c"close", nap_close, c"As of a coroutine."),
            ]);
            t.tp_as_async = as_async;
        })?;
        nap::init()?;
        super::enter::init()?;
        // Immortal where the interpreter has that (all threads meet on it); before 3.12 kept by a reference of its own.
        let mut ready = ffi::PyObject_HEAD_INIT;
        ready.ob_type = READY.get();
        let p = forever(ready);
        THE_READY.store(p, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}

/// A head is what both types begin with.
const _: () =
    assert!(std::mem::offset_of!(Full, head) == 0 && size_of::<Head>() < size_of::<Full>());
