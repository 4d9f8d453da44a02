//! Going idle against submitting: who parks, who is woken. README.md holds the protocol and its proof sketch.
//!
//! Invariants:
//! - An idle P lies in `Sched::idle_ps`, an idle M in `Sched::idle_ms`, both under one lock.
//! - A submitter publishes work, fences, then looks for an idle P; an M gives its P up, fences, then looks for work.
//!   So one of the two sees the other (the loom model `loom_idle.rs` checks it).
//! - At most one idle M, the timekeeper, sleeps with a deadline.

use std::collections::VecDeque;
use std::time::Duration;

use super::g::GRef;
use super::m::{M, MCtl};
use super::owner::Seat;
use super::p::P;
use super::queue::Packet;
use crate::host::Host;
use crate::prim::atomic::{Ordering, fence};
use crate::runtime::Runtime;
use crate::trace::Event;

/// About 20 us in all on the machines that this was measured on.
const SPINS: u32 = if cfg!(loom) { 1 } else { 256 };
const SPIN_PAUSES: u32 = 4;

/// The idle lists and the count of Ms. Under `Runtime::sched`.
pub struct Sched<H: Host> {
    pub(crate) idle_ps: Vec<u32>,
    pub(crate) idle_ms: Vec<&'static MCtl<H>>,
    /// Ms that come back from blocking and want a P, first come first served.
    pub(crate) wanting: VecDeque<&'static MCtl<H>>,
    /// Ms that exist or were asked for.
    pub(crate) live: u32,
    /// Of these, asked for and not arrived.
    pub(crate) starting: u32,
    /// The idle M that sleeps with a deadline.
    pub(crate) timekeeper: Option<u32>,
    /// Control blocks of Ms that ended.
    pub(crate) spare_ctls: Vec<u32>,
}

impl<H: Host> Default for Sched<H> {
    fn default() -> Self {
        Self {
            idle_ps: Vec::new(),
            idle_ms: Vec::new(),
            wanting: VecDeque::new(),
            live: 0,
            starting: 0,
            timekeeper: None,
            spare_ctls: Vec::new(),
        }
    }
}

impl<H: Host> Runtime<H> {
    /// Queues work from outside the owner's queue and wakes an M if the policy wants one. Anybody, detached too.
    pub fn submit(&'static self, packet: Packet<H>) {
        self.global.push(packet);
        // Pairs with the fence in `rest`.
        fence(Ordering::SeqCst);
        self.wake_for_work();
    }

    /// After publishing work: wakes an idle M for an idle P, unless the policy says that those who run will do.
    pub(crate) fn wake_for_work(&'static self) {
        if self.spinning.load(Ordering::Relaxed) {
            // It looks for work right now, and once more after it has stopped (the fence in `spin`).
            return;
        }
        let idle = self.idle_ps.load(Ordering::Relaxed);
        if idle == 0 {
            // Everybody is busy, or blocked: sysmon finds out which.
            self.sysmon.kick();
            return;
        }
        let running = self.limit().saturating_sub(idle);
        if H::GIL && running > 0 {
            // One M runs Python at a time; sysmon notices when that one stands still.
            self.sysmon.kick();
            return;
        }
        self.wake_one();
    }

    /// Gives an idle P to an idle M and wakes it. False if there is no pair (an M that arrives looks by itself), or if
    /// an M that was woken before is still on its way.
    pub(crate) fn wake_one(&'static self) -> bool {
        let (ctl, p) = {
            let mut s = self.sched.lock();
            if s.idle_ps.is_empty() || s.idle_ms.is_empty() {
                return false;
            }
            (
                self.pop_idle_m(&mut s).expect("not empty"),
                self.pop_idle_p(&mut s),
            )
        };
        self.hand_to(ctl, p);
        true
    }

