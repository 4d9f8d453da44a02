//! What `async with mu` calls and awaits, without an object more than it needs.
//!
//! The interpreter looks `__aenter__` and `__aexit__` up, binds both, calls the one, awaits what it gives, and calls the
//! other. As ordinary methods that is two bound methods and an operation, and on free-threaded builds the counts of
//! references of two methods and of the ready awaitable, for which all threads meet. Here the descriptors are immortal
//! and bind to a `Bound`, memory that is used again; and the bound `__aenter__` that nobody keeps is, once called, itself
//! what is awaited: it takes the lock if it is free, and makes an operation for everything else, whose steps it passes
//! on.
//!
//! Invariants:
//! - `stage` tells what the object is; only `Called` has something left to do, and warns when it is dropped.
//! - `inner` is owned from the moment that there is one; the collector sees the object from then on (before, it refers to
//!   a mutex only, which refers to nothing).

use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::PyAnyMethods;

use super::slots;
use super::{make, make_ready, modules_unchanged, reused};
use crate::body::Form;
use crate::errors::{self, Raised, Res, attached, guard, type_error};
use crate::local::{Local, local};
use crate::mutex;
use crate::rawtype::{StaticType, again, fast, forever, getter, getters, methods, noargs, one};
use crate::rt::rt;
use crate::work::none;

/// Bound `__aenter__` and `__aexit__`.
static BOUND: StaticType = StaticType::new();
/// What stands in the class.
static DESCRIPTOR: StaticType = StaticType::new();

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Stage {
    /// `mu.__aenter__`, not called.
    Enter,
    /// The awaitable that calling it gave.
    Called,
    /// An operation does the rest.
    Passed,
    Ended,
    /// `mu.__aexit__`.
    Exit,
}

#[repr(C)]
struct Bound {
    ob_base: PyObject,
    call: ffi::vectorcallfunc,
    /// A Mutex object (owned).
    mutex: *mut PyObject,
    /// The operation (owned), or null.
    inner: *mut PyObject,
    stage: Stage,
}

#[repr(C)]
struct Descriptor {
    ob_base: PyObject,
    call: ffi::vectorcallfunc,
    stage: Stage,
}

fn bound<'a>(o: *mut PyObject) -> &'a mut Bound {
    // SAFETY: an object of the type BOUND, alive during the call; the reference is used for one access and dropped.
    unsafe { &mut *o.cast::<Bound>() }
}

/// Bound to a Mutex object, at `stage`.
#[inline(always)]
fn bind(mutex: *mut PyObject, stage: Stage) -> Res<*mut PyObject> {
    let l = local();
    let spare = if stage == Stage::Exit {
        &l.spare_exit
    } else {
        &l.spare_enter
    };
    let dead = spare.replace(null_mut());
    // SAFETY: attached; the type is ready; all fields are written before anybody sees it.
    unsafe {
        let o = if dead.is_null() {
            ffi::PyObject_GC_New::<Bound>(BOUND.get()).cast()
        } else {
            again(dead, &BOUND)
        };
        if o.is_null() {
            return Err(Raised);
        }
        let b = o.cast::<Bound>();
        let call: ffi::vectorcallfunc = if stage == Stage::Exit { exit } else { enter };
        (&raw mut (*b).call).write(call);
        (&raw mut (*b).mutex).write(ffi::Py_NewRef(mutex));
        (&raw mut (*b).inner).write(null_mut());
        (&raw mut (*b).stage).write(stage);
        Ok(o)
    }
}

