//! Arguments of raw functions (fastcall with keywords): a tiny parser, and the conversions that several share.

use std::time::Duration;

use pyo3::ffi::{self, PyObject};

use crate::errors::{Raised, Res, repr, type_error, value_error};

/// Sorts the arguments of a call into `names`; the first `positional` may be given by position. Absent: null.
/// Borrowed references.
///
/// # Safety
/// Attached; `args`, `nargs`, `kwnames` as the interpreter gave them.
pub unsafe fn parse<const N: usize>(
    function: &str,
    names: [&str; N],
    positional: usize,
    args: *const *mut PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut PyObject,
) -> Res<[*mut PyObject; N]> {
    let mut out = [std::ptr::null_mut(); N];
    let nargs = nargs as usize;
    if nargs > positional {
        return Err(type_error(&format!(
            "{function}() takes at most {positional} positional arguments ({nargs} given)"
        )));
    }
    for (i, slot) in out.iter_mut().enumerate().take(nargs) {
        // SAFETY: within the array by the check above.
        *slot = unsafe { *args.add(i) };
    }
    if kwnames.is_null() {
        return Ok(out);
    }
    // SAFETY: a tuple of str, with as many values behind the positional ones.
    let n = unsafe { ffi::PyTuple_GET_SIZE(kwnames) } as usize;
    for i in 0..n {
        // SAFETY: as above.
        let (name, value) = unsafe {
            (
                ffi::PyTuple_GET_ITEM(kwnames, i as isize),
                *args.add(nargs + i),
            )
        };
        let text = text(name)?;
        let Some(at) = names.iter().position(|x| *x == text) else {
            return Err(type_error(&format!(
                "{function}() got an unexpected keyword argument '{text}'"
            )));
        };
        if !out[at].is_null() {
            return Err(type_error(&format!(
                "{function}() got multiple values for argument '{text}'"
            )));
        }
        out[at] = value;
    }
    Ok(out)
}

/// The text of a str.
pub fn text(o: *mut PyObject) -> Res<String> {
    let mut n = 0;
    // SAFETY: attached; the buffer belongs to `o` and is copied at once.
    unsafe {
        let p = ffi::PyUnicode_AsUTF8AndSize(o, &raw mut n);
        if p.is_null() {
            return Err(Raised);
        }
        let bytes = std::slice::from_raw_parts(p.cast::<u8>(), n as usize);
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// A number of seconds; NaN is refused.
pub fn seconds(o: *mut PyObject, what: &str) -> Res<f64> {
    // SAFETY: attached, a valid object. bool counts as a number, as elsewhere in Python.
    let v = unsafe { ffi::PyFloat_AsDouble(o) };
    // SAFETY: attached.
    if v == -1.0 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        // SAFETY: attached.
        if unsafe { ffi::PyErr_ExceptionMatches(ffi::PyExc_TypeError) } != 0 {
            // SAFETY: attached.
            unsafe { ffi::PyErr_Clear() };
            return Err(type_error(&format!(
                "{what} must be a number of seconds, not {}",
                repr(o)
            )));
        }
        // SAFETY: attached.
        if unsafe { ffi::PyErr_ExceptionMatches(ffi::PyExc_OverflowError) } != 0 {
            // A whole number beyond all floats.
            // SAFETY: attached.
            unsafe { ffi::PyErr_Clear() };
            return Err(value_error(&format!(
                "{what} is no number of seconds that a float holds: {}",
                repr(o)
            )));
        }
        return Err(Raised);
    }
    if v.is_nan() {
        return Err(value_error(&format!(
            "{what} must be a number of seconds, not {}",
            repr(o)
        )));
    }
    Ok(v)
}

/// Longest wait that is told from "for ever": about 292 years.
const LONGEST: f64 = 9.2e9;

/// Seconds as a duration; below 0 is 0, beyond all measure is the longest.
pub fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST))
}

/// A time-out: None for ever, at or below 0 to try once.
pub fn timeout(o: *mut PyObject) -> Res<Option<Duration>> {
    // SAFETY: a static.
    if o.is_null() || o == unsafe { ffi::Py_None() } {
        return Ok(None);
    }
    let s = seconds(o, "timeout")?;
    Ok(if s > LONGEST { None } else { Some(duration(s)) })
}

/// A time to sleep: below 0 is refused.
pub fn sleep_time(o: *mut PyObject, what: &str) -> Res<Duration> {
    let s = seconds(o, what)?;
    if s < 0.0 {
        return Err(value_error(&format!(
            "{what} must not be negative: {}",
            repr(o)
        )));
    }
    Ok(duration(s))
}
