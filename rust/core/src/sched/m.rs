//! M, a thread that runs goroutines, and its loop.
//!
//! Invariants:
//! - The loop is attached to the interpreter all the time; it detaches only to park (`idle.rs`).
//! - Mode Sched: the M holds its P and may touch it; no user code runs. Mode Body: user code runs, and sysmon may take
//!   the P. Mode None: no P. User code never runs in mode Sched, so callbacks always find a consistent P.
//! - Nothing here keeps a `&mut` across a call into a body: everything is a cell.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use super::g::{G, GRef};
use super::owner::{Seat, Token};
use super::p::{Count, P};
use super::probe::Probe;
use crate::host::{Host, Outcome};
use crate::prim::{Lock, Parker, atomic as modelled};
use crate::runtime::Runtime;
use crate::trace::Event;

/// What others may know of an M.
pub struct MCtl<H: Host> {
    /// Its number.
    pub id: u32,
    /// Where it sleeps.
    pub parker: Parker,
    /// Where it stands towards the P that it holds.
    pub seat: Seat,
    /// The P it was handed (id + 1), or 0. The release of the giver pairs with the acquire of the M.
    pub next_p: modelled::AtomicU32,
    /// Between being woken with a P and running: sysmon wakes no other meanwhile.
    pub attaching: AtomicBool,
    /// Runs a goroutine without a P (it was retaken).
    pub without_p: AtomicBool,
    /// The goroutine it runs, for lists.
    pub g: AtomicPtr<G<H>>,
    /// How sysmon looks at it. Opened by the M, dropped by it at its end.
    pub probe: Lock<Option<Probe>>,
    /// Native thread id.
    pub tid: AtomicU32,
    /// Goroutines made and ended on this thread; written by it only.
    pub created: Count,
    pub ended: Count,
}

impl<H: Host> MCtl<H> {
    /// The control block of M number `id`.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            parker: Parker::new(),
            seat: Seat::new(),
            next_p: modelled::AtomicU32::new(0),
            attaching: AtomicBool::new(false),
            without_p: AtomicBool::new(false),
            g: AtomicPtr::new(std::ptr::null_mut()),
            probe: Lock::new(None),
            tid: AtomicU32::new(0),
            created: Count::default(),
            ended: Count::default(),
        }
    }
}

/// Where an M stands towards its P.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Has no P.
    None,
    /// Holds it, inside the scheduler.
    Sched,
    /// Holds it unless sysmon took it: inside a body.
    Body,
}

/// An M, seen from its own thread. Lives on the stack of `Runtime::m_main`.
pub struct M<H: Host> {
    /// What others see.
    pub ctl: &'static MCtl<H>,
    /// The runtime.
    pub rt: &'static Runtime<H>,
    pub(crate) p: Cell<Option<&'static P<H>>>,
    pub(crate) token: Cell<Token>,
    pub(crate) mode: Cell<Mode>,
    pub(crate) g: Cell<Option<GRef<H>>>,
}

impl<H: Host> M<H> {
    /// The goroutine whose body runs here.
    pub fn goroutine(&self) -> Option<GRef<H>> {
        self.g.get()
    }

    /// Says that no goroutine is current for a while (callbacks); give what it returns to `set_goroutine`.
    pub fn set_goroutine(&self, g: Option<GRef<H>>) -> Option<GRef<H>> {
        self.g.replace(g)
    }

    /// Runs `f` on the P if this M holds one: the way in from a body. `f` runs no user code.
    pub fn with_p<R>(&self, f: impl FnOnce(&'static P<H>) -> R) -> Option<R> {
        match self.mode.get() {
            Mode::None => None,
            Mode::Sched => self.p.get().map(f),
            Mode::Body => {
                if !self.enter() {
                    return None;
                }
                let r = self.p.get().map(f);
                self.leave();
                r
            }
        }
    }

    /// Body to Sched; false if the P is gone (then the mode is None).
    pub(crate) fn enter(&self) -> bool {
        let Some(p) = self.p.get() else { return false };
        if p.owner.enter(self.token.get(), &self.ctl.seat) {
            self.mode.set(Mode::Sched);
            true
        } else {
            self.p.set(None);
            self.mode.set(Mode::None);
            false
        }
    }

    /// Sched to Body.
    pub(crate) fn leave(&self) {
        if let Some(p) = self.p.get() {
            self.mode.set(Mode::Body);
            p.owner.leave(self.token.get(), &self.ctl.seat);
        }
    }

    /// Takes hold of an idle P that is this M's by hand-over or from the idle list.
    pub(crate) fn hold(&self, p: &'static P<H>) {
        let token = p.owner.acquire(&self.ctl.seat);
        p.m.store(self.ctl.id, Ordering::Relaxed);
        p.preempt.store(false, Ordering::Relaxed);
        self.token.set(token);
        self.p.set(Some(p));
        self.mode.set(Mode::Sched);
        self.ctl.without_p.store(false, Ordering::Relaxed);
        self.ctl.attaching.store(false, Ordering::Release);
    }

    /// Lets go of the P, in mode Sched, and returns it.
    pub(crate) fn drop_p(&self) -> Option<&'static P<H>> {
        let p = self.p.take()?;
        p.m.store(u32::MAX, Ordering::Relaxed);
        p.owner.release(self.token.get());
        self.mode.set(Mode::None);
        Some(p)
    }

