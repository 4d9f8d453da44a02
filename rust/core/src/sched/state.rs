//! The state word: one atomic that decides everything about a waiter (a goroutine, or a thread that waits).
//!
//! Invariants:
//! - Whoever moves PARKED to RUNNING (`fire` or `cancel` answering `Wake`) owns the waiter and must wake it, once.
//!   Between that and its first instruction it lies in a run queue; the word does not tell, lists ask whether an M runs
//!   it. That saves the M a read-modify-write for each goroutine that it takes from a queue.
//! - A wait ends by exactly one compare-and-swap: ready, time-out and cancel race for the ARMED bit and one wins.
//! - A ticket names one wait. It only grows, also when the memory is used again, so a late waker with an old ticket
//!   loses: memory of waiters is type-stable (see `pool.rs`), hence a late look is never a wild one.
//! - The word says that there is a cancel, not whose: who asked for what lies beside it (`cancel.rs`).
//! - Only the owner (the M that runs the goroutine, the thread itself) arms, disarms, parks, starts and finishes.

use crate::prim::atomic::{AtomicU64, Ordering};

const PHASE: u64 = 0b111;
const NEW: u64 = 0;
const RUNNING: u64 = 1;
const PARKED: u64 = 2;
const DONE: u64 = 3;
/// A wait is registered and undecided.
const ARMED: u64 = 1 << 3;
/// The armed wait may be ended by a cancel.
const CUT: u64 = 1 << 4;
const VERDICT: u64 = 0b11 << 5;
const VERDICT_SHIFT: u32 = 5;
/// A cancel that no cancel point has delivered yet.
const PENDING: u64 = 1 << 7;
/// Parked by a thread that sleeps on it: nobody may take it aside.
const HELD: u64 = 1 << 8;
const TICKET_SHIFT: u32 = 16;
const TICKET_ONE: u64 = 1 << TICKET_SHIFT;

/// What a waiter is doing, as seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Never started, or free.
    New,
    /// An M runs it, or it lies in a run queue (or it is a thread that does not wait).
    Running,
    /// Off its M until somebody fires.
    Parked,
    /// Ended.
    Done,
}

/// Why a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Verdict {
    /// What was waited for happened.
    Ready = 1,
    /// The time was up first.
    Timeout = 2,
    /// A cancel came first; it counts as delivered once `take_cancel` returned true.
    Cancel = 3,
}

impl Verdict {
    fn of(word: u64) -> Option<Self> {
        match (word & VERDICT) >> VERDICT_SHIFT {
            1 => Some(Self::Ready),
            2 => Some(Self::Timeout),
            3 => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// Names one wait of one waiter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// The end of its number, for those who keep it while the wait lasts only.
    pub fn low(self) -> u32 {
        self.0 as u32
    }
}

/// A pending cancel was met on entry and is hereby delivered: the caller raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CancelNow;

/// Verdict of `park`.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Park {
    /// Parked. From here on another thread may run the waiter: do not touch it.
    Parked,
    /// Somebody fired before: go on running.
    Fired(Verdict),
}

/// Verdict of `fire`.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fire {
    /// Another end came first, or the ticket is old: nothing happened.
    Lost,
    /// Won; the waiter has not parked yet and will see it.
    Noted,
    /// Won; the waiter is parked and is now the caller's to wake.
    Wake,
}

/// Verdict of `cancel`.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancel {
    /// It has ended: too late.
    Ended,
    /// An undelivered cancel is there already.
    Already,
    /// Noted: delivered at the next cancel point.
    Set,
    /// A parked wait was cut: the waiter is now the caller's to wake.
    Wake,
}

/// The one atomic word of a waiter.
pub struct StateWord(AtomicU64);

impl StateWord {
    /// A word in phase New.
    pub fn new() -> Self {
        Self(AtomicU64::new(NEW))
    }

    // All transitions are AcqRel read-modify-writes: whatever the last owner wrote (frame, outcome, verdict data) is
    // seen by the next. Each pairs with the transition that follows it, or with the queue that it travels through.

