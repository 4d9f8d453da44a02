//! A hierarchical timer wheel: add, cancel and re-arm in O(1), for any deadline that 64 bits of nanoseconds can say.
//!
//! It is a plain data structure. It has no clock (time comes in through [`Wheel::advance`]), no lock, and it does
//! not know what its values mean. A cancelled timer is freed at once, memory included (`slab.rs`).
//!
//! Time is counted in ticks of 2^[`TICK_SHIFT`] ns and read as nine digits of six bits. A timer lives on the level
//! of the *highest digit in which its tick differs from the current one*, in the slot that this digit names. Level 0
//! so holds the timers of the current 64 ticks (4 ms), one tick to a slot; level 1 those of the current 64 x 64 by
//! blocks of 64, and so on. When time enters a slot of a higher level, its timers move down ("cascade"), each at
//! most once per level.
//!
//! Invariants (`now` is the current tick; they hold whenever `fire` runs, too, so that it may panic):
//! 1. Every timer's tick is >= `now`, and its level and slot follow from the two ticks alone. So neither is stored.
//!    This survives any move of `now` that stays before the start of every occupied slot: the digits above the
//!    timer's level stay equal, its own digit stays larger.
//! 2. Hence on each level the occupied slots lie ahead of `now` (on level 0: not behind it), all of a lower level
//!    before any of a higher. The next thing to do is the lowest bit of the lowest non-empty level. That is why
//!    `advance` can leap over years, and why nothing has to be rotated or scanned.
//! 3. Bit `s` of `occupied[l]` is set iff slot `s` of level `l` has a timer; bit `l` of `levels` iff `occupied[l]`
//!    has one.
//! 4. Timers of one tick lie in one slot, in the order in which they were armed: higher levels empty into a slot
//!    before `now` allows anyone to insert there directly.
//!
//! Never early: a deadline rounds up to a tick, the present rounds down. What is due already when it is inserted
//! takes the current tick, whose slot the next `advance` empties first.
//!
//! The price: a slot cascades whole, at 4.5 ns a timer (100 000 or a million of them, 2-core EPYC). A million timers
//! that share a slot of level 3 (17 s wide) so make one `advance` of 5 ms, under whatever lock the wheel is in.
#![forbid(unsafe_code)]

pub use super::slab::Key;
use super::slab::{NIL, Slab};

/// A tick is `1 << TICK_SHIFT` nanoseconds: 65.536 us. Linux by default lets a sleep overrun by 50 us (timer slack),
/// so a finer tick would promise what the kernel does not keep.
pub const TICK_SHIFT: u32 = 16;

const DIGIT_BITS: u32 = 6;
/// Slots on a level; their occupancy fits one u64.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Eight digits make the 48 bits of a tick. The ninth is for the one tick above them: the end of time, to which
/// deadlines in the last, incomplete tick round up.
const LEVELS: usize = 9;
const END_TICK: u64 = 1 << (u64::BITS - TICK_SHIFT);

/// The first tick that starts at `ns` or later.
const fn tick_at_or_after(ns: u64) -> u64 {
    // Not `(ns + TICK - 1) >> SHIFT`, which overflows.
    (ns >> TICK_SHIFT) + (ns & ((1 << TICK_SHIFT) - 1) != 0) as u64
}

/// The last tick that has started at `ns`. At the very last nanosecond that is the end of time, or what rounds up
/// to it would never be due.
const fn tick_at(ns: u64) -> u64 {
    if ns == u64::MAX {
        END_TICK
    } else {
        ns >> TICK_SHIFT
    }
}

/// When `tick` starts, in ns.
const fn tick_start(tick: u64) -> u64 {
    if tick >= END_TICK {
        u64::MAX
    } else {
        tick << TICK_SHIFT
    }
}

/// First and last node of a slot's list (NIL, NIL when empty).
#[derive(Clone, Copy)]
struct Slot {
    head: u32,
    tail: u32,
}

const EMPTY: Slot = Slot {
    head: NIL,
    tail: NIL,
};

/// Where a slot is: its level and its number there.
#[derive(Clone, Copy)]
struct Place {
    level: usize,
    slot: usize,
}

impl Place {
    /// Of a timer for `tick`, seen from `now` (invariant 1).
    #[inline]
    const fn of(tick: u64, now: u64) -> Self {
        // `| 1` makes equal ticks differ in digit 0, which changes no other case.
        let highest_bit = u64::BITS - 1 - ((tick ^ now) | 1).leading_zeros();
        let level = highest_bit / DIGIT_BITS;
        Self {
            level: level as usize,
            slot: (tick >> (level * DIGIT_BITS)) as usize & (SLOTS - 1),
        }
    }

    #[inline]
    const fn index(self) -> usize {
        self.level * SLOTS + self.slot
    }
}

/// Timers that carry a `T` each. See the head of this file; an empty one takes 5 KB.
pub struct Wheel<T> {
    nodes: Slab<T>,
    /// The latest time told, and how far the slots have been worked off: equal outside `advance`, but for rounding.
    now_ns: u64,
    now: u64,
    levels: u32,
    occupied: [u64; LEVELS],
    slots: Box<[Slot; LEVELS * SLOTS]>,
}

