//! `go` and its kin: they store the function and its arguments and run nothing.
//!
//! Invariants: everything that can allocate a Python object or fail happens before the core is entered; what fills the
//! body only moves owned pointers. So `go` runs no user code and raises no `Cancelled`.

use std::collections::HashSet;
use std::ptr::null_mut;

use gorun_core::prim::Lock;
use pyo3::ffi::{self, PyObject};

use crate::args::parse;
use crate::body::{Body, Form, INLINE, Owned};
use crate::context::{self, Hold};
use crate::errors::{Raised, Res, guard, repr, runtime_error, type_error};
use crate::rt::{PyG, Rt, finalizing, rt};
use crate::site;
use crate::{errors, goroutine, ops};

/// Coroutine objects that are goroutines now: the same one must not be driven twice, on free-threaded builds that
/// crashes the interpreter. Only those that users gave (or that are shared) are here. Addresses, not references.
static DRIVEN: Lock<Option<HashSet<usize>>> = Lock::new(None);

/// `Body::nargs` of a coroutine that is in `DRIVEN`: `unclaim` it at its end.
pub const CLAIMED: u8 = 1;

/// Notes that `coroutine` is a goroutine from now on; false if it is one already.
pub fn claim(coroutine: *mut PyObject) -> bool {
    DRIVEN
        .lock()
        .get_or_insert_with(HashSet::new)
        .insert(coroutine as usize)
}

/// Takes that back.
pub fn unclaim(coroutine: *mut PyObject) {
    if let Some(set) = &mut *DRIVEN.lock() {
        set.remove(&(coroutine as usize));
    }
}

/// What a new goroutine needs, all owned; moved into the body without a failure.
pub struct Parts {
    what: *mut PyObject,
    args: [*mut PyObject; INLINE],
    nargs: u8,
    form: Form,
    hold: Hold,
    ctx: *mut PyObject,
    site: u32,
}

impl Parts {
    /// Moves them in. Runs no code.
    pub fn fill(self, b: *mut Body) {
        // SAFETY: the body of a vacant G, ours alone.
        unsafe {
            (*b).what = self.what;
            (*b).args = self.args;
            (*b).nargs = self.nargs;
            (*b).form = self.form;
            (*b).hold = self.hold;
            (*b).ctx = self.ctx;
            (*b).site = self.site;
        }
    }

    /// Drops them: the goroutine was not made.
    pub fn discard(self) {
        if self.form == Form::Coroutine {
            unclaim(self.what);
        }
        // SAFETY: owned, attached.
        unsafe {
            ffi::Py_XDECREF(self.what);
            self.args.iter().for_each(|a| ffi::Py_XDECREF(*a));
            ffi::Py_XDECREF(self.ctx);
        }
    }
}

