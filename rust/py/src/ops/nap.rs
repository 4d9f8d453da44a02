//! A sleep or a yield of a goroutine, once it is awaited: it needs no object of its own any more. `await` asks the
//! operation for what it shall send to, and gets one object that all share; the state lies in the goroutine's body
//! (`Body::nap`). So a parked sleeper holds 64 bytes less (80 on free-threaded builds), the operation's memory serves the
//! next one at once, and a yield goes a shorter way.
//!
//! Between the question and the first send, which the interpreter makes one after the other, what was asked for lies with
//! the thread (`Local::nap`), for this goroutine only. `__await__` called by hand gives the operation itself, and so does
//! the question of whoever is not a goroutine of ours, or of a goroutine that naps already (it drives another coroutine
//! by hand): those go the long way, `Op::step`.
//!
//! | end | who decides | what happens |
//! |---|---|---|
//! | time | the wheel | returns None |
//! | cancel | `StateWord::cancel` | Cancelled |
//! | overtaken: the goroutine waits for something else meanwhile | that wait, which takes its timer out | returns None when it is sent to |
//! | closed, thrown into | the goroutine itself | `disarm`: a cancel that cut it is pending again |
//! | its goroutine ends first (a coroutine driven by hand) | `drive::end` | the entry leaves the wheel |
//!
//! Invariant: `Body::nap` is touched by the M that runs the goroutine only.

use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use gorun_core::sched::{Kind, Verdict, WaitReason};
use pyo3::ffi::{self, PyObject};

use super::{FOR_EVER, Op, PLAIN, State, Step, modules_unchanged, reused, running_loop};
use crate::body::Form;
use crate::drive::{Intent, intend};
use crate::errors::{Raised, Res};
use crate::goroutine;
use crate::local::{Local, local};
use crate::rawtype::StaticType;
use crate::rt::{PyG, current_goroutine, rt};
use crate::work::none;

/// What all share.
pub(super) static TYPE: StaticType = StaticType::new();

static THE_NAP: std::sync::atomic::AtomicPtr<PyObject> =
    std::sync::atomic::AtomicPtr::new(null_mut());

/// `Body::nap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Nap {
    /// Awake, or in an operation that has an object.
    None,
    /// Yielded once.
    Yielded,
    /// Armed, with an entry in a wheel.
    Asleep,
}

/// What was asked for and not begun: whose, how long.
#[derive(Clone, Copy)]
pub struct Asked {
    g: Option<PyG>,
    nanos: u64,
}

impl Asked {
    /// Nothing.
    pub const NONE: Self = Self { g: None, nanos: 0 };
}

/// Makes the object. At import, when the type is ready.
///
/// # Safety
/// Attached, once.
pub(super) unsafe fn init() -> Res<()> {
    // SAFETY: never freed; as `_Ready`.
    unsafe {
        let p = ffi::PyObject_New::<PyObject>(TYPE.get());
        if p.is_null() {
            return Err(Raised);
        }
        crate::settled::settle_if_on(p);
        THE_NAP.store(p, Ordering::Relaxed);
    }
    Ok(())
}

/// What shall be sent to instead of a plain operation that nobody awaited yet (owned), if it is a goroutine's.
#[inline]
pub(super) fn take_over(op: Op) -> Option<*mut PyObject> {
    // SAFETY: a live object.
    if unsafe { ffi::Py_TYPE(op.object()) } != PLAIN.get() || op.head().limit == FOR_EVER {
        return None;
    }
    let l = local();
    let (_, g) = current_goroutine(l)?;
    // SAFETY: it runs on this thread.
    let plain = unsafe {
        let b = g.body.get();
        (*b).form == Form::Coroutine && (*b).blocking == 0 && (*b).nap == Nap::None
    };
    if !plain || !modules_unchanged(l) && in_loop(l) {
        return None;
    }
    op.head().state = State::Ended;
    l.nap.set(Asked {
        g: Some(g),
        nanos: op.head().limit,
    });
    // SAFETY: made at import, never freed.
    Some(unsafe { ffi::Py_NewRef(THE_NAP.load(Ordering::Relaxed)) })
}

