//! Context variables: a goroutine sees a copy of the context of its creator, at almost no cost.
//!
//! `go` does not copy. It keeps a *snapshot*: nothing at all if the creator's context is empty, else a copy that all
//! goroutines share which the thread creates while its context does not change. An M runs goroutines inside a *scratch*
//! context made from that snapshot and looks afterwards whether the step used it (its variables changed, or somebody
//! holds a Token of it). Only then the scratch becomes the goroutine's own context, entered and left around each later
//! step, and the M makes a new scratch.
//!
//! This reads two private fields: the thread state's current context and a context's variables. Their places are not
//! written down here but found and checked at import (`set_up`); if that fails, or with GORUN_CONTEXT=copy, each `go`
//! copies the context and each step enters and leaves it, by public calls alone. Nothing private is ever written.
//!
//! Invariant: between two steps an M stands in its scratch (or in none); `leave` restores that on every path.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi::{self, PyObject};

use crate::body::Body;
use crate::errors::{Raised, Res};
use crate::local::{Local, local};

/// What `Body::ctx` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Hold {
    /// Nothing: the creator's context was empty (or the goroutine is the runtime's own).
    Empty = 0,
    /// A snapshot shared with others.
    Snapshot = 1,
    /// Its own context.
    Own = 2,
}

/// Offset of the current context in the thread state; 0: the trick is off.
static CONTEXT_AT: AtomicUsize = AtomicUsize::new(0);
/// Offset of the variables in a context.
static VARS_AT: AtomicUsize = AtomicUsize::new(0);
/// The variables of every empty context.
static EMPTY: AtomicUsize = AtomicUsize::new(0);

/// A copy of a context, to be shared.
#[derive(Clone, Copy)]
pub struct Snapshot {
    /// What was current, and its variables, when the copy was made.
    of: usize,
    vars: usize,
    /// The copy (owned): it keeps `vars` alive, so equal addresses mean equal variables.
    copy: *mut PyObject,
}

/// The context that an M stands in.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// The context this M stands in (owned), or null.
    ctx: *mut PyObject,
    /// The snapshot it was made from (owned), or null for an empty one.
    from: *mut PyObject,
    vars: usize,
    refs: isize,
}

impl Snapshot {
    /// None.
    pub const NONE: Self = Self {
        of: 0,
        vars: 0,
        copy: null_mut(),
    };
}

impl Scratch {
    /// None.
    pub const NONE: Self = Self {
        ctx: null_mut(),
        from: null_mut(),
        vars: 0,
        refs: 0,
    };
}

unsafe fn word(p: *mut PyObject, at: usize) -> usize {
    // SAFETY: `at` was found by `set_up` to lie within the object.
    unsafe { *p.cast::<u8>().add(at).cast::<usize>() }
}

unsafe fn current() -> *mut PyObject {
    // SAFETY: attached; the offset was found in this very struct.
    unsafe {
        word(
            ffi::PyThreadState_Get().cast(),
            CONTEXT_AT.load(Ordering::Relaxed),
        ) as *mut PyObject
    }
}

/// True if the private fields are used.
pub fn is_on() -> bool {
    CONTEXT_AT.load(Ordering::Relaxed) != 0
}

/// The creator's context, for a new goroutine: what to hold, and an owned reference (or null).
///
/// # Safety
/// Attached.
pub unsafe fn capture() -> Res<(Hold, *mut PyObject)> {
    if !is_on() {
        return Ok((Hold::Own, copy_current()?));
    }
    // SAFETY: attached; private reads as the file head says.
    unsafe {
        let now = current();
        if now.is_null() {
            return Ok((Hold::Empty, null_mut()));
        }
        let vars = word(now, VARS_AT.load(Ordering::Relaxed));
        if vars == EMPTY.load(Ordering::Relaxed) {
            return Ok((Hold::Empty, null_mut()));
        }
        // An M's own scratch is not the goroutine's context yet, but its snapshot is what it was made from.
        let s = local().snapshot.get();
        if s.of == now as usize && s.vars == vars {
            return Ok((Hold::Snapshot, ffi::Py_NewRef(s.copy)));
        }
        let scratch = local().scratch.get();
        if scratch.ctx == now && scratch.vars == vars && !scratch.from.is_null() {
            return Ok((Hold::Snapshot, ffi::Py_NewRef(scratch.from)));
        }
        let copy = copy_current()?;
        let old = local().snapshot.replace(Snapshot {
            of: now as usize,
            vars,
            copy: ffi::Py_NewRef(copy),
        });
        ffi::Py_XDECREF(old.copy);
        Ok((Hold::Snapshot, copy))
    }
}

