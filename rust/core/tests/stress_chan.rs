//! Channels, selects, gates and the mutex under random load by threads: sends, receives and selects with and without
//! limits, steps aside with checks that fail, values that are put back, channels that are closed at the end.
//!
//! Checked: what was sent is received or left in a buffer, once; what was not sent is still the sender's; values of one
//! sender arrive in order; a select has one end; nobody is inside beside whom it must not be; nobody waits for ever (a
//! watchdog).
//!
//! `GORUN_TEST_SEED=n` replays the choices of a run (not the interleaving), `GORUN_STRESS=seconds` makes it long.

#[path = "stress/threads.rs"]
mod threads;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use gorun_core::chan::{Chan, Fate, Place, Side};
use gorun_core::gate::{Gate, Readers, Rule, Spot, Units};
use gorun_core::mutex::{Mutex, Turn};
use gorun_core::runtime::Runtime;
use gorun_core::sched::{Ticket, WaitReason, Waker};
use gorun_core::select::{Case, Event, On, Select};
use gorun_core::wait::{Attempt, End, Latch, Next, Node, block_on};

use threads::Rt;

const THREADS: u64 = 5;
const UNITS: i64 = 3;
/// No end for so long is a hang, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A value: who made it, and its number. It is neither copied nor lost unseen.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Val(u64, u64);

type Ch = Arc<Chan<Val>>;

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

/// A latch as a case.
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

/// A select as an operation; a plain send or receive is one of one case.
struct Choose {
    rt: Rt,
    select: Select<Val, Ch, Ended>,
    random: u64,
    won: Option<usize>,
}

// SAFETY: `delist` takes out all places.
unsafe impl Attempt for Choose {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        self.won = unsafe { (self.select).enlist(self.rt, self.random, waker, ticket) };
        self.won.is_none()
    }
    fn delist(&mut self) {
        self.select.delist(0);
    }
    fn aside(&mut self) {
        self.select.aside();
    }
    fn confirm(&mut self) -> bool {
        self.won = self.select.settle(0);
        assert!(self.won.is_some(), "woken for nothing");
        true
    }
}

/// A plain send or receive as an operation: it does not take itself out after Ready.
struct One {
    rt: Rt,
    ch: Ch,
    side: Side,
    place: Place<Val>,
}

// SAFETY: the one place is taken out by `delist`.
unsafe impl Attempt for One {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { (self.ch).enlist(self.rt, self.side, &mut self.place, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted for this side.
        unsafe { self.ch.delist(self.side, &raw mut self.place) };
    }
    fn aside(&mut self) {
        self.ch.aside(&mut self.place);
    }
}

struct Enter<'a, R: Rule> {
    rt: Rt,
    gate: &'a Gate<R>,
    spot: Spot,
}

// SAFETY: the one spot is taken out by `delist`.
unsafe impl<R: Rule> Attempt for Enter<'_, R> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { self.gate.enlist(&mut self.spot, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted here.
        unsafe { self.gate.delist(self.rt, &raw mut self.spot) };
    }
    fn aside(&mut self) {
        self.gate.aside(&mut self.spot);
    }
}

struct Locking<'a> {
    rt: Rt,
    mutex: &'a Mutex,
    turn: Turn,
}

// SAFETY: the one turn is taken out by `delist`.
unsafe impl Attempt for Locking<'_> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { (self.mutex).enlist(self.rt, &mut self.turn, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted here.
        unsafe { self.mutex.delist(&raw mut self.turn) };
    }
    fn aside(&mut self) {
        self.mutex.aside(&mut self.turn);
    }
    fn confirm(&mut self) -> bool {
        self.mutex.confirm(&mut self.turn)
    }
}

/// What all threads of a round share.
struct World {
    rt: Rt,
    chans: Vec<Ch>,
    latch: Arc<Latch>,
    units: Gate<Units>,
    readers: Gate<Readers>,
    mutex: Mutex,
    over: AtomicBool,
    /// What is inside now, as those inside see it.
    used: AtomicI64,
    inside: AtomicI64,
    owned: AtomicBool,
    puts_back: bool,
}

/// What a thread has done with values.
#[derive(Default)]
struct Ledger {
    sent: Vec<(usize, Val)>,
    received: Vec<(usize, Val)>,
    ends: HashMap<&'static str, u64>,
}

struct Thread {
    id: u64,
    next: u64,
    rng: Rng,
    ledger: Ledger,
}

