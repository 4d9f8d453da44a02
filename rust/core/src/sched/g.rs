//! G, a goroutine, and `Waker`, the part of it that waits: the one wake-up type for goroutines and threads.
//!
//! Invariants:
//! - Memory of a G is type-stable (`pool.rs`): a late look at an ended one meets a newer ticket, never foreign memory.
//! - `body` belongs to whoever runs the G (phase Running), and is read-only once the phase is Done.
//! - A G pointer lies in at most one queue. Exclusive resume follows: who pops it, runs it.
//! - `refs` counts the runtime (1 while not Done) and each handle; the last one drops the body, attached.

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::state::{Park, StateWord, Ticket};
use crate::host::Host;
use crate::prim::{Wake, atomic as modelled, futex_wait, futex_wake};
use crate::timer::Key;
use crate::wait::Latch;

/// Who has to be woken when a wait ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A goroutine off its M: queue it.
    Goroutine = 0,
    /// A thread, or a goroutine that keeps its M while it waits: wake the futex.
    Thread = 1,
}

/// Why a goroutine waits; the names are what `goroutines()` and dumps print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WaitReason {
    /// Does not wait.
    None = 0,
    /// In `sleep`.
    Sleep = 1,
    /// Joins another goroutine.
    Join = 2,
    /// Waits for an event.
    Event = 3,
    /// A timer that has not fired: no goroutine yet.
    Timer = 4,
    /// Receives from a channel.
    Recv = 5,
    /// Sends on a channel.
    Send = 6,
    /// In a select.
    Select = 7,
    /// In a select that nothing can make ready.
    Nothing = 8,
    /// Locks a mutex.
    Mutex = 9,
    /// Locks a side of a reader-writer lock.
    RwMutex = 10,
    /// Acquires units of a semaphore.
    Semaphore = 11,
    /// Waits to be notified.
    Cond = 12,
    /// Waits for a count to come down to 0.
    WaitGroup = 13,
}

impl WaitReason {
    const ALL: [Self; 14] = [
        Self::None,
        Self::Sleep,
        Self::Join,
        Self::Event,
        Self::Timer,
        Self::Recv,
        Self::Send,
        Self::Select,
        Self::Nothing,
        Self::Mutex,
        Self::RwMutex,
        Self::Semaphore,
        Self::Cond,
        Self::WaitGroup,
    ];

    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Sleep => "sleep",
            Self::Join => "join",
            Self::Event => "event",
            Self::Timer => "timer",
            Self::Recv => "chan receive",
            Self::Send => "chan send",
            Self::Select => "select",
            Self::Nothing => "select (nothing to wait for)",
            Self::Mutex => "mutex",
            Self::RwMutex => "rwmutex",
            Self::Semaphore => "semaphore",
            Self::Cond => "cond",
            Self::WaitGroup => "waitgroup",
        }
    }

    /// The reason stored as `n`.
    pub fn from_u8(n: u8) -> Self {
        Self::ALL.get(n as usize).copied().unwrap_or(Self::None)
    }
}

/// `Waker::futex` of a thread that is to look up, while its wait goes on.
const ROUSED: u32 = 2;

/// What waits: a state word and a way to be woken. First field of a G; threads have one of their own.
pub struct Waker {
    /// The state.
    pub word: StateWord,
    /// 1: woken. Written by the winner of the wait, read by the thread that sleeps on it. `ROUSED`: see `rouse`.
    futex: modelled::AtomicU32,
    /// A `Kind`, written by the owner before it arms; the arming release pairs with the winner's acquire.
    kind: modelled::AtomicU8,
    /// A `WaitReason`, for lists only.
    reason: AtomicU8,
    /// The thread that waits has no time-out and nothing else to do (`quiet.rs`). Written by the owner before it parks.
    for_ever: AtomicBool,
}

impl Waker {
    /// A waker of a thread.
    pub fn new() -> Self {
        Self {
            word: StateWord::new(),
            futex: modelled::AtomicU32::new(0),
            kind: modelled::AtomicU8::new(Kind::Thread as u8),
            reason: AtomicU8::new(0),
            for_ever: AtomicBool::new(false),
        }
    }

