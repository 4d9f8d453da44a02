//! Who gets which P, one step at a time. What happens at the same time is in `tests/loom_handoff.rs`.

use std::sync::atomic::Ordering;

use crate::sched::Mode;
use crate::testing::{on_m, rt};

#[test]
fn a_p_is_given_away_and_taken_back() {
    let rt = rt(1);
    let (m, g) = (rt.model_m(), rt.model_g(1));
    rt.acquire_p(&m);
    assert_eq!(rt.model_idle_counts()[..2], [0, 0]);
    rt.hand_off(&m, g);
    assert!(m.mode.get() == Mode::None && m.model_p().is_none());
    assert_eq!(rt.m_counts().2, 1, "one is blocked");
    assert_eq!(rt.model_idle_counts()[..2], [1, 1]);
    rt.take_p_again(&m, g);
    assert!(m.mode.get() == Mode::Body && m.model_p().is_some());
    assert_eq!(rt.m_counts().2, 0);
}

#[test]
fn a_p_that_is_free_goes_to_those_who_want_one_first() {
    let rt = rt(1);
    let (a, b) = (rt.model_m(), rt.model_m());
    rt.acquire_p(&a);
    rt.model_want(&b);
    assert!(a.model_enter());
    rt.model_rest(&a);
    assert_eq!(rt.model_idle_counts()[0], 0, "not idle for a moment");
    rt.await_p(&b);
    assert!(b.model_p().is_some());
}

#[test]
fn a_p_with_work_is_handed_to_an_idle_m() {
    let rt = rt(1);
    let (a, g) = (rt.model_m(), rt.model_g(1));
    rt.acquire_p(&a);
    let b = rt.model_m();
    rt.model_list(&b);
    on_m(&a, || rt.ready(g));
    rt.hand_off(&a, g);
    assert_eq!(b.ctl.next_p.load(Ordering::Relaxed), 1);
    assert_eq!(rt.model_idle_counts(), [0, 0, 0, 0]);
}

#[test]
fn a_p_without_work_wakes_nobody() {
    let rt = rt(1);
    let (a, b, g) = (rt.model_m(), rt.model_m(), rt.model_g(1));
    rt.acquire_p(&a);
    rt.model_list(&b);
    rt.hand_off(&a, g);
    assert_eq!(b.ctl.next_p.load(Ordering::Relaxed), 0);
    assert_eq!(rt.model_idle_counts(), [1, 1, 1, 1]);
}

/// Mutation: `gosched_keep_m` joins `wanting` without a look at the idle Ps; it waits for ever then.
#[test]
fn a_yield_takes_an_idle_p_rather_than_wait() {
    let rt = rt(2);
    let (a, b, g) = (rt.model_m(), rt.model_m(), rt.model_g(1));
    rt.acquire_p(&a);
    let before = a.model_p().unwrap().id;
    rt.model_list(&b);
    on_m(&a, || {
        rt.ready(g);
        rt.gosched_keep_m(&a);
    });
    assert_eq!(
        b.ctl.next_p.load(Ordering::Relaxed),
        before + 1,
        "with the work"
    );
    assert_ne!(a.model_p().unwrap().id, before);
    assert_eq!(rt.model_idle_counts(), [0, 0, 0, 0]);
}

#[test]
fn a_yield_without_another_m_is_none() {
    let rt = rt(1);
    let (a, g) = (rt.model_m(), rt.model_g(1));
    rt.acquire_p(&a);
    on_m(&a, || {
        rt.ready(g);
        rt.gosched_keep_m(&a);
    });
    assert!(a.mode.get() == Mode::Body && a.model_p().is_some());
}

/// Mutation: `rest_p` does not drain.
#[test]
fn what_is_queued_on_a_p_that_goes_to_rest_moves_on() {
    let rt = rt(2);
    let (a, b, g) = (rt.model_m(), rt.model_m(), rt.model_g(1));
    rt.acquire_p(&a);
    rt.acquire_p(&b);
    let high = if a.model_p().unwrap().id == 1 { &a } else { &b };
    on_m(high, || rt.ready(g));
    rt.set_procs(1);
    rt.hand_off(high, g);
    assert_eq!(rt.global_len(), 1);
    // The same for one that lay in the idle list with its work.
    rt.set_procs(2);
    rt.acquire_p(high);
    on_m(high, || rt.ready(g));
    rt.hand_off(high, g);
    rt.set_procs(1);
    assert_eq!(rt.global_len(), 2);
}

#[test]
fn more_ps_serve_those_who_want_one() {
    let rt = rt(1);
    let (a, b) = (rt.model_m(), rt.model_m());
    rt.acquire_p(&a);
    rt.model_want(&b);
    assert_eq!(rt.set_procs(2), 1);
    assert_eq!(b.ctl.next_p.load(Ordering::Relaxed), 2);
    assert_eq!(rt.model_idle_counts()[0], 0);
}

#[test]
fn the_last_free_m_must_not_block() {
    let rt = rt(1);
    rt.set_max_threads(2);
    let (a, b) = (rt.model_m(), rt.model_m());
    let g = rt.model_g(1);
    assert!(rt.may_block());
    rt.hand_off(&a, g);
    assert!(!rt.may_block(), "the second of two");
    rt.model_list(&b);
    assert!(rt.may_block(), "an idle one is left");
    rt.take_p_again(&a, g);
    assert!(rt.may_block());
}
