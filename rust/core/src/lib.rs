//! gorun-core: Go's scheduler, without any Python.
//!
//! Layers, imports go down only: [`runtime`] -> [`select`] -> [`chan`] -> [`mutex`] -> [`gate`] -> [`wait`] -> [`sched`] -> [`timer`] -> [`trace`] -> [`prim`]; [`ring`], between processes, stands on [`prim`] alone; [`host`] is the seam to
//! what is run. `sched/README.md` holds the protocol of parking and submitting in prose.

pub mod chan;
pub mod gate;
pub mod host;
#[cfg(any(loom, test))]
mod model;
pub mod mutex;
pub mod prim;
pub mod ring;
pub mod runtime;
pub mod sched;
pub mod select;
pub mod timer;
pub mod trace;
pub mod wait;

#[cfg(all(test, not(loom)))]
mod testing;
