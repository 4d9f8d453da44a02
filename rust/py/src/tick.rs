//! Timers that deliver on a channel: `after`, `Timer(seconds)`, `Ticker`. The wheel makes a dormant goroutine of the
//! runtime's own runnable; its only step sends the time on the channel, and starts the next period.
//!
//! Who delivers: that step, under this timer's lock, if its turn is still the current one. Who claims: `stop` and `start`
//! begin a new turn under the same lock and empty the channel, so no value of an old turn is ever received after them.
//!
//! Life: the channel's Python object owns the timer; when it goes, the timer stops. The step that is under way owns a
//! reference to the shared parts, and finds its turn over. Nobody waits here: who receives has the ends of a channel
//! (`gorun_core::chan`).
//!
//! | end of the timer | what happens |
//! |---|---|
//! | due | the step sends the time, or loses it if the last one was not received; a period begins anew |
//! | `stop`, `reset`, the channel's object goes | the turn is over, its entry revoked, the buffer emptied |
//! | receiver timed out, cancelled, interrupted, on a closed event loop | the timer goes on; a tick that nobody took lies in the buffer |
//! | `shutdown` | it stands still until `go` or a wait starts the runtime again, then fires late |
//! | fork | the child's wheel is empty: it does not tick there until it is reset |
//! | exit | it does not fire any more |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gorun_core::prim::Lock;
use gorun_core::sched::{Ticket, flag};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::args::{seconds, sleep_time};
use crate::body::{Form, Owned};
use crate::chan::{self, Core, RECV};
use crate::errors::{Res, repr, value_error};
use crate::latch::fetched;
use crate::rt::{PyG, rt};
use crate::work::none;

#[derive(Default)]
struct Turn {
    /// Changes whenever what was armed before must not deliver any more.
    number: u64,
    armed: Option<(PyG, Ticket)>,
    /// It will deliver (again).
    active: bool,
    /// When it is due, and what comes after; nanoseconds.
    due: u64,
    period: Option<u64>,
}

/// What channel, timer object and the step under way share.
pub struct Tick {
    core: Arc<Core>,
    turn: Lock<Turn>,
}

/// What the body of a step owns.
pub struct Step {
    tick: Arc<Tick>,
    number: u64,
}

impl Tick {
    /// For the channel `core`; not started.
    pub fn new(core: Arc<Core>) -> Arc<Self> {
        let tick = Arc::new(Self {
            core: core.clone(),
            turn: Lock::new(Turn::default()),
        });
        *core.timer.lock() = Some(tick.clone());
        tick
    }

    /// Starts it anew: due after `after` nanoseconds, then every `period`. True if it was active before.
    pub fn start(self: &Arc<Self>, after: u64, period: Option<u64>) -> Res<bool> {
        let rt = crate::go::started()?;
        let was = self.stop();
        let number = {
            let mut t = self.turn.lock();
            t.number += 1;
            t.active = true;
            t.due = rt.now().saturating_add(after);
            t.period = period;
            t.number
        };
        self.arm(number);
        Ok(was)
    }

    /// Stops it: true if nothing was delivered since it was started (or since the last tick was received).
    pub fn stop(&self) -> bool {
        let (armed, was, stale) = {
            let mut t = self.turn.lock();
            t.number += 1;
            let was = std::mem::take(&mut t.active);
            // Under this lock, so that no step of an old turn delivers in between.
            let stale = self.core.chan.take_buffered();
            (t.armed.take(), was, stale)
        };
        revoke(armed);
        let undelivered = !stale.is_empty();
        drop(stale);
        was || undelivered
    }

    fn arm(self: &Arc<Self>, number: u64) {
        let rt = rt();
        let step = Box::new(Step {
            tick: self.clone(),
            number,
        });
        let (g, ticket) = rt.dormant(flag::INTERNAL, |g| {
            let b = g.body.get();
            // SAFETY: a vacant G's body.
            unsafe {
                (*b).what = Box::into_raw(step).cast();
                (*b).form = Form::Tick;
            }
        });
        g.retain();
        let old = {
            let mut t = self.turn.lock();
            if t.number == number {
                // Under the lock: who takes it out of `armed` finds its entry in the wheel.
                rt.add_timer(&g, t.due, ticket);
                t.armed.replace((g, ticket))
            } else {
                Some((g, ticket))
            }
        };
        revoke(old);
    }
}

