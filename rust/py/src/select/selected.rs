//! `Selected(index, value, ok)`, made without a call into Python.
//!
//! The class is Python's own (a NamedTuple), so what makes and frees its objects is generic code, 600 instructions of a
//! select. With a GIL one that dies leaves its memory, and its reference to the class, to the next one of its thread.
//! (Without one the count of the class is kept per thread by private means, and the generic way is as good.)

use pyo3::ffi::{self, PyObject};

use crate::errors::{self, Raised, Res, attached};

/// `Selected(index, value, ok)`. Takes over `value`.
pub fn selected(index: isize, value: *mut PyObject, ok: bool) -> Res<*mut PyObject> {
    // SAFETY: attached; a subclass of tuple without fields of its own.
    unsafe {
        let o = kept::vacant(errors::selected(attached()).cast());
        if o.is_null() {
            ffi::Py_DECREF(value);
            return Err(Raised);
        }
        #[cfg(Py_3_14)] // tuples keep their hash; -1: not known yet
        {
            (*o.cast::<ffi::PyTupleObject>()).ob_hash = -1;
        }
        ffi::PyTuple_SET_ITEM(o, 0, ffi::PyLong_FromSsize_t(index));
        ffi::PyTuple_SET_ITEM(o, 1, value);
        ffi::PyTuple_SET_ITEM(o, 2, ffi::PyBool_FromLong(ok.into()));
        Ok(o)
    }
}

#[cfg(not(any(Py_GIL_DISABLED, Py_3_14)))]
mod kept {
    use pyo3::ffi::{self, PyObject, PyTypeObject};

    use crate::errors::{self, attached};
    use crate::local::local;

    const FIELDS: ffi::Py_ssize_t = 3;

    /// An object of the class with three empty places.
    ///
    /// # Safety
    /// Attached; `class` is Selected.
    pub unsafe fn vacant(class: *mut PyTypeObject) -> *mut PyObject {
        // SAFETY: by the promise; what was put aside was of this class, with as many places.
        unsafe {
            let dead = local().spare_selected.replace(std::ptr::null_mut());
            if dead.is_null() {
                return ffi::PyType_GenericAlloc(class, FIELDS);
            }
            // As `rawtype::again`; the class is still counted.
            dead.cast::<ffi::Py_ssize_t>().write(1);
            ffi::PyObject_GC_Track(dead.cast());
            dead
        }
    }

    /// Of Selected and, called by the generic one, of its subclasses.
    unsafe extern "C" fn dealloc(o: *mut PyObject) {
        // SAFETY: called once by the interpreter, attached.
        unsafe {
            ffi::PyObject_GC_UnTrack(o.cast());
            local().deaths.end(o, drop_places);
        }
    }

    unsafe fn drop_places(o: *mut PyObject) {
        // SAFETY: the rest of `dealloc`: a tuple that nobody knows any more.
        unsafe {
            let n = ffi::PyTuple_GET_SIZE(o);
            for i in 0..n {
                ffi::Py_XDECREF(ffi::PyTuple_GET_ITEM(o, i));
            }
            let class = ffi::Py_TYPE(o);
            // Others are a subclass's, or made by hand with another number of fields.
            let ours = class.cast() == errors::selected(attached());
            if ours && n == FIELDS && local().spare_selected.get().is_null() {
                local().spare_selected.set(o);
                return;
            }
            ffi::PyObject_GC_Del(o.cast());
            ffi::Py_DECREF(class.cast());
        }
    }

    /// Takes over how objects of the class die. At import.
    ///
    /// # Safety
    /// Attached; `class` is Selected.
    pub unsafe fn install(class: *mut PyTypeObject) {
        // SAFETY: a heap type; objects that were made before die as well in the new way.
        unsafe { (*class).tp_dealloc = Some(dealloc) };
    }

    /// Frees this thread's spare one.
    pub fn drop_spare() {
        let dead = local().spare_selected.replace(std::ptr::null_mut());
        if !dead.is_null() {
            // SAFETY: put aside by `drop_places`.
            unsafe {
                let class = ffi::Py_TYPE(dead);
                ffi::PyObject_GC_Del(dead.cast());
                ffi::Py_DECREF(class.cast());
            }
        }
    }
}

#[cfg(any(Py_GIL_DISABLED, Py_3_14))]
mod kept {
    use pyo3::ffi::{self, PyObject, PyTypeObject};

    /// An object of the class with three empty places.
    ///
    /// # Safety
    /// Attached; `class` is Selected.
    pub unsafe fn vacant(class: *mut PyTypeObject) -> *mut PyObject {
        // SAFETY: by the promise.
        unsafe { ffi::PyType_GenericAlloc(class, 3) }
    }

    /// Nothing to take over.
    ///
    /// # Safety
    /// None.
    pub unsafe fn install(_class: *mut PyTypeObject) {}

    /// Nothing is kept.
    pub fn drop_spare() {}
}

pub use kept::{drop_spare, install};
