//! Is an OS thread (an M) running, waiting for the interpreter, or blocked? Asked by sysmon, which never attaches.
//!
//! Here live the probe of one M, the parser of `/proc/.../syscall`, the rule that turns a sample into a verdict and the
//! fall-back by CPU clock. The questions to the kernel are in `os`, the self-test that needs no Python in `selftest`.
//! The measurements behind the rule: handoff.md, section 1.
//!
//! Invariants:
//! - A doubt is never `Blocked`: what cannot be judged is `HasCpu` or `Maybe`, and the M keeps its P.
//! - A probe is opened on the thread that it watches; the descriptor is bound to that thread, not to its number, so a
//!   reused thread id cannot be mistaken for it (with the clock alone it can: drop the probe before its thread ends).
//! - One thread (sysmon) samples a probe. A second one at the same time does no harm but may get a wrong verdict.
//! - `PyThreadState.state` is read only between announcing the read and taking that back, see [`Probe::set_state_ptr`].
//! - After a fork the child's copies answer `Gone`: their descriptors show the parent's threads.
//!
//! Cost of a sample (2 vCPU VM): 1.0 us of a running thread, 2.0 blocked, 2.3 on a futex, 15-20 while it switches out,
//! 0.4-0.6 by the clock. Off Linux everything compiles and each verdict is `HasCpu`.

use std::fs::File;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::thread;

mod os;
mod selftest;
#[cfg(all(test, target_os = "linux"))]
mod tests;

pub use selftest::proc_readable;

/// A futex must show the same wait twice, this far apart: lock hand-overs are shorter. (In ns.)
pub const FUTEX_WINDOW_NS: u64 = 50_000;
/// Default of [`Interp::clock_bound_ns`]: with two busy threads per CPU the longest stand-still measured was 10.7 ms.
pub const CLOCK_BOUND_NS: u64 = 15_000_000;

/// Values of `PyThreadState.state` (3.13+); 0 and any other value mean "not attached".
const ATTACHED: i32 = 1;
const SUSPENDED: i32 = 2;

/// What the embedder (the Python layer) knows about its interpreter. Plain data; only the bound changes after the
/// start.
#[derive(Clone, Debug)]
pub struct Interp {
    /// A build with a GIL.
    pub gil: bool,
    /// The addresses `[start, end)` of `_PyRuntime`, where GIL waiters wait. `None`: unknown, or they wait elsewhere
    /// (musl); then a futex on a GIL build is judged by the clock.
    pub runtime_range: Option<(usize, usize)>,
    /// The self-test passed: file, range and state give right verdicts. Otherwise only the clock is used.
    pub trust_syscall: bool,
    /// How long a thread's CPU clock must stand still to mean "blocked", in ns: see [`clock_bound_ns`].
    pub clock_bound_ns: u64,
}

impl Default for Interp {
    /// Knows nothing, hence trusts the clock alone.
    fn default() -> Self {
        Self {
            gil: false,
            runtime_range: None,
            trust_syscall: false,
            clock_bound_ns: CLOCK_BOUND_NS,
        }
    }
}

/// The clock bound for this many busy threads on this many CPUs. `switch_interval_ns` is the interpreter's (0 without a
/// GIL): a GIL waiter ticks once per interval, and must not pass for blocked between two ticks.
pub fn clock_bound_ns(threads: usize, cpus: usize, switch_interval_ns: u64) -> u64 {
    let pairs_per_cpu = threads.div_ceil(cpus.max(1)).div_ceil(2).max(1);
    let share = CLOCK_BOUND_NS.saturating_mul(pairs_per_cpu as u64);
    share.max(switch_interval_ns.saturating_mul(3))
}

/// What a sample says about a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Runs or could run, or handing its P off is useless: it holds the GIL.
    HasCpu,
    /// Waits for the GIL, or for a stop-the-world to end.
    WaitsForInterpreter,
    /// Off the CPU for reasons of its own: take its P.
    Blocked,
    /// Perhaps blocked: sample again after [`FUTEX_WINDOW_NS`].
    Maybe,
    /// The thread ended (or this is a forked child): drop the probe.
    Gone,
}

/// How a probe looks at its thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `/proc` where that can be opened, else the clock.
    Auto,
    /// The CPU clock only (`GORUN_SYSMON=clock`); never opens or reads `/proc`.
    Clock,
}

/// One line of `/proc/self/task/<tid>/syscall`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// On a CPU or ready for one.
    Running,
    /// `-1`: off the CPU but in no system call: a page fault.
    NoCall,
    /// Asleep in a system call.
    Call {
        /// The call's number.
        nr: i64,
        /// Its first argument; of a futex: the address.
        arg0: u64,
    },
}

