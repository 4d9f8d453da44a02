//! How an await of ours gives its value from Python 3.12 on, where the interpreter asks `__next__` and takes the value of
//! a StopIteration: with one that is used again and again, since making one costs more than the rest of a receive.
//!
//! It is an object of a subclass whose death puts it aside, empty, for the next value of this thread. So it is as short
//! lived as any other and keeps no value; whoever catches one by hand and keeps it has an object of his own, and the
//! thread makes another. Its `args` are empty: what is read of it is `value`.

use std::ptr::null_mut;

use pyo3::ffi::{self, PyObject, PyStopIterationObject};

use crate::body::clear;
use crate::errors::{Raised, Res};
use crate::local::local;
use crate::rawtype::{StaticType, again};

static STOP: StaticType = StaticType::new();

/// Sets StopIteration with this value (owned).
pub(super) fn stop(value: *mut PyObject) {
    // SAFETY: attached; the spare is freed memory of this type, whose fields are valid or null.
    unsafe {
        let spare = local().spare_stop.replace(null_mut());
        let exc = if spare.is_null() {
            ffi::PyType_GenericAlloc(STOP.get(), 0)
        } else {
            let exc = again(spare, &STOP);
            // Who catches it by hand has it in a cycle at once: by its traceback, his frame.
            ffi::PyObject_GC_Track(exc.cast());
            exc
        };
        if exc.is_null() {
            ffi::Py_DECREF(value);
            return;
        }
        let e = exc.cast::<PyStopIterationObject>();
        if (*e).args.is_null() {
            (*e).args = ffi::PyTuple_New(0);
        }
        (*e).value = value;
        ffi::PyErr_SetRaisedException(exc);
    }
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called once by the interpreter, attached; the fields are owned references or null, emptied before code runs.
    unsafe {
        // Dropping the fields may run code that awaits, on this thread: until it is put aside the object is nobody's.
        ffi::PyObject_GC_UnTrack(this.cast());
        local().deaths.end(this, drop_fields);
    }
}

unsafe fn drop_fields(this: *mut PyObject) {
    // SAFETY: the rest of `dealloc`.
    unsafe {
        let e = this.cast::<PyStopIterationObject>();
        let rare = [
            &raw mut (*e).dict,
            &raw mut (*e).notes,
            &raw mut (*e).traceback,
            &raw mut (*e).context,
            &raw mut (*e).cause,
        ];
        for slot in rare {
            if !(*slot).is_null() {
                clear(slot);
            }
        }
        // A C char, which the binding calls by another name.
        (&raw mut (*e).suppress_context).cast::<u8>().write(0);
        if (*e).args.is_null() || ffi::PyTuple_GET_SIZE((*e).args) > 0 {
            clear(&raw mut (*e).args);
        }
        clear(&raw mut (*e).value);
        let other = local().spare_stop.replace(this);
        free(other);
    }
}

/// Frees one that was put aside.
unsafe fn free(spare: *mut PyObject) {
    if !spare.is_null() {
        // SAFETY: freed memory of this type.
        unsafe {
            clear(&raw mut (*spare.cast::<PyStopIterationObject>()).args);
            ffi::PyObject_GC_Del(spare.cast());
        }
    }
}

/// Frees this thread's.
pub(super) fn drop_spare() {
    // SAFETY: attached; what was put aside.
    unsafe { free(local().spare_stop.replace(null_mut())) };
}

/// Makes the type. At import.
///
/// # Safety
/// Once, attached.
pub(super) unsafe fn init() -> Res<()> {
    // SAFETY: at import. The layout is the base's, so the base's traverse and clear do; the rest is inherited.
    unsafe {
        let base = ffi::PyExc_StopIteration.cast::<ffi::PyTypeObject>();
        if (*base).tp_basicsize as usize != size_of::<PyStopIterationObject>() {
            crate::errors::runtime_error("StopIteration has a layout that gorun does not know");
            return Err(Raised);
        }
        STOP.ready(
            c"gorun.StopIteration",
            c"The end of an await, with its value.",
            size_of::<PyStopIterationObject>(),
            |t| {
                t.tp_base = base;
                t.tp_dealloc = Some(dealloc);
                t.tp_traverse = (*base).tp_traverse;
                t.tp_clear = (*base).tp_clear;
            },
        )
    }
}
