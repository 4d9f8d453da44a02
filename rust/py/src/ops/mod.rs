//! Operations: the awaitables of gorun. One is made by each `..._async` call, starts when it is awaited, and ends once.
//! What is waited for is a `Work`; here is how a goroutine drives it. `foreign.rs`: how an asyncio task does; `quick.rs`:
//! the way that most take; `nap.rs`: that of sleeps and yields; `slots.rs`: the Python types.
//!
//! Life: New -> (awaited) -> Waiting (parked goroutine) or Foreign (asyncio task) -> Ended. Built and dropped it has
//! done nothing and warns; awaited twice it raises RuntimeError.
//!
//! | end | who decides | what the operation does |
//! |---|---|---|
//! | at once | itself: it tries first | returns without parking (unless a yield was asked for) |
//! | ready | the deliverer, which fired the wait | `confirm`: the result, or once more from the start |
//! | time-out | the wheel | takes its node out; what `timed_out` says |
//! | cancel of the goroutine | `StateWord::cancel` | takes node and timer out, raises Cancelled |
//! | cancel of the asyncio task | `revoke` of its dormant G | the same; if it came too late the operation has happened and the cancel is re-armed (`gorun._hooks`) |
//! | closed, thrown into, dropped; its loop is closed (`told.rs`) | `withdraw` | takes node and timer out; if it has happened, `undo`: what was delivered goes back |
//! | fork, exit | nobody | it stays where it is |
//!
//! Invariants:
//! - The work lies in this object, which its coroutine keeps alive while parked; it is out of every list before the
//!   object goes.
//! - A goroutine's operation is touched by the M that runs the goroutine only.
//! - Plain operations (sleeps and yields) have a head only: an `Op` says by its type whether a work lies behind it.

mod enter;
mod foreign;
mod nap;
mod quick;
mod slots;
#[cfg(Py_3_12)]
mod stop;
mod told;

use std::ptr::null_mut;
use std::sync::atomic::{AtomicIsize, AtomicPtr, Ordering};
use std::time::Duration;

use gorun_core::sched::{Fire, Kind, M, Ticket, Verdict, WaitReason};
use gorun_core::wait::Begun;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::args::{parse, sleep_nanos};
use crate::body::Form;
use crate::drive::{Intent, intend};
use crate::errors::{self, Raised, Res, attached, guard, runtime_error};
use crate::goroutine;
use crate::host::Py;
use crate::local::{Local, local};
use crate::rawtype::{StaticType, again};
use crate::rt::{PyG, current_goroutine, rt};
use crate::select::SelectWork;
use crate::work::{Job, Work, none};

pub use enter::install as install_enter;
pub use nap::{Asked, Nap};
pub use slots::{drop_spare, init, make_ready};
pub use told::PyTold;

/// Operations without references: sleeps and yields.
static PLAIN: StaticType = StaticType::new();
/// Operations with a work: seen by the collector.
static WORKING: StaticType = StaticType::new();

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum State {
    New,
    /// Yielded once, with nothing left to wait for.
    Yielding,
    Waiting,
    Foreign,
    Ended,
}

/// What was found out, before it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Found {
    Nothing,
    Happened,
    TimedOut,
}

/// No limit, in `Head::limit`.
const FOR_EVER: u64 = u64::MAX;

#[repr(C)]
struct Head {
    ob_base: PyObject,
    state: State,
    found: Found,
    /// Its work waits with this ticket, or waited; it may be in a list.
    registered: bool,
    /// Made by `sleep_async`, for its name: a sleep of nothing is a yield.
    sleeps: bool,
    /// Nanoseconds: before the start how long, afterwards until when.
    limit: u64,
    /// The wait of the goroutine, or of the dormant G that stands for an asyncio task.
    ticket: Option<Ticket>,
    /// That goroutine. Foreign: one reference is ours.
    g: Option<PyG>,
    /// The asyncio coroutine that waits for us (owned).
    inner: *mut PyObject,
}

#[repr(C)]
struct Full {
    head: Head,
    work: Work,
}

enum Step {
    Yield,
    Return(*mut PyObject),
}

/// An operation object, by its address: the parts are reached one at a time, never across a call into Python.
#[derive(Clone, Copy)]
struct Op(*mut Head);

unsafe fn fill(op: *mut Head, limit: u64) {
    // SAFETY: fresh memory of an operation; all fields are written before anybody sees it.
    unsafe {
        (&raw mut (*op).state).write(State::New);
        (&raw mut (*op).found).write(Found::Nothing);
        (&raw mut (*op).registered).write(false);
        (&raw mut (*op).sleeps).write(false);
        (&raw mut (*op).limit).write(limit);
        (&raw mut (*op).ticket).write(None);
        (&raw mut (*op).g).write(None);
        (&raw mut (*op).inner).write(null_mut());
    }
}

