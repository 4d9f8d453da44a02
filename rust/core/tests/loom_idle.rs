//! Submitting against going idle. The real code of `sched/idle.rs` and `find.rs`, over a stand-in for the global queue.
//! A goroutine that is left lying while its M sleeps shows as a deadlock.
#![cfg(loom)]

#[path = "loom/host.rs"]
mod host;

use std::sync::atomic::Ordering;

use gorun_core::host::Host;
use gorun_core::runtime::Runtime;
use gorun_core::sched::{M, TimerSlot, flag};
use host::{Model, NOW, Rt};
use loom::thread;

/// Runs `m` until it has found something.
fn until_found<const GIL: bool>(rt: Rt<GIL>, m: &M<Model<GIL>>) {
    loop {
        if m.model_p().is_some() && rt.model_find(m).is_some() {
            return;
        }
        assert!(rt.model_idle(m), "told to end");
    }
}

/// The only M has a P and finds nothing; meanwhile a goroutine comes from outside. It must not sleep beside it.
fn submit_against_rest<const GIL: bool>(procs: u32) {
    loom::model(move || {
        let rt = Runtime::<Model<GIL>>::leak(procs, 0);
        let g = rt.model_g(1);
        let m = thread::spawn(move || {
            let m = rt.model_m();
            rt.acquire_p(&m);
            assert!(m.model_enter());
            until_found(rt, &m);
        });
        rt.model_submit(g);
        m.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Fails without the fence in `submit`, without both fences of the M (`idle_p`, and `idle` after it is listed: each
/// alone will do here), or if a listed M sleeps without another look.
#[test]
fn submit_against_rest_free_threaded() {
    submit_against_rest::<false>(1);
}

/// There is a second, idle P, but the submitter wakes nobody while an M runs: that one has to look. Fails as above.
#[test]
fn submit_against_rest_gil() {
    submit_against_rest::<true>(2);
}

/// A goroutine in the `runnext` of a P that others may steal from: its M takes it, or a thief, or it is found by whoever
/// looks last, and a thief that goes idle meanwhile does not sleep beside it. Fails if `steal_next` or `pop_next` takes
/// it by a load and a store, or if `has_work` does not look into the queues.
#[test]
fn steal_against_pop_against_going_idle() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(2, 0);
        let g = rt.model_g(1);
        let victim = rt.model_m();
        rt.acquire_p(&victim);
        Model::set_current(&raw const victim);
        rt.ready(g);
        let place = victim.model_p().unwrap();
        place.stealable.store(true, Ordering::Relaxed);
        let thief = thread::spawn(move || {
            let m = rt.model_m();
            while rt.model_idle(&m) {
                if rt.model_find(&m).is_some() {
                    rt.model_stop();
                    return true;
                }
            }
            false
        });
        assert!(victim.model_enter());
        let found = rt.model_find(&victim).is_some();
        if found {
            rt.model_stop();
        }
        assert_ne!(thief.join().unwrap(), found, "found by one");
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Two Ps, so that the M spins before it sleeps, and a submitter that sees it spin leaves it to look. Fails without the
/// fence in `spin`.
#[test]
fn submit_against_spin() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(2, 0);
        let g = rt.model_g(1);
        let m = thread::spawn(move || until_found(rt, &rt.model_m()));
        rt.model_submit(g);
        m.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Two goroutines from two threads, two Ms, one of which is being woken while it comes to look by itself: whoever finds
/// work, no P is lost. Fails if an M in `idle` does not notice that it was taken off the list.
#[test]
fn woken_against_getting_up() {
    loom::model(|| {
        let rt = Runtime::<Model<true>>::leak(2, 0);
        let (a, b) = (rt.model_g(1), rt.model_g(1));
        // A timer that is due: the M does not sleep but looks round and round until somebody has fired it.
        let (t, ticket) = rt.dormant(flag::TIMER, |_| {});
        rt.add_timer(&t, NOW, ticket);
        let m = thread::spawn(move || {
            let m = rt.model_m();
            until_found(rt, &m);
            let held = m.model_p().expect("found with a P").id;
            (m, held)
        });
        let other = thread::spawn(move || rt.model_submit(a));
        rt.model_submit(b);
        other.join().unwrap();
        let (m, held) = m.join().unwrap();
        let [ps, ps_count, ms, ms_count] = rt.model_idle_counts();
        assert_eq!((ps, ms), (ps_count, ms_count), "lists and counters differ");
        let on_its_way = m.ctl.next_p.load(Ordering::Relaxed);
        assert_eq!(
            on_its_way,
            0,
            "an M with P {held} was handed P {}",
            on_its_way - 1
        );
        assert_eq!(ps, 1, "a P is lost");
        assert!(t.timer.replace(TimerSlot::NONE).shard != u32::MAX);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// An M wants a P back, none is idle, nobody gives one up: a raised gomaxprocs must serve it. Fails without
/// `serve_wanting` in `resize`.
#[test]
fn wanting_against_more_ps() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let busy = rt.model_m();
        rt.acquire_p(&busy);
        let m = thread::spawn(move || {
            let m = rt.model_m();
            rt.acquire_p(&m);
            assert_eq!(m.model_p().map(|p| p.id), Some(1));
        });
        rt.set_procs(2);
        m.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// An M blocks with work in the queue of its P while gomaxprocs falls below that P: another M must get the work. Fails
/// if a P rests with what is queued there.
#[test]
fn hand_off_against_fewer_ps() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(2, 0);
        let (g, queued) = (rt.model_g(1), rt.model_g(1));
        let blocks = thread::spawn(move || {
            let m = rt.model_m();
            rt.acquire_p(&m);
            Model::set_current(&raw const m);
            rt.ready(queued);
            rt.hand_off(&m, g);
        });
        let m = thread::spawn(move || {
            let m = rt.model_m();
            until_found(rt, &m);
            m.model_p().map(|p| p.id)
        });
        rt.set_procs(1);
        blocks.join().unwrap();
        m.join().unwrap();
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}
