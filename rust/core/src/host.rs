//! The seam to what is run: the core schedules bodies of any kind, the Python layer (or a test) says what a body is.
//!
//! Invariants: the core calls `resume`, `reset` and `start_thread` only on an attached M outside the scheduler (mode
//! Body), so that they may run any user code; it calls `detached` around every wait.

use crate::runtime::Runtime;
use crate::sched::{GRef, M};
use crate::timer::{Clock, MonotonicClock};

/// How one step of a goroutine ended.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has ended; `Runtime::finish` was called.
    Done,
    /// It gives its P away once.
    Yield,
    /// It has parked; it may run on another M already.
    Parked,
}

/// What the embedder provides.
pub trait Host: Sized + Send + Sync + 'static {
    /// What a goroutine carries.
    type Body: Default;
    /// What lies beside the joiners under the latch's lock (callbacks, a name): rarely there.
    type Ext: Default;

    /// Monotonic nanoseconds. Python's `time.monotonic`; tests put a clock of their own here.
    fn now_ns() -> u64 {
        MonotonicClock.now_ns()
    }
    /// True if only one M at a time runs bodies (a GIL build): whoever is attached is so alone.
    const GIL: bool;
    /// Runs one step. `cancelled`: a cancel is pending and this is the moment to see it, if the body never began.
    fn resume(rt: &'static Runtime<Self>, m: &M<Self>, g: GRef<Self>, cancelled: bool) -> Outcome;
    /// Drops what the body and the latch hold: the last reference is gone. False if a new reference was made meanwhile
    /// (somebody kept the handle that reported an error): then the G lives on.
    fn reset(rt: &'static Runtime<Self>, g: GRef<Self>) -> bool;
    /// Starts the thread of M number `id`, which calls `Runtime::m_main(id)`.
    fn start_thread(rt: &'static Runtime<Self>, id: u32) -> Result<(), String>;
    /// Runs `f` without the interpreter.
    fn detached<R>(f: impl FnOnce() -> R) -> R;
    /// The M of this thread, or null.
    fn current() -> *const M<Self>;
    /// Sets the M of this thread.
    fn set_current(m: *const M<Self>);
    /// True if the calling thread has more to do than to wait (an event loop runs on it): then it is never part of a
    /// deadlock. Attached.
    fn tied() -> bool {
        false
    }
    /// Called on the M's thread, attached, before its first goroutine; what sysmon needs to look at it.
    fn m_started(rt: &'static Runtime<Self>, id: u32);
    /// Called on the M's thread, attached, before it ends.
    fn m_stopping(rt: &'static Runtime<Self>, id: u32);
}
