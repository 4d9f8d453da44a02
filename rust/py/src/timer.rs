//! `Timer`. With a function: a dormant goroutine that a wheel entry makes runnable.
//!
//! One compare-and-swap decides between firing and `stop`: the goroutine either runs, or is freed unrun. The runtime
//! holds a pending timer, so it fires also when its handle was dropped. Without: see `tick.rs`.
//!
//! | end of a timer with a function | what happens |
//! |---|---|
//! | due | the dormant goroutine becomes an ordinary one: cancel, `shutdown` and exit then treat it as any other |
//! | `stop`, `reset` | won: freed unrun. Lost: it runs, and `False` says so |
//! | `shutdown` before it is due | it is kept, and stands still until `go` or a wait starts the runtime again |
//! | a signal, a closed event loop | nothing: no thread or task waits for it |
//! | fork | the child's wheel is empty and the goroutine of another epoch: `stop` says False there, `reset` arms it anew |
//! | exit | it does not fire any more |
//!
//! A raw static type, as `go`'s handle is: of what a timer that is started and stopped costs, two thirds were the tuple,
//! the parsing and the allocation of an ordinary class.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gorun_core::sched::{Ticket, flag};
use pyo3::ffi::{self, PyObject};

use crate::args::{of_tuple, parse, sleep_nanos};
use crate::body::{Form, Owned};
use crate::brief::Brief;
use crate::context::{self, Hold};
use crate::errors::{Raised, Res, guard, repr, type_error};
use crate::local::local;
use crate::rawtype::{StaticType, fast, getter, getters, methods, noargs};
use crate::rt::{PyG, rt};
use crate::tick::{self, Tick};
use crate::work::{boolean, none};
use crate::{go, site};

/// `gorun.Timer`.
pub static TYPE: StaticType = StaticType::new();

#[repr(C)]
struct Obj {
    ob_base: PyObject,
    weakrefs: *mut PyObject,
    timer: Timer,
}

struct Timer {
    /// Without a function: what delivers, and the RecvChan.
    tick: Option<(Arc<Tick>, Owned)>,
    /// The function (owned), or null.
    f: *mut PyObject,
    /// The context of the place where it was made, held as `go` holds it (owned, or null).
    ctx: *mut PyObject,
    hold: Hold,
    site: u32,
    /// The armed goroutine; one reference is ours.
    armed: Brief<Option<(PyG, Ticket)>>,
}

impl Timer {
    fn of<'a>(o: *mut PyObject) -> &'a Self {
        // SAFETY: a Timer object, alive during the call.
        unsafe { &(*o.cast::<Obj>()).timer }
    }

    /// A dormant goroutine with its entry in the wheel; one reference is the caller's.
    fn launch(&self, after: u64) -> Res<(PyG, Ticket)> {
        let rt = go::started()?;
        // Each run needs a context of its own; a snapshot is shared until a run changes it.
        // SAFETY: attached; a context or null.
        let ctx = unsafe {
            if self.hold == Hold::Own {
                ffi::PyContext_Copy(self.ctx)
            } else {
                ffi::Py_XNewRef(self.ctx)
            }
        };
        if ctx.is_null() && !self.ctx.is_null() {
            return Err(Raised);
        }
        // SAFETY: attached; an owned function.
        let f = unsafe { ffi::Py_NewRef(self.f) };
        let deadline = rt.now().saturating_add(after);
        // One reference is the runtime's, one ours.
        let (g, ticket) = rt.dormant_with(2, flag::TIMER, |g| {
            let b = g.body.get();
            // SAFETY: a vacant G's body; it takes over the references.
            unsafe {
                (*b).what = f;
                (*b).form = Form::Call;
                (*b).nargs = 0;
                (*b).hold = self.hold;
                (*b).ctx = ctx;
                (*b).site = self.site;
            }
        });
        rt.add_timer(&g, deadline, ticket);
        Ok((g, ticket))
    }