    /// Says whether the wait of a thread that comes has an end of its own. By the owner, before `arm`.
    pub fn set_for_ever(&self, yes: bool) {
        self.for_ever.store(yes, Ordering::Relaxed);
    }

    /// The wait that a thread sleeps in on this waker with no end of its own, if it does.
    pub fn held_for_ever(&self) -> Option<Ticket> {
        // The acquire in `held` pairs with `arm`, before which the flag was written.
        self.word
            .held()
            .filter(|_| self.for_ever.load(Ordering::Relaxed))
    }

    /// Says how to wake it. By the owner, before `arm`.
    pub fn set_kind(&self, kind: Kind, reason: WaitReason) {
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.reason.store(reason as u8, Ordering::Relaxed);
        self.futex.store(0, Ordering::Relaxed);
    }

    /// How to wake it. Sound only for the winner of the wait.
    pub fn kind(&self) -> Kind {
        if self.kind.load(Ordering::Relaxed) == Kind::Thread as u8 {
            Kind::Thread
        } else {
            Kind::Goroutine
        }
    }

    /// Why it waits.
    pub fn reason(&self) -> WaitReason {
        WaitReason::from_u8(self.reason.load(Ordering::Relaxed))
    }

    /// The owner no longer waits: lists stop naming a reason.
    pub fn clear_reason(&self) {
        self.reason.store(0, Ordering::Relaxed);
    }

    /// Wakes the thread that sleeps in `sleep_on`, which waits for this before it uses the waker again.
    pub fn wake_thread(&self) {
        self.futex.store(1, Ordering::Release);
        futex_wake(&self.futex, 1);
    }

    /// Lets the thread that sleeps in `sleep_on`, or is about to, come out of it once; the wait goes on.
    pub fn rouse(&self) {
        let asleep = self
            .futex
            .compare_exchange(0, ROUSED, Ordering::AcqRel, Ordering::Relaxed);
        if asleep.is_ok() {
            futex_wake(&self.futex, 1);
        }
    }

    /// True once the winner of the wait has come to `wake_thread`.
    pub fn woken(&self) -> bool {
        self.futex.load(Ordering::Acquire) == 1
    }

    /// Sleeps until woken, `timeout` or a signal. The caller looks at the state word afterwards.
    pub fn sleep_on(&self, timeout: Option<std::time::Duration>) -> Wake {
        if self.woken() {
            return Wake::Woken;
        }
        let roused = self
            .futex
            .compare_exchange(ROUSED, 0, Ordering::AcqRel, Ordering::Relaxed);
        if roused.is_ok() {
            return Wake::Woken;
        }
        futex_wait(&self.futex, 0, timeout)
    }

    /// Commits to waiting as a thread does.
    pub fn park(&self) -> Park {
        self.word.park_held()
    }
}

