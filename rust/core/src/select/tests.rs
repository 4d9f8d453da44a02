//! Select, step by step against a plain model (`testing::chans`). What happens at the same time is in
//! `tests/loom_select.rs` and `tests/stress_chan.rs`.

use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::testing::chans::{Chans, Entry, Told};
use crate::testing::{Crew, Rng, rt};
use crate::wait::Latch;

/// A latch as a case.
#[derive(Clone, Default)]
struct Ended(Arc<Latch>);

impl Event for Ended {
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
    unsafe fn enlist(&self, node: *mut Node, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: the same promise.
        unsafe { self.0.enlist(node, waker, ticket) }
    }
    unsafe fn delist(&self, node: *mut Node) {
        // SAFETY: the same promise.
        unsafe { self.0.delist(node) };
    }
}

type Ch = Arc<Chan<u64>>;
type Sel = Select<u64, Ch, Ended>;

fn case(on: On<Ch, Ended>, place: Place<u64>) -> Case<u64, Ch, Ended> {
    Case::new(on, place)
}

fn recv(ch: &Ch) -> Case<u64, Ch, Ended> {
    case(On::Chan(Side::Recv, ch.clone()), Place::new())
}

fn send(ch: &Ch, v: u64) -> Case<u64, Ch, Ended> {
    case(On::Chan(Side::Send, ch.clone()), Place::with(v))
}

fn ended(l: &Ended) -> Case<u64, Ch, Ended> {
    case(On::Latch(l.clone()), Place::new())
}

fn never() -> Case<u64, Ch, Ended> {
    case(On::Never, Place::new())
}

fn chan(capacity: usize) -> Ch {
    Arc::new(Chan::new(capacity))
}

fn wait(crew: &mut Crew, i: usize, s: &mut Sel) {
    let (waker, ticket) = crew.arm(i);
    // SAFETY: the tests keep it where it is.
    assert_eq!(unsafe { s.enlist(crew.rt, 1, waker, ticket) }, None);
    crew.park(i);
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    On(Side, usize, u64),
    /// The latch of that number.
    Latch(usize),
    Never,
}

#[derive(Clone, PartialEq, Debug)]
enum Now {
    Works,
    Waits,
    /// Woken, and still in the lists of its other cases.
    Won(Told),
    /// Its time is up and it has not left the lists yet.
    Late,
    Aside,
}

struct World {
    crew: Crew,
    chans: Vec<Ch>,
    model: Chans,
    /// All that there were, with those that wait, in order: who, by which case. The last one is open.
    latches: Vec<(Ended, Vec<(usize, usize)>)>,
    #[expect(clippy::vec_box, reason = "pinned while linked")]
    selects: Vec<Box<Sel>>,
    whats: Vec<Vec<What>>,
    now: Vec<Now>,
    next: u64,
}

impl World {
    fn new(capacities: &[usize], n: usize) -> Self {
        Self {
            crew: Crew::new(n),
            chans: capacities.iter().map(|c| chan(*c)).collect(),
            model: Chans::new(capacities.iter().copied()),
            latches: vec![Default::default()],
            selects: (0..n).map(|_| Box::new(Sel::new([]))).collect(),
            whats: vec![Vec::new(); n],
            now: vec![Now::Works; n],
            next: 0,
        }
    }

    fn make(&mut self, i: usize, rng: &mut Rng) {
        let n = [1, 2, 2, 3, 5][rng.below(5) as usize];
        let one = |_| match rng.below(12) {
            0 => What::Never,
            1 => What::Latch(rng.below(self.latches.len() as u64) as usize),
            n => {
                self.next += 1;
                let side = [Side::Send, Side::Recv][(n % 2) as usize];
                let c = (n / 2) as usize % self.chans.len();
                What::On(side, c, self.next)
            }
        };
        self.whats[i] = (0..n).map(one).collect();
        let cases = self.whats[i].iter().map(|w| match *w {
            What::On(Side::Send, c, v) => send(&self.chans[c], v),
            What::On(Side::Recv, c, _) => recv(&self.chans[c]),
            What::Latch(l) => ended(&self.latches[l].0),
            What::Never => never(),
        });
        *self.selects[i] = Sel::new(cases.collect::<Vec<_>>());
    }

