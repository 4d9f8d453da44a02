//! A goroutine of the stress test: a walk through everything a body can do, by a random number generator of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gorun_core::host::Host;
use gorun_core::sched::{Cancel, GRef, Kind, M, Park, Phase, Ticket, Verdict, WaitReason, flag};
use gorun_core::wait::{End, Latch, Next, Node, block, join_fence};

use crate::host::{Gr, Rt, Test};

/// xorshift64*.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    /// Mostly short, rarely up to 3 ms.
    pub fn moment(&mut self) -> Duration {
        let scale = [10, 100, 1000, 3000][self.below(4) as usize];
        Duration::from_micros(self.below(scale))
    }
}

/// What is known of one goroutine beside its body.
#[derive(Default)]
pub struct Stat {
    busy: AtomicBool,
    begun: AtomicBool,
    ended: AtomicU32,
    /// Cancels that `cancel` said are on their way, and those that arrived.
    asked: AtomicU32,
    seen: AtomicU32,
}

impl Stat {
    pub fn begin_step(&self) {
        assert!(
            !self.busy.swap(true, Ordering::AcqRel),
            "two threads have one body"
        );
        self.begun.store(true, Ordering::Relaxed);
    }

    pub fn end_step(&self) {
        assert!(
            self.busy.swap(false, Ordering::AcqRel),
            "two threads have one body"
        );
    }

    pub fn end(&self) {
        assert_eq!(self.ended.fetch_add(1, Ordering::Relaxed), 0, "ended twice");
        let (asked, seen) = (
            self.asked.load(Ordering::Relaxed),
            self.seen.load(Ordering::Relaxed),
        );
        // The caller of `cancel` counts after it has asked: a cancel in that moment is one ahead. One may be pending.
        assert!(
            seen <= asked + 1 && asked <= seen + 1,
            "{asked} cancels asked, {seen} seen"
        );
    }
}

/// A handle: one reference.
pub struct Handle<const GIL: bool> {
    pub rt: Rt<GIL>,
    pub g: Gr<GIL>,
    pub stat: Arc<Stat>,
}

impl<const GIL: bool> Handle<GIL> {
    pub fn cancel(&self) {
        let said = self.g.waker.word.cancel();
        if matches!(said, Cancel::Set | Cancel::Wake) {
            self.stat.asked.fetch_add(1, Ordering::Relaxed);
        }
        if said == Cancel::Wake {
            // SAFETY: the cancel won a parked waiter.
            unsafe { self.rt.wake(&raw const self.g.waker) };
        }
    }

    pub fn is_done(&self) -> bool {
        self.g.waker.word.phase() == Phase::Done
    }

    /// As the Python layer joins.
    pub fn join(&self, limit: Option<Duration>) -> End {
        let latch = self.g.latch_or_make();
        join_fence();
        if self.is_done() {
            return End::Ready;
        }
        let end = block(self.rt, Some(latch), WaitReason::Join, limit, None, || {
            Ok::<_, ()>(Next::Sleep)
        });
        let end = end.unwrap();
        assert!(end != End::Ready || self.is_done(), "joined before the end");
        end
    }
}

impl<const GIL: bool> Drop for Handle<GIL> {
    fn drop(&mut self) {
        self.rt.release(self.g);
    }
}

/// What all goroutines of a round share.
pub struct World<const GIL: bool> {
    pub rt: Rt<GIL>,
    pub latches: Mutex<Vec<Arc<Latch>>>,
    pub known: Mutex<Vec<Handle<GIL>>>,
    pub timers: Mutex<Vec<(Handle<GIL>, Ticket)>>,
    pub made: AtomicU64,
    pub gone: AtomicU64,
    pub most: u64,
}

impl<const GIL: bool> World<GIL> {
    pub fn latch(&self, rng: &mut Rng) -> Arc<Latch> {
        let all = self.latches.lock().unwrap();
        all[rng.below(all.len() as u64) as usize].clone()
    }

    /// Closes a latch; a new one takes its place.
    pub fn close(&self, rng: &mut Rng) {
        let old = {
            let mut all = self.latches.lock().unwrap();
            let at = rng.below(all.len() as u64) as usize;
            std::mem::take(&mut all[at])
        };
        assert!(old.close(self.rt), "closed twice");
    }

