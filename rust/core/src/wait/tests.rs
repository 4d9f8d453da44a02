//! Lists, latches and blocking calls. What happens at the same time is in `tests/loom_join.rs`.

use std::collections::VecDeque;

use super::*;
use crate::chan::{Chan, Place, Side};
use crate::sched::{Cancel, Packet};
use crate::testing::{Crew, Rng, Rt, on_m, rt};

fn wait(rt: Rt, latch: &Latch<u32>, timeout: Option<Duration>) -> End {
    block(rt, Some(latch), WaitReason::Event, timeout, None, || {
        Ok::<_, ()>(Next::Sleep)
    })
    .unwrap()
}

const SHORT: Option<Duration> = Some(Duration::from_millis(1));

/// Against a queue of numbers: any node may be taken out, from anywhere, once, or step aside, which keeps its place.
/// Mutations: `first` takes the head; `remove` forgets the tail; `anyone_before` counts those aside.
#[test]
fn a_list_is_a_queue_with_holes() {
    let mut crew = Crew::new(1);
    let (waker, ticket) = crew.arm(0);
    let mut nodes: Vec<Box<Node>> = (0..20).map(|_| Box::default()).collect();
    let at: Vec<*mut Node> = nodes.iter_mut().map(|n| &raw mut **n).collect();
    // (number, aside)
    let mut model: VecDeque<(usize, bool)> = VecDeque::new();
    let (mut list, mut rng) = (List::new(), Rng(3));
    for _ in 0..20_000 {
        let i = rng.below(20) as usize;
        let node = at[i];
        let place = model.iter().position(|x| x.0 == i);
        // SAFETY: the nodes stay where they are; a node is linked once.
        unsafe {
            match (rng.below(7), place) {
                (0 | 1, None) => {
                    (*node).belongs_to(waker, ticket);
                    list.push(node);
                    model.push_back((i, false));
                }
                (2, None) => {
                    (*node).belongs_to(waker, ticket);
                    let before = rng.below(model.len() as u64 + 1) as usize;
                    list.insert(node, model.get(before).map(|x| at[x.0]));
                    model.insert(before, (i, false));
                }
                (2, Some(p)) => {
                    (*node).step_aside();
                    model[p].1 = true;
                }
                (3, Some(p)) => {
                    (*node).belongs_to(waker, ticket);
                    model[p].1 = false;
                }
                (4, _) => {
                    assert_eq!(list.remove(node), place.is_some());
                    model.retain(|x| x.0 != i);
                }
                (5, _) => {
                    let first = model.iter().position(|x| !x.1);
                    let popped = first.and_then(|p| model.remove(p));
                    assert_eq!(list.pop(), popped.map(|x| at[x.0]));
                }
                _ => {
                    let before = place.unwrap_or(model.len());
                    let any = model.iter().take(before).any(|x| !x.1);
                    assert_eq!(list.anyone_before(node), any);
                }
            }
        }
        assert_eq!(list.is_empty(), model.is_empty());
        let mut next = list.head();
        for x in &model {
            assert_eq!(next, Some(at[x.0]));
            // SAFETY: as above.
            next = unsafe { (*at[x.0]).next() };
        }
        assert_eq!(next, None);
    }
}

#[test]
fn a_latch_wakes_in_order_whoever_waits() {
    let rt = rt(1);
    let latch: Latch<u32> = Latch::default();
    let gs = [(); 4].map(|()| rt.model_g(1));
    let mut nodes = [(); 4].map(|()| Node::new());
    let at: Vec<*mut Node> = nodes.iter_mut().map(|n| &raw mut *n).collect();
    for (g, node) in gs.iter().zip(&at) {
        g.waker.set_kind(Kind::Goroutine, WaitReason::Event);
        let ticket = g.waker.word.arm(true).unwrap();
        // SAFETY: the nodes stay where they are.
        assert!(unsafe { latch.enlist(*node, &raw const g.waker, ticket) });
        assert_eq!(g.waker.word.park(), Park::Parked);
    }
    // One leaves, one is woken by something else.
    // SAFETY: given to this latch.
    unsafe { latch.delist(at[1]) };
    assert_eq!(gs[2].waker.word.cancel(), Cancel::Wake);
    assert!(!latch.is_closed());
    assert!(latch.close(rt) && !latch.close(rt) && latch.is_closed());
    for g in [gs[0], gs[3]] {
        assert!(matches!(rt.global.pop(), Some(Packet::One(x)) if x == g));
    }
    assert!(rt.global.is_empty());
}

