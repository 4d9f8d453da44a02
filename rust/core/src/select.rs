//! Select: waits on several channels (and latches) at once; exactly one case happens.
//!
//! First every channel is locked, in the order of the addresses, so that two selects cannot hold each other up. Then
//! under all locks: try the cases, in random order; if none can go on, register in all. Since nothing happens between the
//! tries and the registration, a select that tries meets only waiters that have registered whole, and claims one of
//! them by one compare-and-swap, which is also how a select against another select is decided.
//!
//! The winner of a select that waited is the case whose place has a fate: deliverers write it before they fire and take
//! it back if they lost, under the channel's lock. So the owner takes its places out of all channels first (each under
//! its lock), then looks: exactly one has a fate. A latch has no place; if no place has a fate the latch that is closed
//! has won. Where there are no latches and the wait ended as Ready, the last case that is left has won if no other has:
//! whoever fired it took its node out before, under the lock, and the firing hands its place over (`settle`).
//!
//! A select that is woken by one case while another became ready too answers the first: what is ready together when it
//! is called is chosen among uniformly.
//!
//! | end | what happens |
//! |---|---|
//! | a case | its place has the fate; every node is out of its list |
//! | time-out, cancel | all nodes are taken out, every sender's place keeps its value |
//! | signal | all nodes are aside, each keeps its place |
//! | taker vanished, closed event loop | a received value is put back, a sent one stays sent |
//! | a channel is closed | a case like others: the place has the fate `Closed`, a sender keeps its value |
//! | fork, exit | as every list (`wait.rs`): in the child no channel knows the select; at the exit it is cancelled, then left |

use std::cmp::Ordering::{Equal, Greater, Less};

use smallvec::SmallVec;

use crate::chan::{Blocked, Chan, Fate, Inner, Place, Side};
use crate::host::Host;
use crate::prim::KeptGuard;
use crate::runtime::Runtime;
use crate::sched::{Ticket, Waker};
use crate::wait::{Begun, Node, Wakeup};

/// What a case waits for.
pub enum On<C, L> {
    /// A channel.
    Chan(Side, C),
    /// A one-shot event, like the end of a goroutine.
    Latch(L),
    /// A nil channel: never ready.
    Never,
}

/// What the core needs of a latch: registration under the latch's own lock.
pub trait Event {
    /// True once it has happened.
    fn is_closed(&self) -> bool;
    /// # Safety
    /// As `Latch::enlist`.
    unsafe fn enlist(&self, node: *mut Node, waker: *const Waker, ticket: Ticket) -> bool;
    /// # Safety
    /// As `Latch::delist`.
    unsafe fn delist(&self, node: *mut Node);
}

/// One case with its place.
pub struct Case<T, C, L> {
    /// What it waits for.
    pub on: On<C, L>,
    /// A sender's holds its value, a receiver's gets one; a latch's is only a node.
    pub place: Place<T>,
    /// Which of the locks is its channel's.
    lock: u32,
}

impl<T, C, L> Case<T, C, L> {
    /// A case; a sender's place holds its value.
    pub fn new(on: On<C, L>, place: Place<T>) -> Self {
        Self { on, place, lock: 0 }
    }
}

type Locked<T> = KeptGuard<'static, Inner<T>>;

/// A select. Pinned while registered.
pub struct Select<T: 'static, C, L> {
    /// In the caller's order.
    pub cases: SmallVec<[Case<T, C, L>; 4]>,
    /// One case for each distinct channel, by address: the lock order.
    order: SmallVec<[u32; 4]>,
    /// One channel stands in several cases. Who comes first in its list is served first, so they register in any order.
    again: bool,
    /// The locks that are held, in that order; empty outside of `begin` and `enlist`.
    held: SmallVec<[Locked<T>; 4]>,
}

// SAFETY: locks are held inside of one call only.
unsafe impl<T: Send, C: Send, L: Send> Send for Select<T, C, L> {}

impl<T, C, L> Default for Select<T, C, L> {
    fn default() -> Self {
        Self {
            cases: SmallVec::new(),
            order: SmallVec::new(),
            again: false,
            held: SmallVec::new(),
        }
    }
}

impl<T, C: AsRef<Chan<T>>, L: Event> Select<T, C, L> {
    /// Of these cases.
    pub fn new(cases: impl IntoIterator<Item = Case<T, C, L>>) -> Self {
        let mut this = Self::default();
        this.cases.extend(cases);
        this.arrange();
        this
    }

