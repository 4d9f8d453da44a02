//! Operations: the awaitables of gorun. One is made by each `..._async` call, starts when it is awaited, and ends once.
//!
//! Life: New -> (awaited) -> Waiting (parked goroutine) or Foreign (asyncio task) -> Ended. Built and dropped it has
//! done nothing and warns; awaited twice it raises RuntimeError.
//!
//! | end | who decides | what the operation does |
//! |---|---|---|
//! | at once | itself: it tries first | returns without parking (unless a yield was asked for) |
//! | ready | the latch, which pops the node | returns the value |
//! | time-out | the wheel | takes its node out; TimeoutError, or False for events |
//! | cancel of the goroutine | `StateWord::cancel` | takes node and timer out, raises Cancelled |
//! | cancel of the asyncio task | `revoke` of its dormant G | the same; if it came too late the operation has happened and the cancel is re-armed (`gorun._hooks`) |
//! | closed, thrown into, dropped | `withdraw` | takes node and timer out |
//! | fork, exit | nobody | it stays where it is |
//!
//! Invariants:
//! - The node lies in this object, which its coroutine keeps alive while parked; it is out of every list before the
//!   object goes.
//! - A goroutine's operation is touched by the M that runs the goroutine only.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use gorun_core::sched::{CancelNow, Fire, Kind, Ticket, Verdict, WaitReason, Waker, flag};
use gorun_core::wait::{Latch, Node, join_fence};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::args::{parse, sleep_time};
use crate::body::{Ext, Form};
use crate::drive::{Intent, intend};
use crate::errors::{self, Raised, Res, aside, attached, guard, runtime_error, timeout_error};
use crate::goroutine;
use crate::latch::PyLatch;
use crate::local::local;
use crate::rawtype::{StaticType, fast, methods, noargs};
use crate::rt::{PyG, rt};

/// Operations without references: sleeps and yields.
static PLAIN: StaticType = StaticType::new();
/// Operations that hold a Python object: seen by the collector.
static HOLDING: StaticType = StaticType::new();

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Gosched,
    Sleep,
    Join,
    Event,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Gosched => "gosched_async",
            Self::Sleep => "sleep_async",
            Self::Join => "join",
            Self::Event => "wait_async",
        }
    }

    fn reason(self) -> WaitReason {
        match self {
            Self::Gosched => WaitReason::None,
            Self::Sleep => WaitReason::Sleep,
            Self::Join => WaitReason::Join,
            Self::Event => WaitReason::Event,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    New,
    /// Yielded once: a goroutine that comes back has nothing to look at.
    Yielding,
    Waiting,
    Foreign,
    Ended,
}

#[repr(C)]
struct Op {
    ob_base: PyObject,
    what: What,
    state: State,
    linked: bool,
    /// The wait of the goroutine, or of the dormant G that stands for an asyncio task.
    ticket: Option<Ticket>,
    /// That goroutine. Foreign: one reference is ours.
    g: Option<PyG>,
    node: Node,
    /// None: for ever.
    limit: Option<Duration>,
    /// HOLDING only: the handle or the event.
    target: *mut PyObject,
    /// HOLDING only: the asyncio coroutine that waits for us.
    inner: *mut PyObject,
}

enum Step {
    Yield,
    Return(*mut PyObject),
}

unsafe fn make(what: What, limit: Option<Duration>, target: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: attached; the types are ready; all fields are written before anybody sees the object.
    unsafe {
        let op: *mut Op = if target.is_null() {
            let spare = local().spare_op.replace(null_mut());
            if spare.is_null() {
                ffi::PyObject_New::<Op>(PLAIN.get())
            } else {
                ffi::PyObject_Init(spare, PLAIN.get()).cast()
            }
        } else {
            ffi::PyObject_GC_New::<Op>(HOLDING.get())
        };
        if op.is_null() {
            return Err(Raised);
        }
        (&raw mut (*op).what).write(what);
        (&raw mut (*op).state).write(State::New);
        (&raw mut (*op).linked).write(false);
        (&raw mut (*op).ticket).write(None);
        (&raw mut (*op).g).write(None);
        (&raw mut (*op).node).write(Node::new());
        (&raw mut (*op).limit).write(limit);
        (&raw mut (*op).target).write(ffi::Py_XNewRef(target));
        (&raw mut (*op).inner).write(null_mut());
        if !target.is_null() {
            ffi::PyObject_GC_Track(op.cast());
        }
        Ok(op.cast())
    }
}

/// `await g`.
pub fn make_join(handle: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: attached; a handle.
    unsafe { make(What::Join, None, handle) }
}

/// `await event.wait_async(timeout)`.
pub fn make_event(event: *mut PyObject, limit: Option<Duration>) -> Res<*mut PyObject> {
    // SAFETY: attached; a PyLatch.
    unsafe { make(What::Event, limit, event) }
}

/// `gosched_async()`.
pub unsafe extern "C" fn gosched_async(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached.
    guard(|| unsafe { make(What::Gosched, None, null_mut()) })
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
        unsafe {
            let [s] = parse("sleep_async", ["seconds"], 1, args, n, kw)?;
            if s.is_null() {
                return Err(errors::type_error(
                    "sleep_async() needs a number of seconds",
                ));
            }
            let d = sleep_time(s, "seconds")?;
            make(
                if d.is_zero() {
                    What::Gosched
                } else {
                    What::Sleep
                },
                Some(d),
                null_mut(),
            )
        }
    })
}