#[inline(never)]
fn in_loop(l: &Local) -> bool {
    // SAFETY: owned.
    running_loop(l).is_some_and(|o| unsafe {
        ffi::Py_DECREF(o);
        true
    })
}

/// One send.
#[inline]
pub(super) fn step(this: *mut PyObject) -> Res<Step> {
    let l = local();
    let Some((_, g)) = current_goroutine(l) else {
        return Err(reused("sleep_async"));
    };
    let b = g.body.get();
    // SAFETY: it runs on this thread: the body is ours.
    unsafe {
        match (*b).nap {
            Nap::Yielded => {
                (*b).nap = Nap::None;
                Ok(Step::Return(none()))
            }
            Nap::None => {
                let asked = l.nap.replace(Asked::NONE);
                if asked.g != Some(g) {
                    return Err(reused("sleep_async"));
                }
                begin(this, g, asked.nanos)
            }
            Nap::Asleep => wake_up(this, g),
        }
    }
}

fn begin(this: *mut PyObject, g: PyG, nanos: u64) -> Res<Step> {
    if g.waker.word.take_cancel() {
        return Err(goroutine::deliver(g));
    }
    let nap = if nanos == 0 {
        intend(this, Intent::Yield);
        Nap::Yielded
    } else {
        let until = rt().now().saturating_add(nanos).min(FOR_EVER - 1);
        g.waker.set_kind(Kind::Goroutine, WaitReason::Sleep);
        let Ok(ticket) = g.waker.word.arm(true) else {
            return Err(goroutine::deliver(g));
        };
        super::add_timer(g, until, ticket);
        // SAFETY: it runs on this thread.
        unsafe { (*g.body.get()).nap_ticket = ticket.low() };
        intend(this, Intent::Park);
        Nap::Asleep
    };
    // SAFETY: it runs on this thread.
    unsafe { (*g.body.get()).nap = nap };
    Ok(Step::Yield)
}

#[inline(never)]
fn wake_up(this: *mut PyObject, g: PyG) -> Res<Step> {
    if overtaken(g) {
        // SAFETY: it runs on this thread.
        unsafe { (*g.body.get()).nap = Nap::None };
        return Ok(Step::Return(none()));
    }
    let Some(verdict) = g.waker.word.verdict() else {
        // Somebody sent by hand while it sleeps: it sleeps on.
        intend(this, Intent::Park);
        return Ok(Step::Yield);
    };
    // SAFETY: it runs on this thread.
    unsafe { (*g.body.get()).nap = Nap::None };
    rt().drop_timer(&g);
    if verdict == Verdict::Cancel {
        g.waker.word.delivered();
        return Err(goroutine::deliver(g));
    }
    Ok(Step::Return(none()))
}

/// What the goroutine's nap asks of its driver.
pub(super) fn meant(g: PyG) -> Intent {
    // SAFETY: it runs on this thread.
    match unsafe { (*g.body.get()).nap } {
        Nap::None => Intent::None,
        Nap::Yielded => Intent::Yield,
        Nap::Asleep => Intent::Park,
    }
}

/// True if the goroutine has waited for something else since (it drives the sleeper by hand): the last wait, its verdict
/// and its timer are not the nap's.
fn overtaken(g: PyG) -> bool {
    // SAFETY: it runs on this thread.
    !g.waker.word.is_last(unsafe { (*g.body.get()).nap_ticket })
}

/// Closed or thrown into: the nap of the goroutine that runs here is over.
pub(super) fn withdraw() {
    let l = local();
    l.nap.set(Asked::NONE);
    let Some((_, g)) = current_goroutine(l) else {
        return;
    };
    // SAFETY: it runs on this thread.
    let nap = unsafe { std::mem::replace(&mut (*g.body.get()).nap, Nap::None) };
    if nap == Nap::Asleep && !overtaken(g) {
        g.waker.word.disarm();
        rt().drop_timer(&g);
    }
}
