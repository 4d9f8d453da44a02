//! The whole runtime under random load: goroutines that spawn, yield, park, block, cancel, inspect and end in any
//! order, driven from inside and from outside, while gomaxprocs changes and the runtime stops and starts again.
//!
//! Checked: a body is in one thread's hands at a time; each goroutine runs to its end, once; a wait ends by what it
//! waited for, by its limit, or by a cancel that somebody asked for; none is lost (a watchdog); what ended is free.
//!
//! `GORUN_TEST_SEED=n` replays the choices of a run (not the interleaving), `GORUN_STRESS=seconds` makes it long.

#[path = "stress/host.rs"]
mod host;
#[path = "stress/task.rs"]
mod task;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gorun_core::runtime::Runtime;
use gorun_core::sched::Interp;

use host::{Rt, Test, attached};
use task::{Rng, World, dump};

/// No progress for so long is a hang, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn seed() -> u64 {
    match std::env::var("GORUN_TEST_SEED") {
        Ok(s) => s.parse().expect("GORUN_TEST_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    }
}

fn length() -> Duration {
    match std::env::var("GORUN_STRESS") {
        Ok(s) => Duration::from_secs(s.parse().expect("GORUN_STRESS is a number of seconds")),
        Err(_) => Duration::from_secs(4),
    }
}

fn hang<const GIL: bool>(rt: Rt<GIL>, what: &str, seed: u64) -> ! {
    eprintln!("{what}; GORUN_TEST_SEED={seed}\n{}", dump(rt));
    std::process::abort()
}

/// A thread that is no M and meddles from outside.
fn outsider<const GIL: bool>(w: &Arc<World<GIL>>, mut rng: Rng, until: &AtomicBool) {
    let rt = w.rt;
    while !until.load(Ordering::Relaxed) {
        attached::<GIL, _>(|| match rng.below(12) {
            0..=2 => {
                if let Some(h) = w.go(rng.next()) {
                    w.keep(&mut rng, h);
                }
            }
            3 => {
                let mut tasks: Vec<_> = (0..rng.below(200))
                    .filter_map(|_| w.task(rng.next()))
                    .collect();
                let n = tasks.len();
                // SAFETY: a vacant G's body.
                let fill = |_, g: &host::Gr<GIL>| unsafe { *g.body.get() = tasks.pop() };
                for g in rt.go_batch(n, fill) {
                    rt.release(g);
                }
            }
            4 | 5 => {
                if let Some(h) = w.pick(&mut rng) {
                    h.cancel();
                }
            }
            6 => w.close(&mut rng),
            7 => {
                if let Some(h) = w.pick(&mut rng) {
                    let limit = rng.moment();
                    h.join(Some(limit));
                }
            }
            8 => w.inspect(&mut rng),
            9 => {
                let n = 1 + rng.below(4) as u32;
                rt.set_procs(n);
            }
            10 => drop(w.disarm()),
            _ => {
                assert!(rt.counts().0 >= rt.counts().1);
                let _ = rt.m_counts();
            }
        });
        let d = rng.moment();
        std::thread::sleep(d / 4);
    }
}

fn round<const GIL: bool>(rt: Rt<GIL>, seed: u64) {
    let mut rng = Rng::new(seed);
    assert!(attached::<GIL, _>(|| rt.ensure_started()), "no thread");
    let w = Arc::new(World {
        rt,
        latches: Mutex::new((0..4).map(|_| Arc::default()).collect()),
        known: Mutex::default(),
        timers: Mutex::default(),
        made: AtomicU64::new(0),
        gone: AtomicU64::new(0),
        most: 200 + rng.below(2000),
    });
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            let rng = Rng::new(rng.next());
            s.spawn(|| outsider(&w, rng, &over));
        }
        std::thread::sleep(Duration::from_millis(20 + rng.below(100)));
        over.store(true, Ordering::Relaxed);
    });
    // The end: nobody waits for ever any more.
    let mut last = (0, Instant::now());
    loop {
        attached::<GIL, _>(|| {
            w.close_all();
            let known = std::mem::take(&mut *w.known.lock().unwrap());
            drop(known);
            let timers = std::mem::take(&mut *w.timers.lock().unwrap());
            drop(timers);
        });
        let gone = w.gone.load(Ordering::Acquire);
        if gone == w.made.load(Ordering::Relaxed) {
            break;
        }
        if gone > last.0 {
            last = (gone, Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            hang(
                rt,
                &format!("{gone} of {:?} goroutines ended", w.made),
                seed,
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // The last ones may be between their end and the loop.
    let start = Instant::now();
    while !rt.goroutines().is_empty() || rt.counts().0 != rt.counts().1 {
        if start.elapsed() > PATIENCE {
            hang(rt, "goroutines remain", seed);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    if rng.below(4) == 0 && !attached::<GIL, _>(|| rt.stop(PATIENCE.as_secs_f64(), false)) {
        hang(rt, "it does not stop", seed);
    }
}

fn stress<const GIL: bool>() {
    let first = seed();
    let end = Instant::now() + length();
    let rt = Runtime::<Test<GIL>>::leak(2, 4096);
    rt.set_interp(Interp {
        gil: GIL,
        trust_syscall: true,
        ..Interp::default()
    });
    let mut n = 0;
    while Instant::now() < end {
        let seed = first.wrapping_add(n);
        // A panic on an M must not leave the others waiting.
        std::panic::set_hook(Box::new(move |p| {
            eprintln!(
                "{p}\nGORUN_TEST_SEED={seed}\n{}",
                std::backtrace::Backtrace::force_capture()
            );
            std::process::abort();
        }));
        round(rt, seed);
        n += 1;
    }
    if std::env::var_os("GORUN_STRESS").is_some() {
        let sum = |f: fn(&gorun_core::sched::P<Test<GIL>>) -> u64| {
            rt.ps().iter().map(|p| f(p)).sum::<u64>()
        };
        eprintln!(
            "{n} rounds, {:?} goroutines, {} Ms, {} runs, {} steals, {} hand-offs, {} parks",
            rt.counts(),
            rt.ctls().len(),
            sum(|p| p.runs.get()),
            sum(|p| p.steals.get()),
            sum(|p| p.handoffs.get()),
            sum(|p| p.parks.get())
        );
    }
    assert!(n > 0);
    assert!(attached::<GIL, _>(|| rt.stop(PATIENCE.as_secs_f64(), false)));
}

/// One interpreter lock, one M runs at a time.
#[test]
fn stress_with_a_gil() {
    stress::<true>();
}

/// Ms run at the same time.
#[test]
fn stress_free_threaded() {
    stress::<false>();
}