    fn ready(&self, what: What) -> bool {
        match what {
            What::Never => false,
            What::Latch(l) => l + 1 < self.latches.len(),
            What::On(side, c, _) => {
                let c = &self.model.all[c];
                let waits = |l: &[Entry]| l.iter().any(|e| !e.aside);
                c.closed
                    || match side {
                        Side::Send => waits(&c.receivers) || c.buf.len() < c.capacity,
                        Side::Recv => !c.buf.is_empty() || waits(&c.senders),
                    }
            }
        }
    }

    /// Case `k` of `i` has happened at once: so it does in the model.
    fn happened(&mut self, i: usize, k: usize) {
        let what = self.whats[i][k];
        assert!(self.ready(what), "{what:?} was not ready");
        self.model.forget(i);
        let (fate, value) = match what {
            What::On(Side::Send, c, v) => match self.model.send(c, v) {
                Ok(()) => (Fate::Done, None),
                Err(_) => (Fate::Closed, Some(v)),
            },
            What::On(Side::Recv, c, _) => match self.model.recv(c) {
                Ok(v) => (Fate::Done, Some(v)),
                Err(_) => (Fate::Closed, None),
            },
            _ => (Fate::Open, None),
        };
        let told = Told {
            who: i,
            case: k,
            fate,
            value,
        };
        self.over(i, Some(told));
    }

    /// It is out of all lists, and each place holds what it must.
    fn over(&mut self, i: usize, told: Option<Told>) {
        for (k, c) in self.selects[i].cases.iter().enumerate() {
            let kept = match self.whats[i][k] {
                What::On(Side::Send, _, v) => Some(v),
                _ => None,
            };
            let expected = match told {
                Some(t) if t.case == k => (t.fate, t.value),
                _ => (Fate::Open, kept),
            };
            assert_eq!((c.place.fate, c.place.value), expected, "case {k}");
            assert!(!c.place.node.is_linked());
        }
        self.model.forget(i);
        for (_, waiting) in &mut self.latches {
            waiting.retain(|w| w.0 != i);
        }
        self.now[i] = Now::Works;
    }

    fn attempt(&mut self, i: usize, rng: &mut Rng) {
        let any = self.whats[i].iter().any(|w| self.ready(*w));
        let k = self.selects[i].attempt(self.crew.rt, rng.0);
        assert_eq!(k.is_some(), any);
        match k {
            Some(k) => self.happened(i, k),
            None => self.over(i, None),
        }
    }

    fn enlist(&mut self, i: usize, rng: &mut Rng) {
        let any = self.whats[i].iter().any(|w| self.ready(*w));
        let (waker, ticket) = self.crew.arm(i);
        // SAFETY: boxed, and kept until the round is over.
        let k = unsafe { self.selects[i].enlist(self.crew.rt, rng.0, waker, ticket) };
        assert_eq!(k.is_some(), any);
        if let Some(k) = k {
            self.crew.disarm(i);
            self.happened(i, k);
            return;
        }
        self.crew.park(i);
        self.now[i] = Now::Waits;
        for k in self.selects[i].registering(rng.0) {
            match self.whats[i][k] {
                What::On(side, c, value) => {
                    let entry = Entry {
                        who: i,
                        case: k,
                        value: if side == Side::Send { value } else { 0 },
                        aside: false,
                    };
                    self.model.register(c, side, entry);
                }
                What::Latch(l) if !self.latches[l].1.contains(&(i, k)) => {
                    self.latches[l].1.push((i, k));
                }
                _ => {}
            }
        }
    }

    fn delist(&mut self, i: usize, told: Option<Told>) {
        let k = match told {
            Some(_) => self.selects[i].settle(0),
            None => self.selects[i].delist(0),
        };
        match told {
            // Of several cases of one latch any.
            Some(t) => match self.whats[i][t.case] {
                What::Latch(l) => {
                    let k = k.expect("it has won");
                    assert!(matches!(self.whats[i][k], What::Latch(m) if m == l));
                }
                _ => assert_eq!(k, Some(t.case)),
            },
            // It has not won; a latch may be closed nevertheless.
            None => assert!(k.is_none_or(|k| matches!(self.whats[i][k], What::Latch(_)))),
        }
        self.crew.disarm(i);
        self.over(i, told);
    }

    fn close_latch(&mut self) {
        let (l, waiting) = self.latches.last().unwrap().clone();
        assert!(l.0.close(self.crew.rt));
        let mut told = Vec::new();
        for (who, case) in waiting {
            if self.now[who] == Now::Waits && !told.contains(&who) {
                told.push(who);
                self.model.forget(who);
                self.model.told.push(Told {
                    who,
                    case,
                    fate: Fate::Open,
                    value: None,
                });
            }
        }
        self.latches.push(Default::default());
    }

