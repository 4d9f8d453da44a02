//! Channels of Python values: the class and its two one-way views. What they do is the core's (`gorun_core::chan`).
//!
//! Layout: a Chan object owns the core's channel in an `Arc` (a timer that will send on it has the other reference). A
//! view owns a reference to the Chan object, so that the collector finds the buffered values once.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use gorun_core::chan::{Blocked, Chan, Fate, Place, Side};
use gorun_core::prim::Lock;
use gorun_core::sched::{Ticket, WaitReason, Waker};
use gorun_core::wait::Begun;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::body::Owned;
use crate::errors::{self, Raised, Res, attached, restore, runtime_error, set, type_error};
use crate::local::local;
use crate::rawtype::StaticType;
use crate::rt::rt;
use crate::tick::Tick;
use crate::unwind;
use crate::work::{Job, Work, boolean, none};

mod types;
pub use types::init;

/// `gorun.Chan`, `gorun.RecvChan`, `gorun.SendChan`.
pub static CHAN: StaticType = StaticType::new();
pub static RECV: StaticType = StaticType::new();
pub static SEND: StaticType = StaticType::new();

/// What a Chan object and a timer share.
pub struct Core {
    pub chan: Chan<Owned>,
    /// A timer's: its one place does not show.
    pub hidden: bool,
    /// The timer that sends here; it stops when the Chan object goes.
    pub timer: Lock<Option<Arc<Tick>>>,
}

impl Core {
    /// Sends `value` if there is room or a receiver, else gives it back (slow readers lose ticks).
    pub fn tick(&self, value: Owned) -> Option<Owned> {
        let mut place = Place::with(value);
        match self.chan.try_send(rt(), &mut place) {
            Ok(()) => None,
            Err(_) => place.value,
        }
    }
}

#[repr(C)]
struct Obj {
    ob_base: PyObject,
    core: *const Core,
    /// Owned or null: what lives as long as this object (`_keep`; the context whose done channel it is).
    keep: AtomicPtr<PyObject>,
    weakrefs: *mut PyObject,
}

#[repr(C)]
struct View {
    ob_base: PyObject,
    chan: *mut PyObject,
    weakrefs: *mut PyObject,
}

/// The core of a Chan object.
///
/// # Safety
/// `o` is one, and outlives the result.
unsafe fn core<'a>(o: *mut PyObject) -> &'a Core {
    // SAFETY: by the caller's promise.
    unsafe { &*(*o.cast::<Obj>()).core }
}

/// A Chan object (borrowed) by itself or by a view, and which sides may be used through `o`.
#[derive(Clone, Copy)]
pub struct Ends {
    pub chan: *mut PyObject,
    pub send: bool,
    pub recv: bool,
}

/// True for a Chan object: no view.
#[inline]
pub fn is_chan(o: *mut PyObject) -> bool {
    // SAFETY: attached, a live object.
    unsafe { ffi::Py_TYPE(o) == CHAN.get() }
}

/// What `o` is a channel of, if it is one.
pub fn ends(o: *mut PyObject) -> Option<Ends> {
    // SAFETY: attached, a live object.
    unsafe {
        let t = ffi::Py_TYPE(o);
        if t == CHAN.get() {
            return Some(Ends {
                chan: o,
                send: true,
                recv: true,
            });
        }
        if t == RECV.get() || t == SEND.get() {
            return Some(Ends {
                chan: (*o.cast::<View>()).chan,
                send: t == SEND.get(),
                recv: t == RECV.get(),
            });
        }
    }
    None
}

/// A new Chan object.
pub fn make(capacity: usize, hidden: bool) -> Res<*mut PyObject> {
    let shared = Arc::new(Core {
        chan: Chan::new(capacity),
        hidden,
        timer: Lock::new(None),
    });
    // SAFETY: attached; the types are ready.
    unsafe {
        let o = ffi::PyObject_GC_New::<Obj>(CHAN.get());
        if o.is_null() {
            return Err(Raised);
        }
        (*o).core = Arc::into_raw(shared);
        (&raw mut (*o).keep).write(AtomicPtr::new(null_mut()));
        (*o).weakrefs = null_mut();
        ffi::PyObject_GC_Track(o.cast());
        Ok(o.cast())
    }
}

