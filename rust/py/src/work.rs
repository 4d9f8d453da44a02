//! What a caller waits for: one piece of work, driven alike by a blocking call (`door`) and by an awaited operation
//! (`ops`). The three beats of each kind stand in its own file; here are joins, latches and the common seam.
//!
//! Life: made -> `attempt` (no wait) -> `enlist` / `confirm` until it has happened -> `result`; or `delist` and
//! `timed_out`, or a cancel's error and `cut`. If it happened and nobody can take the result, `undo`.
//!
//! Invariants:
//! - A work is pinned from its first `enlist` on: it lies in an operation object or in the frame of a blocking call.
//! - Its references are dropped attached, under no lock.

use std::ffi::c_int;

use gorun_core::sched::{Ticket, WaitReason, Waker};
use gorun_core::wait::{Attempt, Begun, Latch, Node, join_fence};
use pyo3::ffi::{self, PyObject};

use crate::body::{Ext, Owned};
use crate::chan::ChanWork;
use crate::errors::{Res, timeout_error};
use crate::gate::GateWork;
use crate::goroutine;
use crate::latch::PyLatch;
use crate::mutex::LockWork;
use crate::select::Home;

/// One kind of work.
pub trait Job {
    /// The public name, for messages.
    fn name(&self) -> &'static str;
    /// What lists and dumps say.
    fn reason(&self) -> WaitReason;
    /// The first beat: true if it has happened. Errors are those that come before any wait.
    fn attempt(&mut self) -> Res<bool>;
    /// The first two beats: tries, else registers with what `arm` gives.
    ///
    /// # Safety
    /// As `enlist`, if it says Waits.
    #[inline]
    unsafe fn begin(&mut self, arm: impl FnOnce() -> Option<(*const Waker, Ticket)>) -> Res<Begun> {
        if self.attempt()? {
            return Ok(Begun::Happened);
        }
        let Some((waker, ticket)) = arm() else {
            return Ok(Begun::Refused);
        };
        // SAFETY: as the caller promised.
        Ok(if unsafe { self.enlist(waker, ticket) } {
            Begun::Waits
        } else {
            Begun::Late
        })
    }
    /// As `Attempt::enlist`.
    ///
    /// # Safety
    /// As there.
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool;
    /// As `Attempt::delist`.
    fn delist(&mut self);
    /// As `Attempt::aside`.
    fn aside(&mut self) {}
    /// As `Attempt::away`.
    fn away(&mut self) {}
    /// As `Attempt::confirm`.
    fn confirm(&mut self) -> bool {
        true
    }
    /// False: it is tried once and is no cancel point.
    fn may_wait(&self) -> bool {
        true
    }
    /// An `__anext__`: the built-in `anext(ch, default)` asks for its iterator before each step.
    fn is_next(&self) -> bool {
        false
    }
    /// Its value, or the error that it ends with. Once.
    fn result(&mut self) -> Res<*mut PyObject>;
    /// What running out of time gives.
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        Err(timeout_error(&format!("{} has timed out", self.name())))
    }
    /// A cancel (or a signal handler's error, or ThreadLimit) cut it; the error is set and may be told what was done so far.
    fn cut(&mut self) {}
    /// It has happened, and nobody takes the result.
    fn undo(&mut self) {}
    /// Shows its references to the collector.
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int;
}

/// Any kind.
pub enum Work {
    Join(Join),
    Latch(LatchWork),
    Chan(ChanWork),
    Lock(LockWork),
    Gate(GateWork),
    Select(Home),
}

macro_rules! each {
    ($self:ident, $job:ident => $what:expr) => {
        match $self {
            Work::Join($job) => $what,
            Work::Latch($job) => $what,
            Work::Chan($job) => $what,
            Work::Lock($job) => $what,
            Work::Gate($job) => $what,
            Work::Select($job) => $what,
        }
    };
}

impl Job for Work {
    fn name(&self) -> &'static str {
        each!(self, j => j.name())
    }
    fn reason(&self) -> WaitReason {
        each!(self, j => j.reason())
    }
    fn attempt(&mut self) -> Res<bool> {
        each!(self, j => j.attempt())
    }
    #[inline]
    unsafe fn begin(&mut self, arm: impl FnOnce() -> Option<(*const Waker, Ticket)>) -> Res<Begun> {
        // SAFETY: as the caller promised.
        unsafe { each!(self, j => j.begin(arm)) }
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: as the caller promised.
        unsafe { each!(self, j => j.enlist(waker, ticket)) }
    }
    fn delist(&mut self) {
        each!(self, j => j.delist());
    }
    fn aside(&mut self) {
        each!(self, j => j.aside());
    }
    fn away(&mut self) {
        each!(self, j => j.away());
    }
    fn confirm(&mut self) -> bool {
        each!(self, j => j.confirm())
    }
    fn may_wait(&self) -> bool {
        each!(self, j => j.may_wait())
    }
    fn is_next(&self) -> bool {
        each!(self, j => j.is_next())
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        each!(self, j => j.result())
    }
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        each!(self, j => j.timed_out())
    }
    fn cut(&mut self) {
        each!(self, j => j.cut());
    }
    fn undo(&mut self) {
        each!(self, j => j.undo());
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        each!(self, j => j.visit(f))
    }
}

