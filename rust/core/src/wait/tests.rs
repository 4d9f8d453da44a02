//! Lists, latches and blocking calls. What happens at the same time is in `tests/loom_join.rs`.

use std::collections::VecDeque;

use super::*;
use crate::sched::{Cancel, Packet};
use crate::testing::{Rng, Rt, on_m, rt};

fn wait(rt: Rt, latch: &Latch<u32>, timeout: Option<Duration>) -> End {
    block(rt, Some(latch), WaitReason::Event, timeout, None, || {
        Ok::<_, ()>(())
    })
    .unwrap()
}

const SHORT: Option<Duration> = Some(Duration::from_millis(1));

/// Against a queue of numbers: any node may be taken out, from anywhere, once.
#[test]
fn a_list_is_a_queue_with_holes() {
    let mut nodes: Vec<Box<Node>> = (0..20).map(|_| Box::default()).collect();
    let at: Vec<*mut Node> = nodes.iter_mut().map(|n| &raw mut **n).collect();
    let (mut list, mut model, mut rng) = (List::new(), VecDeque::new(), Rng(3));
    for _ in 0..20_000 {
        let i = rng.below(20) as usize;
        // SAFETY: the nodes stay where they are; a node is linked once.
        unsafe {
            match rng.below(3) {
                0 if !model.contains(&i) => {
                    list.push(at[i]);
                    model.push_back(i);
                }
                1 => {
                    list.remove(at[i]);
                    model.retain(|x| *x != i);
                }
                _ => assert_eq!(list.pop(), model.pop_front().map(|i| at[i])),
            }
        }
    }
    // SAFETY: as above.
    while let Some(i) = unsafe { list.pop() } {
        assert_eq!(Some(i), model.pop_front().map(|i| at[i]));
    }
    assert!(model.is_empty());
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
        if looks < 3 { Ok(()) } else { Err("signal") }
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
        Ok::<_, ()>(())
    });
    assert_eq!(end, Ok(End::Ready));
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
