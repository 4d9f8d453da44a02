//! Both ways to keep the queue, by one model; what several threads do to it at once is in `p/tests.rs` (free-threaded)
//! and `tests/stress_runtime.rs` (both).

use super::*;
use crate::sched::Pool;
use crate::testing::{BareOf, Rng};

/// Random walks against a plain list. Mutations: `steal_into` takes the youngest; `push_next` drops what was there;
/// `with_plain` forgets `len`.
fn same_as_a_list<const GIL: bool>() {
    let pool = Pool::<BareOf<GIL>>::new();
    let mut rng = Rng(5);
    for _ in 0..200 {
        let (q, thief) = (RunQueue::new(), RunQueue::new());
        let (mut next, mut list) = (None, VecDeque::new());
        for _ in 0..200 {
            match rng.below(8) {
                0 | 1 => {
                    let g = pool.take();
                    q.push_next(g);
                    list.extend(next.replace(g));
                }
                2 | 3 => {
                    let g = pool.take();
                    q.push_back(g);
                    list.push_back(g);
                }
                4 => assert!(q.take_next() == next.take()),
                5 | 6 => assert!(q.pop() == list.pop_front()),
                _ => {
                    let half = list.len().div_ceil(2).min(BATCH);
                    let taken: Vec<_> = list.drain(..half).collect();
                    assert!(q.steal_into(&thief) == taken.first().copied());
                    let rest: Vec<_> = std::iter::from_fn(|| thief.pop()).collect();
                    assert!(rest == taken[half.min(1)..]);
                }
            }
            assert_eq!(q.len(), list.len() + usize::from(next.is_some()));
            assert_eq!(q.is_empty(), list.is_empty() && next.is_none());
        }
    }
}

#[test]
fn same_as_a_list_free_threaded() {
    same_as_a_list::<false>();
}

#[test]
fn same_as_a_list_gil() {
    same_as_a_list::<true>();
}

/// A flood leaves no memory behind. Mutation: `pop` keeps what it has.
#[test]
fn a_flood_gives_its_memory_back() {
    let pool = Pool::<BareOf<true>>::new();
    let q = RunQueue::new();
    for _ in 0..10 * KEPT {
        q.push_back(pool.take());
    }
    while q.pop().is_some() {}
    assert!(q.with_plain(|q| q.capacity()) <= KEPT);
}
