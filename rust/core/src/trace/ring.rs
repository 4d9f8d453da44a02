//! A lossy ring of events: one writer, any number of readers, the oldest are overwritten.
//!
//! Invariant: an entry is valid if its sequence number is the same before and after its reading and matches its place;
//! the writer makes it odd first, so a half-written entry is never taken.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::event::Event;

/// Entries per ring.
const SIZE: usize = 4096;

/// One event, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Monotonic nanoseconds.
    pub at: u64,
    /// What happened.
    pub event: Event,
    /// To which goroutine; 0 for the P itself.
    pub g: u64,
}

#[derive(Default)]
struct Slot {
    /// 2 * n + 2 once the n-th event of the ring lies here, odd while it is written.
    seq: AtomicU64,
    at: AtomicU64,
    event: AtomicU64,
    g: AtomicU64,
}

/// The ring of one P. Its memory is made by the first event.
#[derive(Default)]
pub struct Ring {
    slots: OnceLock<Box<[Slot]>>,
    next: AtomicU64,
}

impl Ring {
    /// Records an event. Executed only by the holder of the P.
    pub fn record(&self, at: u64, event: Event, g: u64) {
        let slots = self
            .slots
            .get_or_init(|| (0..SIZE).map(|_| Slot::default()).collect());
        let n = self.next.load(Ordering::Relaxed);
        let slot = &slots[n as usize % SIZE];
        slot.seq.store(2 * n + 1, Ordering::Relaxed);
        // Pairs with the fence in `read`: who sees a new field sees the odd number.
        fence(Ordering::Release);
        slot.at.store(at, Ordering::Relaxed);
        slot.event.store(event as u64, Ordering::Relaxed);
        slot.g.store(g, Ordering::Relaxed);
        slot.seq.store(2 * n + 2, Ordering::Release);
        self.next.store(n + 1, Ordering::Release);
    }

    /// What is there, oldest first. Anybody.
    pub fn read(&self) -> Vec<Entry> {
        let Some(slots) = self.slots.get() else {
            return Vec::new();
        };
        let end = self.next.load(Ordering::Acquire);
        (end.saturating_sub(SIZE as u64)..end)
            .filter_map(|n| {
                let slot = &slots[n as usize % SIZE];
                let before = slot.seq.load(Ordering::Acquire);
                let (at, event, g) = (
                    slot.at.load(Ordering::Relaxed),
                    slot.event.load(Ordering::Relaxed),
                    slot.g.load(Ordering::Relaxed),
                );
                fence(Ordering::Acquire);
                let whole = before == 2 * n + 2 && slot.seq.load(Ordering::Relaxed) == before;
                whole.then_some(()).and_then(|()| {
                    Some(Entry {
                        at,
                        event: Event::from_u8(event as u8)?,
                        g,
                    })
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation: `read` begins at 0, or does not compare the sequence number.
    #[test]
    fn keeps_the_newest_in_order() {
        let ring = Ring::default();
        let n = SIZE as u64 + 100;
        for i in 0..n {
            ring.record(i, Event::Start, i * 2);
        }
        let got = ring.read();
        assert_eq!(SIZE, got.len());
        assert_eq!(
            (100..n).collect::<Vec<_>>(),
            got.iter().map(|e| e.at).collect::<Vec<_>>()
        );
        assert!(got.iter().all(|e| e.g == e.at * 2));
    }

    /// Mutation: the writer does not make the number odd first.
    #[test]
    fn a_reader_never_takes_a_torn_entry() {
        let ring = Ring::default();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                for i in 0..200_000 {
                    ring.record(i, Event::Park, i * 3);
                }
                stop.store(true, Ordering::Relaxed);
            });
            while !stop.load(Ordering::Relaxed) {
                assert!(ring.read().iter().all(|e| e.g == e.at * 3));
            }
        });
    }
}
