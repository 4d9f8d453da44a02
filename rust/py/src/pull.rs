//! Pulls the input of a map: at the speed of `list.extend`, but not longer than it may take.
//!
//! An input may turn slow at any item, so the clock is looked at after each. The coarse one costs a few nanoseconds, and
//! is right to a tick of the kernel (1-10 ms).

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::unwind;

/// Nanoseconds, in steps of a tick.
fn coarse_now() -> i64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid struct. It cannot fail: every Linux that runs Rust has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

/// Appends up to `most` items of the iterator `source` to `items`, for as long as `seconds` (and the rest of a tick).
///
/// True when the source is at its end. What it raises is raised, with the items before in `items`.
#[pyfunction]
pub fn _pull(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    items: &Bound<'_, PyList>,
    most: usize,
    seconds: f64,
) -> PyResult<bool> {
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
    let until = coarse_now().saturating_add((seconds * 1e9) as i64);
    for _ in 0..most {
        // SAFETY: attached; the caller gives an iterator.
        let item = unsafe { unwind::iter_next(source.as_ptr()) };
        // SAFETY: attached; a new reference, or null with or without an error.
        let Some(item) = (unsafe { Bound::from_owned_ptr_or_opt(py, item) }) else {
            return PyErr::take(py).map_or(Ok(true), Err);
        };
        items.append(item)?;
        if coarse_now() >= until {
            break;
        }
    }
    Ok(false)
}
