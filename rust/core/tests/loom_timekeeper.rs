//! The timekeeper: somebody gets up for the earliest timer. The real code of `sched/idle.rs` and `timers.rs`; the clock
//! stands still, so a timer is due at once or never.
#![cfg(loom)]

#[path = "loom/host.rs"]
mod host;

use gorun_core::runtime::Runtime;
use gorun_core::sched::flag;
use host::{Model, NOW};
use loom::thread;

/// The idle M settles down for a timer that is far away (or for none) while an earlier one, due, is armed from outside.
/// Fails without the fence in `timer_added`, without those in `timekeeper_nap`, or if the deadline is published only
/// after the timers were read.
fn timer_against_nap(far: bool) {
    loom::model(move || {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        if far {
            let (g, ticket) = rt.dormant(flag::TIMER, |_| {});
            rt.add_timer(&g, u64::MAX / 2, ticket);
        }
        let (g, ticket) = rt.dormant(flag::TIMER, |_| {});
        let m = thread::spawn(move || {
            let m = rt.model_m();
            while m.model_p().is_none() || rt.model_find(&m).is_none() {
                assert!(rt.model_idle(&m));
            }
        });
        rt.add_timer(&g, NOW, ticket);
        m.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

#[test]
fn timer_against_nap_without_timers() {
    timer_against_nap(false);
}

#[test]
fn timer_against_nap_until_a_far_one() {
    timer_against_nap(true);
}

/// The timekeeper is taken off for work from outside while a timer is armed: the other idle M gets up for it, or the
/// first when it has nothing to do. Fails if the deadline of a timekeeper that is gone stays published.
#[test]
fn timer_against_a_timekeeper_that_leaves() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let (far, ticket) = rt.dormant(flag::TIMER, |_| {});
        rt.add_timer(&far, u64::MAX / 2, ticket);
        let (timer, ticket) = rt.dormant(flag::TIMER, |_| {});
        let work = rt.model_g(1);
        let m = thread::spawn(move || {
            let m = rt.model_m();
            let mut found = 0;
            while found < 2 {
                if m.model_p().is_some() && rt.model_find(&m).is_some() {
                    found += 1;
                } else {
                    assert!(rt.model_idle(&m));
                }
            }
        });
        let other = thread::spawn(move || rt.model_submit(work));
        rt.add_timer(&timer, NOW, ticket);
        m.join().unwrap();
        other.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
