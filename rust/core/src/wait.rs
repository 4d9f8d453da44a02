//! Waiting, written once: a list of waiters, the seam of all operations (`Attempt`), the blocking wait (`block_on`), and
//! the latch (a one-shot event) that joins stand on.
//!
//! Every blocking operation is the same three beats: *try; register; try again or wait*. Who delivers: the one that
//! changes the state (`Latch::close`, a sender, a timer, a cancel). Who claims: the winner of `StateWord::fire`.
//!
//! Stepping aside: a thread that must run signal handlers marks its node in the list as aside, then ends its wait itself
//! (nobody can deliver meanwhile, so a handler that raises loses nothing), and enlists again afterwards in the same place.
//! In this order, so that no deliverer takes a node out of the list in vain. If its own claim loses, the operation has
//! happened: it returns, and the signal is left to the interpreter.
//!
//! Ends of a wait on a latch
//! | end | decided by | what the waiter does |
//! |---|---|---|
//! | closed | `close` pops the node and fires Ready | returns; its node is out of the list already |
//! | time-out | the wheel (goroutine) or the thread itself fires Timeout | takes its node out, reports the time-out |
//! | cancel | `StateWord::cancel` flips the armed wait | takes its node out, raises |
//! | signal | the thread steps aside; its check fails | takes its node out, raises what the check raised |
//! | closed loop, dropped operation | the operation's dealloc | fires itself, takes its node out |
//! | deadlock | the main thread, which looks after each slice whether anything can still happen (`sched/quiet.rs`); for others by a time-out, which a wait for ever has for no other reason | takes its node out, raises |
//! | fork | nobody: lists and nodes carry the epoch, the child's lists are empty | an error that says so |
//! | exit | nobody fires | the waiter is left where it is |
//!
//! Ends that every list of waiters has alike (channels, select, the mutex, gates, latches); their tables say what is theirs
//! | end | what happens |
//! |---|---|
//! | closed event loop | the task's stand-in keeps its place in the list until it is fired or the operation is dropped. Fired, it finds the loop closed (`gorun._hooks._wake`) and withdraws: what it was given goes back (`undo`), to the next waiter |
//! | fork | in the child nobody waits: lists are of the parent's epoch, wheels are fresh, so nothing of the parent times out there. The state (buffer, lock, count) is as it was |
//! | exit | goroutines are cancelled and given half a second (`gorun._runtime`), then nobody fires. A daemon thread that wakes during it ends by SystemExit (`door.rs`, `over`); the others are left where they are |
//!
//! Invariants:
//! - A node is linked only while its owner is inside the wait; the owner takes it out before it goes on.
//! - The list's lock is taken only by attached threads, with no safe point inside (DESIGN: the rule for locks).

use std::cell::Cell;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;

use crate::host::Host;
use crate::prim::atomic::{AtomicBool, Ordering, fence};
use crate::prim::{Lock, Wake};
use crate::runtime::Runtime;
use crate::sched::{Fire, GRef, Kind, M, Park, Phase, Ticket, Verdict, WaitReason, Waker};

mod list;
pub use list::{List, Node, Wakeup, Wakeups};

struct Inner<E> {
    closed: bool,
    list: List,
    ext: E,
}

/// A one-shot event. `E` lies under the same lock.
pub struct Latch<E = ()> {
    inner: Lock<Inner<E>>,
    /// Copy of `inner.closed` for a look without the lock. The release in `close` pairs with the acquire in `is_closed`.
    closed: AtomicBool,
}

impl<E: Default> Default for Latch<E> {
    fn default() -> Self {
        Self {
            inner: Lock::new(Inner {
                closed: false,
                list: List::new(),
                ext: E::default(),
            }),
            closed: AtomicBool::new(false),
        }
    }
}

impl<E> Latch<E> {
    /// True once closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Registers a waiter; false if the latch is closed already.
    ///
    /// # Safety
    /// The node and the waker stay where they are until the node is out of the list (popped, or `delist`).
    #[must_use]
    pub unsafe fn enlist(&self, node: *mut Node, waker: *const Waker, ticket: Ticket) -> bool {
        let mut inner = self.inner.lock();
        // SAFETY: under the lock; valid by the caller's promise.
        unsafe {
            if inner.closed {
                // It was linked if its owner was aside, and `close` may not have come to it yet.
                inner.list.remove(node);
                return false;
            }
            (*node).belongs_to(waker, ticket);
            if !(*node).is_linked() {
                inner.list.push(node);
            }
        }
        true
    }

