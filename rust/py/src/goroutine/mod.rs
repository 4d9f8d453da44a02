//! The goroutine's Python object (the handle), and what is asked of it.
//!
//! Invariants:
//! - At most one handle exists per goroutine at a time; `Body::handle` points at it without owning it. So identity is
//!   equality, and the collector counts the outcome's references once.
//! - A handle owns one reference to its G. A live goroutine needs no handle: the runtime holds it.
//! - The collector looks through a handle only once the goroutine is Done; before, what it holds is alive anyway.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use gorun_core::sched::{Cancel, Phase, WaitReason};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::args::{parse, timeout};
use crate::body::{Callback, Ended, Owned};
use crate::door::{self, Waited};
use crate::errors::{
    self, Raised, Res, aside, attached, guard, repr, restore, runtime_error, timeout_error,
    type_error,
};
use crate::ops;
use crate::rawtype::{StaticType, fast, getter, getters, methods, noargs};
use crate::rt::{PyG, Rt, rt};

/// `gorun.Goroutine`.
pub static TYPE: StaticType = StaticType::new();

#[repr(C)]
struct Handle {
    ob_base: PyObject,
    g: *mut gorun_core::sched::G<crate::host::Py>,
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

/// Those who read `Body::handle` and try to own what they found. A dying handle waits for them to leave.
static UPGRADING: AtomicU32 = AtomicU32::new(0);

/// A handle without a goroutine: for `adopt`. Null with the error set.
///
/// # Safety
/// Attached.
pub unsafe fn alloc() -> *mut PyObject {
    // SAFETY: the type is ready.
    unsafe {
        let h = ffi::PyObject_GC_New::<Handle>(TYPE.get());
        if !h.is_null() {
            (*h).g = null_mut();
            (*h).weakrefs = null_mut();
            enable_try_incref(h.cast());
        }
        h.cast()
    }
}

/// Makes `h` the handle of `g`; takes over one reference to `g`. Runs no code.
///
/// # Safety
/// `h` came from `alloc` just now, `g` has no handle.
pub unsafe fn adopt(h: *mut PyObject, g: PyG) {
    // SAFETY: by the caller's promise.
    unsafe {
        (*h.cast::<Handle>()).g = g.as_ptr();
        (*g.body.get()).handle.store(h, Ordering::SeqCst);
    }
}

/// The handle of `g`: the one there is, or a new one. Owned; null with the error set.
///
/// # Safety
/// Attached; the caller keeps `g` alive (runs it, or has a reference).
pub unsafe fn handle(g: PyG) -> *mut PyObject {
    // SAFETY: as promised; the pointer is used only between the two counts, while a dying handle waits.
    unsafe {
        let slot = &(*g.body.get()).handle;
        UPGRADING.fetch_add(1, Ordering::SeqCst);
        let h = slot.load(Ordering::SeqCst);
        let owned = !h.is_null() && try_incref(h);
        UPGRADING.fetch_sub(1, Ordering::Release);
        if owned {
            return h;
        }
        let h = alloc();
        if !h.is_null() {
            g.retain();
            adopt(h, g);
            ffi::PyObject_GC_Track(h.cast());
        }
        h
    }
}

#[cfg(not(Py_GIL_DISABLED))]
unsafe fn enable_try_incref(_h: *mut PyObject) {}

#[cfg(not(Py_GIL_DISABLED))]
unsafe fn try_incref(h: *mut PyObject) -> bool {
    // SAFETY: under the GIL a handle that is still in its slot is alive: its dealloc empties the slot first.
    unsafe { ffi::Py_INCREF(h) };
    true
}

#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
unsafe extern "C" {
    fn PyUnstable_EnableTryIncRef(o: *mut PyObject);
    fn PyUnstable_TryIncRef(o: *mut PyObject) -> c_int;
}

#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
unsafe fn enable_try_incref(h: *mut PyObject) {
    // SAFETY: a fresh object of ours.
    unsafe { PyUnstable_EnableTryIncRef(h) }
}

#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
unsafe fn try_incref(h: *mut PyObject) -> bool {
    // SAFETY: enabled at its making; its memory is valid while we are counted in UPGRADING.
    unsafe { PyUnstable_TryIncRef(h) != 0 }
}

// 3.13t has the same mechanism without a public name: bit 0 of ob_ref_shared means that others may try to own the
// object (a weak reference may exist), which makes its owner count it down with care. Condition: the object is new,
// owned by this thread, its shared field 0. There is no switch: without it `current()` could not find the handle.
#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
unsafe fn enable_try_incref(h: *mut PyObject) {
    // SAFETY: a fresh object that nobody else knows.
    unsafe { (*h).ob_ref_shared.store(1, Ordering::Relaxed) };
}

#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
unsafe fn try_incref(h: *mut PyObject) -> bool {
    // What CPython 3.13 does for weak references: count up locally if we own it, else in the shared field unless that
    // says that the object is going away (0 without the flag, or merged with a count of 0).
    // SAFETY: its memory is valid while we are counted in UPGRADING.
    unsafe {
        let o = &*h;
        if o.ob_tid == own_thread_id() {
            ffi::Py_INCREF(h);
            return true;
        }
        let mut shared = o.ob_ref_shared.load(Ordering::Relaxed);
        loop {
            if shared == 0 || shared == 3 {
                return false;
            }
            match o.ob_ref_shared.compare_exchange_weak(
                shared,
                shared + 4,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => shared = now,
            }
        }
    }
}

#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
fn own_thread_id() -> usize {
    let id: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the thread pointer, as `_Py_ThreadId` does.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) id, options(nostack, readonly, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) id, options(nostack, nomem, preserves_flags));
    }
    id
}

