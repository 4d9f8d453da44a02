//! What a loom model runs in the place of the kernel's futex and of the crossbeam queue, which loom cannot look into.
//!
//! Both promise no more than the real ones: the queue's `is_empty` synchronises with nothing, so the protocols must
//! stand on their own fences. Time does not pass in a model: a limit of up to an hour is over at once, a longer one
//! never.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};

use super::atomic::{AtomicU32, AtomicUsize, Ordering};
use super::{Lock, Wake};

loom::lazy_static! {
    /// Who sleeps on which address.
    static ref SLEEPERS: Mutex<HashMap<usize, Arc<Condvar>>> = Mutex::new(HashMap::new());
}

/// See `prim::futex_wait`.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wake {
    if timeout.is_some_and(|t| t < Duration::from_secs(3600)) {
        return Wake::TimedOut;
    }
    let mut all = SLEEPERS.lock().expect("no panic under it");
    if word.load(Ordering::Relaxed) == expected {
        let sleeper = all.entry(std::ptr::from_ref(word) as usize).or_default();
        let sleeper = sleeper.clone();
        drop(sleeper.wait(all));
    }
    Wake::Woken
}

/// See `prim::futex_wake`.
pub fn futex_wake(word: &AtomicU32, _n: u32) {
    let all = SLEEPERS.lock().expect("no panic under it");
    if let Some(sleeper) = all.get(&(std::ptr::from_ref(word) as usize)) {
        sleeper.notify_all();
    }
}

/// See `crossbeam_queue::SegQueue`.
pub struct SegQueue<T> {
    items: Lock<VecDeque<T>>,
    len: AtomicUsize,
}

impl<T> SegQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            items: Lock::new(VecDeque::new()),
            len: AtomicUsize::new(0),
        }
    }

    /// Appends `x`.
    pub fn push(&self, x: T) {
        let mut items = self.items.lock();
        items.push_back(x);
        self.len.store(items.len(), Ordering::Relaxed);
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<T> {
        let mut items = self.items.lock();
        let x = items.pop_front();
        if x.is_some() {
            self.len.store(items.len(), Ordering::Relaxed);
        }
        x
    }

    /// True if a pop would find nothing now.
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }
}
