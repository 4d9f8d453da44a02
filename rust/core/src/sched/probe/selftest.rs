//! The self-test of a probe that needs no Python.
//!
//! Invariant: it ends, and the helper thread with it, whatever the kernel answers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Interp, Mode, Probe, Verdict};

/// The part of the self-test that needs no Python: a sleeping helper thread is seen as blocked, and a spinning one
/// always as having the CPU. Ends within about two seconds, normally within one or two milliseconds.
pub fn proc_readable() -> bool {
    const SLEEP: u32 = 0;
    const SPIN: u32 = 1;
    const SPINNING: u32 = 2;
    const END: u32 = 3;
    let interp = Interp {
        trust_syscall: true,
        ..Interp::default()
    };
    let probe = OnceLock::new();
    // Steps 0 to 3. Relaxed, paired with nothing: no data goes with it (the probe goes through the OnceLock).
    let phase = AtomicU32::new(SLEEP);
    let helper = || {
        let _ = probe.set(Probe::open_current(Mode::Auto));
        while phase.load(Ordering::Relaxed) == SLEEP {
            thread::sleep(Duration::from_millis(1));
        }
        // Fails when the test has given up already.
        let _ = phase.compare_exchange(SPIN, SPINNING, Ordering::Relaxed, Ordering::Relaxed);
        while phase.load(Ordering::Relaxed) != END {
            std::hint::spin_loop();
        }
    };
    let within_a_second = |done: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > Duration::from_secs(1) {
                return false;
            }
            thread::sleep(Duration::from_micros(20));
        }
        true
    };
    thread::scope(|scope| {
        let name = "gorun-selftest".to_owned();
        if thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, helper)
            .is_err()
        {
            return false;
        }
        let says = |wanted| {
            probe
                .get()
                .is_some_and(|p: &Probe| p.sample(&interp, 0) == wanted)
        };
        let good = within_a_second(&|| says(Verdict::Blocked)) && {
            phase.store(SPIN, Ordering::Relaxed);
            within_a_second(&|| phase.load(Ordering::Relaxed) == SPINNING)
                && (0..20).all(|_| says(Verdict::HasCpu))
        };
        phase.store(END, Ordering::Relaxed);
        good
    })
}
