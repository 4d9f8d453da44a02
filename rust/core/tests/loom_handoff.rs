//! Hand-off: an M blocks, another takes its P, and the first wants one again. The real code of `sched/blocking.rs` and
//! `idle.rs`.
#![cfg(loom)]

#[path = "loom/host.rs"]
mod host;

use gorun_core::host::Host;
use gorun_core::runtime::Runtime;
use host::Model;
use loom::thread;

/// An M blocks with work in its queue; another, just going idle, takes P and work, and gives the P back when it has
/// nothing more to do. Fails if `pass_on` does not look again after the P is idle, if `idle_p` does not serve those who
/// want a P, or if `acquire_p` looks for a P and joins the list under two locks.
#[test]
fn blocking_against_going_idle() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let (me, queued) = (rt.model_g(1), rt.model_g(1));
        let m = rt.model_m();
        rt.acquire_p(&m);
        Model::set_current(&raw const m);
        rt.ready(queued);
        let other = thread::spawn(move || {
            let m = rt.model_m();
            while m.model_p().is_none() || rt.model_find(&m).is_none() {
                rt.model_idle(&m);
            }
            rt.model_rest(&m);
        });
        rt.hand_off(&m, me);
        rt.take_p_again(&m, me);
        assert!(m.model_enter(), "back with a P");
        // It may have been so quick that the other slept on: then the work is still here.
        if rt.model_find(&m).is_some() {
            rt.model_rest(&m);
            rt.submit_all(vec![queued]);
        }
        other.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Work comes from outside while the only M blocks: it is found when the M comes back, or by the idle one. Fails without
/// the fence in `idle_p`.
#[test]
fn blocking_against_submit() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let (me, g) = (rt.model_g(1), rt.model_g(1));
        let m = rt.model_m();
        rt.acquire_p(&m);
        let other = thread::spawn(move || {
            let m = rt.model_m();
            while m.model_p().is_none() || rt.model_find(&m).is_none() {
                rt.model_idle(&m);
            }
        });
        let outside = thread::spawn(move || rt.model_submit(g));
        // It blocks for ever.
        rt.hand_off(&m, me);
        other.join().unwrap();
        outside.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Two Ms come back from blocking and there is one P: the second gets it when the first rests. Fails if `find` and
/// `rest` forget those who want a P.
#[test]
fn two_want_one_p() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let turn = move || {
            let m = rt.model_m();
            rt.acquire_p(&m);
            assert!(m.model_enter());
            rt.model_rest(&m);
        };
        let other = thread::spawn(turn);
        turn();
        other.join().unwrap();
        assert_eq!(rt.model_idle_counts()[..2], [1, 1]);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