/// Lets `what` (or nothing: null) live as long as the Chan object does, in the place of what was kept before.
///
/// # Safety
/// Attached; `o` is a Chan object.
unsafe fn keep(o: *mut PyObject, what: *mut PyObject) {
    // SAFETY: by the caller's promise; the slot owns its reference. AcqRel: the object was written before it was put in.
    unsafe {
        let new = ffi::Py_XNewRef(what);
        let old = (*o.cast::<Obj>()).keep.swap(new, Ordering::AcqRel);
        ffi::Py_XDECREF(old);
    }
}

/// A second owner of the core of a Chan object.
///
/// # Safety
/// `o` is a Chan object.
pub unsafe fn share(o: *mut PyObject) -> Arc<Core> {
    // SAFETY: came from `Arc::into_raw`.
    unsafe {
        let p = (*o.cast::<Obj>()).core;
        Arc::increment_strong_count(p);
        Arc::from_raw(p)
    }
}

/// A view of type `t`. Takes over the reference to the Chan object.
pub fn view(t: &StaticType, chan: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: as in `make`.
    unsafe {
        let o = ffi::PyObject_GC_New::<View>(t.get());
        if o.is_null() {
            ffi::Py_DECREF(chan);
            return Err(Raised);
        }
        (*o).chan = chan;
        (*o).weakrefs = null_mut();
        ffi::PyObject_GC_Track(o.cast());
        Ok(o.cast())
    }
}

/// A Chan object that works own: what the core needs to find the channel.
pub struct ChanRef(Owned);

impl ChanRef {
    /// Of a Chan object.
    pub fn new(o: *mut PyObject) -> Self {
        // SAFETY: attached, a live object.
        Self(unsafe { Owned::new(o) })
    }

    /// The object, borrowed.
    pub fn as_ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }
}

impl AsRef<Chan<Owned>> for ChanRef {
    fn as_ref(&self) -> &Chan<Owned> {
        // SAFETY: a Chan object, owned.
        unsafe { &core(self.0.as_ptr()).chan }
    }
}

/// Raises ChannelClosed for a send or a receive.
pub fn closed(side: Side) -> Raised {
    set(
        errors::channel_closed(attached()),
        match side {
            Side::Send => "send on a closed channel",
            Side::Recv => "receive on a closed channel",
        },
    )
}

/// `(value, ok)`.
pub fn pair(value: *mut PyObject, ok: bool) -> Res<*mut PyObject> {
    // SAFETY: attached; takes over `value`.
    unsafe {
        let t = ffi::PyTuple_New(2);
        if t.is_null() {
            ffi::Py_DECREF(value);
            return Err(Raised);
        }
        ffi::PyTuple_SET_ITEM(t, 0, value);
        ffi::PyTuple_SET_ITEM(t, 1, boolean(ok));
        Ok(t)
    }
}

/// What a channel work does.
pub enum Form {
    Send,
    Recv,
    RecvOk,
    /// `async for`.
    Next,
    RecvMany(usize),
    SendMany(Box<Batch>),
}

/// A `send_many`: what it was given, until it starts; then the values that are not in the place, and how many were sent.
pub struct Batch {
    source: Option<Owned>,
    values: VecDeque<Owned>,
    sent: usize,
}

impl Batch {
    /// Of the values of an iterable, which is left alone until the operation starts.
    pub fn new(source: *mut PyObject) -> Res<Box<Self>> {
        // SAFETY: attached, a live object.
        let iterable = unsafe {
            (*ffi::Py_TYPE(source)).tp_iter.is_some() || ffi::PySequence_Check(source) != 0
        };
        if !iterable {
            return Err(type_error(&format!(
                "send_many() needs an iterable of values, not {}",
                errors::repr(source)
            )));
        }
        Ok(Box::new(Self {
            // SAFETY: as above.
            source: Some(unsafe { Owned::new(source) }),
            values: VecDeque::new(),
            sent: 0,
        }))
    }
}