    pub fn close_all(&self) {
        let n = self.latches.lock().unwrap().len();
        for at in 0..n {
            let old = std::mem::take(&mut self.latches.lock().unwrap()[at]);
            old.close(self.rt);
        }
    }

    /// A new body, unless there are enough.
    pub fn task(self: &Arc<Self>, seed: u64) -> Option<Box<Task<GIL>>> {
        if self.made.load(Ordering::Relaxed) >= self.most {
            return None;
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::new(seed);
        Some(Box::new(Task {
            left: rng.below(24) as u32,
            rng,
            world: self.clone(),
            stat: Arc::default(),
            wait: None,
        }))
    }

    pub fn go(self: &Arc<Self>, seed: u64) -> Option<Handle<GIL>> {
        let task = self.task(seed)?;
        let stat = task.stat.clone();
        let mut task = Some(task);
        // SAFETY: a vacant G's body.
        let g = self.rt.go(|g| unsafe { *g.body.get() = task.take() });
        Some(Handle {
            rt: self.rt,
            g,
            stat,
        })
    }

    /// Keeps a handle for others to cancel and join, in the place of an older one.
    pub fn keep(&self, rng: &mut Rng, h: Handle<GIL>) {
        let mut known = self.known.lock().unwrap();
        if known.len() < 32 {
            known.push(h);
            return;
        }
        let at = rng.below(known.len() as u64) as usize;
        let old = std::mem::replace(&mut known[at], h);
        drop(known);
        drop(old);
    }

    pub fn pick(&self, rng: &mut Rng) -> Option<Handle<GIL>> {
        let known = self.known.lock().unwrap();
        if known.is_empty() {
            return None;
        }
        let h = &known[rng.below(known.len() as u64) as usize];
        h.g.retain();
        Some(Handle {
            rt: h.rt,
            g: h.g,
            stat: h.stat.clone(),
        })
    }

    /// A goroutine that begins by a timer.
    fn arm(self: &Arc<Self>, rng: &mut Rng) {
        let Some(task) = self.task(rng.next()) else {
            return;
        };
        let stat = task.stat.clone();
        let mut task = Some(task);
        let rt = self.rt;
        // SAFETY: a vacant G's body.
        let (g, ticket) = rt.dormant(flag::TIMER, |g| unsafe { *g.body.get() = task.take() });
        g.retain();
        let at = rt.now() + rng.moment().as_nanos() as u64;
        rt.add_timer(&g, at, ticket);
        self.timers
            .lock()
            .unwrap()
            .push((Handle { rt, g, stat }, ticket));
    }

    /// Stops one, as `Timer.stop` does.
    pub fn disarm(&self) -> bool {
        let Some((h, ticket)) = self.timers.lock().unwrap().pop() else {
            return false;
        };
        if h.g.waker.word.revoke(ticket) {
            self.rt.drop_timer(&h.g);
            self.rt.release(h.g);
        }
        true
    }

    /// Looks at a parked goroutine's body, as `goroutines()` does.
    pub fn inspect(&self, rng: &mut Rng) {
        let all = self.rt.goroutines();
        if all.is_empty() {
            return;
        }
        let g = all[rng.below(all.len() as u64) as usize];
        if !g.try_retain() {
            return;
        }
        if g.flags.load(Ordering::Relaxed) & flag::BLOCKED == 0 && g.waker.word.inspect() {
            // SAFETY: taken aside: the body is ours until `park`.
            if let Some(task) = unsafe { (*g.body.get()).as_ref() } {
                let stat = task.stat.clone();
                let begun = stat.begun.load(Ordering::Relaxed);
                stat.begin_step();
                std::thread::yield_now();
                stat.begun.store(begun, Ordering::Relaxed);
                stat.end_step();
            }
            if let Park::Fired(_) = g.waker.word.park() {
                self.rt.ready(g);
            }
        }
        self.rt.release(g);
    }
}

/// What a step asks for.
pub enum Step {
    Yield,
    Park,
    Done,
}

enum On<const GIL: bool> {
    Time,
    Latch(Arc<Latch>),
    Join(Handle<GIL>),
}

struct Wait<const GIL: bool> {
    on: On<GIL>,
    limited: bool,
    node: Box<Node>,
}

/// The body.
pub struct Task<const GIL: bool> {
    left: u32,
    rng: Rng,
    world: Arc<World<GIL>>,
    pub stat: Arc<Stat>,
    wait: Option<Wait<GIL>>,
}

impl<const GIL: bool> Drop for Task<GIL> {
    fn drop(&mut self) {
        assert!(self.wait.is_none(), "dropped while it waits");
        self.world.gone.fetch_add(1, Ordering::Release);
    }
}

impl<const GIL: bool> Task<GIL> {
    /// One step. The order of the cases is the replay's: append only.
    pub fn step(&mut self, rt: Rt<GIL>, m: &M<Test<GIL>>, g: Gr<GIL>, cancelled: bool) -> Step {
        if cancelled && self.rng.below(2) == 0 {
            self.take_cancel(g);
        }
        self.conclude(rt, g);
        while self.left > 0 {
            self.left -= 1;
            match self.rng.below(24) {
                0..=2 => return Step::Yield,
                3..=5 => self.spawn(),
                6 | 7 => {
                    let on = On::Latch(self.world.latch(&mut self.rng));
                    let limit = (self.rng.below(4) > 0).then(|| self.rng.moment());
                    if self.begin(rt, g, on, limit) {
                        return Step::Park;
                    }
                }
                8 | 9 => {
                    let limit = self.rng.moment();
                    if self.begin(rt, g, On::Time, Some(limit)) {
                        return Step::Park;
                    }
                }
                10 => {
                    // With a time limit: those that it knows may wait for it.
                    if let Some(h) = self.world.pick(&mut self.rng)
                        && h.g != g
                    {
                        let limit = self.rng.moment();
                        if self.begin(rt, g, On::Join(h), Some(limit)) {
                            return Step::Park;
                        }
                    }
                }
                11 => {
                    // A child: no limit is needed.
                    if let Some(h) = self.world.go(self.rng.next())
                        && self.begin(rt, g, On::Join(h), None)
                    {
                        return Step::Park;
                    }
                }
                12 => {
                    let latch = self.world.latch(&mut self.rng);
                    let limit = Some(self.rng.moment());
                    self.block(rt, Some(&latch), limit);
                }
                13 => {
                    let limit = Some(self.rng.moment());
                    self.block(rt, None, limit);
                }
                14 => {
                    if let Some(h) = self.world.go(self.rng.next()) {
                        let end = h.join(None);
                        self.note(end);
                    }
                }
                15 => {
                    if rt.may_block() {
                        rt.hand_off(m, g);
                        let d = self.rng.moment();
                        Test::<GIL>::detached(|| std::thread::sleep(d));
                        rt.take_p_again(m, g);
                    }
                }
                16 => {
                    // Nobody is told: sysmon has to find out.
                    let d = self.rng.moment();
                    Test::<GIL>::detached(|| std::thread::sleep(d));
                }
                17 => rt.gosched_keep_m(m),
                18 => {
                    if let Some(h) = self.world.pick(&mut self.rng) {
                        h.cancel();
                    }
                }
                19 => self.world.close(&mut self.rng),
                20 => self.take_cancel(g),
                21 => {
                    if self.rng.below(4) == 0 {
                        self.world.inspect(&mut self.rng);
                    }
                }
                22 => {
                    if self.rng.below(2) == 0 {
                        let mut rng = Rng::new(self.rng.next());
                        self.world.arm(&mut rng);
                    } else {
                        self.world.disarm();
                    }
                }
                _ => {
                    // A long task, native half of the time (GIL released).
                    let n = self.rng.below(20_000);
                    let spin = || (0..n).for_each(|_| std::hint::spin_loop());
                    if self.rng.below(2) == 0 {
                        spin();
                    } else {
                        Test::<GIL>::detached(spin);
                    }
                    self.take_cancel(g);
                    if m.take_preempt() {
                        return Step::Yield;
                    }
                }
            }
        }
        Step::Done
    }

