//! The global queue. Its place in the protocol is in `tests/loom_idle.rs`.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::sched::Pool;
use crate::testing::Bare;

fn len(p: &Packet<Bare>) -> usize {
    match p {
        Packet::One(_) => 1,
        Packet::Many(v) => v.len(),
    }
}

#[test]
fn packets_come_out_whole_and_in_order() {
    let pool = Pool::<Bare>::new();
    let (q, g) = (Global::new(), [(); 5].map(|()| pool.take()));
    assert!(q.is_empty() && q.pop().is_none());
    q.push(Packet::One(g[0]));
    q.push(Packet::Many(Box::new(vec![g[1], g[2], g[3]])));
    q.push(Packet::One(g[4]));
    assert_eq!(q.len(), 5);
    assert!(matches!(q.pop(), Some(Packet::One(x)) if x == g[0]));
    assert_eq!(q.len(), 4);
    assert!(matches!(q.pop(), Some(Packet::Many(v)) if *v == g[1..4]));
    assert_eq!((q.len(), q.is_empty()), (1, false));
    assert!(matches!(q.pop(), Some(Packet::One(x)) if x == g[4]));
    assert_eq!((q.len(), q.is_empty()), (0, true));
}

/// From many threads at once; the length never runs below zero.
#[test]
fn nothing_is_lost_between_pushers_and_poppers() {
    let pool = Pool::<Bare>::new();
    let (q, over) = (Global::new(), AtomicBool::new(false));
    let got = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !over.load(Ordering::Acquire) || !q.is_empty() {
                    assert!(q.len() < 10_000, "below zero");
                    if let Some(p) = q.pop() {
                        got.fetch_add(len(&p), Ordering::Relaxed);
                    }
                }
            });
        }
        let pushers: Vec<_> = (1..3)
            .map(|n| {
                let (q, pool) = (&q, &pool);
                s.spawn(move || {
                    for _ in 0..500 {
                        let batch = (0..n).map(|_| pool.take()).collect();
                        q.push(Packet::Many(Box::new(batch)));
                        q.push(Packet::One(pool.take()));
                    }
                })
            })
            .collect();
        pushers.into_iter().for_each(|p| p.join().unwrap());
        over.store(true, Ordering::Release);
    });
    assert_eq!((got.into_inner(), q.len()), (2500, 0));
}