/// A copy of the current context, by the public call.
pub fn copy_current() -> Res<*mut PyObject> {
    // SAFETY: attached.
    let ctx = unsafe { ffi::PyContext_CopyCurrent() };
    if ctx.is_null() { Err(Raised) } else { Ok(ctx) }
}

/// Before a step: stands in the goroutine's context. An error is set if that is entered elsewhere.
///
/// # Safety
/// Attached, on an M, by the owner of the body.
pub unsafe fn enter(l: &Local, b: *mut Body) -> Res<()> {
    // SAFETY: the owner's body.
    unsafe {
        if (*b).hold == Hold::Own {
            leave_scratch_for_a_while(l);
            if ffi::PyContext_Enter((*b).ctx) < 0 {
                enter_scratch_again(l);
                return Err(Raised);
            }
            return Ok(());
        }
        let s = l.scratch.get();
        if !s.ctx.is_null() && s.from == (*b).ctx {
            return Ok(());
        }
        make_scratch(l, (*b).ctx)
    }
}

/// After a step: stands in a scratch again that nobody else knows.
///
/// # Safety
/// As `enter`, which came before.
pub unsafe fn leave(l: &Local, b: *mut Body) {
    // SAFETY: the owner's body.
    unsafe {
        if (*b).hold == Hold::Own {
            ffi::PyContext_Exit((*b).ctx);
            enter_scratch_again(l);
            return;
        }
        let s = l.scratch.get();
        if word(s.ctx, VARS_AT.load(Ordering::Relaxed)) == s.vars && ffi::Py_REFCNT(s.ctx) == s.refs
        {
            return;
        }
        // The step used it: it is the goroutine's from now on.
        l.scratch.set(Scratch::NONE);
        ffi::PyContext_Exit(s.ctx);
        ffi::Py_XDECREF(s.from);
        let snapshot = std::mem::replace(&mut (*b).ctx, s.ctx);
        (*b).hold = Hold::Own;
        ffi::Py_XDECREF(snapshot);
    }
}

unsafe fn leave_scratch_for_a_while(l: &Local) {
    let s = l.scratch.get();
    if !s.ctx.is_null() {
        // SAFETY: entered by us on this thread.
        unsafe { ffi::PyContext_Exit(s.ctx) };
    }
}

unsafe fn enter_scratch_again(l: &Local) {
    let s = l.scratch.get();
    if !s.ctx.is_null() {
        // SAFETY: ours, not entered now.
        unsafe { ffi::PyContext_Enter(s.ctx) };
    }
}

/// A scratch made from `from` (a snapshot, or null), entered.
unsafe fn make_scratch(l: &Local, from: *mut PyObject) -> Res<()> {
    // SAFETY: attached; references as the API says.
    unsafe {
        drop_scratch(l);
        let ctx = if from.is_null() {
            ffi::PyContext_New()
        } else {
            ffi::PyContext_Copy(from)
        };
        if ctx.is_null() || ffi::PyContext_Enter(ctx) < 0 {
            return Err(Raised);
        }
        l.scratch.set(Scratch {
            ctx,
            from: ffi::Py_XNewRef(from),
            vars: word(ctx, VARS_AT.load(Ordering::Relaxed)),
            refs: ffi::Py_REFCNT(ctx),
        });
        Ok(())
    }
}

/// Leaves the scratch for good: the M ends, or needs another one.
///
/// # Safety
/// Attached, on the thread that made it.
pub unsafe fn drop_scratch(l: &Local) {
    let s = l.scratch.replace(Scratch::NONE);
    if !s.ctx.is_null() {
        // SAFETY: entered by us on this thread; owned.
        unsafe {
            ffi::PyContext_Exit(s.ctx);
            ffi::Py_DECREF(s.ctx);
            ffi::Py_XDECREF(s.from);
        }
    }
}