enum Source<'a> {
    Nothing,
    Goroutine(PyG, &'a Latch<Ext>),
    Event(&'a Latch<()>),
}

impl Op {
    /// What it waits for.
    fn source(&self) -> Source<'_> {
        match self.what {
            What::Gosched | What::Sleep => Source::Nothing,
            What::Join => {
                // SAFETY: the target is a handle, alive as long as we are.
                let g = unsafe { goroutine::of(self.target) };
                let latch: *const Latch<Ext> = g.latch_or_make();
                join_fence();
                // SAFETY: lives as long as the goroutine's life, which the handle guards.
                Source::Goroutine(g, unsafe { &*latch })
            }
            // SAFETY: the target is a PyLatch.
            What::Event => Source::Event(unsafe { PyLatch::of(self.target) }),
        }
    }

    fn happened(&self) -> bool {
        match self.source() {
            Source::Nothing => false,
            Source::Goroutine(g, _) => goroutine::is_done(g),
            Source::Event(l) => l.is_closed(),
        }
    }

    fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        let node = &raw mut self.node;
        // SAFETY: the node stays in this object until `unlink`.
        self.linked = unsafe {
            match self.source() {
                Source::Nothing => return true,
                Source::Goroutine(_, l) => l.enlist(node, waker, ticket),
                Source::Event(l) => l.enlist(node, waker, ticket),
            }
        };
        self.linked
    }

    fn unlink(&mut self) {
        if !std::mem::take(&mut self.linked) {
            return;
        }
        let node = &raw mut self.node;
        // SAFETY: it was given to this latch.
        unsafe {
            match self.source() {
                Source::Nothing => {}
                Source::Goroutine(_, l) => l.delist(node),
                Source::Event(l) => l.delist(node),
            }
        }
    }

    /// The value of an operation that has happened.
    fn value(&self) -> Res<*mut PyObject> {
        match self.source() {
            // SAFETY: a static.
            Source::Nothing => Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) }),
            Source::Goroutine(g, _) => goroutine::outcome(g),
            // SAFETY: a static.
            Source::Event(_) => Ok(unsafe { ffi::Py_NewRef(ffi::Py_True()) }),
        }
    }

    fn timed_out(&self) -> Res<*mut PyObject> {
        match self.what {
            // SAFETY: statics.
            What::Sleep => Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) }),
            // SAFETY: as above.
            What::Event => Ok(unsafe { ffi::Py_NewRef(ffi::Py_False()) }),
            _ => Err(timeout_error("the wait has timed out")),
        }
    }

    /// The end of a wait, by its verdict.
    fn conclude(&mut self, g: PyG, verdict: Verdict) -> Res<*mut PyObject> {
        self.state = State::Ended;
        rt().drop_timer(&g);
        self.unlink();
        match verdict {
            Verdict::Ready => self.value(),
            Verdict::Timeout => self.timed_out(),
            Verdict::Cancel => {
                g.waker.word.delivered();
                Err(goroutine::deliver(g))
            }
        }
    }

    /// First beat in a goroutine: try, then register.
    fn start(&mut self, this: *mut PyObject, g: PyG) -> Res<Step> {
        let rt = rt();
        self.g = Some(g);
        self.state = State::Ended; // unless it waits below
        if g.waker.word.take_cancel() {
            self.state = State::Ended;
            return Err(goroutine::deliver(g));
        }
        if self.what == What::Gosched {
            self.state = State::Yielding;
            intend(this, Intent::Yield);
            return Ok(Step::Yield);
        }
        if self.what == What::Join {
            // SAFETY: the target is a handle.
            let other = unsafe { goroutine::of(self.target) };
            goroutine::refuse_self(other)?;
            if !goroutine::is_done(other) {
                goroutine::refuse_foreign(other)?;
            }
        }
        let ready = self.happened();
        if ready || (self.what != What::Sleep && self.limit.is_some_and(|d| d.is_zero())) {
            // It can go on at once: unless its time slice is over.
            if rt.current_m().is_some_and(|m| m.take_preempt()) {
                self.state = State::Yielding;
                intend(this, Intent::Yield);
                return Ok(Step::Yield);
            }
            self.state = State::Ended;
            return Ok(Step::Return(if ready {
                self.value()?
            } else {
                self.timed_out()?
            }));
        }
        g.waker.set_kind(Kind::Goroutine, self.what.reason());
        let ticket = match g.waker.word.arm(true) {
            Ok(t) => t,
            Err(CancelNow) => {
                self.state = State::Ended;
                return Err(goroutine::deliver(g));
            }
        };
        self.ticket = Some(ticket);
        if !self.enlist(&raw const g.waker, ticket) {
            g.waker.word.disarm();
            self.state = State::Ended;
            return Ok(Step::Return(self.value()?));
        }
        if let Some(d) = self.limit {
            rt.add_timer(
                &g,
                rt.now()
                    .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
                ticket,
            );
        }
        self.state = State::Waiting;
        intend(this, Intent::Park);
        Ok(Step::Yield)
    }

    /// First beat in an asyncio task: the rest is done by a coroutine of the bridge, which arms and withdraws.
    fn start_foreign(&mut self, this: *mut PyObject, is_loop: *mut PyObject) -> Res<Step> {
        let py = attached();
        self.state = State::Foreign;
        // SAFETY: attached, valid objects.
        let coroutine = unsafe {
            let f = Bound::from_borrowed_ptr(py, errors::bridge(py));
            f.call1((
                Bound::from_borrowed_ptr(py, this),
                Bound::from_borrowed_ptr(py, is_loop),
            ))
            .map_err(errors::raise)?
        };
        self.inner = coroutine.into_ptr();
        self.drive_inner(None)
    }

    /// Sends (or throws) into the bridge's coroutine.
    fn drive_inner(&mut self, throw: Option<[*mut PyObject; 3]>) -> Res<Step> {
        // SAFETY: attached; `inner` is a coroutine that we own; references as the API says.
        unsafe {
            let mut out = null_mut();
            let inner = self.inner;
            let code = match throw {
                None => ffi::PyIter_Send(inner, ffi::Py_None(), &raw mut out),
                Some(args) => {
                    let n = args.iter().take_while(|a| !a.is_null()).count();
                    let name = errors::name::THROW.get();
                    let full = [inner, args[0], args[1], args[2]];
                    let r = ffi::PyObject_VectorcallMethod(name, full.as_ptr(), n + 1, null_mut());
                    if !r.is_null() {
                        out = r;
                        ffi::PySendResult::PYGEN_NEXT
                    } else if ffi::PyErr_ExceptionMatches(ffi::PyExc_StopIteration) != 0 {
                        ffi::PyErr_Clear();
                        out = ffi::Py_NewRef(ffi::Py_None());
                        ffi::PySendResult::PYGEN_RETURN
                    } else {
                        ffi::PySendResult::PYGEN_ERROR
                    }
                }
            };
            match code {
                ffi::PySendResult::PYGEN_NEXT => {
                    local().foreign_yield.set(out);
                    Ok(Step::Yield)
                }
                ffi::PySendResult::PYGEN_RETURN => {
                    ffi::Py_DECREF(out);
                    self.conclude_foreign().map(Step::Return)
                }
                ffi::PySendResult::PYGEN_ERROR => {
                    self.withdraw();
                    Err(Raised)
                }
            }
        }
    }

    fn conclude_foreign(&mut self) -> Res<*mut PyObject> {
        // Without a dormant G it never waited: it could go on at once, or was only to try.
        let armed = self.g.is_some();
        let verdict = match self.g {
            Some(g) => g.waker.word.verdict().unwrap_or(Verdict::Ready),
            None => Verdict::Ready,
        };
        self.leave_foreign();
        match verdict {
            Verdict::Ready if armed && self.what == What::Event => self.value(),
            _ if self.what == What::Event && !self.happened() => self.timed_out(),
            _ => self.value(),
        }
    }

    /// Ends the life of the dormant G on our side.
    fn leave_foreign(&mut self) {
        self.state = State::Ended;
        self.unlink();
        if let Some(g) = self.g.take() {
            rt().drop_timer(&g);
            if self.ticket.take().is_some_and(|t| g.waker.word.revoke(t)) {
                // It will never run: the runtime's reference is ours to drop too.
                rt().release(g);
            }
            rt().release(g);
        }
    }

    /// Takes the operation back, whatever it is doing. True if it had not happened.
    fn withdraw(&mut self) -> bool {
        match self.state {
            State::Waiting => {
                self.state = State::Ended;
                let Some(g) = self.g.take() else { return true };
                let won = self
                    .ticket
                    .take()
                    .is_some_and(|t| g.waker.word.fire(t, Verdict::Timeout) != Fire::Lost);
                rt().drop_timer(&g);
                self.unlink();
                won
            }
            State::Foreign => {
                let won = match (self.g, self.ticket.take()) {
                    (Some(g), Some(t)) => {
                        let won = g.waker.word.revoke(t);
                        if won {
                            rt().release(g);
                        }
                        won
                    }
                    _ => true,
                };
                self.leave_foreign();
                won
            }
            _ => {
                self.state = State::Ended;
                true
            }
        }
    }

    /// One send.
    fn step(&mut self, this: *mut PyObject) -> Res<Step> {
        match self.state {
            State::New => {
                if let Some(l) = running_loop() {
                    let r = self.start_foreign(this, l);
                    // SAFETY: owned by us.
                    unsafe { ffi::Py_DECREF(l) };
                    return r;
                }
                let Some((_, g)) = rt().current_goroutine() else {
                    self.state = State::Ended;
                    return Err(runtime_error(&format!(
                        "{} must be awaited in a goroutine (gorun.go) or in an asyncio task: here runs neither",
                        self.what.name()
                    )));
                };
                // SAFETY: it runs on this thread.
                let (form, blocking) = unsafe { ((*g.body.get()).form, (*g.body.get()).blocking) };
                if form != Form::Coroutine {
                    self.state = State::Ended;
                    return Err(runtime_error(&format!(
                        "{} was awaited in a plain-function goroutine, by a coroutine that gorun does not drive",
                        self.what.name()
                    )));
                }
                if blocking > 0 {
                    self.state = State::Ended;
                    return Err(runtime_error("await inside `with gorun.blocking()`"));
                }
                self.start(this, g)
            }
            State::Yielding => {
                self.state = State::Ended;
                Ok(Step::Return(match self.source() {
                    Source::Nothing => self.value()?,
                    _ if self.happened() => self.value()?,
                    _ => self.timed_out()?,
                }))
            }
            State::Waiting => {
                let g = self.g.ok_or(Raised)?;
                if rt().current_goroutine().is_none_or(|(_, me)| me != g) {
                    return Err(runtime_error(&format!(
                        "{} is awaited by another goroutine",
                        self.what.name()
                    )));
                }
                match (self.ticket, g.waker.word.verdict()) {
                    (Some(_), Some(v)) => Ok(Step::Return(self.conclude(g, v)?)),
                    // Somebody sent by hand while it waits: go on waiting.
                    _ => {
                        intend(this, Intent::Park);
                        Ok(Step::Yield)
                    }
                }
            }
            State::Foreign => self.drive_inner(None),
            State::Ended => Err(runtime_error(&format!(
                "cannot reuse already awaited {}",
                self.what.name()
            ))),
        }
    }
}

