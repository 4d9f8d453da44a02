//! What sysmon needs to know of this interpreter: where a thread that waits for it sleeps, and whether that was seen.
//!
//! The private facts used: the symbol `_PyRuntime` (its address and size), and the offset of `PyThreadState.state` on
//! 3.13 and later. Condition, checked at start by `self_test`: a helper thread that waits for the interpreter shows a
//! futex inside that symbol (GIL builds), or state 1 while attached and 0 while detached (3.13+). Switch:
//! GORUN_SYSMON=clock; a failed test does the same.

use std::ffi::{c_int, c_void};

use gorun_core::sched::Interp;
use pyo3::ffi;

use crate::rt::Rt;

#[repr(C)]
struct ElfSym {
    name: u32,
    info: u8,
    other: u8,
    shndx: u16,
    value: u64,
    size: u64,
}

unsafe extern "C" {
    fn dladdr1(
        addr: *const c_void,
        info: *mut libc::Dl_info,
        extra: *mut *mut c_void,
        flags: c_int,
    ) -> c_int;
}

/// Offset of `PyThreadState.state`: a plain int in the public header, measured for each minor version.
fn state_offset() -> Option<usize> {
    if cfg!(Py_3_14) {
        Some(44)
    } else if cfg!(Py_3_13) {
        Some(40)
    } else {
        None
    }
}

fn runtime_range() -> Option<(usize, usize)> {
    // SAFETY: plain calls; the results are checked. RTLD_DL_SYMENT is 1.
    unsafe {
        let addr = libc::dlsym(libc::RTLD_DEFAULT, c"_PyRuntime".as_ptr());
        if addr.is_null() {
            return None;
        }
        let mut info: libc::Dl_info = std::mem::zeroed();
        let mut sym: *mut c_void = std::ptr::null_mut();
        if dladdr1(addr, &raw mut info, &raw mut sym, 1) == 0 || sym.is_null() {
            return None;
        }
        let size = (*sym.cast::<ElfSym>()).size as usize;
        (size > 0).then_some((addr as usize, addr as usize + size))
    }
}

/// Tells the runtime. At import and after a fork; the self-test itself runs later (`self_test`).
pub fn set_up(rt: Rt) {
    let clock_only = std::env::var("GORUN_SYSMON").is_ok_and(|v| v == "clock");
    rt.set_clock_only(clock_only);
    let gil = cfg!(not(Py_GIL_DISABLED));
    let runtime_range = runtime_range();
    let known = if gil {
        runtime_range.is_some()
    } else {
        state_offset().is_some()
    };
    rt.set_interp(Interp {
        gil,
        runtime_range,
        trust_syscall: known && !clock_only && state_is_attached(),
        ..Interp::default()
    });
}

/// The first half of the self-test: this thread, which is attached, shows state 1.
fn state_is_attached() -> bool {
    let Some(offset) = state_offset() else {
        return true;
    };
    // SAFETY: attached: the thread state is ours and lives; the struct is longer than the offset on these versions.
    unsafe {
        *ffi::PyThreadState_Get()
            .cast::<u8>()
            .add(offset)
            .cast::<i32>()
            == 1
    }
}

/// Lets sysmon read the state of the calling thread, M number `id`.
pub fn watch_this_thread(rt: Rt, id: u32) {
    let Some(offset) = state_offset() else { return };
    if let Some(probe) = &*rt.m_ctl(id).probe.lock() {
        // SAFETY: attached; the state stays until `unwatch`, which this thread calls before it ends.
        unsafe {
            probe.set_state_ptr(
                ffi::PyThreadState_Get()
                    .cast::<u8>()
                    .add(offset)
                    .cast::<i32>(),
            )
        };
    }
}

/// Takes that back.
pub fn unwatch(rt: Rt, id: u32) {
    if let Some(probe) = &*rt.m_ctl(id).probe.lock() {
        // SAFETY: null is always allowed.
        unsafe { probe.set_state_ptr(std::ptr::null()) };
    }
}