/// `mu.__aenter__()`.
unsafe extern "C" fn enter(
    this: *mut PyObject,
    _: *const *mut PyObject,
    nargsf: usize,
    names: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        if unsafe { ffi::PyVectorcall_NARGS(nargsf) } != 0 || !names.is_null() {
            return Err(type_error("__aenter__() takes no arguments"));
        }
        // SAFETY: attached; a live object.
        let known = unsafe { ffi::Py_REFCNT(this) } > 1;
        if known || cfg!(Py_3_14) || bound(this).stage != Stage::Enter {
            // Somebody keeps the method, and may call it again. (3.14 does not count those who only look, nor does its
            // `async with` bind anything.)
            return bind(bound(this).mutex, Stage::Called);
        }
        bound(this).stage = Stage::Called;
        // SAFETY: attached; a live object.
        Ok(unsafe { ffi::Py_NewRef(this) })
    })
}

/// `mu.__aexit__(...)`.
unsafe extern "C" fn exit(
    this: *mut PyObject,
    _: *const *mut PyObject,
    _: usize,
    _: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        mutex::unlock(bound(this).mutex)?;
        make_ready()
    })
}

/// True if it is what calling `__aenter__` gave; `was_awaited` says the rest.
pub(super) fn is_called(o: *mut PyObject) -> bool {
    // SAFETY: attached; an object.
    let t = unsafe { ffi::Py_TYPE(o) };
    t == BOUND.get() && !matches!(bound(o).stage, Stage::Enter | Stage::Exit)
}

/// True if it was awaited. One of those that `is_called` knows.
pub(super) fn was_awaited(o: *mut PyObject) -> bool {
    bound(o).stage != Stage::Called
}

/// True if it took the lock: free, in a goroutine's coroutine that need not yield or end now. Everything else is left to
/// the operation, which knows all of this too.
#[inline(always)]
fn quick(o: *mut PyObject, l: &Local) -> bool {
    // SAFETY: null, or the M of this thread.
    let Some(m) = (unsafe { l.m.get().as_ref() }) else {
        return false;
    };
    let Some(g) = m.goroutine() else { return false };
    // SAFETY: it runs on this thread.
    let (form, blocking) = unsafe { ((*g.body.get()).form, (*g.body.get()).blocking) };
    form == Form::Coroutine
        && blocking == 0
        && std::ptr::eq(m.rt, rt())
        && modules_unchanged(l)
        && !g.waker.word.cancel_pending()
        && !m.may_preempt()
        // SAFETY: a Mutex object.
        && unsafe { mutex::of(bound(o).mutex) }.try_lock_soon(m.rt)
}

/// What a step comes to.
enum Way {
    /// It has the lock.
    Locked,
    /// The step is this operation's (owned by `this`).
    Pass(*mut PyObject),
}

fn step(this: *mut PyObject) -> Res<Way> {
    if bound(this).stage == Stage::Called && quick(this, local()) {
        bound(this).stage = Stage::Ended;
        return Ok(Way::Locked);
    }
    inner(this).map(Way::Pass)
}

/// The operation that does the rest, made if there is none (borrowed).
#[inline(never)]
fn inner(this: *mut PyObject) -> Res<*mut PyObject> {
    match bound(this).stage {
        Stage::Passed => return Ok(bound(this).inner),
        Stage::Called => {}
        Stage::Ended => return Err(reused(mutex::ACQUIRE)),
        Stage::Enter | Stage::Exit => return Err(uncalled()),
    }
    let of = bound(this).mutex;
    let op = make(|| mutex::entering(of), None)?;
    bound(this).inner = op;
    bound(this).stage = Stage::Passed;
    // SAFETY: attached; not tracked before.
    unsafe { ffi::PyObject_GC_Track(this.cast()) };
    Ok(op)
}

fn uncalled() -> Raised {
    type_error("a method of gorun.Mutex cannot be awaited: call it")
}

unsafe extern "C" fn am_await(this: *mut PyObject) -> *mut PyObject {
    guard(|| match bound(this).stage {
        // SAFETY: attached; a live object.
        Stage::Called => Ok(unsafe { ffi::Py_NewRef(this) }),
        Stage::Passed | Stage::Ended => Err(reused(mutex::ACQUIRE)),
        Stage::Enter | Stage::Exit => Err(uncalled()),
    })
}