/// The asyncio loop that runs on this thread, owned, if there is one. Costs a look into `sys.modules` until asyncio is
/// imported.
fn running_loop() -> Option<*mut PyObject> {
    // Not a PyOnceLock: a fork in the middle of its first use would leave it in work for ever. Who comes twice at first
    // finds the same function.
    static GET: AtomicPtr<PyObject> = AtomicPtr::new(null_mut());
    let py = attached();
    let get = match GET.load(Ordering::Acquire) {
        g if !g.is_null() => g,
        _ => {
            // SAFETY: attached; borrowed references.
            let there = unsafe {
                let modules = ffi::PyImport_GetModuleDict();
                // While nothing was imported the last answer stands.
                let (l, n) = (local(), ffi::PyDict_Size(modules));
                if l.modules.get() == n {
                    return None;
                }
                l.modules.set(n);
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
    running_loop().is_some_and(|l| unsafe {
        ffi::Py_DECREF(l);
        true
    })
}

// ---- the slots ----

fn yielded(this: *mut PyObject) -> *mut PyObject {
    let foreign = local().foreign_yield.replace(null_mut());
    if foreign.is_null() {
        // SAFETY: attached; a live object.
        unsafe { ffi::Py_NewRef(this) }
    } else {
        foreign
    }
}

/// StopIteration(value), also for tuples and exceptions.
fn stop(value: *mut PyObject) {
    // SAFETY: attached; `value` is owned and given up.
    unsafe {
        if value != ffi::Py_None() {
            let exc = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value);
            if !exc.is_null() {
                ffi::PyErr_SetObject(ffi::PyExc_StopIteration, exc);
                ffi::Py_DECREF(exc);
            }
        }
        ffi::Py_DECREF(value);
    }
}

unsafe extern "C" fn iternext(this: *mut PyObject) -> *mut PyObject {
    let mut done = None;
    let r = guard(|| {
        // SAFETY: an Op; one step at a time (exclusive resume).
        match unsafe { (*this.cast::<Op>()).step(this) }? {
            Step::Yield => Ok(yielded(this)),
            Step::Return(v) => {
                done = Some(v);
                Ok(null_mut())
            }
        }
    });
    if let Some(v) = done {
        stop(v);
    }
    r
}

unsafe extern "C" fn am_send(
    this: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> ffi::PySendResult {
    let mut code = ffi::PySendResult::PYGEN_ERROR;
    let r = guard(|| {
        // SAFETY: as above.
        match unsafe { (*this.cast::<Op>()).step(this) }? {
            Step::Yield => {
                code = ffi::PySendResult::PYGEN_NEXT;
                Ok(yielded(this))
            }
            Step::Return(v) => {
                code = ffi::PySendResult::PYGEN_RETURN;
                Ok(v)
            }
        }
    });
    // SAFETY: the interpreter's out parameter.
    unsafe { *result = r };
    code
}

unsafe extern "C" fn am_await(this: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: an Op.
        let op = unsafe { &*this.cast::<Op>() };
        if op.state != State::New {
            return Err(runtime_error(&format!(
                "cannot reuse already awaited {}",
                op.what.name()
            )));
        }
        // SAFETY: attached.
        Ok(unsafe { ffi::Py_NewRef(this) })
    })
}

unsafe extern "C" fn send(this: *mut PyObject, _v: *mut PyObject) -> *mut PyObject {
    // SAFETY: as `iternext`.
    let r = unsafe { iternext(this) };
    // SAFETY: attached.
    if r.is_null() && unsafe { ffi::PyErr_Occurred() }.is_null() {
        // SAFETY: a method must set an error; for the slot None needs none.
        unsafe { ffi::PyErr_SetNone(ffi::PyExc_StopIteration) };
    }
    r
}

unsafe extern "C" fn throw(
    this: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    _kw: *mut PyObject,
) -> *mut PyObject {
    let mut done = None;
    let r = guard(|| {
        // SAFETY: an Op; arguments as the interpreter gave them (type[, value[, traceback]]).
        unsafe {
            let op = &mut *this.cast::<Op>();
            let arg = |i: isize| if i < n { *args.offset(i) } else { null_mut() };
            if op.state == State::Foreign {
                return match op.drive_inner(Some([arg(0), arg(1), arg(2)]))? {
                    Step::Yield => Ok(yielded(this)),
                    Step::Return(v) => {
                        done = Some(v);
                        Ok(null_mut())
                    }
                };
            }
            op.withdraw();
            let exc = arg(0);
            if exc.is_null()
                || (ffi::PyExceptionInstance_Check(exc) == 0
                    && ffi::PyExceptionClass_Check(exc) == 0)
            {
                return Err(errors::type_error("throw() needs an exception"));
            }
            if ffi::PyType_Check(exc) != 0 {
                let value = arg(1);
                ffi::PyErr_SetObject(
                    exc,
                    if value.is_null() {
                        ffi::Py_None()
                    } else {
                        value
                    },
                );
            } else {
                ffi::PyErr_SetObject(ffi::Py_TYPE(exc).cast(), exc);
            }
            Err(Raised)
        }
    });
    if let Some(v) = done {
        // SAFETY: attached.
        if v == unsafe { ffi::Py_None() } {
            // SAFETY: attached, owned.
            unsafe {
                ffi::Py_DECREF(v);
                ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            }
        } else {
            stop(v);
        }
    }
    r
}

unsafe extern "C" fn close(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: an Op.
        unsafe {
            let op = &mut *this.cast::<Op>();
            if op.state == State::Foreign && !op.inner.is_null() {
                let r = ffi::PyObject_CallMethodNoArgs(op.inner, errors::name::CLOSE.get());
                if r.is_null() {
                    return Err(Raised);
                }
                ffi::Py_DECREF(r);
            }
            op.withdraw();
            Ok(ffi::Py_NewRef(ffi::Py_None()))
        }
    })
}