    fn arm(&self, after: u64) -> Res<()> {
        let armed = self.launch(after)?;
        // Another `reset` may have come in between: the last one counts.
        let old = self.armed.with(|a| a.replace(armed));
        Self::revoke(old);
        Ok(())
    }

    fn disarm(&self) -> bool {
        Self::revoke(self.armed.with(Option::take))
    }

    fn revoke(armed: Option<(PyG, Ticket)>) -> bool {
        let Some((g, ticket)) = armed else {
            return false;
        };
        let rt = rt();
        let won = g.epoch.load(Ordering::Relaxed) == rt.epoch() && g.waker.word.revoke(ticket);
        if won {
            rt.drop_timer(&g);
            rt.release_dormant(g);
        } else {
            rt.release(g);
        }
        won
    }
}

unsafe fn make(seconds: *mut PyObject, f: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: attached; valid objects or null.
    unsafe {
        if seconds.is_null() {
            return Err(type_error("Timer() needs a number of seconds"));
        }
        let after = sleep_nanos(seconds, "seconds")?;
        let mut t = Timer {
            tick: None,
            f: null_mut(),
            ctx: null_mut(),
            hold: Hold::Empty,
            site: 0,
            armed: Brief::new(None),
        };
        if f.is_null() || f == ffi::Py_None() {
            let (tick, view) = tick::make()?;
            let view = Owned::from_owned(view);
            tick.start(after, None)?;
            t.tick = Some((tick, view));
        } else {
            if ffi::PyCallable_Check(f) == 0 {
                return Err(type_error(&format!(
                    "Timer needs a callable, not {}",
                    repr(f)
                )));
            }
            (t.hold, t.ctx) = context::capture()?;
            t.site = site::here();
            t.f = ffi::Py_NewRef(f);
            match t.launch(after) {
                Ok(armed) => *t.armed.alone() = Some(armed),
                Err(e) => {
                    t.drop_held();
                    return Err(e);
                }
            }
        }
        let o = local()
            .spare_timer
            .take(&TYPE)
            .unwrap_or_else(|| ffi::PyObject_GC_New::<Obj>(TYPE.get()).cast());
        if o.is_null() {
            Timer::revoke(t.armed.alone().take());
            t.drop_held();
            return Err(Raised);
        }
        (&raw mut (*o.cast::<Obj>()).weakrefs).write(null_mut());
        (&raw mut (*o.cast::<Obj>()).timer).write(t);
        ffi::PyObject_GC_Track(o.cast());
        Ok(o)
    }
}

impl Timer {
    /// Drops what it holds but the tick, which drops itself. Attached.
    unsafe fn drop_held(&mut self) {
        // SAFETY: owned or null; emptied before any code can run.
        unsafe {
            let (f, ctx) = (
                std::mem::replace(&mut self.f, null_mut()),
                std::mem::replace(&mut self.ctx, null_mut()),
            );
            ffi::Py_XDECREF(f);
            ffi::Py_XDECREF(ctx);
        }
    }
}

unsafe extern "C" fn vectorcall(
    _: *mut PyObject,
    args: *const *mut PyObject,
    nargsf: usize,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        unsafe {
            let n = ffi::PyVectorcall_NARGS(nargsf);
            if kw.is_null() && n == 2 {
                return make(*args, *args.add(1));
            }
            let [seconds, f] = parse("Timer", ["seconds", "fn"], 2, args, n, kw)?;
            make(seconds, f)
        }
    })
}

unsafe extern "C" fn new(
    _: *mut ffi::PyTypeObject,
    args: *mut PyObject,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        unsafe {
            let [seconds, f] = of_tuple("Timer", ["seconds", "fn"], args, kw)?;
            make(seconds, f)
        }
    })
}

unsafe extern "C" fn dealloc(o: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(o.cast());
        let obj = o.cast::<Obj>();
        if !(*obj).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(o);
        }
        local().deaths.end(o, drop_timer);
    }
}

