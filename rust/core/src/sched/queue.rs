//! The global run queue: packets of one goroutine or of a batch, lock-free, in order of submission.
//!
//! Invariants:
//! - A packet owns the place of its goroutines in "exactly one queue".
//! - Anybody may push and pop. A push from outside is followed by the submitter's fence (see README.md, Submitting).

use std::sync::atomic::{AtomicUsize, Ordering};

use super::g::GRef;
use crate::host::Host;
use crate::prim::queue::SegQueue;

/// How many goroutines travel in a batch: half of a local queue.
pub const BATCH: usize = 128;

/// One entry of the global queue.
pub enum Packet<H: Host> {
    /// A single goroutine.
    One(GRef<H>),
    /// Up to `BATCH` of them, oldest first.
    Many(Box<Vec<GRef<H>>>),
}

/// The global queue.
pub struct Global<H: Host> {
    q: SegQueue<Packet<H>>,
    /// Goroutines in it, roughly: for stats and policy only, nothing is decided by it that must not be wrong.
    len: AtomicUsize,
}

impl<H: Host> Global<H> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            q: SegQueue::new(),
            len: AtomicUsize::new(0),
        }
    }

    /// Appends a packet.
    pub fn push(&self, p: Packet<H>) {
        let n = match &p {
            Packet::One(_) => 1,
            Packet::Many(v) => v.len(),
        };
        self.len.fetch_add(n, Ordering::Relaxed);
        self.q.push(p);
    }

    /// Takes the oldest packet.
    pub fn pop(&self) -> Option<Packet<H>> {
        let p = self.q.pop()?;
        let n = match &p {
            Packet::One(_) => 1,
            Packet::Many(v) => v.len(),
        };
        self.len.fetch_sub(n, Ordering::Relaxed);
        Some(p)
    }

    /// True if a pop would find nothing now.
    pub fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    /// How many goroutines wait here, roughly.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}

impl<H: Host> Default for Global<H> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
