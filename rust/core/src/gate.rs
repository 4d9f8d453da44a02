//! The gate: a first-come queue before a small state machine. Semaphore, RWMutex, Event, WaitGroup and Cond are gates
//! with different rules; the queue, time-outs, cancels, hand-over are written here, once.
//!
//! Who delivers: whoever changes the state (`Gate::change`) lets in those at the head of the queue, as long as the rule
//! admits the first: for each the rule takes what it wants, then fires; a waiter whose wait ended otherwise gives it
//! back. So what was fired has entered already, and a newcomer cannot pass between. Who claims: `Node::fire`.
//!
//! | end of a wait | what happens |
//! |---|---|
//! | admitted | the node is out, the rule has taken what it wanted |
//! | time-out, cancel | the node is taken out; it may have been what held the next ones up, so the head is looked at again |
//! | signal | aside: it keeps its place. Others pass it meanwhile (`pass`), unless entering takes nothing away: then it is let in on account |
//! | end of a slice | aside for a moment: nobody passes but by a change, else a large request or a writer would starve |
//! | taker vanished after it was admitted | `undo`: the rule takes it back, and the head is looked at |
//! | closed event loop | as a taker that vanished |
//! | fork | the child's queue is empty; the state is as it was (as with `threading`'s locks) |
//! | exit | as every list (`wait.rs`): cancelled, then left |
//!
//! Invariant, under the lock: the first of the queue (if it is not aside) is not admitted by the state.

use std::collections::BTreeSet;

use crate::host::Host;
use crate::prim::Kept;
use crate::runtime::Runtime;
use crate::sched::{Ticket, Waker};
use crate::wait::{List, Node, Wakeups};

/// What a gate guards.
pub trait Rule {
    /// Entering takes nothing that a signal handler could want: one that is aside is let in on account.
    const ON_ACCOUNT: bool = false;
    /// Lets one in that wants `want`, if it may: takes what it needs. `waits`: others wait before it.
    fn enter(&mut self, want: u64, waits: bool) -> bool;
    /// Takes an `enter` back: its taker vanished.
    fn undo(&mut self, want: u64);
    /// After one was refused: true if others may be let in past it.
    fn goes_on(&self) -> bool {
        false
    }
}

/// A waiter's place in the queue.
#[repr(C)]
pub struct Spot {
    node: Node,
    want: u64,
    /// Let in while it was aside.
    entered: bool,
}

impl Spot {
    /// Of one who wants `want`.
    pub const fn new(want: u64) -> Self {
        Self {
            node: Node::new(),
            want,
            entered: false,
        }
    }

    /// What it wants.
    pub fn want(&self) -> u64 {
        self.want
    }
}

struct Inner<R> {
    rule: R,
    queue: List,
    waiting: usize,
}

/// See the file head.
pub struct Gate<R> {
    inner: Kept<Inner<R>>,
}

impl<R: Rule> Gate<R> {
    /// With nobody waiting.
    pub fn new(rule: R) -> Self {
        Self {
            inner: Kept::new(Inner {
                rule,
                queue: List::new(),
                waiting: 0,
            }),
        }
    }

    /// Enters if that needs no wait.
    pub fn try_enter(&self, want: u64) -> bool {
        let mut inner = self.inner.lock();
        let waits = inner.queue.anyone_before(std::ptr::null());
        inner.rule.enter(want, waits)
    }

    /// Looks at the state.
    pub fn look<T>(&self, f: impl FnOnce(&R) -> T) -> T {
        f(&self.inner.lock().rule)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting()
    }

    /// Changes the state, then lets in whom it admits now.
    pub fn change<H: Host, T>(&self, rt: &'static Runtime<H>, f: impl FnOnce(&mut R) -> T) -> T {
        let mut woken = Wakeups::default();
        let r = {
            let mut inner = self.inner.lock();
            let r = f(&mut inner.rule);
            inner.admit(&mut woken);
            r
        };
        woken.wake(rt);
        r
    }

    /// Enters, or registers, under one lock. False: it has entered.
    ///
    /// # Safety
    /// If it says true, the spot stays where it is until it was fired, or `delist`.
    #[must_use]
    pub unsafe fn enlist(&self, spot: &mut Spot, waker: *const Waker, ticket: Ticket) -> bool {
        let mut inner = self.inner.lock();
        let node = &raw mut spot.node;
        // SAFETY: under the lock; pinned by the caller's promise.
        unsafe {
            if std::mem::take(&mut spot.entered) {
                return false;
            }
            let waits = inner.queue.anyone_before(node);
            if inner.rule.enter(spot.want, waits) {
                inner.take_out(node);
                return false;
            }
            spot.node.belongs_to(waker, ticket);
            if !spot.node.is_linked() {
                inner.waiting = inner.waiting() + 1;
                inner.queue.push(node);
            }
        }
        true
    }

    /// Takes a waiter out: its wait ended otherwise. Afterwards nobody touches the spot.
    ///
    /// # Safety
    /// The spot was given to `enlist` of this gate, or to none.
    pub unsafe fn delist<H: Host>(&self, rt: &'static Runtime<H>, spot: *mut Spot) {
        let mut woken = Wakeups::default();
        {
            let mut inner = self.inner.lock();
            // SAFETY: under the lock.
            unsafe {
                inner.take_out(&raw mut (*spot).node);
                if std::mem::take(&mut (*spot).entered) {
                    inner.rule.undo((*spot).want);
                }
            }
            inner.admit(&mut woken);
        }
        woken.wake(rt);
    }