fn nanos(limit: Option<Duration>) -> u64 {
    limit.map_or(FOR_EVER, |d| {
        u64::try_from(d.as_nanos()).map_or(FOR_EVER - 1, |n| n.min(FOR_EVER - 1))
    })
}

/// True for an operation, which a goroutine awaits as its body.
pub fn is_operation(o: *mut PyObject) -> bool {
    // SAFETY: attached; an object.
    let t = unsafe { ffi::Py_TYPE(o) };
    t == WORKING.get() || t == PLAIN.get() || enter::is_called(o)
}

/// True if it was awaited.
///
/// # Safety
/// An operation, which nobody drives now.
pub unsafe fn was_awaited(o: *mut PyObject) -> bool {
    if enter::is_called(o) {
        return enter::was_awaited(o);
    }
    Op(o.cast()).head().state != State::New
}

/// A sleep of so many nanoseconds; 0 is a yield.
fn make_plain(ns: u64) -> Res<*mut PyObject> {
    // SAFETY: attached; the type is ready.
    unsafe {
        let spare = local().spare_op.replace(null_mut());
        let op: *mut Head = if spare.is_null() {
            ffi::PyObject_New::<Head>(PLAIN.get())
        } else {
            again(spare, &PLAIN).cast()
        };
        if op.is_null() {
            return Err(Raised);
        }
        fill(op, ns);
        Ok(op.cast())
    }
}

/// The operation that does the work that `make_work` gives. Inlined, and the work is made last, so that it is written
/// where it stays: copying it costs as much as the rest.
#[inline(always)]
pub fn make(make_work: impl FnOnce() -> Work, limit: Option<Duration>) -> Res<*mut PyObject> {
    // SAFETY: attached; the type is ready.
    unsafe {
        let spare = local().spare_full.replace(null_mut());
        let op: *mut Full = if spare.is_null() {
            ffi::PyObject_GC_New::<Full>(WORKING.get())
        } else {
            again(spare, &WORKING).cast()
        };
        if op.is_null() {
            return Err(Raised);
        }
        fill(op.cast(), nanos(limit));
        (&raw mut (*op).work).write(make_work());
        ffi::PyObject_GC_Track(op.cast());
        Ok(op.cast())
    }
}

/// `gosched_async()`.
pub unsafe extern "C" fn gosched_async(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| make_plain(0))
}

/// `sleep_async(seconds)`.
pub unsafe extern "C" fn sleep_async(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let s = unsafe {
            if n == 1 && kw.is_null() {
                *args
            } else {
                let [s] = parse("sleep_async", ["seconds"], 1, args, n, kw)?;
                s
            }
        };
        if s.is_null() {
            return Err(errors::type_error(
                "sleep_async() needs a number of seconds",
            ));
        }
        let op = make_plain(sleep_nanos(s, "seconds")?)?;
        Op(op.cast()).head().sleeps = true;
        Ok(op)
    })
}

impl Op {
    fn head<'a>(self) -> &'a mut Head {
        // SAFETY: an operation object, alive during the call; one step at a time (exclusive resume). The reference is
        // used for one field access and dropped.
        unsafe { &mut *self.0 }
    }

    /// What it does; None for a plain one.
    fn work<'a>(self) -> Option<&'a mut Work> {
        // SAFETY: as above; operations of this type have a work.
        unsafe {
            (ffi::Py_TYPE(self.0.cast()) == WORKING.get())
                .then(|| &mut (*self.0.cast::<Full>()).work)
        }
    }

