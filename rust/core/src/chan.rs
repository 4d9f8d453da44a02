//! The channel: one struct, one lock, a buffer and two lists of waiters, buffered and unbuffered alike.
//!
//! Who delivers: a sender gives its value to the oldest waiting receiver, a receiver takes it from the buffer and lets
//! the oldest waiting sender's value move up; `close` tells everybody. Who claims: `Node::fire`, one compare-and-swap on
//! the waiter's state word. A deliverer puts the value into the waiter's place *before* it fires and takes it back if it
//! lost, all under the lock; so a waiter that was fired finds its value without a lock, and one that was not must take the
//! lock (`delist`), after which nobody touches its place any more.
//!
//! | end of a waiting send or receive | what happens |
//! |---|---|
//! | delivered | the node is out of the list; the receiver's place holds the value, the sender's is empty |
//! | closed | the same, the place is marked `Closed`; a sender keeps its value |
//! | time-out, cancel | the waiter takes its node out; a sender keeps its value |
//! | signal | the waiter is aside: passed over by deliverers, in its old place when it comes back |
//! | taker vanished after delivery | `put_back`: to the next receiver, else to the front of the buffer |
//! | closed event loop | as a taker that vanished; what a sender's task had delivered stays sent |
//! | fork | the child's lists are empty (`wait::List`), the buffer is kept |
//! | exit | as every list (`wait.rs`): cancelled, then left; the buffer goes with the channel's object |
//!
//! Invariants, under the lock:
//! - While a receiver waits (not aside) the buffer is empty and no sender waits, but for the two sides of one select.
//! - While a sender waits (not aside) the buffer is full. It may be over-full after `put_back`.
//! - Once it is closed nothing is sent: senders that `close` has not come to yet count as told.
//! - Values are moved, never made, dropped or looked at.

use std::collections::VecDeque;

use crate::host::Host;
use crate::prim::Kept;
use crate::prim::atomic::{AtomicBool, Ordering};
use crate::runtime::Runtime;
use crate::sched::{Ticket, Waker};
use crate::wait::{Begun, List, Node, Wakeup, Wakeups};

/// What became of the place of a waiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing yet.
    Open,
    /// The value was delivered, or taken.
    Done,
    /// The channel was closed.
    Closed,
}

/// Why a send or a receive cannot happen now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// It would have to wait.
    Wait,
    /// The channel is closed (and drained).
    Closed,
}

/// A waiter's place in a channel: a sender's holds the value until it is taken, a receiver's gets one.
#[repr(C)]
pub struct Place<T> {
    pub(crate) node: Node,
    /// The value.
    pub value: Option<T>,
    /// Read by the owner after it was fired, or after `delist`.
    pub fate: Fate,
}

impl<T> Place<T> {
    /// Without a value: a receiver's.
    pub const fn new() -> Self {
        Self {
            node: Node::new(),
            value: None,
            fate: Fate::Open,
        }
    }

    /// A sender's.
    pub const fn with(value: T) -> Self {
        Self {
            node: Node::new(),
            value: Some(value),
            fate: Fate::Open,
        }
    }
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Which side of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Sends the value in its place.
    Send,
    /// Receives into its place.
    Recv,
}

const HOLDS: &str = "a sender's place holds a value";

pub(crate) struct Inner<T> {
    buf: VecDeque<T>,
    closed: bool,
    receivers: List,
    senders: List,
}

/// See the file head.
pub struct Chan<T> {
    capacity: usize,
    /// Copy of `Inner::closed`, for a look without the lock. Release in `close`, acquire in `is_closed`.
    closed: AtomicBool,
    inner: Kept<Inner<T>>,
}

