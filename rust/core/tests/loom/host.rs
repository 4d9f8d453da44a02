//! The host of the models: no bodies, no interpreter, a clock that stands still unless it is set.

use std::cell::Cell;
use std::ptr::null;

use gorun_core::host::{Host, Outcome};
use gorun_core::runtime::Runtime;
use gorun_core::sched::{GRef, M};

/// The host of "GIL builds" and of free-threaded ones.
pub struct Model<const GIL: bool>;

/// Its runtime.
pub type Rt<const GIL: bool> = &'static Runtime<Model<GIL>>;

/// What the clock shows.
#[allow(dead_code, reason = "not every model has timers")]
pub const NOW: u64 = 1 << 20;

std::thread_local! {
    // All threads of a model run on one of the machine's.
    static CLOCK: Cell<u64> = const { Cell::new(NOW) };
}

/// What the clock shows from now on.
#[allow(dead_code, reason = "not every model lets time pass")]
pub fn set_clock(ns: u64) {
    CLOCK.set(ns);
}

loom::thread_local! {
    static CURRENT: Cell<*const ()> = Cell::new(null());
}

impl<const GIL: bool> Host for Model<GIL> {
    type Body = ();
    type Ext = ();

    fn now_ns() -> u64 {
        CLOCK.get()
    }

    const GIL: bool = GIL;

    fn resume(_: Rt<GIL>, _: &M<Self>, _: GRef<Self>, _: bool) -> Outcome {
        unreachable!("models run no bodies")
    }

    fn reset(_: Rt<GIL>, g: GRef<Self>) -> bool {
        drop(g.take_latch());
        true
    }

    fn start_thread(_: Rt<GIL>, _: u32) -> Result<(), String> {
        unreachable!("max_threads is 0")
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    fn current() -> *const M<Self> {
        CURRENT.with(Cell::get).cast()
    }

    fn set_current(m: *const M<Self>) {
        CURRENT.with(|c| c.set(m.cast()));
    }

    fn m_started(_: Rt<GIL>, _: u32) {}

    fn m_stopping(_: Rt<GIL>, _: u32) {}
}
