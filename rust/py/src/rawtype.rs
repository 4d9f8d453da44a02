//! Static types of the interpreter for the hot classes (the goroutine's handle, the operation, channels, timers): no
//! reference count on the type, no generic allocation. Everything else is an ordinary PyO3 class. And how objects of these
//! types die: their memory is used again (`Spare`), a chain of them needs little stack (`Deaths`).
//!
//! Invariant: `ready` runs once per type, at import, before any object of it is made.

use std::cell::{Cell, UnsafeCell};
use std::ffi::CStr;
use std::ptr::null_mut;

use pyo3::ffi::{self, PyObject, PyTypeObject};

use crate::errors::{Raised, Res};

/// A static type.
pub struct StaticType(UnsafeCell<PyTypeObject>);

// SAFETY: written once by `ready`, afterwards only the interpreter touches it, under its own rules.
unsafe impl Sync for StaticType {}

impl StaticType {
    /// Not ready yet.
    pub const fn new() -> Self {
        // SAFETY: a type object of zeroes is what a C static starts as.
        Self(UnsafeCell::new(unsafe { std::mem::zeroed() }))
    }

    /// The type.
    pub fn get(&self) -> *mut PyTypeObject {
        self.0.get()
    }

    /// Fills in name and size, then what `fill` sets, then the flags (seen by the collector if it can traverse; called by vectors if it says where; a method if it binds too), and hands it to the interpreter.
    ///
    /// # Safety
    /// Once, attached; what `fill` points at lives for ever.
    pub unsafe fn ready(
        &self,
        name: &'static CStr,
        doc: &'static CStr,
        size: usize,
        fill: impl FnOnce(&mut PyTypeObject),
    ) -> Res<()> {
        // SAFETY: nobody else uses the type yet.
        unsafe {
            let t = &mut *self.0.get();
            t.ob_base.ob_base = ffi::PyObject_HEAD_INIT;
            t.tp_name = name.as_ptr();
            t.tp_doc = doc.as_ptr();
            t.tp_basicsize = size as ffi::Py_ssize_t;
            fill(t);
            let on = |yes: bool, flag| if yes { flag } else { 0 };
            let vectorcall = t.tp_vectorcall_offset > 0;
            set_flags(
                t,
                ffi::Py_TPFLAGS_DEFAULT
                    | on(t.tp_traverse.is_some(), ffi::Py_TPFLAGS_HAVE_GC)
                    | on(vectorcall, ffi::Py_TPFLAGS_HAVE_VECTORCALL)
                    | on(
                        vectorcall && t.tp_descr_get.is_some(),
                        ffi::Py_TPFLAGS_METHOD_DESCRIPTOR,
                    ),
            );
            if ffi::PyType_Ready(self.0.get()) < 0 {
                Err(Raised)
            } else {
                Ok(())
            }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
fn set_flags(t: &mut PyTypeObject, flags: std::ffi::c_ulong) {
    t.tp_flags
        .store(flags, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(not(Py_GIL_DISABLED))]
fn set_flags(t: &mut PyTypeObject, flags: std::ffi::c_ulong) {
    t.tp_flags = flags;
}

/// The object made anew in the memory of a dead one of the same type, which nobody else knows.
///
/// # Safety
/// Attached.
#[cfg(any(Py_GIL_DISABLED, Py_3_14))]
pub unsafe fn again(dead: *mut PyObject, t: &StaticType) -> *mut PyObject {
    // SAFETY: as promised.
    unsafe { ffi::PyObject_Init(dead, t.get()) }
}

/// The object made anew in the memory of a dead one of the same type, which nobody else knows.
///
/// # Safety
/// Attached.
#[cfg(not(any(Py_GIL_DISABLED, Py_3_14)))]
pub unsafe fn again(dead: *mut PyObject, t: &StaticType) -> *mut PyObject {
    // As `Py_SET_REFCNT`: the type is still there, and static types are not counted. `PyObject_Init` is three calls.
    // SAFETY: up to 3.13 the count is the first word of an object.
    unsafe {
        debug_assert_eq!(ffi::Py_TYPE(dead), t.get());
        dead.cast::<ffi::Py_ssize_t>().write(1);
    }
    dead
}

/// The memory of one dead object that the collector sees, kept for the next of its type: what is made and dropped in a
/// loop then allocates nothing, and does not count towards a collection. One per thread and type (`local.rs`).
pub struct Spare(Cell<*mut PyObject>);

impl Spare {
    /// None yet.
    pub const fn new() -> Self {
        Self(Cell::new(null_mut()))
    }

    /// The object made anew, not tracked, its fields as the dead one left them.
    ///
    /// # Safety
    /// Attached; what was given here was of this type.
    pub unsafe fn take(&self, t: &StaticType) -> Option<*mut PyObject> {
        let o = self.0.replace(null_mut());
        // SAFETY: the memory of a dead object of this type.
        (!o.is_null()).then(|| unsafe { again(o, t) })
    }

    /// Keeps the memory of a dead object, or frees it. Freed is what was finalized: the collector's head would say so of
    /// the next object too, whose own finalizer would then not be called.
    ///
    /// # Safety
    /// Attached, in the dealloc of `o`: not tracked, everything in it dropped.
    pub unsafe fn give(&self, o: *mut PyObject) {
        // SAFETY: an object with a collector's head, which nobody else knows any more.
        if unsafe { ffi::PyObject_GC_IsFinalized(o) } != 0 {
            // SAFETY: as promised.
            return unsafe { ffi::PyObject_GC_Del(o.cast()) };
        }
        let before = self.0.replace(o);
        if !before.is_null() {
            // SAFETY: kept by an earlier call.
            unsafe { ffi::PyObject_GC_Del(before.cast()) };
        }
    }

    /// Frees what is kept: the thread ends.
    ///
    /// # Safety
    /// Attached.
    pub unsafe fn free(&self) {
        let o = self.0.replace(null_mut());
        if !o.is_null() {
            // SAFETY: kept by `give`.
            unsafe { ffi::PyObject_GC_Del(o.cast()) };
        }
    }
}

/// How many of our objects may die inside of each other's deaths before the next one has to wait (as many as the
/// interpreter allows its own containers): the stack is bounded, however long the chain.
const DEEP: u32 = 50;

/// What is left of a dealloc when nobody can find the object any more: dropping what it holds, and freeing its memory.
pub type Rest = unsafe fn(*mut PyObject);

/// The deaths of one thread's objects (`local.rs`): how deep they lie in each other, and those that wait until the
/// outermost is over. It then ends them, one after the other, so a chain needs no more stack than `DEEP` of its links.
pub struct Deaths {
    depth: Cell<u32>,
    /// A vector that is ours, or null: a thread-local with a destructor would need one at each thread's end.
    waiting: Cell<*mut Vec<(*mut PyObject, Rest)>>,
}

impl Deaths {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            depth: Cell::new(0),
            waiting: Cell::new(null_mut()),
        }
    }

    /// Runs `rest` on `o`, or leaves that to the outermost dealloc of this thread.
    ///
    /// # Safety
    /// Attached, at the end of the dealloc of `o`: not tracked, without weak references, in no list where it is found.
    #[inline(always)]
    pub unsafe fn end(&self, o: *mut PyObject, rest: Rest) {
        let depth = self.depth.get();
        if depth >= DEEP {
            return self.put_off(o, rest);
        }
        self.depth.set(depth + 1);
        // SAFETY: as promised.
        unsafe { rest(o) };
        if depth == 0 && !self.waiting.get().is_null() {
            self.catch_up();
        }
        self.depth.set(depth);
    }

    #[cold]
    fn put_off(&self, o: *mut PyObject, rest: Rest) {
        if self.waiting.get().is_null() {
            self.waiting.set(forever(Vec::new()));
        }
        // SAFETY: ours; nothing else looks at it meanwhile.
        unsafe { (*self.waiting.get()).push((o, rest)) };
    }

    /// The depth stays 1 while it does: those that die now do not come here.
    #[cold]
    fn catch_up(&self) {
        let waiting = self.waiting.get();
        // SAFETY: came from `put_off`; no reference to it is held while an object goes, which may add others.
        unsafe {
            while let Some((o, rest)) = (*waiting).pop() {
                rest(o);
            }
            self.waiting.set(null_mut());
            drop(Box::from_raw(waiting));
        }
    }
}

/// Puts a value where it is never freed.
pub fn forever<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// A method table from functions; ends itself.
pub fn methods(list: Vec<ffi::PyMethodDef>) -> *mut ffi::PyMethodDef {
    let mut list = list;
    list.push(ffi::PyMethodDef::zeroed());
    Box::leak(list.into_boxed_slice()).as_mut_ptr()
}

/// The calling form of most raw functions.
pub type Fast = unsafe extern "C" fn(
    *mut PyObject,
    *const *mut PyObject,
    ffi::Py_ssize_t,
    *mut PyObject,
) -> *mut PyObject;
/// The form without arguments.
pub type NoArgs = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;

/// A method with fastcall and keywords.
pub fn fast(name: &'static CStr, f: Fast, doc: &'static CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: f,
        },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

/// A method without arguments.
pub fn noargs(name: &'static CStr, f: NoArgs, doc: &'static CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: f },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: doc.as_ptr(),
    }
}

