//! Is there anything left that could happen? The question behind `Deadlock`, answered without stopping anybody.
//!
//! # Protocol
//! Who asks: the main thread alone, while it is parked itself, after a slice of its wait. Nobody else pays: no counter is
//! kept on the paths of goroutines. What is parked off its M is not even looked at, so a hundred thousand such cost nothing.
//!
//! *The claim.* A goroutine runs on an M, and everything else that can wake anybody runs on some thread of this process: so
//! if every thread of the process is asleep for ever and nothing lies in a queue or a wheel, nothing can happen any more but
//! a signal (whose handlers the embedder asks about). Asleep for ever is
//!
//! | thread | when |
//! |---|---|
//! | an M without work | it is in the list `idle_ms` |
//! | an M whose goroutine waits by its thread | the goroutine's word is held by the sleeper, and the wait has no end of its own |
//! | any other thread in a wait of ours | its seat shows a waker that is held like that |
//! | sysmon | always, except while it is `at_work` |
//! | any other | never: it computes, or waits for something that we do not know |
//!
//! *The look* (`stuck`): (0) read the sum of `runs`; (1) note who is asleep, by which ticket, and the works; (2) ask the
//! kernel how many threads the process has; (3) note everything again; (4) read the sum and the queues once more. Stuck
//! is: both notes and both sums are the same, all wheels and queues were empty all three times, and the kernel counts as
//! many threads as the notes. Call the moment of (2) T.
//!
//! *Why there is no false alarm.*
//! - A thread that sleeps by a ticket in both notes slept at T: a ticket is used for one wait only. Whoever fired it before
//!   would show in the second note.
//! - At T there was no thread but the noted ones: one that is started counts from the call that makes it, one that ends
//!   counts until it is gone, and nobody who is asleep starts one. So a thread that is about to call us, that returns from
//!   us, that Python does not know, or that waits for something else makes the count too high.
//! - An idle M that left the list and came back between the notes ran a step, and the sum of `runs` differs; or it found
//!   nothing, and nothing has happened. An M that has a goroutine in hand is in no list. The sums frame the notes: else a
//!   step that began after the list of (1) was read, and ended before that of (3), would be under way at T unseen, and
//!   what it leaves in a wheel or a queue would come too late for the notes. Hence (4).
//! - What sysmon and idle Ms do beside that (firing timers, moving queues, errands that call Python) is inside `begin_work`
//!   and `end_work`: a note is not taken in between, and both notes have the same count of works begun. So nothing is in
//!   somebody's hands, out of a wheel and not in a queue yet, unseen.
//! - A timer that was armed before T is in a wheel in the second note, or has been fired: then its goroutine is in a queue,
//!   in hand, or has run. All of it shows.
//! - The main thread's own wait counts like any other: it is registered again, so what came while it was aside was seen.
//!   It calls no Python between the notes.
//! - The kernel's count is checked against its list: each thread in it must be one of the noted, by number.
//!
//! So at T nobody ran and nothing was to be run; therefore nobody will. The state is stable: it may be acted upon late.
//!
//! *Ends.* Found: the one who asks ends its own wait by a time-out (a wait for ever has no other) and reports; then it cuts
//! the other threads (`cut_found`), by the tickets of the notes. A ticket that lost was woken by what the report did: that
//! thread goes on. Fork: seats and counters are the runtime's, the child has fresh ones. Exit: nobody asks.
//!
//! # Invariants
//! - A thread has one seat, and shows one wait there: the innermost. What is inside another wait runs aside of it, or inside
//!   `begin_work`. So no thread is noted twice (the numbers are compared all the same).
//! - Too careful is right, too bold is not: what cannot be read counts as awake.

use std::cell::RefCell;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

use super::g::{GRef, Waker};
use super::state::{Fire, Ticket, Verdict};
use crate::host::Host;
use crate::prim::Lock;
use crate::runtime::Runtime;

/// Where a thread shows what it waits for.
struct Seat {
    tid: u32,
    waker: AtomicPtr<Waker>,
}

thread_local! {
    /// The seat, and the epoch of the runtime that knows it.
    static SEAT: RefCell<Option<(u32, Arc<Seat>)>> = const { RefCell::new(None) };
}

/// Fewest seats before those of ended threads are swept out.
const SWEEP: usize = 64;

#[derive(Default)]
struct Seats {
    all: Vec<Arc<Seat>>,
    sweep_at: usize,
}

/// A thread's wait that was found to be for ever.
struct Found {
    waker: *const Waker,
    ticket: Ticket,
}

