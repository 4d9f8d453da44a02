//! P, the right to run: a local queue with `runnext`, a shard of the timer wheel, a cache of free Gs, counters.
//!
//! Invariants:
//! - The cells are touched only by the M that holds the P in mode Sched (`owner.rs`).
//! - Counters are written by that M only (load and store, no read-modify-write) and read by anybody, relaxed: facts go
//!   sideways, nothing is decided by them but sysmon's guesses.
//! - A P that was made once exists for ever; those at or above `gomaxprocs` rest.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::g::GRef;
use super::owner::OwnerWord;
use super::pool::{BATCH, Pool};
use super::queue::{self, Global, Packet};
use super::runq::RunQueue;
use super::timers::Shard;
use crate::host::Host;
use crate::trace::{self, Entry, Event, Ring};

/// Goroutine numbers are taken in blocks.
const ID_BLOCK: u64 = 16;

/// A counter with one writer.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Executed only by the owner of the P.
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The value, for anybody.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A P.
pub struct P<H: Host> {
    /// Its number.
    pub id: u32,
    /// Who holds it.
    pub owner: OwnerWord,
    /// The M that holds it, for sysmon and lists.
    pub m: AtomicU32,
    runq: RunQueue<H>,
    cache: UnsafeCell<Vec<GRef<H>>>,
    /// Stands for all cells: in a model run, touching it shows two holders.
    #[cfg(loom)]
    mine: loom::cell::UnsafeCell<()>,
    ids: Cell<(u64, u64)>,
    /// How often in a row `runnext` was taken before the queue.
    pub streak: Cell<u32>,
    rng: Cell<u64>,
    /// Steps begun: the switch counter that sysmon watches.
    pub runs: Count,
    pub steals: Count,
    pub handoffs: Count,
    pub parks: Count,
    /// Sampled latencies from ready to running: how many, their sum and their largest, in ns.
    pub ready_n: Count,
    pub ready_sum: Count,
    pub ready_max: AtomicU64,
    /// Neither held nor in the idle list, because it lies above `gomaxprocs`. Under the lock of the lists.
    pub resting: AtomicBool,
    /// Set by sysmon: others may steal here (tasks are long, or the counter stands still).
    pub stealable: AtomicBool,
    /// Set by sysmon: `runnext` is taken within microseconds, so it is left to the owner.
    pub brisk: AtomicBool,
    /// Set by sysmon: whoever runs here is asked to yield at its next await.
    pub preempt: AtomicBool,
    /// Timers armed under this P.
    pub shard: Shard,
    ring: Ring,
}

// SAFETY: the cells are guarded by `owner` (file head); all else is atomic.
unsafe impl<H: Host> Sync for P<H> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<H: Host> Send for P<H> {}

