//! Waiting, written once: a list of waiters, and the latch (a one-shot event) that joins stand on.
//!
//! Every blocking operation is the same three beats: *try; register; try again or wait*. Who delivers: the one that
//! changes the state (`Latch::close`, a timer, a cancel). Who claims: the winner of `StateWord::fire`.
//!
//! Ends of a wait on a latch
//! | end | decided by | what the waiter does |
//! |---|---|---|
//! | closed | `close` pops the node and fires Ready | returns; its node is out of the list already |
//! | time-out | the wheel (goroutine) or the thread itself fires Timeout | takes its node out, reports the time-out |
//! | cancel | `StateWord::cancel` flips the armed wait | takes its node out, raises |
//! | signal | the thread's check fails | fires itself as timed out, takes its node out, raises what the check raised |
//! | closed loop, dropped operation | the operation's dealloc | fires itself, takes its node out |
//! | fork | the child never waits on what the parent ran (epoch) | an error that says so |
//! | exit | nobody fires | the waiter is left where it is |
//!
//! Invariants:
//! - A node is linked only while its owner is inside the wait; the owner takes it out before it goes on.
//! - The list's lock is taken only by attached threads, with no safe point inside (DESIGN: the rule for locks).

use std::cell::Cell;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;

use crate::host::Host;
use crate::prim::atomic::{AtomicBool, Ordering, fence};
use crate::prim::{Lock, Wake};
use crate::runtime::Runtime;
use crate::sched::{Fire, GRef, Kind, M, Park, Phase, Ticket, Verdict, WaitReason, Waker};

/// Membership of one waiter in one list. Lives in the waiter: pinned while linked.
pub struct Node {
    prev: *mut Node,
    next: *mut Node,
    linked: bool,
    waker: *const Waker,
    ticket: Option<Ticket>,
}

