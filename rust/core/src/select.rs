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
//! has won.
//!
//! A select that is woken by one case while another became ready too answers the first: what is ready together when it
//! is called is chosen among uniformly.
//!
//! | end | what happens |
//! |---|---|
//! | a case | its place has the fate; every node is out of its list |
//! | time-out, cancel | all nodes are taken out, every sender's place keeps its value |
//! | signal | all nodes are aside, each keeps its place |
//! | taker vanished | a received value is put back, a sent one stays sent |

use smallvec::SmallVec;

use crate::chan::{Blocked, Chan, Fate, Inner, Place, Side};
use crate::host::Host;
use crate::prim::Guard;
use crate::runtime::Runtime;
use crate::sched::{Ticket, Waker};
use crate::wait::{Node, Wakeup};

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
}

impl<T, C, L> Case<T, C, L> {
    /// A case; a sender's place holds its value.
    pub fn new(on: On<C, L>, place: Place<T>) -> Self {
        Self { on, place }
    }
}

type Locked<T> = Guard<'static, Inner<T>>;

/// A select. Pinned while registered.
pub struct Select<T: 'static, C, L> {
    /// In the caller's order.
    pub cases: SmallVec<[Case<T, C, L>; 4]>,
    /// One case for each distinct channel, by address: the lock order.
    order: SmallVec<[u32; 4]>,
    /// For each case the inside of its channel, while all locks are held.
    inside: SmallVec<[*mut Inner<T>; 4]>,
    /// The locks that are held; empty outside of `attempt` and `enlist`.
    held: SmallVec<[Locked<T>; 4]>,
}

// SAFETY: the pointers are null outside of one call, which holds the locks.
unsafe impl<T: Send, C: Send, L: Send> Send for Select<T, C, L> {}