impl Step {
    /// The one step of the goroutine, attached.
    pub fn run(self) {
        let rt = rt();
        let now = rt.now();
        // SAFETY: attached.
        let value = unsafe {
            let f = ffi::PyFloat_FromDouble(now as f64 * 1e-9);
            if f.is_null() {
                ffi::PyErr_Clear();
                Owned::from_owned(none())
            } else {
                Owned::from_owned(f)
            }
        };
        let (left, again, armed) = {
            let mut t = self.tick.turn.lock();
            if t.number != self.number {
                return drop(value);
            }
            let armed = t.armed.take();
            let left = self.tick.core.tick(value);
            if let Some(p) = t.period {
                // The next one that is not over yet: slow readers and late Ms lose ticks, the beat stays.
                let behind = now.saturating_sub(t.due) / p;
                t.due = t.due.saturating_add(p.saturating_mul(behind + 1));
            } else {
                t.active = false;
            }
            (left, t.period.is_some(), armed)
        };
        drop(left);
        if let Some((g, _)) = armed {
            rt.release(g);
        }
        if again {
            self.tick.arm(self.number);
        }
    }
}

/// Takes an armed goroutine out of the race, if it is not too late, and drops our reference.
fn revoke(armed: Option<(PyG, Ticket)>) {
    let Some((g, ticket)) = armed else { return };
    let rt = rt();
    if g.epoch.load(Ordering::Relaxed) == rt.epoch() && g.waker.word.revoke(ticket) {
        rt.drop_timer(&g);
        rt.release(g);
    }
    rt.release(g);
}

/// A channel (its RecvChan, owned) with a timer that is not started.
pub fn make() -> Res<(Arc<Tick>, *mut ffi::PyObject)> {
    let chan = chan::make(1, true)?;
    // SAFETY: a Chan object.
    let tick = Tick::new(unsafe { chan::share(chan) });
    Ok((tick, chan::view(&RECV, chan)?))
}

/// A number of seconds above 0, in nanoseconds.
fn period(o: &Bound<'_, PyAny>) -> PyResult<u64> {
    let s = seconds(o.as_ptr(), "seconds").map_err(fetched)?;
    if s <= 0.0 {
        return Err(fetched(value_error(&format!(
            "a period must be above 0 seconds, not {}",
            repr(o.as_ptr())
        ))));
    }
    Ok(u64::try_from(crate::args::duration(s).as_nanos())
        .unwrap_or(u64::MAX)
        .max(1))
}

/// Return a RecvChan that delivers, ``seconds`` from now, the time at which it fired.
///
/// The time is that of ``time.monotonic``. Raises ValueError below 0 and for NaN. A timer that nobody can
/// receive from any more is freed at once. Go's ``time.After``.
///
/// >>> import gorun, time
/// >>> gorun.after(0.001).recv() <= time.monotonic()
/// True
#[pyfunction]
pub fn after<'py>(seconds: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let d = sleep_time(seconds.as_ptr(), "seconds").map_err(fetched)?;
    let (tick, view) = make().map_err(fetched)?;
    // SAFETY: owned.
    let view = unsafe { Bound::from_owned_ptr(seconds.py(), view) };
    tick.start(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX), None)
        .map_err(fetched)?;
    Ok(view)
}

/// A beat on a channel: what `gorun.Ticker` stands on.
#[pyclass(frozen, name = "Beat", module = "gorun._gorun")]
pub struct PyBeat {
    tick: Arc<Tick>,
    chan: Py<PyAny>,
}

#[pymethods]
impl PyBeat {
    #[new]
    fn new(seconds: &Bound<'_, PyAny>) -> PyResult<Self> {
        let p = period(seconds)?;
        let (tick, view) = make().map_err(fetched)?;
        // SAFETY: owned.
        let chan = unsafe { Bound::from_owned_ptr(seconds.py(), view) }.unbind();
        tick.start(p, Some(p)).map_err(fetched)?;
        Ok(Self { tick, chan })
    }

    /// The RecvChan.
    #[getter]
    fn chan(&self, py: Python<'_>) -> Py<PyAny> {
        self.chan.clone_ref(py)
    }

    /// Stops it.
    fn stop(&self) {
        self.tick.stop();
    }

    /// Starts it anew with this period.
    fn reset(&self, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        let p = period(seconds)?;
        self.tick.start(p, Some(p)).map_err(fetched)?;
        Ok(())
    }
}