    /// Takes a waiter out again, if it is still there.
    ///
    /// # Safety
    /// The node was given to `enlist` of this latch, or to none.
    pub unsafe fn delist(&self, node: *mut Node) {
        // SAFETY: under the lock, linked here or nowhere.
        unsafe { self.inner.lock().list.remove(node) };
    }

    /// Opens the gate for ever and wakes every waiter, in order. True for the first call.
    pub fn close<H: Host>(&self, rt: &'static Runtime<H>) -> bool {
        let first = {
            let mut inner = self.inner.lock();
            let first = !inner.closed;
            inner.closed = true;
            self.closed.store(true, Ordering::Release);
            first
        };
        loop {
            let woken = {
                let mut inner = self.inner.lock();
                // SAFETY: under the lock; the owner may leave as soon as it can take the lock.
                let Some(node) = (unsafe { inner.list.pop() }) else {
                    break;
                };
                // SAFETY: as above.
                unsafe { (*node).fire() }
            };
            if let Some(w) = woken {
                w.wake(rt);
            }
        }
        first
    }

    /// Access to what lies under the lock, with the answer whether the latch is closed. Inside: no Python.
    pub fn with<R>(&self, f: impl FnOnce(&mut E, bool) -> R) -> R {
        let mut inner = self.inner.lock();
        let closed = inner.closed;
        f(&mut inner.ext, closed)
    }
}

/// How the first two beats of an operation went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It has happened, and nothing was armed.
    Happened,
    /// It has happened, after the wait was armed: the caller disarms.
    Late,
    /// Armed and registered.
    Waits,
    /// It would have to wait, and nobody armed.
    Refused,
}

/// How a wait of a thread ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It happened.
    Ready,
    /// The time was up.
    Timeout,
    /// The goroutine is being cancelled: raise.
    Cancelled,
    /// It would block the last free M: raise before waiting.
    ThreadLimit,
    /// Nothing can happen any more. Threads only.
    Deadlock,
}

/// What a thread does after a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Sleeps on.
    Sleep,
    /// Looks first whether anything can still happen.
    Look,
}

/// One operation of one caller, as a wait drives it. The first beat, a try without waiting, is its maker's.
///
/// # Safety
/// After `enlist` said true the operation stays where it is until `delist`; `delist` leaves no pointer to it behind.
pub unsafe trait Attempt {
    /// Tries once more, else registers, under one lock. False: it has happened, nothing is registered. Called again
    /// after `aside` (takes its place again) and after `confirm` said false.
    ///
    /// # Safety
    /// The waker is never unmapped, and armed with this ticket; after true the operation is pinned (see above).
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool;
    /// Takes itself out of every list. The wait is over or `enlist` was never called.
    fn delist(&mut self);
    /// Keeps its place in every list and gets nothing until it enlists again. Called while the wait is still open: what
    /// was delivered before stands.
    fn aside(&mut self) {}
    /// Aside, because of a signal: its handlers may take their time, or wait for those behind. Those may pass.
    fn away(&mut self) {}
    /// After Ready: true if it has happened, false if it was only told to try again.
    fn confirm(&mut self) -> bool {
        true
    }
}

/// Nothing to register with: a sleep.
pub struct Alone;

// SAFETY: registers nowhere.
unsafe impl Attempt for Alone {
    unsafe fn enlist(&mut self, _: *const Waker, _: Ticket) -> bool {
        true
    }
    fn delist(&mut self) {}
}

/// Waits for a latch.
pub struct LatchWait<'a, E> {
    latch: &'a Latch<E>,
    node: Node,
}

impl<'a, E> LatchWait<'a, E> {
    /// For `latch`.
    pub fn new(latch: &'a Latch<E>) -> Self {
        Self {
            latch,
            node: Node::new(),
        }
    }
}

// SAFETY: the one node is taken out by `delist`.
unsafe impl<E> Attempt for LatchWait<'_, E> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { self.latch.enlist(&raw mut self.node, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: given to this latch, or to none.
        unsafe { self.latch.delist(&raw mut self.node) };
    }
    // A latch gives nothing that could be lost: its waiters need not step aside, an old ticket loses.
}

