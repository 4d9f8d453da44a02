//! Facts, sideways: what happened when, per P, in lossy rings. Off by default.
//!
//! Invariants: the scheduler writes and never reads; a ring has one writer at a time (the holder of the P); readers may
//! meet a half-written entry and drop it by its sequence number. Off, an event costs one relaxed load.

mod event;
mod ring;

pub use event::Event;
pub use ring::{Entry, Ring};

use std::sync::atomic::{AtomicBool, Ordering};

static ON: AtomicBool = AtomicBool::new(false);

/// Turns recording on or off; the previous setting. Relaxed: events of the moment of the switch may be missed.
pub fn set(on: bool) -> bool {
    ON.swap(on, Ordering::Relaxed)
}

/// True while events are recorded.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}