// SAFETY: wakers of threads are never unmapped; a late ticket loses.
unsafe impl Send for Found {}

/// The runtime's part.
#[derive(Default)]
pub struct Quiet {
    seats: Lock<Seats>,
    begun: AtomicU64,
    ended: AtomicU64,
    found: Lock<Vec<Found>>,
}

/// One who is asleep for ever.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Sleeper {
    tid: u32,
    /// Of a wait; null for an idle M and sysmon.
    waker: *const Waker,
    ticket: Option<Ticket>,
    /// It is a thread that can be cut.
    cut: bool,
}

#[derive(PartialEq, Eq)]
struct Note {
    asleep: Vec<Sleeper>,
    begun: u64,
}

impl Note {
    /// Nobody is noted twice, nor two for one wait: an M that has just let go of a goroutine may still name it, while
    /// another one waits with it.
    fn is_sane(&self) -> bool {
        let mut wakers: Vec<_> = self.asleep.iter().map(|s| s.waker).collect();
        wakers.retain(|w| !w.is_null());
        wakers.sort_unstable();
        self.asleep.windows(2).all(|s| s[0].tid != s[1].tid)
            && wakers.windows(2).all(|w| w[0] != w[1])
    }
}

impl Quiet {
    /// This thread waits by `w` from now on: what it showed before, for `rise`.
    pub(crate) fn sit(&self, epoch: u32, w: &Waker) -> *mut Waker {
        if cfg!(loom) {
            // Nobody looks in a model, whose threads share the storage of one.
            return null_mut();
        }
        let w = std::ptr::from_ref(w).cast_mut();
        let sat = SEAT.try_with(|seat| {
            let mut seat = seat.borrow_mut();
            if seat.as_ref().is_none_or(|s| s.0 != epoch) {
                let new = Arc::new(Seat {
                    tid: super::m::gettid(),
                    waker: AtomicPtr::new(null_mut()),
                });
                self.seats.lock().add(new.clone());
                *seat = Some((epoch, new));
            }
            // Released: who finds the waker here finds it as it is now.
            seat.as_ref()
                .map_or(null_mut(), |s| s.1.waker.swap(w, Ordering::Release))
        });
        // Past its end of storage a thread has no seat: it counts as awake.
        sat.unwrap_or(null_mut())
    }

    /// The wait is over.
    pub(crate) fn rise(&self, before: *mut Waker) {
        let _ = SEAT.try_with(|seat| {
            if let Some(s) = &*seat.borrow() {
                s.1.waker.store(before, Ordering::Release);
            }
        });
    }

    /// Lets every thread that waits look up once.
    pub(crate) fn rouse(&self) {
        for seat in &self.seats.lock().all {
            // SAFETY: wakers of threads are never unmapped.
            if let Some(w) = unsafe { seat.waker.load(Ordering::Acquire).as_ref() } {
                w.rouse();
            }
        }
    }
}

impl Seats {
    fn add(&mut self, seat: Arc<Seat>) {
        if self.all.len() >= self.sweep_at.max(SWEEP) {
            self.all.retain(|s| Arc::strong_count(s) > 1);
            self.sweep_at = 2 * self.all.len();
        }
        self.all.push(seat);
    }
}

