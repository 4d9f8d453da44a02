//! The host of the unit tests: no bodies, no interpreter, no threads of its own.

use std::cell::Cell;
use std::ptr::null;

use crate::host::{Host, Outcome};
use crate::runtime::Runtime;
use crate::sched::{GRef, M};

/// The host. Goroutines carry nothing and are never run.
pub struct Bare;

/// Its runtime.
pub type Rt = &'static Runtime<Bare>;

thread_local! {
    static CURRENT: Cell<*const M<Bare>> = const { Cell::new(null()) };
}

impl Host for Bare {
    type Body = ();
    type Ext = u32;

    fn gil() -> bool {
        false
    }

    fn resume(_: Rt, _: &M<Self>, _: GRef<Self>, _: bool) -> Outcome {
        unreachable!("no bodies")
    }

    fn reset(_: Rt, g: GRef<Self>) -> bool {
        drop(g.take_latch());
        true
    }

    fn start_thread(_: Rt, _: u32) -> Result<(), String> {
        Err("no threads here".into())
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    fn current() -> *const M<Self> {
        CURRENT.get()
    }

    fn set_current(m: *const M<Self>) {
        CURRENT.set(m);
    }

    fn m_started(_: Rt, _: u32) {}

    fn m_stopping(_: Rt, _: u32) {}
}

/// A runtime without threads.
pub fn rt(procs: u32) -> Rt {
    Runtime::leak(procs, 100)
}

/// Runs `f` on a thread that passes for an M.
pub fn on_m<R>(m: &M<Bare>, f: impl FnOnce() -> R) -> R {
    Bare::set_current(m);
    let r = f();
    Bare::set_current(null());
    r
}

/// xorshift64*.
pub struct Rng(pub u64);

impl Rng {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}