impl Node {
    /// An unlinked node.
    pub const fn new() -> Self {
        Self {
            prev: null_mut(),
            next: null_mut(),
            linked: false,
            waker: std::ptr::null(),
            ticket: None,
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// First come, first served; insertion and removal in O(1).
pub struct List {
    head: *mut Node,
    tail: *mut Node,
}

// SAFETY: the pointers are followed only under the lock that owns the list, and nodes are pinned while linked.
unsafe impl Send for List {}

impl List {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            head: null_mut(),
            tail: null_mut(),
        }
    }

    /// Appends `node`.
    ///
    /// # Safety
    /// Under the list's lock; the node is not linked and stays where it is until it is taken out.
    pub unsafe fn push(&mut self, node: *mut Node) {
        // SAFETY: linked nodes are valid by the caller's promise.
        unsafe {
            (*node).prev = self.tail;
            (*node).next = null_mut();
            (*node).linked = true;
            if self.tail.is_null() {
                self.head = node;
            } else {
                (*self.tail).next = node;
            }
        }
        self.tail = node;
    }

    /// Takes `node` out if it is linked.
    ///
    /// # Safety
    /// Under the list's lock; the node is linked here or nowhere.
    pub unsafe fn remove(&mut self, node: *mut Node) {
        // SAFETY: linked nodes are valid by the promise of `push`.
        unsafe {
            if !(*node).linked {
                return;
            }
            let (prev, next) = ((*node).prev, (*node).next);
            if prev.is_null() {
                self.head = next;
            } else {
                (*prev).next = next;
            }
            if next.is_null() {
                self.tail = prev;
            } else {
                (*next).prev = prev;
            }
            (*node).linked = false;
        }
    }

    /// Takes the oldest out.
    ///
    /// # Safety
    /// Under the list's lock.
    pub unsafe fn pop(&mut self) -> Option<*mut Node> {
        let node = self.head;
        if node.is_null() {
            return None;
        }
        // SAFETY: it is linked here.
        unsafe { self.remove(node) };
        Some(node)
    }
}

impl Default for List {
    fn default() -> Self {
        Self::new()
    }
}

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
        if inner.closed {
            return false;
        }
        // SAFETY: under the lock; valid by the caller's promise.
        unsafe {
            (*node).waker = waker;
            (*node).ticket = Some(ticket);
            inner.list.push(node);
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
            let (waker, ticket) = {
                let mut inner = self.inner.lock();
                // SAFETY: under the lock.
                let Some(node) = (unsafe { inner.list.pop() }) else {
                    break;
                };
                // SAFETY: it was linked, so its owner is still inside its wait; the copy is made under the lock,
                // because the owner may leave as soon as it can take the lock.
                unsafe {
                    (
                        (*node).waker,
                        (*node).ticket.expect("linked nodes have one"),
                    )
                }
            };
            // SAFETY: memory of wakers is never unmapped (pools), an old ticket loses.
            if unsafe { (*waker).word.fire(ticket, Verdict::Ready) } == Fire::Wake {
                // SAFETY: we won a parked waiter.
                unsafe { rt.wake(waker) };
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
}

/// A `Latch` wait as a blocking call: for threads, and for goroutines that keep their M (whose P is handed on).
///
/// `check` is called attached every `slice` and after each signal; its error ends the wait.
pub fn block<H: Host, X, E>(
    rt: &'static Runtime<H>,
    latch: Option<&Latch<X>>,
    reason: WaitReason,
    timeout: Option<Duration>,
    slice: Option<Duration>,
    check: impl FnMut() -> Result<(), E>,
) -> Result<End, E> {
    if let Some((m, g)) = rt.current_goroutine() {
        return block_as(
            rt,
            Some((m, g)),
            &g.waker,
            true,
            latch,
            reason,
            timeout,
            slice,
            check,
        );
    }
    if let Some(w) = PINNED.try_with(Cell::take).unwrap_or(None) {
        // Taken for the time of the wait: a wait inside it (a signal handler's) is none of the scope's.
        let end = block_as(rt, None, w, true, latch, reason, timeout, slice, check);
        pin(Some(w));
        return end;
    }
    let w = take_waker();
    let end = block_as(rt, None, w, false, latch, reason, timeout, slice, check);
    // Not by a destructor: a thread may be unwound by force inside (`H::detached`); then the waker is left where it is.
    put_waker_back(w);
    end
}

#[expect(clippy::too_many_arguments, reason = "`block`, with the waiter found")]
fn block_as<H: Host, X, E>(
    rt: &'static Runtime<H>,
    m: Option<(&M<H>, GRef<H>)>,
    w: &Waker,
    cuttable: bool,
    latch: Option<&Latch<X>>,
    reason: WaitReason,
    timeout: Option<Duration>,
    slice: Option<Duration>,
    mut check: impl FnMut() -> Result<(), E>,
) -> Result<End, E> {
    if cuttable && w.word.take_cancel() {
        return Ok(End::Cancelled);
    }
    if latch.is_some_and(Latch::is_closed) {
        return Ok(End::Ready);
    }
    if timeout.is_some_and(|t| t.is_zero()) {
        return Ok(End::Timeout);
    }
    if m.is_some() && !rt.may_block() {
        return Ok(End::ThreadLimit);
    }
    w.set_kind(Kind::Thread, reason);
    let Ok(ticket) = w.word.arm(cuttable) else {
        return Ok(End::Cancelled);
    };
    let mut node = Node::new();
    if let Some(l) = latch {
        // SAFETY: the node stays on this stack until it is out: `delist` below runs on every path.
        if !unsafe { l.enlist(&raw mut node, w, ticket) } {
            w.word.disarm();
            w.clear_reason();
            return Ok(End::Ready);
        }
    }
    let end = timeout.and_then(|t| Instant::now().checked_add(t));
    let mut failed = None;
    if let Some((m, g)) = m {
        g.set_since(rt.coarse_now());
        rt.hand_off(m, g);
    }
    let verdict = match w.park() {
        Park::Fired(v) => v,
        Park::Parked => {
            let mut ended_here = false;
            while w.word.phase() == Phase::Parked {
                let left = end.map(|e| e.saturating_duration_since(Instant::now()));
                if left.is_some_and(|d| d.is_zero()) {
                    // Lost means that another end came first: the phase says so by now.
                    ended_here = w.word.fire(ticket, Verdict::Timeout) == Fire::Wake;
                    break;
                }
                let nap = match (left, slice) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                let woke = H::detached(|| w.sleep_on(nap));
                if w.word.phase() == Phase::Parked
                    && (woke == Wake::Interrupted || (woke == Wake::TimedOut && slice.is_some()))
                {
                    if let Err(e) = check() {
                        failed = Some(e);
                        ended_here = w.word.fire(ticket, Verdict::Timeout) == Fire::Wake;
                        break;
                    }
                }
            }
            // Another one ended the wait and goes on to wake us, by what this waker says now (`Runtime::wake`): it must
            // not be used for the next wait before that has happened.
            while !ended_here && !w.woken() {
                H::detached(|| w.sleep_on(None));
            }
            w.word.start();
            w.word.verdict().expect("a wait that ended has a verdict")
        }
    };
    if let Some(l) = latch {
        // SAFETY: the node was given to this latch.
        unsafe { l.delist(&raw mut node) };
    }
    w.clear_reason();
    if let Some((m, g)) = m {
        rt.take_p_again(m, g);
    }
    if let Some(e) = failed {
        // A cancel that came first stays pending: this raises something else.
        w.word.disarm();
        return Err(e);
    }
    if verdict == Verdict::Cancel {
        w.word.delivered();
    }
    Ok(match verdict {
        Verdict::Ready => End::Ready,
        Verdict::Timeout => End::Timeout,
        Verdict::Cancel => End::Cancelled,
    })
}

/// The joiner's half of the hand-shake with `Runtime::finish`: after the latch is made, look at the state again.
pub fn join_fence() {
    // Pairs with the fence in `finish`: either the joiner sees Done, or the finisher sees the latch.
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
