//! The mutex: hand-over and being told against time-outs, newcomers and those that vanish. The real code of `mutex.rs`
//! and `wait.rs`.
#![cfg(loom)]

#[path = "loom/hand.rs"]
mod hand;
#[path = "loom/host.rs"]
mod host;

use std::sync::Arc;

use gorun_core::mutex::{Mutex, PATIENCE, Turn};
use hand::{AT_ONCE, Hand, Shared, lock, rt};
use host::{NOW, Rt, set_clock};
use loom::cell::UnsafeCell;
use loom::thread;

/// Waits for `mutex`, by hand, since the clock's now.
fn enlist(rt: Rt<false>, mutex: &Mutex) -> (Hand, Shared<Turn>) {
    let (mut hand, turn) = (Hand::new(rt), Shared::new(Turn::new()));
    let (waker, ticket) = hand.arm();
    // SAFETY: shared until the end.
    assert!(unsafe { mutex.enlist(rt, turn.get(), waker, ticket) });
    assert!(hand.park());
    (hand, turn)
}

/// A count that the mutex guards.
struct Guarded {
    mutex: Mutex,
    count: UnsafeCell<u32>,
}

// SAFETY: loom checks it.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn locked() -> Arc<Self> {
        let mutex = Mutex::default();
        assert!(mutex.try_lock());
        Arc::new(Self {
            mutex,
            count: UnsafeCell::new(0),
        })
    }

    fn count(&self) {
        // SAFETY: loom checks it.
        self.count.with_mut(|n| unsafe { *n += 1 });
    }
}

/// A mutex is freed while one waits and another comes: all have it in turn. Whoever was told and came too late waits
/// again. Fails if `confirm` leaves `told` as it is, or `block_on` takes Ready for the end.
#[test]
fn told_against_a_newcomer() {
    for age in [0, PATIENCE] {
        loom::model(move || {
            set_clock(NOW);
            let (rt, all) = (rt(), Guarded::locked());
            let one = |all: Arc<Guarded>, limit| {
                move || {
                    let mine = lock(rt, &all.mutex, limit);
                    if mine {
                        all.count();
                        all.mutex.unlock(rt).unwrap();
                    }
                    mine
                }
            };
            let a = thread::spawn(one(all.clone(), None));
            let b = thread::spawn(one(all.clone(), None));
            all.count();
            set_clock(NOW + age);
            all.mutex.unlock(rt).unwrap();
            assert!(a.join().unwrap() && b.join().unwrap());
            all.count.with(|n| {
                // SAFETY: loom checks it.
                assert_eq!(unsafe { *n }, 3);
            });
            assert!(!all.mutex.is_locked());
            // SAFETY: all threads have ended.
            unsafe { rt.model_free() };
        });
    }
}

/// A mutex is freed, or handed over, while the first of two gives up: one of the two is woken, and it has the mutex or
/// may try. Fails if `unlock` stops at one that was late, or leaves it the mutex.
#[test]
fn unlock_against_a_limit() {
    for age in [0, PATIENCE] {
        loom::model(move || {
            set_clock(NOW);
            let (rt, mutex) = (rt(), Arc::new(Mutex::default()));
            assert!(mutex.try_lock());
            let (first, at) = enlist(rt, &mutex);
            let (second, behind) = enlist(rt, &mutex);
            set_clock(NOW + age);
            let other = mutex.clone();
            let giving_up = thread::spawn(move || {
                let won = first.expire();
                if won {
                    // SAFETY: enlisted there.
                    unsafe { other.delist(at.get()) };
                }
                won
            });
            mutex.unlock(rt).unwrap();
            assert_eq!(mutex.is_locked(), age == PATIENCE);
            let late = giving_up.join().unwrap();
            assert_eq!((first.is_ready(), second.is_ready()), (!late, late));
            assert_eq!(rt.global_len(), 1);
            let (mut at, mut behind) = (at.free(), behind.free());
            assert!(mutex.confirm(if late { &mut behind } else { &mut at }));
            assert!(mutex.is_locked());
            // SAFETY: all threads have ended.
            unsafe { rt.model_free() };
        });
    }
}

/// One that was told vanishes while a newcomer takes and frees the mutex: the next one is told. Fails if `vanish` leaves
/// `told`, or does not unlock what it got.
#[test]
fn vanish_against_a_newcomer() {
    for age in [0, PATIENCE] {
        loom::model(move || {
            set_clock(NOW);
            let (rt, mutex) = (rt(), Arc::new(Mutex::default()));
            assert!(mutex.try_lock());
            let (first, at) = enlist(rt, &mutex);
            let (second, behind) = enlist(rt, &mutex);
            set_clock(NOW + age);
            mutex.unlock(rt).unwrap();
            assert!(first.is_ready() && !second.is_ready());
            let other = mutex.clone();
            // SAFETY: it was woken.
            let gone = thread::spawn(move || other.vanish(rt, unsafe { at.get() }));
            if mutex.try_lock() {
                mutex.unlock(rt).unwrap();
            }
            gone.join().unwrap();
            assert!(second.is_ready());
            assert_eq!(mutex.is_locked(), age == PATIENCE);
            at.free();
            assert!(mutex.confirm(&mut behind.free()));
            // SAFETY: all threads have ended.
            unsafe { rt.model_free() };
        });
    }
}

/// One waits with a limit, one without, while the mutex is freed: the second has it in the end. Fails if one that was
/// told and whose time is up then does not confirm.
#[test]
fn told_against_a_limit() {
    loom::model(|| {
        set_clock(NOW);
        let (rt, all) = (rt(), Guarded::locked());
        let (a, b) = (all.clone(), all.clone());
        let hasty = thread::spawn(move || {
            if lock(rt, &a.mutex, AT_ONCE) {
                a.count();
                a.mutex.unlock(rt).unwrap();
            }
        });
        let patient = thread::spawn(move || {
            assert!(lock(rt, &b.mutex, None));
            b.count();
            b.mutex.unlock(rt).unwrap();
        });
        all.mutex.unlock(rt).unwrap();
        hasty.join().unwrap();
        patient.join().unwrap();
        assert!(!all.mutex.is_locked());
        // SAFETY: all threads have ended.
        unsafe { rt.model_free() };
    });
}

/// The only waiter steps aside and comes back while the mutex is freed: it has it. Fails if `unlock` pops one that is
/// aside, or a step aside forgets that it was told.
#[test]
fn aside_against_unlock() {
    for age in [0, PATIENCE] {
        loom::model(move || {
            set_clock(NOW);
            let (rt, mutex) = (rt(), Arc::new(Mutex::default()));
            assert!(mutex.try_lock());
            let (mut hand, at) = enlist(rt, &mutex);
            set_clock(NOW + age);
            let other = mutex.clone();
            let stepping = thread::spawn(move || {
                // SAFETY: under the mutex's lock; enlisted there.
                unsafe {
                    other.aside(at.get());
                    if !hand.expire() {
                        return other.confirm(at.get());
                    }
                    let (waker, ticket) = hand.arm();
                    if !other.enlist(rt, at.get(), waker, ticket) {
                        return true;
                    }
                    hand.park();
                }
                false
            });
            mutex.unlock(rt).unwrap();
            let mine = stepping.join().unwrap() || mutex.confirm(&mut at.free());
            assert!(mine && mutex.is_locked());
            // SAFETY: all threads have ended.
            unsafe { rt.model_free() };
        });
    }
}
