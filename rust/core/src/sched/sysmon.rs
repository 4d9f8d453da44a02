//! sysmon, the watcher: a thread that never attaches to the interpreter. It retakes Ps from Ms that block, lets others
//! steal where tasks are long, asks for yields after 10 ms, fires overdue timers, and lends Ps when all are held.
//!
//! Invariants:
//! - It touches atomics and G pointers only.
//! - It sleeps for good when every P is idle; whoever takes a P out of the idle list wakes it (`note_running`).
//! - It wakes no M while another one that was woken is still waiting to attach.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::owner::Token;
use super::p::P;
use super::probe::Verdict;
use super::{GRef, MCtl};
use crate::host::Host;
use crate::prim::asym;
use crate::prim::atomic::{AtomicU32, Ordering, fence};
use crate::prim::{futex_wait, futex_wake};
use crate::runtime::Runtime;
use crate::trace::Event;

const AWAKE: u32 = 0;
const NAP: u32 = 1;
const DEEP: u32 = 2;

/// First nap, and the one after each event: the latency of detected blocking, against the cost of looking.
const NAP_MIN: Duration = Duration::from_micros(50);
/// Last nap of the back-off, as in Go.
const NAP_MAX: Duration = Duration::from_millis(10);
/// Looks without an event before the nap doubles.
const PATIENCE: u32 = 10;
/// Kicks restart the back-off at most this often.
const KICKS_APART_NS: u64 = 2_000_000;
/// All-idle looks before the deep sleep.
const IDLE_LOOKS: u32 = 4;
/// A goroutine that runs longer is asked to yield, as in Go.
const PREEMPT_NS: u64 = 10_000_000;
/// Tasks at least this long are worth moving to another core.
const LONG_TASK_NS: u64 = 1_000;
/// Where tasks are shorter, a lone `runnext` is left to its own M: it is the other end of a channel more often than not.
const LONG_NEXT_NS: u64 = 20_000;
/// A counter that stood still for so long belongs to a long task.
const STILL_NS: u64 = 80_000;

/// How others reach the watcher.
pub struct Sysmon {
    word: AtomicU32,
    started: AtomicBool,
    /// Its thread's number, once it runs; 0 before.
    tid: AtomicU32,
    /// The limit of threads was met before: once is enough.
    told: AtomicBool,
}

impl Sysmon {
    /// Not started.
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(AWAKE),
            started: AtomicBool::new(false),
            tid: AtomicU32::new(0),
            told: AtomicBool::new(false),
        }
    }

    /// There is a reason to look now. Anybody; cheap when it is awake.
    pub fn kick(&self) {
        if self.word.load(Ordering::Relaxed) != AWAKE
            && self.word.swap(AWAKE, Ordering::AcqRel) != AWAKE
        {
            futex_wake(&self.word, 1);
        }
    }

    /// A P left the idle list: it must not sleep for good. Pairs with the fence before the deep sleep.
    pub fn note_running(&self) {
        fence(Ordering::SeqCst);
        if self.word.load(Ordering::Relaxed) == DEEP {
            self.kick();
        }
    }

    /// The number of its thread, if it runs.
    pub(super) fn tid(&self) -> Option<u32> {
        Some(self.tid.load(Ordering::Relaxed)).filter(|&tid| tid != 0)
    }

    /// True if it was kicked.
    fn nap(&self, how: u32, limit: Option<Duration>) -> bool {
        futex_wait(&self.word, how, limit);
        self.word.swap(AWAKE, Ordering::Relaxed) == AWAKE
    }
}

impl Default for Sysmon {
    fn default() -> Self {
        Self::new()
    }
}

/// What it remembers of a P between two looks.
#[derive(Clone, Copy, Default)]
struct Note {
    runs: u64,
    since: u64,
    token: Token,
}