    fn spawn(&mut self) {
        if let Some(h) = self.world.go(self.rng.next())
            && self.rng.below(2) == 0
        {
            self.world.clone().keep(&mut self.rng, h);
        }
    }

    fn seen(&self) {
        self.stat.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn take_cancel(&self, g: Gr<GIL>) {
        if g.waker.word.take_cancel() {
            self.seen();
        }
    }

    fn note(&self, end: End) {
        if end == End::Cancelled {
            self.seen();
        }
    }

    fn block(&mut self, rt: Rt<GIL>, latch: Option<&Latch>, limit: Option<Duration>) {
        let end = block(rt, latch, WaitReason::Event, limit, None, || {
            Ok::<_, ()>(Next::Sleep)
        })
        .unwrap();
        if end == End::Ready {
            assert!(latch.unwrap().is_closed(), "woken for nothing");
        }
        self.note(end);
    }

    /// Begins a wait as an operation of the Python layer does; true if it has to park.
    fn begin(&mut self, rt: Rt<GIL>, g: Gr<GIL>, on: On<GIL>, limit: Option<Duration>) -> bool {
        g.waker.set_kind(Kind::Goroutine, WaitReason::Event);
        let Ok(ticket) = g.waker.word.arm(true) else {
            self.seen();
            return false;
        };
        let mut node = Box::new(Node::new());
        // SAFETY: the node stays in its box until `conclude` takes it out.
        let waits = unsafe {
            match &on {
                On::Time => true,
                On::Latch(l) => l.enlist(&raw mut *node, &raw const g.waker, ticket),
                On::Join(h) => {
                    let l = h.g.latch_or_make();
                    join_fence();
                    !h.is_done() && l.enlist(&raw mut *node, &raw const g.waker, ticket)
                }
            }
        };
        if !waits {
            g.waker.word.disarm();
            return false;
        }
        if let Some(d) = limit {
            rt.add_timer(&g, rt.now() + d.as_nanos() as u64, ticket);
        }
        self.wait = Some(Wait {
            on,
            limited: limit.is_some(),
            node,
        });
        true
    }

    fn conclude(&mut self, rt: Rt<GIL>, g: Gr<GIL>) {
        let Some(mut w) = self.wait.take() else {
            return;
        };
        let verdict = g
            .waker
            .word
            .verdict()
            .expect("resumed from a wait that has not ended");
        rt.drop_timer(&g);
        let node = &raw mut *w.node;
        // SAFETY: given to that latch, or to none.
        unsafe {
            match &w.on {
                On::Time => {}
                On::Latch(l) => l.delist(node),
                On::Join(h) => h.g.latch().expect("made by us").delist(node),
            }
        }
        match verdict {
            Verdict::Ready => match &w.on {
                On::Time => panic!("a sleep has no other end than its time"),
                On::Latch(l) => assert!(l.is_closed(), "woken for nothing"),
                On::Join(h) => assert!(h.is_done(), "joined before the end"),
            },
            Verdict::Timeout => assert!(w.limited, "a time-out without a limit"),
            Verdict::Cancel => {
                g.waker.word.delivered();
                self.seen();
            }
        }
    }
}

/// The state of everything, for the watchdog.
pub fn dump<const GIL: bool>(rt: Rt<GIL>) -> String {
    let mut out = format!(
        "Ms (live, idle, blocked, without P): {:?}, procs {}, global {}, timers {}\n",
        rt.m_counts(),
        rt.procs(),
        rt.global_len(),
        rt.timers()
    );
    for p in rt.ps() {
        out += &format!(
            "P{}: len {}, {} runs, idle {}, resting {}\n",
            p.id,
            p.len(),
            p.runs.get(),
            p.owner.is_idle(),
            p.resting.load(Ordering::Relaxed)
        );
    }
    for g in rt.goroutines() {
        let g: GRef<_> = g;
        out += &format!(
            "G{}: {:?}, verdict {:?}, flags {}, refs {}\n",
            g.id.load(Ordering::Relaxed),
            g.waker.word.phase(),
            g.waker.word.verdict(),
            g.flags.load(Ordering::Relaxed),
            g.refs()
        );
    }
    out
}