    /// Finds the order of the locks, after `cases` was filled.
    pub fn arrange(&mut self) {
        self.order.clear();
        self.again = false;
        if let [
            Case {
                on: On::Chan(_, a),
                lock: x,
                ..
            },
            Case {
                on: On::Chan(_, b),
                lock: y,
                ..
            },
        ] = &mut self.cases[..]
        {
            // The most usual number.
            let (a, b): (*const Chan<T>, *const Chan<T>) = (a.as_ref(), b.as_ref());
            let order: &[u32] = match a.cmp(&b) {
                Less => &[0, 1],
                Equal => &[0],
                Greater => &[1, 0],
            };
            self.order.extend_from_slice(order);
            self.again = order.len() == 1;
            (*x, *y) = ((a > b).into(), (b > a).into());
            return;
        }
        for i in 0..self.cases.len() {
            if !matches!(self.cases[i].on, On::Chan(..)) {
                continue;
            }
            let mine = address(&self.cases[i]);
            let of = |j: &u32| address(&self.cases[*j as usize]);
            // The cases of a select are few.
            let at = self.order.iter().position(|j| of(j) >= mine);
            match at {
                Some(at) if of(&self.order[at]) == mine => self.again = true,
                Some(at) => self.order.insert(at, i as u32),
                None => self.order.push(i as u32),
            }
        }
        for case in &mut self.cases {
            case.lock = 0;
        }
        for at in 0..self.order.len() {
            let mine = address(&self.cases[self.order[at] as usize]);
            for case in &mut self.cases {
                if address(case) == mine {
                    case.lock = at as u32;
                }
            }
        }
    }

    /// True if nothing can ever make it ready.
    pub fn is_empty(&self) -> bool {
        self.cases.iter().all(|c| matches!(c.on, On::Never))
    }

    /// One of those that can happen happens, each as likely as the others. `random`: any number.
    pub fn attempt<H: Host>(&mut self, rt: &'static Runtime<H>, random: u64) -> Option<usize> {
        self.lock();
        let done = self.poll(random);
        self.held.clear();
        let (index, w) = done?;
        w.wake(rt);
        Some(index)
    }

    /// Tries, else registers everywhere with what `arm` gives, under all locks. Happened, Late: that case has happened.
    ///
    /// # Safety
    /// If it says Waits, the select stays where it is until `delist`.
    pub unsafe fn begin<H: Host>(
        &mut self,
        rt: &'static Runtime<H>,
        random: u64,
        arm: impl FnOnce() -> Option<(*const Waker, Ticket)>,
    ) -> (Begun, usize) {
        self.lock();
        if let Some((index, w)) = self.poll(random) {
            // Linked are only those of one that was aside.
            self.leave_latches();
            // SAFETY: all locks are held.
            unsafe { self.leave_channels() };
            self.held.clear();
            w.wake(rt);
            return (Begun::Happened, index);
        }
        let Some((waker, ticket)) = arm() else {
            self.held.clear();
            return (Begun::Refused, 0);
        };
        // Latches first: until the channels know us, only latches can fire, and they give nothing that could be lost.
        for i in 0..self.cases.len() {
            let Case { on, place, .. } = &mut self.cases[i];
            if let On::Latch(l) = on {
                place.fate = Fate::Open;
                // SAFETY: pinned by the caller's promise.
                if !unsafe { l.enlist(&raw mut place.node, waker, ticket) } {
                    self.leave_latches();
                    // SAFETY: all locks are held.
                    unsafe { self.leave_channels() };
                    self.held.clear();
                    return (Begun::Late, i);
                }
            }
        }
        // SAFETY: all locks are held; pinned.
        unsafe {
            if self.again {
                for i in self.registering(random) {
                    self.register(i, waker, ticket);
                }
            } else {
                for i in 0..self.cases.len() {
                    self.register(i, waker, ticket);
                }
            }
        }
        self.held.clear();
        (Begun::Waits, 0)
    }

    /// The order in which cases register where one channel stands in several.
    fn registering(&self, random: u64) -> SmallVec<[usize; 8]> {
        if self.again {
            drawn(self.cases.len(), random.rotate_left(32)).collect()
        } else {
            (0..self.cases.len()).collect()
        }
    }

    /// # Safety
    /// All locks are held; the select stays where it is.
    unsafe fn register(&mut self, i: usize, waker: *const Waker, ticket: Ticket) {
        let Case { on, place, lock } = &mut self.cases[i];
        if let On::Chan(side, _) = on {
            // SAFETY: this channel's lock is held; pinned.
            unsafe { self.held[*lock as usize].register(*side, place, waker, ticket) };
        }
    }

    /// Tries once more, else registers everywhere, under all locks. `Some`: that case has happened.
    ///
    /// # Safety
    /// If it says None, the select stays where it is until `delist`.
    pub unsafe fn enlist<H: Host>(
        &mut self,
        rt: &'static Runtime<H>,
        random: u64,
        waker: *const Waker,
        ticket: Ticket,
    ) -> Option<usize> {
        // SAFETY: as the caller promised.
        let (begun, index) = unsafe { self.begin(rt, random, || Some((waker, ticket))) };
        (begun != Begun::Waits).then_some(index)
    }

    /// All nodes keep their places and get nothing until the select enlists again.
    pub fn aside(&mut self) {
        for Case { on, place, .. } in &mut self.cases {
            if let On::Chan(_, ch) = on {
                ch.as_ref().aside(place);
            }
        }
    }

