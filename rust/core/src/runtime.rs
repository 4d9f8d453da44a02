//! The runtime: what the parts of the scheduler share, and the facade that embedders talk to.
//!
//! Invariants:
//! - A runtime is leaked: it lives as long as the process. A fork makes a new one in the child and leaves the old one
//!   alone, because its threads are gone and its locks may be held.
//! - Lock order: `p_lists`, `sched`, then a shard's wheel. The pool's lock, a latch's lock and `ctls` are leaves.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::host::Host;
use crate::prim::atomic::fence;
use crate::prim::{Lock, Parker, atomic as modelled};
use crate::sched::{
    G, GRef, Global, Interp, Kind, M, MCtl, P, Packet, Phase, Pool, ProbeMode, Quiet, Sched,
    Sysmon, Ticket, TimerSlot, WaitReason, Waker, flag,
};
use crate::trace::Event;

/// Most Ps there can be.
pub const MAX_PROCS: usize = if cfg!(loom) { 4 } else { 1024 };

static EPOCH: AtomicU32 = AtomicU32::new(1);

/// Changes at each fork: what waits or lies queued under another one belongs to a process that we are not.
pub(crate) fn epoch() -> u32 {
    EPOCH.load(Ordering::Relaxed)
}

/// Everything.
pub struct Runtime<H: Host> {
    epoch: u32,
    coarse: AtomicU64,
    /// By limit: what `active` was at each, to be used again (sysmon lends and takes back a hundred times a second).
    p_lists: Lock<Vec<Option<&'static Vec<&'static P<H>>>>>,
    ps: Box<[OnceLock<&'static P<H>>]>,
    /// The Ps below the limit: one of `p_lists`.
    active: AtomicPtr<Vec<&'static P<H>>>,
    ctls: Lock<Vec<&'static MCtl<H>>>,
    /// Where the elements of `ctls` lie, and how many may be read there.
    ctl_list: AtomicPtr<&'static MCtl<H>>,
    ctl_count: AtomicU32,
    procs: AtomicU32,
    pub(crate) lent: AtomicU32,
    pub(crate) pool: Pool<H>,
    pub(crate) global: Global<H>,
    pub(crate) sched: Lock<Sched<H>>,
    /// Copies of the lengths of the lists, for looks without the lock.
    pub(crate) idle_ps: modelled::AtomicU32,
    pub(crate) idle_ms: modelled::AtomicU32,
    pub(crate) wanting: modelled::AtomicU32,
    pub(crate) blocked_ms: AtomicU32,
    /// An idle M is on the look-out.
    pub(crate) spinning: modelled::AtomicBool,
    pub(crate) max_threads: AtomicU32,
    pub(crate) keeper_deadline: modelled::AtomicU64,
    pub(crate) sysmon: Sysmon,
    pub(crate) quiet: Quiet,
    pub(crate) limit_met: AtomicBool,
    m_wanted: AtomicBool,
    pub(crate) gone: Parker,
    stopping: modelled::AtomicBool,
    started: AtomicBool,
    interp: OnceLock<Interp>,
    clock_only: AtomicBool,
    ids: AtomicU64,
    created: AtomicU64,
    ended: AtomicU64,
    start_error: Lock<Option<String>>,
}

impl<H: Host> Runtime<H> {
    /// A runtime with `procs` Ps and no thread yet.
    pub fn leak(procs: u32, max_threads: u32) -> &'static Self {
        let now = H::now_ns();
        let rt: &'static Self = Box::leak(Box::new(Self {
            epoch: EPOCH.load(Ordering::Relaxed),
            coarse: AtomicU64::new(now),
            p_lists: Lock::new(Vec::new()),
            ps: (0..MAX_PROCS).map(|_| OnceLock::new()).collect(),
            active: AtomicPtr::new(Box::into_raw(Box::default())),
            ctls: Lock::new(Vec::new()),
            ctl_list: AtomicPtr::new(std::ptr::NonNull::dangling().as_ptr()),
            ctl_count: AtomicU32::new(0),
            procs: AtomicU32::new(0),
            lent: AtomicU32::new(0),
            pool: Pool::new(),
            global: Global::new(),
            sched: Lock::new(Sched::default()),
            idle_ps: modelled::AtomicU32::new(0),
            idle_ms: modelled::AtomicU32::new(0),
            wanting: modelled::AtomicU32::new(0),
            blocked_ms: AtomicU32::new(0),
            spinning: modelled::AtomicBool::new(false),
            max_threads: AtomicU32::new(max_threads),
            keeper_deadline: modelled::AtomicU64::new(u64::MAX),
            sysmon: Sysmon::new(),
            quiet: Quiet::default(),
            limit_met: AtomicBool::new(false),
            m_wanted: AtomicBool::new(false),
            gone: Parker::new(),
            stopping: modelled::AtomicBool::new(false),
            started: AtomicBool::new(false),
            interp: OnceLock::new(),
            clock_only: AtomicBool::new(false),
            ids: AtomicU64::new(1),
            created: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            start_error: Lock::new(None),
        }));
        rt.set_procs(procs);
        rt
    }

    // ---- Ps ----

    /// P number `id`, which must have been made.
    pub(crate) fn p(&self, id: u32) -> &'static P<H> {
        self.ps[id as usize].get().expect("a P in a list was made")
    }

    /// The Ps below the limit.
    pub fn ps(&self) -> &'static [&'static P<H>] {
        // SAFETY: set from Box::into_raw, never freed.
        unsafe { &*self.active.load(Ordering::Acquire) }
    }

    /// Every P that was ever made: their timers count also while they rest.
    pub fn all_ps(&self) -> impl Iterator<Item = &'static P<H>> + '_ {
        self.ps.iter().map_while(|p| p.get().copied())
    }

    /// `gomaxprocs`.
    pub fn procs(&self) -> u32 {
        self.procs.load(Ordering::Relaxed)
    }

    /// How many Ps may be held now, those lent by sysmon included.
    pub(crate) fn limit(&self) -> u32 {
        self.procs.load(Ordering::Relaxed) + self.lent.load(Ordering::Relaxed)
    }

    /// Sets `gomaxprocs` (1 to `MAX_PROCS`/2); the previous value. Takes effect as Ms come by.
    pub fn set_procs(&'static self, n: u32) -> u32 {
        let old = self.procs();
        self.resize(|| self.procs.store(n, Ordering::Relaxed));
        // More Ps, or what lay on one that rests now.
        if self.started.load(Ordering::Relaxed) && self.has_work() {
            self.wake_one();
        }
        old
    }

    pub(crate) fn set_lent(&'static self, n: u32) {
        self.resize(|| self.lent.store(n, Ordering::Relaxed));
    }

    fn resize(&'static self, change: impl FnOnce()) {
        let removed: Vec<u32> = {
            let mut lists = self.p_lists.lock();
            let mut s = self.sched.lock();
            change();
            let limit = self.limit();
            for id in 0..limit {
                let new = || Box::leak(Box::new(P::new(id, self.now()))) as &'static P<H>;
                self.ps[id as usize].get_or_init(new);
            }
            // Those above the limit go to rest; those that rested below it come back.
            let removed = s
                .idle_ps
                .iter()
                .copied()
                .filter(|&id| id >= limit)
                .collect();
            s.idle_ps.retain(|&id| id < limit);
            for id in 0..limit {
                if self.p(id).resting.swap(false, Ordering::Relaxed) {
                    s.idle_ps.push(id);
                }
            }
            self.idle_ps
                .store(s.idle_ps.len() as u32, Ordering::Relaxed);
            let n = limit as usize;
            if lists.len() <= n {
                lists.resize(n + 1, None);
            }
            let all = || Box::leak(Box::new((0..limit).map(|id| self.p(id)).collect())) as &_;
            let list: &'static Vec<_> = lists[n].get_or_insert_with(all);
            self.active
                .store(std::ptr::from_ref(list).cast_mut(), Ordering::Release);
            removed
        };
        // For a moment limit and idle Ps did not fit together: sysmon may have taken that for all idle.
        self.sysmon.note_running();
        for id in removed {
            self.rest_p(self.p(id));
        }
        self.serve_wanting();
    }

    // ---- Ms ----

    /// The control block of M number `id`.
    pub fn m_ctl(&self, id: u32) -> &'static MCtl<H> {
        self.ctls()[id as usize]
    }

    /// Of every M that ever was.
    pub fn ctls(&self) -> &'static [&'static MCtl<H>] {
        // The count first: the place that is read after it holds at least so many.
        let n = self.ctl_count.load(Ordering::Acquire) as usize;
        let at = self.ctl_list.load(Ordering::Acquire);
        // SAFETY: the elements of a vector that is never freed; the first `n` were written before the count and are
        // never written again.
        unsafe { std::slice::from_raw_parts(at, n) }
    }

    pub(crate) fn new_ctl(&self) -> u32 {
        let mut all = self.ctls.lock();
        let id = all.len() as u32;
        if all.len() == all.capacity() {
            // The old place is left to those who read there; all old ones together are no longer than the new one.
            let mut more = Vec::with_capacity((2 * all.len()).max(16));
            more.extend_from_slice(&all);
            std::mem::forget(std::mem::replace(&mut *all, more));
            self.ctl_list.store(all.as_mut_ptr(), Ordering::Release);
        }
        all.push(Box::leak(Box::new(MCtl::new(id))));
        // Pairs with the load in `ctls`.
        self.ctl_count.store(id + 1, Ordering::Release);
        id
    }

    /// How many Ms there are, how many of them idle, blocked in a known call, and running without a P.
    pub fn m_counts(&self) -> (u32, u32, u32, u32) {
        let live = self.sched.lock().live;
        let without = self
            .ctls()
            .iter()
            .filter(|c| c.without_p.load(Ordering::Relaxed))
            .count() as u32;
        (
            live,
            self.idle_ms.load(Ordering::Relaxed),
            self.blocked_ms.load(Ordering::Relaxed),
            without,
        )
    }

    /// The limit of Ms.
    pub fn max_threads(&self) -> u32 {
        self.max_threads.load(Ordering::Relaxed)
    }

    /// Sets the limit of Ms. Attached: what queued at the old limit may need a thread now.
    pub fn set_max_threads(&'static self, n: u32) {
        self.max_threads.store(n, Ordering::Relaxed);
        self.start_if_none();
    }

    /// Starts an M if none is idle: at the limit, or after a start that failed, there may be no spare one. Attached.
    fn start_if_none(&'static self) {
        if self.idle_ms.load(Ordering::Relaxed) == 0 && self.started.load(Ordering::Relaxed) {
            self.start_m();
        }
    }

    /// True once after sysmon met the limit: the embedder warns.
    pub fn take_limit_met(&self) -> bool {
        self.limit_met.load(Ordering::Relaxed) && self.limit_met.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn note_start_failed(&self, why: String) {
        *self.start_error.lock() = Some(why);
    }

    /// Why the last thread could not be started, once.
    pub fn take_start_error(&self) -> Option<String> {
        self.start_error.lock().take()
    }

    /// True if it runs, as far as is known: then `ensure_started` has nothing to do.
    #[inline]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Makes sure that the runtime runs. Attached. False if there is no M and none could be started.
    pub fn ensure_started(&'static self) -> bool {
        if self.is_started() {
            return true;
        }
        self.start_sysmon();
        if self.idle_ms.load(Ordering::Relaxed) == 0
            && !self.start_m()
            && self.sched.lock().live == 0
        {
            return false;
        }
        self.started.store(true, Ordering::Release);
        true
    }

    #[cfg(any(loom, test))]
    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Lets the next `ensure_started` look whether an M sleeps anywhere, and start one. Anybody, detached too.
    pub(crate) fn ask_for_m(&self) {
        self.started.store(false, Ordering::Release);
        self.m_wanted.store(true, Ordering::Relaxed);
    }

    /// True once after sysmon missed an M: the embedder calls `ensure_started`.
    pub fn take_m_wanted(&self) -> bool {
        self.m_wanted.load(Ordering::Relaxed) && self.m_wanted.swap(false, Ordering::Relaxed)
    }

    /// True while it is being shut down.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Stops every M that comes by; waits up to `wait` seconds, detached, until all have ended. True if they have.
    /// Afterwards `ensure_started` begins anew, also if some M is still busy (it goes on, and counts again), unless it
    /// was `for_good`. Goroutines and timers stay where they are; who waits meanwhile may start it (`stands_still`).
    pub fn stop(&'static self, wait: f64, for_good: bool) -> bool {
        self.stopping.store(true, Ordering::SeqCst);
        let end = self.now().saturating_add((wait * 1e9) as u64);
        let ended = H::detached(|| {
            loop {
                let live = {
                    let s = self.sched.lock();
                    for c in s.idle_ms.iter().chain(&s.wanting) {
                        c.parker.unpark();
                    }
                    s.live
                };
                if live == 0 {
                    return true;
                }
                let left = end.saturating_sub(self.now());
                if left == 0 {
                    return false;
                }
                self.gone
                    .park(Some(std::time::Duration::from_nanos(left.min(10_000_000))));
            }
        });
        if !for_good {
            self.started.store(false, Ordering::Release);
            self.stopping.store(false, Ordering::SeqCst);
            self.rouse_if_still();
        }
        ended
    }

    // ---- goroutines ----

    /// This thread's M, if it is one of this runtime.
    pub fn current_m(&'static self) -> Option<&'static M<H>> {
        // SAFETY: set by `m_main` to a value that lives until it is reset to null, on the same thread.
        let m = unsafe { H::current().as_ref() }?;
        std::ptr::eq(m.rt, self).then_some(m)
    }

    /// This thread's M and the goroutine whose body runs on it.
    pub fn current_goroutine(&'static self) -> Option<(&'static M<H>, GRef<H>)> {
        let m = self.current_m()?;
        Some((m, m.goroutine()?))
    }

    /// Makes a goroutine runnable: takes a vacant G, lets `init` fill its body (no user code in there), queues it.
    /// The caller gets one reference of two.
    pub fn go(&'static self, init: impl FnOnce(&GRef<H>)) -> GRef<H> {
        let m = self.current_m();
        let mut init = Some(init);
        if let Some(m) = m {
            let done = m.with_p(|p| {
                let g = p.take_g(&self.pool);
                self.prepare(g, p.next_id(&self.ids), 2);
                (init.take().expect("once"))(&g);
                g.waker.word.renew_running();
                m.ctl.created.add(1);
                if p.runs.get() & 63 == 0 {
                    g.set_ready(self.now());
                }
                p.note(Event::Create, g.id.load(Ordering::Relaxed));
                p.push_next(g);
                g
            });
            if let Some(g) = done {
                return g;
            }
        }
        let g = self.pool.take();
        self.prepare(g, self.ids.fetch_add(1, Ordering::Relaxed), 2);
        (init.take().expect("not used above"))(&g);
        g.waker.word.renew_running();
        let n = self.created.fetch_add(1, Ordering::Relaxed);
        if n & 63 == 0 {
            g.set_ready(self.now());
        }
        self.submit(Packet::One(g));
        self.start_if_none();
        g
    }

    /// As `go`, for several at once, submitted in batches; from any thread.
    pub fn go_batch(
        &'static self,
        n: usize,
        mut init: impl FnMut(usize, &GRef<H>),
    ) -> Vec<GRef<H>> {
        let base = self.ids.fetch_add(n as u64, Ordering::Relaxed);
        let gs: Vec<_> = (0..n)
            .map(|i| {
                let g = self.pool.take();
                self.prepare(g, base + i as u64, 2);
                init(i, &g);
                g.waker.word.renew_running();
                g
            })
            .collect();
        self.created.fetch_add(n as u64, Ordering::Relaxed);
        self.submit_all(gs.clone());
        self.start_if_none();
        gs
    }

    /// A G that sleeps before its first step, until its ticket is fired. One reference, the runtime's.
    pub fn dormant(&'static self, flags: u8, init: impl FnOnce(&GRef<H>)) -> (GRef<H>, Ticket) {
        self.dormant_with(1, flags, init)
    }

    /// As `dormant`, with so many references: one is the runtime's.
    pub fn dormant_with(
        &'static self,
        refs: u32,
        flags: u8,
        init: impl FnOnce(&GRef<H>),
    ) -> (GRef<H>, Ticket) {
        let g = self.vacant();
        self.prepare(g, 0, refs);
        g.flags.store(flags, Ordering::Relaxed);
        init(&g);
        g.waker.set_kind(Kind::Goroutine, WaitReason::Timer);
        let t = g.waker.word.renew_dormant();
        (g, t)
    }

    fn vacant(&'static self) -> GRef<H> {
        self.current_m()
            .and_then(|m| m.with_p(|p| p.take_g(&self.pool)))
            .unwrap_or_else(|| self.pool.take())
    }

    fn prepare(&self, g: GRef<H>, id: u64, refs: u32) {
        g.id.store(id, Ordering::Relaxed);
        g.epoch.store(self.epoch, Ordering::Relaxed);
        g.flags.store(0, Ordering::Relaxed);
        g.set_since(0);
        g.waker.set_kind(Kind::Goroutine, WaitReason::None);
        g.timer.set(TimerSlot::NONE);
        g.set_refs(refs);
    }

    /// A goroutine that was dormant begins to count (a timer that fired).
    pub fn count_begun(&'static self, g: GRef<H>) {
        g.flags.store(0, Ordering::Relaxed);
        g.timer.set(TimerSlot::NONE);
        g.id.store(self.ids.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    /// The goroutine has ended and its outcome is in place: from here on joiners see it. By the M that ran it, attached.
    pub fn finish(&'static self, m: &M<H>, g: GRef<H>) {
        if g.flags.load(Ordering::Relaxed) & flag::INTERNAL == 0 {
            m.ctl.ended.add(1);
        }
        if G::<H>::ALONE {
            // Joiners and cancellers are attached, as we are: they come before or after, not in between.
            g.waker.word.finish_alone();
        } else {
            g.waker.word.finish();
        }
        // `finish` and this look pair with `join_fence`: either we see the latch, or its maker sees Done.
        if let Some(l) = g.latch_at_end() {
            l.close(self);
        }
    }

    /// Drops a reference from outside the loop; the last one frees. Attached.
    pub fn release(&'static self, g: GRef<H>) {
        if g.release() && self.clear(g) {
            self.give(g);
        }
    }

    /// Drops the runtime's reference and the caller's to a dormant G whose ticket the caller won. Attached.
    pub fn release_dormant(&'static self, g: GRef<H>) {
        if g.release_both() && self.clear(g) {
            self.give(g);
        }
    }

    /// Frees what a G holds: the caller had the last reference. False if it lives on. Attached, outside the scheduler.
    pub(crate) fn clear(&'static self, g: GRef<H>) -> bool {
        let gone = H::reset(self, g);
        if gone {
            g.id.store(0, Ordering::Relaxed);
        }
        gone
    }

    pub(crate) fn give(&'static self, g: GRef<H>) {
        if g.epoch.load(Ordering::Relaxed) != self.epoch {
            return;
        }
        let given = self
            .current_m()
            .and_then(|m| m.with_p(|p| p.give_g(g, &self.pool)));
        if given.is_none() {
            self.pool.give(g);
        }
    }

    /// Wakes whoever waits behind `waker`. Anybody, detached too.
    ///
    /// # Safety
    /// The caller won the waiter: `fire` or `cancel` said `Wake`.
    pub unsafe fn wake(&'static self, waker: *const Waker) {
        // SAFETY: wakers are never unmapped.
        let w = unsafe { &*waker };
        match w.kind() {
            Kind::Thread => w.wake_thread(),
            // SAFETY: only Gs have this kind.
            Kind::Goroutine => self.ready(unsafe { GRef::from_waker(waker) }),
        }
    }

    /// Queues a goroutine that was made runnable: next on this M's P, else globally.
    pub fn ready(&'static self, g: GRef<H>) {
        match self.current_m() {
            Some(m) => self.ready_from(m, g),
            None => self.submit(Packet::One(g)),
        }
    }

    /// As `ready`, on this thread's M.
    pub(crate) fn ready_from(&'static self, m: &M<H>, g: GRef<H>) {
        let pushed = m.with_p(|p| {
            if p.runs.get() & 63 == 0 {
                g.set_ready(self.now());
            }
            p.push_next(g);
        });
        if pushed.is_none() {
            self.submit(Packet::One(g));
        }
    }

    /// True if some M runs `g` now; for lists: one that yielded counts as Running in its word, but lies in a queue.
    pub fn is_on_an_m(&self, g: GRef<H>) -> bool {
        self.ctls()
            .iter()
            .any(|c| c.g.load(Ordering::Relaxed) == g.as_ptr())
    }

    /// Every G that is in use.
    pub fn goroutines(&self) -> Vec<GRef<H>> {
        self.pool
            .in_phase(|phase| !matches!(phase, Phase::Done | Phase::New))
    }

    /// Every G that has ended and may still be referred to.
    pub fn ended(&self) -> Vec<GRef<H>> {
        self.pool.in_phase(|phase| phase == Phase::Done)
    }

    /// How many were created and have ended.
    pub fn counts(&self) -> (u64, u64) {
        // Ended first: the difference is never negative.
        let ended = self.ended.load(Ordering::Relaxed)
            + self.ctls().iter().map(|c| c.ended.get()).sum::<u64>();
        fence(Ordering::SeqCst);
        let created = self.created.load(Ordering::Relaxed)
            + self.ctls().iter().map(|c| c.created.get()).sum::<u64>();
        (created, ended)
    }

    /// How many goroutines wait in the global queue.
    pub fn global_len(&self) -> usize {
        self.global.len()
    }

    // ---- time ----

    /// Monotonic nanoseconds, the base of Python's `time.monotonic`.
    pub fn now(&self) -> u64 {
        H::now_ns()
    }

    /// The time sysmon last saw: cheap, for lists.
    pub fn coarse_now(&self) -> u64 {
        self.coarse.load(Ordering::Relaxed)
    }

    pub(crate) fn set_coarse_now(&self, now: u64) {
        self.coarse.store(now, Ordering::Relaxed);
    }

    /// Never later than the earliest timer; u64::MAX for none.
    pub(crate) fn next_timer(&self) -> u64 {
        self.all_ps()
            .map(|p| p.shard.next())
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Ends the wait `ticket` of `g` at `deadline` by a time-out. By the owner of the wait; `g.timer` names the entry.
    pub fn add_timer(&'static self, g: &G<H>, deadline: u64, ticket: Ticket) {
        let m = self.current_m();
        let p = m.and_then(|m| m.p.get()).unwrap_or_else(|| self.p(0));
        let earliest = p.shard.add(p.id, deadline, &g.waker, ticket, &g.timer);
        if earliest {
            self.timer_added(deadline);
        }
    }

    /// Takes the timer of `g` out, if it has one. By the owner of the wait, afterwards.
    pub fn drop_timer(&'static self, g: &G<H>) {
        let slot = g.timer.replace(TimerSlot::NONE);
        if slot.shard != u32::MAX {
            self.p(slot.shard).shard.remove(slot);
        }
    }

    /// How many timers are armed.
    pub fn timers(&self) -> usize {
        self.all_ps().map(|p| p.shard.len()).sum()
    }

    pub(crate) fn note_ready(&self, p: &P<H>, at: u64) {
        let late = self.now().saturating_sub(at);
        p.ready_n.add(1);
        p.ready_sum.add(late);
        p.ready_max.fetch_max(late, Ordering::Relaxed);
    }

    // ---- the interpreter, and forks ----

    /// Tells sysmon what it looks at. Once.
    pub fn set_interp(&self, interp: Interp) {
        let _ = self.interp.set(interp);
    }

    /// What sysmon was told about the interpreter.
    pub fn interp(&self) -> Interp {
        self.interp.get().cloned().unwrap_or_default()
    }

    /// Tells the probes of Ms that start from now on to use the CPU clock only (`GORUN_SYSMON=clock`).
    pub fn set_clock_only(&self, on: bool) {
        self.clock_only.store(on, Ordering::Relaxed);
    }

    pub(crate) fn probe_mode(&self) -> ProbeMode {
        if self.clock_only.load(Ordering::Relaxed) {
            ProbeMode::Clock
        } else {
            ProbeMode::Auto
        }
    }

    /// The number of this runtime among those that forks made.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// True in a child of the process that made this runtime.
    pub fn forked(&self) -> bool {
        EPOCH.load(Ordering::Relaxed) != self.epoch
    }

    /// In the child, first thing after the fork: runtimes made before are the parent's.
    pub fn note_fork() {
        EPOCH.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