/// Drops this thread's snapshot.
///
/// # Safety
/// Attached.
pub unsafe fn drop_snapshot() {
    let old = local().snapshot.replace(Snapshot::NONE);
    // SAFETY: owned or null.
    unsafe { ffi::Py_XDECREF(old.copy) };
}

/// Finds the two fields and checks what was found. Any doubt leaves the trick off. At import, attached.
pub fn set_up() {
    if std::env::var("GORUN_CONTEXT").is_ok_and(|v| v == "copy") {
        return;
    }
    // SAFETY: attached; each context that is entered is left again.
    unsafe {
        if let Some((context, vars, empty)) = find() {
            EMPTY.store(empty, Ordering::Relaxed);
            VARS_AT.store(vars, Ordering::Relaxed);
            CONTEXT_AT.store(context, Ordering::Relaxed);
        }
        ffi::PyErr_Clear();
    }
}

/// How far into the thread state the search goes: less than its size on each version that we build for.
const THREAD_STATE: usize = 240;

/// The address of the variables of `ctx`, by way of `gc.get_referents`.
unsafe fn vars_seen_by_gc(ctx: *mut PyObject) -> Option<usize> {
    use pyo3::prelude::*;
    let py = crate::errors::attached();
    // SAFETY: attached; a context.
    let ctx = unsafe { Bound::from_borrowed_ptr(py, ctx) };
    let seen = py
        .import("gc")
        .ok()?
        .call_method1("get_referents", (ctx,))
        .ok()?;
    let mut all = seen.try_iter().ok()?.filter_map(Result::ok);
    all.find(|o| o.get_type().name().is_ok_and(|n| n == "hamt"))
        .map(|o| o.as_ptr() as usize)
}

unsafe fn find() -> Option<(usize, usize, usize)> {
    // SAFETY: as in `set_up`; objects are read within their basic size.
    unsafe {
        let (a, b) = (ffi::PyContext_New(), ffi::PyContext_New());
        if a.is_null() || b.is_null() {
            return None;
        }
        let state: *mut PyObject = ffi::PyThreadState_Get().cast();
        let holds = |at: usize, p: *mut PyObject| word(state, at) == p as usize;
        // The current context: the one word that follows what is entered.
        let mut found = Vec::new();
        for at in (0..THREAD_STATE).step_by(8) {
            let before = word(state, at);
            ffi::PyContext_Enter(a);
            let first = holds(at, a);
            ffi::PyContext_Enter(b);
            let second = holds(at, b);
            ffi::PyContext_Exit(b);
            let third = holds(at, a);
            ffi::PyContext_Exit(a);
            if first && second && third && word(state, at) == before {
                found.push(at);
            }
        }
        // The variables: the one word that is the "hamt" which the collector sees in the context.
        let size = (*ffi::Py_TYPE(a)).tp_basicsize as usize;
        let empty = vars_seen_by_gc(a)?;
        let is_it = |at: &usize| word(a, *at) == empty && word(b, *at) == empty;
        let vars: Vec<usize> = (size_of::<PyObject>()..size)
            .step_by(8)
            .filter(is_it)
            .collect();
        let (&[context], &[at]) = (&found[..], &vars[..]) else {
            return None;
        };
        let var = ffi::PyContextVar_New(c"gorun".as_ptr(), null_mut());
        ffi::PyContext_Enter(a);
        let token = ffi::PyContextVar_Set(var, ffi::Py_None());
        ffi::PyContext_Exit(a);
        let changed = word(a, at);
        let good = !token.is_null()
            && changed != empty
            && vars_seen_by_gc(a) == Some(changed)
            && word(b, at) == empty;
        ffi::Py_XDECREF(token);
        ffi::Py_XDECREF(var);
        ffi::Py_DECREF(a);
        ffi::Py_DECREF(b);
        good.then_some((context, at, empty))
    }
}