#[test]
fn a_closed_latch_takes_nobody_and_tells_what_lies_in_it() {
    let rt = rt(1);
    let latch: Latch<u32> = Latch::default();
    latch.with(|x, closed| {
        assert!(!closed);
        *x = 7;
    });
    latch.close(rt);
    assert_eq!(latch.with(|x, closed| (*x, closed)), (7, true));
    let (g, mut node) = (rt.model_g(1), Node::new());
    let ticket = g.waker.word.arm(true).unwrap();
    // SAFETY: the node stays where it is.
    assert!(!unsafe { latch.enlist(&raw mut node, &raw const g.waker, ticket) });
    // SAFETY: given to this latch, which did not take it.
    unsafe { latch.delist(&raw mut node) };
    assert_eq!(wait(rt, &latch, None), End::Ready);
}

#[test]
fn a_thread_waits_until_it_is_woken_or_its_time_is_up() {
    let rt = rt(1);
    let latch: &'static Latch<u32> = Box::leak(Box::default());
    assert_eq!(wait(rt, latch, Some(Duration::ZERO)), End::Timeout);
    assert_eq!(wait(rt, latch, SHORT), End::Timeout);
    let waiters: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || wait(rt, latch, None)))
        .collect();
    std::thread::sleep(Duration::from_millis(5));
    latch.close(rt);
    for w in waiters {
        assert_eq!(w.join().unwrap(), End::Ready);
    }
    assert_eq!(wait(rt, latch, SHORT), End::Ready);
}

#[test]
fn a_failed_check_ends_the_wait() {
    let rt = rt(1);
    let latch: Latch<u32> = Latch::default();
    let mut looks = 0;
    let end = block(rt, Some(&latch), WaitReason::Event, None, SHORT, || {
        looks += 1;
        if looks < 3 {
            Ok(Next::Sleep)
        } else {
            Err("signal")
        }
    });
    assert_eq!((end, looks), (Err("signal"), 3));
    // The node is out: nobody is woken.
    assert!(latch.close(rt));
}

/// A signal handler, called by the check, that blocks too. Mutation: one waker per thread.
#[test]
fn a_wait_inside_a_wait_has_a_waker_of_its_own() {
    let rt = rt(1);
    let (outer, inner): (Latch<u32>, Latch<u32>) = Default::default();
    // From here on the thread has a waker at hand.
    assert_eq!(wait(rt, &inner, SHORT), End::Timeout);
    let end = block(rt, Some(&outer), WaitReason::Event, None, SHORT, || {
        assert_eq!(wait(rt, &inner, SHORT), End::Timeout);
        outer.close(rt);
        Ok::<_, ()>(Next::Sleep)
    });
    assert_eq!(end, Ok(End::Ready));
}

/// A thread with a waker pinned to it is cut through that, on entry and while it waits; a wait inside its wait is not.
/// Mutations: `block` does not look at the pinned waker; `block_on` leaves it pinned while it waits, or arms it uncut.
#[test]
fn a_pinned_waker_cuts_a_thread() {
    let rt = rt(1);
    let w: &'static Waker = Box::leak(Box::new(Waker::new()));
    w.word.renew_running();
    let latch: Latch<u32> = Latch::default();
    pin(Some(w));
    assert_eq!(w.word.cancel(), Cancel::Set);
    assert_eq!(wait(rt, &latch, None), End::Cancelled);
    assert_eq!(wait(rt, &latch, SHORT), End::Timeout);
    let canceller = std::thread::spawn(move || {
        while w.word.phase() != Phase::Parked {
            std::thread::yield_now();
        }
        if w.word.cancel() == Cancel::Wake {
            // SAFETY: the cancel won a parked waiter.
            unsafe { rt.wake(w) };
        }
    });
    let end = block(rt, Some(&latch), WaitReason::Event, None, SHORT, || {
        assert!(pinned().is_none());
        Ok::<_, ()>(Next::Sleep)
    });
    assert_eq!(end, Ok(End::Cancelled));
    canceller.join().unwrap();
    assert!(pinned().is_some_and(|p| std::ptr::eq(p, w)));
    pin(None);
    assert_eq!(w.word.cancel(), Cancel::Set);
    assert_eq!(wait(rt, &latch, SHORT), End::Timeout, "no more");
}

