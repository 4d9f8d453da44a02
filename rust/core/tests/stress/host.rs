//! A host without Python: bodies are `Task`s, Ms are plain threads, and the interpreter lock (on "GIL builds") is a
//! mutex of our own, so that attaching takes as long here as it does there.

use std::cell::Cell;
use std::ptr::null;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};

use gorun_core::host::{Host, Outcome};
use gorun_core::runtime::Runtime;
use gorun_core::sched::{GRef, M, Park, flag};

use crate::task::{Step, Task};

/// The host of "GIL builds" (`GIL`) and of free-threaded ones.
pub struct Test<const GIL: bool>;

/// The runtime under test.
pub type Rt<const GIL: bool> = &'static Runtime<Test<GIL>>;
/// Its goroutines.
pub type Gr<const GIL: bool> = GRef<Test<GIL>>;

/// The interpreter lock.
struct Gil {
    held: Mutex<bool>,
    free: Condvar,
}

static INTERPRETER: Gil = Gil {
    held: Mutex::new(false),
    free: Condvar::new(),
};

thread_local! {
    static CURRENT: Cell<*const ()> = const { Cell::new(null()) };
}

/// Waits for the interpreter, as any thread must that calls the core.
pub fn attach<const GIL: bool>() {
    if GIL {
        let mut held = INTERPRETER.held.lock().unwrap();
        while *held {
            held = INTERPRETER.free.wait(held).unwrap();
        }
        *held = true;
    }
}

/// Gives it up.
pub fn detach<const GIL: bool>() {
    if GIL {
        *INTERPRETER.held.lock().unwrap() = false;
        INTERPRETER.free.notify_one();
    }
}

/// Runs `f` with the interpreter: for threads that are no Ms.
pub fn attached<const GIL: bool, R>(f: impl FnOnce() -> R) -> R {
    attach::<GIL>();
    let r = f();
    detach::<GIL>();
    r
}

impl<const GIL: bool> Host for Test<GIL> {
    type Body = Option<Box<Task<GIL>>>;
    type Ext = ();

    const GIL: bool = GIL;

    fn resume(rt: Rt<GIL>, m: &M<Self>, g: Gr<GIL>, cancelled: bool) -> Outcome {
        if g.flags.load(Ordering::Relaxed) & flag::TIMER != 0 {
            rt.count_begun(g);
        }
        let body = g.body.get();
        loop {
            // SAFETY: exclusive resume, which is what the test checks (`begin_step`).
            let task = unsafe { (*body).as_mut() }.expect("a body until the end");
            let stat = task.stat.clone();
            stat.begin_step();
            let step = task.step(rt, m, g, cancelled);
            stat.end_step();
            match step {
                Step::Yield => return Outcome::Yield,
                Step::Park => match g.waker.word.park() {
                    Park::Parked => return Outcome::Parked,
                    Park::Fired(_) => {}
                },
                Step::Done => {
                    // SAFETY: as above. What it holds goes before joiners see the end, as the Python layer has it.
                    drop(unsafe { (*body).take() });
                    stat.end();
                    m.set_goroutine(None);
                    rt.finish(m, g);
                    return Outcome::Done;
                }
            }
        }
    }

    fn reset(_rt: Rt<GIL>, g: Gr<GIL>) -> bool {
        assert_eq!(g.refs(), 0, "freed while somebody has a reference");
        // SAFETY: the last reference is gone.
        drop(unsafe { (*g.body.get()).take() });
        drop(g.take_latch());
        true
    }

    fn start_thread(rt: Rt<GIL>, id: u32) -> Result<(), String> {
        std::thread::Builder::new()
            .name(format!("m{id}"))
            .spawn(move || {
                attach::<GIL>();
                rt.m_main(id);
                detach::<GIL>();
            })
            .map(drop)
            .map_err(|e| e.to_string())
    }

    fn detached<R>(f: impl FnOnce() -> R) -> R {
        detach::<GIL>();
        let r = f();
        attach::<GIL>();
        r
    }

    fn current() -> *const M<Self> {
        CURRENT.get().cast()
    }

    fn set_current(m: *const M<Self>) {
        CURRENT.set(m.cast());
    }

    fn m_started(_: Rt<GIL>, _: u32) {}

    fn m_stopping(_: Rt<GIL>, _: u32) {}
}
