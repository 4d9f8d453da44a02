//! `gorun._gorun`: the bindings. Convert, call, convert; what is scheduled how is decided in `gorun-core`.
//!
//! Files: `rt` (the runtime of the process), `host` (the scheduler's seam), `drive` (runs bodies), `body` (what a
//! goroutine carries), `goroutine` (its handle), `go` (makes them), `ops` (awaitables), `door` (blocking calls), `deadlock`,
//! `work` (what is waited for), `chan`, `select`, `mutex`, `gate`, `latch`, `tick`, `timer`, `scope` (cancels with an origin), `target` (whom), `info`,
//! `probe` (sysmon's view of the interpreter), `pull` (the input of a map), `link` (to worker processes), `settled`, `site`, `brief`, `args`, `errors`, `rawtype`, `unwind` (calls that may not come back).

mod args;
mod body;
mod brief;
mod chan;
mod context;
mod deadlock;
mod door;
mod drive;
mod errors;
mod gate;
mod go;
mod goroutine;
mod host;
mod info;
mod latch;
mod link;
mod local;
mod mutex;
mod ops;
mod probe;
mod pull;
mod rawtype;
mod results;
mod rt;
mod scope;
mod select;
mod settled;
mod site;
mod target;
mod tick;
mod timer;
mod unwind;
mod work;

use gorun_core::sched::WaitReason;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::errors::{Res, guard, type_error};
use crate::latch::fetched;
use crate::rawtype::{fast, function, noargs};
use crate::rt::rt;

/// `sleep(seconds)`.
unsafe extern "C" fn sleep(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let [s] = unsafe { args::parse("sleep", ["seconds"], 1, args, n, kw)? };
        if s.is_null() {
            return Err(type_error("sleep() needs a number of seconds"));
        }
        let d = args::sleep_time(s, "seconds")?;
        if d.is_zero() {
            yield_here()?;
        } else {
            door::wait::<()>(None, WaitReason::Sleep, Some(d))?;
        }
        // SAFETY: a static.
        Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) })
    })
}

/// `gosched()`.
unsafe extern "C" fn gosched(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        yield_here()?;
        // SAFETY: a static.
        Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) })
    })
}

fn yield_here() -> Res<()> {
    door::cancel_point()?;
    match rt().current_goroutine() {
        Some((m, _)) => rt().gosched_keep_m(m),
        None => host::detached(std::thread::yield_now),
    }
    Ok(())
}

/// The life of an M, called by its thread.
#[pyfunction]
fn _m_main(id: u32) {
    let guard = unwind::HangOnUnwind;
    rt().m_main(id);
    std::mem::forget(guard);
}

/// The previous number of Ps; sets it when `n` is not 0 (checked by the caller).
#[pyfunction]
fn _gomaxprocs(n: u32) -> u32 {
    if n == 0 {
        rt().procs()
    } else {
        rt().set_procs(n)
    }
}

/// Delivers a pending cancel, for operations whose wait is made of several.
#[pyfunction]
fn _cancel_point() -> PyResult<()> {
    door::cancel_point().map_err(fetched)
}

/// The limit of threads; sets it when `n` is not 0.
#[pyfunction]
fn _max_threads(n: u32) -> u32 {
    let old = rt().max_threads();
    if n > 0 {
        rt().set_max_threads(n);
    }
    old
}

/// Sets the runtime up. By the package.
#[pyfunction]
fn _init(py: Python<'_>, procs: u32, max_threads: u32) {
    errors::look_up(py);
    // SAFETY: attached, at import; a class.
    unsafe { select::install_selected(errors::selected(py).cast()) };
    if std::env::var("GORUN_FENCES").is_ok_and(|v| v == "full") {
        gorun_core::prim::asym::switch_off();
    }
    rt().set_procs(procs);
    rt().set_max_threads(max_threads);
    context::set_up();
    host::set_up_probe(rt());
}

/// In a forked child.
#[pyfunction]
fn _after_fork() {
    rt::after_fork();
}

/// The interpreter goes down.
#[pyfunction]
fn _set_finalizing() {
    rt::set_finalizing();
}

/// Stops the Ms; True if all ended within `wait` seconds. After `_set_finalizing` it is for good.
#[pyfunction]
fn _stop(wait: f64) -> bool {
    rt().stop(wait, rt::finalizing())
}

