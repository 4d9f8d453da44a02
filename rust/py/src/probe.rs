//! What sysmon needs to know of this interpreter: where a thread that waits for it sleeps, and whether that was seen.
//!
//! The private facts used: the symbol `_PyRuntime` (its address and size), and the offset of `PyThreadState.state` on
//! 3.13 and later. Condition, checked by `self_test` before the first M starts: a helper thread that waits for the
//! interpreter shows a futex inside that symbol (GIL builds); one that sleeps is seen asleep; and (3.13+) the state is 1
//! while attached, 0 while detached. Switch: GORUN_SYSMON=clock; a failed test does the same.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gorun_core::prim::{futex_wait, futex_wake};
use gorun_core::sched::{Interp, Line, Probe, ProbeMode};
use pyo3::ffi;
use pyo3::prelude::*;

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

/// What the self-test found; a forked child takes it over.
static FOUND: AtomicU32 = AtomicU32::new(UNTESTED);
const UNTESTED: u32 = 0;
const GOOD: u32 = 1;
const BAD: u32 = 2;

fn clock_only() -> bool {
    std::env::var("GORUN_SYSMON").is_ok_and(|v| v == "clock")
}

/// Tells the runtime what is known. At import and after a fork.
pub fn set_up(rt: Rt) {
    rt.set_clock_only(clock_only());
    if FOUND.load(Ordering::Relaxed) != UNTESTED {
        tell(rt);
    }
}

fn tell(rt: Rt) {
    rt.set_interp(Interp {
        gil: cfg!(not(Py_GIL_DISABLED)),
        runtime_range: runtime_range(),
        trust_syscall: FOUND.load(Ordering::Relaxed) == GOOD,
        ..Interp::default()
    });
}

/// Runs the self-test before the first M starts; until then the runtime knows of no interpreter, and goes by the clock.
/// Attached, outside the scheduler. Takes about a quarter of a millisecond.
pub fn test_once(rt: Rt) {
    if FOUND.load(Ordering::Relaxed) != UNTESTED {
        return;
    }
    let good = !clock_only() && self_test();
    FOUND.store(if good { GOOD } else { BAD }, Ordering::Relaxed);
    tell(rt);
}

/// "syscall" or "clock": how sysmon tells a blocked M; "untested" before the first goroutine.
#[pyfunction]
pub fn _probe() -> &'static str {
    match FOUND.load(Ordering::Relaxed) {
        UNTESTED => "untested",
        GOOD => "syscall",
        _ => "clock",
    }
}

// ---- the self-test ----
//
// A helper thread attaches. On a GIL build we hold the interpreter meanwhile, so it must be seen waiting inside
// `_PyRuntime`. Once attached it looks at its own state, detaches and sleeps, and must be seen asleep in a system call
// with state 0. Every step has a limit, and a helper that does not come back in time is left to itself: it holds the
// shared part by a reference of its own.

/// How long we hold the interpreter for the helper to be seen waiting, at most.
const SEEN_WAITING: Duration = Duration::from_millis(100);
/// How long it may take to attach: others may hold the interpreter.
const ATTACHED: Duration = Duration::from_secs(2);

// 0: the helper starts.
const PROBED: u32 = 1;
const ASLEEP: u32 = 2;
const END: u32 = 3;
const ENDED: u32 = 4;

#[derive(Default)]
struct Test {
    probe: OnceLock<Probe>,
    /// Its five steps, in order. The release of each store pairs with the acquire of the loads.
    step: AtomicU32,
    /// The helper's own state while it was attached.
    state: AtomicI32,
}

impl Test {
    fn set(&self, step: u32) {
        self.step.store(step, Ordering::Release);
        futex_wake(&self.step, 1);
    }

    /// True once `done` holds; false after `limit`.
    fn within(limit: Duration, done: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        true
    }

    fn reached(&self, step: u32) -> bool {
        self.step.load(Ordering::Acquire) >= step
    }

