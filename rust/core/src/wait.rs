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
//! | fork | nobody: lists and nodes carry the epoch, the child's lists are empty | an error that says so |
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
    /// Its owner runs signal handlers: keeps its place, gets nothing.
    aside: bool,
    /// Of the process that enlisted it.
    epoch: u32,
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
            aside: false,
            epoch: 0,
            waker: std::ptr::null(),
            ticket: None,
        }
    }

    /// True while it is in a list. Under that list's lock.
    pub fn is_linked(&self) -> bool {
        self.linked && self.epoch == crate::runtime::epoch()
    }

    /// Says whose wait it is, of now. Under the list's lock.
    pub fn belongs_to(&mut self, waker: *const Waker, ticket: Ticket) {
        self.waker = waker;
        self.ticket = Some(ticket);
        self.aside = false;
    }

    /// The one behind it. Under the list's lock.
    pub fn next(&self) -> Option<*mut Node> {
        (!self.next.is_null()).then_some(self.next)
    }

    /// True while its owner runs signal handlers. Under the list's lock.
    pub fn is_aside(&self) -> bool {
        self.aside
    }

    /// Keeps its place, gets nothing. Under the list's lock.
    pub fn step_aside(&mut self) {
        self.aside = true;
    }

    /// Ends its owner's wait as Ready: None if another end came first; else who has to be woken once the lock is
    /// released. Whatever the owner is to find must be in place before. Under the list's lock.
    #[must_use]
    pub fn fire(&self) -> Option<Wakeup> {
        let ticket = self.ticket.expect("linked nodes have one");
        // SAFETY: memory of wakers is never unmapped (pools), an old ticket loses.
        match unsafe { (*self.waker).word.fire(ticket, Verdict::Ready) } {
            Fire::Lost => None,
            Fire::Noted => Some(Wakeup(std::ptr::null())),
            Fire::Wake => Some(Wakeup(self.waker)),
        }
    }
}

/// A waiter whose wait was ended, to be woken when no lock is held.
#[must_use]
pub struct Wakeup(*const Waker);

impl Wakeup {
    /// Nobody to wake.
    pub const NONE: Self = Self(std::ptr::null());

    /// Wakes it, if it sleeps.
    pub fn wake<H: Host>(self, rt: &'static Runtime<H>) {
        if !self.0.is_null() {
            // SAFETY: made by `Node::fire`, which won a parked waiter.
            unsafe { rt.wake(self.0) };
        }
    }
}

/// Those to be woken, in order, when no lock is held: a few lie on the stack.
#[derive(Default)]
pub struct Wakeups {
    few: [Option<Wakeup>; 4],
    n: usize,
    many: Vec<Wakeup>,
}

impl Wakeups {
    /// One more; nobody to wake takes no place.
    pub fn add(&mut self, w: Wakeup) {
        if w.0.is_null() {
            return;
        }
        if let Some(slot) = self.few.get_mut(self.n) {
            *slot = Some(w);
            self.n += 1;
        } else {
            self.many.push(w);
        }
    }

