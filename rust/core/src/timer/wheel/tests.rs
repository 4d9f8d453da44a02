//! The guarantees of the wheel, one by one; all of them at once, at random, are in model.rs.
//!
//! Each test names a mutation: a change to the code that was seen to make it fail.

use super::model::Rng;
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) const TICK: u64 = 1 << TICK_SHIFT;
const HOUR: u64 = 3_600_000_000_000;
const YEAR: u64 = 8_766 * HOUR;
/// What an idle wheel may take: there is one per P.
const IDLE_BYTES: usize = 8 << 10;

impl<T> Wheel<T> {
    fn heap_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.slots) + self.nodes.heap_bytes()
    }

    /// Panic unless invariants 1 to 3 of wheel.rs hold.
    pub(super) fn check(&self) {
        let mut count = 0;
        for level in 0..LEVELS {
            assert_eq!(self.levels >> level & 1 == 1, self.occupied[level] != 0);
            for slot in 0..SLOTS {
                let place = Place { level, slot };
                let Slot { head, tail } = self.slots[place.index()];
                assert_eq!(self.occupied[level] >> slot & 1 == 1, head != NIL);
                let (mut index, mut prev) = (head, NIL);
                while index != NIL {
                    let node = self.nodes.node(index);
                    assert!(node.tick >= self.now);
                    assert_eq!(Place::of(node.tick, self.now).index(), place.index());
                    assert_eq!(node.prev, prev);
                    count += 1;
                    (index, prev) = (node.next, index);
                }
                assert_eq!(tail, prev);
            }
        }
        assert_eq!(count, self.len());
    }
}

fn fired<T>(wheel: &mut Wheel<T>, now_ns: u64) -> Vec<T> {
    let mut values = Vec::new();
    wheel.advance(now_ns, |value| values.push(value));
    values
}

/// A deadline that has passed fires at the next `advance`, also when that tells no later time.
/// Mutation: `tick_for` without its first branch, `self.now.max(tick_at_or_after(deadline_ns))` throughout.
#[test]
fn due_at_once() {
    let now = 1_000 * TICK + 5;
    let mut wheel = Wheel::new(now);
    for deadline in [0, now - 1, now] {
        wheel.insert(deadline, deadline);
        assert!(wheel.next_deadline().unwrap() <= now);
        assert_eq!(vec![deadline], fired(&mut wheel, now));
    }
}

/// From its deadline on a timer fires within a tick, and never before.
/// Mutation: `tick_at_or_after` rounds down.
#[test]
fn rounds_up() {
    for deadline in [1, TICK - 1, TICK, TICK + 1, 64 * TICK, HOUR, 70 * YEAR + 1] {
        let mut wheel = Wheel::new(0);
        wheel.insert(deadline, ());
        assert!(fired(&mut wheel, deadline - 1).is_empty());
        assert_eq!(1, fired(&mut wheel, deadline + TICK - 1).len());
    }
}

/// The last deadline there is fires at the last nanosecond, and what is inserted then fires too.
/// Mutations: `tick_at` without its first branch (never fires); `tick_for` at most `END_TICK - 1` (early).
#[test]
fn end_of_time() {
    let mut wheel = Wheel::new(0);
    wheel.insert(u64::MAX, 1);
    wheel.insert(u64::MAX - 1, 2);
    assert_eq!(Some(u64::MAX), wheel.next_deadline());
    assert!(fired(&mut wheel, u64::MAX - 2).is_empty());
    assert_eq!(vec![1, 2], fired(&mut wheel, u64::MAX));
    wheel.insert(u64::MAX, 3);
    assert_eq!(vec![3], fired(&mut wheel, u64::MAX));
    assert_eq!(None, wheel.next_deadline());
}

/// Time told out of order does not turn the wheel back.
/// Mutation: `advance` takes `now_ns` without `max`.
#[test]
fn time_does_not_go_back() {
    let mut wheel = Wheel::new(0);
    wheel.advance(HOUR, |()| ());
    wheel.insert(HOUR + TICK, ());
    wheel.advance(1, |()| panic!("an hour early"));
    wheel.check();
    wheel.insert(HOUR - 1, ());
    assert_eq!(1, fired(&mut wheel, 2).len());
    assert_eq!(1, fired(&mut wheel, HOUR + 2 * TICK).len());
}

/// Leaps cost what they touch, not the ticks in them: 500 years are 2^48 of those.
/// Mutation: `advance` goes on by one tick when nothing is due (the test then does not end).
#[test]
fn leaps_are_cheap() {
    let mut wheel = Wheel::new(0);
    for year in 1..=500 {
        wheel.insert(year * YEAR, year);
    }
    assert_eq!(
        (1..=499).collect::<Vec<_>>(),
        fired(&mut wheel, 500 * YEAR - 1)
    );
}

/// Timers of one tick fire in the order of arming, also when the first was armed so early that it had to cascade;
/// a reset counts as arming.
/// Mutation: `link` prepends.
#[test]
fn first_armed_first_fired() {
    let mut wheel = Wheel::new(0);
    let deadline = HOUR / TICK * TICK;
    let moved = wheel.insert(deadline, 4);
    wheel.insert(deadline, 1);
    wheel.insert(deadline - 1, 2);
    wheel.advance(deadline - TICK, |_| panic!("early"));
    wheel.insert(deadline, 3);
    assert!(wheel.reset(moved, deadline));
    assert_eq!(vec![1, 2, 3, 4], fired(&mut wheel, deadline));
}