/// A cancel that comes while the check runs is for the next cancel point. Mutation: stepping aside leaves the wait armed.
#[test]
fn a_cancel_is_not_lost_to_a_failed_check() {
    let rt = rt(1);
    let (m, g) = (rt.model_m(), rt.model_g(1));
    rt.acquire_p(&m);
    m.set_goroutine(Some(g));
    let end = on_m(&m, || {
        block(
            rt,
            None::<&Latch<u32>>,
            WaitReason::Sleep,
            None,
            SHORT,
            || {
                // The waiter is aside, so the cancel cuts nothing: it stays pending.
                assert_eq!(g.waker.word.cancel(), Cancel::Set);
                Err("signal")
            },
        )
    });
    assert_eq!(end, Err("signal"));
    assert!(g.waker.word.take_cancel());
}

#[test]
fn a_goroutine_that_blocks_gives_its_p_away_and_can_be_cancelled() {
    let rt = rt(1);
    let (m, g) = (rt.model_m(), rt.model_g(1));
    rt.acquire_p(&m);
    m.set_goroutine(Some(g));
    let latch: &'static Latch<u32> = Box::leak(Box::default());
    let canceller = std::thread::spawn(move || {
        while g.waker.word.phase() != Phase::Parked {
            std::thread::yield_now();
        }
        assert_eq!(rt.model_idle_counts()[0], 1, "its P is idle");
        assert_eq!(g.waker.word.cancel(), Cancel::Wake);
        // SAFETY: the cancel won.
        unsafe { rt.wake(&raw const g.waker) };
    });
    assert_eq!(on_m(&m, || wait(rt, latch, None)), End::Cancelled);
    canceller.join().unwrap();
    assert_eq!(g.waker.reason(), WaitReason::None);
    assert!(m.model_p().is_some());
    assert_eq!(g.waker.word.cancel(), Cancel::Set);
    assert_eq!(
        on_m(&m, || wait(rt, latch, None)),
        End::Cancelled,
        "at once"
    );
    assert!(
        rt.global.is_empty(),
        "a goroutine that keeps its M is never queued"
    );
}

/// A receive, with a door for the test: what happens just before it steps aside.
struct Receive<'a> {
    rt: Rt,
    ch: &'a Chan<u64>,
    place: Place<u64>,
    before_aside: &'a mut dyn FnMut(),
}

// SAFETY: the one place is taken out by `delist`.
unsafe impl Attempt for Receive<'_> {
    unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
        // SAFETY: pinned by the promise of the trait.
        unsafe { (self.ch).enlist(self.rt, Side::Recv, &mut self.place, waker, ticket) }
    }
    fn delist(&mut self) {
        // SAFETY: enlisted for this side.
        unsafe { self.ch.delist(Side::Recv, &raw mut self.place) };
    }
    fn aside(&mut self) {
        (self.before_aside)();
        self.ch.aside(&mut self.place);
    }
}

fn send(rt: Rt, ch: &Chan<u64>, v: u64) {
    ch.try_send(rt, &mut Place::with(v)).unwrap();
}

/// Two who wait behind, to see what is not ours.
struct Behind {
    crew: Crew,
    #[expect(clippy::vec_box, reason = "pinned while linked")]
    places: Vec<Box<Place<u64>>>,
}

impl Behind {
    fn enlist(ch: &Chan<u64>) -> Self {
        let mut all = Self {
            crew: Crew::new(2),
            places: vec![Box::default(), Box::default()],
        };
        for i in 0..2 {
            let (waker, ticket) = all.crew.arm(i);
            // SAFETY: boxed, and kept.
            let waits =
                unsafe { ch.enlist(all.crew.rt, Side::Recv, &mut all.places[i], waker, ticket) };
            assert!(waits);
            all.crew.park(i);
        }
        all
    }

    fn got(&self) -> Vec<Option<u64>> {
        self.places.iter().map(|p| p.value).collect()
    }
}

/// A value that comes just before a waiter steps aside is its own: the wait has ended. It neither runs its check, nor
/// does it lose its place to those behind. Mutation: `wait_round` ends the wait before it steps aside.
#[test]
fn what_comes_before_the_step_aside_counts() {
    let rt = rt(1);
    let ch = Chan::new(0);
    let (mut behind, mut asides) = (None, 0);
    let mut before_aside = || {
        asides += 1;
        behind = Some(Behind::enlist(&ch));
        send(rt, &ch, 7);
    };
    let mut op = Receive {
        rt,
        ch: &ch,
        place: Place::new(),
        before_aside: &mut before_aside,
    };
    let end = block_on(rt, &mut op, WaitReason::Event, None, SHORT, || Err("check"));
    assert_eq!((end, op.place.value), (Ok(End::Ready), Some(7)));
    assert_eq!(asides, 1);
    assert_eq!(behind.unwrap().got(), [None, None]);
}

