//! The way that most awaits go: a plain send or receive without a time-out, in a goroutine, that goes on at once or parks.
//! All of it lies in one lean function, because such an await costs little more than the interpreter takes for it.
//!
//! Invariant: whatever it does not know it leaves, untouched, to `Op::step`, which knows all of this too.

use gorun_core::chan::{Fate, Side};
use gorun_core::sched::{Kind, Verdict, WaitReason};
use gorun_core::wait::Begun;
use pyo3::ffi;

use super::{FOR_EVER, Op, State, Step, WORKING, modules_unchanged};
use crate::body::{Form, Owned};
use crate::drive::Intent;
use crate::errors::Res;
use crate::local::local;
use crate::rt::rt;
use crate::work::{Job, Work, none};

impl Op {
    /// One send into the operation, if it is the usual case.
    #[inline(always)]
    pub(super) fn quick(self) -> Option<Res<Step>> {
        // SAFETY: a live object.
        if unsafe { ffi::Py_TYPE(self.0.cast()) } != WORKING.get() {
            return None;
        }
        let (state, limit) = (self.head().state, self.head().limit);
        if limit != FOR_EVER || !matches!(state, State::New | State::Waiting) {
            return None;
        }
        let Some(Work::Chan(work)) = self.work() else {
            return None;
        };
        let l = local();
        let rt = rt();
        // SAFETY: null, or the M of this thread.
        let m = unsafe { l.m.get().as_ref() }?;
        let g = m.goroutine()?;
        if state == State::Waiting {
            let mine = self.head().g == Some(g) && self.head().ticket.is_some();
            if !mine || g.waker.word.verdict() != Some(Verdict::Ready) {
                return None;
            }
            let (_, _, place) = work.plain()?;
            if place.fate != Fate::Done {
                return None;
            }
            self.head().registered = false;
            self.head().state = State::Ended;
            return Some(Ok(Step::Return(
                place.value.take().map_or_else(none, Owned::into_ptr),
            )));
        }
        let (side, chan, place) = work.plain()?;
        // SAFETY: it runs on this thread.
        let (form, blocking) = unsafe { ((*g.body.get()).form, (*g.body.get()).blocking) };
        if form != Form::Coroutine
            || blocking > 0
            || !std::ptr::eq(m.rt, rt)
            || !modules_unchanged(l)
            || g.waker.word.cancel_pending()
            || m.may_preempt()
        {
            return None;
        }
        let head = self.0;
        let arm = || {
            let reason = match side {
                Side::Send => WaitReason::Send,
                Side::Recv => WaitReason::Recv,
            };
            g.waker.set_kind(Kind::Goroutine, reason);
            let ticket = g.waker.word.arm(true).ok()?;
            // SAFETY: fields of this object beside the work.
            unsafe {
                (*head).ticket = Some(ticket);
                (*head).registered = true;
                (*head).state = State::Waiting;
            }
            Some((&raw const g.waker, ticket))
        };
        self.head().g = Some(g);
        self.head().state = State::Ended; // unless it waits
        // SAFETY: the work lies in this object, which leaves the lists before it goes.
        let (begun, woken) = unsafe { chan.begin(side, place, arm) };
        match begun {
            Begun::Waits => {
                l.intent.set((self.object(), Intent::Park));
                Some(Ok(Step::Yield))
            }
            Begun::Happened if place.fate == Fate::Done => {
                let value = match side {
                    Side::Send => none(),
                    Side::Recv => place.value.take().map_or_else(none, Owned::into_ptr),
                };
                woken.wake_from(rt, m);
                Some(Ok(Step::Return(value)))
            }
            Begun::Happened | Begun::Late => {
                woken.wake_from(rt, m);
                Some(work.result().map(Step::Return))
            }
            // A cancel came just now.
            Begun::Refused => Some(Err(self.cancelled(g))),
        }
    }
}