    /// Those that were woken are those of the model, in its order; what is buffered is the model's.
    fn compare(&mut self) {
        let woken = self.crew.woken();
        let told = std::mem::take(&mut self.model.told);
        assert_eq!(woken, told.iter().map(|t| t.who).collect::<Vec<_>>());
        for t in told {
            self.now[t.who] = Now::Won(t);
        }
        for (ch, m) in self.chans.iter().zip(&self.model.all) {
            let mut buf = Vec::new();
            ch.visit(&mut |v| {
                buf.push(*v);
                true
            });
            assert_eq!(buf, Vec::from(m.buf.clone()));
        }
        self.model.check();
    }

    fn step(&mut self, rng: &mut Rng) {
        let i = rng.below(self.now.len() as u64) as usize;
        match self.now[i].clone() {
            Now::Works if rng.below(3) == 0 => {
                self.make(i, rng);
                self.attempt(i, rng);
            }
            Now::Works => {
                self.make(i, rng);
                self.enlist(i, rng);
            }
            Now::Waits => match rng.below(24) {
                0..=3 => {
                    assert!(self.crew.expire(i));
                    self.model.forget(i);
                    self.now[i] = Now::Late;
                }
                4..=7 => {
                    self.selects[i].aside();
                    assert!(self.crew.expire(i));
                    self.model.aside(i);
                    self.now[i] = Now::Aside;
                }
                8 => self.close_latch(),
                9 => {
                    let c = rng.below(self.chans.len() as u64) as usize;
                    self.next += 1;
                    self.chans[c].put_back(self.crew.rt, self.next);
                    self.model.put_back(c, self.next);
                }
                10 if rng.below(20) == 0 => {
                    let c = rng.below(self.chans.len() as u64) as usize;
                    assert_eq!(self.chans[c].close(self.crew.rt), self.model.close(c));
                }
                _ => {}
            },
            Now::Won(told) => self.delist(i, Some(told)),
            Now::Late => self.delist(i, None),
            Now::Aside if rng.below(4) == 0 => self.delist(i, None),
            Now::Aside => self.enlist(i, rng),
        }
        self.compare();
    }
}

/// Selects of any cases in any order (a channel twice, both sides of one, latches, nil), some late or aside: exactly one
/// case of each happens, one that was ready, and the channels are the model's. Mutations: `leave_channels` is left out;
/// `delist` or `settle` leaves out those that did not win; `settle` takes the first for the last, or stops at the winner;
/// `aside` forgets a case; `poll` registers before it has tried all; a deliverer that lost leaves the fate as it is.
#[test]
fn exactly_one_case_happens() {
    for seed in 1..=40 {
        let mut rng = Rng(seed);
        let mut w = World::new(&[0, 1, 0, 2][..1 + seed as usize % 4], 6);
        for _ in 0..1500 {
            w.step(&mut rng);
        }
    }
}

/// How often each of `len` cases is chosen in `n` selects.
fn tally(n: u32, random: impl Fn(u32) -> u64, make: impl Fn() -> Sel, len: usize) -> Vec<u32> {
    let rt = rt(1);
    let mut all = vec![0; len];
    for i in 0..n {
        all[make().attempt(rt, random(i)).unwrap()] += 1;
    }
    all
}

/// Each of those that are ready is chosen as often as the others, whether channel, closed channel or latch, and also if
/// two are on one channel. Mutations: the first that is ready wins; a start at random, then in order.
#[test]
fn ready_cases_are_chosen_uniformly() {
    let rt = rt(1);
    let (full, empty, closed, latch) = (chan(1), chan(0), chan(0), Ended::default());
    assert!(closed.close(rt) && latch.0.close(rt));
    let mut rng = Rng(5);
    let mut number = || (rng.below(1 << 31) << 33) | rng.below(1 << 31);
    let numbers: Vec<u64> = (0..30_000).map(|_| number()).collect();
    let make = || {
        let _ = full.try_send(rt, &mut Place::with(1));
        Sel::new([
            recv(&empty),
            recv(&full),
            never(),
            recv(&full),
            recv(&closed),
            send(&empty, 1),
            ended(&latch),
            send(&full, 2),
        ])
    };
    let counts = tally(30_000, |i| numbers[i as usize], make, 8);
    for (k, n) in counts.iter().enumerate() {
        if [1, 3, 4, 6].contains(&k) {
            // 7500, give or take 6.5 standard deviations.
            assert!((7010..=7990).contains(n), "{counts:?}");
        } else {
            assert_eq!(*n, 0, "{counts:?}");
        }
    }
}