/// A send or a receive.
pub struct ChanWork {
    chan: ChanRef,
    place: Place<Owned>,
    form: Form,
}

impl ChanWork {
    /// A value that was not sent, or not taken.
    pub fn holds_value(&self) -> bool {
        self.place.value.is_some()
    }

    /// The value was delivered, or taken.
    pub fn is_done(&self) -> bool {
        self.place.fate == Fate::Done
    }

    /// Of the Chan object `chan`; `value` for a send.
    #[inline(always)]
    pub fn work(chan: *mut PyObject, form: Form, value: Option<Owned>) -> Work {
        let mut place = Place::new();
        place.value = value;
        Work::Chan(Self {
            chan: ChanRef::new(chan),
            place,
            form,
        })
    }

    /// Its parts, if it is a plain send or receive: all that `ops::quick` needs.
    #[inline]
    pub fn plain(&mut self) -> Option<(Side, &Chan<Owned>, &mut Place<Owned>)> {
        let side = match self.form {
            Form::Send => Side::Send,
            Form::Recv => Side::Recv,
            _ => return None,
        };
        Some((side, self.chan.as_ref(), &mut self.place))
    }

    fn side(&self) -> Side {
        match self.form {
            Form::Send | Form::SendMany(_) => Side::Send,
            _ => Side::Recv,
        }
    }

    fn settle(&mut self, r: Result<(), Blocked>) -> bool {
        match r {
            Ok(()) => self.place.fate = Fate::Done,
            Err(Blocked::Closed) => self.place.fate = Fate::Closed,
            Err(Blocked::Wait) => return false,
        }
        true
    }

    /// `send_many`: sends what can be sent now; true if nothing is left to wait for.
    fn advance(&mut self) -> bool {
        let Form::SendMany(batch) = &mut self.form else {
            return true;
        };
        let before = batch.values.len();
        let r = self.chan.as_ref().fill(rt(), &mut batch.values);
        batch.sent += before - batch.values.len();
        match r {
            Ok(()) => self.place.fate = Fate::Done,
            Err(Blocked::Closed) => self.place.fate = Fate::Closed,
            Err(Blocked::Wait) => {
                self.place.value = batch.values.pop_front();
                self.place.fate = Fate::Open;
                return false;
            }
        }
        true
    }

    /// Tells the error that is set how many were sent.
    fn tell_sent(&self) {
        let Form::SendMany(batch) = &self.form else {
            return;
        };
        let e = errors::fetch();
        if e.is_null() {
            return;
        }
        // SAFETY: attached; an owned exception, given back by `restore`.
        unsafe {
            let n = ffi::PyLong_FromSize_t(batch.sent);
            if ffi::PyObject_SetAttr(e, errors::name::SENT.get(), n) < 0 {
                ffi::PyErr_Clear();
            }
            ffi::Py_XDECREF(n);
            let tb = ffi::PyException_GetTraceback(e);
            restore(e, tb);
            ffi::Py_XDECREF(tb);
            ffi::Py_DECREF(e);
        }
    }
}

