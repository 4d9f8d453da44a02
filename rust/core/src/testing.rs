//! The host of the unit tests: no bodies, no interpreter, no threads of its own; and goroutines that wait by hand.

use std::cell::Cell;
use std::ptr::null;

use crate::host::{Host, Outcome};
use crate::runtime::Runtime;
use crate::sched::{Fire, GRef, Kind, M, Packet, Park, Ticket, Verdict, WaitReason, Waker};
use crate::timer::{Clock, MonotonicClock};

pub mod chans;

/// The host. Goroutines carry nothing and are never run.
pub struct BareOf<const GIL: bool>;

/// That of a free-threaded build: most tests.
pub type Bare = BareOf<false>;

/// Its runtime.
pub type Rt = &'static Runtime<Bare>;

thread_local! {
    static CURRENT: Cell<*const ()> = const { Cell::new(null()) };
    static CLOCK: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What the clock shows to this thread from now on.
pub fn set_clock(ns: u64) {
    CLOCK.set(Some(ns));
}

impl<const GIL: bool> Host for BareOf<GIL> {
    type Body = ();
    type Ext = u32;

    fn now_ns() -> u64 {
        CLOCK.get().unwrap_or_else(|| MonotonicClock.now_ns())
    }

    const GIL: bool = GIL;

    fn resume(_: &'static Runtime<Self>, _: &M<Self>, _: GRef<Self>, _: bool) -> Outcome {
        unreachable!("no bodies")
    }

    fn reset(_: &'static Runtime<Self>, g: GRef<Self>) -> bool {
        drop(g.take_latch());
        true
    }

    fn start_thread(_: &'static Runtime<Self>, _: u32) -> Result<(), String> {
        Err("no threads here".into())
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    fn current() -> *const M<Self> {
        CURRENT.get().cast()
    }

    fn set_current(m: *const M<Self>) {
        CURRENT.set(m.cast());
    }

    fn m_started(_: &'static Runtime<Self>, _: u32) {}

    fn m_stopping(_: &'static Runtime<Self>, _: u32) {}
}

/// A runtime without threads.
pub fn rt(procs: u32) -> Rt {
    Runtime::leak(procs, 100)
}

/// Runs `f` on a thread that passes for an M.
pub fn on_m<R>(m: &M<Bare>, f: impl FnOnce() -> R) -> R {
    Bare::set_current(m);
    let r = f();
    Bare::set_current(null());
    r
}

/// Runs `f` in a forked child; it must say true there.
pub fn in_child(f: impl FnOnce() -> bool) {
    // SAFETY: the child has this thread alone, takes no lock that another could have held, and ends by `_exit`.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(20);
            Runtime::<Bare>::note_fork();
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            libc::_exit(i32::from(!ok.unwrap_or(false)));
        }
        assert!(child > 0, "no child");
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0, "how the child ended");
    }
}

/// xorshift64*.
pub struct Rng(pub u64);

impl Rng {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

/// Goroutines whose every step the test takes itself: each waits for one thing at a time.
pub struct Crew {
    pub rt: Rt,
    gs: Vec<GRef<Bare>>,
    tickets: Vec<Option<Ticket>>,
}

impl Crew {
    /// `n` of them, at work.
    pub fn new(n: usize) -> Self {
        let rt = rt(1);
        Self {
            rt,
            gs: (0..n).map(|_| rt.model_g(1)).collect(),
            tickets: vec![None; n],
        }
    }

    /// `i` is about to wait: what it enlists with.
    pub fn arm(&mut self, i: usize) -> (*const Waker, Ticket) {
        let w = &self.gs[i].waker;
        w.set_kind(Kind::Goroutine, WaitReason::Event);
        let ticket = w.word.arm(true).expect("not cancelled");
        self.tickets[i] = Some(ticket);
        (w, ticket)
    }

    /// `i` need not wait.
    pub fn disarm(&self, i: usize) {
        self.gs[i].waker.word.disarm();
    }

    /// `i` waits.
    pub fn park(&self, i: usize) {
        assert_eq!(self.gs[i].waker.word.park(), Park::Parked);
    }

    /// The wait of `i` ends by itself: time-out, cancel, signal. False: something was faster.
    pub fn expire(&self, i: usize) -> bool {
        let word = &self.gs[i].waker.word;
        let ticket = self.tickets[i].expect("it waits");
        let won = word.fire(ticket, Verdict::Timeout) == Fire::Wake;
        if won {
            word.start();
        }
        won
    }

    /// Those that were woken since, in order; they are at work again.
    pub fn woken(&self) -> Vec<usize> {
        let mut all = Vec::new();
        while let Some(packet) = self.rt.global.pop() {
            let Packet::One(g) = packet else {
                panic!("one at a time")
            };
            assert_eq!(g.waker.word.verdict(), Some(Verdict::Ready));
            g.waker.word.start();
            all.extend(self.gs.iter().position(|x| *x == g));
        }
        all
    }
}