/// A latch wait as a blocking call: the first beat, then `block_on`.
pub fn block<H: Host, X, E>(
    rt: &'static Runtime<H>,
    latch: Option<&Latch<X>>,
    reason: WaitReason,
    timeout: Option<Duration>,
    slice: Option<Duration>,
    check: impl FnMut() -> Result<Next, E>,
) -> Result<End, E> {
    if let Some((_, g)) = rt.current_goroutine() {
        if g.waker.word.take_cancel() {
            return Ok(End::Cancelled);
        }
    } else if pinned().is_some_and(|w| w.word.take_cancel()) {
        return Ok(End::Cancelled);
    }
    match latch {
        Some(l) if l.is_closed() => Ok(End::Ready),
        Some(l) => block_on(rt, &mut LatchWait::new(l), reason, timeout, slice, check),
        None => block_on(rt, &mut Alone, reason, timeout, slice, check),
    }
}

/// An operation as a blocking call: for threads, and for goroutines that keep their M (whose P is handed on). It was
/// tried without success before.
///
/// `check` is called attached every `slice` and after each signal, with the operation aside; its error ends the wait.
pub fn block_on<H: Host, A: Attempt, E>(
    rt: &'static Runtime<H>,
    attempt: &mut A,
    reason: WaitReason,
    timeout: Option<Duration>,
    slice: Option<Duration>,
    check: impl FnMut() -> Result<Next, E>,
) -> Result<End, E> {
    if timeout.is_some_and(|t| t.is_zero()) {
        return Ok(End::Timeout);
    }
    if let Some((m, g)) = rt.current_goroutine() {
        if !rt.may_block() {
            return Ok(End::ThreadLimit);
        }
        return block_as(
            rt,
            Some((m, g)),
            &g.waker,
            true,
            attempt,
            reason,
            timeout,
            slice,
            check,
        );
    }
    if let Some(w) = PINNED.try_with(Cell::take).unwrap_or(None) {
        // Taken for the time of the wait: a wait inside it (a signal handler's) is none of the scope's.
        let end = block_as(rt, None, w, true, attempt, reason, timeout, slice, check);
        pin(Some(w));
        return end;
    }
    let w = take_waker();
    let end = block_as(rt, None, w, false, attempt, reason, timeout, slice, check);
    // Not by a destructor: a thread may be unwound by force inside (`H::detached`); then the waker is left where it is.
    put_waker_back(w);
    end
}

/// How one round of a wait ended.
enum Round<E> {
    Over(Verdict),
    /// Aside, and the check had nothing against going on.
    Again(Next),
    Failed(E),
}

#[expect(
    clippy::too_many_arguments,
    reason = "`block_on`, with the waiter found"
)]
fn block_as<H: Host, A: Attempt, E>(
    rt: &'static Runtime<H>,
    m: Option<(&M<H>, GRef<H>)>,
    w: &Waker,
    cuttable: bool,
    attempt: &mut A,
    reason: WaitReason,
    timeout: Option<Duration>,
    slice: Option<Duration>,
    mut check: impl FnMut() -> Result<Next, E>,
) -> Result<End, E> {
    let until = timeout.and_then(|t| Instant::now().checked_add(t));
    let (mut handed_off, mut next) = (false, Next::Sleep);
    w.set_for_ever(timeout.is_none() && !H::tied());
    let seat = m.is_none().then(|| rt.quiet.sit(rt.epoch(), w));
    let end = loop {
        w.set_kind(Kind::Thread, reason);
        let Ok(ticket) = w.word.arm(cuttable) else {
            attempt.delist();
            break Ok(End::Cancelled);
        };
        // SAFETY: armed just now; `attempt` is borrowed until it was taken out below.
        if !unsafe { attempt.enlist(w, ticket) } {
            w.word.disarm();
            break Ok(End::Ready);
        }
        if let Some((m, g)) = m {
            if !handed_off {
                g.set_since(rt.coarse_now());
                rt.hand_off(m, g);
                handed_off = true;
            }
        }
        let round = match w.park() {
            Park::Fired(v) => Round::Over(v),
            // Parked first: what came while it was aside was seen by `enlist`.
            Park::Parked if next == Next::Look && rt.stuck() && give_up(w, ticket) => {
                Round::Over(Verdict::Timeout)
            }
            Park::Parked => wait_round(w, ticket, until, slice, attempt, &mut check, |f| {
                H::detached(f)
            }),
        };
        match round {
            Round::Again(n) => next = n,
            Round::Over(Verdict::Ready) => {
                if attempt.confirm() {
                    break Ok(End::Ready);
                }
            }
            Round::Over(v) => {
                attempt.delist();
                if v == Verdict::Cancel {
                    w.word.delivered();
                    break Ok(End::Cancelled);
                }
                // Who waits for ever runs out of time for one reason only.
                break Ok(timeout.map_or(End::Deadlock, |_| End::Timeout));
            }
            Round::Failed(e) => {
                attempt.delist();
                break Err(e);
            }
        }
    };
    w.clear_reason();
    if let Some(before) = seat {
        rt.quiet.rise(before);
    }
    if let (Some((m, g)), true) = (m, handed_off) {
        rt.take_p_again(m, g);
    }
    end
}