impl<T> Chan<T> {
    /// An open channel that buffers `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            closed: AtomicBool::new(false),
            inner: Kept::new(Inner {
                buf: VecDeque::new(),
                closed: false,
                receivers: List::new(),
                senders: List::new(),
            }),
        }
    }

    /// How many values it buffers.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// True once closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// How many values are buffered.
    pub fn len(&self) -> usize {
        self.inner.lock().buf.len()
    }

    /// True if nothing is buffered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends `place.value` if that needs no wait.
    pub fn try_send<H: Host>(
        &self,
        rt: &'static Runtime<H>,
        place: &mut Place<T>,
    ) -> Result<(), Blocked> {
        let r = self.inner.lock().send(self.capacity, place);
        r.map(|w| w.wake(rt))
    }

    /// Receives into `place.value` if that needs no wait.
    pub fn try_recv<H: Host>(
        &self,
        rt: &'static Runtime<H>,
        place: &mut Place<T>,
    ) -> Result<(), Blocked> {
        let r = self.inner.lock().recv(self.capacity, place);
        r.map(|w| w.wake(rt))
    }

    /// The first two beats under one lock: tries `side`, else registers with what `arm` gives. Happened: `place.fate`
    /// says what, and the caller wakes who is told.
    ///
    /// # Safety
    /// If it says Waits, the place stays where it is until it was fired, or `delist`.
    #[inline(always)]
    pub unsafe fn begin(
        &self,
        side: Side,
        place: &mut Place<T>,
        arm: impl FnOnce() -> Option<(*const Waker, Ticket)>,
    ) -> (Begun, Wakeup) {
        let mut inner = self.inner.lock();
        let (fate, woken) = match inner.attempt(self.capacity, side, place) {
            Ok(w) => (Fate::Done, w),
            Err(Blocked::Closed) => (Fate::Closed, Wakeup::NONE),
            Err(Blocked::Wait) => {
                let Some((waker, ticket)) = arm() else {
                    return (Begun::Refused, Wakeup::NONE);
                };
                // SAFETY: under the lock, pinned by the caller's promise.
                unsafe { inner.register(side, place, waker, ticket) };
                return (Begun::Waits, Wakeup::NONE);
            }
        };
        if place.node.is_linked() {
            // It was aside.
            // SAFETY: under the lock; linked here.
            unsafe { inner.list(side).remove(&raw mut place.node) };
        }
        place.fate = fate;
        (Begun::Happened, woken)
    }

    /// Tries `side` once more, else registers, under one lock. False: `place.fate` says what happened.
    ///
    /// # Safety
    /// If it says true, the place stays where it is until it was fired, or `delist`.
    #[must_use]
    pub unsafe fn enlist<H: Host>(
        &self,
        rt: &'static Runtime<H>,
        side: Side,
        place: &mut Place<T>,
        waker: *const Waker,
        ticket: Ticket,
    ) -> bool {
        // SAFETY: as the caller promised.
        let (begun, woken) = unsafe { self.begin(side, place, || Some((waker, ticket))) };
        woken.wake(rt);
        begun == Begun::Waits
    }

    /// Takes a waiter out. Afterwards nobody touches its place.
    ///
    /// # Safety
    /// The place was given to `enlist` of this channel for this side, or to none.
    pub unsafe fn delist(&self, side: Side, place: *mut Place<T>) {
        let mut inner = self.inner.lock();
        // SAFETY: under the lock, linked here or nowhere.
        unsafe { inner.list(side).remove(&raw mut (*place).node) };
    }

    /// The waiter keeps its place and gets nothing until it enlists again.
    pub fn aside(&self, place: &mut Place<T>) {
        let _inner = self.inner.lock();
        place.node.step_aside();
    }

    /// A value that was received and whose taker vanished: to the next receiver, else to the front.
    pub fn put_back<H: Host>(&self, rt: &'static Runtime<H>, value: T) {
        let woken = {
            let mut inner = self.inner.lock();
            match inner.deliver(value) {
                Ok(w) => w,
                Err(value) => {
                    inner.buf.push_front(value);
                    Wakeup::NONE
                }
            }
        };
        woken.wake(rt);
    }

    /// Appends to `out` what can be received without a wait, until it holds `n` values.
    pub fn drain<H: Host>(&self, rt: &'static Runtime<H>, n: usize, out: &mut Vec<T>) {
        let mut woken = Wakeups::default();
        {
            let mut inner = self.inner.lock();
            while out.len() < n {
                let mut place = Place::new();
                match inner.recv(self.capacity, &mut place) {
                    Ok(w) => woken.add(w),
                    Err(_) => break,
                }
                out.extend(place.value);
            }
        }
        woken.wake(rt);
    }

    /// Sends as many of `values` as can be sent without a wait, in order; the rest stays. Closed: nothing is sent.
    pub fn fill<H: Host>(
        &self,
        rt: &'static Runtime<H>,
        values: &mut VecDeque<T>,
    ) -> Result<(), Blocked> {
        let mut woken = Wakeups::default();
        let end = {
            let mut inner = self.inner.lock();
            loop {
                let Some(v) = values.pop_front() else {
                    break Ok(());
                };
                let mut place = Place::with(v);
                match inner.send(self.capacity, &mut place) {
                    Ok(w) => woken.add(w),
                    Err(why) => {
                        values.extend(place.value);
                        values.rotate_right(1);
                        break Err(why);
                    }
                }
            }
        };
        woken.wake(rt);
        end
    }

    /// Takes out all that is buffered: for the collector's clearing, and for timers that were stopped. Nobody is woken.
    pub fn take_buffered(&self) -> VecDeque<T> {
        std::mem::take(&mut self.inner.lock().buf)
    }

    /// Closes it and wakes every waiter. False if it was closed before.
    pub fn close<H: Host>(&self, rt: &'static Runtime<H>) -> bool {
        {
            let mut inner = self.inner.lock();
            if inner.closed {
                return false;
            }
            inner.closed = true;
            self.closed.store(true, Ordering::Release);
        }
        loop {
            // In portions, so that those who want the lock get it in between.
            let mut woken = Wakeups::default();
            let mut left = 64;
            {
                let mut inner = self.inner.lock();
                while left > 0 {
                    let Some(w) = inner.tell_closed() else { break };
                    woken.add(w);
                    left -= 1;
                }
            }
            woken.wake(rt);
            if left > 0 {
                return true;
            }
        }
    }

    /// For the collector, which stops all others: what is buffered. Empty if somebody holds the lock.
    pub fn visit(&self, f: &mut dyn FnMut(&T) -> bool) {
        if let Some(inner) = self.inner.try_lock() {
            for v in &inner.buf {
                if !f(v) {
                    break;
                }
            }
        }
    }

    pub(crate) fn lock(&self) -> crate::prim::KeptGuard<'_, Inner<T>> {
        self.inner.lock()
    }
}