/// Any number will do for `random`, also a counter. Mutation: `random` is used as it comes.
#[test]
fn a_counter_is_random_enough() {
    let (rt, full) = (rt(1), chan(1));
    for n in [2, 3, 4] {
        let make = || {
            let _ = full.try_send(rt, &mut Place::with(1));
            Sel::new((0..n).map(|_| recv(&full)).collect::<Vec<_>>())
        };
        for step in [1, 2, 1 << 11, 1 << 32, 1 << 48] {
            let counts = tally(6000, |i| u64::from(i) * step, make, n);
            let mean = 6000 / n as u32;
            let bounds = mean - mean / 4..=mean + mean / 4;
            let uniform = counts.iter().all(|c| bounds.contains(c));
            assert!(uniform, "{step}: {counts:?}");
        }
    }
}

/// Both sides of one channel in one select: it does not meet itself, neither at first nor when it comes back, and a
/// partner meets one of the two. Mutation: `poll` does not pass over those aside.
#[test]
fn a_select_does_not_meet_itself() {
    for partner in [Side::Send, Side::Recv] {
        let mut crew = Crew::new(1);
        let ch = chan(0);
        let mut s = Box::new(Sel::new([send(&ch, 1), recv(&ch), send(&ch, 2)]));
        wait(&mut crew, 0, &mut s);
        s.aside();
        assert!(crew.expire(0));
        wait(&mut crew, 0, &mut s);
        let (won, values) = match partner {
            Side::Send => {
                assert_eq!(ch.try_send(crew.rt, &mut Place::with(7)), Ok(()));
                (1, [Some(1), Some(7), Some(2)])
            }
            Side::Recv => {
                let mut place = Place::new();
                assert_eq!(ch.try_recv(crew.rt, &mut place), Ok(()));
                // Either of its sends.
                let mut left = [Some(1), None, Some(2)];
                let won = left.iter().position(|v| *v == place.value).unwrap();
                left[won] = None;
                (won, left)
            }
        };
        assert_eq!((crew.woken(), s.settle(0)), (vec![0], Some(won)));
        let left: Vec<_> = s.cases.iter().map(|c| c.place.value).collect();
        assert_eq!(left, values);
        let nobody = Err(Blocked::Wait);
        assert_eq!(ch.try_send(crew.rt, &mut Place::with(8)), nobody);
        assert_eq!(ch.try_recv(crew.rt, &mut Place::new()), nobody);
    }
}

/// A select against a select, both with both sides: they meet once, in one direction, either of them. Mutation:
/// `delist` forgets the case that did not win (the next round meets it).
#[test]
fn a_select_meets_a_select() {
    let mut crew = Crew::new(1);
    let (a, b) = (chan(0), chan(0));
    let mut seen = [0; 2];
    for i in 0..64 {
        let mut first = Box::new(Sel::new([send(&a, 1), recv(&b)]));
        let mut second = Sel::new([send(&b, 2), recv(&a)]);
        wait(&mut crew, 0, &mut first);
        let k = second.attempt(crew.rt, i).unwrap();
        seen[k] += 1;
        assert_eq!((crew.woken(), first.settle(0)), (vec![0], Some(1 - k)));
        let values = |s: &Sel| [s.cases[0].place.value, s.cases[1].place.value];
        let expected = if k == 0 {
            ([Some(1), Some(2)], [None, None])
        } else {
            ([None, None], [Some(2), Some(1)])
        };
        assert_eq!((values(&first), values(&second)), expected);
    }
    assert!(seen.iter().all(|n| *n > 10), "{seen:?}");
}

/// What can never happen is known before. Mutation: a nil channel counts.
#[test]
fn nil_channels_are_nothing_to_wait_for() {
    assert!(Sel::new([]).is_empty() && Sel::new([never(), never()]).is_empty());
    assert!(!Sel::new([never(), recv(&chan(0))]).is_empty());
    assert_eq!(Sel::new([never()]).attempt(rt(1), 3), None);
}