/// Checks `f` and collects what `f(*args)` needs.
///
/// # Safety
/// Attached; `args` are `n` valid objects, followed by the values of `kwnames` if that is not null.
pub unsafe fn parts(
    f: *mut PyObject,
    args: *const *mut PyObject,
    n: usize,
    kwnames: *mut PyObject,
) -> Res<Parts> {
    // SAFETY: attached, valid objects throughout.
    unsafe {
        let mut p = Parts {
            what: f,
            args: [null_mut(); INLINE],
            nargs: 0,
            form: Form::Call,
            hold: Hold::Empty,
            ctx: null_mut(),
            site: site::here(),
        };
        if ffi::PyCoro_CheckExact(f) != 0 {
            if n > 0 || !kwnames.is_null() {
                return Err(type_error(
                    "a coroutine object takes no arguments: pass the function instead",
                ));
            }
            if !crate::drive::is_unstarted(f) {
                return Err(runtime_error(&format!(
                    "{} was started already: it cannot become a goroutine",
                    repr(f)
                )));
            }
            if !claim(f) {
                return Err(runtime_error(&format!(
                    "{} is a goroutine already",
                    repr(f)
                )));
            }
            p.form = Form::Coroutine;
            p.nargs = CLAIMED;
        } else if ops::is_operation(f) {
            if n > 0 || !kwnames.is_null() {
                return Err(type_error(
                    "an operation takes no arguments: it has them already",
                ));
            }
            if ops::was_awaited(f) {
                return Err(runtime_error(&format!(
                    "{} was awaited already: it cannot become a goroutine",
                    repr(f)
                )));
            }
            p.what = errors::awaited(errors::attached());
            p.args[0] = ffi::Py_NewRef(f);
            p.nargs = 1;
        } else if ffi::PyCallable_Check(f) == 0 {
            return Err(type_error(&format!(
                "go() needs a callable or a coroutine, not {} of type {}",
                repr(f),
                crate::errors::type_name(f)
            )));
        } else if !kwnames.is_null() || n > INLINE {
            p.form = Form::CallEx;
            let tuple = ffi::PyTuple_New(n as isize);
            if tuple.is_null() {
                return Err(Raised);
            }
            for i in 0..n {
                ffi::PyTuple_SET_ITEM(tuple, i as isize, ffi::Py_NewRef(*args.add(i)));
            }
            p.args[0] = tuple;
            if !kwnames.is_null() {
                let dict = ffi::PyDict_New();
                for i in 0..ffi::PyTuple_GET_SIZE(kwnames) {
                    ffi::PyDict_SetItem(
                        dict,
                        ffi::PyTuple_GET_ITEM(kwnames, i),
                        *args.add(n + i as usize),
                    );
                }
                p.args[1] = dict;
            }
        } else {
            for i in 0..n {
                p.args[i] = ffi::Py_NewRef(*args.add(i));
            }
            p.nargs = n as u8;
        }
        ffi::Py_INCREF(p.what);
        match context::capture() {
            Ok((hold, ctx)) => (p.hold, p.ctx) = (hold, ctx),
            Err(e) => {
                p.discard();
                return Err(e);
            }
        }
        Ok(p)
    }
}

/// Makes sure that something will run it.
#[inline]
pub fn started() -> Res<Rt> {
    let rt = rt();
    if rt.is_started() && !finalizing() {
        return Ok(rt);
    }
    start()
}

#[cold]
fn start() -> Res<Rt> {
    if finalizing() {
        return Err(runtime_error(
            "gorun: no new goroutines while the interpreter goes down",
        ));
    }
    let rt = rt();
    if rt.ensure_started() {
        return Ok(rt);
    }
    let why = rt
        .take_start_error()
        .unwrap_or_else(|| "the limit of threads is 0".into());
    Err(runtime_error(&format!(
        "gorun cannot start a thread to run goroutines on: {why}"
    )))
}

/// Queues it; the handle is owned.
fn launch(rt: Rt, p: Parts) -> Res<*mut PyObject> {
    // SAFETY: attached.
    let h = unsafe { goroutine::alloc() };
    if h.is_null() {
        p.discard();
        return Err(Raised);
    }
    rt.go(|g| {
        p.fill(g.body.get());
        // SAFETY: fresh, both.
        unsafe { goroutine::adopt(h, *g) };
    });
    // SAFETY: ours, not tracked yet.
    unsafe { ffi::PyObject_GC_Track(h.cast()) };
    Ok(h)
}

/// `go(fn, /, *args, **kwargs)`.
pub unsafe extern "C" fn go(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        if n < 1 {
            return Err(type_error("go() needs a function to run"));
        }
        let rt = started()?;
        // SAFETY: as the interpreter gave them.
        let p = unsafe { parts(*args, args.add(1), n as usize - 1, kw)? };
        launch(rt, p)
    })
}

