//! The door between the worlds for blocking calls: wait detached, check signals, map the end to Python's errors.

use std::time::Duration;

use gorun_core::sched::WaitReason;
use gorun_core::wait::{End, Latch, Next, block, block_on};
use pyo3::ffi::{self, PyObject};

use crate::deadlock::{self, Watch};
use crate::errors::{Raised, Res, attached, set, thread_limit};
use crate::rt::{Rt, left_behind, rt};
use crate::work::{Job, Work};
use crate::{goroutine, target};

/// The longest that the main thread sleeps without a look at signals. A signal that wakes it is seen at once.
const SLICE: Duration = Duration::from_millis(50);

/// How a wait ended for the caller: an error is set otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    Ready,
    Timeout,
}

fn on_main_thread() -> bool {
    // On Linux the main thread's number is the process's.
    crate::rt::this_thread() == std::process::id()
}

/// What the main thread does while it is aside: runs signal handlers; now and then it asks for a look for a deadlock.
fn check(rt: Rt, watch: &mut Watch) -> Res<Next> {
    // SAFETY: attached.
    if unsafe { ffi::PyErr_CheckSignals() } != 0 {
        return Err(Raised);
    }
    Ok(watch.turn(rt))
}

/// The wait was ended because nothing can happen any more.
fn deadlocked(rt: Rt, main: bool, reason: WaitReason) -> Raised {
    if main {
        deadlock::report(rt, reason)
    } else {
        deadlock::raise_again()
    }
}

/// Waits for a latch (or, without one, for the time alone) as the calling thread or goroutine. Attached.
pub fn wait<E>(
    latch: Option<&Latch<E>>,
    reason: WaitReason,
    timeout: Option<Duration>,
) -> Res<Waited> {
    let rt = rt();
    let main = on_main_thread();
    let slice = main.then_some(SLICE);
    let mut watch = Watch::new();
    let end = block(rt, latch, reason, timeout, slice, || check(rt, &mut watch))?;
    over(rt)?;
    match end {
        End::Ready => Ok(Waited::Ready),
        End::Timeout => Ok(Waited::Timeout),
        End::Cancelled => Err(goroutine::raise_cancelled(rt)),
        End::ThreadLimit => Err(too_many(rt)),
        End::Deadlock => Err(deadlocked(rt, main, reason)),
    }
}

/// Does `work` as the calling thread or goroutine, within `limit`: a cancel point. Attached.
pub fn perform(work: &mut Work, limit: Option<Duration>) -> Res<*mut PyObject> {
    cancel_point()?;
    if work.attempt()? {
        return work.result();
    }
    wait_for(work, limit)
}

/// As `perform`, when it was tried already.
pub fn wait_for(work: &mut Work, limit: Option<Duration>) -> Res<*mut PyObject> {
    let rt = rt();
    let main = on_main_thread();
    let (reason, slice) = (work.reason(), main.then_some(SLICE));
    let mut watch = Watch::new();
    let end = match block_on(rt, work, reason, limit, slice, || check(rt, &mut watch)) {
        Ok(end) => end,
        Err(raised) => {
            work.cut();
            return Err(raised);
        }
    };
    over(rt)?;
    match end {
        End::Ready => work.result(),
        End::Timeout => work.timed_out(),
        End::Cancelled => {
            let raised = goroutine::raise_cancelled(rt);
            work.cut();
            Err(raised)
        }
        End::ThreadLimit => {
            let raised = too_many(rt);
            work.cut();
            Err(raised)
        }
        End::Deadlock => {
            let raised = deadlocked(rt, main, reason);
            work.cut();
            Err(raised)
        }
    }
}

/// An error if the interpreter goes down and leaves this thread behind.
fn over(rt: Rt) -> Res<()> {
    if left_behind() && rt.current_goroutine().is_none() {
        return Err(end_thread());
    }
    Ok(())
}

/// A daemon thread whose wait ends because the interpreter goes down: it ends as quietly as Python lets it. What it
/// waited for was cancelled by the exit, and nobody could make sense of a traceback that says so.
fn end_thread() -> Raised {
    // SAFETY: attached; statics of the interpreter.
    unsafe { ffi::PyErr_SetNone(ffi::PyExc_SystemExit) };
    Raised
}

/// Delivers a pending cancel to the goroutine, or the thread inside a scope, that runs here.
pub fn cancel_point() -> Res<()> {
    match rt().current_goroutine() {
        Some((_, g)) if g.waker.word.take_cancel() => Err(goroutine::deliver(g)),
        None => target::thread_cancel_point(),
        _ => Ok(()),
    }
}

/// Sets ThreadLimit.
pub fn too_many(rt: Rt) -> Raised {
    set(
        thread_limit(attached()),
        &format!(
            "this call would block the last free thread: max_threads is {0} and all {0} are in use; raise it with \
             gorun.configure(max_threads=...) or GORUN_MAX_THREADS, or await instead of blocking",
            rt.max_threads()
        ),
    )
}
