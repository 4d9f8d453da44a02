//! What a goroutine of Python carries: a callable with its arguments, then a coroutine, then an outcome.
//!
//! Invariants:
//! - Only the M that runs the goroutine touches anything but `handle`, `end` and `taken` before it is Done; afterwards
//!   `outcome` and `trace` are read-only until the last reference is gone (or the collector clears them).
//! - Pointers are owned references or null. They are dropped attached, in mode Body.

use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use gorun_core::sched::Cancels;
use pyo3::ffi::{self, PyObject};

use crate::context::Hold;
use crate::go;
use crate::ops::Nap;
use crate::rt::PyG;
use crate::tick::Step;

/// How many positional arguments lie in the body itself.
pub const INLINE: usize = 3;

/// Where the outcome lies once Done, in `args`.
const OUTCOME: usize = 0;
/// Where the first traceback of an error lies.
const TRACE: usize = 1;

/// What `what` and `args` are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Form {
    /// A callable and up to `INLINE` positional arguments.
    Call = 0,
    /// A callable, a tuple and a dict (or null).
    CallEx = 1,
    /// A coroutine.
    Coroutine = 2,
    /// A callable of the runtime's own that wakes a foreign waiter: no context, no outcome.
    Wake = 3,
    /// The step of a timer that delivers on a channel: `what` is a `tick::Step`, no Python object.
    Tick = 4,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ended {
    /// It has not.
    No = 0,
    /// With the value in `outcome`.
    Value = 1,
    /// With the exception in `outcome`.
    Error = 2,
    /// By a cancel; `outcome` is the GoroutineCancelled for joiners.
    Cancelled = 3,
}

/// The body.
pub struct Body {
    pub what: *mut PyObject,
    /// The arguments; once Done: `OUTCOME` and `TRACE`.
    pub args: [*mut PyObject; INLINE],
    /// What `hold` says (`context.rs`).
    pub ctx: *mut PyObject,
    /// The goroutine's Python object while there is one; not owned (`goroutine/mod.rs`).
    pub handle: AtomicPtr<PyObject>,
    /// Where it was created (`site.rs`).
    pub site: u32,
    /// Depth of `blocking()` sections: awaits are refused inside.
    pub blocking: u16,
    pub nargs: u8,
    pub form: Form,
    pub hold: Hold,
    /// Its sleep or yield that has no object (`ops/nap.rs`).
    pub nap: Nap,
    /// The end of the number of the wait that is that sleep.
    pub nap_ticket: u32,
    /// An `Ended`; written before Done is published.
    pub end: AtomicU8,
    /// 1: somebody asked for the outcome (or there is nothing to report).
    pub taken: AtomicU8,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            what: null_mut(),
            args: [null_mut(); INLINE],
            ctx: null_mut(),
            handle: AtomicPtr::new(null_mut()),
            site: 0,
            blocking: 0,
            nargs: 0,
            form: Form::Call,
            hold: Hold::Empty,
            nap: Nap::None,
            nap_ticket: 0,
            end: AtomicU8::new(0),
            taken: AtomicU8::new(0),
        }
    }
}

impl Body {
    /// The value, error or GoroutineCancelled (borrowed). Once Done.
    pub fn outcome(&self) -> *mut PyObject {
        self.args[OUTCOME]
    }

    /// The first traceback of an error (borrowed), or null. Once Done.
    pub fn trace(&self) -> *mut PyObject {
        self.args[TRACE]
    }

    /// Puts owned references in: by the M that ends it, when the arguments are gone.
    pub fn set_outcome(&mut self, outcome: *mut PyObject, trace: *mut PyObject) {
        self.args[OUTCOME] = outcome;
        self.args[TRACE] = trace;
    }

    /// How it ended. Meaningful once the goroutine is Done.
    pub fn ended(&self) -> Ended {
        match self.end.load(Ordering::Acquire) {
            1 => Ended::Value,
            2 => Ended::Error,
            3 => Ended::Cancelled,
            _ => Ended::No,
        }
    }

    /// Somebody took the outcome: no report when the last handle goes. True for the first.
    pub fn take(&self) -> bool {
        self.taken.swap(1, Ordering::Relaxed) == 0
    }

