//! Who asked a waiter to stop: the cancels that no cancel point has delivered yet, each with its origin.
//!
//! Origin 0 is a cancel from outside (`Goroutine.cancel`). Every scope (a `timeout`, a `Group`'s hold on its body) takes
//! a number of its own when it begins, from one counter that only grows: a scope inside another has the higher number.
//! A Cancelled carries its origin, and a scope swallows its own only.
//!
//! # Protocol
//! The list lies under a lock (of a goroutine's latch, or of a thread's target); the word beside it (`state.rs`) says
//! whether one of the list is due. All below but the delivery's first half happens under that lock.
//!
//! | step | who | what |
//! |---|---|---|
//! | ask | anybody | enters the origin, unless it is there (a second cancel before the delivery changes nothing); if it is not held back, `StateWord::cancel`: the armed wait is cut, or the word says pending |
//! | deliver | the owner, at a cancel point | *first* takes what the word says, by one compare-and-swap (no lock); *then* takes the oldest out of the list that is not held back, and says pending again if there are more |
//! | withdraw | the owner, when the scope ends | takes its own out, if it was not delivered; if nothing due is left, takes the word's pending back |
//! | shield | the owner | takes a number as a scope does; what has a lower one is held back: cancels from outside, and scopes around the shield. Scopes inside it work. At its end what was held back is due |
//!
//! Claim: no cancel is lost, none is delivered twice, none after its scope has ended. Proof sketch: under the lock, and
//! while the owner is not between the halves of a delivery, the word says pending (or its wait was cut) exactly if the
//! list holds one that is due. Every step keeps that: `ask` enters and says so, `withdraw` and `shield` look again.
//! Between the halves the owner does nothing else, and others can only enter more: then the word says pending for them,
//! and there are at least two in the list (or the same origin, which was before the delivery). So the second half finds
//! one, and what it leaves behind has its pending. A scope takes its own out under the lock before it ends, and whoever
//! fires a scope holds the scope's lock while it asks: after the end nobody asks.
//!
//! Ends: a time-out of the wait or its success leaves the list alone (the word keeps or regains pending: `disarm`). At
//! the waiter's end what is left is dropped with its latch. After a fork the parent's goroutines are not asked any more.
//! A signal that ends a wait with another error leaves the cancel pending.

use super::state::{Cancel, Phase, StateWord};

struct Asked<R> {
    origin: u64,
    reason: Option<R>,
}

/// The undelivered cancels of one waiter. `R` is a reason: it is never dropped in here, but handed out.
pub struct Cancels<R> {
    asked: Vec<Asked<R>>,
    /// Lower origins are held back; 0: no shield.
    shield: u64,
}

impl<R> Default for Cancels<R> {
    fn default() -> Self {
        Self {
            asked: Vec::new(),
            shield: 0,
        }
    }
}

impl<R> Cancels<R> {
    /// Asks for a cancel. What the word said, and the reason if it was not kept. `Wake`: the waiter is the caller's to
    /// wake, after the lock.
    pub fn ask(&mut self, word: &StateWord, origin: u64, reason: Option<R>) -> (Cancel, Option<R>) {
        self.enter(word, origin, reason, self.asked.len())
    }

    /// As `ask`, in front of the others: for one that was delivered, and is not to be lost for something else.
    pub fn ask_again(
        &mut self,
        word: &StateWord,
        origin: u64,
        reason: Option<R>,
    ) -> (Cancel, Option<R>) {
        self.enter(word, origin, reason, 0)
    }

    fn enter(
        &mut self,
        word: &StateWord,
        origin: u64,
        reason: Option<R>,
        at: usize,
    ) -> (Cancel, Option<R>) {
        if word.phase() == Phase::Done {
            return (Cancel::Ended, reason);
        }
        if self.asked.iter().any(|a| a.origin == origin) {
            return (Cancel::Already, reason);
        }
        if origin < self.shield {
            self.asked.insert(at, Asked { origin, reason });
            return (Cancel::Set, None);
        }
        let said = word.cancel();
        if said == Cancel::Ended {
            return (said, reason);
        }
        self.asked.insert(at, Asked { origin, reason });
        // That the word knew of another one makes no difference to who asked now.
        let new = if said == Cancel::Already {
            Cancel::Set
        } else {
            said
        };
        (new, None)
    }

    /// The second half of a delivery: what to raise. None only if somebody else than the owner withdrew it.
    pub fn deliver(&mut self, word: &StateWord) -> Option<(u64, Option<R>)> {
        let first = self.asked.iter().position(|a| a.origin >= self.shield)?;
        let a = self.asked.remove(first);
        if self.is_due() {
            // The owner runs and waits for nothing: this sets pending.
            let _ = word.cancel();
        }
        Some((a.origin, a.reason))
    }

    /// Takes the cancel of a scope that ends back: its reason, if it was not delivered.
    pub fn withdraw(&mut self, word: &StateWord, origin: u64) -> Option<Option<R>> {
        let at = self.asked.iter().position(|a| a.origin == origin)?;
        let a = self.asked.remove(at);
        if !self.is_due() {
            word.uncancel();
        }
        Some(a.reason)
    }

    /// Holds back what has an origin below `mark` (0: nothing); the previous mark. By the owner.
    pub fn set_shield(&mut self, word: &StateWord, mark: u64) -> u64 {
        let before = std::mem::replace(&mut self.shield, mark);
        if self.is_due() {
            let _ = word.cancel();
        } else {
            word.uncancel();
        }
        before
    }

    /// The reason of the oldest.
    pub fn first_reason(&self) -> Option<&R> {
        self.asked.first().and_then(|a| a.reason.as_ref())
    }

    /// Takes everything out: the waiter is used for something else.
    pub fn take_all(&mut self) -> Vec<Option<R>> {
        self.shield = 0;
        self.asked.drain(..).map(|a| a.reason).collect()
    }

    fn is_due(&self) -> bool {
        self.asked.iter().any(|a| a.origin >= self.shield)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