    /// True if the body that runs here may be asked to yield: `take_preempt` says it for certain.
    #[inline]
    pub fn may_preempt(&self) -> bool {
        self.p
            .get()
            .is_none_or(|p| p.preempt.load(Ordering::Relaxed))
    }

    /// True if the body that runs here is asked to yield. Clears the request.
    pub fn take_preempt(&self) -> bool {
        match self.p.get() {
            Some(p) => {
                p.preempt.load(Ordering::Relaxed) && p.preempt.swap(false, Ordering::Relaxed)
            }
            // A retaken M gives way at its next operation.
            None => true,
        }
    }
}

impl<H: Host> Runtime<H> {
    /// The life of an M. Called attached, on its own thread; returns when the M is told to end.
    pub fn m_main(&'static self, id: u32) {
        let ctl = self.m_ctl(id);
        ctl.tid.store(gettid(), Ordering::Relaxed);
        *ctl.probe.lock() = Some(Probe::open_current(self.probe_mode()));
        H::m_started(self, id);
        let m = M {
            ctl,
            rt: self,
            p: Cell::new(None),
            token: Cell::new(Token::default()),
            mode: Cell::new(Mode::None),
            g: Cell::new(None),
        };
        H::set_current(&raw const m);
        self.m_arrived();
        while self.m_turn(&m) {}
        if self.forked() {
            // The locks of the parent's runtime may be held by threads that are not here.
            return;
        }
        H::set_current(std::ptr::null());
        H::m_stopping(self, id);
        *ctl.probe.lock() = None;
        self.m_gone(ctl);
    }

    /// One turn of the loop; false when the M has to end.
    fn m_turn(&'static self, m: &M<H>) -> bool {
        if m.mode.get() == Mode::None && !self.idle(m) {
            return false;
        }
        let Some(g) = self.find(m) else { return true };
        self.run(m, g);
        // A forked child has only this thread, and no runtime that knows it.
        !self.forked()
    }

    /// Runs one step of `g` on the held P.
    fn run(&'static self, m: &M<H>, g: GRef<H>) {
        let p = m.p.get().expect("find leaves a P when it returns work");
        p.runs.add(1);
        let id = g.id.load(Ordering::Relaxed);
        p.note(Event::Start, id);
        if let Some(at) = g.take_ready() {
            self.note_ready(p, at);
        }
        m.g.set(Some(g));
        m.ctl.g.store(g.as_ptr(), Ordering::Relaxed);
        let cancelled = g.waker.word.start();
        m.leave();
        let outcome = H::resume(self, m, g, cancelled);
        m.g.set(None);
        if self.forked() {
            return;
        }
        m.ctl.g.store(std::ptr::null_mut(), Ordering::Relaxed);
        // Freed here, where the P's cache is at hand. `reset` drops references, so it comes before `enter`.
        let freed = outcome == Outcome::Done && g.release() && self.clear(g);
        let held = m.mode.get() == Mode::Body && m.enter();
        if let Some(p) = m.p.get() {
            let event = match outcome {
                Outcome::Done => Event::End,
                Outcome::Parked => Event::Park,
                Outcome::Yield => Event::Yield,
            };
            p.note(event, id);
        }
        match outcome {
            Outcome::Done if !freed => {}
            Outcome::Done => match m.p.get() {
                Some(p) => p.give_g(g, &self.pool),
                None => self.pool.give(g),
            },
            Outcome::Parked => {
                if let Some(p) = m.p.get() {
                    p.parks.add(1);
                }
            }
            Outcome::Yield => match m.p.get() {
                Some(p) if held => p.push_back(g),
                _ => self.submit(super::queue::Packet::One(g)),
            },
        }
        if !held {
            m.ctl.without_p.store(false, Ordering::Relaxed);
        }
    }
}

pub(super) fn gettid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    u32::try_from(tid).unwrap_or(0)
}