    /// Wakes them all.
    pub fn wake<H: Host>(self, rt: &'static Runtime<H>) {
        if self.n == 0 {
            return;
        }
        for w in self.few.into_iter().flatten().chain(self.many) {
            w.wake(rt);
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// First come, first served; insertion and removal in O(1).
///
/// In a forked child it is empty again: the nodes of the parent's waiters may lie on stacks that other threads use by
/// now, so they are forgotten, not looked at.
pub struct List {
    head: *mut Node,
    tail: *mut Node,
    epoch: u32,
}

// SAFETY: the pointers are followed only under the lock that owns the list, and nodes are pinned while linked.
unsafe impl Send for List {}

impl List {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            head: null_mut(),
            tail: null_mut(),
            epoch: 0,
        }
    }

    fn refresh(&mut self) {
        let epoch = crate::runtime::epoch();
        if self.epoch != epoch {
            self.epoch = epoch;
            self.head = null_mut();
            self.tail = null_mut();
        }
    }

    /// Appends `node`.
    ///
    /// # Safety
    /// Under the list's lock; the node is not linked and stays where it is until it is taken out.
    pub unsafe fn push(&mut self, node: *mut Node) {
        self.refresh();
        // SAFETY: linked nodes are valid by the caller's promise.
        unsafe {
            (*node).prev = self.tail;
            (*node).next = null_mut();
            (*node).linked = true;
            (*node).epoch = self.epoch;
            if self.tail.is_null() {
                self.head = node;
            } else {
                (*self.tail).next = node;
            }
        }
        self.tail = node;
    }

    /// Puts `node` in its place before `next`, or last.
    ///
    /// # Safety
    /// As `push`; `next` is linked here.
    pub unsafe fn insert(&mut self, node: *mut Node, next: Option<*mut Node>) {
        self.refresh();
        // SAFETY: linked nodes are valid by the caller's promise.
        unsafe {
            let Some(next) = next else {
                return self.push(node);
            };
            let prev = (*next).prev;
            (*node).prev = prev;
            (*node).next = next;
            (*node).linked = true;
            (*node).epoch = self.epoch;
            (*next).prev = node;
            if prev.is_null() {
                self.head = node;
            } else {
                (*prev).next = node;
            }
        }
    }

    /// True if nobody is in it, those aside included.
    pub fn is_empty(&mut self) -> bool {
        self.refresh();
        self.head.is_null()
    }

    /// The very first, aside or not. Under the list's lock.
    pub fn head(&mut self) -> Option<*mut Node> {
        self.refresh();
        (!self.head.is_null()).then_some(self.head)
    }

    /// True if somebody who is not aside waits before `node` (of one that is not linked: waits at all). Under the
    /// list's lock.
    pub fn anyone_before(&mut self, node: *const Node) -> bool {
        self.refresh();
        let mut at = self.head;
        while !at.is_null() && !std::ptr::eq(at, node) {
            // SAFETY: linked here.
            unsafe {
                if !(*at).aside {
                    return true;
                }
                at = (*at).next;
            }
        }
        false
    }

    /// Takes `node` out if it is linked; true if it was.
    ///
    /// # Safety
    /// Under the list's lock; the node is linked here or nowhere.
    pub unsafe fn remove(&mut self, node: *mut Node) -> bool {
        self.refresh();
        // SAFETY: linked nodes are valid by the promise of `push`.
        unsafe {
            if !(*node).is_linked() {
                (*node).linked = false;
                return false;
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
        true
    }

    /// The oldest that can be delivered to, left in its place: those aside are passed over.
    ///
    /// # Safety
    /// Under the list's lock.
    pub unsafe fn first(&mut self) -> Option<*mut Node> {
        self.refresh();
        let mut node = self.head;
        while !node.is_null() {
            // SAFETY: it is linked here.
            unsafe {
                if !(*node).aside {
                    return Some(node);
                }
                node = (*node).next;
            }
        }
        None
    }

    /// Takes the oldest that can be delivered to out.
    ///
    /// # Safety
    /// Under the list's lock.
    pub unsafe fn pop(&mut self) -> Option<*mut Node> {
        // SAFETY: it is linked here.
        unsafe {
            let node = self.first()?;
            self.remove(node);
            Some(node)
        }
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
    check: impl FnMut() -> Result<(), E>,
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
    check: impl FnMut() -> Result<(), E>,
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
    Again,
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
    mut check: impl FnMut() -> Result<(), E>,
) -> Result<End, E> {
    let until = timeout.and_then(|t| Instant::now().checked_add(t));
    let mut handed_off = false;
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
        match wait_round(w, ticket, until, slice, attempt, &mut check, |f| {
            H::detached(f)
        }) {
            Round::Again => {}
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
                break Ok(End::Timeout);
            }
            Round::Failed(e) => {
                attempt.delist();
                break Err(e);
            }
        }
    };
    w.clear_reason();
    if let (Some((m, g)), true) = (m, handed_off) {
        rt.take_p_again(m, g);
    }
    end
}

/// Parks and sleeps until the wait `ticket` is over, or it is time for a check.
fn wait_round<A: Attempt, E>(
    w: &Waker,
    ticket: Ticket,
    until: Option<Instant>,
    slice: Option<Duration>,
    attempt: &mut A,
    check: &mut impl FnMut() -> Result<(), E>,
    detached: impl Fn(&dyn Fn() -> Wake) -> Wake,
) -> Round<E> {
    if let Park::Fired(v) = w.park() {
        return Round::Over(v);
    }
    while w.word.phase() == Phase::Parked {
        let left = until.map(|e| e.saturating_duration_since(Instant::now()));
        if left.is_some_and(|d| d.is_zero()) {
            // Lost means that another end came first: the phase says so by now.
            if w.word.fire(ticket, Verdict::Timeout) == Fire::Wake {
                w.word.start();
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
            if w.word.fire(ticket, Verdict::Timeout) != Fire::Wake {
                break;
            }
            w.word.start();
            return match check() {
                Ok(()) => Round::Again,
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