impl<H: Host> P<H> {
    /// A resting P.
    pub fn new(id: u32, now: u64) -> Self {
        Self {
            id,
            owner: OwnerWord::new(),
            m: AtomicU32::new(u32::MAX),
            runq: RunQueue::new(),
            #[cfg(loom)]
            mine: loom::cell::UnsafeCell::new(()),
            cache: UnsafeCell::new(Vec::with_capacity(2 * BATCH)),
            ids: Cell::new((0, 0)),
            streak: Cell::new(0),
            rng: Cell::new(
                u64::from(id)
                    .wrapping_add(1)
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15),
            ),
            runs: Count::default(),
            steals: Count::default(),
            handoffs: Count::default(),
            parks: Count::default(),
            ready_n: Count::default(),
            ready_sum: Count::default(),
            ready_max: AtomicU64::new(0),
            resting: AtomicBool::new(true),
            stealable: AtomicBool::new(false),
            brisk: AtomicBool::new(false),
            preempt: AtomicBool::new(false),
            shard: Shard::new(now),
            ring: Ring::default(),
        }
    }

    /// Executed only by the owner: a model run checks it.
    fn mine(&self) {
        #[cfg(loom)]
        self.mine.with_mut(|_| ());
    }

    fn runq(&self) -> &RunQueue<H> {
        self.mine();
        &self.runq
    }

    /// Puts `g` into `runnext`; what was there goes to the queue. Executed only by the owner.
    pub fn push_next(&self, g: GRef<H>) {
        self.runq().push_next(g);
    }

    /// Appends `g`. Executed only by the owner.
    ///
    /// The queue grows as needed: nothing overflows to the global queue. Go's bound of 256 makes each goroutine of a
    /// flood travel through two queues; measured here (free-threaded, P = 2) that cost 1.4 to 1.8 times the time of a
    /// spawn. Thieves take what they need from here, so a bound would gain nothing.
    pub fn push_back(&self, g: GRef<H>) {
        self.runq().push_back(g);
    }

    /// Takes `runnext`. Executed only by the owner.
    pub fn pop_next(&self) -> Option<GRef<H>> {
        self.runq().take_next()
    }

    /// Takes the oldest of the queue. Executed only by the owner.
    pub fn pop(&self) -> Option<GRef<H>> {
        self.runq().pop()
    }

    /// Moves everything to the global queue. Executed only by the owner.
    pub fn drain_to(&self, global: &Global<H>) {
        let _aside = self.runq.aside();
        let all: Vec<_> = self
            .pop_next()
            .into_iter()
            .chain(std::iter::from_fn(|| self.pop()))
            .collect();
        for chunk in all.chunks(queue::BATCH) {
            global.push(Packet::Many(Box::new(chunk.to_vec())));
        }
    }

    /// Takes half of the queue over to `thief`, which must be held by the caller. Can be executed by any M.
    pub fn steal_into(&self, thief: &P<H>) -> Option<GRef<H>> {
        self.runq.steal_into(thief.runq())
    }

    /// Takes a `runnext` that was left standing. Can be executed by any M; only when sysmon called the P stealable.
    pub fn steal_next(&self) -> Option<GRef<H>> {
        let _aside = self.runq.aside();
        self.runq.take_next()
    }

    /// How many wait in the queue, `runnext` included. Can be executed by anybody; a guess unless by the owner.
    pub fn len(&self) -> usize {
        self.runq.len()
    }

    /// True if nothing waits here, to the same precision.
    pub fn is_empty(&self) -> bool {
        self.runq.is_empty()
    }

    /// True if there is something that thieves may take from a P that is held: not a `runnext` that will be run at once.
    /// Two that hand a value to and fro by a channel (one is always `runnext`) are slower on two cores than on one.
    pub fn has_spoils(&self) -> bool {
        self.runq.queued() > 0 || !self.brisk.load(Ordering::Relaxed) && !self.is_empty()
    }

    /// Records an event, if recording is on. Executed only by the holder.
    pub fn note(&self, event: Event, g: u64) {
        if trace::is_on() {
            self.ring.record(H::now_ns(), event, g);
        }
    }

    /// The events that are still in the ring. Can be executed by anybody.
    pub fn events(&self) -> Vec<Entry> {
        self.ring.read()
    }

    /// A vacant G. Executed only by the owner.
    pub fn take_g(&self, pool: &Pool<H>) -> GRef<H> {
        // SAFETY: the owner's cell; `refill` does not come back here.
        let cache = unsafe { &mut *self.cache.get() };
        if let Some(g) = cache.pop() {
            return g;
        }
        pool.refill(cache);
        cache.pop().expect("refilled")
    }

    /// A G that ended and was reset. Executed only by the owner.
    pub fn give_g(&self, g: GRef<H>, pool: &Pool<H>) {
        // SAFETY: the owner's cell; `spill` does not come back here.
        let cache = unsafe { &mut *self.cache.get() };
        cache.push(g);
        if cache.len() >= 2 * BATCH {
            pool.spill(cache);
        }
    }

    /// A fresh goroutine number. Executed only by the owner.
    pub fn next_id(&self, source: &AtomicU64) -> u64 {
        let (next, end) = self.ids.get();
        if next < end {
            self.ids.set((next + 1, end));
            return next;
        }
        let base = source.fetch_add(ID_BLOCK, Ordering::Relaxed);
        self.ids.set((base + 1, base + ID_BLOCK));
        base
    }

    /// A pseudo-random number (xorshift64*). Executed only by the owner.
    pub fn random(&self) -> u64 {
        let mut x = self.rng.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.rng.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
