//! `Timer`. With a function: a dormant goroutine that a wheel entry makes runnable.
//!
//! One compare-and-swap decides between firing and `stop`: the goroutine either runs, or is freed unrun. The runtime
//! holds a pending timer, so it fires also when its handle was dropped. Without: see `tick.rs`.

use std::sync::Arc;

use gorun_core::prim::Lock;
use gorun_core::sched::{Ticket, flag};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::args::sleep_time;
use crate::body::Form;
use crate::context::{self, Hold};
use crate::errors::{Raised, Res, repr, type_error};
use crate::latch::fetched;
use crate::rt::{PyG, rt};
use crate::tick::{self, Tick};
use crate::{go, site};

/// Deliver the time on ``chan`` once, ``seconds`` (a float) from now; with ``fn``, run it in a goroutine.
///
/// A function runs also if the timer was dropped, and sees a copy of the context of the place where the
/// timer was made; ``chan`` is then None. After ``stop`` or ``reset`` no value of before is received.
/// Raises ValueError below 0 and for NaN, TypeError unless ``fn`` is callable or None. Go's
/// ``time.NewTimer`` and ``time.AfterFunc``.
///
/// >>> import gorun
/// >>> ran = gorun._gorun.Latch()
/// >>> timer = gorun.Timer(0.001, ran.set)
/// >>> ran.wait(10.0)
/// True
/// >>> timer = gorun.Timer(0.001)
/// >>> isinstance(timer.chan.recv(), float)
/// True
#[pyclass(frozen, name = "Timer", module = "gorun", weakref)]
pub struct PyTimer {
    /// Without a function: what delivers, and the RecvChan.
    tick: Option<(Arc<Tick>, Py<PyAny>)>,
    f: Py<PyAny>,
    /// The context of the place where it was made, held as `go` holds it.
    hold: Hold,
    ctx: Option<Py<PyAny>>,
    site: u32,
    /// The armed goroutine; one reference is ours.
    armed: Lock<Option<(PyG, Ticket)>>,
}

impl PyTimer {
    fn arm(&self, py: Python<'_>, after: std::time::Duration) -> Res<()> {
        let rt = go::started()?;
        let ctx = match (&self.ctx, self.hold) {
            // Each run needs a context of its own; a snapshot is shared until a run changes it.
            // SAFETY: attached; a context.
            (Some(c), Hold::Own) => unsafe { ffi::PyContext_Copy(c.as_ptr()) },
            (Some(c), _) => c.clone_ref(py).into_ptr(),
            (None, _) => std::ptr::null_mut(),
        };
        if ctx.is_null() && self.ctx.is_some() {
            return Err(Raised);
        }
        let f = self.f.clone_ref(py).into_ptr();
        let deadline = rt.now().saturating_add(nanos(after));
        let (g, ticket) = rt.dormant(flag::TIMER, |g| {
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
        g.retain();
        rt.add_timer(&g, deadline, ticket);
        // Another `reset` may have come in between: the last one counts.
        let old = self.armed.lock().replace((g, ticket));
        Self::revoke(old);
        Ok(())
    }

    fn disarm(&self) -> bool {
        let armed = self.armed.lock().take();
        Self::revoke(armed)
    }

    fn revoke(armed: Option<(PyG, Ticket)>) -> bool {
        let Some((g, ticket)) = armed else {
            return false;
        };
        let rt = rt();
        let won = g.epoch.load(std::sync::atomic::Ordering::Relaxed) == rt.epoch()
            && g.waker.word.revoke(ticket);
        if won {
            rt.drop_timer(&g);
            rt.release(g);
        }
        rt.release(g);
        won
    }
}

fn nanos(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[pymethods]
impl PyTimer {
    #[new]
    #[pyo3(signature = (seconds, r#fn=None))]
    fn new(
        py: Python<'_>,
        seconds: &Bound<'_, PyAny>,
        r#fn: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let after = sleep_time(seconds.as_ptr(), "seconds").map_err(fetched)?;
        let Some(f) = r#fn.filter(|f| !f.is_none()) else {
            let (tick, view) = tick::make().map_err(fetched)?;
            // SAFETY: owned.
            let view = unsafe { Bound::from_owned_ptr(py, view) }.unbind();
            tick.start(nanos(after), None).map_err(fetched)?;
            return Ok(Self {
                tick: Some((tick, view)),
                f: py.None(),
                hold: Hold::Empty,
                ctx: None,
                site: 0,
                armed: Lock::new(None),
            });
        };
        if !f.is_callable() {
            return Err(fetched(type_error(&format!(
                "Timer needs a callable, not {}",
                repr(f.as_ptr())
            ))));
        }
        // SAFETY: attached; an owned context or null.
        let (hold, ctx, site) = unsafe {
            let (hold, ctx) = context::capture().map_err(fetched)?;
            (hold, Bound::from_owned_ptr_or_opt(py, ctx), site::here())
        };
        let t = Self {
            tick: None,
            f: f.unbind(),
            hold,
            ctx: ctx.map(Bound::unbind),
            site,
            armed: Lock::new(None),
        };
        t.arm(py, after).map_err(fetched)?;
        Ok(t)
    }

    /// Take it back: True if nothing was delivered or started, and then nothing will be. Go's ``Timer.Stop``.
    ///
    /// >>> import gorun
    /// >>> timer = gorun.Timer(3600, print)
    /// >>> timer.stop(), timer.stop()
    /// (True, False)
    fn stop(&self) -> bool {
        match &self.tick {
            Some((tick, _)) => tick.stop(),
            None => self.disarm(),
        }
    }

    /// Set it to ``seconds`` from now: True if nothing was delivered or started. Go's ``Timer.Reset``.
    ///
    /// Raises ValueError below 0 and for NaN; the timer is then as it was.
    ///
    /// >>> import gorun
    /// >>> timer = gorun.Timer(3600, print)
    /// >>> timer.reset(7200.0), timer.stop()
    /// (True, True)
    fn reset(&self, py: Python<'_>, seconds: &Bound<'_, PyAny>) -> PyResult<bool> {
        let after = sleep_time(seconds.as_ptr(), "seconds").map_err(fetched)?;
        if let Some((tick, _)) = &self.tick {
            return tick.start(nanos(after), None).map_err(fetched);
        }
        let was = self.disarm();
        self.arm(py, after).map_err(fetched)?;
        Ok(was)
    }

    /// The RecvChan of a timer without a function, else None.
    #[getter]
    fn chan(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.tick.as_ref().map(|(_, view)| view.clone_ref(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some((_, view)) = &self.tick {
            visit.call(view)?;
        }
        visit.call(&self.f)?;
        visit.call(&self.ctx)
    }
}

impl Drop for PyTimer {
    fn drop(&mut self) {
        if let Some((g, _)) = self.armed.lock().take() {
            rt().release(g);
        }
    }
}