impl Thread {
    /// Waits with a limit or without, with checks or without, some of which fail.
    fn wait(&mut self, w: &World, op: &mut impl Attempt) -> bool {
        let moment = |r: &mut Rng| Duration::from_micros(1 + r.below(400));
        let limit = (self.rng.below(4) > 0).then(|| moment(&mut self.rng));
        let slice = (self.rng.below(2) == 0).then(|| moment(&mut self.rng) / 4);
        let mut left = self.rng.below(20);
        let end = block_on(w.rt, op, WaitReason::Event, limit, slice, || {
            std::hint::spin_loop();
            left = left.wrapping_sub(1);
            if left == 0 { Err(()) } else { Ok(Next::Sleep) }
        });
        let name = match end {
            Ok(End::Ready) => "ready",
            Ok(End::Timeout) => "time-out",
            Err(()) => "signal",
            Ok(odd) => panic!("{odd:?}"),
        };
        *self.ledger.ends.entry(name).or_default() += 1;
        end == Ok(End::Ready)
    }

    fn value(&mut self) -> Val {
        self.next += 1;
        Val(self.id, self.next)
    }

    /// A place has come to its end: what was sent, received, kept.
    fn book(&mut self, w: &World, c: usize, side: Side, place: Place<Val>, number: u64) {
        match (side, place.fate, place.value) {
            (Side::Send, Fate::Done, None) => self.ledger.sent.push((c, Val(self.id, number))),
            (Side::Send, Fate::Open | Fate::Closed, Some(v)) => {
                assert_eq!(v, Val(self.id, number), "its own");
            }
            (Side::Recv, Fate::Done, Some(v)) => {
                if w.puts_back && self.rng.below(4) == 0 {
                    w.chans[c].put_back(w.rt, v);
                } else {
                    self.ledger.received.push((c, v));
                }
            }
            (Side::Recv, Fate::Open | Fate::Closed, None) => {}
            odd => panic!("{odd:?}"),
        }
    }

    fn one(&mut self, w: &World) {
        let c = self.rng.below(w.chans.len() as u64) as usize;
        let side = [Side::Send, Side::Recv][self.rng.below(2) as usize];
        let place = match side {
            Side::Send => Place::with(self.value()),
            Side::Recv => Place::new(),
        };
        let mut op = One {
            rt: w.rt,
            ch: w.chans[c].clone(),
            side,
            place,
        };
        let ready = self.wait(w, &mut op);
        assert_eq!(ready, op.place.fate != Fate::Open);
        self.book(w, c, side, op.place, self.next);
    }

    fn choose(&mut self, w: &World) {
        let mut whats = Vec::new();
        let mut cases = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let c = self.rng.below(w.chans.len() as u64) as usize;
            let (on, place) = match self.rng.below(9) {
                0 => (On::Latch(Ended(w.latch.clone())), Place::new()),
                1..=4 => (
                    On::Chan(Side::Send, w.chans[c].clone()),
                    Place::with(self.value()),
                ),
                _ => (On::Chan(Side::Recv, w.chans[c].clone()), Place::new()),
            };
            whats.push((c, self.next));
            cases.push(Case::new(on, place));
        }
        let mut op = Choose {
            rt: w.rt,
            select: Select::new(cases),
            random: self.rng.next(),
            won: None,
        };
        let ready = self.wait(w, &mut op);
        let mut ends = 0;
        for (k, case) in std::mem::take(&mut op.select.cases).into_iter().enumerate() {
            let (c, number) = whats[k];
            let On::Chan(side, _) = case.on else { continue };
            if case.place.fate != Fate::Open {
                ends += 1;
                assert_eq!((ready, op.won), (true, Some(k)));
            }
            self.book(w, c, side, case.place, number);
        }
        assert!(ends <= 1, "two cases happened");
        assert!(!ready || ends == 1 || w.latch.is_closed());
    }

    /// So that others wait, and some of them too long.
    fn dawdle(&mut self) {
        if self.rng.below(2) == 0 {
            let us = self.rng.below(150);
            std::thread::sleep(Duration::from_micros(us));
        }
    }

    fn units(&mut self, w: &World) {
        let want = 1 + self.rng.below(UNITS as u64);
        let mut op = Enter {
            rt: w.rt,
            gate: &w.units,
            spot: Spot::new(want),
        };
        if self.wait(w, &mut op) {
            let used = w.used.fetch_add(want as i64, Ordering::Relaxed) + want as i64;
            assert!(used <= UNITS, "{used} units are out");
            self.dawdle();
            w.used.fetch_sub(want as i64, Ordering::Relaxed);
            w.units.change(w.rt, |r| r.free += want);
        }
    }

    fn read_or_write(&mut self, w: &World) {
        let want = u64::from(self.rng.below(3) == 0);
        let mut op = Enter {
            rt: w.rt,
            gate: &w.readers,
            spot: Spot::new(want),
        };
        if self.wait(w, &mut op) {
            // A writer counts as a thousand readers.
            let weight = if want == Readers::WRITE { 1000 } else { 1 };
            let before = w.inside.fetch_add(weight, Ordering::Relaxed);
            let alone = want == Readers::WRITE;
            assert!(
                if alone { before == 0 } else { before < 1000 },
                "{before} were in"
            );
            self.dawdle();
            w.inside.fetch_sub(weight, Ordering::Relaxed);
            w.readers.undo(w.rt, want);
        }
    }

    fn lock(&mut self, w: &World) {
        let mut op = Locking {
            rt: w.rt,
            mutex: &w.mutex,
            turn: Turn::new(),
        };
        if self.wait(w, &mut op) {
            assert!(!w.owned.swap(true, Ordering::Relaxed), "two have it");
            if self.rng.below(50) == 0 {
                // So long that it is handed over.
                std::thread::sleep(Duration::from_millis(1));
            }
            w.owned.store(false, Ordering::Relaxed);
            w.mutex.unlock(w.rt).unwrap();
        }
    }

    fn run(mut self, w: &World) -> Ledger {
        while !w.over.load(Ordering::Relaxed) {
            match self.rng.below(10) {
                0 | 1 => self.units(w),
                2 | 3 => self.read_or_write(w),
                4 => self.lock(w),
                5 | 6 => self.one(w),
                _ => self.choose(w),
            }
        }
        self.ledger
    }
}

