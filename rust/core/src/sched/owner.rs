//! Who holds a P (the owner word, in the P), and whether that M is inside the scheduler or inside a body (the seat, in
//! the M).
//!
//! An M goes in and out of the scheduler several times per goroutine; a P is taken away a few times a second at most. So
//! the way in costs the M no locked instruction: it writes its seat, then looks at the owner word, and whoever takes the
//! P pays for both (`prim::asym`).
//!
//! | | M: `enter` | sysmon: `retake` |
//! |---|---|---|
//! | 1 | seat := SCHED | word: HELD -> ASKED, by compare-and-swap |
//! | 2 | light fence | heavy fence |
//! | 3 | word is HELD: it is in | seat is BODY: word: ASKED -> IDLE, by compare-and-swap; else ASKED -> HELD |
//! | 4 | word is ASKED: ASKED -> HELD by compare-and-swap: it is in, or it lost | |
//!
//! The fences let at least one of the two see the other. If both do, the compare-and-swap on ASKED decides.
//!
//! Invariants:
//! - Only an M in mode Sched touches the P's queue, caches and counters.
//! - sysmon takes a P away only from mode Body: either the M gets back into the scheduler, or the P is gone. There is no
//!   third outcome, so a P never has two owners. One thread retakes (sysmon).
//! - Each acquisition has a new sequence number, in the seat too: an M that lost its P cannot mistake a later owner for
//!   itself, and its late write of SCHED says nothing about that one. That is why the seat is the M's, not the P's.

use crate::prim::asym;
use crate::prim::atomic::{AtomicU64, Ordering};

const MODE: u64 = 0b11;
const IDLE: u64 = 0;
const HELD: u64 = 1;
const ASKED: u64 = 2;
const SEQ_ONE: u64 = 1 << 2;

const SCHED: u64 = 1;
const BODY: u64 = 2;

/// Proof of one acquisition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Token(u64);

/// Where an M is, in which acquisition. Written by that M only.
pub struct Seat(AtomicU64);

impl Seat {
    /// Of an M that never held a P.
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Inside a body, under this acquisition? Pairs with the release in `leave`.
    fn in_body(&self, token: Token) -> bool {
        self.0.load(Ordering::Acquire) == token.0 | BODY
    }
}

impl Default for Seat {
    fn default() -> Self {
        Self::new()
    }
}

/// The word.
pub struct OwnerWord(AtomicU64);

impl OwnerWord {
    /// An idle P.
    pub fn new() -> Self {
        Self(AtomicU64::new(IDLE))
    }

    /// Idle to held, inside the scheduler, for the M that took the P from the idle list (or was handed it). Pairs with
    /// `release`/`retake`.
    pub fn acquire(&self, seat: &Seat) -> Token {
        let old = self.0.load(Ordering::Acquire);
        debug_assert_eq!(old & MODE, IDLE);
        let seq = (old & !MODE) + SEQ_ONE;
        seat.0.store(seq | SCHED, Ordering::Relaxed);
        self.overwrite(seq | HELD);
        Token(seq)
    }

    /// Held to idle: by the owner, inside the scheduler. Pairs with the next `acquire`. Someone who asks meanwhile sees
    /// that it is not in a body.
    pub fn release(&self, token: Token) {
        debug_assert_eq!(self.0.load(Ordering::Relaxed) & !MODE, token.0);
        self.overwrite(token.0 | IDLE);
    }

    /// A plain store will do: whoever asks only ever compares.
    fn overwrite(&self, word: u64) {
        #[cfg(not(loom))]
        self.0.store(word, Ordering::Release);
        // loom 0.7 does not keep a store out of the middle of another thread's exchange.
        #[cfg(loom)]
        self.0.swap(word, Ordering::Release);
    }

    /// The owner goes to run user code. Pairs with `retake`.
    pub fn leave(&self, token: Token, seat: &Seat) {
        debug_assert_eq!(seat.0.load(Ordering::Relaxed), token.0 | SCHED);
        seat.0.store(token.0 | BODY, Ordering::Release);
    }

    /// The owner comes back into the scheduler; false if the P was taken away meanwhile.
    #[must_use]
    pub fn enter(&self, token: Token, seat: &Seat) -> bool {
        seat.0.store(token.0 | SCHED, Ordering::Relaxed);
        // Pairs with the heavy fence in `retake`: either we see ASKED (or what came of it), or it sees SCHED.
        asym::light();
        self.0.load(Ordering::Acquire) == token.0 | HELD || self.insist(token)
    }

    #[cold]
    fn insist(&self, token: Token) -> bool {
        let (asked, held) = (token.0 | ASKED, token.0 | HELD);
        match self
            .0
            .compare_exchange(asked, held, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            // Given back by the one who asked, or gone.
            Err(now) => now == held,
        }
    }

    /// Takes the P away from the acquisition `seen`, held by the M with this seat, if that is inside a body; false if it
    /// is not, or came back first. By one thread.
    #[must_use]
    pub fn retake(&self, seen: Token, seat: &Seat) -> bool {
        let (held, asked, idle) = (seen.0 | HELD, seen.0 | ASKED, seen.0 | IDLE);
        let swap = |from, to| {
            self.0
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        if !swap(held, asked) {
            return false;
        }
        if asym::heavy() && seat.in_body(seen) {
            return swap(asked, idle);
        }
        swap(asked, held);
        false
    }

    /// The acquisition under which a body runs now, if the M with this seat holds the P and runs one.
    pub fn in_body(&self, seat: &Seat) -> Option<Token> {
        let token = Token(self.0.load(Ordering::Acquire) & !MODE);
        (!self.is_idle() && seat.in_body(token)).then_some(token)
    }

    /// True if nobody holds the P.
    pub fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) & MODE == IDLE
    }
}

impl Default for OwnerWord {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
