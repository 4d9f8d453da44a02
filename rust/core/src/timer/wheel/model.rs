//! The wheel against a sorted map, under random operations.
//!
//! A failing run prints its seed; `GORUN_TEST_SEED=<seed> cargo test same_as_a_sorted_map` replays it.

use super::tests::TICK;
use super::*;
use std::collections::BTreeMap;

/// (deadline, order of arming): enough to see from outside what fires early, late, or out of turn.
type Value = (u64, u64);

/// xorshift64*: small, and the same numbers everywhere.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Any magnitude up to `bits` bits is as likely as any other, so every level of the wheel gets its share.
    pub(super) fn magnitude(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits + 1);
        self.next() & ((1_u128 << bits) - 1) as u64
    }
}

/// The wheel and what it should do: timers in a map sorted by (tick, order of arming).
struct Model {
    wheel: Wheel<Value>,
    now: u64,
    armed: BTreeMap<(u64, u64), (u64, Key)>,
    /// Keys of timers gone, which must match nothing for ever.
    stale: Vec<Key>,
    armings: u64,
}

impl Model {
    fn new(now: u64) -> Self {
        Self {
            wheel: Wheel::new(now),
            now,
            armed: BTreeMap::new(),
            stale: vec![Key::NONE],
            armings: 0,
        }
    }

    /// (tick, order) of a timer armed now: due ones go with the current tick, all others round up.
    fn rank(&mut self, deadline: u64) -> (u64, u64) {
        self.armings += 1;
        let due = deadline <= self.now && self.now < u64::MAX;
        let tick = if due {
            self.now / TICK
        } else {
            deadline.div_ceil(TICK)
        };
        (tick, self.armings)
    }

    fn insert(&mut self, deadline: u64) {
        let rank = self.rank(deadline);
        let key = self.wheel.insert(deadline, (deadline, rank.1));
        self.armed.insert(rank, (deadline, key));
    }

    fn any_armed(&self, rng: &mut Rng) -> Option<(u64, u64)> {
        let nth = rng.below(self.armed.len().max(1) as u64) as usize;
        self.armed.keys().nth(nth).copied()
    }

    fn remove(&mut self, rank: (u64, u64)) {
        let (deadline, key) = self.armed.remove(&rank).unwrap();
        assert_eq!(self.wheel.remove(key).map(|v| v.0), Some(deadline));
        self.stale.push(key);
    }

    fn reset(&mut self, old: (u64, u64), deadline: u64) {
        let (was, key) = self.armed.remove(&old).unwrap();
        let rank = self.rank(deadline);
        assert!(self.wheel.reset(key, deadline));
        // The value tells the old deadline and order; make it tell the new ones as the map does.
        let value = self.wheel.nodes.node_mut(key.index).value_mut();
        assert_eq!(value.0, was);
        *value = (deadline, rank.1);
        self.armed.insert(rank, (deadline, key));
    }

    fn advance(&mut self, now: u64) {
        self.now = now;
        let mut fired = Vec::new();
        self.wheel.advance(now, |value| fired.push(value));
        let mut due = Vec::new();
        while let Some(first) = self.armed.first_entry() {
            // The last nanosecond counts as the end of the last tick.
            if first.key().0 > now / TICK && now != u64::MAX {
                break;
            }
            let (&(_, order), &(deadline, key)) = (first.key(), first.get());
            assert!(deadline <= now);
            due.push((deadline, order));
            self.stale.push(key);
            first.remove();
        }
        assert_eq!(due, fired);
    }

    fn check(&mut self, rng: &mut Rng) {
        let stale = self.stale[rng.below(self.stale.len() as u64) as usize];
        assert!(!self.wheel.reset(stale, self.now));
        assert_eq!(None, self.wheel.remove(stale));
        assert_eq!(self.armed.len(), self.wheel.len());
        let first = self.armed.first_key_value().map(|(rank, _)| rank.0);
        let wake = self.wheel.next_deadline();
        assert_eq!(first.is_some(), wake.is_some());
        if let (Some(tick), Some(wake)) = (first, wake) {
            assert!(u128::from(wake) <= u128::from(tick) * u128::from(TICK));
        }
    }
}

/// Thousands of random operations, every magnitude of deadline and jump: what fires, when, and in which order is
/// what a sorted map says; stale keys match nothing; waking at `next_deadline` is never late.
/// Mutations: `tick_at_or_after` rounds down (early); `first_slot` takes the highest level; `link` prepends (order);
/// `reset` keeps the old tick; `unlink` forgets `tail`; and two that never end: `cascade` without `vacate`, `Place::of`
/// a level too high (`highest_bit + 1`).
#[test]
fn same_as_a_sorted_map() {
    let (seeds, steps) = if cfg!(miri) { (2, 200) } else { (150, 2_000) };
    match std::env::var("GORUN_TEST_SEED") {
        Ok(seed) => run(seed.parse().expect("a number"), steps),
        Err(_) => (1..=seeds).for_each(|seed| run(seed, steps)),
    }
}

fn run(seed: u64, steps: usize) {
    struct Note(u64);
    impl Drop for Note {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replay with GORUN_TEST_SEED={}", self.0);
            }
        }
    }
    let _note = Note(seed);
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // Half of the runs start just before a digit of the tick carries.
    let start = match rng.below(2) {
        0 => rng.magnitude(62),
        _ => (1 << (20 + rng.below(42))) - rng.magnitude(20),
    };
    let mut model = Model::new(start);
    for step in 0..steps {
        let deadline = match rng.below(12) {
            0 => u64::MAX - rng.magnitude(20),
            1 => model.now.saturating_sub(rng.magnitude(40)),
            2 => (model.now / TICK + rng.below(200)) * TICK + rng.below(3) - 1 + TICK,
            3 => model.now + rng.below(8) * TICK,
            _ => model.now.saturating_add(rng.magnitude(62)),
        };
        let (rank, wake) = (model.any_armed(&mut rng), model.wheel.next_deadline());
        match (rng.below(16), rank, wake) {
            (0..=1, Some(rank), _) => model.remove(rank),
            (2..=3, Some(rank), _) => model.reset(rank, deadline),
            (4, ..) => model.advance(model.now),
            (5..=7, ..) => model.advance(model.now + rng.magnitude(26)),
            // Hours (2^45 ns are ten) and years (2^58 are nine).
            (8, ..) => model.advance(model.now + rng.magnitude(45)),
            (9, ..) if step % 8 == 0 => model.advance(model.now + rng.magnitude(58)),
            (10, _, Some(wake)) if wake < u64::MAX / 2 => model.advance(wake.max(model.now)),
            _ => model.insert(deadline),
        }
        model.check(&mut rng);
        if step % 16 == 0 {
            model.wheel.check();
        }
    }
    // Sleep as the scheduler does until nothing is left: each wake-up is progress, and none comes late.
    let mut wakeups = model.armed.len() * LEVELS;
    while let Some(wake) = model.wheel.next_deadline() {
        model.advance(wake.max(model.now));
        model.check(&mut rng);
        wakeups = wakeups.checked_sub(1).expect("wake-ups without progress");
    }
    assert!(model.armed.is_empty());
    model.wheel.check();
}
