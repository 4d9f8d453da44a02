//! Timers: *when* something is due, and nothing about *what* it is.
//!
//! [`wheel`] is the data structure (one [`Wheel`] per P, entered under that P's own lock), built on the chunked
//! `slab`; [`clock`] is where its time comes from. Neither knows of goroutines, threads or Python: the scheduler
//! asks a [`Clock`] for the time, hands it to [`Wheel::advance`], and readies what falls out.

pub mod clock;
mod slab;
pub mod wheel;

pub use clock::{Clock, FakeClock, MonotonicClock};
pub use wheel::{Key, TICK_SHIFT, Wheel};
