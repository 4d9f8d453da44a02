//! In forked children, which have no threads but those of the test: whose looks are right can be told only there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::sched::{Packet, Park, WaitReason};
use crate::testing::{Rt, in_child, rt};
use crate::wait::{End, Latch, Next, block};

const SLICE: Option<Duration> = Some(Duration::from_millis(1));

/// Waits for what nobody does, and looks five times; `Err` if all looks found something going on.
fn looks(rt: Rt) -> Result<End, ()> {
    looks_within(rt, None)
}

fn looks_within(rt: Rt, limit: Option<Duration>) -> Result<End, ()> {
    let mut left = 5;
    block(
        rt,
        Some(&Latch::<u32>::default()),
        WaitReason::Event,
        limit,
        SLICE,
        || {
            left -= 1;
            if left < 0 { Err(()) } else { Ok(Next::Look) }
        },
    )
}

/// Whether a thread alone finds a deadlock, beside what `f` made.
fn alone<T>(f: impl FnOnce(Rt) -> T) -> Result<End, ()> {
    let rt = rt(1);
    let kept = f(rt);
    let end = looks(rt);
    drop(kept);
    end
}

/// Mutations: `stuck` says false; the seat is not taken (`sit`).
#[test]
fn a_thread_alone_that_waits_for_ever_is_stuck() {
    in_child(|| alone(|_| ()) == Ok(End::Deadlock));
}

/// Mutations: `for_ever` is always true; `End::Timeout` becomes `Deadlock` whatever the time-out.
#[test]
fn a_wait_that_ends_by_itself_is_not() {
    in_child(|| {
        let rt = rt(1);
        let hour = Some(Duration::from_secs(3600));
        let short = Some(Duration::from_millis(30));
        looks_within(rt, hour) == Err(()) && {
            let end = block(
                rt,
                Some(&Latch::<u32>::default()),
                WaitReason::Event,
                short,
                None,
                || Ok::<_, ()>(Next::Sleep),
            );
            end == Ok(End::Timeout)
        }
    });
}

/// Mutation, for each: the look does not ask for it (`nothing_to_do`, `begun != ended`, `s.starting`, `s.wanting`).
#[test]
fn what_is_under_way_is_seen() {
    type Make = fn(Rt);
    let cases: [(&str, Make); 5] = [
        ("a timer", |rt| {
            let (g, ticket) = rt.dormant(0, |_| ());
            rt.add_timer(&g, u64::MAX - 1, ticket);
        }),
        ("a goroutine in a queue", |rt| {
            rt.global.push(Packet::One(rt.model_g(1)));
        }),
        ("somebody at work", |rt| rt.begin_work()),
        ("a thread on its way", |rt| rt.sched.lock().starting = 1),
        ("an M that wants a P", |rt| {
            let id = rt.new_ctl();
            rt.sched.lock().wanting.push_back(rt.m_ctl(id));
        }),
    ];
    for (what, make) in cases {
        in_child(|| {
            let end = alone(make);
            if end != Err(()) {
                eprintln!("{what}: {end:?}");
            }
            end == Err(())
        });
    }
}

/// Mutation: the work that ended is not counted (`begun` is left out of the note): then `works` is not seen.
#[test]
fn a_note_of_before_a_work_is_not_one_of_after_it() {
    in_child(|| {
        let rt = rt(1);
        let before = rt.note(|| ());
        rt.begin_work();
        let during = rt.note(|| ()).is_none();
        rt.end_work();
        during && before.is_some() && before != rt.note(|| ())
    });
}

/// Has this thread count as asleep for ever, as one that looks does.
fn fall_asleep(rt: Rt) {
    let w: &'static Waker = Box::leak(Box::new(Waker::new()));
    w.word.renew_running();
    w.set_for_ever(true);
    w.word.arm(false).unwrap();
    assert_eq!(w.word.park_held(), Park::Parked);
    rt.quiet.sit(rt.epoch(), w);
}

