//! `select` and its cases. The protocol is the core's (`gorun_core::select`).

use std::ffi::{CStr, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::null_mut;
use std::time::Duration;

use gorun_core::chan::{Chan, Fate, Place, Side};
use gorun_core::sched::{Ticket, WaitReason, Waker};
use gorun_core::select::{Case, Event, On, Select};
use gorun_core::wait::{Begun, Node};
use pyo3::ffi::{self, PyObject};

use crate::args::timeout;
use crate::body::{Ext, Owned};
use crate::chan::{ChanRef, closed, ends, is_chan};
use crate::door;
use crate::errors::{Raised, Res, guard, repr, timeout_error, type_error};
use crate::goroutine;
use crate::local::local;
use crate::ops;
use crate::rawtype::StaticType;
use crate::rt::rt;
use crate::work::{Job, Work, has_ended, latch_of, none};

mod selected;
use selected::selected;
pub use selected::{drop_spare as drop_spare_selected, install as install_selected};

/// The classes of `recv(ch)` and `send(ch, v)`.
static RECV_CASE: StaticType = StaticType::new();
static SEND_CASE: StaticType = StaticType::new();

#[repr(C)]
struct CaseObj {
    ob_base: PyObject,
    /// A Chan object, or null for nil.
    chan: *mut PyObject,
    /// A send's.
    value: *mut PyObject,
}

/// A goroutine as a case: ready when it has ended.
pub struct EndOf(Owned);

impl Event for EndOf {
    fn is_closed(&self) -> bool {
        has_ended(&self.0)
    }
    unsafe fn enlist(&self, node: *mut Node, waker: *const Waker, ticket: Ticket) -> bool {
        let latch: *const gorun_core::wait::Latch<Ext> = latch_of(&self.0);
        // SAFETY: the latch lives as long as the handle; the node is pinned by the caller's promise.
        !has_ended(&self.0) && unsafe { (*latch).enlist(node, waker, ticket) }
    }
    unsafe fn delist(&self, node: *mut Node) {
        // SAFETY: given to this latch, or to none.
        unsafe { latch_of(&self.0).delist(node) };
    }
}

type Inner = Select<Owned, ChanRef, EndOf>;

/// A select's home: pinned, and used again by the next select of its thread.
pub struct Home(ManuallyDrop<Box<SelectWork>>);

impl Home {
    /// Without cases.
    fn new() -> Self {
        let spare = local().spare_select.replace(null_mut());
        Self(ManuallyDrop::new(if spare.is_null() {
            Box::default()
        } else {
            // SAFETY: put aside by `drop`.
            unsafe { Box::from_raw(spare) }
        }))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What the cases hold may run code that selects, on this thread: put aside afterwards.
        self.select.cases.clear();
        self.done = None;
        // SAFETY: once; not used again.
        let this = Box::into_raw(unsafe { ManuallyDrop::take(&mut self.0) });
        drop_spare(local().spare_select.replace(this));
    }
}

impl Deref for Home {
    type Target = SelectWork;
    fn deref(&self) -> &SelectWork {
        &self.0
    }
}

impl DerefMut for Home {
    fn deref_mut(&mut self) -> &mut SelectWork {
        &mut self.0
    }
}

/// Frees one that was put aside (or nothing: null).
pub fn drop_spare(spare: *mut SelectWork) {
    if !spare.is_null() {
        // SAFETY: put aside by `Home::drop`, without cases.
        drop(unsafe { Box::from_raw(spare) });
    }
}

/// A select that waits.
#[derive(Default)]
pub struct SelectWork {
    select: Inner,
    done: Option<usize>,
    default: bool,
}

/// A random number of this thread: which case is looked at first is nobody's secret.
fn random() -> u64 {
    let l = local();
    let mut x = l.random.get();
    if x == 0 {
        x = rt().now() ^ (std::ptr::from_ref(l).addr() as u64);
    }
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    l.random.set(x | 1);
    // `Select` mixes it.
    x
}

fn case(o: *mut PyObject) -> Res<Case<Owned, ChanRef, EndOf>> {
    // SAFETY: attached, a live object.
    unsafe {
        if o == ffi::Py_None() {
            return Ok(Case::new(On::Never, Place::new()));
        }
        let t = ffi::Py_TYPE(o);
        if t == RECV_CASE.get() || t == SEND_CASE.get() {
            let c = o.cast::<CaseObj>();
            if (*c).chan.is_null() {
                return Ok(Case::new(On::Never, Place::new()));
            }
            let chan = ChanRef::new((*c).chan);
            return Ok(if t == RECV_CASE.get() {
                Case::new(On::Chan(Side::Recv, chan), Place::new())
            } else {
                Case::new(
                    On::Chan(Side::Send, chan),
                    Place::with(Owned::new((*c).value)),
                )
            });
        }
        if let Some(e) = ends(o).filter(|e| e.recv) {
            return Ok(Case::new(
                On::Chan(Side::Recv, ChanRef::new(e.chan)),
                Place::new(),
            ));
        }
        if goroutine::is_handle(o) {
            let g = goroutine::of(o);
            goroutine::refuse_self(g)?;
            if !goroutine::is_done(g) {
                goroutine::refuse_foreign(g)?;
            }
            return Ok(Case::new(On::Latch(EndOf(Owned::new(o))), Place::new()));
        }
    }
    Err(type_error(&format!(
        "a case of select is recv(ch), send(ch, v), a channel to receive from, a Goroutine or None, not {}",
        repr(o)
    )))
}

/// Cases by position, then `default` and `timeout`.
unsafe fn parse(
    name: &str,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> Res<(Home, Option<Duration>)> {
    // SAFETY: as the interpreter gave them.
    unsafe {
        let n = n as usize;
        let [default, limit] = if kw.is_null() {
            [null_mut(); 2]
        } else {
            crate::args::parse(name, ["default", "timeout"], 0, args.add(n), 0, kw)?
        };
        let default = if default.is_null() {
            false
        } else {
            match ffi::PyObject_IsTrue(default) {
                -1 => return Err(Raised),
                b => b != 0,
            }
        };
        let limit = if limit.is_null() {
            None
        } else {
            timeout(limit)?
        };
        let mut home = Home::new();
        home.default = default;
        for i in 0..n {
            let o = *args.add(i);
            if is_chan(o) {
                // The most usual case, written where it stays.
                let on = On::Chan(Side::Recv, ChanRef::new(o));
                home.select.cases.push(Case::new(on, Place::new()));
            } else {
                home.select.cases.push(case(o)?);
            }
        }
        home.select.arrange();
        Ok((home, limit))
    }
}

impl Job for SelectWork {
    fn name(&self) -> &'static str {
        "select_async"
    }
    fn reason(&self) -> WaitReason {
        if self.select.is_empty() {
            WaitReason::Nothing
        } else {
            WaitReason::Select
        }
    }
    fn may_wait(&self) -> bool {
        !self.default
    }
    fn attempt(&mut self) -> Res<bool> {
        self.done = self.select.attempt(rt(), random());
        Ok(self.done.is_some() || self.default)
    }
    unsafe fn begin(&mut self, arm: impl FnOnce() -> Option<(*const Waker, Ticket)>) -> Res<Begun> {
        let default = self.default;
        let arm = || if default { None } else { arm() };
        // SAFETY: works are pinned (this one in its home).
        let (begun, index) = unsafe { self.select.begin(rt(), random(), arm) };
        let happened = matches!(begun, Begun::Happened | Begun::Late);
        self.done = happened.then_some(index);
        Ok(if default { Begun::Happened } else { begun })
    }
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: works are pinned (this one in its box).
        self.done = unsafe { self.select.enlist(rt(), random(), waker, ticket) };
        self.done.is_none()
    }
    fn delist(&mut self) {
        self.select.delist(0);
    }
    fn aside(&mut self) {
        self.select.aside();
    }
    fn confirm(&mut self) -> bool {
        self.done = self.select.settle(random());
        true
    }
    fn result(&mut self) -> Res<*mut PyObject> {
        let Some(i) = self.done else {
            return selected(-1, none(), false);
        };
        let c = &mut self.select.cases[i];
        let index = i as isize;
        match (&c.on, c.place.fate) {
            (On::Chan(Side::Recv, _), Fate::Done) => {
                let v = c.place.value.take().map_or_else(none, Owned::into_ptr);
                selected(index, v, true)
            }
            (On::Chan(Side::Recv, _), _) => selected(index, none(), false),
            (On::Chan(Side::Send, _), Fate::Closed) => Err(closed(Side::Send)),
            _ => selected(index, none(), true),
        }
    }
    fn timed_out(&mut self) -> Res<*mut PyObject> {
        Err(timeout_error("the select has timed out"))
    }
    fn undo(&mut self) {
        let Some(i) = self.done.take() else { return };
        let Case { on, place, .. } = &mut self.select.cases[i];
        if let (On::Chan(Side::Recv, ch), Some(v)) = (on, place.value.take()) {
            let chan: &Chan<Owned> = ch.as_ref();
            chan.put_back(rt(), v);
        }
    }
    fn visit(&self, f: &mut dyn FnMut(*mut PyObject) -> c_int) -> c_int {
        let mut r = 0;
        for c in &self.select.cases {
            let owner = match &c.on {
                On::Chan(_, ch) => ch.as_ptr(),
                On::Latch(e) => e.0.as_ptr(),
                On::Never => continue,
            };
            r = if r == 0 { f(owner) } else { r };
            if let Some(v) = &c.place.value {
                r = if r == 0 { f(v.as_ptr()) } else { r };
            }
        }
        r
    }
}