unsafe extern "C" fn dealloc(h: *mut PyObject) {
    // SAFETY: called by the interpreter, attached; once, unless the finalizer's hook keeps the handle.
    unsafe {
        let handle = h.cast::<Handle>();
        if !(*handle).g.is_null()
            && is_unasked(of(h))
            && ffi::PyObject_CallFinalizerFromDealloc(h) < 0
        {
            return;
        }
        ffi::PyObject_GC_UnTrack(h.cast());
        if !(*handle).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(h);
        }
        if !(*handle).g.is_null() {
            let g = of(h);
            let slot = &(*g.body.get()).handle;
            let _ = slot.compare_exchange(h, null_mut(), Ordering::SeqCst, Ordering::Relaxed);
            while UPGRADING.load(Ordering::SeqCst) != 0 {
                std::hint::spin_loop();
            }
            rt().release(g);
        }
        ffi::PyObject_GC_Del(h.cast());
    }
}

/// True for one that ended with an error that nobody asked for.
fn is_unasked(g: PyG) -> bool {
    // SAFETY: Done: read-only.
    is_done(g) && unsafe { (*g.body.get()).ended() == Ended::Error && !(*g.body.get()).is_taken() }
}

/// The last handle goes: the error that nobody asked for is reported now. The collector calls this before it clears
/// anything, so the error is whole; in the dealloc of a handle that it clears, it would not be.
unsafe extern "C" fn finalize(h: *mut PyObject) {
    // SAFETY: a handle, attached.
    unsafe {
        if (*h.cast::<Handle>()).g.is_null() {
            return;
        }
        let g = of(h);
        if is_unasked(g) && (*g.body.get()).take() {
            aside(|| report_unasked(g, h));
        }
    }
}

unsafe extern "C" fn traverse(h: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector's call; a Done goroutine's outcome is read-only. No lock is taken.
    unsafe {
        if (*h.cast::<Handle>()).g.is_null() {
            return 0;
        }
        let g = of(h);
        if g.waker.word.phase() != Phase::Done {
            return 0;
        }
        let b = g.body.get();
        for p in [(*b).outcome(), (*b).trace()] {
            if !p.is_null() {
                let r = visit(p, arg);
                if r != 0 {
                    return r;
                }
            }
        }
        0
    }
}

unsafe extern "C" fn clear(h: *mut PyObject) -> c_int {
    // SAFETY: the collector found the handle unreachable, so nobody asks for the outcome any more.
    unsafe {
        let g = of(h);
        if g.waker.word.phase() == Phase::Done {
            let b = g.body.get();
            (*b).take();
            let (outcome, trace) = ((*b).outcome(), (*b).trace());
            (*b).set_outcome(ffi::Py_NewRef(ffi::Py_None()), null_mut());
            ffi::Py_XDECREF(outcome);
            ffi::Py_XDECREF(trace);
        }
    }
    0
}

// ---- outcomes ----

/// Raises `Cancelled` for the goroutine that runs here: it is delivered hereby.
pub fn raise_cancelled(rt: Rt) -> Raised {
    match rt.current_goroutine() {
        Some((_, g)) => deliver(g),
        None => runtime_error("a cancel outside a goroutine"),
    }
}

/// Raises `Cancelled` on behalf of `g`.
pub fn deliver(g: PyG) -> Raised {
    let py = attached();
    let reason = g.latch().and_then(|l| l.with(|e, _| e.reason.clone()));
    // SAFETY: attached, valid objects; `exc` is owned.
    unsafe {
        let why = reason.as_ref().map_or(ffi::Py_None(), Owned::as_ptr);
        let exc = ffi::PyObject_CallOneArg(errors::cancelled(py), why);
        if exc.is_null() {
            return Raised;
        }
        let id = ffi::PyLong_FromUnsignedLongLong(g.id.load(Ordering::Relaxed));
        ffi::PyObject_SetAttr(exc, errors::name::ORIGIN.get(), id);
        ffi::Py_XDECREF(id);
        ffi::PyErr_SetObject(ffi::Py_TYPE(exc).cast(), exc);
        ffi::Py_DECREF(exc);
    }
    Raised
}

