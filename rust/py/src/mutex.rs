//! `gorun.Mutex`: all of `threading.Lock`, and its awaited twin. The protocol is the core's (`gorun_core::mutex`).

use std::ffi::{CStr, c_int};
use std::time::Duration;

use gorun_core::mutex::{Mutex, Turn};
use gorun_core::sched::{Ticket, WaitReason, Waker};
use pyo3::ffi::{self, PyObject};

use crate::args::{lock_args, parse};
use crate::body::Owned;
use crate::door;
use crate::errors::{Res, guard, runtime_error};
use crate::ops;
use crate::rawtype::{StaticType, fast, methods, noargs};
use crate::rt::rt;
use crate::work::{Job, Work, boolean, none};

/// `gorun.Mutex`.
pub static TYPE: StaticType = StaticType::new();

#[repr(C)]
struct Obj {
    ob_base: PyObject,
    mutex: *mut Mutex,
    weakrefs: *mut PyObject,
}

/// The core of a Mutex object.
///
/// # Safety
/// `o` is one, and outlives the result.
pub unsafe fn of<'a>(o: *mut PyObject) -> &'a Mutex {
    // SAFETY: a Mutex object; the box lives as long as it.
    unsafe { &*(*o.cast::<Obj>()).mutex }
}

/// What a lock that is awaited is called in messages.
pub const ACQUIRE: &str = "acquire_async";

/// Waits to lock.
pub struct LockWork {
    target: Owned,
    turn: Turn,
    /// `async with` gives None, `acquire` True.
    enter: bool,
    /// `acquire_async(False)`.
    once: bool,
}

impl LockWork {
    #[inline(always)]
    fn work(o: *mut PyObject, enter: bool, once: bool) -> Work {
        Work::Lock(Self {
            // SAFETY: attached, a live object.
            target: unsafe { Owned::new(o) },
            turn: Turn::new(),
            enter,
            once,
        })
    }

    fn mutex<'a>(&self) -> &'a Mutex {
        // SAFETY: kept alive by `target`.
        unsafe { of(self.target.as_ptr()) }
    }
}

impl Job for LockWork {
    fn name(&self) -> &'static str {
        ACQUIRE
    }
    fn reason(&self) -> WaitReason {
        WaitReason::Mutex
    }
    fn may_wait(&self) -> bool {
        !self.once
    }
    fn attempt(&mut self) -> Res<bool> {
        Ok(self.mutex().try_lock())
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: works are pinned.
        unsafe { self.mutex().enlist(rt(), &mut self.turn, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: given to this mutex, or to none.
        unsafe { self.mutex().delist(&raw mut self.turn) };
    }
    fn aside(&mut self) {
        self.mutex().aside(&mut self.turn);
    }
    fn confirm(&mut self) -> bool {
        self.mutex().confirm(&mut self.turn)
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        Ok(if self.enter { none() } else { boolean(true) })
    }
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        Ok(boolean(false))
    }
    fn undo(&mut self) {
        // It was confirmed, so it is ours.
        let _ = self.mutex().unlock(rt());
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        f(self.target.as_ptr())
    }
}

unsafe extern "C" fn new(
    t: *mut ffi::PyTypeObject,
    args: *mut PyObject,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        unsafe {
            if ffi::PyTuple_GET_SIZE(args) > 0 || (!kw.is_null() && ffi::PyDict_Size(kw) > 0) {
                return Err(crate::errors::type_error("Mutex() takes no arguments"));
            }
            let o = ffi::PyType_GenericAlloc(t, 0);
            if o.is_null() {
                return Err(crate::errors::Raised);
            }
            (*o.cast::<Obj>()).mutex = Box::into_raw(Box::default());
            Ok(o)
        }
    })
}

unsafe extern "C" fn dealloc(o: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached; nobody waits, since waiters own the object.
    unsafe {
        let this = o.cast::<Obj>();
        if !(*this).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(o);
        }
        drop(Box::from_raw((*this).mutex));
        ffi::PyObject_Free(o.cast());
    }
}

fn blocking(o: *mut PyObject, limit: Option<Duration>) -> Res<*mut PyObject> {
    door::cancel_point()?;
    // SAFETY: a Mutex.
    if unsafe { of(o) }.try_lock() {
        return Ok(boolean(true));
    }
    door::wait_for(&mut LockWork::work(o, false, false), limit)
}

