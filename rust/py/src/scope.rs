//! A scope: cancels the goroutine or thread that entered it, with an origin of its own, by hand or when its time is up.
//! `timeout` and `Group` stand on it.
//!
//! # Protocol
//! Who fires: anybody (`fire`), or the wheel, through a dormant goroutine that calls the scope on an M (what fires a
//! timer may be detached; the list of a target is locked by attached threads only). Who claims: the scope's lock.
//!
//! | end | what happens |
//! |---|---|
//! | fired before it is left | the target is asked, under the scope's lock; once. Delivered at the target's next cancel point, or withdrawn by `leave` |
//! | left | under the same lock: whoever fires later finds it ended. Its undelivered cancel is withdrawn, its timer revoked |
//! | fired in that very moment | the lock decides; the one who leaves learns what it was |
//! | left elsewhere than entered | it is ended all the same, and the caller is told |
//! | dropped without being left (a generator that was never finished) | its timer keeps it alive and fires |
//! | fork | a child's copy never fires: its timer is the parent's; `leave` works |
//! | exit | nobody fires |
//!
//! Lock order: the scope's lock, then the target's list. Both are taken attached, with no safe point inside.

use gorun_core::prim::Lock;
use gorun_core::sched::{Ticket, flag};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::args::timeout;
use crate::body::{Form, Owned};
use crate::go;
use crate::latch::fetched;
use crate::rt::{PyG, rt};
use crate::target::{Target, next_origin};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Open,
    Ended,
}

struct State {
    phase: Phase,
    fired: bool,
    origin: u64,
    /// Open only.
    target: Option<Target>,
    /// The dormant goroutine of the timer; one reference is ours.
    timer: Option<(PyG, Ticket)>,
}

/// See the file head.
#[pyclass(frozen, name = "_Scope", module = "gorun")]
pub struct PyScope(Lock<State>);

fn revoke(timer: Option<(PyG, Ticket)>) {
    let Some((g, ticket)) = timer else { return };
    let rt = rt();
    if g.epoch.load(std::sync::atomic::Ordering::Relaxed) == rt.epoch()
        && g.waker.word.revoke(ticket)
    {
        rt.drop_timer(&g);
        rt.release(g);
    }
    rt.release(g);
}

#[pymethods]
impl PyScope {
    #[new]
    fn new() -> Self {
        Self(Lock::new(State {
            phase: Phase::New,
            fired: false,
            origin: 0,
            target: None,
            timer: None,
        }))
    }

    /// Begins it, for what runs here.
    fn enter(&self) -> PyResult<()> {
        let target = Target::enter();
        let fresh = {
            let mut s = self.0.lock();
            let fresh = s.phase == Phase::New;
            if fresh {
                s.phase = Phase::Open;
                s.origin = next_origin();
                s.target = Some(target);
            }
            fresh
        };
        if fresh {
            return Ok(());
        }
        target.exit();
        Err(PyRuntimeError::new_err("a scope is entered once"))
    }

    /// Cancels what entered it; False if it was fired before or is not open.
    #[pyo3(signature = (reason=None))]
    fn fire(&self, reason: Option<Bound<'_, PyAny>>) -> bool {
        // SAFETY: attached; a valid object.
        let reason = reason.map(|r| unsafe { Owned::new(r.as_ptr()) });
        let (asked, unused) = {
            let mut s = self.0.lock();
            match s.target {
                Some(t) if s.phase == Phase::Open && !s.fired && t.is_ours() => {
                    s.fired = true;
                    let origin = s.origin;
                    let (said, unused) = t.with(|c, word| c.ask(word, origin, reason));
                    // The target is kept for the waking: the owner may leave as soon as the lock is free, but one whose
                    // wait was cut does not go on before it is woken.
                    (Some((t, said)), unused)
                }
                _ => (None, reason),
            }
        };
        drop(unused);
        let Some((t, said)) = asked else { return false };
        t.wake_if(said);
        true
    }

    fn __call__(&self) {
        self.fire(None);
    }