/// Begins a `blocking()` section; True if there is a goroutine whose P was given away.
#[pyfunction]
fn _blocking_enter() -> PyResult<bool> {
    let Some((m, g)) = rt().current_goroutine() else {
        return Ok(false);
    };
    door::cancel_point().map_err(fetched)?;
    let b = g.body.get();
    // SAFETY: the goroutine that runs here: its body is ours.
    unsafe {
        if (*b).blocking == 0 {
            if !rt().may_block() {
                return Err(fetched(door::too_many(rt())));
            }
            rt().hand_off(m, g);
        }
        (*b).blocking += 1;
    }
    Ok(true)
}

/// Ends it.
#[pyfunction]
fn _blocking_exit() {
    let Some((m, g)) = rt().current_goroutine() else {
        return;
    };
    let b = g.body.get();
    // SAFETY: as above.
    unsafe {
        if (*b).blocking > 0 {
            (*b).blocking -= 1;
            if (*b).blocking == 0 {
                rt().take_p_again(m, g);
            }
        }
    }
}

/// True if an asyncio loop runs on this thread.
#[pyfunction]
fn _loop_runs_here() -> bool {
    ops::loop_runs_here()
}

/// The arguments of `threading.Lock.acquire` as a time-out: None for ever, 0 to try once.
#[pyfunction]
fn _lock_limit(blocking: &Bound<'_, PyAny>, timeout: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    let limit = args::lock_args(blocking.as_ptr(), timeout.as_ptr()).map_err(fetched)?;
    Ok(limit.map_or(Some(0.0), |l| l.map(|d| d.as_secs_f64())))
}

/// True once after sysmon met the limit of threads.
#[pyfunction]
fn _take_limit_met() -> bool {
    rt().take_limit_met()
}

#[pymodule(gil_used = false)]
mod _gorun {
    use super::*;

