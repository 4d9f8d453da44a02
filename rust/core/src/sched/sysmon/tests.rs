//! What the watcher does about what it sees, one look at a time.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::*;
use crate::sched::{GRef, Interp, Probe, ProbeMode};
use crate::testing::{Bare, Rt, on_m, rt};

fn seeing(procs: u32) -> Rt {
    let rt = rt(procs);
    rt.set_interp(Interp {
        trust_syscall: true,
        ..Interp::default()
    });
    rt
}

/// A thread that holds a P inside a body, with `g` queued there, and is asleep until the channel closes.
fn asleep_in_a_body(rt: Rt, g: GRef<Bare>) -> (u32, Sender<()>, JoinHandle<bool>) {
    let (tell, told): (_, Receiver<u32>) = channel();
    let (until, wait) = channel::<()>();
    let thread = std::thread::spawn(move || {
        let m = rt.model_m();
        *m.ctl.probe.lock() = Some(Probe::open_current(ProbeMode::Auto));
        rt.acquire_p(&m);
        on_m(&m, || rt.ready(g));
        tell.send(m.model_p().unwrap().id).unwrap();
        // A system call that is no futex: one look is enough.
        let mut fds = [0; 2];
        // SAFETY: two numbers to write to; then one byte into our own buffer.
        unsafe {
            assert_eq!(libc::pipe(fds.as_mut_ptr()), 0);
            let keep = fds[1];
            let closer = std::thread::spawn(move || {
                let _ = wait.recv();
                libc::close(keep);
            });
            libc::read(fds[0], (&raw mut fds).cast(), 1);
            libc::close(fds[0]);
            closer.join().unwrap();
        }
        *m.ctl.probe.lock() = None;
        m.model_enter()
    });
    (told.recv().unwrap(), until, thread)
}

/// Looks until something was done about it.
fn look(rt: Rt) -> bool {
    let mut notes = Vec::new();
    (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        rt.look_around(&mut notes) && rt.ps().iter().all(|p| rt.in_body(p).is_none())
    })
}

#[test]
fn a_p_is_taken_from_an_m_that_blocks_beside_work() {
    let rt = seeing(1);
    let (_, until, thread) = asleep_in_a_body(rt, rt.model_g(1));
    let mut notes = Vec::new();
    for _ in 0..5 {
        rt.look_around(&mut notes);
    }
    assert!(rt.in_body(rt.ps()[0]).is_some(), "no M could go on with it");
    let idle = rt.model_m();
    rt.model_list(&idle);
    assert!(look(rt));
    assert_eq!(idle.ctl.next_p.load(Ordering::Relaxed), 1);
    assert_eq!(rt.m_counts().3, 1, "one runs without a P");
    drop(until);
    assert!(!thread.join().unwrap(), "it has noticed");
}

/// gomaxprocs fell while an M held a P that is now too many, and then it blocked. Mutation: sysmon looks at the Ps below
/// the limit only; what is queued there then waits for that M.
#[test]
fn a_p_above_the_limit_is_taken_too() {
    let rt = seeing(2);
    // Ps are handed out from the end: this one holds the high one.
    let (high, until, thread) = asleep_in_a_body(rt, rt.model_g(1));
    assert_eq!(high, 1);
    let (low, idle) = (rt.model_m(), rt.model_m());
    rt.acquire_p(&low);
    rt.model_list(&idle);
    rt.set_procs(1);
    let mut notes = Vec::new();
    let taken = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        rt.look_around(&mut notes);
        idle.ctl.next_p.load(Ordering::Relaxed) == high + 1
    });
    assert!(taken);
    drop(until);
    assert!(!thread.join().unwrap(), "it has noticed");
}

/// The same for one that computes: its neighbours can be stolen. Mutation: thieves look below the limit only.
#[test]
fn work_on_a_p_above_the_limit_can_be_stolen() {
    let rt = rt(2);
    let (a, b, g) = (rt.model_m(), rt.model_m(), rt.model_g(1));
    rt.acquire_p(&a);
    rt.acquire_p(&b);
    let (high, low) = if a.model_p().unwrap().id == 1 {
        (a, b)
    } else {
        (b, a)
    };
    on_m(&high, || rt.ready(g));
    rt.set_procs(1);
    assert!(!rt.has_work(), "not while its M is quick");
    high.model_p()
        .unwrap()
        .stealable
        .store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(rt.has_work());
    assert!(low.model_enter() && rt.model_find(&low) == Some(g));
}

/// A lone `runnext` of a P whose tasks are short is left to it, unless nobody holds the P. Mutation: `has_spoils` or
/// `steal` does not look at `brisk`.
#[test]
fn a_brisk_p_keeps_its_runnext() {
    let rt = rt(2);
    let (a, b) = (rt.model_m(), rt.model_m());
    let (next, queued) = (rt.model_g(1), rt.model_g(2));
    rt.acquire_p(&a);
    rt.acquire_p(&b);
    on_m(&a, || rt.ready(next));
    let p = a.model_p().unwrap();
    p.stealable
        .store(true, std::sync::atomic::Ordering::Relaxed);
    p.brisk.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!rt.has_work());
    on_m(&a, || rt.ready(queued));
    assert!(rt.has_work(), "what is queued behind it may go");
    assert!(b.model_enter() && rt.model_find(&b) == Some(next));
    assert!(!rt.has_work());
    p.brisk.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(rt.has_work());
}

/// All Ps are in the same body for long while work waits: there is one more, and none when they move.
#[test]
fn a_p_is_lent_while_all_are_held() {
    let rt = seeing(1);
    let (m, idle, g) = (rt.model_m(), rt.model_m(), rt.model_g(1));
    rt.acquire_p(&m);
    on_m(&m, || rt.ready(g));
    rt.model_list(&idle);
    let mut notes = Vec::new();
    assert!(!rt.look_around(&mut notes), "seen for the first time");
    std::thread::sleep(Duration::from_millis(15));
    assert!(rt.look_around(&mut notes));
    assert_eq!((rt.procs(), rt.limit()), (1, 2));
    assert_eq!(idle.ctl.next_p.load(Ordering::Relaxed), 2);
    assert!(m.take_preempt(), "and it is asked to yield");
    // It moves, and the other P is free again.
    idle.model_hold(rt.ps()[1]);
    idle.ctl.next_p.store(0, Ordering::Relaxed);
    assert!(m.model_enter() && rt.model_find(&m) == Some(g));
    m.model_leave();
    rt.model_rest(&idle);
    rt.look_around(&mut notes);
    assert_eq!(rt.limit(), 1);
}