fn hang(what: &str, seed: u64) -> ! {
    eprintln!("{what}; GORUN_TEST_SEED={seed}");
    std::process::abort()
}

fn round(rt: Rt, seed: u64, ends: &mut HashMap<&'static str, u64>) {
    let mut rng = Rng::new(seed);
    let w = Arc::new(World {
        rt,
        chans: [0, 0, 1, 3].map(|n| Arc::new(Chan::new(n))).into(),
        latch: Arc::default(),
        units: Gate::new(Units { free: UNITS as u64 }),
        readers: Gate::new(Readers::default()),
        mutex: Mutex::default(),
        over: AtomicBool::new(false),
        used: AtomicI64::new(0),
        inside: AtomicI64::new(0),
        owned: AtomicBool::new(false),
        puts_back: rng.below(2) == 0,
    });
    let (done, all_done) = channel();
    for id in 0..THREADS {
        let (w, done) = (w.clone(), done.clone());
        let thread = Thread {
            id,
            next: 0,
            rng: Rng::new(rng.next()),
            ledger: Ledger::default(),
        };
        std::thread::spawn(move || done.send(thread.run(&w)).unwrap());
    }
    std::thread::sleep(Duration::from_millis(20 + rng.below(60)));
    w.over.store(true, Ordering::Relaxed);
    for ch in &w.chans {
        assert!(ch.close(rt));
    }
    w.latch.close(rt);
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for _ in 0..THREADS {
        let Ok(ledger) = all_done.recv_timeout(PATIENCE) else {
            hang("a thread waits for ever", seed)
        };
        for (name, n) in ledger.ends {
            *ends.entry(name).or_default() += n;
        }
        if !w.puts_back {
            // What one thread has received of another through one channel is in order.
            let mut last = HashMap::new();
            for (c, v) in &ledger.received {
                let before = last.insert((*c, v.0), v.1);
                assert!(before < Some(v.1), "{v:?} after {before:?}");
            }
        }
        sent.extend(ledger.sent);
        received.extend(ledger.received);
    }
    for (c, ch) in w.chans.iter().enumerate() {
        received.extend(ch.take_buffered().into_iter().map(|v| (c, v)));
    }
    let key = |x: &(usize, Val)| (x.0, x.1.0, x.1.1);
    sent.sort_unstable_by_key(key);
    received.sort_unstable_by_key(key);
    assert!(sent == received, "values were lost or doubled");
    assert_eq!(w.units.look(|r| r.free), UNITS as u64);
    assert_eq!(w.readers.look(|r| (r.readers, r.writer)), (0, false));
    assert!(!w.mutex.is_locked());
    assert_eq!(w.units.waiting() + w.readers.waiting(), 0);
}

/// Mutations: a deliverer that lost keeps the value; a select leaves a place in a list; `confirm` leaves `told`. (What a
/// gate does for one that was late takes more luck than three seconds have: `tests/loom_gate.rs`.)
#[test]
fn stress_threads() {
    let first = match std::env::var("GORUN_TEST_SEED") {
        Ok(s) => s.parse().expect("GORUN_TEST_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    let length = match std::env::var("GORUN_STRESS") {
        Ok(s) => Duration::from_secs(s.parse().expect("GORUN_STRESS is a number of seconds")),
        Err(_) => Duration::from_secs(3),
    };
    let rt = Runtime::leak(1, 0);
    let (end, mut n, mut ends) = (Instant::now() + length, 0, HashMap::new());
    while Instant::now() < end {
        let seed = u64::wrapping_add(first, n);
        // A panic of one must not leave the others waiting.
        std::panic::set_hook(Box::new(move |p| hang(&p.to_string(), seed)));
        round(rt, seed, &mut ends);
        n += 1;
    }
    if std::env::var_os("GORUN_STRESS").is_some() {
        eprintln!("{n} rounds, {ends:?}");
    }
    assert!(n > 0);
}