impl Line {
    /// Reads `running`, `-1 sp pc` or `nr arg0 ... arg5 sp pc`. Anything else is `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_end();
        if text == "running" {
            return Some(Self::Running);
        }
        let mut words = text.split(' ');
        let nr: i64 = words.next()?.parse().ok()?;
        let mut args = 0;
        let mut arg0 = 0;
        for word in words {
            let value = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
            if args == 0 {
                arg0 = value;
            }
            args += 1;
        }
        match (nr, args) {
            (-1, 2) => Some(Self::NoCall),
            (0.., 8) => Some(Self::Call { nr, arg0 }),
            _ => None,
        }
    }
}

/// What the rule says of one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// This, at once.
    Now(Verdict),
    /// Blocked when line and CPU clock stand still for this many ns.
    Quiet(u64),
}

/// The rule (handoff.md, "The rule"), free of any look at a thread.
fn judge(line: Line, state: Option<i32>, interp: &Interp) -> Step {
    use Verdict::{Blocked, HasCpu, WaitsForInterpreter};
    let futex = match line {
        Line::Running => return Step::Now(HasCpu),
        Line::NoCall => None,
        Line::Call { nr, arg0 } => os::may_be_futex(nr).then_some(arg0),
    };
    match (state, futex) {
        (Some(SUSPENDED), _) | (Some(ATTACHED), Some(_)) => return Step::Now(WaitsForInterpreter),
        // It holds the GIL: whatever it does, nobody could use its P.
        (Some(ATTACHED), None) if interp.gil => return Step::Now(HasCpu),
        _ => {}
    }
    match (futex, interp.runtime_range) {
        (Some(at), Some((start, end)))
            if interp.gil && (start as u64..end as u64).contains(&at) =>
        {
            Step::Now(WaitsForInterpreter)
        }
        // Any futex may be the GIL's here, but a GIL waiter's clock ticks.
        (Some(_), None) if interp.gil => Step::Quiet(interp.clock_bound_ns),
        (Some(_), _) => Step::Quiet(FUTEX_WINDOW_NS),
        // A page fault may be over in a microsecond.
        (None, _) if line == Line::NoCall => Step::Quiet(FUTEX_WINDOW_NS),
        (None, _) => Step::Now(Blocked),
    }
}

/// `Probe::key` when nothing is kept.
const NOTHING: u64 = 0;
/// `Probe::key` when only the clock was read; keys of lines are odd.
const CLOCK_ONLY: u64 = 2;

/// The look at one M: opened on the M's own thread when it gets a P, dropped (which closes the descriptor) when it
/// gives the P up, because 10 000 descriptors pass the usual limit.
#[derive(Debug)]
pub struct Probe {
    tid: i32,
    /// The process that opened it, to notice a fork: getpid costs 0.25 us per sample.
    pid: u32,
    /// `None`: by the clock.
    file: Option<File>,
    /// `PyThreadState.state`, or null. Paired with `readers`: see `set_state_ptr`.
    state: AtomicPtr<i32>,
    /// How many threads are reading through `state` now. Paired with `state`.
    readers: AtomicU32,
    // The sample that later ones are compared with: hash of the line, CPU clock, time. Paired with nothing: sysmon
    // alone reads and writes them. Atomics, all Relaxed, only so that a shared probe can be sampled through `&self`.
    key: AtomicU64,
    clock: AtomicU64,
    since: AtomicU64,
}

impl Probe {
    /// A probe of the calling thread. Never fails: without `/proc` it goes by the clock.
    pub fn open_current(mode: Mode) -> Self {
        Self {
            tid: os::tid(),
            pid: std::process::id(),
            file: if mode == Mode::Auto { os::open() } else { None },
            state: AtomicPtr::new(ptr::null_mut()),
            readers: AtomicU32::new(0),
            key: AtomicU64::new(NOTHING),
            clock: AtomicU64::new(0),
            since: AtomicU64::new(0),
        }
    }

    /// The kernel's number of the thread.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Sets the address of the M's `PyThreadState.state` (3.13+), or null. When it returns, nobody reads the old one.
    ///
    /// Proof: the four operations (here: store to `state`, load of `readers`; in `raw_state`: add to `readers`, load of
    /// `state`) are `SeqCst`, so they have one order. If the load here sees no reader, then a later reader's add comes
    /// after it, hence after the store, and its load gets the new pointer. If it sees one, it waits; the reader's
    /// subtraction is `Release` and the load acquires it, so that read happened before this returns.
    ///
    /// # Safety
    /// `p` is null, or an aligned `i32` that stays readable until this is called again or the probe is dropped: the M
    /// calls it with null before its thread state is freed, and sysmon is stopped before the interpreter is finalized.
    pub unsafe fn set_state_ptr(&self, p: *const i32) {
        self.state.store(p.cast_mut(), Ordering::SeqCst);
        while self.readers.load(Ordering::SeqCst) != 0 {
            // A reader that was under way at a fork never ends in the child; there nobody samples.
            if std::process::id() != self.pid {
                return;
            }
            thread::yield_now();
        }
    }