impl<T> Inner<T> {
    pub(crate) fn list(&mut self, side: Side) -> &mut List {
        match side {
            Side::Send => &mut self.senders,
            Side::Recv => &mut self.receivers,
        }
    }

    /// One side, without a wait. `Ok`: somebody may have to be woken.
    #[inline(always)]
    pub(crate) fn attempt(
        &mut self,
        capacity: usize,
        side: Side,
        place: &mut Place<T>,
    ) -> Result<Wakeup, Blocked> {
        match side {
            Side::Send => self.send(capacity, place),
            Side::Recv => self.recv(capacity, place),
        }
    }

    /// # Safety
    /// Under the lock; the place is pinned while linked.
    #[inline]
    pub(crate) unsafe fn register(
        &mut self,
        side: Side,
        place: &mut Place<T>,
        waker: *const Waker,
        ticket: Ticket,
    ) {
        place.fate = Fate::Open;
        place.node.belongs_to(waker, ticket);
        if !place.node.is_linked() {
            // SAFETY: as promised.
            unsafe { self.list(side).push(&raw mut place.node) };
        }
    }

    #[inline(always)]
    fn send(&mut self, capacity: usize, place: &mut Place<T>) -> Result<Wakeup, Blocked> {
        if self.closed {
            return Err(Blocked::Closed);
        }
        if !self.receivers.is_empty() {
            let value = place.value.take().expect(HOLDS);
            match self.deliver(value) {
                Ok(w) => return Ok(w),
                Err(value) => place.value = Some(value),
            }
        }
        if self.buf.len() < capacity {
            if self.buf.len() == self.buf.capacity() {
                self.grow(capacity);
            }
            self.buf.push_back(place.value.take().expect(HOLDS));
            return Ok(Wakeup::NONE);
        }
        Err(Blocked::Wait)
    }

    /// Room for more values: the buffer grows as it is used, as a vector does.
    #[cold]
    fn grow(&mut self, capacity: usize) {
        let more = self.buf.len().max(4).min(capacity - self.buf.len());
        self.buf.reserve(more);
    }

    /// To the oldest receiver whose wait is still open.
    #[inline(never)]
    fn deliver(&mut self, value: T) -> Result<Wakeup, T> {
        let mut value = value;
        // SAFETY: under the lock; nodes of this list are the first fields of places, which their owners keep until they
        // have been fired or had the lock.
        unsafe {
            while let Some(node) = self.receivers.pop() {
                let place = node.cast::<Place<T>>();
                (*place).value = Some(value);
                (*place).fate = Fate::Done;
                if let Some(w) = (*node).fire() {
                    return Ok(w);
                }
                (*place).fate = Fate::Open;
                value = (*place).value.take().expect("put there just now");
            }
        }
        Err(value)
    }

    #[inline(always)]
    fn recv(&mut self, capacity: usize, place: &mut Place<T>) -> Result<Wakeup, Blocked> {
        if let Some(v) = self.buf.pop_front() {
            place.value = Some(v);
            if self.buf.len() < capacity {
                if let Some((v, w)) = self.take_from_sender() {
                    self.buf.push_back(v);
                    return Ok(w);
                }
            }
            return Ok(Wakeup::NONE);
        }
        if let Some((v, w)) = self.take_from_sender() {
            place.value = Some(v);
            return Ok(w);
        }
        Err(if self.closed {
            Blocked::Closed
        } else {
            Blocked::Wait
        })
    }

    /// The value of the oldest sender whose wait is still open. Those of a closed channel have not been told yet, that is
    /// all: they keep theirs.
    #[inline]
    fn take_from_sender(&mut self) -> Option<(T, Wakeup)> {
        if self.closed || self.senders.is_empty() {
            return None;
        }
        self.take_from_waiting()
    }

    #[inline(never)]
    fn take_from_waiting(&mut self) -> Option<(T, Wakeup)> {
        // SAFETY: as in `deliver`.
        unsafe {
            while let Some(node) = self.senders.pop() {
                let place = node.cast::<Place<T>>();
                let value = (*place).value.take();
                (*place).fate = Fate::Done;
                if let Some(w) = (*node).fire() {
                    return value.map(|v| (v, w));
                }
                (*place).fate = Fate::Open;
                (*place).value = value;
            }
        }
        None
    }

    /// Fires one waiter as closed; None when nobody is left.
    fn tell_closed(&mut self) -> Option<Wakeup> {
        for side in [Side::Recv, Side::Send] {
            // SAFETY: as in `deliver`.
            unsafe {
                while let Some(node) = self.list(side).pop() {
                    let place = node.cast::<Place<T>>();
                    (*place).fate = Fate::Closed;
                    if let Some(w) = (*node).fire() {
                        return Some(w);
                    }
                    (*place).fate = Fate::Open;
                }
            }
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
