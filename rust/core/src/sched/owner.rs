//! The owner word of a P: who holds it, and whether that M is inside the scheduler or inside a body.
//!
//! Invariants:
//! - Only an M in mode Sched touches the P's queue, caches and counters.
//! - sysmon takes a P away only from mode Body, by the one compare-and-swap that `enter` also uses: either the M gets
//!   back into the scheduler, or the P is gone. There is no third outcome, so a P never has two owners.
//! - Each acquisition has a new sequence number: an M that lost its P cannot mistake a later owner for itself.

use crate::prim::atomic::{AtomicU64, Ordering};

const MODE: u64 = 0b11;
const IDLE: u64 = 0;
const SCHED: u64 = 1;
const BODY: u64 = 2;
const SEQ_ONE: u64 = 1 << 2;

/// Proof of one acquisition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Token(u64);

/// The word.
pub struct OwnerWord(AtomicU64);

impl OwnerWord {
    /// An idle P.
    pub fn new() -> Self {
        Self(AtomicU64::new(IDLE))
    }

    /// Idle to Sched, for the M that took the P from the idle list (or was handed it). Pairs with `release`/`retake`.
    pub fn acquire(&self) -> Token {
        let old = self.0.load(Ordering::Acquire);
        debug_assert_eq!(old & MODE, IDLE);
        let seq = (old & !MODE) + SEQ_ONE;
        self.0.store(seq | SCHED, Ordering::Release);
        Token(seq)
    }

    /// Sched to Idle: by the owner. Pairs with the next `acquire`.
    pub fn release(&self, token: Token) {
        debug_assert_eq!(self.0.load(Ordering::Relaxed), token.0 | SCHED);
        self.0.store(token.0 | IDLE, Ordering::Release);
    }

    /// Sched to Body: the owner goes to run user code. Pairs with `enter` and `retake`.
    pub fn leave(&self, token: Token) {
        debug_assert_eq!(self.0.load(Ordering::Relaxed), token.0 | SCHED);
        self.0.store(token.0 | BODY, Ordering::Release);
    }

    /// Body to Sched: the owner comes back; false if the P was taken away meanwhile.
    #[must_use]
    pub fn enter(&self, token: Token) -> bool {
        self.0
            .compare_exchange(
                token.0 | BODY,
                token.0 | SCHED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Body to Idle: sysmon takes the P away from the acquisition `seen`; false if its M came back first.
    #[must_use]
    pub fn retake(&self, seen: Token) -> bool {
        self.0
            .compare_exchange(
                seen.0 | BODY,
                seen.0 | IDLE,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// The acquisition under which a body runs now, if one does.
    pub fn in_body(&self) -> Option<Token> {
        let w = self.0.load(Ordering::Acquire);
        (w & MODE == BODY).then_some(Token(w & !MODE))
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