    /// `PyThreadState.state` now, where it is known. For the embedder's self-test.
    pub fn raw_state(&self) -> Option<i32> {
        self.readers.fetch_add(1, Ordering::SeqCst);
        let p = self.state.load(Ordering::SeqCst);
        let value = (!p.is_null()).then(|| {
            // SAFETY: aligned and readable by the contract of `set_state_ptr`, which waits for this read by `readers`.
            // CPython stores it as an atomic, or on GIL builds as an aligned plain int, which cannot tear. Relaxed:
            // nothing else is read on the strength of it.
            unsafe { AtomicI32::from_ptr(p) }.load(Ordering::Relaxed)
        });
        self.readers.fetch_sub(1, Ordering::Release);
        value
    }

    /// What `/proc` shows now, trusted or not. For the embedder's self-test. `None`: no file, unreadable, or unknown
    /// form.
    pub fn raw_line(&self) -> Option<Line> {
        if std::process::id() != self.pid {
            return None;
        }
        Line::parse(os::read(self.file.as_ref()?, &mut [0; 256]).ok()?)
    }

    /// Judges the thread. For sysmon alone, never on the thread itself; `now_ns` is any monotonic time.
    #[must_use]
    pub fn sample(&self, interp: &Interp, now_ns: u64) -> Verdict {
        if !cfg!(target_os = "linux") {
            return Verdict::HasCpu;
        }
        if std::process::id() != self.pid {
            return Verdict::Gone;
        }
        let mut buffer = [0; 256];
        let mut line = None;
        if let (true, Some(file)) = (interp.trust_syscall, &self.file) {
            match os::read(file, &mut buffer) {
                Ok(text) => line = Line::parse(text).map(|line| (line, hash(text))),
                Err(error) if os::is_gone(&error) => return Verdict::Gone,
                Err(_) => {} // The clock can still tell.
            }
        }
        // Read after the line: if the thread moved in between, its newer state is the one that counts.
        let state = if interp.trust_syscall {
            self.raw_state()
        } else {
            None
        };
        let (step, key, moved) = match line {
            Some((line, key)) => (judge(line, state, interp), key, Verdict::Maybe),
            None => {
                let step = match state {
                    Some(SUSPENDED) => Step::Now(Verdict::WaitsForInterpreter),
                    Some(ATTACHED) if interp.gil => Step::Now(Verdict::HasCpu),
                    _ => Step::Quiet(interp.clock_bound_ns),
                };
                (step, CLOCK_ONLY, Verdict::HasCpu)
            }
        };
        match step {
            Step::Now(verdict) => {
                self.forget();
                verdict
            }
            Step::Quiet(window) => self.quiet(key, window, now_ns, moved),
        }
    }

    /// `Blocked` when `key` and the CPU clock have stood still for `window`, `moved` when only the clock went on.
    fn quiet(&self, key: u64, window: u64, now_ns: u64, moved: Verdict) -> Verdict {
        let clock = match os::cpu_clock(self.tid) {
            Ok(clock) => clock,
            Err(error) if os::is_gone(&error) => return Verdict::Gone,
            Err(_) => return Verdict::HasCpu,
        };
        let known = self.key.load(Ordering::Relaxed) == key;
        if known && self.clock.load(Ordering::Relaxed) == clock {
            let stood = now_ns.saturating_sub(self.since.load(Ordering::Relaxed));
            return if stood >= window {
                Verdict::Blocked
            } else {
                Verdict::Maybe
            };
        }
        self.key.store(key, Ordering::Relaxed);
        self.clock.store(clock, Ordering::Relaxed);
        self.since.store(now_ns, Ordering::Relaxed);
        if known { moved } else { Verdict::Maybe }
    }

    /// Forgets the last sample: the M's switch counter moved, so it has run since. For sysmon alone.
    pub fn forget(&self) {
        self.key.store(NOTHING, Ordering::Relaxed);
    }
}

/// FNV-1a, made odd so that it is neither `NOTHING` nor `CLOCK_ONLY`. A collision does no harm: the clock decides too.
fn hash(text: &[u8]) -> u64 {
    let mix = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    text.iter().fold(0xcbf2_9ce4_8422_2325, mix) | 1
}
