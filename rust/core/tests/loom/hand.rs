//! Waiters whose every step the model takes itself, and the operations as threads call them.
#![allow(dead_code, reason = "each model uses some")]

use std::sync::Arc;
use std::time::Duration;

use gorun_core::chan::{Chan, Fate, Place, Side};
use gorun_core::gate::{Gate, Rule, Spot};
use gorun_core::mutex::{Mutex, Turn};
use gorun_core::runtime::Runtime;
use gorun_core::sched::{Fire, GRef, Kind, Park, Ticket, Verdict, WaitReason, Waker};
use gorun_core::select::{Event, Select};
use gorun_core::wait::{Attempt, End, Next, block_on};

use crate::host::{Model, Rt};

/// What a thread waits at most where the model wants a time-out: it is over at once.
pub const AT_ONCE: Option<Duration> = Some(Duration::from_nanos(1));

/// A runtime.
pub fn rt() -> Rt<false> {
    Runtime::leak(1, 9)
}

/// A goroutine off its M. Woken, it lies in the global queue.
#[derive(Clone, Copy)]
pub struct Hand {
    g: GRef<Model<false>>,
    ticket: Option<Ticket>,
}

impl Hand {
    pub fn new(rt: Rt<false>) -> Self {
        Self {
            g: rt.model_g(1),
            ticket: None,
        }
    }

    /// What it enlists with.
    pub fn arm(&mut self) -> (*const Waker, Ticket) {
        let w = &self.g.waker;
        w.set_kind(Kind::Goroutine, WaitReason::Event);
        let ticket = w.word.arm(true).unwrap();
        self.ticket = Some(ticket);
        (w, ticket)
    }

    /// True: it sleeps; else somebody was faster.
    pub fn park(&self) -> bool {
        self.g.waker.word.park() == Park::Parked
    }

    /// Its wait ends by itself, if nothing was faster.
    pub fn expire(&self) -> bool {
        let word = &self.g.waker.word;
        let won = word.fire(self.ticket.unwrap(), Verdict::Timeout) == Fire::Wake;
        if won {
            word.start();
        }
        won
    }

    /// True if what it waited for happened.
    pub fn is_ready(&self) -> bool {
        self.g.waker.word.verdict() == Some(Verdict::Ready)
    }
}

/// Memory that one model run shares by hand.
pub struct Shared<T>(*mut T);

// SAFETY: the models hand it on as the protocol under test does.
unsafe impl<T> Send for Shared<T> {}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(x: T) -> Self {
        Self(Box::into_raw(Box::new(x)))
    }

    /// # Safety
    /// Nobody else uses it now, but for those that the protocol lets.
    pub unsafe fn get<'a>(self) -> &'a mut T {
        // SAFETY: from a box; by the caller's promise.
        unsafe { &mut *self.0 }
    }

    pub fn free(self) -> T {
        // SAFETY: from a box; the model calls it last, once.
        unsafe { *Box::from_raw(self.0) }
    }
}

/// One side of a channel, as an operation.
pub struct On<T> {
    pub rt: Rt<false>,
    pub ch: Arc<Chan<T>>,
    pub side: Side,
    pub place: Place<T>,
}

// SAFETY: the one place is taken out by `delist`.
unsafe impl<T> Attempt for On<T> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { (self.ch).enlist(self.rt, self.side, &mut self.place, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted for this side.
        unsafe { self.ch.delist(self.side, &raw mut self.place) };
    }
    fn aside(&mut self) {
        self.ch.aside(&mut self.place);
    }
}

/// How a send or a receive of a thread ended: with what it received, or did not send.
pub fn on<T>(
    rt: Rt<false>,
    ch: &Arc<Chan<T>>,
    side: Side,
    place: Place<T>,
    limit: Option<Duration>,
) -> (End, Fate, Option<T>) {
    let mut op = On {
        rt,
        ch: ch.clone(),
        side,
        place,
    };
    let end = wait(rt, &mut op, limit);
    assert_eq!(end == End::Ready, op.place.fate != Fate::Open);
    (end, op.place.fate, op.place.value)
}

/// A send of a thread: None if it was sent.
pub fn send<T>(
    rt: Rt<false>,
    ch: &Arc<Chan<T>>,
    v: T,
    limit: Option<Duration>,
) -> (Fate, Option<T>) {
    let (_, fate, value) = on(rt, ch, Side::Send, Place::with(v), limit);
    (fate, value)
}

/// A receive of a thread.
pub fn recv<T>(rt: Rt<false>, ch: &Arc<Chan<T>>, limit: Option<Duration>) -> (Fate, Option<T>) {
    let (_, fate, value) = on(rt, ch, Side::Recv, Place::new(), limit);
    (fate, value)
}

/// Waits without checks.
pub fn wait(rt: Rt<false>, op: &mut impl Attempt, limit: Option<Duration>) -> End {
    block_on(rt, op, WaitReason::Event, limit, None, || {
        Ok::<_, ()>(Next::Sleep)
    })
    .unwrap()
}

/// A select as an operation.
pub struct Choose<T: 'static, L> {
    pub rt: Rt<false>,
    pub select: Select<T, Arc<Chan<T>>, L>,
    pub random: u64,
    pub won: Option<usize>,
}

// SAFETY: `delist` takes out all places.
unsafe impl<T, L: Event> Attempt for Choose<T, L> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        self.won = unsafe { (self.select).enlist(self.rt, self.random, waker, ticket) };
        self.won.is_none()
    }
    fn delist(&mut self) {
        self.select.delist(0);
    }
    fn aside(&mut self) {
        self.select.aside();
    }
    fn confirm(&mut self) -> bool {
        self.won = self.select.settle(0);
        assert!(self.won.is_some(), "woken for nothing");
        true
    }
}

/// Entering a gate.
pub struct Enter<'a, R: Rule> {
    pub rt: Rt<false>,
    pub gate: &'a Gate<R>,
    pub spot: Spot,
}

// SAFETY: the one spot is taken out by `delist`.
unsafe impl<R: Rule> Attempt for Enter<'_, R> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { self.gate.enlist(&mut self.spot, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted here.
        unsafe { self.gate.delist(self.rt, &raw mut self.spot) };
    }
    fn aside(&mut self) {
        self.gate.aside(&mut self.spot);
    }
}

/// A thread enters: true, or its time was up.
pub fn enter<R: Rule>(rt: Rt<false>, gate: &Gate<R>, want: u64, limit: Option<Duration>) -> bool {
    let spot = Spot::new(want);
    wait(rt, &mut Enter { rt, gate, spot }, limit) == End::Ready
}

/// Locking a mutex.
pub struct Locking<'a> {
    pub rt: Rt<false>,
    pub mutex: &'a Mutex,
    pub turn: Turn,
}

// SAFETY: the one turn is taken out by `delist`.
unsafe impl Attempt for Locking<'_> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { (self.mutex).enlist(self.rt, &mut self.turn, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted here.
        unsafe { self.mutex.delist(&raw mut self.turn) };
    }
    fn aside(&mut self) {
        self.mutex.aside(&mut self.turn);
    }
    fn confirm(&mut self) -> bool {
        self.mutex.confirm(&mut self.turn)
    }
}

/// A thread locks: true, or its time was up.
pub fn lock(rt: Rt<false>, mutex: &Mutex, limit: Option<Duration>) -> bool {
    let turn = Turn::new();
    wait(rt, &mut Locking { rt, mutex, turn }, limit) == End::Ready
}