unsafe extern "C" fn acquire(
    o: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        if n == 0 && kw.is_null() {
            return blocking(o, None);
        }
        // SAFETY: as the interpreter gave them.
        let [b, t] = unsafe { parse("acquire", ["blocking", "timeout"], 2, args, n, kw)? };
        match lock_args(b, t)? {
            // SAFETY: a Mutex. It does not wait: no cancel point.
            None => Ok(boolean(unsafe { of(o) }.try_lock())),
            Some(limit) => blocking(o, limit),
        }
    })
}

unsafe extern "C" fn acquire_async(
    o: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let [b, t] = unsafe { parse("acquire_async", ["blocking", "timeout"], 2, args, n, kw)? };
        let limit = lock_args(b, t)?;
        let once = limit.is_none();
        let limit = limit.unwrap_or(Some(Duration::ZERO));
        ops::make(|| LockWork::work(o, false, once), limit)
    })
}

unsafe extern "C" fn enter(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| blocking(o, None))
}

/// The work of `async with`.
pub fn entering(o: *mut PyObject) -> Work {
    LockWork::work(o, true, false)
}

/// `release()`, whoever calls it.
pub fn unlock(o: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: a Mutex.
    match unsafe { of(o) }.unlock(rt()) {
        Ok(()) => Ok(none()),
        Err(_) => Err(runtime_error("release unlocked lock")),
    }
}

unsafe extern "C" fn release(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| unlock(o))
}

unsafe extern "C" fn exit(
    o: *mut PyObject,
    _: *const *mut PyObject,
    _: ffi::Py_ssize_t,
    _: *mut PyObject,
) -> *mut PyObject {
    guard(|| unlock(o))
}

unsafe extern "C" fn locked(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: a Mutex.
    guard(|| Ok(boolean(unsafe { of(o) }.is_locked())))
}

unsafe extern "C" fn repr(o: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: a Mutex.
        let state = if unsafe { of(o) }.is_locked() {
            "locked"
        } else {
            "unlocked"
        };
        crate::args::string(&format!("<{state} gorun.Mutex at {:#x}>", o.addr()))
    })
}

/// Makes the type. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    const DOC: &CStr = c"Mutex()\n--\n
A lock with the methods of threading.Lock, for threads, goroutines and asyncio tasks alike.

Newcomers may pass those that wait for up to a millisecond, then it is handed over in order. It may be
released by another caller than took it, and is not re-entrant. Go's sync.Mutex.

>>> import gorun
>>> mu = gorun.Mutex()
>>> with mu:
...     mu.locked()
True
>>> async def main() -> bool:
...     async with mu:
...         return mu.acquire(blocking=False)
>>> gorun.run(main)
False
";
    // SAFETY: at import; everything set here lives for ever.
    unsafe {
        TYPE.ready(c"gorun.Mutex", DOC, size_of::<Obj>(), |t| {
            t.tp_new = Some(new);
            t.tp_dealloc = Some(dealloc);
            t.tp_repr = Some(repr);
            t.tp_weaklistoffset = std::mem::offset_of!(Obj, weakrefs) as ffi::Py_ssize_t;
            t.tp_methods = methods(vec![
                fast(
                    c"acquire",
                    acquire,
                    c"acquire($self, /, blocking=True, timeout=-1)\n--\n
Lock it; False if it could not be locked at once (blocking=False) or within timeout seconds (-1: no limit).

Raises ValueError for a time-out with blocking=False or below 0 other than -1.

>>> import gorun
>>> mu = gorun.Mutex()
>>> mu.acquire(), mu.acquire(timeout=0.001)
(True, False)
",
                ),
                fast(
                    c"acquire_async",
                    acquire_async,
                    c"acquire_async($self, /, blocking=True, timeout=-1)\n--\n\nAs acquire, awaited.",
                ),
                noargs(
                    c"release",
                    release,
                    c"release($self, /)\n--\n
Unlock it, by whomever it was locked; RuntimeError if it is not.

>>> import gorun
>>> gorun.Mutex().release()
Traceback (most recent call last):
RuntimeError: release unlocked lock
",
                ),
                noargs(c"locked", locked, c"locked($self, /)\n--\n
True while it is locked.

>>> import gorun
>>> gorun.Mutex().locked()
False
"),
                noargs(c"__enter__", enter, c"__enter__($self, /)\n--\n\nacquire()"),
                fast(c"__exit__", exit, c"__exit__($self, /, *args)\n--\n\nrelease()"),
            ]);
        })?;
        // What `async with` calls is bound in a way of its own.
        ops::install_enter()
    }
}
