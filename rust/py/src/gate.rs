//! `_gorun.Gate`: the core's gates as one class, which `gorun._sync` dresses as Semaphore, RWMutex, Event, Cond, WaitGroup.

use std::ffi::c_int;

use gorun_core::gate::{Calls, Count, Flag, Gate, Readers, Spot, Units};
use gorun_core::sched::{Ticket, WaitReason, Waker};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::args::timeout;
use crate::body::Owned;
use crate::door;
use crate::errors::{Res, attached, runtime_error, timeout_error, value_error};
use crate::latch::fetched;
use crate::ops;
use crate::rt::rt;
use crate::work::{Job, Work, boolean, none};

enum Any {
    Units(Gate<Units>),
    Readers(Gate<Readers>),
    Flag(Gate<Flag>),
    Count(Gate<Count>),
    Calls(Gate<Calls>),
}

macro_rules! each {
    ($any:expr, $gate:ident => $what:expr) => {
        match $any {
            Any::Units($gate) => $what,
            Any::Readers($gate) => $what,
            Any::Flag($gate) => $what,
            Any::Count($gate) => $what,
            Any::Calls($gate) => $what,
        }
    };
}

/// A first-come queue before a small state machine; what `want` means depends on the kind.
#[pyclass(frozen, name = "Gate", module = "gorun._gorun", weakref)]
pub struct PyGate {
    any: Box<Any>,
}

/// Waits to be let in.
pub struct GateWork {
    target: Owned,
    spot: Spot,
    /// `acquire_async(False)`.
    once: bool,
}

impl GateWork {
    fn work(gate: &Bound<'_, PyGate>, want: u64) -> Work {
        Work::Gate(Self {
            // SAFETY: attached, a live object.
            target: unsafe { Owned::new(gate.as_ptr()) },
            spot: Spot::new(want),
            once: false,
        })
    }

    fn any<'a>(&self) -> &'a Any {
        // SAFETY: a PyGate, which is frozen; kept alive by `target`, which outlives every use.
        unsafe {
            let b = Bound::from_borrowed_ptr(attached(), self.target.as_ptr());
            let this: *const PyGate = b.cast_unchecked::<PyGate>().get();
            &(*this).any
        }
    }
}

impl Job for GateWork {
    fn name(&self) -> &'static str {
        match self.any() {
            Any::Units(_) | Any::Readers(_) => "acquire_async",
            _ => "wait_async",
        }
    }
    fn reason(&self) -> WaitReason {
        match self.any() {
            Any::Units(_) => WaitReason::Semaphore,
            Any::Readers(_) => WaitReason::RwMutex,
            Any::Flag(_) => WaitReason::Event,
            Any::Count(_) => WaitReason::WaitGroup,
            Any::Calls(_) => WaitReason::Cond,
        }
    }
    fn may_wait(&self) -> bool {
        !self.once
    }
    fn attempt(&mut self) -> Res<bool> {
        Ok(each!(self.any(), g => g.try_enter(self.spot.want())))
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: works are pinned.
        unsafe { each!(self.any(), g => g.enlist(&mut self.spot, waker, ticket)) }
    }
    fn delist(&mut self) {
        // SAFETY: given to this gate, or to none.
        unsafe { each!(self.any(), g => g.delist(rt(), &raw mut self.spot)) }
    }
    fn aside(&mut self) {
        each!(self.any(), g => g.aside(&mut self.spot));
    }
    fn away(&mut self) {
        each!(self.any(), g => g.pass(rt()));
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        Ok(match self.any() {
            Any::Count(_) => none(),
            _ => boolean(true),
        })
    }
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        match self.any() {
            Any::Count(_) => Err(timeout_error("the wait has timed out")),
            _ => Ok(boolean(false)),
        }
    }
    fn undo(&mut self) {
        let want = self.spot.want();
        match self.any() {
            Any::Calls(g) => g.change(rt(), |r| r.pass_on(want)),
            any => each!(any, g => g.undo(rt(), want)),
        }
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        f(self.target.as_ptr())
    }
}

fn gate(any: Any) -> PyGate {
    PyGate { any: Box::new(any) }
}

#[pymethods]
impl PyGate {
    /// A number of units.
    #[staticmethod]
    fn units(n: u64) -> Self {
        gate(Any::Units(Gate::new(Units { free: n })))
    }

    /// Readers (want 0) and writers (want 1).
    #[staticmethod]
    fn readers() -> Self {
        gate(Any::Readers(Gate::new(Readers::default())))
    }

    /// Open or shut.
    #[staticmethod]
    fn flag() -> Self {
        gate(Any::Flag(Gate::new(Flag::default())))
    }

    /// Open at 0.
    #[staticmethod]
    fn count() -> Self {
        gate(Any::Count(Gate::new(Count::default())))
    }

    /// Opened for those that wait, by `notify`.
    #[staticmethod]
    fn calls() -> Self {
        gate(Any::Calls(Gate::new(Calls::default())))
    }