/// For the bridge: stands a dormant goroutine in for the asyncio task; `callback()` is called, on an M, when the
/// operation has happened. False if it has already.
unsafe extern "C" fn arm(this: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    guard(|| {
        let rt = crate::go::started()?;
        // SAFETY: an Op, in state Foreign.
        let op = unsafe { &mut *this.cast::<Op>() };
        if op.what == What::Join {
            // SAFETY: the target is a handle.
            let other = unsafe { goroutine::of(op.target) };
            if !goroutine::is_done(other) {
                goroutine::refuse_foreign(other)?;
            }
        }
        if op.what == What::Gosched {
            // SAFETY: a static. None: one turn of the loop will do.
            return Ok(unsafe { ffi::Py_NewRef(ffi::Py_None()) });
        }
        let now =
            op.happened() || (op.what == What::Event && op.limit.is_some_and(|d| d.is_zero()));
        if !now {
            // SAFETY: attached; the body owns the reference.
            unsafe { ffi::Py_INCREF(callback) };
            let (g, ticket) = rt.dormant(flag::INTERNAL, |g| {
                let b = g.body.get();
                // SAFETY: a vacant G's body.
                unsafe {
                    (*b).what = callback;
                    (*b).form = Form::Wake;
                }
            });
            g.retain();
            op.g = Some(g);
            op.ticket = Some(ticket);
            let waits = op.enlist(&raw const g.waker, ticket);
            if waits {
                if let Some(d) = op.limit {
                    rt.add_timer(
                        &g,
                        rt.now()
                            .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
                        ticket,
                    );
                }
                // SAFETY: a static.
                return Ok(unsafe { ffi::Py_NewRef(ffi::Py_True()) });
            }
            op.leave_foreign();
            op.state = State::Foreign;
        }
        // SAFETY: a static.
        Ok(unsafe { ffi::Py_NewRef(ffi::Py_False()) })
    })
}