unsafe extern "C" fn am_send(
    this: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> ffi::PySendResult {
    match step(this) {
        Ok(Way::Locked) => {
            // SAFETY: the interpreter's out parameter.
            unsafe { *result = none() };
            ffi::PySendResult::PYGEN_RETURN
        }
        // SAFETY: an operation, kept alive by `this`.
        Ok(Way::Pass(op)) => unsafe { slots::am_send(op, value, result) },
        Err(Raised) => {
            // SAFETY: as above.
            unsafe { *result = null_mut() };
            ffi::PySendResult::PYGEN_ERROR
        }
    }
}

unsafe extern "C" fn iternext(this: *mut PyObject) -> *mut PyObject {
    match step(this) {
        // SAFETY: an operation, kept alive by `this`.
        Ok(Way::Pass(op)) => unsafe { slots::iternext(op) },
        // Without an error: the end of the iteration, with None.
        Ok(Way::Locked) | Err(Raised) => null_mut(),
    }
}

unsafe extern "C" fn send(this: *mut PyObject, value: *mut PyObject) -> *mut PyObject {
    match inner(this) {
        // SAFETY: an operation, kept alive by `this`.
        Ok(op) => unsafe { slots::send(op, value) },
        Err(Raised) => null_mut(),
    }
}

unsafe extern "C" fn throw(
    this: *mut PyObject,
    args: *const *mut PyObject,
    n: ffi::Py_ssize_t,
    kw: *mut PyObject,
) -> *mut PyObject {
    if bound(this).stage == Stage::Ended {
        // As an operation that has ended: nothing to take back, the error passes.
        bound(this).stage = Stage::Called;
    }
    match inner(this) {
        // SAFETY: an operation, kept alive by `this`; arguments as the interpreter gave them.
        Ok(op) => unsafe { slots::throw(op, args, n, kw) },
        Err(Raised) => null_mut(),
    }
}

unsafe extern "C" fn close(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    match bound(this).stage {
        Stage::Called => bound(this).stage = Stage::Ended,
        // SAFETY: an operation, kept alive by `this`.
        Stage::Passed => return unsafe { slots::close(bound(this).inner, null_mut()) },
        _ => {}
    }
    none()
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached.
    unsafe {
        let stage = bound(this).stage;
        if stage == Stage::Called {
            slots::warn_unawaited(mutex::ACQUIRE);
        }
        if !bound(this).inner.is_null() {
            ffi::PyObject_GC_UnTrack(this.cast());
            ffi::Py_DECREF(bound(this).inner);
        }
        // What a mutex's death runs is no Python code but callbacks of weak references; the object is nobody's by then.
        let (l, mutex) = (local(), bound(this).mutex);
        let spare = if stage == Stage::Exit {
            &l.spare_exit
        } else {
            &l.spare_enter
        };
        let other = spare.replace(this);
        if !other.is_null() {
            ffi::PyObject_GC_Del(other.cast());
        }
        ffi::Py_DECREF(mutex);
    }
}

unsafe extern "C" fn traverse(
    this: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let inner = bound(this).inner;
    if inner.is_null() {
        return 0;
    }
    // SAFETY: the collector's call.
    unsafe { visit(inner, arg) }
}

// ---- the descriptors ----

unsafe extern "C" fn get(this: *mut PyObject, o: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: attached; objects as the interpreter gave them.
    unsafe {
        if o.is_null() {
            return ffi::Py_NewRef(this);
        }
        let stage = (*this.cast::<Descriptor>()).stage;
        guard(|| bind(a_mutex(o)?, stage))
    }
}

fn a_mutex(o: *mut PyObject) -> Res<*mut PyObject> {
    // SAFETY: attached; a live object.
    if unsafe { ffi::Py_TYPE(o) } == mutex::TYPE.get() {
        return Ok(o);
    }
    Err(type_error(&format!(
        "a method of gorun.Mutex needs one, not {}",
        errors::repr(o)
    )))
}

/// `Mutex.__aenter__(mu)`: what interpreters that bind nothing call (3.14).
unsafe extern "C" fn call_enter(
    _: *mut PyObject,
    args: *const *mut PyObject,
    nargsf: usize,
    names: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        unsafe {
            if ffi::PyVectorcall_NARGS(nargsf) != 1 || !names.is_null() {
                return Err(type_error("__aenter__() takes no arguments"));
            }
            bind(a_mutex(*args)?, Stage::Called)
        }
    })
}