    /// Fires after so many seconds (None: never, at or below 0: now), in the place of an earlier timer.
    #[pyo3(signature = (seconds))]
    fn set_timer(slf: &Bound<'_, Self>, seconds: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let this = slf.get();
        let after =
            timeout(seconds.map_or(std::ptr::null_mut(), Bound::as_ptr)).map_err(fetched)?;
        let old = this.0.lock().timer.take();
        revoke(old);
        let Some(after) = after else { return Ok(()) };
        if after.is_zero() {
            this.fire(None);
            return Ok(());
        }
        let rt = go::started().map_err(fetched)?;
        let what = slf.clone().into_any().into_ptr();
        let (g, ticket) = rt.dormant(flag::INTERNAL, |g| {
            let b = g.body.get();
            // SAFETY: a vacant G's body; it takes over the reference.
            unsafe {
                (*b).what = what;
                (*b).form = Form::Wake;
            }
        });
        g.retain();
        let deadline = rt
            .now()
            .saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
        rt.add_timer(&g, deadline, ticket);
        let old = {
            let mut s = this.0.lock();
            if s.phase == Phase::Open {
                s.timer.replace((g, ticket))
            } else {
                Some((g, ticket))
            }
        };
        revoke(old);
        Ok(())
    }

    /// Ends it: True if it was fired. Its cancel does not arrive any more. RuntimeError if something else entered it.
    fn leave(&self) -> PyResult<bool> {
        let (target, timer, fired, unused) = {
            let mut s = self.0.lock();
            let Some(t) = s.target.take() else {
                return Err(PyRuntimeError::new_err("the scope is not open"));
            };
            s.phase = Phase::Ended;
            let origin = s.origin;
            let unused = t.with(|c, word| c.withdraw(word, origin));
            (t, s.timer.take(), s.fired, unused)
        };
        drop(unused);
        revoke(timer);
        if target.is_here() {
            target.exit();
            return Ok(fired);
        }
        target.abandon();
        Err(PyRuntimeError::new_err(
            "the scope was entered by another goroutine or thread than leaves it",
        ))
    }

    /// Its number, as `Cancelled._origin` says it; 0 before it is entered.
    #[getter]
    fn origin(&self) -> u64 {
        self.0.lock().origin
    }

    /// True once fired.
    #[getter]
    fn fired(&self) -> bool {
        self.0.lock().fired
    }

    /// True between `enter` and `leave`.
    #[getter]
    fn is_open(&self) -> bool {
        self.0.lock().phase == Phase::Open
    }
}

impl Drop for PyScope {
    fn drop(&mut self) {
        let (target, timer) = {
            let mut s = self.0.lock();
            (s.target.take(), s.timer.take())
        };
        revoke(timer);
        if let Some(t) = target {
            t.abandon();
        }
    }
}

/// True if what runs here can be cancelled: a goroutine, or a thread inside a scope.
#[pyfunction]
pub fn _cancellable() -> bool {
    Target::current().is_some()
}

/// Holds back what is outside; the previous mark for `_shield_exit`, None where nothing can be cancelled.
#[pyfunction]
pub fn _shield_enter() -> Option<u64> {
    Target::current().map(|t| t.with(|c, word| c.set_shield(word, next_origin())))
}

/// Ends the innermost shield.
#[pyfunction]
pub fn _shield_exit(before: u64) {
    if let Some(t) = Target::current() {
        t.with(|c, word| c.set_shield(word, before));
    }
}

/// Makes a cancel that was delivered here pending again.
#[pyfunction]
pub fn _cancel_again(origin: u64, reason: Bound<'_, PyAny>) {
    if let Some(t) = Target::current() {
        // SAFETY: attached; a valid object.
        let reason = (!reason.is_none()).then(|| unsafe { Owned::new(reason.as_ptr()) });
        let (said, unused) = t.with(|c, word| c.ask_again(word, origin, reason));
        drop(unused);
        t.wake_if(said);
    }
}