impl Default for Waker {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a wait's timer entry lies.
#[derive(Clone, Copy)]
pub struct TimerSlot {
    pub shard: u32,
    pub key: Key,
}

impl TimerSlot {
    /// No timer.
    pub const NONE: Self = Self {
        shard: u32::MAX,
        key: Key::NONE,
    };
}

/// A goroutine: two cache lines, the first for the scheduler, the second for the body. `repr(C)`: a pointer to its
/// waker is a pointer to it.
#[repr(C, align(64))]
pub struct G<H: Host> {
    /// The waiting part; must stay first.
    pub waker: Waker,
    /// Runtime and handles.
    refs: modelled::AtomicU32,
    /// The runtime's epoch (it changes at a fork): handles of another epoch do not wait.
    pub epoch: AtomicU32,
    /// From 1, never reused; 0 in free memory. Written by the allocator's caller.
    pub id: AtomicU64,
    /// Made by the first joiner or callback; freed with the body.
    latch: modelled::AtomicPtr<Latch<H::Ext>>,
    /// A moment: with bit 0 set, when it became runnable (for a sample of all); else, coarsely, when it began to wait.
    stamp: AtomicU64,
    /// The owner's timer entry while it waits. Only by the owner.
    pub timer: Cell<TimerSlot>,
    /// See `flag`.
    pub flags: AtomicU8,
    /// What it runs. See the file head.
    pub body: UnsafeCell<H::Body>,
}

/// Bits of `G::flags`.
pub mod flag {
    /// Made by the runtime for itself (a foreign waker, a timer not yet fired): not counted, not listed.
    pub const INTERNAL: u8 = 1;
    /// A timer's: counted when its first step begins.
    pub const TIMER: u8 = 2;
    /// Inside a known blocking section: listed as "blocked".
    pub const BLOCKED: u8 = 4;
}

/// A counted-by-hand pointer to a G: copying it does not count.
pub struct GRef<H: Host>(NonNull<G<H>>);

impl<H: Host> Clone for GRef<H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H: Host> Copy for GRef<H> {}
impl<H: Host> PartialEq for GRef<H> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<H: Host> Eq for GRef<H> {}

// SAFETY: a GRef is a pointer to memory that is never unmapped; what may be done through it is ruled by the state word.
unsafe impl<H: Host> Send for GRef<H> {}
// SAFETY: as above.
unsafe impl<H: Host> Sync for GRef<H> {}

impl<H: Host> std::ops::Deref for GRef<H> {
    type Target = G<H>;
    fn deref(&self) -> &G<H> {
        // SAFETY: points into a slab of the pool, initialised when the slab was made and never freed; only shared
        // references are ever made to a G, its mutable parts are atomics and cells with an owner.
        unsafe { self.0.as_ref() }
    }
}

impl<H: Host> GRef<H> {
    /// From a pointer that came from `as_ptr`.
    ///
    /// # Safety
    /// `p` points to a G of a pool of this `H`.
    pub unsafe fn from_ptr(p: *const G<H>) -> Self {
        // SAFETY: not null by the caller's promise.
        Self(unsafe { NonNull::new_unchecked(p.cast_mut()) })
    }

    /// The goroutine whose waker this is.
    ///
    /// # Safety
    /// `w` is the waker of a G of this `H`, not of a thread.
    pub unsafe fn from_waker(w: *const Waker) -> Self {
        // SAFETY: the waker is the first field of a repr(C) struct.
        unsafe { Self::from_ptr(w.cast()) }
    }

    /// The address.
    pub fn as_ptr(self) -> *mut G<H> {
        self.0.as_ptr()
    }
}

// SAFETY: `timer` and `body` belong to the owner of the G (file head); all else is atomic.
unsafe impl<H: Host> Sync for G<H> {}
// SAFETY: as above.
unsafe impl<H: Host> Send for G<H> {}

impl<H: Host> G<H> {
    /// Free memory of the pool.
    pub fn vacant() -> Self {
        Self {
            waker: Waker::new(),
            refs: modelled::AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            id: AtomicU64::new(0),
            latch: modelled::AtomicPtr::new(std::ptr::null_mut()),
            stamp: AtomicU64::new(0),
            timer: Cell::new(TimerSlot::NONE),
            flags: AtomicU8::new(0),
            body: UnsafeCell::new(H::Body::default()),
        }
    }

    /// Notes when it became runnable, to be measured by `take_ready`. By whoever queues it.
    pub fn set_ready(&self, now: u64) {
        self.stamp.store(now | 1, Ordering::Relaxed);
    }

    /// When it became runnable, if that was noted; once. By the M that runs it.
    pub fn take_ready(&self) -> Option<u64> {
        let t = self.stamp.load(Ordering::Relaxed);
        if t & 1 == 0 {
            return None;
        }
        self.stamp.store(t & !1, Ordering::Relaxed);
        Some(t)
    }

    /// Notes when it began to wait. By the owner.
    pub fn set_since(&self, now: u64) {
        self.stamp.store(now & !1, Ordering::Relaxed);
    }

