//! The queue of a P with its `runnext`, the cache of free Gs and the numbers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::testing::Bare;

fn some(n: usize) -> (Pool<Bare>, Vec<GRef<Bare>>) {
    let pool = Pool::<Bare>::new();
    let gs = (0..n).map(|_| pool.take()).collect();
    (pool, gs)
}

fn rest(p: &P<Bare>) -> Vec<GRef<Bare>> {
    std::iter::from_fn(|| p.pop()).collect()
}

#[test]
fn runnext_pushes_the_one_before_to_the_back() {
    let (_pool, g) = some(4);
    let p = P::new(0, 0);
    assert!(p.is_empty());
    p.push_back(g[0]);
    p.push_next(g[1]);
    assert!(p.pop_next() == Some(g[1]) && p.pop_next().is_none());
    p.push_next(g[2]);
    p.push_next(g[3]);
    assert_eq!(p.len(), 3);
    assert!(p.pop_next() == Some(g[3]));
    assert!(rest(&p) == vec![g[0], g[2]]);
    assert!(p.is_empty() && p.pop().is_none());
}

#[test]
fn the_queue_is_first_come_first_served_however_long() {
    let (_pool, g) = some(3000);
    let p = P::new(0, 0);
    g.iter().for_each(|g| p.push_back(*g));
    assert_eq!(p.len(), 3000);
    assert!(rest(&p) == g);
}

#[test]
fn a_thief_takes_half_and_the_oldest_first() {
    let (_pool, g) = some(10);
    let (victim, thief) = (P::new(0, 0), P::new(1, 0));
    assert!(victim.steal_into(&thief).is_none());
    g.iter().for_each(|g| victim.push_back(*g));
    assert!(victim.steal_into(&thief) == Some(g[0]));
    assert!(rest(&thief) == g[1..5]);
    assert!(rest(&victim) == g[5..]);
    victim.push_next(g[0]);
    assert!(
        victim.steal_into(&thief).is_none(),
        "runnext is another matter"
    );
    assert!(victim.steal_next() == Some(g[0]) && victim.steal_next().is_none());
}

#[test]
fn a_thief_takes_no_more_than_a_batch() {
    let (_pool, g) = some(1000);
    let (victim, thief) = (P::new(0, 0), P::new(1, 0));
    g.iter().for_each(|g| victim.push_back(*g));
    assert!(victim.steal_into(&thief).is_some());
    assert_eq!(thief.len() + 1, queue::BATCH);
    assert_eq!(victim.len(), 1000 - queue::BATCH);
}

#[test]
fn drained_goroutines_come_out_in_order_and_all() {
    let (_pool, g) = some(300);
    let (p, global) = (P::new(0, 0), Global::new());
    g[1..].iter().for_each(|g| p.push_back(*g));
    p.push_next(g[0]);
    p.drain_to(&global);
    assert!(p.is_empty());
    assert_eq!(global.len(), 300);
    let mut out = Vec::new();
    while let Some(packet) = global.pop() {
        match packet {
            Packet::One(g) => out.push(g),
            Packet::Many(batch) => out.extend(*batch),
        }
    }
    assert!(out == g, "runnext first");
}

/// Two thieves and the owner: each goroutine comes to one of them.
#[test]
fn nothing_is_lost_or_doubled_between_owner_and_thieves() {
    let (_pool, g) = some(4000);
    let (p, over) = (P::new(0, 0), AtomicBool::new(false));
    let (taken, twice) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let note = |g: GRef<Bare>| {
        taken.fetch_add(1, Ordering::Relaxed);
        twice.fetch_add(
            usize::from(g.id.swap(1, Ordering::Relaxed) == 1),
            Ordering::Relaxed,
        );
    };
    std::thread::scope(|s| {
        for id in 1..3 {
            let (p, over, note) = (&p, &over, &note);
            s.spawn(move || {
                let me = P::new(id, 0);
                while !over.load(Ordering::Acquire) || !p.is_empty() {
                    p.steal_into(&me)
                        .or_else(|| p.steal_next())
                        .into_iter()
                        .for_each(note);
                    rest(&me).into_iter().for_each(note);
                }
            });
        }
        for (i, g) in g.iter().enumerate() {
            if i % 3 == 0 {
                p.push_next(*g);
            } else {
                p.push_back(*g);
            }
            if i % 5 == 0 {
                p.pop_next().or_else(|| p.pop()).into_iter().for_each(note);
            }
        }
        over.store(true, Ordering::Release);
    });
    assert_eq!((taken.into_inner(), twice.into_inner()), (4000, 0));
}

#[test]
fn the_cache_of_free_goroutines_is_bounded() {
    let pool = Pool::<Bare>::new();
    let p = P::new(0, 0);
    let used: Vec<_> = (0..1000).map(|_| p.take_g(&pool)).collect();
    let distinct: HashSet<_> = used.iter().map(|g| g.as_ptr()).collect();
    assert_eq!(distinct.len(), 1000);
    let memory = pool.all().len();
    used.into_iter().for_each(|g| p.give_g(g, &pool));
    // SAFETY: nobody else has this P.
    let cached = unsafe { (*p.cache.get()).len() };
    assert!(cached < 2 * BATCH, "{cached} kept");
    let again: HashSet<_> = (0..memory).map(|_| p.take_g(&pool).as_ptr()).collect();
    assert_eq!(again.len(), memory);
    assert_eq!(
        pool.all().len(),
        memory,
        "what was given back is taken first"
    );
}

#[test]
fn numbers_are_taken_in_blocks_and_never_twice() {
    let source = AtomicU64::new(1);
    let (a, b): (P<Bare>, P<Bare>) = (P::new(0, 0), P::new(1, 0));
    let mut seen = HashSet::new();
    for _ in 0..100 {
        assert!(seen.insert(a.next_id(&source)));
        assert!(seen.insert(b.next_id(&source)));
        assert!(seen.insert(source.fetch_add(1, Ordering::Relaxed)));
    }
    assert!(!seen.contains(&0));
}