    /// Out of every list. The case that has won, if one has. After a time-out or a cancel: none, but for a latch that was
    /// closed too late to win. Of several latches that are closed by now any may have been the first: `random` picks.
    pub fn delist(&mut self, random: u64) -> Option<usize> {
        self.leave_latches();
        for Case { on, place, .. } in &mut self.cases {
            if let On::Chan(side, ch) = on {
                // SAFETY: given to this channel for this side, or to none.
                unsafe { ch.as_ref().delist(*side, place) };
            }
        }
        let won = |c: &Case<T, C, L>| match &c.on {
            On::Chan(..) => c.place.fate != Fate::Open,
            _ => false,
        };
        if let Some(i) = self.cases.iter().position(won) {
            return Some(i);
        }
        let ended = |c: &Case<T, C, L>| matches!(&c.on, On::Latch(l) if l.is_closed());
        let ended: SmallVec<[usize; 8]> = self
            .cases
            .iter()
            .enumerate()
            .filter_map(|(i, c)| ended(c).then_some(i))
            .collect();
        (!ended.is_empty()).then(|| ended[mixed(random, 1) % ended.len()])
    }

    /// As `delist`, after the wait ended as Ready, with one lock less where it can be had.
    pub fn settle(&mut self, random: u64) -> Option<usize> {
        let is_chan = |c: &Case<T, C, L>| matches!(c.on, On::Chan(..));
        if self.cases.iter().any(|c| matches!(c.on, On::Latch(_))) {
            return self.delist(random);
        }
        let last = self.cases.iter().rposition(is_chan)?;
        let mut won = None;
        for (i, Case { on, place, .. }) in self.cases.iter_mut().enumerate() {
            if let On::Chan(side, ch) = on {
                if i == last && won.is_none() {
                    debug_assert_ne!(place.fate, Fate::Open);
                    return Some(i);
                }
                // SAFETY: given to this channel for this side, or to none.
                unsafe { ch.as_ref().delist(*side, place) };
                if place.fate != Fate::Open {
                    won = Some(i);
                }
            }
        }
        won
    }

    fn lock(&mut self) {
        for i in &self.order {
            if let On::Chan(_, c) = &self.cases[*i as usize].on {
                let held: KeptGuard<'_, Inner<T>> = c.as_ref().lock();
                // SAFETY: only the lifetime changes. The channels live as long as the cases, and the locks are released
                // before the call that took them ends.
                let held =
                    unsafe { std::mem::transmute::<KeptGuard<'_, Inner<T>>, Locked<T>>(held) };
                self.held.push(held);
            }
        }
    }

    fn leave_latches(&mut self) {
        for Case { on, place, .. } in &mut self.cases {
            if let On::Latch(l) = on {
                // SAFETY: given to this latch, or to none.
                unsafe { l.delist(&raw mut place.node) };
            }
        }
    }

    /// # Safety
    /// All locks are held.
    unsafe fn leave_channels(&mut self) {
        for Case { on, place, lock } in &mut self.cases {
            if let On::Chan(side, _) = on
                && place.node.is_linked()
            {
                let inner = &mut self.held[*lock as usize];
                // SAFETY: as promised; linked here.
                unsafe { inner.list(*side).remove(&raw mut place.node) };
            }
        }
    }

    /// With all locks held.
    fn poll(&mut self, random: u64) -> Option<(usize, Wakeup)> {
        if let [_, _] = self.cases[..] {
            // The most usual number: one draw is enough.
            let first = mixed(random, 1) & 1;
            return self.poll_one(first).or_else(|| self.poll_one(1 - first));
        }
        drawn(self.cases.len(), random).find_map(|i| self.poll_one(i))
    }

    #[inline]
    fn poll_one(&mut self, i: usize) -> Option<(usize, Wakeup)> {
        let Case { on, place, lock } = &mut self.cases[i];
        match on {
            On::Never => None,
            On::Latch(l) => l.is_closed().then_some((i, Wakeup::NONE)),
            On::Chan(side, ch) => {
                let inner = &mut self.held[*lock as usize];
                match inner.attempt(ch.as_ref().capacity(), *side, place) {
                    Ok(w) => {
                        place.fate = Fate::Done;
                        Some((i, w))
                    }
                    Err(Blocked::Closed) => {
                        place.fate = Fate::Closed;
                        Some((i, Wakeup::NONE))
                    }
                    Err(Blocked::Wait) => None,
                }
            }
        }
    }
}

/// The numbers below `n`, in any order with the same likelihood.
fn drawn(n: usize, random: u64) -> impl Iterator<Item = usize> {
    let mut left: SmallVec<[u32; 8]> = (0..n as u32).collect();
    let mut draws = 0;
    std::iter::from_fn(move || {
        draws += 1;
        (!left.is_empty()).then(|| left.swap_remove(mixed(random, draws) % left.len()) as usize)
    })
}

/// The n-th draw of a select. SplitMix64: a good number also of a poor one.
#[inline]
fn mixed(random: u64, n: u64) -> usize {
    let mut x = random.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as usize
}

fn address<T, C: AsRef<Chan<T>>, L>(c: &Case<T, C, L>) -> usize {
    match &c.on {
        On::Chan(_, ch) => std::ptr::from_ref(ch.as_ref()).addr(),
        _ => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