/// `Mutex.__aexit__(mu, ...)`.
unsafe extern "C" fn call_exit(
    _: *mut PyObject,
    args: *const *mut PyObject,
    nargsf: usize,
    _: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: as the interpreter gave them.
        unsafe {
            if ffi::PyVectorcall_NARGS(nargsf) < 1 {
                return Err(type_error("__aexit__() of gorun.Mutex needs one"));
            }
            mutex::unlock(a_mutex(*args)?)?;
        }
        make_ready()
    })
}

// ---- what is said of both, to `help`, `inspect` and in messages ----

/// What the interpreter's own methods say: name, qualified name, docstring, arguments.
const FACTS: [[&str; 4]; 2] = [
    [
        "__aenter__",
        "Mutex.__aenter__",
        "acquire_async()",
        "($self, /)",
    ],
    [
        "__aexit__",
        "Mutex.__aexit__",
        "release()",
        "($self, /, *args)",
    ],
];

/// Of a descriptor or of what it bound.
fn facts(o: *mut PyObject) -> &'static [&'static str; 4] {
    // SAFETY: one of the two types.
    let stage = unsafe {
        if ffi::Py_TYPE(o) == DESCRIPTOR.get() {
            (*o.cast::<Descriptor>()).stage
        } else {
            bound(o).stage
        }
    };
    &FACTS[usize::from(stage == Stage::Exit)]
}

unsafe extern "C" fn fact<const WHICH: usize>(
    this: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    guard(|| crate::args::string(facts(this)[WHICH]))
}

unsafe extern "C" fn of_class(_: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: attached; a static type.
    unsafe { ffi::Py_NewRef(mutex::TYPE.get().cast()) }
}

unsafe extern "C" fn of_mutex(this: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: attached; owned by `this`.
    unsafe { ffi::Py_NewRef(bound(this).mutex) }
}

/// `inspect` knows bound methods by their types, and asks others for this: that of an ordinary method of ours.
unsafe extern "C" fn signature(this: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    guard(|| {
        let py = attached();
        // SAFETY: attached; live objects.
        let (class, mutex) = unsafe {
            (
                pyo3::Bound::from_borrowed_ptr(py, mutex::TYPE.get().cast()),
                pyo3::Bound::from_borrowed_ptr(py, bound(this).mutex),
            )
        };
        let found = || {
            let method = class.getattr(facts(this)[0])?;
            let method = py
                .import("types")?
                .call_method1("MethodType", (method, mutex))?;
            py.import("inspect")?.call_method1("signature", (method,))
        };
        found().map(pyo3::Bound::into_ptr).map_err(errors::raise)
    })
}

unsafe extern "C" fn repr(this: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: attached; a live object.
        if unsafe { ffi::Py_TYPE(this) } == DESCRIPTOR.get() {
            let text = format!("<method '{}' of 'gorun.Mutex' objects>", facts(this)[0]);
            return crate::args::string(&text);
        }
        let what = match bound(this).stage {
            Stage::Enter | Stage::Exit => format!("bound method {}", facts(this)[1]),
            _ => "gorun.Operation acquire_async".into(),
        };
        crate::args::string(&format!("<{what} of {}>", errors::repr(bound(this).mutex)))
    })
}

