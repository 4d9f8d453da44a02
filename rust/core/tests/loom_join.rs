//! Joining against ending, and a thread that waits against whoever wakes it. The real code of `wait.rs`,
//! `Runtime::finish` and `G`.
#![cfg(loom)]

#[path = "loom/host.rs"]
mod host;

use std::time::Duration;

use gorun_core::host::Host;
use gorun_core::runtime::Runtime;
use gorun_core::sched::{Kind, Phase, WaitReason};
use gorun_core::wait::{End, Latch, Next, block, join_fence};
use host::{Model, Rt};
use loom::thread;

fn wait<X>(rt: Rt<false>, latch: &Latch<X>, timeout: Option<Duration>) -> End {
    let end = block(rt, Some(latch), WaitReason::Join, timeout, None, || {
        Ok::<_, ()>(Next::Sleep)
    });
    end.unwrap()
}

/// A goroutine ends while the first joiner makes its latch: the joiner wakes up. It holds the last handle, so memory
/// goes by the joiner's hand or by the runner's, whoever is later. Fails without the fence in `latch_at_end`, without
/// `join_fence`, or if the runtime gives its reference up before the latch is closed.
#[test]
fn join_against_finish() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let g = rt.model_g(2);
        let joiner = thread::spawn(move || {
            let latch = g.latch_or_make();
            join_fence();
            if g.waker.word.phase() != Phase::Done {
                assert_eq!(wait(rt, latch, None), End::Ready);
                assert_eq!(g.waker.word.phase(), Phase::Done);
            }
            rt.release(g);
        });
        let m = rt.model_m();
        rt.finish(&m, g);
        rt.release(g);
        joiner.join().unwrap();
        assert_eq!(g.refs(), 0);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// Two joiners make the latch at once: there is one. Fails if `latch_or_make` stores instead of exchanging.
#[test]
fn join_against_join() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let g = rt.model_g(1);
        let one = move || std::ptr::from_ref(g.latch_or_make()) as usize;
        let other = thread::spawn(one);
        assert_eq!(one(), other.join().unwrap());
        rt.release(g);
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// A goroutine that keeps its M waits for a latch with a limit that is over at once, then gets ready for a wait of the
/// other kind, while the latch is closed. Whoever closes it must not take it for a parked goroutine and queue it. Fails
/// if `block` goes on before the one who ended its wait has come to `wake_thread`.
#[test]
fn wake_against_the_next_wait() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 9);
        let g = rt.model_g(1);
        let latch: &'static Latch = Box::leak(Box::default());
        let waiter = thread::spawn(move || {
            let m = rt.model_m();
            m.set_goroutine(Some(g));
            Model::set_current(&raw const m);
            let end = wait(rt, latch, Some(Duration::from_nanos(1)));
            assert!(end == End::Timeout || latch.is_closed());
            g.waker.set_kind(Kind::Goroutine, WaitReason::Event);
        });
        let closer = thread::spawn(move || assert!(latch.close(rt)));
        waiter.join().unwrap();
        closer.join().unwrap();
        assert_eq!(rt.global_len(), 0, "a running goroutine was queued");
        // SAFETY: all threads have ended; ours from Box::leak.
        unsafe {
            rt.model_free();
            drop(Box::from_raw(std::ptr::from_ref(latch).cast_mut()));
        }
    });
}

/// Closing against joining a latch that many may use: no waiter stays behind. Fails if `enlist` does not look at
/// `closed`, or if `close` sets it after it has emptied the list.
#[test]
fn close_against_enlist() {
    loom::model(|| {
        let rt = Runtime::<Model<false>>::leak(1, 0);
        let latch: &'static Latch = Box::leak(Box::default());
        let waiter = thread::spawn(move || assert_eq!(wait(rt, latch, None), End::Ready));
        assert!(latch.close(rt));
        waiter.join().unwrap();
        // SAFETY: as above.
        unsafe {
            rt.model_free();
            drop(Box::from_raw(std::ptr::from_ref(latch).cast_mut()));
        }
    });
}
