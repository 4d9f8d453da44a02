//! The one runtime of this process, and the thread-local M. A fork replaces the runtime in the child.

use std::ptr::null;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use gorun_core::runtime::Runtime;
use gorun_core::sched::{GRef, M};

use crate::host::Py;
use crate::local::{Local, local};

/// The runtime over Python bodies.
pub type Rt = &'static Runtime<Py>;
/// A goroutine over a Python body.
pub type PyG = GRef<Py>;

static RT: AtomicPtr<Runtime<Py>> = AtomicPtr::new(std::ptr::null_mut());
/// The thread that takes the interpreter down, or 0: from then on `go` refuses.
static FINALIZER: AtomicU32 = AtomicU32::new(0);

/// The M of this thread, or null.
pub fn current_m() -> *const M<Py> {
    local().m.get()
}

/// The M and the goroutine whose body runs on this thread, whose values are `here`: as `Runtime::current_goroutine`, without
/// another look-up of them.
pub fn current_goroutine(here: &Local) -> Option<(&'static M<Py>, PyG)> {
    // SAFETY: set by `m_main` to a value that lives until it is reset to null, on this thread.
    let m = unsafe { here.m.get().as_ref() }?;
    if !std::ptr::eq(m.rt, rt()) {
        return None;
    }
    Some((m, m.goroutine()?))
}

/// Sets the M of this thread.
pub fn set_current_m(m: *const M<Py>) {
    local().m.set(m);
}

/// The runtime.
pub fn rt() -> Rt {
    // SAFETY: set at import, before any other function of the module can be called, and after a fork; never freed.
    unsafe { &*RT.load(Ordering::Acquire) }
}

/// Makes the first runtime, without a thread, unless there is one: the package may fail to set it up and be imported again.
pub fn make() {
    if RT.load(Ordering::Acquire).is_null() {
        let fresh = Runtime::<Py>::leak(1, 10_000);
        RT.store(std::ptr::from_ref(fresh).cast_mut(), Ordering::Release);
    }
}

/// In a forked child: everything of the parent's runtime is left where it is, and a fresh one takes its place.
pub fn after_fork() {
    let old = rt();
    Runtime::<Py>::note_fork();
    set_current_m(null());
    let fresh = Runtime::<Py>::leak(old.procs(), old.max_threads());
    RT.store(std::ptr::from_ref(fresh).cast_mut(), Ordering::Release);
    crate::host::set_up_probe(fresh);
}

/// The interpreter goes down, by this thread: no new goroutines.
pub fn set_finalizing() {
    FINALIZER.store(this_thread(), Ordering::Release);
}

/// True once the interpreter goes down.
pub fn finalizing() -> bool {
    FINALIZER.load(Ordering::Acquire) != 0
}

/// True for a thread that the exit leaves behind: a daemon thread, or an M.
pub fn left_behind() -> bool {
    let by = FINALIZER.load(Ordering::Acquire);
    by != 0 && by != this_thread()
}

/// The kernel's number of this thread.
pub fn this_thread() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}
