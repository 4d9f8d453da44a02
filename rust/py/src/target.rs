//! What a scope cancels: the goroutine that entered it, or the plain thread, for as long as that is inside a scope.
//!
//! A thread outside of scopes cannot be cancelled: its waits are not even armed for it. Its first scope pins a waker to
//! it (`wait::pin`): until the last scope ends, its waits use that one and can be cut through it. What the word of a
//! goroutine and the list in its `Ext` are for a goroutine (`sched/cancel.rs`), the pinned waker and the list beside it
//! are for the thread.
//!
//! Invariants:
//! - A thread's target is never freed, and is used again for another thread; nobody asks it for a cancel but scopes that
//!   are open, under their own lock (`scope.rs`), so a late one never reaches the next user.
//! - A wait takes the pin with it. A signal handler that runs inside that wait finds none: its waits are not cut by the
//!   scopes of what it interrupted, and its own scopes pin another target.
//! - `depth` is the thread's own.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use gorun_core::prim::Lock;
use gorun_core::sched::{Cancel, Cancels, StateWord, Waker};
use gorun_core::wait::{pin, pinned};

use crate::body::Owned;
use crate::errors::{Raised, Res};
use crate::goroutine;
use crate::rt::{PyG, rt};

/// A thread inside scopes.
#[repr(C)]
pub struct ThreadTarget {
    /// First: `of_waker` finds the rest by it.
    waker: Waker,
    cancels: Lock<Cancels<Owned>>,
    /// How many scopes of the thread are open.
    depth: Cell<u32>,
}

// SAFETY: `depth` is touched by the thread that has the target pinned only; the rest is atomics and a lock.
unsafe impl Sync for ThreadTarget {}

static SPARE: Lock<Vec<&'static ThreadTarget>> = Lock::new(Vec::new());

/// Whom to cancel.
#[derive(Clone, Copy)]
pub enum Target {
    /// One reference is the holder's, if it came from `enter`.
    Goroutine(PyG),
    /// Pinned to a thread.
    Thread(&'static ThreadTarget),
}

/// A number for a scope or a shield that begins: higher than all before.
pub fn next_origin() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn of_waker(w: &'static Waker) -> &'static ThreadTarget {
    // SAFETY: wakers are pinned by `enter` only, and are the first field of a repr(C) struct that is never freed.
    unsafe { &*std::ptr::from_ref(w).cast::<ThreadTarget>() }
}

impl Target {
    /// What runs here and can be cancelled: a goroutine, or a thread inside a scope.
    pub fn current() -> Option<Self> {
        match rt().current_goroutine() {
            Some((_, g)) => Some(Self::Goroutine(g)),
            None => pinned().map(|w| Self::Thread(of_waker(w))),
        }
    }

    /// What runs here, for a scope that begins; `exit` ends that.
    pub fn enter() -> Self {
        if let Some((_, g)) = rt().current_goroutine() {
            g.retain();
            return Self::Goroutine(g);
        }
        let t = pinned().map_or_else(Self::pin_new, of_waker);
        t.depth.set(t.depth.get() + 1);
        Self::Thread(t)
    }

    fn pin_new() -> &'static ThreadTarget {
        let spare = SPARE.lock().pop();
        let t: &'static ThreadTarget = spare.unwrap_or_else(|| {
            Box::leak(Box::new(ThreadTarget {
                waker: Waker::new(),
                cancels: Lock::new(Cancels::default()),
                depth: Cell::new(0),
            }))
        });
        t.waker.word.renew_running();
        pin(Some(&t.waker));
        t
    }

    /// The scope has ended, here.
    pub fn exit(self) {
        match self {
            Self::Goroutine(g) => rt().release(g),
            Self::Thread(t) => {
                t.depth.set(t.depth.get() - 1);
                if t.depth.get() == 0 {
                    pin(None);
                    let left = t.cancels.lock().take_all();
                    drop(left);
                    SPARE.lock().push(t);
                }
            }
        }
    }

    /// The scope was left elsewhere than it was entered: the thread's target stays what it is.
    pub fn abandon(self) {
        if let Self::Goroutine(g) = self {
            rt().release(g);
        }
    }

    /// True if it runs here.
    pub fn is_here(self) -> bool {
        match (self, Self::current()) {
            (Self::Goroutine(a), Some(Self::Goroutine(b))) => a == b,
            (Self::Thread(a), Some(Self::Thread(b))) => std::ptr::eq(a, b),
            _ => false,
        }
    }

    /// The list and the word, under the list's lock. Inside: no Python.
    pub fn with<R>(self, f: impl FnOnce(&mut Cancels<Owned>, &StateWord) -> R) -> R {
        match self {
            Self::Goroutine(g) => g
                .latch_or_make()
                .with(|e, _| f(&mut e.cancels, &g.waker.word)),
            Self::Thread(t) => f(&mut t.cancels.lock(), &t.waker.word),
        }
    }

    /// False for a goroutine of the process that forked.
    pub fn is_ours(self) -> bool {
        match self {
            Self::Goroutine(g) => g.epoch.load(Ordering::Relaxed) == rt().epoch(),
            Self::Thread(_) => true,
        }
    }

    /// Wakes it if the cancel cut its wait. After all locks.
    pub fn wake_if(self, said: Cancel) {
        if said == Cancel::Wake {
            let w = match self {
                Self::Goroutine(g) => &raw const g.waker,
                Self::Thread(t) => &raw const t.waker,
            };
            // SAFETY: the cancel won a parked waiter.
            unsafe { rt().wake(w) };
        }
    }
}

/// Raises the cancel whose delivery to this thread has begun.
pub fn deliver_to_thread() -> Raised {
    let what = pinned().and_then(|w| {
        let t = of_waker(w);
        t.cancels.lock().deliver(&t.waker.word)
    });
    goroutine::raise(what, 0)
}

/// Delivers a pending cancel to this thread, which runs no goroutine.
pub fn thread_cancel_point() -> Res<()> {
    if pinned().is_some_and(|w| w.word.take_cancel()) {
        return Err(deliver_to_thread());
    }
    Ok(())
}
