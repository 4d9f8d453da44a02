//! sysmon against those that it watches. The real code of `sched/sysmon.rs`, `blocking.rs` and `m.rs`; what sysmon sees
//! in `/proc` is left out: it takes the P without asking.
#![cfg(loom)]

#[path = "loom/host.rs"]
mod host;

use gorun_core::host::Host;
use gorun_core::runtime::Runtime;
use host::Model;
use loom::thread;

/// sysmon goes to sleep for good while an M takes a P: one of the two notices. Fails without the fence in
/// `note_running`, without that before the sleep, or if `idle` does not call `note_running`.
#[test]
fn deep_sleep_against_a_p_that_leaves() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let g = rt.model_g(1);
        // sysmon sleeps for good only while somebody would get up for the timers.
        let other = thread::spawn(move || {
            let m = rt.model_m();
            assert!(rt.model_idle(&m));
            m.model_p().is_some()
        });
        let sysmon = thread::spawn(move || rt.model_sleep_deep());
        rt.model_submit(g);
        assert!(other.join().unwrap());
        sysmon.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A body readies a goroutine while sysmon takes its P for another M: it is queued where somebody finds it, once. Fails
/// if `with_p` does not enter, or if `pass_on` leaves a P with work idle beside an idle M.
#[test]
fn ready_against_retake() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let (g, p) = (rt.model_g(1), rt.ps()[0]);
        let m = rt.model_m();
        rt.acquire_p(&m);
        let ctl = m.ctl;
        let sysmon = thread::spawn(move || {
            let seen = p.owner.in_body(&ctl.seat);
            if seen.is_some_and(|t| p.owner.retake(t, &ctl.seat)) {
                rt.model_pass_on(p);
            }
        });
        let next = thread::spawn(move || {
            let m = rt.model_m();
            while rt.model_idle(&m) {
                if rt.model_find(&m).is_some() {
                    // Nobody else will come: the first M may be idle.
                    rt.model_stop();
                    return true;
                }
            }
            false
        });
        Model::set_current(&raw const m);
        rt.ready(g);
        // The body has ended: back to the loop, with the P or without.
        let mut found = m.model_enter() && rt.model_find(&m).is_some();
        if found {
            rt.model_stop();
        }
        while !found && rt.model_idle(&m) {
            found = rt.model_find(&m).is_some();
            if found {
                rt.model_stop();
            }
        }
        sysmon.join().unwrap();
        assert_ne!(next.join().unwrap(), found, "found by one");
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
