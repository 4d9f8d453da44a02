//! The exceptions of the package (defined in `gorun._errors`) and small helpers that set an error.
//!
//! Raw functions answer null with the error set; `Raised` is the proof that one is.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// An error is set in this thread.
#[derive(Clone, Copy, Debug)]
pub struct Raised;

/// A value or a set error.
pub type Res<T> = Result<T, Raised>;

macro_rules! lazies {
    ($($module:literal: $($get:ident = $name:literal),+;)+) => {$($(
        /// The object of this name.
        pub fn $get(py: Python<'_>) -> *mut PyObject {
            static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            match CELL.get_or_try_init(py, || Ok::<_, PyErr>(py.import($module)?.getattr($name)?.unbind())) {
                Ok(o) => o.as_ptr(),
                // Only while the interpreter goes down, when modules are half gone.
                Err(_) => py.None().into_ptr(),
            }
        }
    )+)+
        /// Looks all of them up, at import: an import lets other threads run, and a fork in the middle of one would
        /// leave the cell in the child in work for ever.
        pub fn look_up(py: Python<'_>) {
            $($($get(py);)+)+
        }
    };
}

lazies! {
    "gorun._errors":
        cancelled = "Cancelled",
        goroutine_cancelled = "GoroutineCancelled",
        thread_limit = "ThreadLimit",
        channel_closed = "ChannelClosed",
        would_block = "WouldBlock",
        partial_send = "PartialSend",
        deadlock = "Deadlock";
    "gorun._deadlock":
        describe = "describe";
    "gorun._selected":
        selected = "Selected";
    "gorun._hooks":
        start_thread = "start_thread",
        m_started = "m_started",
        sync_trace = "sync_trace",
        warn_limit = "warn_limit",
        warn_start = "warn_start",
        report = "report",
        bridge = "asyncio_wait",
        end_child = "end_child",
        foreign = "foreign_awaitable",
        awaited = "awaited";
    "_signal":
        getsignal = "getsignal",
        default_int_handler = "default_int_handler";
    "threading":
        threading_dict = "__dict__";
}

/// True if `threading.settrace` or `setprofile` was called with a function: new threads would be traced. Attached.
pub fn traced() -> bool {
    let py = attached();
    // SAFETY: a module's dict, or None.
    let dict = unsafe { Bound::from_borrowed_ptr(py, threading_dict(py)) };
    let set = |d: &Bound<'_, PyDict>, n: &Name| {
        // SAFETY: a string.
        let name = unsafe { Bound::from_borrowed_ptr(py, n.get()) };
        d.get_item(name)
            .is_ok_and(|v| v.is_some_and(|v| !v.is_none()))
    };
    dict.cast::<PyDict>()
        .is_ok_and(|d| set(d, &name::TRACE_HOOK) || set(d, &name::PROFILE_HOOK))
}

/// A name, interned at import. Not `pyo3::intern!`: that lets other threads run in the middle of its first use, and a
/// fork at that moment leaves its cell in the child in work for ever.
pub struct Name(&'static CStr, AtomicPtr<PyObject>);

impl Name {
    const fn new(text: &'static CStr) -> Self {
        Self(text, AtomicPtr::new(null_mut()))
    }

    /// The string, borrowed.
    pub fn get(&self) -> *mut PyObject {
        self.1.load(Ordering::Relaxed)
    }
}

/// The names that are looked up on hot or forked paths.
pub mod name {
    use super::Name;

    pub static CLOSE: Name = Name::new(c"close");
    pub static THROW: Name = Name::new(c"throw");
    pub static ORIGIN: Name = Name::new(c"_origin");
    pub static SENT: Name = Name::new(c"sent");
    pub static GOROUTINE: Name = Name::new(c"_goroutine");
    pub static ASYNCIO_EVENTS: Name = Name::new(c"asyncio.events");
    pub static TRACE_HOOK: Name = Name::new(c"_trace_hook");
    pub static PROFILE_HOOK: Name = Name::new(c"_profile_hook");
    pub static ADVANCE: Name = Name::new(c"_advance");

    pub(super) static ALL: [&Name; 9] = [
        &CLOSE,
        &THROW,
        &ORIGIN,
        &SENT,
        &GOROUTINE,
        &ASYNCIO_EVENTS,
        &TRACE_HOOK,
        &PROFILE_HOOK,
        &ADVANCE,
    ];
}

/// Interns the names. At import, attached.
pub fn init() {
    for n in name::ALL {
        // SAFETY: attached. Null only without memory: then so is the rest.
        n.1.store(
            unsafe { ffi::PyUnicode_InternFromString(n.0.as_ptr()) },
            Ordering::Relaxed,
        );
    }
}

/// The token of an attached thread, for raw functions that the interpreter calls.
pub fn attached() -> Python<'static> {
    // SAFETY: raw functions of this crate are called by the interpreter, attached; the token is used within the call.
    unsafe { Python::assume_attached() }
}