impl<T> Wheel<T> {
    /// An empty wheel, at time `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self {
            nodes: Slab::new(),
            now_ns,
            now: tick_at(now_ns),
            levels: 0,
            occupied: [0; LEVELS],
            slots: Box::new([EMPTY; LEVELS * SLOTS]),
        }
    }

    /// Number of timers armed.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Is no timer armed?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arm a timer. If `deadline_ns` is not after the latest time told, the next [`advance`](Self::advance) fires it,
    /// whatever time that one is told. O(1).
    pub fn insert(&mut self, deadline_ns: u64, value: T) -> Key {
        let tick = self.tick_for(deadline_ns);
        let key = self.nodes.insert(tick, value);
        self.link(key.index, tick);
        key
    }

    /// Cancel a timer and get its value back; None if it has fired or was removed. O(1).
    pub fn remove(&mut self, key: Key) -> Option<T> {
        if !self.nodes.contains(key) {
            return None;
        }
        self.unlink(key.index);
        Some(self.nodes.remove(key.index))
    }

    /// Give a timer a new deadline, as by [`remove`](Self::remove) and [`insert`](Self::insert) but under the same
    /// key; false if it has fired or was removed. O(1).
    pub fn reset(&mut self, key: Key, deadline_ns: u64) -> bool {
        if !self.nodes.contains(key) {
            return false;
        }
        self.unlink(key.index);
        let tick = self.tick_for(deadline_ns);
        self.nodes.node_mut(key.index).tick = tick;
        self.link(key.index, tick);
        true
    }

    /// It is now `now_ns` (an earlier time than told before counts as that one): pass to `fire` every timer whose
    /// deadline, rounded up to a tick, has come; by tick, and within a tick in the order in which they were armed.
    ///
    /// Costs O(timers fired or moved down a level), however much time has passed. If `fire` panics, the timers not
    /// yet passed to it stay armed, and the next call goes on with them.
    pub fn advance(&mut self, now_ns: u64, mut fire: impl FnMut(T)) {
        self.now_ns = self.now_ns.max(now_ns);
        let until = tick_at(self.now_ns);
        while let Some((place, start)) = self.first_slot() {
            if start > until {
                break;
            }
            self.now = start;
            if place.level == 0 {
                self.fire_slot(place, &mut fire);
            } else {
                self.cascade(place);
            }
        }
        self.now = until;
    }

    /// When to call [`advance`](Self::advance) next: at that time it fires a timer, or moves some down a level.
    ///
    /// Never later than the earliest deadline rounded up to a tick (or, if that is overdue, than the latest time
    /// told). Exactly that for timers of the current 4 ms, and for one that has its slot to itself, so a lone
    /// sleeper is woken once; else it may come earlier, at most once per level. O(1).
    pub fn next_deadline(&self) -> Option<u64> {
        let (place, start) = self.first_slot()?;
        let Slot { head, tail } = self.slots[place.index()];
        let tick = if head == tail {
            self.nodes.node(head).tick
        } else {
            start
        };
        Some(tick_start(tick))
    }

    /// The occupied slot that comes first, and the tick where it starts (invariant 2).
    #[inline]
    fn first_slot(&self) -> Option<(Place, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let slot = self.occupied[level as usize].trailing_zeros();
        let shift = level * DIGIT_BITS;
        let above = self.now & !((1 << (shift + DIGIT_BITS)) - 1);
        let place = Place {
            level: level as usize,
            slot: slot as usize,
        };
        Some((place, above | u64::from(slot) << shift))
    }

    /// Fire all timers of a level 0 slot. Each is out of the wheel before `fire` sees it: that may panic.
    fn fire_slot(&mut self, place: Place, fire: &mut impl FnMut(T)) {
        loop {
            let index = self.slots[place.index()].head;
            if index == NIL {
                return;
            }
            self.unlink(index);
            fire(self.nodes.remove(index));
        }
    }

    /// `now` has come to the start of this slot of a higher level: all its timers belong lower now.
    fn cascade(&mut self, place: Place) {
        let mut index = std::mem::replace(&mut self.slots[place.index()], EMPTY).head;
        self.vacate(place);
        while index != NIL {
            let node = self.nodes.node(index);
            let (tick, next) = (node.tick, node.next);
            self.link(index, tick);
            index = next;
        }
    }

    /// The tick at which a timer with this deadline fires.
    #[inline]
    fn tick_for(&self, deadline_ns: u64) -> u64 {
        if deadline_ns <= self.now_ns {
            // Due. Not its own tick: that may be behind `now`, or (rounded up) ahead of it.
            self.now
        } else {
            tick_at_or_after(deadline_ns)
        }
    }

    /// Append a node that is in no list to the slot of `tick`.
    #[inline]
    fn link(&mut self, index: u32, tick: u64) {
        let place = Place::of(tick, self.now);
        let slot = &mut self.slots[place.index()];
        let tail = std::mem::replace(&mut slot.tail, index);
        if tail == NIL {
            slot.head = index;
            self.occupied[place.level] |= 1 << place.slot;
            self.levels |= 1 << place.level;
        } else {
            self.nodes.node_mut(tail).next = index;
        }
        let node = self.nodes.node_mut(index);
        node.prev = tail;
        node.next = NIL;
    }

    /// Take a node out of its slot's list.
    #[inline]
    fn unlink(&mut self, index: u32) {
        let node = self.nodes.node(index);
        let (prev, next) = (node.prev, node.next);
        if prev != NIL && next != NIL {
            self.nodes.node_mut(prev).next = next;
            self.nodes.node_mut(next).prev = prev;
            return;
        }
        let place = Place::of(node.tick, self.now);
        let slot = &mut self.slots[place.index()];
        match (prev, next) {
            (NIL, NIL) => {
                *slot = EMPTY;
                self.vacate(place);
            }
            (NIL, _) => {
                slot.head = next;
                self.nodes.node_mut(next).prev = NIL;
            }
            (_, _) => {
                slot.tail = prev;
                self.nodes.node_mut(prev).next = NIL;
            }
        }
    }

    /// Note that a slot has become empty (invariant 3).
    #[inline]
    fn vacate(&mut self, place: Place) {
        self.occupied[place.level] &= !(1 << place.slot);
        if self.occupied[place.level] == 0 {
            self.levels &= !(1 << place.level);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