/// A method with one argument.
pub fn one(name: &'static CStr, f: NoArgs, doc: &'static CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: f },
        ml_flags: ffi::METH_O,
        ml_doc: doc.as_ptr(),
    }
}

/// A read-only property.
pub fn getter(name: &'static CStr, f: ffi::getter, doc: &'static CStr) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(f),
        set: None,
        doc: doc.as_ptr(),
        closure: null_mut(),
    }
}

/// A table of properties; ends itself.
pub fn getters(list: Vec<ffi::PyGetSetDef>) -> *mut ffi::PyGetSetDef {
    let mut list = list;
    list.push(ffi::PyGetSetDef {
        name: std::ptr::null(),
        get: None,
        set: None,
        doc: std::ptr::null(),
        closure: null_mut(),
    });
    Box::leak(list.into_boxed_slice()).as_mut_ptr()
}

/// A function of the module.
///
/// # Safety
/// Attached, at import.
pub unsafe fn function(def: ffi::PyMethodDef) -> *mut PyObject {
    let def = forever(def);
    let name = pyo3::types::PyString::new(crate::errors::attached(), "gorun");
    // SAFETY: the definition lives for ever; the module name makes `__module__` the public one.
    unsafe { ffi::PyCFunction_NewEx(def, null_mut(), name.as_ptr()) }
}