impl<H: Host> Runtime<H> {
    /// One who counts as asleep (sysmon, an idle M, a thread inside a wait) does something all the same.
    pub fn begin_work(&self) {
        self.quiet.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// It has done it.
    pub fn end_work(&self) {
        self.quiet.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// A cheap look: false if something is going on for sure.
    pub fn seems_quiet(&self) -> bool {
        self.idle_ps.load(Ordering::Relaxed) >= self.limit() && self.nothing_to_do()
    }

    fn nothing_to_do(&self) -> bool {
        self.next_timer() == u64::MAX
            && self.global.is_empty()
            && self.all_ps().all(|p| p.is_empty())
    }

    fn all_runs(&self) -> u64 {
        self.all_ps().map(|p| p.runs.get()).sum()
    }

    /// None if somebody is awake, or something is to be done. `listed` is called when the idle Ms have been noted.
    fn note(&self, listed: impl FnOnce()) -> Option<Note> {
        // In this order: see the file head. What is at work ends before it is noted as ended.
        let ended = self.quiet.ended.load(Ordering::SeqCst);
        let begun = self.quiet.begun.load(Ordering::SeqCst);
        if begun != ended || !self.nothing_to_do() {
            return None;
        }
        let plain = |tid| Sleeper {
            tid,
            waker: std::ptr::null(),
            ticket: None,
            cut: false,
        };
        let mut asleep: Vec<Sleeper> = Vec::new();
        {
            let s = self.sched.lock();
            if s.starting > 0 || !s.wanting.is_empty() {
                return None;
            }
            asleep.extend(
                s.idle_ms
                    .iter()
                    .map(|c| plain(c.tid.load(Ordering::Relaxed))),
            );
        }
        listed();
        for c in self.ctls() {
            let g = c.g.load(Ordering::Acquire);
            if g.is_null() {
                continue;
            }
            // SAFETY: a G, which is never unmapped.
            let g = unsafe { GRef::from_ptr(g) };
            asleep.push(Sleeper {
                tid: c.tid.load(Ordering::Relaxed),
                waker: &raw const g.waker,
                ticket: Some(g.waker.held_for_ever()?),
                cut: false,
            });
        }
        for seat in &self.quiet.seats.lock().all {
            // SAFETY: wakers of threads are never unmapped.
            if let Some(w) = unsafe { seat.waker.load(Ordering::Acquire).as_ref() } {
                asleep.push(Sleeper {
                    tid: seat.tid,
                    waker: w,
                    ticket: Some(w.held_for_ever()?),
                    cut: true,
                });
            }
        }
        asleep.extend(self.sysmon.tid().map(plain));
        asleep.sort_unstable();
        Some(Note { asleep, begun })
    }

    /// True if nothing can happen any more: see the file head. By a thread that is parked with no end of its wait.
    pub(crate) fn stuck(&self) -> bool {
        self.stuck_if(|| ())
    }

    /// `stuck`, with a place for tests: what happens in the middle of each note.
    fn stuck_if(&self, mut meanwhile: impl FnMut()) -> bool {
        let runs = self.all_runs();
        // The sum is read before everything else.
        fence(Ordering::Acquire);
        let Some(note) = self.note(&mut meanwhile) else {
            return false;
        };
        if threads() != Some(note.asleep.len()) || self.note(meanwhile).as_ref() != Some(&note) {
            return false;
        }
        // After the lists of idle Ms: what they ran and left behind before they came into one is seen.
        if self.all_runs() != runs || !self.nothing_to_do() {
            return false;
        }
        let known = |tid| note.asleep.binary_search_by_key(&tid, |s| s.tid).is_ok();
        if !note.is_sane() || !all_threads(known) {
            return false;
        }
        let found = note.asleep.into_iter().filter(|s| s.cut);
        *self.quiet.found.lock() = found
            .filter_map(|s| {
                Some(Found {
                    waker: s.waker,
                    ticket: s.ticket?,
                })
            })
            .collect();
        true
    }

    /// Ends the waits of the threads that were found by the last `stuck`, as `End::Deadlock`.
    pub fn cut_found(&'static self) {
        let found = std::mem::take(&mut *self.quiet.found.lock());
        for f in found {
            // SAFETY: as in `note`.
            unsafe {
                if (*f.waker).word.fire(f.ticket, Verdict::Timeout) == Fire::Wake {
                    self.wake(f.waker);
                }
            }
        }
    }

    /// The numbers and reasons of the threads that were found by the last `stuck`.
    pub fn found(&self) -> Vec<(u32, &'static str)> {
        let seats = self.quiet.seats.lock();
        let waits = |w: &Waker| (!w.reason().name().is_empty()).then(|| w.reason().name());
        let row = |s: &Arc<Seat>| {
            // SAFETY: as in `note`.
            let w = unsafe { s.waker.load(Ordering::Acquire).as_ref() }?;
            Some((s.tid, waits(w)?))
        };
        seats.all.iter().filter_map(row).collect()
    }
}

/// Where the kernel lists the threads of this process.
const TASKS: &str = "/proc/self/task";

/// How many threads this process has, at one moment.
fn threads() -> Option<usize> {
    use std::os::unix::fs::MetadataExt;
    // A folder for each, and the two of the folder itself.
    usize::try_from(std::fs::metadata(TASKS).ok()?.nlink().checked_sub(2)?).ok()
}

/// True if `known` says so of each thread of this process.
fn all_threads(known: impl Fn(u32) -> bool) -> bool {
    let Ok(mut tasks) = std::fs::read_dir(TASKS) else {
        return false;
    };
    tasks.all(|t| {
        let tid = t.ok().and_then(|t| t.file_name().to_str()?.parse().ok());
        tid.is_some_and(&known)
    })
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests;
