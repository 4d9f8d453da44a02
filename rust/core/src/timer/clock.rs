//! Where time comes from: one number, nanoseconds, that never goes back.
//!
//! [`MonotonicClock`] reads the very clock behind Python's `time.monotonic()`, from the same origin, so a deadline
//! computed in Python can be compared here without conversion. [`FakeClock`] moves only when a test says so.
//!
//! Invariant of every [`Clock`]: on any one thread, and between threads that synchronise, a later call never
//! returns a smaller number.

#[cfg(not(unix))]
use std::sync::OnceLock;
// Not from the loom shim: a clock guards nothing, so no interleaving of its accesses is worth exploring.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(unix))]
use std::time::Instant;

/// A source of monotonic time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since an origin that is fixed for the life of the process; never decreases.
    fn now_ns(&self) -> u64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
}

/// The clock behind Python's `time.monotonic()`: the same origin on Linux, the BSDs and macOS.
/// Elsewhere its origin is the first reading, so it can be compared with itself only.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

/// What CPython reads on macOS is `mach_absolute_time`; this is its name in POSIX clothes.
#[cfg(all(unix, target_vendor = "apple"))]
const CLOCK_ID: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
#[cfg(all(unix, not(target_vendor = "apple")))]
const CLOCK_ID: libc::clockid_t = libc::CLOCK_MONOTONIC;

impl Clock for MonotonicClock {
    #[cfg(unix)]
    fn now_ns(&self) -> u64 {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `now` is a live, writable timespec for the whole call, and the call keeps no pointer to it.
        let failed = unsafe { libc::clock_gettime(CLOCK_ID, &raw mut now) };
        // It can only fail for a clock the system does not have, or under a seccomp filter that forbids it. Going on
        // with zero would silently stop every timer.
        assert_eq!(failed, 0, "the system has no monotonic clock");
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    #[cfg(not(unix))]
    fn now_ns(&self) -> u64 {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// A clock for tests: it stands still until it is told to move. Share it by `Arc`.
#[derive(Debug, Default)]
pub struct FakeClock(AtomicU64);

impl FakeClock {
    /// A clock that shows `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self(AtomicU64::new(now_ns))
    }

    /// Move forward to `now_ns`; a time in the past is ignored, since no [`Clock`] goes back.
    pub fn set(&self, now_ns: u64) {
        // AcqRel, with the Acquire in `now_ns`: who sees the new time also sees what was done before it was set.
        self.0.fetch_max(now_ns, Ordering::AcqRel);
    }

    /// Move forward by `ns`, stopping at the end of time (`u64::MAX`).
    pub fn advance(&self, ns: u64) {
        let forward = |now: u64| Some(now.saturating_add(ns));
        // AcqRel as in `set`. The closure always says Some, so the update always happens.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, forward);
    }
}

impl Clock for FakeClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation: leave out `tv_nsec`; the clock then stands still for a second at a time and the loop gives up.
    #[test]
    fn monotonic_clock_moves_and_never_goes_back() {
        let start = MonotonicClock.now_ns();
        let mut last = start;
        for _ in 0..1_000 {
            let now = MonotonicClock.now_ns();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        assert!(last > start, "a thousand readings and no time has passed");
    }

    /// Its readings fall between two of the clock that CPython reads.
    /// Mutation: measure from an `Instant` taken at first use.
    #[cfg(target_os = "linux")]
    #[test]
    fn monotonic_clock_counts_from_boot_as_python_does() {
        use std::time::Duration;
        let shown = |clock| {
            let mut now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: `now` is a live, writable timespec for the whole call.
            assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut now) }, 0);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        };
        let before = shown(libc::CLOCK_MONOTONIC);
        let ours = Duration::from_nanos(MonotonicClock.now_ns());
        let after = shown(libc::CLOCK_MONOTONIC);
        assert!(
            before <= ours && ours <= after,
            "{before:?} {ours:?} {after:?}"
        );
    }

    /// Mutation: `set` stores instead of taking the maximum.
    #[test]
    fn fake_clock_moves_only_when_told_and_only_forward() {
        let clock = Arc::new(FakeClock::new(5));
        assert_eq!(clock.now_ns(), 5);
        clock.advance(10);
        assert_eq!(clock.now_ns(), 15);
        clock.set(100);
        clock.set(50);
        assert_eq!(clock.now_ns(), 100);
        clock.advance(u64::MAX);
        assert_eq!(clock.now_ns(), u64::MAX);
    }
}