/// Ends the wait by a time-out, by its own thread; false if another end came first.
fn give_up(w: &Waker, ticket: Ticket) -> bool {
    let won = w.word.fire(ticket, Verdict::Timeout) == Fire::Wake;
    if won {
        w.word.start();
    }
    won
}

/// Sleeps, parked, until the wait `ticket` is over, or it is time for a check.
fn wait_round<A: Attempt, E>(
    w: &Waker,
    ticket: Ticket,
    until: Option<Instant>,
    slice: Option<Duration>,
    attempt: &mut A,
    check: &mut impl FnMut() -> Result<Next, E>,
    detached: impl Fn(&dyn Fn() -> Wake) -> Wake,
) -> Round<E> {
    while w.word.phase() == Phase::Parked {
        let left = until.map(|e| e.saturating_duration_since(Instant::now()));
        if left.is_some_and(|d| d.is_zero()) {
            // Lost means that another end came first: the phase says so by now.
            if give_up(w, ticket) {
                return Round::Over(Verdict::Timeout);
            }
            break;
        }
        let nap = match (left, slice) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let woke = detached(&|| w.sleep_on(nap));
        if slice.is_some() && woke != Wake::Woken && w.word.phase() == Phase::Parked {
            // Aside first: a deliverer that finds us in the list either has ended the wait by now, or passes us over. The
            // other way round one could pop us, lose, and our place would be gone.
            attempt.aside();
            if !give_up(w, ticket) {
                break;
            }
            if woke == Wake::Interrupted {
                attempt.away();
            }
            return match check() {
                Ok(next) => Round::Again(next),
                Err(e) => Round::Failed(e),
            };
        }
    }
    // Another one ended the wait and goes on to wake us, by what this waker says now (`Runtime::wake`): it must not be
    // used for the next wait before that has happened.
    while !w.woken() {
        detached(&|| w.sleep_on(None));
    }
    w.word.start();
    Round::Over(w.word.verdict().expect("a wait that ended has a verdict"))
}

/// The joiner's half of the hand-shake with `Runtime::finish`: after the latch is made, look at the state again.
pub fn join_fence() {
    // Pairs with `StateWord::finish` and `G::latch_at_end`: either the joiner sees Done, or the finisher sees the latch.
    fence(Ordering::SeqCst);
}

static SPARE_WAKERS: SegQueue<&'static Waker> = SegQueue::new();

/// The waker that a thread keeps at hand.
struct AtHand(Cell<Option<&'static Waker>>);

impl Drop for AtHand {
    fn drop(&mut self) {
        if let Some(w) = self.0.take() {
            SPARE_WAKERS.push(w);
        }
    }
}

thread_local! {
    static AT_HAND: AtHand = const { AtHand(Cell::new(None)) };
}

thread_local! {
    static PINNED: Cell<Option<&'static Waker>> = const { Cell::new(None) };
}

/// From now on the waits of this thread (outside goroutines) use `w`, which must be for it alone and never unmapped, and
/// may be cut through it; None: no more. The owner of `w` keeps its word in phase Running between waits.
pub fn pin(w: Option<&'static Waker>) {
    // Past the thread's end of storage nobody waits any more.
    let _ = PINNED.try_with(|p| p.set(w));
}

/// What was pinned to this thread, unless a wait has it.
pub fn pinned() -> Option<&'static Waker> {
    PINNED.try_with(Cell::get).unwrap_or(None)
}

/// A waker for one wait of this thread: never unmapped, used again. A wait inside a wait (a signal handler, called by
/// `check`, that blocks too) takes another than the one at hand.
fn take_waker() -> &'static Waker {
    let used = AT_HAND
        .try_with(|h| h.0.take())
        .unwrap_or(None)
        .or_else(|| SPARE_WAKERS.pop());
    let w = used.unwrap_or_else(|| Box::leak(Box::new(Waker::new())));
    w.word.renew_running();
    w
}

fn put_waker_back(w: &'static Waker) {
    if cfg!(loom) {
        // The atomics of a model live for one run of it.
        return;
    }
    // The thread may be past its thread-local storage.
    let other = AT_HAND.try_with(|h| h.0.replace(Some(w)));
    if let Some(other) = other.unwrap_or(Some(w)) {
        SPARE_WAKERS.push(other);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
