//! `Deadlock`: when the main thread looks whether anything can still happen, and what becomes of it if not. How it looks,
//! and why there is no false alarm: `rust/core/src/sched/quiet.rs`.
//!
//! # Protocol
//! Each slice of a wait of the main thread ends aside, where signal handlers run (`door.rs`). There the watch asks for a look,
//! if nothing seems to go on and no signal has a handler. The look itself comes when the thread has registered and parked
//! again. In between no Python runs, and handlers are set by this thread only.
//!
//! Until something is found, no line of Python runs for it, and nothing can fail: a wait that would have ended well does
//! not raise because somebody looked (near the limit of recursion, with hooks of a profiler, with `signal` patched).
//!
//! Found, the thread leaves its wait, and makes the text while the others still stand where they stood; then they are cut,
//! then all raise. Each thread that is cut takes the text from `WHY`; goroutines are left alone.
//!
//! It costs, per slice of 50 ms, a few loads per P; where that says that all is quiet, 64 calls into the interpreter and a look (one
//! per M and thread that waits, and a system call), at growing distances up to a second.

use std::sync::atomic::{AtomicBool, Ordering};

use gorun_core::prim::Lock;
use gorun_core::sched::WaitReason;
use gorun_core::wait::Next;
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::{self, Raised, attached, raise, set};
use crate::rt::Rt;

/// Most slices between two looks.
const MAX_PAUSE: u32 = 20;

static ON: AtomicBool = AtomicBool::new(true);

/// The text of the last deadlock, for the threads that were cut.
static WHY: Lock<String> = Lock::new(String::new());

/// Turns the detection on or off. By the package, at import.
#[pyfunction]
pub fn _watch_deadlocks(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

/// When the next look of one wait comes.
pub struct Watch {
    left: u32,
    pause: u32,
}

impl Watch {
    /// Of a wait that begins.
    pub const fn new() -> Self {
        Self { left: 0, pause: 0 }
    }

    /// After a slice, aside and attached.
    pub fn turn(&mut self, rt: Rt) -> Next {
        if !ON.load(Ordering::Relaxed) || !rt.seems_quiet() {
            return Next::Sleep;
        }
        if self.left > 0 {
            self.left -= 1;
            return Next::Sleep;
        }
        self.pause = (2 * self.pause + 1).min(MAX_PAUSE);
        self.left = self.pause;
        if (1..=libc::SIGRTMAX()).any(is_handled) {
            return Next::Sleep;
        }
        Next::Look
    }
}

/// True if a signal calls Python: a handler other than the default one for SIGINT; also if that cannot be told. Runs no
/// handler: it calls a function of C, which does not look at pending signals.
fn is_handled(number: i32) -> bool {
    let py = attached();
    // SAFETY: attached; the interpreter's own function, which we own, and owned references.
    unsafe {
        let n = ffi::PyLong_FromLong(number.into());
        let handler = if n.is_null() {
            n
        } else {
            let handler = ffi::PyObject_CallOneArg(errors::getsignal(py), n);
            ffi::Py_DECREF(n);
            handler
        };
        if handler.is_null() {
            ffi::PyErr_Clear();
            return true;
        }
        let default = number == libc::SIGINT && handler == errors::default_int_handler(py);
        let handled = !default && ffi::PyCallable_Check(handler) != 0;
        ffi::Py_DECREF(handler);
        handled
    }
}

/// The main thread has found one: makes the text, cuts the others, raises.
pub fn report(rt: Rt, reason: WaitReason) -> Raised {
    let py = attached();
    // SAFETY: a callable that lives as long as the module.
    let describe = unsafe { Bound::from_borrowed_ptr(py, errors::describe(py)) };
    let mut waits = rt.found();
    waits.push((crate::rt::this_thread(), reason.name()));
    let text = match describe.call1((waits,)).and_then(|t| t.extract::<String>()) {
        Ok(text) => text,
        // Ctrl-C wins. The others are found once more, if this thread comes back.
        Err(e) if !e.is_instance_of::<PyException>(py) => return raise(e),
        Err(e) => format!("every goroutine is asleep, and nothing can wake one; no dump: {e}"),
    };
    WHY.lock().clone_from(&text);
    rt.cut_found();
    set(errors::deadlock(py), &text)
}

/// Another thread was cut.
pub fn raise_again() -> Raised {
    let text = WHY.lock().clone();
    set(errors::deadlock(attached()), &text)
}