/// `_spawn(fn, args, kwargs, name, tags)`: checked by `gorun.spawn`.
pub unsafe extern "C" fn spawn(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        unsafe {
            let [f, a, k, name, tags] = parse(
                "_spawn",
                ["fn", "args", "kwargs", "name", "tags"],
                5,
                args,
                n,
                kw,
            )?;
            let rt = started()?;
            let argc = ffi::PyTuple_GET_SIZE(a) as usize;
            let items: Vec<_> = (0..argc)
                .map(|i| ffi::PyTuple_GET_ITEM(a, i as isize))
                .collect();
            let mut p = parts(f, items.as_ptr(), argc, null_mut())?;
            p.site = site::caller();
            if ffi::PyDict_Size(k) > 0 {
                if p.form == Form::Coroutine || ops::is_operation(f) {
                    p.discard();
                    return Err(type_error(
                        "a coroutine object takes no arguments: pass the function instead",
                    ));
                }
                if p.form == Form::Call {
                    p.args.iter().for_each(|x| ffi::Py_XDECREF(*x));
                    p.args = [ffi::Py_NewRef(a), null_mut(), null_mut()];
                    p.form = Form::CallEx;
                }
                p.args[1] = ffi::PyDict_Copy(k);
            }
            let none = ffi::Py_None();
            let name = (name != none).then(|| Owned::new(name));
            let tags = (tags != none).then(|| Owned::new(tags));
            let h = goroutine::alloc();
            if h.is_null() {
                p.discard();
                return Err(Raised);
            }
            rt.go(|g| {
                p.fill(g.body.get());
                goroutine::adopt(h, *g);
                if name.is_some() || tags.is_some() {
                    g.latch_or_make()
                        .with(|e, _| (e.name, e.tags) = (name, tags));
                }
            });
            ffi::PyObject_GC_Track(h.cast());
            Ok(h)
        }
    })
}

/// `go_many(fn, iterable, /)`.
pub unsafe extern "C" fn go_many(
    _: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        if !kw.is_null() {
            return Err(type_error("go_many() takes no keyword arguments"));
        }
        if n != 2 {
            return Err(type_error(&format!(
                "go_many() takes a function and an iterable ({n} arguments given)"
            )));
        }
        let rt = started()?;
        // SAFETY: attached; references as the API says.
        unsafe {
            let f = *args;
            if ffi::PyCallable_Check(f) == 0 {
                return Err(type_error(&format!(
                    "go_many() needs a callable, not {}",
                    repr(f)
                )));
            }
            let items = ffi::PySequence_List(*args.add(1));
            if items.is_null() {
                return Err(Raised);
            }
            let count = ffi::PyList_GET_SIZE(items) as usize;
            let mut made: Vec<(Parts, *mut PyObject)> = Vec::with_capacity(count);
            for i in 0..count {
                let item = ffi::PyList_GET_ITEM(items, i as isize);
                let part = parts(f, &raw const item, 1, null_mut());
                let h = goroutine::alloc();
                match part {
                    Ok(p) if !h.is_null() => made.push((p, h)),
                    other => {
                        ffi::Py_XDECREF(h);
                        if let Ok(p) = other {
                            p.discard();
                        }
                        for (p, h) in made {
                            p.discard();
                            ffi::Py_DECREF(h);
                        }
                        ffi::Py_DECREF(items);
                        return Err(Raised);
                    }
                }
            }
            let mut made: Vec<Option<(Parts, *mut PyObject)>> =
                made.into_iter().map(Some).collect();
            let handles: Vec<*mut PyObject> = made.iter().flatten().map(|(_, h)| *h).collect();
            let fill = |i: usize, g: &PyG| {
                if let Some((p, h)) = made[i].take() {
                    p.fill(g.body.get());
                    goroutine::adopt(h, *g);
                }
            };
            rt.go_batch(count, fill);
            for (i, h) in handles.into_iter().enumerate() {
                ffi::PyObject_GC_Track(h.cast());
                ffi::PyList_SetItem(items, i as isize, h);
            }
            Ok(items)
        }
    })
}