/// A lone timer is slept for once, however far it is.
/// Mutation: `next_deadline` returns the slot's start for it as well.
#[test]
fn lone_timer_wakes_once() {
    for deadline in (16..63).map(|bits| (1 << bits) + 12_345 * TICK) {
        let mut wheel = Wheel::new(7);
        wheel.insert(deadline, ());
        let wake = wheel.next_deadline().unwrap();
        assert_eq!(deadline, wake);
        assert_eq!(1, fired(&mut wheel, wake).len());
    }
}

/// Sleeping to `next_deadline` comes down at least a level each time.
/// Mutation: `next_deadline` returns a tick less than the slot's start (no progress).
#[test]
fn progress_in_at_most_one_wakeup_per_level() {
    for deadline in (17..63).map(|bits| (1 << bits) - TICK) {
        let mut wheel = Wheel::new(7);
        // Two of them share every slot, so that neither is taken for a lone one.
        wheel.insert(deadline, ());
        wheel.insert(deadline, ());
        let mut wakeups = 0;
        while let Some(wake) = wheel.next_deadline() {
            assert!(wake <= deadline);
            wheel.advance(wake, |()| ());
            wakeups += 1;
            assert!(wakeups <= LEVELS);
        }
    }
}

/// A key dies with its timer: fired, removed, its place taken by another, its chunk freed and made anew.
/// Mutation: a generation per node (`node.generation + 1`) instead of per slab.
#[test]
fn stale_keys_match_nothing() {
    let mut wheel = Wheel::new(0);
    let mut stale = vec![Key::NONE];
    for round in 0..4 {
        let keys: Vec<_> = (0..1_000).map(|i| wheel.insert(i * TICK, i)).collect();
        for key in &stale {
            assert_eq!(None, wheel.remove(*key));
            assert!(!wheel.reset(*key, HOUR));
        }
        assert_eq!(1_000, wheel.len());
        if round % 2 == 0 {
            for key in &keys {
                wheel.remove(*key);
            }
        } else {
            wheel.advance(wheel.now_ns + HOUR, |_| ());
        }
        assert!(wheel.is_empty());
        stale.extend(keys);
    }
}

/// When the counter wraps it skips 0, the generation of free places, or that timer's key would match its place
/// when free.
/// Mutation: `wrapping_add`.
#[test]
fn generation_skips_zero() {
    let mut wheel = Wheel::new(0);
    wheel.nodes.set_generation(u32::MAX - 1);
    for value in 0..4 {
        let key = wheel.insert(HOUR, value);
        assert_eq!(Some(value), wheel.remove(key));
        assert_eq!(None, wheel.remove(key));
    }
}

/// A `fire` that panics loses its own timer and no other.
/// Mutation: `fire_slot` takes the whole list out of the slot first.
#[test]
fn panic_keeps_the_rest() {
    let mut wheel = Wheel::new(0);
    for value in 0..4 {
        wheel.insert(HOUR + value / 2 * TICK, value);
    }
    let panics = AssertUnwindSafe(|| wheel.advance(2 * HOUR, |_| panic!("on purpose")));
    assert!(catch_unwind(panics).is_err());
    wheel.check();
    wheel.insert(0, 9);
    assert_eq!(vec![1, 9, 2, 3], fired(&mut wheel, 0));
}

/// A million timers come and go and leave an idle wheel, whatever the order in which they go.
/// Mutations: `close_chunk` keeps `nodes`; it keeps the higher chunk as the spare; it does not shrink the directory.
#[test]
fn memory_is_given_back() {
    let many = if cfg!(miri) { 2_000 } else { 1_000_000 };
    let mut rng = Rng(42);
    let mut wheel = Wheel::new(0);
    assert!(wheel.heap_bytes() < IDLE_BYTES);
    for order in 0..4 {
        let mut keys: Vec<_> = (0..many)
            .map(|_| wheel.insert(HOUR + rng.magnitude(50), (0_u64, 0_u64)))
            .collect();
        match order {
            0 => (),
            1 => keys.reverse(),
            2 => (1..many).for_each(|i| keys.swap(i, rng.below(i as u64 + 1) as usize)),
            _ => wheel.advance(u64::MAX, |_| ()),
        }
        for key in keys {
            assert_eq!(order < 3, wheel.remove(key).is_some());
        }
        let bytes = wheel.heap_bytes();
        assert!(bytes < IDLE_BYTES, "{bytes} bytes left, order {order}");
    }
}

/// One timer added and cancelled in a loop keeps its chunk, so it allocates nothing.
/// Mutation: `close_chunk` gives back every chunk.
#[test]
fn a_spare_chunk_stays() {
    let mut wheel = Wheel::new(0);
    let key = wheel.insert(HOUR, ());
    let bytes = wheel.heap_bytes();
    wheel.remove(key);
    assert_eq!(bytes, wheel.heap_bytes());
}
