//! Gates, step by step against a plain queue, and what each rule says. What happens at the same time is in
//! `tests/loom_gate.rs`.

use std::fmt::Debug;

use super::*;
use crate::testing::{Crew, Rng, in_child, rt};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Now {
    Works,
    Waits,
    /// Its time is up and it has not left the queue yet.
    Late,
    Aside,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Entry {
    who: usize,
    want: u64,
    aside: bool,
    /// Its time is up, and it has not left yet: it still holds up those behind.
    late: bool,
}

/// A gate, and what it must do in the plainest words.
struct World<R> {
    crew: Crew,
    gate: Gate<R>,
    #[expect(clippy::vec_box, reason = "pinned while linked")]
    spots: Vec<Box<Spot>>,
    now: Vec<Now>,
    rule: R,
    queue: Vec<Entry>,
    /// Let in while aside.
    on_account: Vec<usize>,
    woken: Vec<usize>,
    /// What those inside hold.
    inside: Vec<u64>,
}

impl<R: Rule + Clone + Debug> World<R> {
    fn new(rule: R, n: usize) -> Self {
        Self {
            crew: Crew::new(n),
            gate: Gate::new(rule.clone()),
            spots: (0..n).map(|_| Box::new(Spot::new(0))).collect(),
            now: vec![Now::Works; n],
            rule,
            queue: Vec::new(),
            on_account: Vec::new(),
            woken: Vec::new(),
            inside: Vec::new(),
        }
    }

    fn admit(&mut self) {
        let mut at = 0;
        while let Some(e) = self.queue.get(at).copied() {
            if e.aside && !R::ON_ACCOUNT {
                at += 1;
            } else if self.rule.enter(e.want, false) {
                self.queue.remove(at);
                if e.late {
                    self.rule.undo(e.want);
                } else if e.aside {
                    self.on_account.push(e.who);
                } else {
                    self.woken.push(e.who);
                }
            } else if self.rule.goes_on() {
                at += 1;
            } else {
                break;
            }
        }
    }

    fn try_enter(&mut self, want: u64) -> bool {
        let waits = self.queue.iter().any(|e| !e.aside);
        let ok = self.rule.enter(want, waits);
        assert_eq!(self.gate.try_enter(want), ok);
        if ok {
            self.inside.push(want);
        }
        ok
    }

    fn enlist(&mut self, i: usize) {
        let (waker, ticket) = self.crew.arm(i);
        let want = self.spots[i].want();
        // SAFETY: boxed, and kept until the round is over.
        let waits = unsafe { self.gate.enlist(&mut self.spots[i], waker, ticket) };
        let place = self.queue.iter().position(|e| e.who == i);
        let before = place.unwrap_or(self.queue.len());
        let others = self.queue[..before].iter().any(|e| !e.aside);
        let account = self.on_account.iter().position(|w| *w == i);
        if account.is_some() || self.rule.enter(want, others) {
            assert!(!waits);
            account.map(|at| self.on_account.remove(at));
            self.queue.retain(|e| e.who != i);
            self.inside.push(want);
            self.crew.disarm(i);
            self.now[i] = Now::Works;
            return;
        }
        assert!(waits);
        self.crew.park(i);
        self.now[i] = Now::Waits;
        let entry = Entry {
            who: i,
            want,
            aside: false,
            late: false,
        };
        match place {
            Some(at) => self.queue[at] = entry,
            None => self.queue.push(entry),
        }
    }

    fn begin(&mut self, i: usize, want: u64) {
        *self.spots[i] = Spot::new(want);
        self.enlist(i);
    }

    fn expire(&mut self, i: usize) {
        assert!(self.crew.expire(i));
        self.now[i] = Now::Late;
        if let Some(e) = self.queue.iter_mut().find(|e| e.who == i) {
            e.late = true;
        }
    }

    fn aside(&mut self, i: usize) {
        self.gate.aside(&mut self.spots[i]);
        assert!(self.crew.expire(i));
        self.now[i] = Now::Aside;
        if let Some(e) = self.queue.iter_mut().find(|e| e.who == i) {
            e.aside = true;
        }
    }

    fn delist(&mut self, i: usize) {
        // SAFETY: enlisted here.
        unsafe { self.gate.delist(self.crew.rt, &raw mut *self.spots[i]) };
        self.queue.retain(|e| e.who != i);
        if let Some(at) = self.on_account.iter().position(|w| *w == i) {
            self.on_account.remove(at);
            self.rule.undo(self.spots[i].want());
        }
        self.admit();
        self.crew.disarm(i);
        self.now[i] = Now::Works;
    }

    fn change(&mut self, f: impl Fn(&mut R)) {
        self.gate.change(self.crew.rt, &f);
        f(&mut self.rule);
        self.admit();
    }

    fn undo(&mut self, want: u64) {
        self.gate.undo(self.crew.rt, want);
        self.rule.undo(want);
        self.admit();
    }

    /// Those that were woken are those of the model, in its order; the state is the model's.
    fn compare(&mut self) {
        let woken = self.crew.woken();
        assert_eq!(woken, std::mem::take(&mut self.woken));
        for i in woken {
            assert!(!self.spots[i].node.is_linked() && !self.spots[i].entered);
            self.now[i] = Now::Works;
            self.inside.push(self.spots[i].want());
        }
        let rule = self.gate.look(|r| format!("{r:?}"));
        assert_eq!(rule, format!("{:?}", self.rule));
        assert_eq!(self.gate.waiting(), self.queue.len());
    }

    fn step(&mut self, rng: &mut Rng, want: impl Fn(&mut Rng) -> u64) -> bool {
        let i = rng.below(self.now.len() as u64) as usize;
        match self.now[i] {
            Now::Works if rng.below(5) == 0 => {
                let want = want(rng);
                self.try_enter(want);
            }
            Now::Works => {
                let want = want(rng);
                self.begin(i, want);
            }
            Now::Waits => match rng.below(8) {
                0 => self.expire(i),
                1 => self.aside(i),
                _ => return false,
            },
            Now::Late => self.delist(i),
            Now::Aside if rng.below(4) == 0 => self.delist(i),
            Now::Aside => self.enlist(i),
        }
        self.compare();
        true
    }
}

/// Takes one of those inside.
fn leaver(inside: &mut Vec<u64>, rng: &mut Rng) -> Option<u64> {
    let n = inside.len() as u64;
    (n > 0).then(|| inside.swap_remove(rng.below(n) as usize))
}

/// Weighted acquisitions in any order, with waiters that are late or aside: first come, first served, and no unit is
/// lost or doubled. Mutations: `admit` keeps what one that was late took; it goes on past the first it cannot admit;
/// `delist` does not look at the head; `try_enter` passes those that wait; `enlist` asks for a free head of one that is
/// linked.
#[test]
fn units_are_served_in_order() {
    for seed in 1..=40 {
        let mut rng = Rng(seed);
        let mut w = World::new(Units { free: 4 }, 6);
        for _ in 0..1500 {
            if !w.step(&mut rng, |r| 1 + r.below(4)) {
                if let Some(n) = leaver(&mut w.inside, &mut rng) {
                    w.change(|r| r.free += n);
                    w.compare();
                }
            }
            let free = w.gate.look(|r| r.free);
            assert_eq!(free + w.inside.iter().sum::<u64>(), 4);
        }
    }
}

/// Readers and writers in any order: never a writer beside anybody; in order of arrival. Mutation: `undo` of a writer
/// frees a reader.
#[test]
fn readers_and_writers_take_turns() {
    for seed in 1..=40 {
        let mut rng = Rng(seed);
        let mut w = World::new(Readers::default(), 6);
        for _ in 0..1500 {
            if !w.step(&mut rng, |r| u64::from(r.below(3) == 0)) {
                if let Some(n) = leaver(&mut w.inside, &mut rng) {
                    w.undo(n);
                    w.compare();
                }
            }
            let writers = w.inside.iter().filter(|n| **n == Readers::WRITE).count();
            let readers = w.inside.len() - writers;
            assert!(writers == 0 || (writers, readers) == (1, 0));
            assert_eq!(w.gate.look(|r| r.readers), readers as u64);
        }
    }
}

/// A flag that goes up and down: whoever waits when it goes up enters, also one that is aside, and if it is down again
/// when that one comes back. Mutation: `ON_ACCOUNT` is false.
#[test]
fn a_flag_lets_in_all_that_wait() {
    for seed in 1..=20 {
        let mut rng = Rng(seed);
        let mut w = World::new(Flag::default(), 6);
        for _ in 0..1000 {
            if !w.step(&mut rng, |_| 0) {
                let set = rng.below(2) == 0;
                w.change(|r| r.set = set);
                w.compare();
            }
        }
    }
    let mut w = World::new(Flag::default(), 2);
    w.begin(0, 0);
    w.begin(1, 0);
    w.aside(1);
    w.change(|r| r.set = true);
    w.change(|r| r.set = false);
    w.compare();
    w.enlist(1);
    assert_eq!(w.now, [Now::Works; 2]);
}

/// A count that goes up and down: at 0 all that wait enter. Mutation: `Count` admits what is below 0, too.
#[test]
fn a_count_lets_in_all_that_wait_at_zero() {
    for seed in 1..=20 {
        let mut rng = Rng(seed);
        let mut w = World::new(Count::default(), 6);
        for _ in 0..1000 {
            if !w.step(&mut rng, |_| 0) {
                let by = rng.below(3) as i64 - 1;
                w.change(|r| r.n += by);
                w.compare();
            }
        }
    }
}

/// Three numbers, of which the oldest's owner is still on its way: it is called first and need not wait; the next call is
/// for the next number, whatever place its owner has in the queue; a number taken later is not called. Mutations:
/// `notify` calls the youngest; `goes_on` says false.
#[test]
fn calls_are_in_the_order_of_the_numbers() {
    let mut w = World::new(Calls::default(), 3);
    let [one, two, three] = [(); 3].map(|()| w.gate.change(w.crew.rt, Calls::take));
    w.begin(1, three);
    w.begin(2, two);
    w.gate.change(w.crew.rt, |r| r.notify(1));
    assert!(w.crew.woken().is_empty() && w.gate.try_enter(one));
    w.gate.change(w.crew.rt, |r| r.notify(1));
    assert_eq!(w.crew.woken(), [2]);
    w.gate.change(w.crew.rt, |r| r.notify(5));
    assert_eq!(w.crew.woken(), [1]);
    let late = w.gate.change(w.crew.rt, Calls::take);
    assert!(!w.gate.try_enter(late), "a call for one that came later");
}

/// Who gives a number up learns whether it was called, and then has to pass the call on; also one that was called while
/// it was aside and did not come back. Mutations: `give_up` leaves the number in; `undo` of `Calls` forgets it.
#[test]
fn a_call_that_was_not_answered_is_passed_on() {
    let mut w = World::new(Calls::default(), 2);
    let [one, two] = [(); 2].map(|()| w.gate.change(w.crew.rt, Calls::take));
    assert!(!w.gate.change(w.crew.rt, |r| r.give_up(one)));
    w.gate.change(w.crew.rt, |r| r.notify(1));
    assert!(w.gate.change(w.crew.rt, |r| r.give_up(two)), "called");
    let three = w.gate.change(w.crew.rt, Calls::take);
    let (waker, ticket) = w.crew.arm(0);
    let mut spot = Box::new(Spot::new(three));
    // SAFETY: boxed, and taken out below.
    unsafe {
        assert!(w.gate.enlist(&mut spot, waker, ticket));
        w.gate.aside(&mut spot);
        w.gate.change(w.crew.rt, |r| r.notify(1));
        w.gate.delist(w.crew.rt, &raw mut *spot);
    }
    assert!(
        w.gate.change(w.crew.rt, |r| r.give_up(three)),
        "called while aside"
    );
    w.crew.disarm(0);
}

/// While a writer waits nobody reads past it, and readers enter together after it. Mutation: `Readers::enter` lets readers
/// past a writer that waits.
#[test]
fn no_reader_passes_a_writer_that_waits() {
    let mut w = World::new(Readers::default(), 4);
    assert!(w.try_enter(Readers::READ) && w.try_enter(Readers::READ));
    w.begin(0, Readers::WRITE);
    assert!(!w.gate.try_enter(Readers::READ));
    for i in 1..4 {
        w.begin(i, Readers::READ);
        assert_eq!(w.now[i], Now::Waits);
    }
    w.undo(Readers::READ);
    assert_eq!(w.crew.woken(), []);
    w.undo(Readers::READ);
    assert_eq!(w.crew.woken(), [0]);
    w.undo(Readers::WRITE);
    assert_eq!(w.crew.woken(), [1, 2, 3]);
}

/// Waits for 4 of 3 units, with a 1 and a 2 behind it, which enter when it gives up. Mutation: `delist` without `admit`.
#[test]
fn a_large_request_that_gives_up_lets_the_small_ones_in() {
    for late in [true, false] {
        let mut w = World::new(Units { free: 3 }, 3);
        for (i, want) in [(0, 4), (1, 1), (2, 2)] {
            w.begin(i, want);
        }
        assert!(!w.gate.try_enter(1), "first come, first served");
        if late {
            w.expire(0);
        } else {
            w.aside(0);
        }
        w.compare();
        w.delist(0);
        assert_eq!(w.crew.woken(), [1, 2]);
        assert_eq!(w.gate.look(|r| r.free), 0);
    }
}

/// One that was admitted and vanished leaves no trace. Mutation: `undo` does not look at the head.
#[test]
fn what_is_undone_goes_to_the_next() {
    let mut w = World::new(Readers::default(), 2);
    assert!(w.try_enter(Readers::WRITE));
    w.begin(0, Readers::WRITE);
    w.begin(1, Readers::READ);
    w.undo(Readers::WRITE);
    assert_eq!(w.crew.woken(), [0]);
    w.undo(Readers::WRITE);
    assert_eq!(w.crew.woken(), [1]);
}

/// A gate that nobody waits for needs no runtime to be entered. Mutation: `try_enter` does not take.
#[test]
fn entering_takes() {
    let gate = Gate::new(Units { free: 2 });
    assert!(gate.try_enter(2) && !gate.try_enter(1) && gate.try_enter(0));
    gate.change(rt(1), |r| r.free += 1);
    assert!(gate.try_enter(1));
}

/// In a forked child nobody waits, whoever waited before. Mutation: `enlist` counts on from what the parent had.
#[test]
fn a_forked_child_has_an_empty_queue() {
    let mut w = World::new(Units { free: 1 }, 4);
    for i in 0..3 {
        w.begin(i, 2);
    }
    assert_eq!(w.gate.waiting(), 3);
    in_child(|| {
        let none = w.gate.waiting() == 0;
        let (waker, ticket) = w.crew.arm(3);
        let mut spot = Spot::new(2);
        // SAFETY: it stays where it is.
        let waits = unsafe { w.gate.enlist(&mut spot, waker, ticket) };
        let one = w.gate.waiting() == 1;
        w.crew.park(3);
        w.gate.change(w.crew.rt, |r| r.free += 1);
        none && waits && one && w.crew.woken() == [3] && w.gate.waiting() == 0
    });
    // Another order: the child does not ask first.
    in_child(|| {
        let (waker, ticket) = w.crew.arm(3);
        let mut spot = Spot::new(2);
        // SAFETY: it stays where it is.
        let waits = unsafe { w.gate.enlist(&mut spot, waker, ticket) };
        waits && w.gate.waiting() == 1
    });
    assert_eq!(w.gate.waiting(), 3, "the parent's is as it was");
}

/// A writer waits behind a reader, two readers behind it. While it is aside nobody passes, until a signal takes it away.
/// Mutations: `aside` lets them in; `pass` does not.
#[test]
fn who_is_away_for_a_signal_is_passed() {
    let mut w = World::new(Readers::default(), 3);
    assert!(w.try_enter(Readers::READ));
    for (i, want) in [(0, Readers::WRITE), (1, Readers::READ), (2, Readers::READ)] {
        w.begin(i, want);
    }
    w.aside(0);
    assert_eq!(w.crew.woken(), []);
    w.gate.pass(w.crew.rt);
    assert_eq!(w.crew.woken(), [1, 2]);
}