/// While a waiter's check runs, values go to those behind; afterwards it is first again. Mutations: `aside` does
/// nothing; `Chan::enlist` pushes again what is linked.
#[test]
fn a_waiter_that_was_aside_is_first_again() {
    let rt = rt(1);
    let ch = Chan::new(0);
    let (behind, step) = (Cell::new(None), Cell::new(0));
    let mut before_aside = || {
        step.set(step.get() + 1);
        if step.get() == 1 {
            behind.set(Some(Behind::enlist(&ch)));
        } else {
            send(rt, &ch, 2);
        }
    };
    let mut op = Receive {
        rt,
        ch: &ch,
        place: Place::new(),
        before_aside: &mut before_aside,
    };
    let end = block_on(rt, &mut op, WaitReason::Event, None, SHORT, || {
        send(rt, &ch, 1);
        Ok::<_, ()>(Next::Sleep)
    });
    assert_eq!((end, op.place.value), (Ok(End::Ready), Some(2)));
    assert_eq!(step.get(), 2);
    assert_eq!(behind.take().unwrap().got(), [Some(1), None]);
}

/// A check that fails leaves no trace in the list, and a limit holds over the steps aside. Mutations: `Failed` does not
/// delist; the limit begins anew with each round.
#[test]
fn a_wait_ends_by_its_check_or_its_limit_and_leaves_the_list() {
    let rt = rt(1);
    let ch = Chan::new(0);
    for (limit, error) in [
        (None, Some("signal")),
        (Some(Duration::from_millis(20)), None),
    ] {
        let mut op = Receive {
            rt,
            ch: &ch,
            place: Place::new(),
            before_aside: &mut || {},
        };
        let end = block_on(rt, &mut op, WaitReason::Event, limit, SHORT, || {
            error.map_or(Ok(Next::Sleep), Err)
        });
        assert_eq!(end, error.map_or(Ok(End::Timeout), Err));
        assert_eq!(
            ch.try_send(rt, &mut Place::with(1)),
            Err(crate::chan::Blocked::Wait),
            "nobody waits"
        );
    }
}

/// An operation that is told to try again does so, as often as it takes, in the same wait; a limit ends that too.
/// Mutation: Ready is the end whatever `confirm` says.
#[test]
fn a_wait_goes_on_until_it_is_confirmed() {
    struct Unsure<'a>(&'a Cell<u32>, u32);
    // SAFETY: it registers nowhere.
    unsafe impl Attempt for Unsure<'_> {
        unsafe fn enlist(&mut self, waker: *const Waker, ticket: Ticket) -> bool {
            if self.0.get() < self.1 {
                // SAFETY: our own waker.
                let end = unsafe { (*waker).word.fire(ticket, Verdict::Ready) };
                assert_eq!(end, Fire::Noted);
            }
            true
        }
        fn delist(&mut self) {}
        fn confirm(&mut self) -> bool {
            self.0.set(self.0.get() + 1);
            self.0.get() == 4
        }
    }
    let rt = rt(1);
    for (fires, expected) in [(4, (End::Ready, 4)), (2, (End::Timeout, 2))] {
        let calls = Cell::new(0);
        let mut op = Unsure(&calls, fires);
        let limit = (fires < 4).then_some(Duration::from_millis(2));
        let end = block_on(rt, &mut op, WaitReason::Event, limit, None, || {
            Ok::<_, ()>(Next::Sleep)
        });
        assert_eq!((end.unwrap(), calls.get()), expected);
    }
}

/// Many to wake are woken in order, also when they do not fit on the stack. Mutation: `wake` takes the many first.
#[test]
fn wakeups_keep_their_order() {
    let mut crew = Crew::new(9);
    let mut woken = Wakeups::default();
    for i in 0..9 {
        let (waker, ticket) = crew.arm(i);
        let mut node = Node::new();
        node.belongs_to(waker, ticket);
        if i == 3 {
            // It sees the end itself: nobody to wake.
            woken.add(node.fire().unwrap());
        } else {
            crew.park(i);
            woken.add(node.fire().unwrap());
            assert!(node.fire().is_none(), "a wait ends once");
        }
    }
    woken.wake(crew.rt);
    assert_eq!(crew.woken(), [0, 1, 2, 4, 5, 6, 7, 8]);
}