/// Properties that both have.
fn common() -> Vec<ffi::PyGetSetDef> {
    vec![
        getter(c"__name__", fact::<0>, c"Its name."),
        getter(c"__qualname__", fact::<1>, c"Its name in the class."),
        getter(c"__doc__", fact::<2>, c"What it does."),
    ]
}

/// Puts both into the dict of the class.
///
/// # Safety
/// At import, attached, after the class was made ready.
pub unsafe fn install() -> Res<()> {
    let kinds: [(&'static CStr, ffi::vectorcallfunc, Stage); 2] = [
        (c"__aenter__", call_enter, Stage::Enter),
        (c"__aexit__", call_exit, Stage::Exit),
    ];
    for (name, call, stage) in kinds {
        // Immortal where the interpreter has that; before 3.12 the reference that nobody drops keeps it.
        let mut ob_base = ffi::PyObject_HEAD_INIT;
        ob_base.ob_type = DESCRIPTOR.get();
        let d = forever(Descriptor {
            ob_base,
            call,
            stage,
        });
        // SAFETY: at import; static types keep their dict here.
        unsafe {
            let t = mutex::TYPE.get();
            if ffi::PyDict_SetItemString((*t).tp_dict, name.as_ptr(), d.cast()) < 0 {
                return Err(Raised);
            }
            ffi::PyType_Modified(t);
        }
    }
    Ok(())
}

/// Frees this thread's spare ones.
pub(super) fn drop_spare() {
    for spare in [&local().spare_enter, &local().spare_exit] {
        let dead = spare.replace(null_mut());
        if !dead.is_null() {
            // SAFETY: put aside by `dealloc`.
            unsafe { ffi::PyObject_GC_Del(dead.cast()) };
        }
    }
}

/// Makes the types. At import.
///
/// # Safety
/// Once, attached.
pub(super) unsafe fn init() -> Res<()> {
    // SAFETY: at import; everything set here lives for ever.
    unsafe {
        let as_async = forever(std::mem::zeroed::<ffi::PyAsyncMethods>());
        (*as_async).am_await = Some(am_await);
        (*as_async).am_send = Some(am_send);
        BOUND.ready(
            c"gorun.MutexMethod",
            c"A bound method of Mutex, and what it gives to be awaited.",
            size_of::<Bound>(),
            |t| {
                t.tp_dealloc = Some(dealloc);
                t.tp_vectorcall_offset = std::mem::offset_of!(Bound, call) as ffi::Py_ssize_t;
                t.tp_call = Some(ffi::PyVectorcall_Call);
                t.tp_iter = Some(ffi::PyObject_SelfIter);
                t.tp_iternext = Some(iternext);
                t.tp_as_async = as_async;
                t.tp_traverse = Some(traverse);
                t.tp_repr = Some(repr);
                let mut getset = common();
                getset.push(getter(c"__self__", of_mutex, c"The mutex."));
                getset.push(getter(
                    c"__signature__",
                    signature,
                    c"For inspect.signature.",
                ));
                t.tp_getset = getters(getset);
                t.tp_methods = methods(vec![
                    one(c"send", send, c"As of a coroutine."),
                    fast(c"throw", throw, c"As of a coroutine."),
                    noargs(c"close", close, c"As of a coroutine."),
                ]);
            },
        )?;
        DESCRIPTOR.ready(
            c"gorun.MutexDescriptor",
            c"A method of Mutex.",
            size_of::<Descriptor>(),
            |t| {
                t.tp_vectorcall_offset = std::mem::offset_of!(Descriptor, call) as ffi::Py_ssize_t;
                t.tp_call = Some(ffi::PyVectorcall_Call);
                t.tp_descr_get = Some(get);
                t.tp_repr = Some(repr);
                let mut getset = common();
                getset.push(getter(c"__objclass__", of_class, c"Its class."));
                getset.push(getter(
                    c"__text_signature__",
                    fact::<3>,
                    c"For inspect.signature.",
                ));
                t.tp_getset = getters(getset);
            },
        )
    }
}
