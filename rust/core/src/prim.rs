//! The primitives that everything else stands on: atomics (std's, or loom's in a model run), a lock, a futex.
//!
//! Invariants: nothing here knows of goroutines or Python. `Lock` is never poisoned: a panic while it is held leaves
//! data that is consistent enough to go on, because critical sections here only move pointers.

/// Atomics of the protocol words. Code that a loom model runs imports them from here.
pub mod atomic {
    #[cfg(loom)]
    pub use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
    };
    pub use std::sync::atomic::Ordering;
    #[cfg(not(loom))]
    pub use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
    };
}

/// An unbounded queue for all (in a model run: a stand-in that promises less).
pub mod queue {
    #[cfg(loom)]
    pub use super::standin::SegQueue;
    #[cfg(not(loom))]
    pub use crossbeam_queue::SegQueue;
}

pub mod asym;

#[cfg(loom)]
mod standin;

#[cfg(not(loom))]
mod kept;
#[cfg(not(loom))]
pub use kept::{Kept, KeptGuard, one_at_a_time};
/// In a model run a plain lock.
#[cfg(loom)]
pub type Kept<T> = Lock<T>;
/// In a model run a plain lock's.
#[cfg(loom)]
pub type KeptGuard<'a, T> = Guard<'a, T>;

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
use rustix::thread::futex::{self, Flags};
#[cfg(loom)]
pub use standin::{futex_wait, futex_wake};

/// A held `Lock`.
pub type Guard<'a, T> = MutexGuard<'a, T>;

/// A short lock around pointer moves.
///
/// Rule for callers: no Python object is looked at, made or dropped while it is held, and no call leaves for Python.
#[derive(Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// A lock around `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// A lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock; never fails.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, for somebody who has the lock to himself.
    #[cfg(not(loom))]
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(g) => Some(g),
            #[cfg(not(loom))]
            Err(std::sync::TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(_) => None,
        }
    }
}

/// How a futex wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Woken, or the word had changed already, or spuriously: look at the state again.
    Woken,
    /// The time is up.
    TimedOut,
    /// A signal arrived: the caller checks signals. This is why a raw futex is used: std's park swallows it.
    Interrupted,
}

/// Waits while `word` is `expected`, for at most `timeout`.
#[cfg(not(loom))]
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wake {
    wait_with(Flags::PRIVATE, word, expected, timeout)
}

/// Wakes up to `n` threads that wait on `word`.
#[cfg(not(loom))]
pub fn futex_wake(word: &AtomicU32, n: u32) {
    wake_with(Flags::PRIVATE, word, n);
}

/// The same for words in memory that several processes map. A word is one kind or the other.
pub mod shared {
    #[cfg(loom)]
    pub use super::standin::{futex_wait, futex_wake};
    #[cfg(not(loom))]
    use super::{AtomicU32, Duration, Flags, Wake, wait_with, wake_with};

    /// See the one above.
    #[cfg(not(loom))]
    pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wake {
        wait_with(Flags::empty(), word, expected, timeout)
    }

    /// See the one above.
    #[cfg(not(loom))]
    pub fn futex_wake(word: &AtomicU32, n: u32) {
        wake_with(Flags::empty(), word, n);
    }
}

#[cfg(not(loom))]
fn wait_with(flags: Flags, word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wake {
    let limit = timeout.map(|t| futex::Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    match futex::wait(word, flags, expected, limit.as_ref()) {
        Err(rustix::io::Errno::TIMEDOUT) => Wake::TimedOut,
        Err(rustix::io::Errno::INTR) => Wake::Interrupted,
        _ => Wake::Woken,
    }
}

#[cfg(not(loom))]
fn wake_with(flags: Flags, word: &AtomicU32, n: u32) {
    // The result only says how many were woken; nobody waiting is no error.
    let _ = futex::wake(word, flags, n);
}

const EMPTY: u32 = 0;
const TOKEN: u32 = 1;
const ASLEEP: u32 = 2;

/// A one-token parker: `unpark` leaves a token, `park` takes it. Nobody asleep, no system call.
#[derive(Default)]
pub struct Parker {
    /// EMPTY, TOKEN, or ASLEEP while the owner sleeps. The release in `unpark` pairs with the acquire in `try_take`.
    state: AtomicU32,
}

impl Parker {
    /// A parker without a token.
    pub fn new() -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
        }
    }

    /// Leaves a token and wakes the thread that waits for it. Anybody.
    pub fn unpark(&self) {
        if self.state.swap(TOKEN, Ordering::Release) == ASLEEP {
            futex_wake(&self.state, 1);
        }
    }

    /// Takes the token if it is there. Executed only by the owner.
    pub fn try_take(&self) -> bool {
        self.state
            .compare_exchange(TOKEN, EMPTY, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Waits for the token, for at most `timeout`; true if it was taken. Signals are ignored: for Ms only.
    pub fn park(&self, timeout: Option<Duration>) -> bool {
        let end = timeout.and_then(|t| std::time::Instant::now().checked_add(t));
        loop {
            if self.try_take() {
                return true;
            }
            let left = match end {
                None => None,
                Some(e) => match e.checked_duration_since(std::time::Instant::now()) {
                    Some(d) if !d.is_zero() => Some(d),
                    _ => return self.try_take(),
                },
            };
            // A token that comes in between makes this fail, and the next turn takes it.
            if self
                .state
                .compare_exchange(EMPTY, ASLEEP, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                futex_wait(&self.state, ASLEEP, left);
                let _ = self.state.compare_exchange(
                    ASLEEP,
                    EMPTY,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
    }
}