/// A step may be under way at the kernel's count if it began after the first list of idle Ms, and is over before the second.
/// Mutations: the first sum is read after the note; `nothing_to_do` is not asked at the end.
#[test]
fn what_an_idle_m_does_meanwhile_is_seen() {
    /// What it does in the middle of a note, by the note's number.
    type Act = fn(Rt, usize);
    let cases: [(&str, Act); 3] = [
        ("a step", |rt, n| {
            if n == 0 {
                rt.p(0).runs.add(1);
            }
        }),
        ("a queue", |rt, n| {
            if n == 1 {
                rt.global.push(Packet::One(rt.model_g(1)));
            }
        }),
        ("a timer", |rt, n| {
            if n == 1 {
                let (g, ticket) = rt.dormant(0, |_| ());
                rt.add_timer(&g, u64::MAX - 1, ticket);
            }
        }),
    ];
    for (what, act) in cases {
        in_child(|| {
            let rt = rt(1);
            fall_asleep(rt);
            let alone = rt.stuck();
            let mut n = 0;
            let stuck = rt.stuck_if(|| {
                act(rt, n);
                n += 1;
            });
            if stuck || n != 2 {
                eprintln!("{what}: {stuck}, {n} notes");
            }
            alone && !stuck && n == 2
        });
    }
}

/// Threads that wait with us are no obstacle, and are cut; one that does anything else is, whoever it is.
/// Mutations: the kernel is asked neither for the count nor for the list; `cut_found` cuts nobody; seats of goroutines' threads only.
#[test]
fn other_threads() {
    in_child(|| {
        let rt = rt(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stranger = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        };
        let with_stranger = looks(rt);
        stop.store(true, Ordering::Relaxed);
        stranger.join().unwrap();
        let waiter = std::thread::spawn(move || {
            block(
                rt,
                Some(&Latch::<u32>::default()),
                WaitReason::Event,
                None,
                None,
                || Ok::<_, ()>(Next::Sleep),
            )
        });
        let mut with_waiter = Err(());
        // It may not wait yet.
        for _ in 0..1000 {
            with_waiter = looks(rt);
            if with_waiter.is_ok() {
                break;
            }
        }
        let named = rt.found().len() == 1;
        rt.cut_found();
        with_stranger == Err(())
            && with_waiter == Ok(End::Deadlock)
            && named
            && waiter.join().unwrap() == Ok(End::Deadlock)
    });
}

/// What was found is a wait, not a waker: the next wait is left alone. Mutation: `cut_found` takes the ticket of now.
#[test]
fn a_later_wait_is_not_cut() {
    in_child(|| {
        let rt = rt(1);
        let first = looks(rt) == Ok(End::Deadlock);
        let latch: &'static Latch<u32> = Box::leak(Box::default());
        let cutter = std::thread::spawn(move || {
            // The same waker, by an older ticket.
            while !rt.quiet.seats.lock().all.iter().any(|s| {
                // SAFETY: wakers of threads are never unmapped.
                let w = unsafe { s.waker.load(Ordering::Acquire).as_ref() };
                w.is_some_and(|w| w.held_for_ever().is_some())
            }) {
                std::thread::yield_now();
            }
            rt.cut_found();
            latch.close(rt);
        });
        let end = block(rt, Some(latch), WaitReason::Event, None, None, || {
            Ok::<_, ()>(Next::Sleep)
        });
        cutter.join().unwrap();
        first && end == Ok(End::Ready)
    });
}

/// Mutation: `threads` takes the folder's own two links for threads.
#[test]
fn the_kernel_counts_threads() {
    in_child(|| {
        let alone = threads();
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || told.recv());
        let two = threads();
        let me = super::super::m::gettid();
        let strangers = !all_threads(|tid| tid == me);
        drop(tell);
        let _ = other.join();
        alone == Some(1) && two == Some(2) && strangers
    });
}

/// An M that has just let go of a goroutine still names it. Mutation: `is_sane` says true.
#[test]
fn nobody_is_counted_twice() {
    let w = Waker::new();
    let sleeper = |tid, waker| Sleeper {
        tid,
        waker,
        ticket: None,
        cut: false,
    };
    let note = |asleep| Note { asleep, begun: 0 };
    let none = std::ptr::null();
    assert!(
        note(vec![
            sleeper(1, none),
            sleeper(2, &raw const w),
            sleeper(3, none)
        ])
        .is_sane()
    );
    assert!(!note(vec![sleeper(1, &raw const w), sleeper(2, &raw const w)]).is_sane());
    assert!(!note(vec![sleeper(1, none), sleeper(1, none)]).is_sane());
}

/// Seats of threads that ended are swept out. Mutation: `retain` keeps all.
#[test]
fn ended_threads_leave_no_seats() {
    let rt = rt(1);
    for _ in 0..20 * SWEEP {
        std::thread::spawn(move || {
            let w = Waker::new();
            let before = rt.quiet.sit(rt.epoch(), &w);
            rt.quiet.rise(before);
        })
        .join()
        .unwrap();
    }
    assert!(rt.quiet.seats.lock().all.len() <= 2 * SWEEP);
}