/// Sets `exc(text)`.
pub fn set(exc: *mut PyObject, text: &str) -> Raised {
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // SAFETY: attached; `exc` is an exception class.
    unsafe { ffi::PyErr_SetString(exc, text.as_ptr()) };
    Raised
}

/// Sets a TypeError.
pub fn type_error(text: &str) -> Raised {
    // SAFETY: a static of the interpreter.
    set(unsafe { ffi::PyExc_TypeError }, text)
}

/// Sets a ValueError.
pub fn value_error(text: &str) -> Raised {
    // SAFETY: as above.
    set(unsafe { ffi::PyExc_ValueError }, text)
}

/// Sets a RuntimeError.
pub fn runtime_error(text: &str) -> Raised {
    // SAFETY: as above.
    set(unsafe { ffi::PyExc_RuntimeError }, text)
}

/// Sets a TimeoutError.
pub fn timeout_error(text: &str) -> Raised {
    // SAFETY: as above.
    set(unsafe { ffi::PyExc_TimeoutError }, text)
}

/// The error that is set, taken out as one normalised exception (owned), or null.
#[cfg(Py_3_12)]
pub fn fetch() -> *mut PyObject {
    // SAFETY: attached; the reference is ours.
    unsafe { ffi::PyErr_GetRaisedException() }
}

/// The error that is set, taken out as one normalised exception (owned), or null.
#[cfg(not(Py_3_12))]
pub fn fetch() -> *mut PyObject {
    // SAFETY: attached; the three references are owned by us.
    unsafe {
        let (mut t, mut v, mut tb) = (null_mut(), null_mut(), null_mut());
        ffi::PyErr_Fetch(&raw mut t, &raw mut v, &raw mut tb);
        if t.is_null() {
            return null_mut();
        }
        ffi::PyErr_NormalizeException(&raw mut t, &raw mut v, &raw mut tb);
        if !tb.is_null() {
            ffi::PyException_SetTraceback(v, tb);
        }
        ffi::Py_XDECREF(t);
        ffi::Py_XDECREF(tb);
        v
    }
}

/// Sets an exception (owned, taken over) as it is: its context is not touched.
pub fn put_back(exc: *mut PyObject) {
    // SAFETY: attached; the calls take over the reference, and the new ones to its type and traceback.
    unsafe {
        #[cfg(Py_3_12)]
        ffi::PyErr_SetRaisedException(exc);
        #[cfg(not(Py_3_12))]
        ffi::PyErr_Restore(
            ffi::Py_NewRef(ffi::Py_TYPE(exc).cast()),
            exc,
            ffi::PyException_GetTraceback(exc),
        );
    }
}

/// Sets an exception object as it is: its context is not touched, its traceback becomes `trace`.
pub fn restore(exc: *mut PyObject, trace: *mut PyObject) -> Raised {
    // SAFETY: attached; both are alive, and the setter takes a traceback or None.
    unsafe {
        let trace = if trace.is_null() {
            ffi::Py_None()
        } else {
            trace
        };
        ffi::PyException_SetTraceback(exc, trace);
        put_back(ffi::Py_NewRef(exc));
    }
    Raised
}

/// Runs `f` with the error that is set put aside; errors of `f` are reported as unraisable.
pub fn aside(f: impl FnOnce()) {
    let exc = fetch();
    f();
    // SAFETY: attached.
    unsafe {
        if !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_WriteUnraisable(null_mut());
        }
    }
    if !exc.is_null() {
        put_back(exc);
    }
}

/// From PyO3's world into the raw one.
pub fn raise(e: PyErr) -> Raised {
    e.restore(attached());
    Raised
}

/// Runs the body of a raw function: a set error becomes null, a panic becomes a Python exception.
pub fn guard(f: impl FnOnce() -> Res<*mut PyObject>) -> *mut PyObject {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(Ok(p)) => p,
        Ok(Err(Raised)) => null_mut(),
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_else(|| "panic in gorun".into());
            pyo3::panic::PanicException::new_err(text).restore(attached());
            null_mut()
        }
    }
}

/// The text of `repr(o)`, for messages.
pub fn repr(o: *mut PyObject) -> String {
    // SAFETY: attached; a valid object.
    let b = unsafe { Bound::from_borrowed_ptr(attached(), o) };
    b.repr()
        .map_or_else(|_| "<no repr>".into(), |r| r.to_string())
}

/// The name of `o`'s type, for messages.
pub fn type_name(o: *mut PyObject) -> String {
    // SAFETY: as above.
    let b = unsafe { Bound::from_borrowed_ptr(attached(), o) };
    b.get_type()
        .fully_qualified_name()
        .map_or_else(|_| "?".into(), |r| r.to_string())
}