/// `select(*cases, default=False, timeout=None)`.
pub unsafe extern "C" fn select(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let (mut home, limit) = unsafe { parse("select", args, n, kw)? };
        if home.default {
            // It does not wait: no cancel point.
            home.attempt()?;
            return home.result();
        }
        door::perform(&mut Work::Select(home), limit)
    })
}

/// As `select`, awaited.
pub unsafe extern "C" fn select_async(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let (home, limit) = unsafe { parse("select_async", args, n, kw)? };
        ops::make(|| Work::Select(home), limit)
    })
}

fn make_case(t: &StaticType, chan: *mut PyObject, value: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: attached; the type is ready.
    unsafe {
        let o = ffi::PyObject_GC_New::<CaseObj>(t.get());
        if o.is_null() {
            return Err(Raised);
        }
        (*o).chan = ffi::Py_XNewRef(chan);
        (*o).value = ffi::Py_XNewRef(value);
        ffi::PyObject_GC_Track(o.cast());
        Ok(o.cast())
    }
}

/// `recv(ch)`.
pub unsafe extern "C" fn recv(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let [ch] = unsafe { crate::args::parse("recv", ["ch"], 1, args, n, kw)? };
        if ch.is_null() {
            return Err(type_error("recv() needs a channel"));
        }
        // SAFETY: a static.
        if ch == unsafe { ffi::Py_None() } {
            return make_case(&RECV_CASE, std::ptr::null_mut(), std::ptr::null_mut());
        }
        match ends(ch) {
            Some(e) if e.recv => make_case(&RECV_CASE, e.chan, std::ptr::null_mut()),
            _ => Err(type_error(&format!(
                "recv() needs a Chan or a RecvChan, not {}",
                repr(ch)
            ))),
        }
    })
}

