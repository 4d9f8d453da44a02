//! The scheduler: goroutines (G), the rights to run (P), threads (M). README.md beside this file holds the protocol.
//!
//! Reading order: `state` (the word of a waiter), `owner` (the word of a P), `m` (the loop), `find` (where work comes
//! from), `idle` (going idle against submitting), `blocking` (hand-off), `sysmon` (the watcher), `quiet` (deadlocks).

mod blocking;
mod cancel;
mod find;
mod g;
mod idle;
mod m;
mod owner;
mod p;
mod pool;
mod probe;
mod queue;
mod quiet;
mod runq;
mod state;
mod sysmon;
mod timers;

pub use cancel::Cancels;
pub use g::{G, GRef, Kind, TimerSlot, WaitReason, Waker, flag};
pub use idle::Sched;
pub use m::{M, MCtl, Mode};
pub use owner::{OwnerWord, Seat, Token};
pub use p::P;
pub use pool::Pool;
pub use probe::{Interp, Line, Mode as ProbeMode, Probe, clock_bound_ns, proc_readable};
pub use queue::{Global, Packet};
pub use quiet::Quiet;
pub use state::{Cancel, CancelNow, Fire, Park, Phase, StateWord, Ticket, Verdict};
pub use sysmon::Sysmon;
pub use timers::{Shard, TimerRef};
