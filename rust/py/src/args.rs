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

/// As `sleep_time`, in nanoseconds.
pub fn sleep_nanos(o: *mut PyObject, what: &str) -> Res<u64> {
    // SAFETY: attached, a valid object; a float if it says so.
    unsafe {
        if ffi::PyFloat_CheckExact(o) != 0 {
            let s = ffi::PyFloat_AS_DOUBLE(o);
            if (0.0..=LONGEST).contains(&s) {
                return Ok((s * 1e9 + 0.5) as u64);
            }
        }
    }
    Ok(sleep_time(o, what)?.as_nanos() as u64) // at most LONGEST
}

/// The longest time-out that `threading` takes, in seconds.
const TIMEOUT_MAX: f64 = 9_223_372_036.0;

/// The arguments of `threading.Lock.acquire`, to the letter: None if it must not wait, else its time-out.
pub fn lock_args(blocking: *mut PyObject, timeout: *mut PyObject) -> Res<Option<Option<Duration>>> {
    let waits = if blocking.is_null() {
        true
    } else {
        // SAFETY: attached, a valid object.
        match unsafe { ffi::PyObject_IsTrue(blocking) } {
            -1 => return Err(Raised),
            b => b != 0,
        }
    };
    let t = if timeout.is_null() {
        -1.0
    } else {
        seconds(timeout, "timeout")?
    };
    let given = t != -1.0;
    if given && !waits {
        return Err(value_error(&format!(
            "can't specify a timeout for a non-blocking call: {}",
            repr(timeout)
        )));
    }
    if given && t < 0.0 {
        return Err(value_error(&format!(
            "timeout value must be a non-negative number, not {}",
            repr(timeout)
        )));
    }
    if t > TIMEOUT_MAX {
        // SAFETY: a static of the interpreter.
        return Err(crate::errors::set(
            unsafe { ffi::PyExc_OverflowError },
            &format!("timeout value is too large: {}", repr(timeout)),
        ));
    }
    Ok(waits.then(|| given.then(|| duration(t))))
}

/// A whole number (an int, or what has `__index__`).
pub fn whole(o: *mut PyObject, what: &str) -> Res<i64> {
    // SAFETY: attached, a valid object.
    let v = unsafe { ffi::PyLong_AsLongLong(o) };
    // SAFETY: attached.
    if v == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        // SAFETY: attached.
        unsafe {
            let mistyped = ffi::PyErr_ExceptionMatches(ffi::PyExc_TypeError) != 0;
            ffi::PyErr_Clear();
            return Err(if mistyped {
                type_error(&format!("{what} must be a whole number, not {}", repr(o)))
            } else {
                value_error(&format!("{what} is out of range: {}", repr(o)))
            });
        }
    }
    Ok(v)
}

/// An int, owned.
pub fn number(n: usize) -> Res<*mut PyObject> {
    // SAFETY: attached.
    let o = unsafe { ffi::PyLong_FromSize_t(n) };
    if o.is_null() { Err(Raised) } else { Ok(o) }
}

/// A str, owned.
pub fn string(s: &str) -> Res<*mut PyObject> {
    // SAFETY: attached; copied.
    let o =
        unsafe { ffi::PyUnicode_FromStringAndSize(s.as_ptr().cast(), s.len() as ffi::Py_ssize_t) };
    if o.is_null() { Err(Raised) } else { Ok(o) }
}

/// As `parse`, of the arguments of a class call. Borrowed references.
///
/// # Safety
/// Attached; `args` and `kw` as `tp_new` got them.
pub unsafe fn of_tuple<const N: usize>(
    function: &str,
    names: [&str; N],
    args: *mut PyObject,
    kw: *mut PyObject,
) -> Res<[*mut PyObject; N]> {
    // SAFETY: as promised; the values in the tuple of names lie behind the positional ones, as `parse` expects.
    unsafe {
        let n = ffi::PyTuple_GET_SIZE(args);
        let mut all: Vec<_> = (0..n).map(|i| ffi::PyTuple_GET_ITEM(args, i)).collect();
        let mut keys = Vec::new();
        if !kw.is_null() {
            let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
            while ffi::PyDict_Next(kw, &raw mut at, &raw mut key, &raw mut value) != 0 {
                keys.push(key);
                all.push(value);
            }
        }
        let kwnames = ffi::PyTuple_New(keys.len() as ffi::Py_ssize_t);
        if kwnames.is_null() {
            return Err(Raised);
        }
        for (i, key) in keys.into_iter().enumerate() {
            ffi::PyTuple_SET_ITEM(kwnames, i as ffi::Py_ssize_t, ffi::Py_NewRef(key));
        }
        let r = parse(function, names, N, all.as_ptr(), n, kwnames);
        ffi::Py_DECREF(kwnames);
        r
    }
}

/// The one argument of a class call, by position or by name; null if it was not given. Borrowed.
///
/// # Safety
/// Attached; `args` and `kw` as `tp_new` got them.
pub unsafe fn from_tuple(
    function: &str,
    name: &'static str,
    args: *mut PyObject,
    kw: *mut PyObject,
) -> Res<*mut PyObject> {
    // SAFETY: as promised.
    unsafe {
        let n = ffi::PyTuple_GET_SIZE(args);
        let named = if kw.is_null() {
            0
        } else {
            ffi::PyDict_Size(kw)
        };
        if n + named > 1 {
            return Err(type_error(&format!(
                "{function}() takes at most 1 argument ({} given)",
                n + named
            )));
        }
        if n == 1 {
            return Ok(ffi::PyTuple_GET_ITEM(args, 0));
        }
        if named == 0 {
            return Ok(std::ptr::null_mut());
        }
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        ffi::PyDict_Next(kw, &raw mut at, &raw mut key, &raw mut value);
        let key = text(key)?;
        if key != name {
            return Err(type_error(&format!(
                "{function}() got an unexpected keyword argument '{key}'"
            )));
        }
        Ok(value)
    }
}