/// For the bridge: True if the operation was taken back before it happened.
unsafe extern "C" fn withdraw(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: an Op.
        unsafe {
            let op = &mut *this.cast::<Op>();
            let won = match (op.g, op.ticket) {
                (Some(g), Some(t)) => {
                    let won = g.waker.word.revoke(t);
                    if won {
                        op.ticket = None;
                        rt().release(g);
                    }
                    won
                }
                _ => true,
            };
            Ok(ffi::PyBool_FromLong(won.into()))
        }
    })
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached.
    unsafe {
        let op = this.cast::<Op>();
        let holding = ffi::Py_TYPE(this) == HOLDING.get();
        if holding {
            ffi::PyObject_GC_UnTrack(this.cast());
        }
        match (*op).state {
            State::New => warn_unawaited((*op).what),
            State::Waiting | State::Foreign => {
                (*op).withdraw();
            }
            State::Yielding | State::Ended => {}
        }
        if holding {
            let (target, inner) = ((*op).target, (*op).inner);
            ffi::Py_XDECREF(target);
            ffi::Py_XDECREF(inner);
            ffi::PyObject_GC_Del(this.cast());
        } else {
            let inner = (*op).inner;
            ffi::Py_XDECREF(inner);
            let spare = local().spare_op.replace(this);
            if !spare.is_null() {
                ffi::PyObject_Free(spare.cast());
            }
        }
    }
}