impl<T, C: AsRef<Chan<T>>, L: Event> Select<T, C, L> {
    /// Of these cases.
    pub fn new(cases: impl IntoIterator<Item = Case<T, C, L>>) -> Self {
        let cases: SmallVec<[_; 4]> = cases.into_iter().collect();
        let mut order: SmallVec<[u32; 4]> = (0..cases.len() as u32)
            .filter(|i| matches!(cases[*i as usize].on, On::Chan(..)))
            .collect();
        let of = |i: &u32| address(&cases[*i as usize]);
        order.sort_unstable_by_key(of);
        order.dedup_by_key(|i| of(i));
        Self {
            cases,
            order,
            inside: SmallVec::new(),
            held: SmallVec::new(),
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
        self.unlock();
        let (index, w) = done?;
        w.wake(rt);
        Some(index)
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
        self.lock();
        if let Some((index, w)) = self.poll(random) {
            self.leave_latches();
            // SAFETY: all locks are held.
            unsafe { self.leave_channels() };
            self.unlock();
            w.wake(rt);
            return Some(index);
        }
        // Latches first: until the channels know us, only latches can fire, and they give nothing that could be lost.
        for i in 0..self.cases.len() {
            let Case { on, place } = &mut self.cases[i];
            if let On::Latch(l) = on {
                place.fate = Fate::Open;
                // SAFETY: pinned by the caller's promise.
                if !unsafe { l.enlist(&raw mut place.node, waker, ticket) } {
                    self.leave_latches();
                    // SAFETY: all locks are held.
                    unsafe { self.leave_channels() };
                    self.unlock();
                    return Some(i);
                }
            }
        }
        for i in 0..self.cases.len() {
            let Case { on, place } = &mut self.cases[i];
            if let On::Chan(side, _) = on {
                // SAFETY: this channel's lock is held; pinned.
                unsafe { (*self.inside[i]).register(*side, place, waker, ticket) };
            }
        }
        self.unlock();
        None
    }

    /// All nodes keep their places and get nothing until the select enlists again.
    pub fn aside(&mut self) {
        for Case { on, place } in &mut self.cases {
            if let On::Chan(_, ch) = on {
                ch.as_ref().aside(place);
            }
        }
    }

    /// Out of every list. The case that has won, if one has.
    pub fn delist(&mut self) -> Option<usize> {
        self.leave_latches();
        for Case { on, place } in &mut self.cases {
            if let On::Chan(side, ch) = on {
                // SAFETY: given to this channel for this side, or to none.
                unsafe { ch.as_ref().delist(*side, place) };
            }
        }
        let won = |c: &Case<T, C, L>| match &c.on {
            On::Chan(..) => c.place.fate != Fate::Open,
            _ => false,
        };
        let ended = |c: &Case<T, C, L>| matches!(&c.on, On::Latch(l) if l.is_closed());
        let mut cases = self.cases.iter();
        cases
            .position(won)
            .or_else(|| self.cases.iter().position(ended))
    }

    fn lock(&mut self) {
        for i in &self.order {
            if let On::Chan(_, c) = &self.cases[*i as usize].on {
                let held: Guard<'_, Inner<T>> = c.as_ref().lock();
                // SAFETY: only the lifetime changes. The channels live as long as the cases, and `unlock` runs before
                // the call that took the locks ends.
                self.held
                    .push(unsafe { std::mem::transmute::<Guard<'_, Inner<T>>, Locked<T>>(held) });
            }
        }
        let order = &self.order;
        let (cases, held) = (&self.cases, &mut self.held);
        self.inside.clear();
        for c in cases {
            let at = order
                .binary_search_by_key(&address(c), |j| address(&cases[*j as usize]))
                .ok()
                .filter(|_| matches!(c.on, On::Chan(..)));
            self.inside
                .push(at.map_or(std::ptr::null_mut(), |at| &raw mut *held[at]));
        }
    }

    fn unlock(&mut self) {
        self.inside.clear();
        self.held.clear();
    }

    fn leave_latches(&mut self) {
        for Case { on, place } in &mut self.cases {
            if let On::Latch(l) = on {
                // SAFETY: given to this latch, or to none.
                unsafe { l.delist(&raw mut place.node) };
            }
        }
    }

    /// # Safety
    /// All locks are held.
    unsafe fn leave_channels(&mut self) {
        for (Case { on, place }, inner) in self.cases.iter_mut().zip(&self.inside) {
            if let On::Chan(side, _) = on {
                // SAFETY: as promised; linked here or nowhere.
                unsafe { (**inner).list(*side).remove(&raw mut place.node) };
            }
        }
    }

    /// With all locks held.
    fn poll(&mut self, random: u64) -> Option<(usize, Wakeup)> {
        let mut left: SmallVec<[u32; 8]> = (0..self.cases.len() as u32).collect();
        let mut random = random;
        while !left.is_empty() {
            // SplitMix64: the next one also of a poor number.
            random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^= mixed >> 31;
            let i = left.swap_remove((mixed >> 11) as usize % left.len()) as usize;
            let Case { on, place } = &mut self.cases[i];
            match on {
                On::Never => {}
                On::Latch(l) => {
                    if l.is_closed() {
                        return Some((i, Wakeup::NONE));
                    }
                }
                On::Chan(side, ch) => {
                    // SAFETY: this channel's lock is held.
                    let inner = unsafe { &mut *self.inside[i] };
                    match inner.attempt(ch.as_ref().capacity(), *side, place) {
                        Ok(w) => {
                            place.fate = Fate::Done;
                            return Some((i, w));
                        }
                        Err(Blocked::Closed) => {
                            place.fate = Fate::Closed;
                            return Some((i, Wakeup::NONE));
                        }
                        Err(Blocked::Wait) => {}
                    }
                }
            }
        }
        None
    }
}

fn address<T, C: AsRef<Chan<T>>, L>(c: &Case<T, C, L>) -> usize {
    match &c.on {
        On::Chan(_, ch) => std::ptr::from_ref(ch.as_ref()).addr(),
        _ => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
