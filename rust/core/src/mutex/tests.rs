//! The mutex, step by step against a plain model with a clock of its own. What happens at the same time is in
//! `tests/loom_mutex.rs`.

use super::*;
use crate::testing::{Crew, Rng, in_child, rt, set_clock};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Now {
    Works,
    Waits,
    /// Woken, and has not confirmed yet.
    Woken,
    /// Its time is up and it has not left the queue yet.
    Late,
    Aside,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Entry {
    who: usize,
    since: u64,
    aside: bool,
    late: bool,
}

/// A mutex, and what it must do in the plainest words: a queue by age.
struct World {
    crew: Crew,
    mutex: Mutex,
    turns: Vec<Box<Turn>>,
    now: Vec<Now>,
    since: Vec<u64>,
    clock: u64,
    locked: bool,
    told: Option<usize>,
    /// Has the mutex and has not confirmed: several, if others unlock it meanwhile.
    granted: Vec<usize>,
    queue: Vec<Entry>,
    woken: Vec<usize>,
}

impl World {
    fn new(n: usize) -> Self {
        let mut w = Self {
            crew: Crew::new(n),
            mutex: Mutex::default(),
            turns: (0..n).map(|_| Box::default()).collect(),
            now: vec![Now::Works; n],
            since: vec![0; n],
            clock: 0,
            locked: false,
            told: None,
            granted: Vec::new(),
            queue: Vec::new(),
            woken: Vec::new(),
        };
        w.pass_time(1);
        w
    }

    fn pass_time(&mut self, ns: u64) {
        self.clock += ns;
        set_clock(self.clock);
    }

    fn begin(&mut self, i: usize) {
        *self.turns[i] = Turn::new();
        self.since[i] = 0;
        self.enlist(i);
    }

    fn enlist(&mut self, i: usize) {
        let (waker, ticket) = self.crew.arm(i);
        // SAFETY: boxed, and kept until the round is over.
        let waits = unsafe {
            self.mutex
                .enlist(self.crew.rt, &mut self.turns[i], waker, ticket)
        };
        assert_eq!(waits, self.locked);
        if !waits {
            self.locked = true;
            self.queue.retain(|e| e.who != i);
            self.crew.disarm(i);
            self.now[i] = Now::Works;
            return;
        }
        self.crew.park(i);
        self.now[i] = Now::Waits;
        let first = self.since[i] == 0;
        if first {
            self.since[i] = self.clock;
        }
        let entry = Entry {
            who: i,
            since: self.since[i],
            aside: false,
            late: false,
        };
        match self.queue.iter().position(|e| e.who == i) {
            Some(at) => self.queue[at] = entry,
            None if first => self.queue.push(entry),
            None => {
                let older = |e: &&Entry| e.since < entry.since;
                let at = self.queue.iter().take_while(older).count();
                self.queue.insert(at, entry);
            }
        }
    }

    fn pass(&mut self) {
        self.locked = false;
        while self.told.is_none() {
            let Some(at) = self.queue.iter().position(|e| !e.aside) else {
                return;
            };
            let e = self.queue.remove(at);
            if e.late {
                continue;
            }
            self.woken.push(e.who);
            if self.clock - e.since >= PATIENCE {
                self.locked = true;
                self.granted.push(e.who);
            } else {
                self.told = Some(e.who);
            }
            return;
        }
    }

    fn unlock(&mut self) {
        let r = self.mutex.unlock(self.crew.rt);
        assert_eq!(r.is_ok(), self.locked);
        if self.locked {
            self.pass();
        }
        self.compare();
    }

    fn try_lock(&mut self) -> bool {
        let free = !std::mem::replace(&mut self.locked, true);
        assert_eq!(self.mutex.try_lock(), free);
        free
    }

    /// True: it has the mutex.
    fn confirmed(&mut self, i: usize) -> bool {
        if let Some(at) = self.granted.iter().position(|w| *w == i) {
            self.granted.remove(at);
            return true;
        }
        assert_eq!(self.told.take(), Some(i));
        !std::mem::replace(&mut self.locked, true)
    }

    fn confirm(&mut self, i: usize) -> bool {
        let has = self.mutex.confirm(&mut self.turns[i]);
        assert_eq!(has, self.confirmed(i));
        self.now[i] = Now::Works;
        has
    }

    fn vanish(&mut self, i: usize) {
        self.mutex.vanish(self.crew.rt, &mut self.turns[i]);
        self.now[i] = Now::Works;
        if self.confirmed(i) {
            self.pass();
        }
        self.compare();
    }

    fn entry(&mut self, i: usize) -> Option<&mut Entry> {
        self.queue.iter_mut().find(|e| e.who == i)
    }

    fn aside(&mut self, i: usize) {
        self.mutex.aside(&mut self.turns[i]);
        assert!(self.crew.expire(i));
        self.now[i] = Now::Aside;
        self.entry(i).unwrap().aside = true;
    }

    fn expire(&mut self, i: usize) {
        assert!(self.crew.expire(i));
        self.now[i] = Now::Late;
        self.entry(i).unwrap().late = true;
    }

    fn delist(&mut self, i: usize) {
        // SAFETY: enlisted here.
        unsafe { self.mutex.delist(&raw mut *self.turns[i]) };
        self.queue.retain(|e| e.who != i);
        self.crew.disarm(i);
        self.now[i] = Now::Works;
    }

    fn compare(&mut self) {
        let woken = self.crew.woken();
        assert_eq!(woken, std::mem::take(&mut self.woken));
        for i in woken {
            self.now[i] = Now::Woken;
        }
        assert_eq!(self.mutex.is_locked(), self.locked);
        // The invariant of the file head.
        let waits = self.queue.iter().any(|e| !e.aside && !e.late);
        assert!(self.locked || !waits || self.told.is_some());
    }

    fn step(&mut self, rng: &mut Rng) {
        let i = rng.below(self.now.len() as u64) as usize;
        match self.now[i] {
            Now::Works if rng.below(4) == 0 => drop(self.try_lock()),
            Now::Works => self.begin(i),
            Now::Waits => match rng.below(12) {
                0 => self.expire(i),
                1 => self.aside(i),
                2 => self.pass_time(PATIENCE),
                3 => self.pass_time(PATIENCE / 4),
                _ => self.unlock(),
            },
            Now::Woken if rng.below(8) == 0 => self.vanish(i),
            Now::Woken => {
                if !self.confirm(i) {
                    self.now[i] = Now::Aside;
                }
            }
            Now::Late => self.delist(i),
            Now::Aside if rng.below(6) == 0 => self.delist(i),
            Now::Aside => self.enlist(i),
        }
        self.pass_time(1);
        self.compare();
    }
}

/// Any operations in any order, with waiters that are late, aside or gone, and a clock that jumps: who has the mutex,
/// who is told and who comes next is the model's. Mutations: `unlock` tells a second one; `vanish` does not unlock;
/// `confirm` leaves `told`; a turn that comes back goes last; `PATIENCE` is not looked at; one that was late keeps the
/// mutex.
#[test]
fn a_mutex_is_a_queue_by_age() {
    for seed in 1..=60 {
        let mut rng = Rng(seed);
        let mut w = World::new(6);
        for _ in 0..2000 {
            w.step(&mut rng);
        }
    }
}

/// Whoever comes while it is free takes it, past one that was told; that one keeps its age, and once it has waited for
/// a millisecond the mutex is its own and nobody passes. Mutations: `hand_over` is never; `enlist` renews `since`.
#[test]
fn newcomers_pass_for_a_millisecond() {
    let mut w = World::new(2);
    assert!(w.try_lock());
    w.begin(0);
    w.begin(1);
    w.pass_time(PATIENCE - 2);
    w.unlock();
    assert_eq!(w.told, Some(0));
    assert!(w.try_lock(), "a newcomer passes");
    assert!(!w.confirm(0));
    w.enlist(0);
    w.pass_time(2);
    w.unlock();
    assert_eq!(w.granted, [0]);
    assert!(!w.try_lock(), "nobody passes");
    assert!(w.confirm(0));
    w.unlock();
    assert_eq!(w.granted, [1]);
    assert!(w.confirm(1));
    w.unlock();
    assert!(!w.mutex.is_locked());
    assert_eq!(w.mutex.unlock(w.crew.rt), Err(NotLocked));
}

/// Two that were told and came too late wait again by age, whoever of them comes first. Mutation: a turn that comes
/// back goes first.
#[test]
fn those_that_come_back_stand_by_age() {
    let mut w = World::new(3);
    assert!(w.try_lock());
    for i in 0..3 {
        w.begin(i);
        w.pass_time(1);
    }
    w.unlock();
    assert!(w.try_lock() && !w.confirm(0));
    w.unlock();
    assert_eq!(w.told, Some(1));
    assert!(w.try_lock());
    w.enlist(0);
    assert!(!w.confirm(1));
    w.enlist(1);
    w.pass_time(PATIENCE);
    for i in 0..3 {
        w.unlock();
        assert_eq!(w.granted, [i]);
        assert!(w.confirm(i));
    }
}

/// One that was told or handed the mutex, and vanished: the next one gets its turn. Mutation: `vanish` only confirms.
#[test]
fn a_turn_that_vanishes_is_the_next_ones() {
    for age in [0, PATIENCE] {
        let mut w = World::new(2);
        assert!(w.try_lock());
        w.begin(0);
        w.begin(1);
        w.pass_time(age);
        w.unlock();
        assert_eq!(w.now, [Now::Woken, Now::Waits]);
        w.vanish(0);
        assert_eq!(w.now, [Now::Works, Now::Woken]);
        w.vanish(1);
        assert!(!w.mutex.is_locked());
    }
}

/// The only waiter is aside while the mutex is freed: it takes it when it comes back. Mutation: `first` gives those that
/// are aside.
#[test]
fn one_that_is_aside_finds_the_mutex_free() {
    let mut w = World::new(1);
    assert!(w.try_lock());
    w.begin(0);
    w.aside(0);
    w.unlock();
    assert!(!w.mutex.is_locked());
    w.enlist(0);
    assert!(w.mutex.is_locked() && w.now == [Now::Works]);
}

/// In a forked child nobody was told, whoever was told before: those that wait there get their turn. Mutation: `told` is
/// a bool.
#[test]
fn a_forked_child_forgets_who_was_told() {
    let mut w = World::new(2);
    assert!(w.try_lock());
    w.begin(0);
    w.unlock();
    assert_eq!(w.told, Some(0));
    in_child(|| {
        let free = w.mutex.try_lock();
        let (waker, ticket) = w.crew.arm(1);
        let mut turn = Turn::new();
        // SAFETY: it stays where it is.
        let waits = unsafe { w.mutex.enlist(w.crew.rt, &mut turn, waker, ticket) };
        w.crew.park(1);
        let unlocked = w.mutex.unlock(w.crew.rt).is_ok();
        let woken = w.crew.rt.global_len() == 1;
        free && waits && unlocked && woken && w.mutex.confirm(&mut turn)
    });
    assert!(w.confirm(0));
}

/// A free mutex needs no wait. Mutation: `enlist` registers first.
#[test]
fn a_free_mutex_is_taken_at_once() {
    let mut w = World::new(1);
    w.begin(0);
    assert_eq!(w.now, [Now::Works]);
    assert!(w.mutex.unlock(rt(1)).is_ok());
}