    fn name(self) -> &'static str {
        match self.work() {
            Some(w) => w.name(),
            None if self.head().sleeps => "sleep_async",
            None => "gosched_async",
        }
    }

    fn reason(self) -> WaitReason {
        self.work().map_or(WaitReason::Sleep, |w| w.reason())
    }

    fn object(self) -> *mut PyObject {
        self.0.cast()
    }

    fn until(self) -> u64 {
        self.head().limit
    }

    /// Turns the time allowed into a moment, once.
    fn start_clock(self) {
        let h = self.head();
        if h.limit != FOR_EVER {
            h.limit = rt().now().saturating_add(h.limit).min(FOR_EVER - 1);
        }
    }

    fn outcome(self, found: Found) -> Res<*mut PyObject> {
        self.head().state = State::Ended;
        self.head().found = Found::Nothing;
        match (self.work(), found) {
            (None, _) => Ok(none()),
            (Some(w), Found::TimedOut) => w.timed_out(),
            (Some(w), _) => w.result(),
        }
    }

    fn yield_with(self, found: Found) -> Step {
        self.head().found = found;
        self.head().state = State::Yielding;
        intend(self.object(), Intent::Yield);
        Step::Yield
    }

    /// First beat in a goroutine: try, then register.
    #[inline]
    fn start(self, m: &M<Py>, g: PyG) -> Res<Step> {
        self.head().g = Some(g);
        self.head().state = State::Ended; // unless it waits below
        match self.work() {
            None => self.start_plain(g),
            // The one that is used most has code of its own; the others share theirs.
            Some(Work::Chan(w)) => self.start_work(w, m, g),
            Some(Work::Select(w)) => self.start_select(w, m, g),
            Some(w) => self.start_other(w, m, g),
        }
    }

    fn start_plain(self, g: PyG) -> Res<Step> {
        if g.waker.word.take_cancel() {
            return Err(self.cancelled(g));
        }
        if self.head().limit == 0 {
            return Ok(self.yield_with(Found::Happened));
        }
        self.start_clock();
        self.wait(g)
    }

    #[inline(never)]
    fn start_select(self, w: &mut SelectWork, m: &M<Py>, g: PyG) -> Res<Step> {
        self.start_work(w, m, g)
    }

    #[inline(never)]
    fn start_other(self, w: &mut Work, m: &M<Py>, g: PyG) -> Res<Step> {
        self.start_work(w, m, g)
    }

    #[inline(always)]
    fn start_work<W: Job>(self, w: &mut W, m: &M<Py>, g: PyG) -> Res<Step> {
        if w.may_wait() && g.waker.word.take_cancel() {
            return Err(self.cancelled(g));
        }
        let limit = self.head().limit;
        let reason = w.reason();
        let mut refused = Found::TimedOut;
        let arm = || {
            if limit == 0 {
                return None;
            }
            g.waker.set_kind(Kind::Goroutine, reason);
            let Ok(ticket) = g.waker.word.arm(true) else {
                refused = Found::Nothing;
                return None;
            };
            self.head().ticket = Some(ticket);
            self.head().registered = true;
            Some((&raw const g.waker, ticket))
        };
        // SAFETY: the work lies in this object, which leaves the lists before it goes.
        let found = match unsafe { w.begin(arm) }? {
            Begun::Waits => return Ok(self.park(g)),
            Begun::Happened => Found::Happened,
            Begun::Late => {
                g.waker.word.disarm();
                self.head().registered = false;
                Found::Happened
            }
            Begun::Refused if refused == Found::Nothing => return Err(self.cancelled(g)),
            Begun::Refused => refused,
        };
        // It can go on at once: unless its time slice is over.
        if m.take_preempt() {
            return Ok(self.yield_with(found));
        }
        if found == Found::Happened {
            return w.result().map(Step::Return);
        }
        w.timed_out().map(Step::Return)
    }

    /// Armed and registered: the clock, if it has one, and out.
    fn park(self, g: PyG) -> Step {
        if self.until() != FOR_EVER {
            self.start_clock();
            if let Some(ticket) = self.head().ticket {
                add_timer(g, self.until(), ticket);
            }
        }
        self.head().state = State::Waiting;
        intend(self.object(), Intent::Park);
        Step::Yield
    }

    fn cancelled(self, g: PyG) -> Raised {
        self.head().state = State::Ended;
        let raised = goroutine::deliver(g);
        if let Some(w) = self.work() {
            w.cut();
        }
        raised
    }

    /// Registers and parks, or goes on if it has happened meanwhile.
    fn wait(self, g: PyG) -> Res<Step> {
        g.waker.set_kind(Kind::Goroutine, self.reason());
        let Ok(ticket) = g.waker.word.arm(true) else {
            self.unregister();
            return Err(self.cancelled(g));
        };
        self.head().ticket = Some(ticket);
        if let Some(w) = self.work() {
            // SAFETY: armed with this ticket; the work lies in this object, which leaves the lists before it goes.
            if !unsafe { w.enlist(&raw const g.waker, ticket) } {
                g.waker.word.disarm();
                self.head().registered = false;
                return self.outcome(Found::Happened).map(Step::Return);
            }
            self.head().registered = true;
        }
        let until = self.until();
        if until != FOR_EVER {
            add_timer(g, until, ticket);
        }
        self.head().state = State::Waiting;
        intend(self.object(), Intent::Park);
        Ok(Step::Yield)
    }

    /// The wait of a goroutine is over.
    fn resume(self, g: PyG, verdict: Verdict) -> Res<Step> {
        if self.until() != FOR_EVER {
            rt().drop_timer(&g);
        }
        match verdict {
            Verdict::Ready => {
                if self.work().is_some_and(|w| !w.confirm()) {
                    return self.wait(g);
                }
                self.head().registered = false;
                self.outcome(Found::Happened).map(Step::Return)
            }
            Verdict::Timeout => {
                self.unregister();
                self.outcome(Found::TimedOut).map(Step::Return)
            }
            Verdict::Cancel => {
                self.unregister();
                g.waker.word.delivered();
                Err(self.cancelled(g))
            }
        }
    }

    /// Out of every list.
    fn unregister(self) {
        if std::mem::take(&mut self.head().registered) {
            if let Some(w) = self.work() {
                w.delist();
            }
        }
    }

    /// It has happened, and nobody is there to take what came of it.
    fn undo(self) {
        self.head().registered = false;
        self.head().found = Found::Nothing;
        if let Some(w) = self.work() {
            w.undo();
        }
    }

    /// Takes the operation back, whatever it is doing. True if it had not happened.
    fn withdraw(self) -> bool {
        let state = std::mem::replace(&mut self.head().state, State::Ended);
        match state {
            State::Waiting => {
                let Some(g) = self.head().g.take() else {
                    return true;
                };
                let ticket = self.head().ticket.take();
                let won =
                    ticket.is_some_and(|t| g.waker.word.fire(t, Verdict::Timeout) != Fire::Lost);
                // Else it was driven by hand, and the goroutine has gone on to other waits, or has ended and its memory is
                // another's: verdict and timer are theirs.
                let ours = ticket.is_some_and(|t| g.waker.word.is_last(t.low()));
                if ours && self.until() != FOR_EVER {
                    rt().drop_timer(&g);
                }
                let happened = match self.work() {
                    Some(Work::Chan(w)) if !ours => w.is_done(),
                    _ => !won && g.waker.word.verdict() == Some(Verdict::Ready),
                };
                if happened && self.work().is_none_or(|w| w.confirm()) {
                    self.undo();
                    return false;
                }
                self.unregister();
                if ours && !won && g.waker.word.verdict() == Some(Verdict::Cancel) {
                    // It cut this wait, which raises something else: it is pending again.
                    g.waker.word.disarm();
                }
                true
            }
            State::Foreign => self.leave_task(),
            State::Yielding => {
                if self.head().found == Found::Happened {
                    self.undo();
                }
                true
            }
            State::New | State::Ended => true,
        }
    }

    /// One send.
    fn step(self) -> Res<Step> {
        match self.head().state {
            State::New => {
                let here = local();
                if let Some(l) = running_loop(here) {
                    let r = self.start_in_task(l);
                    // SAFETY: owned by us.
                    unsafe { ffi::Py_DECREF(l) };
                    return r;
                }
                let (m, g) = self.driver(here)?;
                self.start(m, g)
            }
            State::Yielding => self.outcome(self.head().found).map(Step::Return),
            State::Waiting => {
                let g = self.head().g.ok_or(Raised)?;
                if rt().current_goroutine().is_none_or(|(_, me)| me != g) {
                    return Err(runtime_error(&format!(
                        "{} is awaited by another goroutine",
                        self.name()
                    )));
                }
                match (self.head().ticket, g.waker.word.verdict()) {
                    (Some(_), Some(v)) => self.resume(g, v),
                    // Somebody sent by hand while it waits: go on waiting.
                    _ => {
                        intend(self.object(), Intent::Park);
                        Ok(Step::Yield)
                    }
                }
            }
            State::Foreign => self.drive_inner(None),
            State::Ended => Err(reused(self.name())),
        }
    }

    /// The goroutine that awaits it, if it may.
    #[inline]
    fn driver(self, here: &Local) -> Res<(&'static M<Py>, PyG)> {
        let Some((m, g)) = current_goroutine(here) else {
            self.head().state = State::Ended;
            return Err(runtime_error(&format!(
                "{} must be awaited in a goroutine (gorun.go) or in an asyncio task: here runs neither",
                self.name()
            )));
        };
        // SAFETY: it runs on this thread.
        let (form, blocking) = unsafe { ((*g.body.get()).form, (*g.body.get()).blocking) };
        if form != Form::Coroutine {
            self.head().state = State::Ended;
            return Err(runtime_error(&format!(
                "{} was awaited in a plain-function goroutine, by a coroutine that gorun does not drive",
                self.name()
            )));
        }
        if blocking > 0 {
            self.head().state = State::Ended;
            return Err(runtime_error("await inside `with gorun.blocking()`"));
        }
        Ok((m, g))
    }
}