/// `send(ch, v)`.
pub unsafe extern "C" fn send(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        let [ch, v] = unsafe { crate::args::parse("send", ["ch", "v"], 2, args, n, kw)? };
        if ch.is_null() || v.is_null() {
            return Err(type_error("send() needs a channel and a value"));
        }
        // SAFETY: a static.
        if ch == unsafe { ffi::Py_None() } {
            return make_case(&SEND_CASE, std::ptr::null_mut(), v);
        }
        match ends(ch) {
            Some(e) if e.send => make_case(&SEND_CASE, e.chan, v),
            _ => Err(type_error(&format!(
                "send() needs a Chan or a SendChan, not {}",
                repr(ch)
            ))),
        }
    })
}

unsafe extern "C" fn dealloc(o: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(o.cast());
        local().deaths.end(o, drop_case);
    }
}

unsafe fn drop_case(o: *mut PyObject) {
    // SAFETY: the rest of `dealloc`.
    unsafe {
        let c = o.cast::<CaseObj>();
        let (chan, value) = ((*c).chan, (*c).value);
        ffi::PyObject_GC_Del(o.cast());
        ffi::Py_XDECREF(chan);
        ffi::Py_XDECREF(value);
    }
}

unsafe extern "C" fn traverse(o: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector's call.
    unsafe {
        let c = o.cast::<CaseObj>();
        for p in [(*c).chan, (*c).value] {
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

unsafe extern "C" fn no_new(
    _: *mut ffi::PyTypeObject,
    _: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    guard(|| Err(type_error("cases are made by gorun.recv and gorun.send")))
}

/// Makes the types. At import.
///
/// # Safety
/// Once, attached.
pub unsafe fn init() -> Res<()> {
    let kinds: [(&StaticType, &'static CStr, &'static CStr); 2] = [
        (
            &RECV_CASE,
            c"gorun.RecvCase",
            c"A receive, for select: gorun.recv(ch).",
        ),
        (
            &SEND_CASE,
            c"gorun.SendCase",
            c"A send, for select: gorun.send(ch, value).",
        ),
    ];
    for (t, name, doc) in kinds {
        // SAFETY: at import.
        unsafe {
            t.ready(name, doc, size_of::<CaseObj>(), |t| {
                t.tp_new = Some(no_new);
                t.tp_dealloc = Some(dealloc);
                t.tp_traverse = Some(traverse);
            })?;
        }
    }
    Ok(())
}
