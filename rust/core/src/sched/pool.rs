//! Memory of goroutines: slabs that are never freed, so that a G's memory stays a G for ever (type-stable).
//!
//! Invariants:
//! - Each Gs is either in use or in exactly one free list (the shared one, or the cache of one P).
//! - Slabs are kept when Gs end: the peak number of goroutines decides the memory (about 150 bytes each). That is the
//!   price of wakers that need no reference count.

use super::Phase;
use super::g::{G, GRef, flag};
use crate::host::Host;
use crate::prim::Lock;
use std::sync::atomic::Ordering;

/// How many Gs a slab holds, and how many move between a P's cache and the shared list at once.
pub const BATCH: usize = if cfg!(loom) { 2 } else { 128 };

struct Shared<H: Host> {
    free: Vec<GRef<H>>,
    slabs: Vec<&'static [G<H>]>,
}

/// The pool of one runtime.
pub struct Pool<H: Host> {
    shared: Lock<Shared<H>>,
}

impl<H: Host> Pool<H> {
    /// An empty pool.
    pub fn new() -> Self {
        Self {
            shared: Lock::new(Shared {
                free: Vec::new(),
                slabs: Vec::new(),
            }),
        }
    }

    /// One vacant G. Anybody.
    pub fn take(&self) -> GRef<H> {
        let mut s = self.shared.lock();
        if s.free.is_empty() {
            Self::grow(&mut s);
        }
        s.free.pop().expect("grow filled the list")
    }

    /// Fills `cache` with a batch. Executed only by the owner of the cache.
    pub fn refill(&self, cache: &mut Vec<GRef<H>>) {
        let mut s = self.shared.lock();
        if s.free.len() < BATCH {
            Self::grow(&mut s);
        }
        let at = s.free.len() - BATCH;
        cache.extend(s.free.drain(at..));
    }

    /// Takes a batch back from `cache`. Executed only by the owner of the cache.
    pub fn spill(&self, cache: &mut Vec<GRef<H>>) {
        let at = cache.len().saturating_sub(BATCH);
        self.shared.lock().free.extend(cache.drain(at..));
    }

    /// One vacant G back. Anybody.
    pub fn give(&self, g: GRef<H>) {
        self.shared.lock().free.push(g);
    }

    fn grow(s: &mut Shared<H>) {
        let slab: Box<[G<H>]> = (0..BATCH).map(|_| G::vacant()).collect();
        let slab: &'static [G<H>] = Box::leak(slab);
        s.slabs.push(slab);
        // Reversed, so that the lowest address is handed out first: neighbours in time are neighbours in memory.
        // SAFETY: each element lives for ever and is a G of this H.
        s.free
            .extend(slab.iter().rev().map(|g| unsafe { GRef::from_ptr(g) }));
    }

    /// Frees the slabs.
    ///
    /// # Safety
    /// Nobody uses a G of this pool afterwards.
    #[cfg(loom)]
    pub unsafe fn model_free(&self) {
        for slab in std::mem::take(&mut self.shared.lock().slabs) {
            // SAFETY: came from Box::leak, once.
            drop(unsafe { Box::from_raw(std::ptr::from_ref(slab).cast_mut()) });
        }
    }

    /// The goroutines of users that are in such a phase.
    pub fn in_phase(&self, wanted: impl Fn(Phase) -> bool) -> Vec<GRef<H>> {
        let mut all = self.all();
        all.retain(|g| {
            let hidden = g.flags.load(Ordering::Relaxed) & (flag::INTERNAL | flag::TIMER) != 0;
            !hidden && g.id.load(Ordering::Relaxed) != 0 && wanted(g.waker.word.phase())
        });
        all
    }

    /// Every G there is memory for, in use or not.
    pub fn all(&self) -> Vec<GRef<H>> {
        let slabs = self.shared.lock().slabs.clone();
        // SAFETY: as in `grow`.
        slabs
            .iter()
            .flat_map(|s| s.iter())
            .map(|g| unsafe { GRef::from_ptr(g) })
            .collect()
    }
}

impl<H: Host> Default for Pool<H> {
    fn default() -> Self {
        Self::new()
    }
}