    /// The waiter keeps its place and is not let in until it enlists again.
    pub fn aside(&self, spot: &mut Spot) {
        let _inner = self.inner.lock();
        spot.node.step_aside();
    }

    /// One that is aside will be so for a while: lets in whom the state admits without it.
    pub fn pass<H: Host>(&self, rt: &'static Runtime<H>) {
        self.change(rt, |_| ());
    }

    /// One that was admitted vanished.
    pub fn undo<H: Host>(&self, rt: &'static Runtime<H>, want: u64) {
        self.change(rt, |r| r.undo(want));
    }
}

impl<R: Rule> Inner<R> {
    /// # Safety
    /// Under the lock; the node is linked here or nowhere.
    unsafe fn take_out(&mut self, node: *mut Node) {
        // SAFETY: as promised.
        if unsafe { self.queue.remove(node) } {
            self.waiting -= 1;
        }
    }

    /// How many are in the queue. In a forked child the parent's are forgotten.
    fn waiting(&mut self) -> usize {
        if self.queue.is_empty() {
            self.waiting = 0;
        }
        self.waiting
    }

    fn admit(&mut self, woken: &mut Wakeups) {
        // SAFETY: under the lock; nodes of this list are the first fields of spots, which their owners keep until they
        // have been fired or had the lock.
        unsafe {
            let mut next = self.queue.head();
            while let Some(node) = next {
                next = (*node).next();
                let spot = node.cast::<Spot>();
                let aside = (*node).is_aside();
                if aside && !R::ON_ACCOUNT {
                    continue;
                }
                let want = (*spot).want;
                if !self.rule.enter(want, false) {
                    if self.rule.goes_on() {
                        continue;
                    }
                    return;
                }
                self.take_out(node);
                if aside {
                    (*spot).entered = true;
                } else {
                    match (*node).fire() {
                        Some(w) => woken.add(w),
                        None => self.rule.undo(want),
                    }
                }
            }
        }
    }
}

// ---- rules -------------------------------------------------------------------------------------

/// A number of units; `want` of them at once, first come, first served.
#[derive(Clone, Debug)]
pub struct Units {
    /// Free ones.
    pub free: u64,
}

impl Rule for Units {
    fn enter(&mut self, want: u64, waits: bool) -> bool {
        let ok = !waits && want <= self.free;
        if ok {
            self.free -= want;
        }
        ok
    }
    fn undo(&mut self, want: u64) {
        self.free += want;
    }
}

/// Readers together, or one writer.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    /// Readers inside.
    pub readers: u64,
    /// A writer inside.
    pub writer: bool,
}

impl Readers {
    /// `want` of a reader.
    pub const READ: u64 = 0;
    /// `want` of a writer.
    pub const WRITE: u64 = 1;
}

impl Rule for Readers {
    fn enter(&mut self, want: u64, waits: bool) -> bool {
        let free = !self.writer && !waits && (want == Self::READ || self.readers == 0);
        if free {
            if want == Self::READ {
                self.readers += 1;
            } else {
                self.writer = true;
            }
        }
        free
    }
    fn undo(&mut self, want: u64) {
        if want == Self::READ {
            self.readers -= 1;
        } else {
            self.writer = false;
        }
    }
}

/// Open or shut; nobody takes anything by entering.
#[derive(Clone, Debug, Default)]
pub struct Flag {
    /// Open.
    pub set: bool,
}

impl Rule for Flag {
    const ON_ACCOUNT: bool = true;
    fn enter(&mut self, _: u64, _: bool) -> bool {
        self.set
    }
    fn undo(&mut self, _: u64) {}
}

/// Open while the count is 0. Those who waited for it enter together, whatever comes after.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Not done yet.
    pub n: i64,
}

impl Rule for Count {
    const ON_ACCOUNT: bool = true;
    fn enter(&mut self, _: u64, _: bool) -> bool {
        self.n == 0
    }
    fn undo(&mut self, _: u64) {}
}

/// Calls numbers: those that took one before `notify` are called in the order of their numbers, whether they wait already
/// or are on their way to. `want` is the number; a number that was called and is given up must be passed on.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    next: u64,
    /// Taken and not called.
    out: BTreeSet<u64>,
    /// Called, and its owner has not entered.
    called: BTreeSet<u64>,
    /// Called, entered, vanished: the call was passed on, which the owner has not heard yet.
    passed: BTreeSet<u64>,
}

impl Rule for Calls {
    const ON_ACCOUNT: bool = true;

    fn enter(&mut self, want: u64, _: bool) -> bool {
        self.called.remove(&want)
    }
    fn undo(&mut self, want: u64) {
        self.called.insert(want);
    }
    fn goes_on(&self) -> bool {
        !self.called.is_empty()
    }
}

impl Calls {
    /// Takes a number.
    pub fn take(&mut self) -> u64 {
        self.next += 1;
        self.out.insert(self.next);
        self.next
    }

    /// Calls up to `n` numbers, the oldest first.
    pub fn notify(&mut self, n: usize) {
        for _ in 0..n {
            let Some(first) = self.out.pop_first() else {
                return;
            };
            self.called.insert(first);
        }
    }

    /// The owner of a number has entered and vanished: the next one is called instead, at once, for the owner may be
    /// a task of a closed loop, which hears of it when it is collected.
    pub fn pass_on(&mut self, number: u64) {
        self.passed.insert(number);
        self.notify(1);
    }

    /// Gives a number up: true if it was called, and the call is its owner's to use or to pass on.
    pub fn give_up(&mut self, number: u64) -> bool {
        if self.passed.remove(&number) {
            return false;
        }
        self.called.remove(&number) || !self.out.remove(&number)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
