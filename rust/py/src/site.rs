//! Where goroutines are created: "file:line in function", as a small number in each goroutine.
//!
//! Invariants: a site keeps one reference to its code object for ever, so sites are bounded (`MAX`); beyond that, new
//! ones are unknown. The cost per `go` is one look at the caller's frame and a comparison with the thread's last site.

use std::collections::HashMap;

use gorun_core::prim::Lock;
use pyo3::ffi::{self, PyObject};

use crate::local::local;

const MAX: usize = 1 << 16;

struct Sites {
    by_key: Option<HashMap<(usize, i32), u32>>,
    all: Vec<(usize, i32)>,
}

static SITES: Lock<Sites> = Lock::new(Sites {
    by_key: None,
    all: Vec::new(),
});

/// The number of the place where the running Python code stands; 0 is unknown.
///
/// # Safety
/// Attached.
pub unsafe fn here() -> u32 {
    // SAFETY: attached; the frame is borrowed.
    unsafe { of_frame(ffi::PyEval_GetFrame()) }
}

/// As `here`, of the caller of the running Python function: for functions of the package that wrap `go`.
///
/// # Safety
/// Attached.
pub unsafe fn caller() -> u32 {
    // SAFETY: attached; the outer frame is owned by us.
    unsafe {
        let frame = ffi::PyEval_GetFrame();
        if frame.is_null() {
            return 0;
        }
        let back = ffi::PyFrame_GetBack(frame);
        let site = of_frame(back);
        ffi::Py_XDECREF(back.cast());
        site
    }
}

unsafe fn of_frame(frame: *mut ffi::PyFrameObject) -> u32 {
    if frame.is_null() {
        return 0;
    }
    // SAFETY: attached, a frame; the code's reference is ours.
    unsafe {
        let code = ffi::PyFrame_GetCode(frame);
        let at = PyFrame_GetLasti(frame);
        let (last_code, last_at, last) = local().last_site.get();
        let site = if last_code == code as usize && last_at == at {
            last
        } else {
            intern(code.cast(), at)
        };
        ffi::Py_DECREF(code.cast());
        site
    }
}

unsafe extern "C" {
    // In the C API since 3.11; not in every pyo3-ffi that we allow.
    fn PyFrame_GetLasti(frame: *mut ffi::PyFrameObject) -> std::ffi::c_int;
}

unsafe fn intern(code: *mut PyObject, at: i32) -> u32 {
    let key = (code as usize, at);
    let mut s = SITES.lock();
    let known = s.by_key.get_or_insert_with(HashMap::new).get(&key).copied();
    let site = match known {
        Some(n) => n,
        None if s.all.len() >= MAX => 0,
        None => {
            // SAFETY: attached; counting runs no code. The site owns this reference.
            unsafe { ffi::Py_INCREF(code) };
            s.all.push(key);
            let n = s.all.len() as u32;
            s.by_key.as_mut().expect("made above").insert(key, n);
            n
        }
    };
    drop(s);
    if site != 0 {
        local().last_site.set((code as usize, at, site));
    }
    site
}

/// "file:line in function".
pub fn describe(site: u32) -> Option<String> {
    let (code, at) = *SITES.lock().all.get((site as usize).checked_sub(1)?)?;
    // SAFETY: sites own their code objects; attached.
    Some(unsafe { describe_code(code as *mut PyObject, at) })
}

/// "file:line in function" of a place in a code object.
///
/// # Safety
/// Attached; `code` is a code object.
pub unsafe fn describe_code(code: *mut PyObject, at: i32) -> String {
    let py = crate::errors::attached();
    // SAFETY: by the caller's promise.
    let (line, code) = unsafe {
        (
            ffi::PyCode_Addr2Line(code.cast(), at),
            pyo3::Bound::from_borrowed_ptr(py, code),
        )
    };
    use pyo3::prelude::*;
    let get = |name: &str| {
        code.getattr(name)
            .map_or_else(|_| "?".to_owned(), |v| v.to_string())
    };
    format!("{}:{} in {}", get("co_filename"), line, get("co_qualname"))
}