    fn update(&self, mut f: impl FnMut(u64) -> u64) -> u64 {
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let new = f(old);
            match self
                .0
                .compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return old,
                Err(now) => old = now,
            }
        }
    }

    /// What the waiter is doing.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) & PHASE {
            RUNNING => Phase::Running,
            PARKED => Phase::Parked,
            DONE => Phase::Done,
            _ => Phase::New,
        }
    }

    /// Makes freshly allocated memory ready for use: phase Running, all flags off, the ticket one higher.
    /// Only by the allocator's caller, before anybody else knows the waiter.
    pub fn renew_running(&self) {
        let ticket = self.0.load(Ordering::Relaxed) >> TICKET_SHIFT;
        self.overwrite(((ticket + 1) << TICKET_SHIFT) | RUNNING);
    }

    /// A plain store will do for the new owner: late wakers with old tickets only ever compare.
    fn overwrite(&self, word: u64) {
        #[cfg(not(loom))]
        self.0.store(word, Ordering::Release);
        // loom 0.7 does not keep a store out of the middle of another thread's exchange.
        #[cfg(loom)]
        self.0.swap(word, Ordering::Release);
    }

    /// As `renew_running`, but dormant: parked and armed before its first step, until fired (timers, foreign wakers).
    pub fn renew_dormant(&self) -> Ticket {
        let ticket = (self.0.load(Ordering::Relaxed) >> TICKET_SHIFT) + 1;
        self.overwrite((ticket << TICKET_SHIFT) | PARKED | ARMED);
        Ticket(ticket)
    }

    /// Takes a dormant waiter out of the race: true if it will never be woken.
    pub fn revoke(&self, ticket: Ticket) -> bool {
        let mut won = false;
        self.update(|w| {
            won = w >> TICKET_SHIFT == ticket.0 && w & ARMED != 0;
            if won { (w & !(ARMED | PHASE)) | NEW } else { w }
        });
        won
    }

    /// By the M that took it from a queue: true if a cancel is pending.
    pub fn start(&self) -> bool {
        let w = self.0.load(Ordering::Acquire);
        debug_assert_eq!(w & PHASE, RUNNING);
        w & PENDING != 0
    }

    /// Running to Done. True if an undelivered cancel was still pending.
    pub fn finish(&self) -> bool {
        let mut old = self.0.load(Ordering::Relaxed);
        // SeqCst: `Runtime::finish` looks for a latch next, and its maker looks here (`wait::join_fence`).
        while let Err(now) =
            self.0
                .compare_exchange_weak(old, Self::done(old), Ordering::SeqCst, Ordering::Relaxed)
        {
            old = now;
        }
        debug_assert_eq!(old & PHASE, RUNNING);
        old & PENDING != 0
    }

    /// As `finish`, where nobody else changes the word now: who cancels would need the interpreter lock that the caller
    /// holds, and who fires loses anyway.
    pub fn finish_alone(&self) {
        let old = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(old & PHASE, RUNNING);
        self.overwrite(Self::done(old));
    }

    fn done(word: u64) -> u64 {
        (word & !(PHASE | PENDING | ARMED)) | DONE
    }

    /// Begins a wait. `cuttable`: a cancel may end it, and a pending one is delivered instead of waiting.
    pub fn arm(&self, cuttable: bool) -> Result<Ticket, CancelNow> {
        let mut cancel = false;
        let old = self.update(|w| {
            cancel = cuttable && w & PENDING != 0;
            if cancel {
                w & !PENDING
            } else {
                let cut = if cuttable { CUT } else { 0 };
                ((w & !(VERDICT | CUT | HELD)) + TICKET_ONE) | ARMED | cut
            }
        });
        debug_assert!(matches!(old & PHASE, RUNNING));
        if cancel {
            Err(CancelNow)
        } else {
            Ok(Ticket((old >> TICKET_SHIFT) + 1))
        }
    }

    /// Ends a wait that turned out to be needless, because the operation has happened: a cancel that came in between
    /// goes back to pending, for the next cancel point.
    pub fn disarm(&self) {
        self.update(|w| {
            let cut = w & ARMED == 0 && Verdict::of(w) == Some(Verdict::Cancel);
            (w & !(ARMED | CUT | VERDICT)) | if cut { PENDING } else { 0 }
        });
    }

    /// Commits to waiting: Running to Parked, unless somebody fired already.
    pub fn park(&self) -> Park {
        self.park_as(0)
    }

    /// As `park`, for a thread that stays and sleeps: `inspect` leaves it alone.
    pub fn park_held(&self) -> Park {
        self.park_as(HELD)
    }

    fn park_as(&self, held: u64) -> Park {
        let mut fired = None;
        self.update(|w| {
            debug_assert_eq!(w & PHASE, RUNNING);
            // Neither armed nor fired: a wait that was taken back by hand. It must not sleep for ever.
            fired = (w & ARMED == 0).then(|| Verdict::of(w).unwrap_or(Verdict::Ready));
            if w & ARMED != 0 {
                (w + (PARKED - RUNNING)) | held
            } else {
                w
            }
        });
        match fired {
            None => Park::Parked,
            Some(v) => Park::Fired(v),
        }
    }

    /// Ends the wait `ticket` by `verdict`. Anybody may call it, detached too.
    pub fn fire(&self, ticket: Ticket, verdict: Verdict) -> Fire {
        let mut end = Fire::Lost;
        self.update(|w| {
            if w >> TICKET_SHIFT != ticket.0 || w & ARMED == 0 {
                end = Fire::Lost;
                return w;
            }
            let w = (w & !(ARMED | CUT | VERDICT)) | ((verdict as u64) << VERDICT_SHIFT);
            if w & PHASE == PARKED {
                end = Fire::Wake;
                w - (PARKED - RUNNING)
            } else {
                end = Fire::Noted;
                w
            }
        });
        end
    }

    /// As `fire`, by somebody who knows the end of the ticket's number.
    pub fn fire_low(&self, low: u32, verdict: Verdict) -> Fire {
        // If the ticket grows in between, `fire` loses.
        let now = Ticket(self.0.load(Ordering::Acquire) >> TICKET_SHIFT);
        if now.low() == low {
            self.fire(now, verdict)
        } else {
            Fire::Lost
        }
    }

    /// Asks for a cancel. Anybody may call it.
    pub fn cancel(&self) -> Cancel {
        let mut end = Cancel::Set;
        self.update(|w| {
            if w & PHASE == DONE {
                end = Cancel::Ended;
                w
            } else if w & PENDING != 0
                || (w & ARMED == 0 && Verdict::of(w) == Some(Verdict::Cancel))
            {
                end = Cancel::Already;
                w
            } else if w & (ARMED | CUT) == ARMED | CUT {
                let w =
                    (w & !(ARMED | CUT | VERDICT)) | ((Verdict::Cancel as u64) << VERDICT_SHIFT);
                if w & PHASE == PARKED {
                    end = Cancel::Wake;
                    w - (PARKED - RUNNING)
                } else {
                    end = Cancel::Set;
                    w
                }
            } else {
                end = Cancel::Set;
                w | PENDING
            }
        });
        end
    }

    /// Marks a cancel verdict as delivered, so that a later cancel counts anew. By the owner.
    pub fn delivered(&self) {
        self.update(|w| w & !VERDICT);
    }

    /// Delivers a pending cancel at a cancel point that does not wait: true means raise. By the owner.
    pub fn take_cancel(&self) -> bool {
        if self.0.load(Ordering::Relaxed) & PENDING == 0 {
            return false;
        }
        self.uncancel()
    }

    /// Takes a pending cancel back, undelivered; true if there was one. Under the lock of those who ask (`cancel.rs`).
    pub fn uncancel(&self) -> bool {
        self.update(|w| w & !PENDING) & PENDING != 0
    }

    /// True if a cancel waits to be delivered.
    pub fn cancel_pending(&self) -> bool {
        self.0.load(Ordering::Relaxed) & PENDING != 0
    }

    /// True if a cancel was asked for and is not delivered yet, whether it cut a wait or is pending.
    pub fn cancel_asked(&self) -> bool {
        let w = self.0.load(Ordering::Relaxed);
        w & PENDING != 0 || (w & ARMED == 0 && Verdict::of(w) == Some(Verdict::Cancel))
    }

    /// The wait that a thread sleeps in on this word, if one does: the same answer twice means that it slept all the time
    /// in between (`inspect` leaves such a waiter alone, and a ticket is never used again).
    pub fn held(&self) -> Option<Ticket> {
        let w = self.0.load(Ordering::Acquire);
        (w & (PHASE | ARMED | HELD) == PARKED | ARMED | HELD).then_some(Ticket(w >> TICKET_SHIFT))
    }

    /// How the last wait ended. By the owner.
    pub fn verdict(&self) -> Option<Verdict> {
        Verdict::of(self.0.load(Ordering::Acquire))
    }

    /// True if its last wait is the one whose ticket ends so. By the owner.
    pub fn is_last(&self, low: u32) -> bool {
        Ticket(self.0.load(Ordering::Acquire) >> TICKET_SHIFT).low() == low
    }

    /// Takes a parked waiter aside so that its frame can be looked at: it counts as running and un-parked meanwhile,
    /// whoever fires leaves the waking to the inspector, who must call `park` and queue it on `Fired`.
    pub fn inspect(&self) -> bool {
        let mut won = false;
        self.update(|w| {
            won = w & PHASE == PARKED && w & (ARMED | HELD) == ARMED;
            if won { w - (PARKED - RUNNING) } else { w }
        });
        won
    }
}

impl Default for StateWord {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
