//! What is known about the runtime: counters and the list of goroutines. Reads only; nothing stops for it.

use std::sync::atomic::Ordering;

use gorun_core::sched::{Park, Phase, flag};
use pyo3::prelude::*;

use crate::body::Form;
use crate::rt::{PyG, rt};
use crate::site;

/// "runnable", "running", "waiting" or "blocked".
pub fn state_name(g: PyG) -> &'static str {
    let blocked = g.flags.load(Ordering::Relaxed) & flag::BLOCKED != 0;
    match g.waker.word.phase() {
        Phase::Running if !blocked && !rt().is_on_an_m(g) => "runnable",
        Phase::Running if !blocked && rt().is_blocked_unseen(g) => "blocked",
        Phase::Running if !blocked => "running",
        Phase::Parked if !blocked => "waiting",
        Phase::New | Phase::Done => "ended",
        _ => "blocked",
    }
}

/// Looks at a parked coroutine. It is taken aside meanwhile, so nobody can resume it under our eyes.
fn look_at<R>(
    py: Python<'_>,
    g: PyG,
    look: impl FnOnce(&Bound<'_, PyAny>) -> Option<R>,
) -> Option<R> {
    if g.flags.load(Ordering::Relaxed) & flag::BLOCKED != 0 || !g.waker.word.inspect() {
        return None;
    }
    let b = g.body.get();
    // SAFETY: taken aside: the body is ours until `park`.
    let place = unsafe {
        if (*b).form == Form::Coroutine && !(*b).what.is_null() {
            let c = Bound::from_borrowed_ptr(py, (*b).what);
            look(&c)
        } else {
            None
        }
    };
    if let Park::Fired(_) = g.waker.word.park() {
        // Somebody woke it meanwhile and left the queueing to us.
        rt().ready(g);
    }
    place
}

/// Where a parked coroutine stands.
fn standing(py: Python<'_>, g: PyG) -> Option<String> {
    look_at(py, g, |c| place_of(c).ok().flatten())
}

/// A frame: file, line, function.
type Place = (String, u32, String);

/// The frames of a coroutine that does not run, outermost first: as far as its awaits can be followed.
fn frames_of(coroutine: &Bound<'_, PyAny>) -> PyResult<Vec<Place>> {
    const KINDS: [(&str, &str); 3] = [
        ("cr_frame", "cr_await"),
        ("gi_frame", "gi_yieldfrom"),
        ("ag_frame", "ag_await"),
    ];
    let mut frames = Vec::new();
    let mut at = coroutine.clone();
    while let Some((frame, next)) = KINDS.into_iter().find_map(|(f, n)| {
        let frame = at.getattr(f).ok().filter(|f| !f.is_none())?;
        Some((frame, at.getattr(n).ok()))
    }) {
        let code = frame.getattr("f_code")?;
        frames.push((
            code.getattr("co_filename")?.extract()?,
            frame.getattr("f_lineno")?.extract().unwrap_or(0),
            code.getattr("co_qualname")?.extract()?,
        ));
        match next {
            Some(n) if !n.is_none() => at = n,
            _ => break,
        }
    }
    Ok(frames)
}

/// Per live goroutine: its number, the frames if it is a parked coroutine, else the thread that runs it (0: none).
#[pyfunction]
pub fn _stacks(py: Python<'_>) -> Vec<(u64, Vec<Place>, u32)> {
    let rt = rt();
    let mut rows = Vec::new();
    for g in rt.goroutines() {
        if !g.try_retain() {
            continue;
        }
        let frames = look_at(py, g, |c| frames_of(c).ok()).unwrap_or_default();
        let on = rt
            .ctls()
            .iter()
            .find(|c| c.g.load(Ordering::Relaxed) == g.as_ptr());
        let tid = on.map_or(0, |c| c.tid.load(Ordering::Relaxed));
        rows.push((g.id.load(Ordering::Relaxed), frames, tid));
        rt.release(g);
    }
    rows
}

fn place_of(coroutine: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    // The innermost coroutine of the chain of awaits.
    let mut at = coroutine.clone();
    let mut frame = at.getattr("cr_frame")?;
    while let Ok(next) = at.getattr("cr_await") {
        match next.getattr("cr_frame") {
            Ok(f) if !f.is_none() => (at, frame) = (next, f),
            _ => break,
        }
    }
    if frame.is_none() {
        return Ok(None);
    }
    let code = frame.getattr("f_code")?;
    Ok(Some(format!(
        "{}:{} in {}",
        code.getattr("co_filename")?,
        frame.getattr("f_lineno")?,
        code.getattr("co_qualname")?
    )))
}

/// One row per live goroutine: (id, name, state, reason, waiting, created_at, at, tags).
#[pyfunction]
pub fn _goroutines(py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
    let rt = rt();
    let now = rt.now();
    let mut rows = Vec::new();
    for g in rt.goroutines() {
        // A reference of ours while we look: the G may end meanwhile, but not be used again.
        if !g.try_retain() {
            continue;
        }
        let state = state_name(g);
        if state != "ended" && g.id.load(Ordering::Relaxed) != 0 {
            // Where sysmon found it blocked nobody noted why and since when.
            let waits = state == "waiting"
                || state == "blocked" && g.flags.load(Ordering::Relaxed) & flag::BLOCKED != 0;
            let since = g.since();
            let waiting = if waits {
                now.saturating_sub(since) as f64 / 1e9
            } else {
                0.0
            };
            let reason = if waits { g.waker.reason().name() } else { "" };
            let at = if state == "waiting" {
                standing(py, g)
            } else {
                None
            };
            let (name, tags) = match g.latch() {
                Some(l) => l.with(|e, _| (e.name.clone(), e.tags.clone())),
                None => (None, None),
            };
            let obj = |o: Option<crate::body::Owned>| match o {
                // SAFETY: attached; an owned object.
                Some(o) => unsafe { Bound::from_borrowed_ptr(py, o.as_ptr()).unbind() },
                None => py.None(),
            };
            // SAFETY: the site is written before the goroutine is known.
            let created = site::describe(unsafe { (*g.body.get()).site });
            let id = g.id.load(Ordering::Relaxed);
            let row = (
                id,
                obj(name),
                state,
                reason,
                waiting,
                created,
                at,
                obj(tags),
            );
            rows.push(row.into_pyobject(py)?.into_any().unbind());
        }
        rt.release(g);
    }
    Ok(rows)
}

/// The numbers behind `Stats`: a tuple of ints and floats, then one tuple per P.
#[pyfunction]
pub fn _stats(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let rt = rt();
    let (created, ended) = rt.counts();
    let (ms, idle, blocked, without) = rt.m_counts();
    let (mut n, mut sum, mut max) = (0, 0, 0);
    let mut ps = Vec::new();
    let (mut steals, mut handoffs) = (0, 0);
    // Totals over every P that ever was: those that sysmon lends, and those above a lowered gomaxprocs, count too.
    for p in rt.all_ps() {
        steals += p.steals.get();
        handoffs += p.handoffs.get();
    }
    for p in rt.ps().iter().take(rt.procs() as usize) {
        n += p.ready_n.get();
        sum += p.ready_sum.get();
        max = max.max(p.ready_max.load(Ordering::Relaxed));
        ps.push((
            p.id,
            p.len(),
            p.runs.get(),
            p.steals.get(),
            p.handoffs.get(),
            p.parks.get(),
            p.shard.len(),
        ));
    }
    let (mut runnable, mut running, mut waiting) = (0u64, 0u64, 0u64);
    for g in rt.goroutines() {
        match state_name(g) {
            "runnable" => runnable += 1,
            "running" => running += 1,
            "waiting" | "blocked" => waiting += 1,
            _ => {}
        }
    }
    let mean = if n == 0 {
        0.0
    } else {
        sum as f64 / n as f64 / 1e9
    };
    let head = (
        rt.procs(),
        created.saturating_sub(ended),
        runnable,
        running,
        waiting,
        created,
        ended,
    );
    let mid = (
        ms,
        idle,
        blocked,
        without,
        rt.global_len(),
        rt.timers(),
        handoffs,
        steals,
    );
    Ok((head, mid, mean, max as f64 / 1e9, ps)
        .into_pyobject(py)?
        .into_any()
        .unbind())
}

/// Which uses of private layout are on: (contexts, system calls of threads, immortal functions).
#[pyfunction]
pub fn _tricks() -> (bool, bool, bool) {
    (
        crate::context::is_on(),
        rt().interp().trust_syscall,
        crate::settled::is_on(),
    )
}

/// Turns the recording of events on or off; the previous setting.
#[pyfunction]
pub fn _trace(on: bool) -> bool {
    gorun_core::trace::set(on)
}

/// The events still in the rings: (nanoseconds, P, event, goroutine), by time.
#[pyfunction]
pub fn _trace_events() -> Vec<(u64, u32, &'static str, u64)> {
    let row = |p: u32| move |e: gorun_core::trace::Entry| (e.at, p, e.event.name(), e.g);
    let mut all: Vec<_> = rt()
        .all_ps()
        .flat_map(|p| p.events().into_iter().map(row(p.id)))
        .collect();
    all.sort_unstable();
    all
}

/// How many goroutines have not ended. Go's `runtime.NumGoroutine`.
///
/// >>> import gorun
/// >>> gorun.num_goroutine()
/// 0
#[pyfunction]
pub fn num_goroutine() -> u64 {
    let (created, ended) = rt().counts();
    created.saturating_sub(ended)
}

/// True on the thread of an M, also where no goroutine is current: in done callbacks and finalizers.
#[pyfunction]
pub fn _on_an_m() -> bool {
    rt().current_m().is_some()
}

/// Handles of all live goroutines, for `shutdown`.
#[pyfunction]
pub fn _live(py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
    let rt = rt();
    let mut out = Vec::new();
    for g in rt.goroutines() {
        if !g.try_retain() {
            continue;
        }
        if g.waker.word.phase() != Phase::Done && g.id.load(Ordering::Relaxed) != 0 {
            // SAFETY: attached; we have a reference.
            let h = unsafe { crate::goroutine::handle(g) };
            // SAFETY: owned, or the error is set.
            out.push(unsafe { Bound::from_owned_ptr_or_err(py, h)? }.unbind());
        }
        rt.release(g);
    }
    Ok(out)
}