    /// True once somebody did.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed) != 0
    }
}

/// A done callback and the context that it runs in.
pub struct Callback {
    pub f: Owned,
    pub ctx: Owned,
}

/// What few goroutines have; lies under the lock of the latch.
#[derive(Default)]
pub struct Ext {
    /// Done callbacks, in order of adding, with the context of each.
    pub callbacks: Vec<Callback>,
    /// The cancels that were not delivered yet.
    pub cancels: Cancels<Owned>,
    pub name: Option<Owned>,
    pub tags: Option<Owned>,
}

/// An owned reference. Must be dropped attached, and never under a core lock.
pub struct Owned(NonNull<PyObject>);

// SAFETY: a counted reference; touched only by attached threads.
unsafe impl Send for Owned {}

impl Owned {
    /// A new reference to `p`.
    ///
    /// # Safety
    /// Attached; `p` is a valid object.
    pub unsafe fn new(p: *mut PyObject) -> Self {
        // SAFETY: by the caller's promise.
        unsafe { Self::from_owned(ffi::Py_NewRef(p)) }
    }

    /// From a reference that is owned already.
    ///
    /// # Safety
    /// `p` is a valid object, and its reference is given over.
    pub unsafe fn from_owned(p: *mut PyObject) -> Self {
        // SAFETY: valid, so not null.
        Self(unsafe { NonNull::new_unchecked(p) })
    }

    /// Gives the reference over.
    pub fn into_ptr(self) -> *mut PyObject {
        let p = self.0.as_ptr();
        std::mem::forget(self);
        p
    }

    /// Borrowed.
    pub fn as_ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }
}

impl Clone for Owned {
    fn clone(&self) -> Self {
        // SAFETY: clones are made by attached threads only; counting runs no code.
        unsafe { Self::new(self.0.as_ptr()) }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: owned, attached.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) }
    }
}

/// Takes the reference out of a slot and drops it: the slot is empty before any code can run.
///
/// # Safety
/// Attached; the slot holds an owned reference or null and belongs to the caller.
pub unsafe fn clear(slot: *mut *mut PyObject) {
    // SAFETY: by the caller's promise.
    unsafe {
        let old = std::mem::replace(&mut *slot, null_mut());
        ffi::Py_XDECREF(old);
    }
}

/// Drops the callable and its arguments.
///
/// # Safety
/// Attached, by the owner of the body.
pub unsafe fn clear_call(g: PyG) {
    let b = g.body.get();
    // SAFETY: the owner's cell; each slot is emptied before its reference is dropped.
    unsafe {
        if (*b).form == Form::Tick {
            let step = std::mem::replace(&mut (*b).what, null_mut()).cast::<Step>();
            (*b).form = Form::Call;
            if !step.is_null() {
                drop(Box::from_raw(step));
            }
        }
        if (*b).form == Form::Coroutine && std::mem::take(&mut (*b).nargs) == go::CLAIMED {
            go::unclaim((*b).what);
        }
        clear(&raw mut (*b).what);
        // Each look at a slot costs: a coroutine that has not ended has no arguments, a call as many as it counts.
        let used = match (*b).form {
            _ if (*b).end.load(Ordering::Relaxed) != Ended::No as u8 => TRACE + 1,
            Form::Coroutine => 0,
            Form::Call => (*b).nargs as usize,
            _ => INLINE,
        };
        for i in 0..used {
            clear(&raw mut (*b).args[i]);
        }
    }
}

/// Drops everything; the body is as new afterwards.
///
/// # Safety
/// Attached, with the last reference to the goroutine.
pub unsafe fn clear_all(g: PyG) {
    let b = g.body.get();
    // SAFETY: nobody else knows the body any more.
    unsafe {
        clear_call(g);
        clear(&raw mut (*b).ctx);
        (*b).hold = Hold::Empty;
        (*b).nap = Nap::None;
        (*b).handle.store(null_mut(), Ordering::Relaxed);
        (*b).end.store(0, Ordering::Relaxed);
        (*b).taken.store(0, Ordering::Relaxed);
        (*b).blocking = 0;
        (*b).site = 0;
    }
}