    /// The helper.
    fn help(&self) {
        let probe = self
            .probe
            .get_or_init(|| Probe::open_current(ProbeMode::Auto));
        self.set(PROBED);
        let done = Python::try_attach(|_| {
            watch(probe);
            self.state
                .store(probe.raw_state().unwrap_or(-1), Ordering::Relaxed);
            crate::host::detached(|| {
                // Unless the other side has given up.
                let _ =
                    self.step
                        .compare_exchange(PROBED, ASLEEP, Ordering::AcqRel, Ordering::Relaxed);
                while self.step.load(Ordering::Acquire) == ASLEEP {
                    futex_wait(&self.step, ASLEEP, None);
                }
            });
            // SAFETY: null is always allowed.
            unsafe { probe.set_state_ptr(std::ptr::null()) };
        });
        if done.is_some() {
            self.set(ENDED);
        }
    }

    /// The helper waits for the interpreter, which we hold, and shows a futex in `range`.
    fn waits_in(&self, range: (usize, usize)) -> bool {
        Self::within(SEEN_WAITING, || {
            let line = self.probe.get().and_then(Probe::raw_line);
            matches!(line, Some(Line::Call { nr: libc::SYS_futex, arg0 }) if (range.0..range.1).contains(&(arg0 as usize)))
        })
    }

    /// The helper has attached and detached again, and sleeps.
    fn sleeps(&self, attached: i32) -> bool {
        let asleep = || {
            let probe = self.probe.get();
            let line = probe.and_then(Probe::raw_line);
            let state = probe.and_then(Probe::raw_state);
            matches!(
                line,
                Some(Line::Call {
                    nr: libc::SYS_futex,
                    ..
                })
            ) && state_offset().is_none_or(|_| state == Some(0))
        };
        Self::within(ATTACHED, || self.reached(ASLEEP))
            && Self::within(SEEN_WAITING, asleep)
            && state_offset().is_none_or(|_| self.state.load(Ordering::Relaxed) == attached)
    }
}

fn self_test() -> bool {
    let gil = cfg!(not(Py_GIL_DISABLED));
    // Tests make it fail by looking for what is not there.
    let fail = std::env::var_os("GORUN_TEST_SELFTEST").is_some_and(|v| v == "fail");
    let range = runtime_range().map(|(a, b)| if fail { (b, b + (b - a)) } else { (a, b) });
    if (gil && range.is_none()) || (!gil && state_offset().is_none()) {
        return false;
    }
    let test = Arc::new(Test::default());
    let helps = Arc::clone(&test);
    let made = std::thread::Builder::new()
        .name("gorun-selftest".into())
        .spawn(move || helps.help());
    if made.is_err() {
        return false;
    }
    let waits = !gil || range.is_some_and(|r| test.waits_in(r));
    let sleeps = crate::host::detached(|| {
        let sleeps = test.sleeps(if fail { 3 } else { 1 });
        // Also when it is late: then it does not sleep when it gets there.
        test.set(END);
        Test::within(ATTACHED, || test.reached(ENDED));
        sleeps
    });
    waits && sleeps
}

/// Lets `probe` read the state of the calling thread, until it is given null.
fn watch(probe: &Probe) {
    if let Some(offset) = state_offset() {
        // SAFETY: attached; the struct is longer than the offset on these versions, and the callers take the address
        // back before the thread ends.
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

/// Lets sysmon read the state of the calling thread, M number `id`.
pub fn watch_this_thread(rt: Rt, id: u32) {
    if let Some(probe) = &*rt.m_ctl(id).probe.lock() {
        watch(probe);
    }
}

/// Takes that back.
pub fn unwatch(rt: Rt, id: u32) {
    if let Some(probe) = &*rt.m_ctl(id).probe.lock() {
        // SAFETY: null is always allowed.
        unsafe { probe.set_state_ptr(std::ptr::null()) };
    }
}