/// What an error of the body means for the goroutine. Takes and gives owned references.
pub fn classify(g: PyG, exc: *mut PyObject) -> (Ended, *mut PyObject) {
    let py = attached();
    // SAFETY: attached; `exc` is an owned exception.
    unsafe {
        if ffi::PyErr_GivenExceptionMatches(exc, errors::cancelled(py)) == 0 {
            return (Ended::Error, exc);
        }
        let e = Bound::from_borrowed_ptr(py, exc);
        let origin = e
            .getattr("_origin")
            .and_then(|o| o.extract::<u64>())
            .unwrap_or(0);
        if origin == g.id.load(Ordering::Relaxed) {
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
    let (name, reason) = match g.latch() {
        Some(l) => l.with(|e, _| (e.name.clone(), e.reason.clone())),
        None => (None, None),
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
fn join(g: PyG, timeout: Option<std::time::Duration>) -> Res<Waited> {
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

fn timed_out(g: PyG) -> Raised {
    timeout_error(&format!(
        "goroutine {} has not ended in time",
        g.id.load(Ordering::Relaxed)
    ))
}

// ---- methods ----

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

/// Asks a goroutine to end; false if it has.
pub fn ask_cancel(g: PyG, reason: *mut PyObject) -> bool {
    let rt = rt();
    if is_done(g) || g.epoch.load(Ordering::Relaxed) != rt.epoch() {
        return false;
    }
    // The reason first: whoever delivers the cancel reads it. That of one that was not delivered yet is kept; under
    // the lock, so that of two cancels the first brings its reason.
    // SAFETY: attached; a valid object or null.
    let new = (!reason.is_null()).then(|| unsafe { Owned::new(reason) });
    let latch = if new.is_some() {
        Some(g.latch_or_make())
    } else {
        g.latch()
    };
    let word = &g.waker.word;
    let (said, old) = match latch {
        Some(l) => l.with(|e, _| {
            if word.cancel_asked() {
                (word.cancel(), new)
            } else {
                let old = std::mem::replace(&mut e.reason, new);
                (word.cancel(), old)
            }
        }),
        None => (word.cancel(), None),
    };
    if said == Cancel::Wake {
        // SAFETY: the cancel won a parked waiter.
        unsafe { rt.wake(&raw const g.waker) };
    }
    drop(old);
    said != Cancel::Ended
}

unsafe extern "C" fn add_done_callback(h: *mut PyObject, f: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: the interpreter's call on a handle, one argument.
        let g = unsafe { of(h) };
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
        run_callbacks(rt(), g, late.into_iter().collect());
        // SAFETY: a static.
        Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) })
    })
}

/// Takes callbacks out again, by identity; those that have run are gone anyway.
unsafe extern "C" fn drop_done_callback(h: *mut PyObject, f: *mut PyObject) -> *mut PyObject {
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
pub fn run_callbacks(rt: Rt, g: PyG, callbacks: Vec<Callback>) {
    if callbacks.is_empty() {
        return;
    }
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
                report(exc, h);
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
fn report_unasked(g: PyG, h: *mut PyObject) {
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

/// The same for one that has no handle: it gets one for the hook. The caller holds a reference to `g`.
pub fn report_orphan(g: PyG) {
    // SAFETY: attached.
    let h = unsafe { handle(g) };
    report_unasked(g, h);
    // SAFETY: owned or null.
    unsafe { ffi::Py_XDECREF(h) };
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

unsafe extern "C" fn am_await(h: *mut PyObject) -> *mut PyObject {
    guard(|| ops::make_join(h))
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
>>> gorun.go(divmod, 7, 0).exception()
ZeroDivisionError('integer division or modulo by zero')
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
        noargs(c"_failed", failed, c"_failed($self, /)\n--\n\nTrue if it ended with an error."),
        noargs(c"cancelled", was_cancelled, c"cancelled($self, /)\n--\n
True if it has ended by a cancel; never waits.

>>> import gorun
>>> g = gorun.go(abs, -1)
>>> g.result(), g.cancelled()
(1, False)
"),
        one(c"add_done_callback", add_done_callback, ffi::METH_O, c"add_done_callback($self, fn, /)\n--\n
Call fn(goroutine) at the end, on the thread that ends it, or at once if it has ended.

Callbacks run in the order of adding, each in a copy of the context of this call; current() is None
there, and their errors go to excepthook. Raises TypeError unless fn is callable.

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