impl Job for ChanWork {
    fn name(&self) -> &'static str {
        match self.form {
            Form::Send => "send_async",
            Form::Recv => "recv_async",
            Form::RecvOk => "recv_ok_async",
            Form::Next => "__anext__",
            Form::RecvMany(_) => "recv_many_async",
            Form::SendMany(_) => "send_many_async",
        }
    }
    fn is_next(&self) -> bool {
        matches!(self.form, Form::Next)
    }
    fn reason(&self) -> WaitReason {
        match self.side() {
            Side::Send => WaitReason::Send,
            Side::Recv => WaitReason::Recv,
        }
    }
    fn attempt(&mut self) -> Res<bool> {
        let r = match self.form {
            Form::SendMany(ref mut batch) => {
                // Taken out first: this runs any code, and whoever looks meanwhile finds it empty.
                if let Some(source) = batch.source.take() {
                    let all = values(&source)?;
                    batch.values = all;
                }
                return Ok(self.advance());
            }
            Form::Send => self.chan.as_ref().try_send(rt(), &mut self.place),
            _ => self.chan.as_ref().try_recv(rt(), &mut self.place),
        };
        Ok(self.settle(r))
    }
    #[inline]
    unsafe fn begin(&mut self, arm: impl FnOnce() -> Option<(*const Waker, Ticket)>) -> Res<Begun> {
        let side = match self.form {
            Form::Send => Side::Send,
            Form::SendMany(_) => {
                if self.attempt()? {
                    return Ok(Begun::Happened);
                }
                let Some((waker, ticket)) = arm() else {
                    return Ok(Begun::Refused);
                };
                // SAFETY: as the caller promised.
                let waits = unsafe { self.enlist(waker, ticket) };
                return Ok(if waits { Begun::Waits } else { Begun::Late });
            }
            _ => Side::Recv,
        };
        let chan: *const Chan<Owned> = self.chan.as_ref();
        // SAFETY: works are pinned; the channel is owned by us.
        let (begun, woken) = unsafe { (*chan).begin(side, &mut self.place, arm) };
        woken.wake(rt());
        Ok(begun)
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        let side = self.side();
        let chan: *const Chan<Owned> = self.chan.as_ref();
        // SAFETY: works are pinned; the channel is owned by us.
        let waits = unsafe { (*chan).enlist(rt(), side, &mut self.place, waker, ticket) };
        // One of many was sent just now: the rest may have to wait, which the caller finds by `confirm`.
        // SAFETY: as the caller promised.
        waits || !self.confirm() && unsafe { self.enlist(waker, ticket) }
    }
    fn delist(&mut self) {
        let side = self.side();
        let place = &raw mut self.place;
        // SAFETY: given to this channel for this side, or to none.
        unsafe { self.chan.as_ref().delist(side, place) };
    }
    fn aside(&mut self) {
        let chan: *const Chan<Owned> = self.chan.as_ref();
        // SAFETY: owned by us.
        unsafe { (*chan).aside(&mut self.place) };
    }
    fn confirm(&mut self) -> bool {
        if self.place.fate == Fate::Done {
            if let Form::SendMany(batch) = &mut self.form {
                batch.sent += 1;
                return self.advance();
            }
        }
        true
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        if self.place.fate == Fate::Closed {
            return match self.form {
                Form::RecvOk => pair(none(), false),
                Form::Next => {
                    // SAFETY: attached; a static.
                    unsafe { ffi::PyErr_SetNone(ffi::PyExc_StopAsyncIteration) };
                    Err(Raised)
                }
                _ => {
                    closed(self.side());
                    self.tell_sent();
                    Err(Raised)
                }
            };
        }
        let value = self.place.value.take();
        match (&self.form, value) {
            (Form::Send, _) => Ok(none()),
            (Form::SendMany(batch), _) => crate::args::number(batch.sent),
            (Form::Recv | Form::Next, Some(v)) => Ok(v.into_ptr()),
            (Form::RecvOk, Some(v)) => pair(v.into_ptr(), true),
            (Form::RecvMany(n), Some(v)) => {
                let mut all = vec![v];
                self.chan.as_ref().drain(rt(), *n, &mut all);
                list(all)
            }
            (_, None) => Err(runtime_error("the value was taken already")),
        }
    }
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        let py = attached();
        match &self.form {
            Form::SendMany(batch) => {
                let text = format!("send_many has timed out: {} were sent", batch.sent);
                set(errors::partial_send(py), &text);
                self.tell_sent();
                Err(Raised)
            }
            _ => Err(errors::timeout_error(match self.side() {
                Side::Send => "the send has timed out",
                Side::Recv => "the receive has timed out",
            })),
        }
    }
    fn cut(&mut self) {
        self.tell_sent();
    }
    fn undo(&mut self) {
        if self.side() == Side::Recv {
            if let Some(v) = self.place.value.take() {
                self.chan.as_ref().put_back(rt(), v);
            }
        }
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        let mut r = f(self.chan.as_ptr());
        if let Some(v) = &self.place.value {
            r = if r == 0 { f(v.as_ptr()) } else { r };
        }
        if let Form::SendMany(batch) = &self.form {
            for v in batch.source.iter().chain(&batch.values) {
                r = if r == 0 { f(v.as_ptr()) } else { r };
            }
        }
        r
    }
}

