//! What the runtime keeps: Ps, control blocks, goroutines by number of references.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::sched::{Kind, Park, Phase, WaitReason, flag};
use crate::testing::{on_m, rt};

/// Mutation: a new list at each change; sysmon, which lends and takes back, would leak for ever.
#[test]
fn lists_of_ps_are_made_once_per_limit() {
    let rt = rt(2);
    let (two, first) = (rt.ps().as_ptr(), rt.ps()[0]);
    assert_eq!(rt.set_procs(5), 2);
    let five = rt.ps().as_ptr();
    assert_eq!(
        rt.ps().iter().map(|p| p.id).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    for _ in 0..10 {
        rt.set_procs(2);
        assert_eq!((rt.ps().as_ptr(), rt.ps().len()), (two, 2));
        rt.set_procs(5);
        assert_eq!((rt.ps().as_ptr(), rt.ps().len()), (five, 5));
    }
    assert!(std::ptr::eq(rt.ps()[0], first), "a P that was made stays");
    assert_eq!(rt.model_idle_counts()[..2], [5, 5]);
    rt.set_lent(1);
    assert_eq!((rt.ps().len(), rt.procs(), rt.limit()), (6, 5, 6));
    rt.set_lent(0);
    assert_eq!((rt.all_ps().count(), rt.model_idle_counts()[0]), (6, 5));
}

#[test]
fn control_blocks_are_found_while_more_are_made() {
    let rt = rt(1);
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (i, c) in rt.ctls().iter().enumerate() {
                    assert_eq!(c.id as usize, i);
                }
            }
        });
        for id in 0..3000 {
            assert_eq!(rt.new_ctl(), id);
            assert_eq!(rt.m_ctl(id).id, id);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(rt.ctls().len(), 3000);
}

#[test]
fn a_goroutine_is_free_when_runtime_and_handles_let_go() {
    let rt = rt(1);
    let m = rt.model_m();
    let g = rt.go(|_| {});
    assert_eq!(
        (g.refs(), rt.counts(), rt.goroutines().len()),
        (2, (1, 0), 1)
    );
    assert!(!g.waker.word.start());
    g.latch_or_make();
    rt.finish(&m, g);
    assert!(g.latch().unwrap().is_closed());
    assert_eq!((rt.counts(), rt.goroutines().len()), ((1, 1), 0));
    rt.release(g);
    assert!(g.try_retain(), "the handle is left");
    rt.release(g);
    assert_eq!(g.id.load(Ordering::Relaxed).min(g.refs().into()), 1);
    rt.release(g);
    assert!(!g.try_retain() && g.latch().is_none());
    assert_eq!(g.id.load(Ordering::Relaxed), 0);
    assert!(rt.pool.take() == g, "given back");
}

#[test]
fn goroutines_have_numbers_of_their_own_wherever_they_are_made() {
    let rt = rt(1);
    let m = rt.model_m();
    rt.acquire_p(&m);
    let mut gs = rt.go_batch(5, |_, _| {});
    for _ in 0..40 {
        gs.push(rt.go(|_| {}));
        gs.push(on_m(&m, || rt.go(|_| {})));
    }
    let mut ids: Vec<_> = gs.iter().map(|g| g.id.load(Ordering::Relaxed)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), ids[0]), (85, 1));
    assert_eq!(rt.counts(), (85, 0));
    assert_eq!((rt.global_len(), m.model_p().unwrap().len()), (45, 40));
}

#[test]
fn a_timer_becomes_a_goroutine_when_it_goes_off() {
    let rt = rt(1);
    let (g, ticket) = rt.dormant(flag::TIMER, |_| {});
    rt.add_timer(&g, 0, ticket);
    assert_eq!(
        (rt.timers(), rt.counts(), rt.goroutines().len()),
        (1, (0, 0), 0)
    );
    assert_eq!(g.waker.word.phase(), Phase::Parked);
    rt.fire_all_due();
    assert_eq!((rt.timers(), rt.global_len()), (0, 1));
    g.waker.word.start();
    rt.count_begun(g);
    assert_eq!((rt.counts(), rt.goroutines().len()), ((1, 0), 1));

    // One that is stopped is out of the wheel at once.
    let (g, ticket) = rt.dormant(flag::TIMER, |_| {});
    rt.add_timer(&g, u64::MAX - 1, ticket);
    assert!(g.waker.word.revoke(ticket));
    rt.drop_timer(&g);
    rt.release(g);
    assert_eq!((rt.timers(), rt.global_len()), (0, 1));
}

#[test]
fn a_readied_goroutine_runs_next_on_the_m_that_readied_it() {
    let rt = rt(1);
    let m = rt.model_m();
    rt.acquire_p(&m);
    let (a, b) = (rt.model_g(1), rt.model_g(1));
    for g in [a, b] {
        g.waker.set_kind(Kind::Goroutine, WaitReason::Event);
        g.waker.word.arm(false).unwrap();
        assert_eq!(g.waker.word.park(), Park::Parked);
    }
    on_m(&m, || {
        rt.ready(a);
        rt.ready(b);
    });
    assert!(m.model_enter());
    assert!(rt.model_find(&m) == Some(b));
    assert!(rt.model_find(&m) == Some(a));
}

#[test]
fn nothing_runs_without_threads_and_the_reason_is_told_once() {
    let rt = rt(1);
    assert!(!rt.ensure_started());
    assert_eq!(rt.take_start_error().as_deref(), Some("no threads here"));
    assert_eq!(rt.take_start_error(), None);
    assert_eq!(rt.m_counts().0, 0);
    assert!(rt.stop(0.0, false), "nobody to wait for");
}