unsafe fn drop_timer(o: *mut PyObject) {
    // SAFETY: the rest of `dealloc`.
    unsafe {
        let t = &mut (*o.cast::<Obj>()).timer;
        if let Some((g, _)) = t.armed.alone().take() {
            rt().release(g);
        }
        t.drop_held();
        std::ptr::drop_in_place(t);
        local().spare_timer.give(o);
    }
}

unsafe extern "C" fn traverse(o: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    let t = Timer::of(o);
    let view = t.tick.as_ref().map_or(null_mut(), |(_, v)| v.as_ptr());
    for p in [view, t.f, t.ctx] {
        if !p.is_null() {
            // SAFETY: the collector's call.
            let r = unsafe { visit(p, arg) };
            if r != 0 {
                return r;
            }
        }
    }
    0
}

unsafe extern "C" fn stop(o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        let t = Timer::of(o);
        Ok(boolean(match &t.tick {
            Some((tick, _)) => tick.stop(),
            None => t.disarm(),
        }))
    })
}

unsafe extern "C" fn reset(
    o: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let [seconds] = unsafe { parse("reset", ["seconds"], 1, args, n, kw)? };
        if seconds.is_null() {
            return Err(type_error("reset() needs a number of seconds"));
        }
        let after = sleep_nanos(seconds, "seconds")?;
        let t = Timer::of(o);
        if let Some((tick, _)) = &t.tick {
            return tick.start(after, None).map(boolean);
        }
        let was = t.disarm();
        t.arm(after)?;
        Ok(boolean(was))
    })
}

unsafe extern "C" fn chan(o: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    match &Timer::of(o).tick {
        Some((_, view)) => view.clone().into_ptr(),
        None => none(),
    }
}

/// Makes the type. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    const DOC: &CStr = c"Timer(seconds, fn=None)\n--\n
Deliver the time on ``chan`` once, ``seconds`` (a float) from now; with ``fn``, run it in a goroutine.

A function runs also if the timer was dropped, and sees a copy of the context of the place where the
timer was made; ``chan`` is then None. After ``stop`` or ``reset`` no value of before is received.
Raises ValueError below 0 and for NaN, TypeError unless ``fn`` is callable or None. Go's
``time.NewTimer`` and ``time.AfterFunc``.

>>> import gorun
>>> ran = gorun._gorun.Latch()
>>> timer = gorun.Timer(0.001, ran.set)
>>> ran.wait(10.0)
True
>>> timer = gorun.Timer(0.001)
>>> isinstance(timer.chan.recv(), float)
True
";
    // SAFETY: at import; everything set here lives for ever.
    unsafe {
        TYPE.ready(c"gorun.Timer", DOC, size_of::<Obj>(), |t| {
            t.tp_new = Some(new);
            t.tp_vectorcall = Some(vectorcall);
            t.tp_dealloc = Some(dealloc);
            t.tp_traverse = Some(traverse);
            t.tp_weaklistoffset = std::mem::offset_of!(Obj, weakrefs) as ffi::Py_ssize_t;
            t.tp_getset = getters(vec![getter(
                c"chan",
                chan,
                c"The RecvChan of a timer without a function, else None.",
            )]);
            t.tp_methods = methods(vec![
                noargs(
                    c"stop",
                    stop,
                    c"stop($self, /)\n--\n
Take it back: True if nothing was delivered or started, and then nothing will be. Go's ``Timer.Stop``.

>>> import gorun
>>> timer = gorun.Timer(3600, print)
>>> timer.stop(), timer.stop()
(True, False)
",
                ),
                fast(
                    c"reset",
                    reset,
                    c"reset($self, /, seconds)\n--\n
Set it to ``seconds`` from now: True if nothing was delivered or started. Go's ``Timer.Reset``.

Raises ValueError below 0 and for NaN; the timer is then as it was.

>>> import gorun
>>> timer = gorun.Timer(3600, print)
>>> timer.reset(7200.0), timer.stop()
(True, True)
",
                ),
            ]);
        })
    }
}