    /// When it began to wait, coarsely; for lists.
    pub fn since(&self) -> u64 {
        self.stamp.load(Ordering::Relaxed)
    }

    /// Sets the count. Only by the allocator's caller.
    pub fn set_refs(&self, n: u32) {
        self.refs.store(n, Ordering::Relaxed);
    }

    /// Counting is done attached only: on a GIL build by one thread at a time, which needs no locked instruction.
    pub(crate) const ALONE: bool = H::GIL && !cfg!(loom);

    /// One more handle, by somebody who has one (or runs the G). Attached.
    pub fn retain(&self) {
        if Self::ALONE {
            let n = self.refs.load(Ordering::Relaxed);
            self.refs.store(n + 1, Ordering::Relaxed);
        } else {
            self.refs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One more, by somebody who has none: false if the G is free (or about to be). Attached.
    #[must_use]
    pub fn try_retain(&self) -> bool {
        let more = |n| (n > 0).then_some(n + 1);
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
            .is_ok()
    }

    /// One less; true if it was the last, whose holder must free the G. Attached.
    #[must_use]
    pub fn release(&self) -> bool {
        if Self::ALONE {
            let n = self.refs.load(Ordering::Relaxed) - 1;
            self.refs.store(n, Ordering::Relaxed);
            return n == 0;
        }
        // AcqRel: everything done through other references happens before the freeing.
        self.refs.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Two less at once; true if they were the last.
    #[must_use]
    pub fn release_both(&self) -> bool {
        if Self::ALONE {
            let n = self.refs.load(Ordering::Relaxed) - 2;
            self.refs.store(n, Ordering::Relaxed);
            return n == 0;
        }
        // As in `release`.
        self.refs.fetch_sub(2, Ordering::AcqRel) == 2
    }

    /// How many references there are now.
    pub fn refs(&self) -> u32 {
        self.refs.load(Ordering::Acquire)
    }

    /// True if a wait has left its timer entry noted. By the owner.
    pub fn has_timer(&self) -> bool {
        self.timer.get().shard != u32::MAX
    }

    /// The latch, if somebody needed one. Acquire pairs with the release in `latch_or_make`.
    pub fn latch(&self) -> Option<&Latch<H::Ext>> {
        // SAFETY: set once per life of the G and freed with its last reference; the caller holds one.
        unsafe { self.latch.load(Ordering::Acquire).as_ref() }
    }

    /// As `latch`, after `finish`: either we see what a joiner made, or it sees Done.
    pub fn latch_at_end(&self) -> Option<&Latch<H::Ext>> {
        // loom takes a SeqCst load for an Acquire one: there the fence stands in for it.
        #[cfg(loom)]
        modelled::fence(Ordering::SeqCst);
        // SAFETY: as in `latch`.
        unsafe { self.latch.load(Ordering::SeqCst).as_ref() }
    }

    /// The latch, made if there is none.
    pub fn latch_or_make(&self) -> &Latch<H::Ext> {
        if let Some(l) = self.latch() {
            return l;
        }
        let new = Box::into_raw(Box::new(Latch::default()));
        match self.latch.compare_exchange(
            std::ptr::null_mut(),
            new,
            Ordering::SeqCst, // before `join_fence`; see `latch_at_end`
            Ordering::Acquire,
        ) {
            // SAFETY: ours, published just now; lives as long as the G's life.
            Ok(_) => unsafe { &*new },
            Err(theirs) => {
                // SAFETY: nobody saw ours.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: as in `latch`.
                unsafe { &*theirs }
            }
        }
    }

    /// Takes the latch out to be dropped, attached: by the holder of the last reference.
    pub fn take_latch(&self) -> Option<Box<Latch<H::Ext>>> {
        // Nobody makes one any more, and the count of references has ordered what was made: most have none, and need no
        // locked instruction.
        if self.latch.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let p = self.latch.swap(std::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: came from Box::into_raw; nobody else has a reference to this G any more.
        (!p.is_null()).then(|| unsafe { Box::from_raw(p) })
    }
}
