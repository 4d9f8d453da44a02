//! The list of waiters: membership (`Node`), first come first served (`List`), and those to be woken once no lock is held.
//!
//! Invariants:
//! - A node is pinned while linked; it is touched under the lock that owns its list only.
//! - In a forked child every list is empty, whatever the parent had in it.

use std::ptr::null_mut;

use crate::host::Host;
use crate::runtime::Runtime;
use crate::sched::{Fire, GRef, Kind, M, Ticket, Verdict, Waker};

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
    #[inline]
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
    #[inline]
    pub fn wake<H: Host>(self, rt: &'static Runtime<H>) {
        if !self.0.is_null() {
            // SAFETY: made by `Node::fire`, which won a parked waiter.
            unsafe { rt.wake(self.0) };
        }
    }
}

impl Wakeup {
    /// As `wake`, from the body that runs on `m`.
    #[inline]
    pub fn wake_from<H: Host>(self, rt: &'static Runtime<H>, m: &M<H>) {
        if !self.0.is_null() {
            // SAFETY: as in `wake`; a goroutine's waker is in a goroutine.
            unsafe {
                match (*self.0).kind() {
                    Kind::Goroutine => rt.ready_from(m, GRef::from_waker(self.0)),
                    Kind::Thread => (*self.0).wake_thread(),
                }
            }
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

    #[inline]
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
    #[inline]
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
