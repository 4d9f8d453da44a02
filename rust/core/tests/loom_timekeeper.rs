//! The timekeeper: somebody gets up for the earliest timer. The real code of `sched/idle.rs` and `timers.rs`; the clock
//! stands still, so a timer is due at once or never. A timer that nobody gets up for shows as a deadlock.
#![cfg(loom)]

#[path = "loom/host.rs"]
mod host;

use gorun_core::runtime::Runtime;
use gorun_core::sched::{GRef, M, flag};
use host::{Model, NOW, Rt};
use loom::thread;

type H = Model<false>;

/// A goroutine that begins at `deadline`.
fn timer(rt: Rt<false>, deadline: u64) -> GRef<H> {
    let (g, ticket) = rt.dormant(flag::TIMER, |_| {});
    rt.add_timer(&g, deadline, ticket);
    g
}

/// The next goroutine; None when the runtime stops.
fn next(rt: Rt<false>, m: &M<H>) -> Option<GRef<H>> {
    loop {
        if m.model_p().is_some()
            && let Some(g) = rt.model_find(m)
        {
            return Some(g);
        }
        if !rt.model_idle(m) {
            return None;
        }
    }
}

/// The idle M got up for nothing (that wait had ended) and settles down for a timer that is far away, or for none, while
/// one that is due is armed from outside. It lies behind the first, so its maker may think that the M is still to get up.
fn timer_against_nap(far: bool) {
    loom::model(move || {
        let rt = Runtime::<H>::leak(1, 0);
        let (ended, ticket) = rt.dormant(flag::TIMER, |_| {});
        rt.add_timer(&ended, NOW - 1, ticket);
        assert!(ended.waker.word.revoke(ticket));
        if far {
            timer(rt, u64::MAX / 2);
        }
        let m = thread::spawn(move || {
            let m = rt.model_m();
            next(rt, &m)
        });
        let due = timer(rt, NOW);
        assert!(m.join().unwrap() == Some(due));
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Fails without the fence in `timer_added`, or without that before the second look in `timekeeper_nap`.
#[test]
fn timer_against_nap_without_timers() {
    timer_against_nap(false);
}

/// Fails without the fence in `timer_added`, or without that after the deadline is published in `timekeeper_nap`, or if
/// the timers are not looked at again after that.
#[test]
fn timer_against_nap_until_a_far_one() {
    timer_against_nap(true);
}

/// The timekeeper takes work and then blocks for ever, while a timer is armed whose maker may think that it still gets
/// up: the other idle M does, or sysmon sees that nobody will. Fails if the deadline of a timekeeper that has left stays
/// published, or if sysmon goes to its deep sleep without a look at it.
#[test]
fn timer_against_a_timekeeper_that_leaves() {
    loom::model(|| {
        let rt = Runtime::<H>::leak(1, 0);
        timer(rt, NOW - 1);
        let (late, ticket) = rt.dormant(flag::TIMER, |_| {});
        let blocks = rt.model_g(1);
        let other = thread::spawn(move || {
            let m = rt.model_m();
            while let Some(g) = next(rt, &m) {
                if g == late {
                    return rt.model_stop();
                }
            }
        });
        let m = thread::spawn(move || {
            let m = rt.model_m();
            match next(rt, &m) {
                None => {}
                Some(g) if g == late => rt.model_stop(),
                Some(_) => {
                    m.model_leave();
                    rt.hand_off(&m, blocks);
                }
            }
        });
        rt.add_timer(&late, NOW, ticket);
        m.join().unwrap();
        // From here on sysmon.
        rt.model_sleep_deep();
        rt.model_fire_all_due();
        other.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