impl<H: Host> Runtime<H> {
    /// Starts the watcher unless it runs. All signals are blocked in it, so that they reach threads that handle them.
    pub(crate) fn start_sysmon(&'static self) {
        if self.sysmon.started.swap(true, Ordering::AcqRel) {
            return;
        }
        // SAFETY: plain calls on local sets; the mask of this thread is put back.
        let old = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut old);
            old
        };
        let made = std::thread::Builder::new()
            .name("gorun-sysmon".into())
            .stack_size(128 * 1024)
            .spawn(move || self.watch());
        // SAFETY: the set was filled in by the call above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
        if made.is_err() {
            // Without it everything works but detected blocking, preemption and waking for long tasks.
            self.sysmon.started.store(false, Ordering::Release);
        }
    }

    fn watch(&'static self) {
        asym::set_up();
        // SAFETY: sets the slack of this thread's timers: naps of 50 us would be 100.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
        self.sysmon.tid.store(super::m::gettid(), Ordering::Relaxed);
        let mut notes: Vec<Note> = Vec::new();
        let (mut delay, mut quiet, mut idle_looks) = (NAP_MIN, 0, 0);
        let mut patient_until = 0;
        loop {
            if self.all_idle() {
                idle_looks += 1;
            } else {
                idle_looks = 0;
            }
            if idle_looks > IDLE_LOOKS {
                self.sleep_deep();
                (delay, quiet, idle_looks) = (NAP_MIN, 0, 0);
                continue;
            }
            self.sysmon.word.store(NAP, Ordering::Relaxed);
            let kicked = self.sysmon.nap(NAP, Some(self.nap_until_timer(delay)));
            if kicked && self.now() >= patient_until {
                // A reason to look closely for a while; not all the time, however often somebody kicks.
                (delay, quiet) = (NAP_MIN, 0);
                patient_until = self.now() + KICKS_APART_NS;
            }
            // While Ms end, their thread states go: those are not looked at any more.
            if !self.stopping() && self.look_around(&mut notes) {
                (delay, quiet) = (NAP_MIN, 0);
            } else {
                quiet += 1;
                if quiet > PATIENCE {
                    delay = (delay * 2).min(NAP_MAX);
                }
            }
        }
    }

    /// Sleeps until a P leaves the idle list, or a timer has nobody to get up for it; not at all if that is so now.
    pub(crate) fn sleep_deep(&self) {
        self.sysmon.word.store(DEEP, Ordering::Relaxed);
        // Pairs with the fence in `note_running`.
        fence(Ordering::SeqCst);
        if self.all_idle() {
            self.sysmon.nap(DEEP, None);
        } else {
            self.sysmon.word.store(AWAKE, Ordering::Relaxed);
        }
    }

    /// Nothing runs, and some idle M would get up for the timers.
    fn all_idle(&self) -> bool {
        self.idle_ps.load(Ordering::Relaxed) >= self.limit()
            && self.idle_ms.load(Ordering::Relaxed) > 0
            && (self.next_timer() == u64::MAX
                || self.keeper_deadline.load(Ordering::SeqCst) != u64::MAX)
    }

    fn nap_until_timer(&self, delay: Duration) -> Duration {
        let next = self.next_timer();
        if next == u64::MAX {
            return delay;
        }
        // A little late, so that the P's own M comes first if it can.
        let left = Duration::from_nanos((next + STILL_NS).saturating_sub(self.now()));
        delay.min(left.max(NAP_MIN))
    }

    /// One look; true if there was something to do.
    fn look_around(&'static self, notes: &mut Vec<Note>) -> bool {
        self.begin_work();
        let acted = self.look_closely(notes);
        self.end_work();
        acted
    }

    fn look_closely(&'static self, notes: &mut Vec<Note>) -> bool {
        let now = self.now();
        self.set_coarse_now(now);
        let limit = self.limit();
        let mut acted = false;
        let (mut all_held_long, mut waiting) = (true, !self.global.is_empty() || self.wanted());
        // Also those above the limit: an M that holds one may block, with work in the queue.
        for p in self.all_ps() {
            if notes.len() <= p.id as usize {
                notes.push(Note::default());
            }
            let note = &mut notes[p.id as usize];
            waiting |= !p.is_empty();
            let counts = p.id < limit;
            let Some(token) = self.in_body(p) else {
                note.since = now;
                all_held_long &= !counts;
                continue;
            };
            let runs = p.runs.get();
            if runs != note.runs || token != note.token {
                let mean = now.saturating_sub(note.since) / runs.wrapping_sub(note.runs).max(1);
                p.stealable
                    .store(!H::GIL && mean >= LONG_TASK_NS, Ordering::Relaxed);
                p.brisk.store(mean < LONG_NEXT_NS, Ordering::Relaxed);
                *note = Note {
                    runs,
                    since: now,
                    token,
                };
                self.forget_probe(p);
                all_held_long &= !counts;
                continue;
            }
            acted |= self.look_at_still(p, token, now, now.saturating_sub(note.since));
            all_held_long &= !counts || now.saturating_sub(note.since) >= PREEMPT_NS;
        }
        if self.next_timer().saturating_add(STILL_NS) <= now {
            self.fire_all_due();
            acted = true;
        }
        acted | self.wake_for_long_tasks() | self.lend(all_held_long && waiting)
    }

    /// A P whose counter stood still since the last look.
    fn look_at_still(&'static self, p: &'static P<H>, token: Token, now: u64, still: u64) -> bool {
        if still >= PREEMPT_NS {
            p.preempt.store(true, Ordering::Relaxed);
        }
        let due = p.shard.next() <= now;
        let waits = !p.is_empty() || due || !self.global.is_empty() || self.wanted();
        if !waits {
            return false;
        }
        let id = p.m.load(Ordering::Relaxed);
        if id == u32::MAX {
            // It was let go since `in_body`.
            return false;
        }
        let ctl = self.m_ctl(id);
        let verdict = match &*ctl.probe.lock() {
            Some(probe) => probe.sample(&self.interp(), now),
            None => return false,
        };
        if verdict == Verdict::Blocked && !self.somebody_attaches() && self.m_for_handoff() {
            // Before it is taken: the M says that it is over as soon as it has noticed.
            ctl.without_p.store(true, Ordering::Relaxed);
            if !p.owner.retake(token, &ctl.seat) {
                ctl.without_p.store(false, Ordering::Relaxed);
                return false;
            }
            p.m.store(u32::MAX, Ordering::Relaxed);
            p.handoffs.add(1);
            p.note(Event::Retake, 0);
            self.pass_on(p);
            return true;
        }
        if still >= STILL_NS {
            p.stealable.store(true, Ordering::Relaxed);
            p.brisk.store(false, Ordering::Relaxed);
        }
        // Anything but "blocked" by a thread that waits for the interpreter: look again soon.
        verdict == Verdict::Maybe
    }

    /// The acquisition under which a body runs on `p` now, if one does.
    pub(crate) fn in_body(&self, p: &P<H>) -> Option<Token> {
        let id = p.m.load(Ordering::Relaxed);
        if id == u32::MAX {
            return None;
        }
        // If that is old news, its seat names another acquisition.
        p.owner.in_body(&self.m_ctl(id).seat)
    }

    /// True if an M runs it without a P, which sysmon took away, and is still in the call that it was seen in: a look at
    /// the thread finds it neither at work nor waiting for the interpreter.
    pub fn is_blocked_unseen(&self, g: GRef<H>) -> bool {
        let is_its = |c: &&&MCtl<H>| c.g.load(Ordering::Relaxed) == g.as_ptr();
        let Some(ctl) = self.ctls().iter().find(is_its) else {
            return false;
        };
        ctl.without_p.load(Ordering::Relaxed)
            && ctl.probe.lock().as_ref().is_some_and(|probe| {
                matches!(
                    probe.sample(&self.interp(), self.now()),
                    Verdict::Blocked | Verdict::Maybe
                )
            })
    }

    fn forget_probe(&self, p: &P<H>) {
        let id = p.m.load(Ordering::Relaxed);
        if id != u32::MAX
            && let Some(probe) = &*self.m_ctl(id).probe.lock()
        {
            probe.forget();
        }
    }

    fn somebody_attaches(&self) -> bool {
        self.ctls()
            .iter()
            .any(|c| c.attaching.load(Ordering::Acquire))
    }

    /// True if a retaken P would find an M, now or soon. Otherwise it stays where it is, and the user is told once.
    fn m_for_handoff(&self) -> bool {
        if self.idle_ms.load(Ordering::Relaxed) > 0 || self.wanted() {
            return true;
        }
        let s = self.sched.lock();
        if s.starting == 0 {
            if s.live < self.max_threads.load(Ordering::Relaxed) {
                // A thread could not be started before: somebody attached has to try again.
                self.ask_for_m();
            } else if !self.sysmon.told.swap(true, Ordering::Relaxed) {
                self.limit_met.store(true, Ordering::Relaxed);
            }
        }
        false
    }

    /// Wakes an idle M where another's tasks are long, or work from outside waits.
    fn wake_for_long_tasks(&'static self) -> bool {
        if self.idle_ps.load(Ordering::Relaxed) == 0 || self.somebody_attaches() {
            return false;
        }
        let outside =
            !self.global.is_empty() && (!H::GIL || self.all_ps().all(|p| self.may_steal(p)));
        if outside || self.has_work_in_queues() {
            return self.wake_one();
        }
        false
    }

    /// One more P while every one is held by code that never yields, and back when one of them moves again.
    fn lend(&'static self, wanted: bool) -> bool {
        let lent = self.lent.load(Ordering::Relaxed);
        if !wanted {
            if lent > 0 && self.idle_ps.load(Ordering::Relaxed) > 0 {
                self.set_lent(0);
            }
            return false;
        }
        if lent >= self.procs()
            || self.somebody_attaches()
            || self.idle_ps.load(Ordering::Relaxed) > 0
        {
            return false;
        }
        self.set_lent(lent + 1);
        self.wake_one()
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests;