/// Frees this thread's spare operation.
pub fn drop_spare() {
    let spare = local().spare_op.replace(null_mut());
    // SAFETY: freed memory of an operation, or null.
    unsafe { ffi::PyObject_Free(spare.cast()) };
}

fn warn_unawaited(what: What) {
    aside(|| {
        let text = std::ffi::CString::new(format!(
            "gorun operation '{}' was never awaited",
            what.name()
        ))
        .unwrap_or_default();
        // SAFETY: attached. A warning that was turned into an error is reported as unraisable by `aside`.
        unsafe { ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr(), 1) };
    });
}

unsafe extern "C" fn traverse(
    this: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector's call.
    unsafe {
        let op = this.cast::<Op>();
        for p in [(*op).target, (*op).inner] {
            if !p.is_null() {
                let r = visit(p, arg);
                if r != 0 {
                    return r;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(this: *mut PyObject) -> c_int {
    // SAFETY: the collector found it unreachable. The target stays until dealloc: unlinking needs it.
    unsafe {
        let op = this.cast::<Op>();
        (*op).withdraw();
        let inner = std::mem::replace(&mut (*op).inner, null_mut());
        ffi::Py_XDECREF(inner);
    }
    0
}

/// Makes the types. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    const DOC: &CStr = c"An operation that starts when it is awaited.";
    let one = |name: &'static CStr, f: ffi::PyCFunction, doc: &'static CStr| ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: f },
        ml_flags: ffi::METH_O,
        ml_doc: doc.as_ptr(),
    };
    let table = || {
        methods(vec![
            one(c"send", send, c"As of a coroutine."),
            fast(c"throw", throw, c"As of a coroutine."),
            noargs(c"close", close, c"As of a coroutine."),
            one(c"_arm", arm, c"For the asyncio bridge."),
            noargs(c"_withdraw", withdraw, c"For the asyncio bridge."),
        ])
    };
    // SAFETY: at import; everything set here lives for ever.
    unsafe {
        let as_async = crate::rawtype::forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
        (*as_async).am_await = Some(am_await);
        (*as_async).am_send = Some(am_send);
        for (t, holding) in [(&PLAIN, false), (&HOLDING, true)] {
            t.ready(c"gorun.Operation", DOC, size_of::<Op>(), |t| {
                t.tp_dealloc = Some(dealloc);
                t.tp_iter = Some(ffi::PyObject_SelfIter);
                t.tp_iternext = Some(iternext);
                t.tp_methods = table();
                t.tp_as_async = as_async;
                if holding {
                    t.tp_traverse = Some(traverse);
                    t.tp_clear = Some(clear);
                }
            })?;
        }
    }
    Ok(())
}