/// Arms the timer of a wait that has begun. A goroutine that drives others by hand may have one from a wait that this
/// one overtakes: it would stay until it is due.
fn add_timer(g: PyG, until: u64, ticket: Ticket) {
    rt().drop_timer(&g);
    rt().add_timer(&g, until, ticket);
}

/// What the operation that was yielded to the driver of `g` waits for, if it is one of that goroutine's. (Code that ran
/// between its step and the yield, of a wrapper, may have driven another, which has left its own intent.)
#[cold]
pub fn meant(yielded: *mut PyObject, g: PyG) -> Intent {
    // SAFETY: attached; an object.
    let t = unsafe { ffi::Py_TYPE(yielded) };
    if t == nap::TYPE.get() {
        return nap::meant(g);
    }
    if t != WORKING.get() && t != PLAIN.get() {
        return Intent::None;
    }
    let op = Op(yielded.cast());
    match op.head().state {
        State::Yielding if op.head().g == Some(g) => Intent::Yield,
        State::Waiting if op.head().g == Some(g) => Intent::Park,
        _ => Intent::None,
    }
}

fn reused(name: &str) -> Raised {
    runtime_error(&format!("cannot reuse already awaited {name}"))
}

/// The asyncio loop that runs on this thread, owned, if there is one. Costs a look at the size of `sys.modules` until
/// asyncio is imported.
#[inline]
fn running_loop(here: &Local) -> Option<*mut PyObject> {
    if modules_unchanged(here) {
        None
    } else {
        look_for_loop(here)
    }
}

