//! An operation awaited by an asyncio task: a coroutine of the bridge (`gorun._hooks.asyncio_wait`) waits on a future of
//! the loop, a dormant goroutine stands in for the task in the wait queue and sets that future when it is fired.
//!
//! Who claims: `StateWord::revoke` of the dormant goroutine, against the deliverer's fire. If the deliverer won, the
//! operation has happened, whatever becomes of the task: `undo` gives back what nobody takes.

use std::ptr::null_mut;

use gorun_core::sched::{Verdict, flag};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::{FOR_EVER, Found, Op, State, Step};
use crate::body::Form;
use crate::errors::{self, Raised, Res, attached};
use crate::local::local;
use crate::rt::rt;
use crate::work::{Job, none};

impl Op {
    /// First beat in an asyncio task: tries. What has to wait is driven by a coroutine of the bridge, which arms and
    /// withdraws; to make one, and a future of the loop, takes several times as long as a receive.
    pub(super) fn start_in_task(self, is_loop: *mut PyObject) -> Res<Step> {
        let py = attached();
        self.head().state = State::Ended; // unless it waits below
        crate::go::started()?;
        if let Some(w) = self.work() {
            if w.attempt()? {
                return w.result().map(Step::Return);
            }
            if self.head().limit == 0 {
                return w.timed_out().map(Step::Return);
            }
        }
        self.head().state = State::Foreign;
        // SAFETY: attached, valid objects.
        let coroutine = unsafe {
            let f = Bound::from_borrowed_ptr(py, errors::bridge(py));
            f.call1((
                Bound::from_borrowed_ptr(py, self.object()),
                Bound::from_borrowed_ptr(py, is_loop),
            ))
            .map_err(errors::raise)?
        };
        self.head().inner = coroutine.into_ptr();
        self.drive_inner(None)
    }

    /// Sends (or throws) into the bridge's coroutine.
    pub(super) fn drive_inner(self, throw: Option<[*mut PyObject; 3]>) -> Res<Step> {
        // SAFETY: attached; `inner` is a coroutine that we own; references as the API says.
        unsafe {
            let mut out = null_mut();
            let inner = self.head().inner;
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
                    let found = self.head().found;
                    self.outcome(found).map(Step::Return)
                }
                ffi::PySendResult::PYGEN_ERROR => {
                    let error = errors::fetch();
                    self.withdraw();
                    let tb = ffi::PyException_GetTraceback(error);
                    errors::restore(error, tb);
                    ffi::Py_XDECREF(tb);
                    ffi::Py_DECREF(error);
                    if let Some(w) = self.work() {
                        w.cut();
                    }
                    Err(Raised)
                }
            }
        }
    }

    /// `_arm`: None if one turn of the loop will do, True if `callback` will be called (on an M), False if there is
    /// nothing left to wait for. Called again after each wake-up.
    pub(super) fn arm(self, callback: *mut PyObject) -> Res<*mut PyObject> {
        crate::go::started()?;
        if self.head().g.is_some() {
            // The wait is over.
            return Ok(crate::work::boolean(
                !self.settle() && self.register(callback),
            ));
        }
        if self.work().is_none() && self.head().limit == 0 {
            return Ok(none());
        }
        self.start_clock();
        Ok(crate::work::boolean(self.register(callback)))
    }

    /// Puts a dormant goroutine into the wait queue; false if it has happened meanwhile.
    fn register(self, callback: *mut PyObject) -> bool {
        let rt = rt();
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
        self.head().g = Some(g);
        self.head().ticket = Some(ticket);
        if let Some(w) = self.work() {
            // SAFETY: armed with this ticket; the work lies in this object, which leaves the lists before it goes.
            if !unsafe { w.enlist(&raw const g.waker, ticket) } {
                self.head().found = Found::Happened;
                self.release_stand_in();
                return false;
            }
            self.head().registered = true;
        }
        let until = self.until();
        if until != FOR_EVER {
            rt.add_timer(&g, until, ticket);
        }
        true
    }

    /// The stand-in was fired: what has come of it. False: it was only told to try again, and was faster than we are.
    fn settle(self) -> bool {
        let verdict = self.head().g.and_then(|g| g.waker.word.verdict());
        match verdict {
            Some(Verdict::Ready) | None if self.work().is_none_or(|w| w.confirm()) => {
                self.head().registered = false;
                self.head().found = Found::Happened;
            }
            Some(Verdict::Ready) | None => {
                self.release_stand_in();
                return false;
            }
            Some(_) => {
                self.unregister();
                self.head().found = Found::TimedOut;
            }
        }
        self.release_stand_in();
        true
    }

    /// `_withdraw`: true if the operation was taken back before it happened.
    pub(super) fn revoke(self) -> bool {
        let (Some(g), Some(ticket)) = (self.head().g, self.head().ticket) else {
            return self.head().found != Found::Happened;
        };
        if g.waker.word.revoke(ticket) {
            self.head().ticket = None;
            rt().release(g);
            self.unregister();
            self.release_stand_in();
            return true;
        }
        // Too late, unless it was only told to try and somebody else was faster, or the time was up as well.
        !self.settle() || self.head().found != Found::Happened
    }

    /// Our side of the stand-in's life ends.
    fn release_stand_in(self) {
        let Some(g) = self.head().g.take() else {
            return;
        };
        if self.until() != FOR_EVER {
            rt().drop_timer(&g);
        }
        if let Some(t) = self.head().ticket.take() {
            if g.waker.word.revoke(t) {
                // It will never run: the runtime's reference is ours to drop too.
                rt().release(g);
            }
        }
        rt().release(g);
    }

    /// The loop is closed: nobody takes the result, unless somebody has.
    pub(super) fn vanished(self) {
        if self.head().state == State::Foreign {
            self.withdraw();
        }
    }

    /// The task has vanished, or was ended from outside: gives back what nobody takes. True if it had not happened.
    pub(super) fn leave_task(self) -> bool {
        let waited = self.head().g.is_some();
        let won = !waited || self.revoke();
        let happened = if waited {
            !won
        } else {
            self.head().found == Found::Happened
        };
        self.head().state = State::Ended;
        if happened {
            self.undo();
        }
        !happened
    }
}