    #[pymodule_export]
    use super::{
        _after_fork, _blocking_enter, _blocking_exit, _cancel_point, _gomaxprocs, _init,
        _lock_limit, _loop_runs_here, _m_main, _max_threads, _set_finalizing, _stop,
        _take_limit_met,
    };
    #[pymodule_export]
    use crate::deadlock::_watch_deadlocks;
    #[pymodule_export]
    use crate::gate::PyGate;
    #[pymodule_export]
    use crate::goroutine::{_report_unasked, _take, current};
    #[pymodule_export]
    use crate::info::{
        _goroutines, _live, _on_an_m, _stacks, _stats, _trace, _trace_events, _tricks,
        num_goroutine,
    };
    #[pymodule_export]
    use crate::latch::PyLatch;
    #[pymodule_export]
    use crate::link::{_look_out, PyLink};
    #[pymodule_export]
    use crate::ops::PyTold;
    #[pymodule_export]
    use crate::probe::_probe;
    #[pymodule_export]
    use crate::pull::_pull;
    #[pymodule_export]
    use crate::results::PyResults;
    #[pymodule_export]
    use crate::scope::{_cancel_again, _cancellable, _shield_enter, _shield_exit, PyScope};
    #[pymodule_export]
    use crate::tick::{PyBeat, after};

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        // SAFETY: attached; no arguments.
        if unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) } != 0 {
            return Err(pyo3::exceptions::PyImportError::new_err(
                "gorun does not work in a subinterpreter: there is one scheduler, with its threads, per process",
            ));
        }
        m.add("__version__", env!("CARGO_PKG_VERSION"))?;
        m.add(
            "__profile__",
            if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        )?;
        m.add("CountDown", m.getattr("Latch")?)?;
        // What follows may be used although the package could not be imported (a bad setting): it must not crash.
        errors::init();
        settled::set_up();
        #[cfg(not(Py_GIL_DISABLED))]
        gorun_core::prim::one_at_a_time();
        rt::make();
        // SAFETY: at import, attached, once.
        unsafe {
            goroutine::init()
                .and_then(|()| ops::init())
                .and_then(|()| chan::init())
                .and_then(|()| mutex::init())
                .and_then(|()| timer::init())
                .and_then(|()| select::init())
                .map_err(fetched)?;
            m.add(
                "Goroutine",
                Bound::from_borrowed_ptr(m.py(), goroutine::TYPE.get().cast()),
            )?;
            for (name, t) in [
                ("Chan", &chan::CHAN),
                ("RecvChan", &chan::RECV),
                ("SendChan", &chan::SEND),
                ("Mutex", &mutex::TYPE),
                ("Timer", &timer::TYPE),
            ] {
                m.add(name, Bound::from_borrowed_ptr(m.py(), t.get().cast()))?;
            }
            let defs = [
                (
                    "select",
                    fast(
                        c"select",
                        select::select,
                        c"select(*cases, default=False, timeout=None)\n--\n
Wait until one of the cases can happen, and do exactly that one; a Selected(index, value, ok).

A case is recv(ch), send(ch, v), a channel (a receive), a Goroutine (its end), or None (never). Of
several that are ready each is as likely. With default=True nothing is waited for: the index is -1 if
nothing is ready. Raises TimeoutError after timeout seconds, ChannelClosed for a send on a closed
channel, TypeError for anything else as a case. A cancel point. Go's select.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> gorun.select(gorun.send(ch, 'hello'), None)
Selected(index=0, value=None, ok=True)
>>> gorun.select(ch, timeout=1.0)
Selected(index=0, value='hello', ok=True)
",
                    ),
                ),
                (
                    "select_async",
                    fast(
                        c"select_async",
                        select::select_async,
                        c"select_async(*cases, default=False, timeout=None)\n--\n\nAs select, awaited.",
                    ),
                ),
                (
                    "recv",
                    fast(
                        c"recv",
                        select::recv,
                        c"recv(ch)\n--\n
A case of select: receive from ch, a channel, or None for never.

>>> import gorun
>>> gorun.select(gorun.recv(None), default=True).index
-1
",
                    ),
                ),
                (
                    "send",
                    fast(
                        c"send",
                        select::send,
                        c"send(ch, v)\n--\n
A case of select: send v on ch, a channel, or None for never.

>>> import gorun
>>> ch = gorun.Chan(1)
>>> gorun.select(gorun.send(ch, 'a')).index, ch.recv()
(0, 'a')
",
                    ),
                ),
                (
                    "go",
                    fast(
                        c"go",
                        go::go,
                        c"go(fn, /, *args, **kwargs)\n--\n
Run fn(*args, **kwargs) in a goroutine and return its handle, a Goroutine.

fn is an async def function, any other callable, or a coroutine object (then without arguments).
The call itself happens in the goroutine: go runs no user code and is no cancel point. Raises
TypeError for anything else, RuntimeError for a coroutine that was started already and while the
interpreter goes down. Go's go statement.

>>> import gorun
>>> gorun.go(pow, 2, 5).result()
32
",
                    ),
                ),
                (
                    "_spawn",
                    fast(
                        c"_spawn",
                        go::spawn,
                        c"_spawn(fn, args, kwargs, name, tags)\n--\n\nSee gorun.spawn.",
                    ),
                ),
                (
                    "go_many",
                    fast(
                        c"go_many",
                        go::go_many,
                        c"go_many(fn, iterable, /)\n--\n
Run fn(item) in a goroutine for each item; the list of their handles, in the items' order.

They are submitted in batches, once the iterable is exhausted: cheaper than as many calls of go.
Raises TypeError unless fn is callable, and what the iterable raises (then nothing was started).

>>> import gorun
>>> [g.result() for g in gorun.go_many(abs, [-1, -2])]
[1, 2]
",
                    ),
                ),
                (
                    "sleep",
                    fast(
                        c"sleep",
                        sleep,
                        c"sleep(seconds)\n--\n
Block the calling thread or goroutine for so many seconds (a float, counted by time.monotonic).

A goroutine gives its P away meanwhile; 0 is a gosched. A cancel point. Raises ValueError below 0
and for NaN, TypeError unless it is a number. Go's time.Sleep.

>>> import gorun
>>> gorun.sleep(0.001)
",
                    ),
                ),
                (
                    "gosched",
                    noargs(
                        c"gosched",
                        gosched,
                        c"gosched()\n--\n
Give the P away once, so that another goroutine can run; a cancel point.

A plain goroutine keeps its thread and queues for a P again. In a thread that runs no goroutine it
yields to other threads. Go's runtime.Gosched.

>>> import gorun
>>> gorun.gosched()
",
                    ),
                ),
                (
                    "sleep_async",
                    fast(
                        c"sleep_async",
                        ops::sleep_async,
                        c"sleep_async(seconds)\n--\n
As sleep, awaited by a goroutine or an asyncio task.

>>> import gorun
>>> async def main() -> str:
...     await gorun.sleep_async(0.001)
...     return 'awake'
>>> gorun.run(main)
'awake'
",
                    ),
                ),
                (
                    "gosched_async",
                    noargs(
                        c"gosched_async",
                        ops::gosched_async,
                        c"gosched_async()\n--\n
As gosched, awaited by a goroutine or an asyncio task.

>>> import gorun
>>> async def main() -> str:
...     await gorun.gosched_async()
...     return 'again'
>>> gorun.run(main)
'again'
",
                    ),
                ),
            ];
            for (name, def) in defs {
                m.add(name, Bound::from_owned_ptr_or_err(m.py(), function(def))?)?;
            }
        }
        settled::settle_module(m)
    }
}