    /// Takes an idle M out of the list: the timekeeper only if there is no other, because then nobody else would get up
    /// for the timers (the next M that goes idle takes over, and until then sysmon does).
    pub(crate) fn pop_idle_m(&self, s: &mut Sched<H>) -> Option<&'static MCtl<H>> {
        let at = s
            .idle_ms
            .iter()
            .rposition(|m| s.timekeeper != Some(m.id))
            .or_else(|| s.idle_ms.len().checked_sub(1))?;
        let m = s.idle_ms.remove(at);
        self.idle_ms.fetch_sub(1, Ordering::Relaxed);
        self.no_timekeeper(s, m.id);
        Some(m)
    }

    /// If M `id` was the timekeeper, it is no longer.
    fn no_timekeeper(&self, s: &mut Sched<H>, id: u32) {
        if s.timekeeper == Some(id) {
            s.timekeeper = None;
            self.keeper_deadline.store(u64::MAX, Ordering::SeqCst);
        }
    }

    fn pop_idle_p(&'static self, s: &mut Sched<H>) -> &'static P<H> {
        // One with work of its own first: it was retaken from an M that blocked.
        let at = s
            .idle_ps
            .iter()
            .position(|&id| !self.p(id).is_empty())
            .unwrap_or(s.idle_ps.len() - 1);
        let id = s.idle_ps.swap_remove(at);
        self.idle_ps.fetch_sub(1, Ordering::Relaxed);
        self.p(id)
    }

    /// Gives a free P to an M that sleeps and is in no list.
    pub(crate) fn hand_to(&'static self, ctl: &'static MCtl<H>, p: &'static P<H>) {
        ctl.attaching.store(true, Ordering::Relaxed);
        let before = ctl.next_p.swap(p.id + 1, Ordering::Release);
        debug_assert_eq!(before, 0, "one P at a time is handed to an M");
        ctl.parker.unpark();
        self.sysmon.note_running();
    }

    /// Gives a free P to an M that wants one, else puts it into the idle list (or to rest, above `gomaxprocs`).
    pub(crate) fn idle_p(&'static self, p: &'static P<H>) {
        let wanting = {
            let mut s = self.sched.lock();
            if p.id >= self.limit() {
                drop(s);
                self.rest_p(p);
                return;
            }
            let w = self.pop_wanting(&mut s);
            if w.is_none() {
                s.idle_ps.push(p.id);
                self.idle_ps.fetch_add(1, Ordering::Relaxed);
            }
            w
        };
        // Pairs with the fence in `submit`.
        fence(Ordering::SeqCst);
        if let Some(w) = wanting {
            self.hand_to(w, p);
        }
    }

    /// Lays a free P to rest that lies above `gomaxprocs`. Nobody looks at resting Ps, so what is queued there moves on.
    pub(crate) fn rest_p(&'static self, p: &'static P<H>) {
        let full = !p.is_empty();
        if full {
            let token = p.owner.acquire(&Seat::new());
            p.drain_to(&self.global);
            p.owner.release(token);
        }
        let back = {
            let mut s = self.sched.lock();
            let back = p.id < self.limit();
            if back {
                // The limit was raised again meanwhile.
                s.idle_ps.push(p.id);
                self.idle_ps.fetch_add(1, Ordering::Relaxed);
            } else {
                p.resting.store(true, Ordering::Relaxed);
            }
            back
        };
        fence(Ordering::SeqCst);
        if full {
            self.wake_for_work();
        }
        if back {
            self.serve_wanting();
        }
    }

    /// Pairs Ms that want a P with idle Ps: after Ps came back.
    pub(crate) fn serve_wanting(&'static self) {
        while self.wanted() {
            let (w, p) = {
                let mut s = self.sched.lock();
                if s.idle_ps.is_empty() {
                    return;
                }
                let Some(w) = self.pop_wanting(&mut s) else {
                    return;
                };
                (w, self.pop_idle_p(&mut s))
            };
            self.hand_to(w, p);
        }
    }

    pub(crate) fn pop_wanting(&self, s: &mut Sched<H>) -> Option<&'static MCtl<H>> {
        let w = s.wanting.pop_front()?;
        self.wanting.fetch_sub(1, Ordering::Relaxed);
        Some(w)
    }

    /// True if some M waits for a P. A look without the lock: the lists decide.
    pub(crate) fn wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }

    /// Gives this M's P to one that wants it, with what lies in its queue. In mode Sched; false if nobody wanted.
    pub(crate) fn give_to_wanting(&'static self, m: &M<H>) -> bool {
        let Some(w) = self.pop_wanting(&mut self.sched.lock()) else {
            return false;
        };
        if let Some(p) = m.drop_p() {
            self.hand_to(w, p);
        }
        true
    }

    /// The M found nothing: it gives its P up. The look for late work is the first thing `idle` does.
    pub(crate) fn rest(&'static self, m: &M<H>) {
        if let Some(p) = m.p.get() {
            p.note(Event::Idle, 0);
            m.drop_p();
            self.idle_p(p);
        }
    }

    /// True if an M with a P would find something.
    pub(crate) fn has_work(&self) -> bool {
        !self.global.is_empty() || self.has_work_in_queues()
    }

    /// True if it could be stolen somewhere: also from a P above the limit, which some M may still hold.
    pub(crate) fn has_work_in_queues(&self) -> bool {
        self.all_ps().any(|p| self.has_spoils(p))
    }

    /// An M without a P waits until it has one. False when it has to end.
    pub(crate) fn idle(&'static self, m: &M<H>) -> bool {
        let (mut listed, mut spun) = (false, false);
        loop {
            if let Some(p) = self.take_handed(m.ctl) {
                m.hold(p);
                break;
            }
            let work = !self.stopping() && self.has_work();
            let nap = {
                let mut s = self.sched.lock();
                // Taken off the list: a P is on its way (`pop_idle_m`, then `hand_to` without the lock). This M must
                // neither take another one nor end before it has come.
                if listed && !s.idle_ms.iter().any(|x| x.id == m.ctl.id) {
                    drop(s);
                    H::detached(|| m.ctl.parker.park(None));
                    continue;
                }
                if work && !s.idle_ps.is_empty() {
                    if listed {
                        self.unlist(&mut s, m.ctl.id);
                    }
                    let p = self.pop_idle_p(&mut s);
                    drop(s);
                    self.sysmon.note_running();
                    m.hold(p);
                    break;
                }
                if self.stopping() {
                    if listed {
                        self.unlist(&mut s, m.ctl.id);
                    }
                    return false;
                }
                if !listed {
                    listed = true;
                    s.idle_ms.push(m.ctl);
                    self.idle_ms.fetch_add(1, Ordering::Relaxed);
                    drop(s);
                    // Pairs with the fence in `submit`: work published before we were listed is seen by the next look.
                    fence(Ordering::SeqCst);
                    continue;
                }
                if !spun {
                    spun = true;
                    drop(s);
                    self.spin(m.ctl);
                    continue;
                }
                if work {
                    // There is no P for it: all run, or block unseen.
                    self.sysmon.kick();
                }
                self.timekeeper_nap(&mut s, m.ctl.id)
            };
            let timed = nap.is_some();
            H::detached(|| m.ctl.parker.park(nap));
            if timed {
                self.fire_all_due();
            }
        }
        self.keep_a_spare(m);
        true
    }

    /// A short look-out before the sleep, by one idle M at a time: what comes from outside a moment later needs no
    /// system call then. Not on GIL builds (whoever submits holds what we would need), nor on one CPU.
    fn spin(&'static self, ctl: &MCtl<H>) {
        if H::GIL || self.procs() < 2 || self.spinning.swap(true, Ordering::Relaxed) {
            return;
        }
        H::detached(|| {
            for _ in 0..SPINS {
                if ctl.next_p.load(Ordering::Relaxed) != 0 || !self.global.is_empty() {
                    break;
                }
                for _ in 0..SPIN_PAUSES {
                    std::hint::spin_loop();
                }
            }
        });
        self.spinning.store(false, Ordering::Relaxed);
        // Pairs with the fence in `submit`: a submitter that saw us spin published before our next look.
        fence(Ordering::SeqCst);
    }

    fn unlist(&self, s: &mut Sched<H>, id: u32) {
        s.idle_ms.retain(|x| x.id != id);
        self.idle_ms.fetch_sub(1, Ordering::Relaxed);
        self.no_timekeeper(s, id);
    }

    /// How long this idle M may sleep: until the earliest timer if it is (or becomes) the timekeeper.
    fn timekeeper_nap(&self, s: &mut Sched<H>, id: u32) -> Option<Duration> {
        if s.timekeeper.is_some_and(|t| t != id) {
            return None;
        }
        let next = self.next_timer();
        if next == u64::MAX {
            s.timekeeper = None;
            self.keeper_deadline.store(u64::MAX, Ordering::SeqCst);
            // Pairs with the fence in `timer_added`: a timer armed meanwhile is seen here or sees us.
            fence(Ordering::SeqCst);
            if self.next_timer() == u64::MAX {
                return None;
            }
        }
        s.timekeeper = Some(id);
        let next = self.next_timer();
        self.keeper_deadline.store(next, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let next = next.min(self.next_timer());
        Some(Duration::from_nanos(next.saturating_sub(self.now())))
    }

    /// True if something is due or queued, and there is no M for it: the runtime was stopped in the middle of something.
    /// Asked by a thread that is about to sleep in a wait (the embedder may start it then); one load where it runs.
    pub fn stands_still(&self) -> bool {
        // Pairs with the fence in `rouse_if_still`: either we see that it was stopped, or our seat is seen there.
        fence(Ordering::SeqCst);
        !self.is_started() && (self.next_timer() != u64::MAX || self.has_work())
    }

    /// It was stopped: threads that sleep in a wait look up once, and ask `stands_still`.
    pub(crate) fn rouse_if_still(&self) {
        if self.stands_still() {
            self.quiet.rouse();
        }
    }

    /// After arming the earliest timer of a shard: the timekeeper may have to get up earlier. Anybody.
    pub(crate) fn timer_added(&'static self, deadline: u64) {
        fence(Ordering::SeqCst);
        if self.keeper_deadline.load(Ordering::SeqCst) <= deadline {
            return;
        }
        let keeper = {
            let s = self.sched.lock();
            s.timekeeper.or_else(|| s.idle_ms.last().map(|m| m.id))
        };
        match keeper {
            Some(id) => self.m_ctl(id).parker.unpark(),
            None => self.sysmon.kick(),
        }
    }

    /// Fires what is due everywhere and queues it. Any M or sysmon, detached too.
    pub(crate) fn fire_all_due(&'static self) {
        // Between wheel and queue they are nowhere to be seen (`quiet.rs`).
        self.begin_work();
        let now = self.now();
        let mut due: Vec<GRef<H>> = Vec::new();
        for p in self.all_ps() {
            p.shard.fire(now, &mut due);
        }
        if !due.is_empty() {
            self.submit_all(due);
        }
        self.end_work();
    }

    /// Queues several goroutines at once. Anybody, detached too.
    pub fn submit_all(&'static self, gs: Vec<GRef<H>>) {
        if gs.is_empty() {
            return;
        }
        for chunk in gs.chunks(super::queue::BATCH) {
            self.global.push(Packet::Many(Box::new(chunk.to_vec())));
        }
        fence(Ordering::SeqCst);
        self.wake_for_work();
    }

    fn take_handed(&'static self, ctl: &MCtl<H>) -> Option<&'static P<H>> {
        match ctl.next_p.swap(0, Ordering::Acquire) {
            0 => None,
            n => Some(self.p(n - 1)),
        }
    }

    /// Waits, detached, until somebody hands a P over. The M is in the list `wanting`, or was taken out of it.
    pub(crate) fn await_p(&'static self, m: &M<H>) {
        loop {
            if let Some(p) = self.take_handed(m.ctl) {
                m.hold(p);
                return;
            }
            H::detached(|| m.ctl.parker.park(None));
        }
    }

    /// An M that just got a P makes sure that one more M sleeps somewhere, for the moment this one blocks: sysmon never
    /// attaches, so it cannot start threads itself. In mode Sched.
    fn keep_a_spare(&'static self, m: &M<H>) {
        if self.idle_ms.load(Ordering::Relaxed) > 0 {
            return;
        }
        m.leave();
        self.start_m();
        // The P may be gone by now: then the next turn of the loop waits for one.
        m.enter();
    }

    /// Starts one more M, if the limit allows it and none is on its way. Attached, outside the scheduler.
    pub(crate) fn start_m(&'static self) -> bool {
        let id = {
            let mut s = self.sched.lock();
            if s.starting > 0
                || s.live >= self.max_threads.load(Ordering::Relaxed)
                || self.stopping()
            {
                return false;
            }
            s.live += 1;
            s.starting += 1;
            s.spare_ctls.pop().unwrap_or_else(|| self.new_ctl())
        };
        if let Err(why) = H::start_thread(self, id) {
            let mut s = self.sched.lock();
            s.live -= 1;
            s.starting -= 1;
            s.spare_ctls.push(id);
            drop(s);
            self.note_start_failed(why);
            return false;
        }
        true
    }

    /// The new M is here.
    pub(crate) fn m_arrived(&'static self) {
        let mut s = self.sched.lock();
        s.starting = s.starting.saturating_sub(1);
    }

    /// An M ends: it is in no list.
    pub(crate) fn m_gone(&'static self, ctl: &'static MCtl<H>) {
        let mut s = self.sched.lock();
        s.live -= 1;
        s.spare_ctls.push(ctl.id);
        drop(s);
        self.gone.unpark();
    }
}