    /// Enters if that needs no wait.
    #[pyo3(signature = (want=1))]
    fn try_enter(&self, want: u64) -> bool {
        each!(&*self.any, g => g.try_enter(want))
    }

    /// Waits to be let in: True (count: None); False (count: TimeoutError) if the time is up first.
    #[pyo3(signature = (want=1, timeout=None))]
    fn enter<'py>(
        slf: &Bound<'py, Self>,
        want: u64,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let limit = limit(timeout)?;
        let r = door::perform(&mut GateWork::work(slf, want), limit).map_err(fetched)?;
        // SAFETY: a new reference.
        Ok(unsafe { Bound::from_owned_ptr(slf.py(), r) })
    }

    /// As `enter`, awaited. `once`: it is tried, and is no cancel point.
    #[pyo3(signature = (want=1, timeout=None, once=false))]
    fn enter_async<'py>(
        slf: &Bound<'py, Self>,
        want: u64,
        timeout: Option<&Bound<'py, PyAny>>,
        once: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut work = GateWork::work(slf, want);
        if let Work::Gate(g) = &mut work {
            g.once = once;
        }
        let limit = if once {
            Some(std::time::Duration::ZERO)
        } else {
            limit(timeout)?
        };
        let op = ops::make(|| work, limit).map_err(fetched)?;
        // SAFETY: a new reference.
        Ok(unsafe { Bound::from_owned_ptr(slf.py(), op) })
    }

    /// Units, readers: gives back what `enter` took. With `bound`, more than so many free units are refused.
    #[pyo3(signature = (want=1, bound=None))]
    fn leave(&self, want: u64, bound: Option<u64>) -> PyResult<()> {
        let text = match &*self.any {
            Any::Units(g) => {
                let fits = g.change(rt(), |r| {
                    let free = r
                        .free
                        .checked_add(want)
                        .filter(|n| bound.is_none_or(|b| *n <= b));
                    r.free = free.unwrap_or(r.free);
                    free.is_some()
                });
                if fits {
                    return Ok(());
                }
                let most = bound.unwrap_or(u64::MAX);
                return Err(fetched(value_error(&format!(
                    "Semaphore released too many times: {want} more would be above {most}"
                ))));
            }
            Any::Readers(g) => {
                let held = g.change(rt(), |r| {
                    let held = if want == Readers::READ {
                        r.readers > 0
                    } else {
                        r.writer
                    };
                    if held {
                        if want == Readers::READ {
                            r.readers -= 1;
                        } else {
                            r.writer = false;
                        }
                    }
                    held
                });
                if held {
                    return Ok(());
                }
                "release unlocked lock"
            }
            _ => "nothing to leave",
        };
        Err(fetched(runtime_error(text)))
    }

    /// Flag: opens (True) or shuts it.
    fn set(&self, open: bool) {
        if let Any::Flag(g) = &*self.any {
            g.change(rt(), |r| r.set = open);
        }
    }

    /// Count: adds `n` and returns the count; None (and no change) if it would become negative.
    fn add(&self, n: i64) -> Option<i64> {
        let Any::Count(g) = &*self.any else {
            return None;
        };
        g.change(rt(), |r| {
            let sum = r.n.checked_add(n).filter(|n| *n >= 0)?;
            r.n = sum;
            Some(sum)
        })
    }

    /// Calls: takes a number, to be called by `notify` and entered with.
    fn number(&self) -> u64 {
        match &*self.any {
            Any::Calls(g) => g.change(rt(), Calls::take),
            _ => 0,
        }
    }

    /// Calls: calls up to `n` numbers.
    fn notify(&self, n: usize) {
        if let Any::Calls(g) = &*self.any {
            g.change(rt(), |r| r.notify(n));
        }
    }

    /// Calls: gives a number up; True if it had been called.
    fn give_up(&self, number: u64) -> bool {
        match &*self.any {
            Any::Calls(g) => g.change(rt(), |r| r.give_up(number)),
            _ => false,
        }
    }

    /// Free units, readers inside (writer: -1), open (1), count, or 0.
    fn value(&self) -> i64 {
        match &*self.any {
            Any::Units(g) => g.look(|r| i64::try_from(r.free).unwrap_or(i64::MAX)),
            Any::Readers(g) => g.look(|r| if r.writer { -1 } else { r.readers as i64 }),
            Any::Flag(g) => g.look(|r| r.set.into()),
            Any::Count(g) => g.look(|r| r.n),
            Any::Calls(_) => 0,
        }
    }

    /// How many wait.
    fn waiting(&self) -> usize {
        each!(&*self.any, g => g.waiting())
    }
}

fn limit(t: Option<&Bound<'_, PyAny>>) -> PyResult<Option<std::time::Duration>> {
    timeout(t.map_or(std::ptr::null_mut(), Bound::as_ptr)).map_err(fetched)
}
