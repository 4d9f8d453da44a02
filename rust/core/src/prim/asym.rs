//! A pair of fences for two that write, then look: `light` for the one who does it all the time, `heavy` for the one
//! who does it seldom.
//!
//! If each of two threads writes, fences and reads what the other wrote, at least one of them sees the other's write.
//! With the kernel's help (`membarrier`, Linux 4.14) `heavy` makes every other thread of the process fence, so `light`
//! needs no instruction: it only keeps the compiler from moving accesses across. That saves a locked instruction (5 ns)
//! at each way into the scheduler and costs sysmon a few microseconds for each P that it takes.
//!
//! Without it (other systems, a kernel or a sandbox that refuses, `switch_off`) both are full fences; so they are in a
//! model run.

use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};

use super::atomic::fence;

const UNKNOWN: u8 = 0;
const BY_KERNEL: u8 = 1;
const FULL: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Asks the kernel; again after a fork. Only by the thread that will call `heavy`: whoever calls `light` meanwhile and
/// has not seen the answer yet fences in full.
pub fn set_up() {
    let there = MODE.load(Ordering::Relaxed) != FULL && kernel::register();
    let mode = if there { BY_KERNEL } else { FULL };
    // Never back from the kernel's: somebody may be in the middle of a light fence. `heavy` says if it fails.
    let _ = MODE.compare_exchange(UNKNOWN, mode, Ordering::Relaxed, Ordering::Relaxed);
}

/// Full fences from now on: before any thread uses the pair.
pub fn switch_off() {
    MODE.store(FULL, Ordering::Relaxed);
}

/// True if the light fence costs nothing.
pub fn is_light() -> bool {
    MODE.load(Ordering::Relaxed) == BY_KERNEL
}

/// Between the write and the look of the one who is often here.
#[inline]
pub fn light() {
    if is_light() {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Between the write and the look of the one who is seldom here. False if the kernel refused for once: then nothing
/// follows from the look.
#[must_use]
pub fn heavy() -> bool {
    fence(Ordering::SeqCst);
    !is_light() || kernel::barrier()
}

#[cfg(all(target_os = "linux", not(loom)))]
mod kernel {
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: takes numbers only.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub fn register() -> bool {
        membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED)
    }

    pub fn barrier() -> bool {
        membarrier(PRIVATE_EXPEDITED)
    }
}

#[cfg(any(not(target_os = "linux"), loom))]
mod kernel {
    pub fn register() -> bool {
        false
    }

    pub fn barrier() -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, AtomicUsize};

    const ROUNDS: u32 = 50_000;

    /// A word with a cache line to itself: a store that waits for its line must not keep the other's from being read.
    #[repr(align(128))]
    struct Far(AtomicU32);

    /// Both come out within nanoseconds of each other: a barrier of std's would wake them one by one.
    fn meet(turns: &AtomicUsize, until: usize) {
        turns.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while turns.load(Ordering::SeqCst) < until {
            spins += 1;
            if spins & 1023 == 0 {
                std::thread::yield_now();
            }
        }
    }

    /// Store, fence, load on both sides, many times: never do both miss the other, and the kernel refuses none of the
    /// barriers. Mutation: another number for a command in `kernel`. That the protocol needs the pair is for the model
    /// to show (`loom_owner.rs`): on a busy machine both sides of this test hardly ever run at once.
    #[test]
    fn one_of_the_two_sees_the_other() {
        set_up();
        let (often, seldom) = (Far(AtomicU32::new(0)), Far(AtomicU32::new(0)));
        let turns = AtomicUsize::new(0);
        let (theirs, mine) = std::thread::scope(|s| {
            let light_side = s.spawn(|| {
                let side = |round| {
                    meet(&turns, 2 * round as usize);
                    often.0.store(round, Ordering::Relaxed);
                    light();
                    seldom.0.load(Ordering::Relaxed) >= round
                };
                (1..=ROUNDS).map(side).collect::<Vec<_>>()
            });
            let side = |round| {
                meet(&turns, 2 * round as usize);
                seldom.0.store(round, Ordering::Relaxed);
                assert!(heavy(), "the kernel refused");
                often.0.load(Ordering::Relaxed) >= round
            };
            let mine: Vec<_> = (1..=ROUNDS).map(side).collect();
            (light_side.join().expect("no panic"), mine)
        });
        let both_missed = theirs.iter().zip(&mine).filter(|(a, b)| !**a && !**b);
        assert_eq!(both_missed.count(), 0);
    }
}