/// A latch among the cases: closed before, while it waits, and while it is aside. Mutation: `enlist` forgets to take the
/// channels out when it finds a latch closed.
#[test]
fn a_latch_ends_a_select() {
    let mut crew = Crew::new(1);
    let ch = chan(0);
    for when in 0..3 {
        let latch = Ended::default();
        let mut s = Box::new(Sel::new([send(&ch, 1), ended(&latch), recv(&ch)]));
        if when == 0 {
            assert!(latch.0.close(crew.rt));
            assert_eq!(s.attempt(crew.rt, 5), Some(1));
        } else {
            wait(&mut crew, 0, &mut s);
            if when == 1 {
                assert!(latch.0.close(crew.rt));
                assert_eq!((crew.woken(), s.settle(0)), (vec![0], Some(1)));
            } else {
                s.aside();
                assert!(crew.expire(0) && latch.0.close(crew.rt));
                assert!(crew.woken().is_empty());
                let (waker, ticket) = crew.arm(0);
                // SAFETY: boxed.
                let k = unsafe { s.enlist(crew.rt, 5, waker, ticket) };
                assert_eq!(k, Some(1));
                crew.disarm(0);
            }
        }
        assert_eq!(s.cases[0].place.value, Some(1));
        let nobody = Err(Blocked::Wait);
        assert_eq!(ch.try_recv(crew.rt, &mut Place::new()), nobody);
    }
}

/// A latch that is closed between the look at it and the registration, of a select that comes back: it leaves all
/// channels. Mutation: `enlist` leaves them only if the look found something.
#[test]
fn a_latch_is_closed_just_then() {
    struct Sudden(Cell<u32>);
    impl Event for Sudden {
        fn is_closed(&self) -> bool {
            self.0.get() > 1
        }
        unsafe fn enlist(&self, _: *mut Node, _: *const Waker, _: Ticket) -> bool {
            self.0.set(self.0.get() + 1);
            !self.is_closed()
        }
        unsafe fn delist(&self, _: *mut Node) {}
    }
    let mut crew = Crew::new(1);
    let ch = chan(0);
    let mut s = Box::new(Select::new([
        Case::new(On::Chan(Side::Send, ch.clone()), Place::with(1)),
        Case::new(On::Latch(Sudden(Cell::new(0))), Place::new()),
    ]));
    for expected in [None, Some(1)] {
        let (waker, ticket) = crew.arm(0);
        // SAFETY: boxed.
        let k = unsafe { s.enlist(crew.rt, 1, waker, ticket) };
        assert_eq!(k, expected);
        if k.is_none() {
            crew.park(0);
            s.aside();
            assert!(crew.expire(0));
        }
    }
    crew.disarm(0);
    assert!(!s.cases[0].place.node.is_linked());
    assert_eq!(s.cases[0].place.value, Some(1));
}

/// Two latches close before the select runs again: each may win. Mutation: the first that is closed does.
#[test]
fn of_several_latches_any_may_win() {
    let mut crew = Crew::new(1);
    let mut seen = [0; 2];
    for random in 0..64 {
        let latches = [Ended::default(), Ended::default()];
        let mut s = Box::new(Sel::new([
            recv(&chan(0)),
            ended(&latches[0]),
            ended(&latches[1]),
        ]));
        wait(&mut crew, 0, &mut s);
        assert!(latches.iter().all(|l| l.0.close(crew.rt)));
        assert_eq!(crew.woken(), vec![0]);
        seen[s.settle(random).unwrap() - 1] += 1;
    }
    assert!(seen.iter().all(|n| *n > 10), "{seen:?}");
}

/// One channel in several cases: whoever comes to the waiting select meets any of them. Mutation: they register as they
/// stand there.
#[test]
fn cases_of_one_channel_are_met_in_any_order() {
    let mut crew = Crew::new(1);
    let (a, b) = (chan(0), chan(0));
    let mut seen = [0; 4];
    for i in 0..300 {
        let mut s = Box::new(Sel::new([recv(&a), recv(&b), recv(&a), recv(&a)]));
        let (waker, ticket) = crew.arm(0);
        // SAFETY: boxed.
        assert_eq!(unsafe { s.enlist(crew.rt, i, waker, ticket) }, None);
        crew.park(0);
        assert_eq!(a.try_send(crew.rt, &mut Place::with(7)), Ok(()));
        assert_eq!(crew.woken(), vec![0]);
        seen[s.settle(0).unwrap()] += 1;
    }
    assert_eq!(seen[1], 0);
    for k in [0, 2, 3] {
        assert!(seen[k] > 60, "{seen:?}");
    }
}
