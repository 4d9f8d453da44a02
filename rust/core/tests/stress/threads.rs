//! A host for threads alone: no goroutines, no Ms, no interpreter.

use std::ptr::null;

use gorun_core::host::{Host, Outcome};
use gorun_core::runtime::Runtime;
use gorun_core::sched::{GRef, M};

/// The host.
pub struct Threads;

/// Its runtime.
pub type Rt = &'static Runtime<Threads>;

impl Host for Threads {
    type Body = ();
    type Ext = ();

    const GIL: bool = false;

    fn resume(_: Rt, _: &M<Self>, _: GRef<Self>, _: bool) -> Outcome {
        unreachable!("no goroutines")
    }

    fn reset(_: Rt, _: GRef<Self>) -> bool {
        true
    }

    fn start_thread(_: Rt, _: u32) -> Result<(), String> {
        Err("no Ms".into())
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    fn current() -> *const M<Self> {
        null()
    }

    fn set_current(_: *const M<Self>) {}

    fn m_started(_: Rt, _: u32) {}

    fn m_stopping(_: Rt, _: u32) {}
}