/// A list of owned values.
fn list(values: Vec<Owned>) -> Res<*mut PyObject> {
    // SAFETY: attached; each item is given over.
    unsafe {
        let l = ffi::PyList_New(values.len() as ffi::Py_ssize_t);
        if l.is_null() {
            return Err(Raised);
        }
        for (i, v) in values.into_iter().enumerate() {
            ffi::PyList_SET_ITEM(l, i as ffi::Py_ssize_t, v.into_ptr());
        }
        Ok(l)
    }
}

/// The values of an iterable.
fn values(source: &Owned) -> Res<VecDeque<Owned>> {
    // SAFETY: attached, a live object.
    let items = unsafe { Bound::from_borrowed_ptr(attached(), source.as_ptr()) };
    let mut out = VecDeque::new();
    let iter = items.try_iter().map_err(errors::raise)?;
    loop {
        // SAFETY: attached; an iterator. A new reference, or null with or without an error.
        let item = unsafe {
            let item = unwind::iter_next(iter.as_ptr());
            Bound::from_owned_ptr_or_opt(items.py(), item)
        };
        match item {
            // SAFETY: attached.
            Some(item) => out.push_back(unsafe { Owned::new(item.as_ptr()) }),
            None => match PyErr::take(items.py()) {
                None => return Ok(out),
                Some(error) => return Err(errors::raise(error)),
            },
        }
    }
}

unsafe extern "C" fn dealloc(o: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(o.cast());
        let this = o.cast::<Obj>();
        if !(*this).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(o);
        }
        local().deaths.end(o, drop_chan);
    }
}

unsafe fn drop_chan(o: *mut PyObject) {
    // SAFETY: the rest of `dealloc`.
    unsafe {
        let this = o.cast::<Obj>();
        let shared = Arc::from_raw((*this).core);
        let kept = (*this).keep.load(Ordering::Relaxed);
        ffi::PyObject_GC_Del(o.cast());
        ffi::Py_XDECREF(kept);
        let timer = shared.timer.lock().take();
        if let Some(t) = timer {
            t.stop();
        }
        // Values are dropped here, outside of the lock; one that uses the channel finds it gone.
        drop(shared);
    }
}

unsafe extern "C" fn view_dealloc(o: *mut PyObject) {
    // SAFETY: as above.
    unsafe {
        ffi::PyObject_GC_UnTrack(o.cast());
        let this = o.cast::<View>();
        if !(*this).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(o);
        }
        local().deaths.end(o, drop_view);
    }
}

unsafe fn drop_view(o: *mut PyObject) {
    // SAFETY: the rest of `view_dealloc`.
    unsafe {
        let chan = (*o.cast::<View>()).chan;
        ffi::PyObject_GC_Del(o.cast());
        ffi::Py_XDECREF(chan);
    }
}

unsafe extern "C" fn traverse(o: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector's call.
    let kept = unsafe { (*o.cast::<Obj>()).keep.load(Ordering::Relaxed) };
    if !kept.is_null() {
        // SAFETY: as above.
        let r = unsafe { visit(kept, arg) };
        if r != 0 {
            return r;
        }
    }
    let mut r = 0;
    // SAFETY: the collector's call: all others stand still at safe points, so nobody holds the lock.
    unsafe {
        core(o).chan.visit(&mut |v| {
            r = visit(v.as_ptr(), arg);
            r == 0
        });
    }
    r
}

unsafe extern "C" fn clear(o: *mut PyObject) -> c_int {
    // SAFETY: the collector found it unreachable.
    unsafe {
        keep(o, null_mut());
        drop(core(o).chan.take_buffered());
    }
    0
}

unsafe extern "C" fn view_traverse(
    o: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector's call.
    unsafe { visit((*o.cast::<View>()).chan, arg) }
}