// SAFETY: each kind takes its nodes out in `delist`; works are pinned (file head).
unsafe impl Attempt for Work {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: as the caller promised.
        unsafe { Job::enlist(self, waker, ticket) }
    }
    fn delist(&mut self) {
        Job::delist(self);
    }
    fn aside(&mut self) {
        Job::aside(self);
    }
    fn away(&mut self) {
        Job::away(self);
    }
    fn confirm(&mut self) -> bool {
        Job::confirm(self)
    }
}

/// None, owned.
pub fn none() -> *mut PyObject {
    // SAFETY: a static of the interpreter.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}

/// A bool, owned.
pub fn boolean(b: bool) -> *mut PyObject {
    // SAFETY: attached.
    unsafe { ffi::PyBool_FromLong(b.into()) }
}

/// Waits for the end of a goroutine.
pub struct Join {
    handle: Owned,
    node: Node,
}

impl Join {
    /// Of the goroutine with this handle.
    pub fn new(handle: Owned) -> Self {
        Self {
            handle,
            node: Node::new(),
        }
    }
}

/// The latch of a goroutine, made if there is none; the caller looks at the state (again) before it waits.
pub fn latch_of(handle: &Owned) -> &Latch<Ext> {
    // SAFETY: a handle, which guards the goroutine's life.
    let g = unsafe { goroutine::of(handle.as_ptr()) };
    let latch: *const Latch<Ext> = g.latch_or_make();
    join_fence();
    // SAFETY: lives as long as the goroutine's life.
    unsafe { &*latch }
}

/// True if the goroutine has ended.
pub fn has_ended(handle: &Owned) -> bool {
    // SAFETY: a handle.
    goroutine::is_done(unsafe { goroutine::of(handle.as_ptr()) })
}

impl Job for Join {
    fn name(&self) -> &'static str {
        "join"
    }
    fn reason(&self) -> WaitReason {
        WaitReason::Join
    }
    fn attempt(&mut self) -> Res<bool> {
        // SAFETY: a handle.
        let g = unsafe { goroutine::of(self.handle.as_ptr()) };
        goroutine::refuse_self(g)?;
        if goroutine::is_done(g) {
            return Ok(true);
        }
        goroutine::refuse_foreign(g)?;
        Ok(false)
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        let latch: *const Latch<Ext> = latch_of(&self.handle);
        if has_ended(&self.handle) {
            return false;
        }
        // SAFETY: the latch lives as long as the handle; works are pinned.
        unsafe { (*latch).enlist(&raw mut self.node, waker, ticket) }
    }
    fn delist(&mut self) {
        let latch: *const Latch<Ext> = latch_of(&self.handle);
        // SAFETY: given to this latch, or to none.
        unsafe { (*latch).delist(&raw mut self.node) };
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        // SAFETY: a handle.
        goroutine::outcome(unsafe { goroutine::of(self.handle.as_ptr()) })
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        f(self.handle.as_ptr())
    }
}

/// Waits for a `Latch` of the package.
pub struct LatchWork {
    target: Owned,
    node: Node,
}

impl LatchWork {
    /// `target` is a PyLatch.
    pub fn new(target: Owned) -> Self {
        Self {
            target,
            node: Node::new(),
        }
    }

    fn latch(&self) -> &Latch<()> {
        // SAFETY: a PyLatch, kept alive by us.
        unsafe { PyLatch::of(self.target.as_ptr()) }
    }
}

impl Job for LatchWork {
    fn name(&self) -> &'static str {
        "wait_async"
    }
    fn reason(&self) -> WaitReason {
        WaitReason::Event
    }
    fn attempt(&mut self) -> Res<bool> {
        Ok(self.latch().is_closed())
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        let node = &raw mut self.node;
        // SAFETY: works are pinned.
        unsafe { self.latch().enlist(node, waker, ticket) }
    }
    fn delist(&mut self) {
        let node = &raw mut self.node;
        // SAFETY: given to this latch, or to none.
        unsafe { self.latch().delist(node) };
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        Ok(boolean(true))
    }
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        Ok(boolean(false))
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        f(self.target.as_ptr())
    }
}