/// True if asyncio was never found, and nothing was imported since it was last missing: no loop runs.
#[inline]
fn modules_unchanged(l: &Local) -> bool {
    let modules = MODULES.load(Ordering::Relaxed);
    // SAFETY: a dict that lives as long as the interpreter; one word of it, which others may write meanwhile.
    !modules.is_null()
        && GET.load(Ordering::Relaxed).is_null()
        && unsafe {
            let used = &raw mut (*modules.cast::<ffi::PyDictObject>()).ma_used;
            AtomicIsize::from_ptr(used).load(Ordering::Relaxed) == l.modules.get()
        }
}

/// `asyncio.events._get_running_loop`, once asyncio was found. Not a PyOnceLock: a fork in the middle of its first use
/// would leave it in work for ever. Who comes twice at first finds the same function.
static GET: AtomicPtr<PyObject> = AtomicPtr::new(null_mut());
/// `sys.modules` as the interpreter has it (borrowed), once it was looked at.
static MODULES: AtomicPtr<PyObject> = AtomicPtr::new(null_mut());

#[inline(never)]
fn look_for_loop(here: &Local) -> Option<*mut PyObject> {
    let py = attached();
    let get = match GET.load(Ordering::Acquire) {
        g if !g.is_null() => g,
        _ => {
            // SAFETY: attached; borrowed references.
            let there = unsafe {
                let modules = ffi::PyImport_GetModuleDict();
                // While nothing was imported the last answer stands.
                let n = ffi::PyDict_Size(modules);
                if here.modules.get() == n {
                    return None;
                }
                here.modules.set(n);
                MODULES.store(modules, Ordering::Relaxed);
                // Takes no lock on free-threaded builds, unlike PyDict_GetItem.
                ffi::PyDict_Contains(modules, errors::name::ASYNCIO_EVENTS.get()) == 1
            };
            if !there {
                return None;
            }
            let f = py
                .import("asyncio.events")
                .and_then(|m| m.getattr("_get_running_loop"))
                .ok()?;
            let f = f.into_ptr();
            GET.store(f, Ordering::Release);
            f
        }
    };
    // SAFETY: attached; the result is owned.
    unsafe {
        let l = ffi::PyObject_CallNoArgs(get);
        if l.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        if l == ffi::Py_None() {
            ffi::Py_DECREF(l);
            return None;
        }
        Some(l)
    }
}

/// True if an asyncio loop runs on this thread.
pub fn loop_runs_here() -> bool {
    // SAFETY: owned.
    running_loop(local()).is_some_and(|l| unsafe {
        ffi::Py_DECREF(l);
        true
    })
}
