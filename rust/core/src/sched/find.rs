//! Where the next goroutine comes from.
//!
//! The order and its reasons: the global queue first on every 61st turn, so that it cannot starve; expired timers every
//! 16th turn, because reading the clock costs half a switch; `runnext`, the goroutine just made ready, whose data is
//! warm (at most `STREAK` times in a row, so that two that ready each other cannot starve the rest); the local queue;
//! the global queue; timers again; and then half of a random victim's queue.
//!
//! Ms that come back from blocking and want a P are served where the global queue is: on every 61st turn, and by whoever
//! finds nothing else (`rest`).
//!
//! Invariant: executed only by an M in mode Sched.

use std::sync::atomic::Ordering;

use super::g::GRef;
use super::m::M;
use super::p::P;
use super::queue::Packet;
use crate::host::Host;
use crate::runtime::Runtime;
use crate::trace::Event;

const GLOBAL_EVERY: u64 = 61;
const TIMERS_EVERY: u64 = 16;
const STREAK: u32 = 64;

impl<H: Host> Runtime<H> {
    /// The next goroutine to run, or None after the P was given up.
    pub(crate) fn find(&'static self, m: &M<H>) -> Option<GRef<H>> {
        let p = m.p.get()?;
        if self.stopping() || p.id >= self.limit() {
            p.drain_to(&self.global);
            self.rest(m);
            return None;
        }
        let turn = p.runs.get();
        if turn % GLOBAL_EVERY == 0 && self.wanted() && self.give_to_wanting(m) {
            return None;
        }
        let g = self.look(p, turn);
        if g.is_none() {
            self.rest(m);
        }
        g
    }

    fn look(&'static self, p: &'static P<H>, turn: u64) -> Option<GRef<H>> {
        if turn % GLOBAL_EVERY == 0
            && let Some(g) = self.take_global(p)
        {
            return Some(g);
        }
        if turn % TIMERS_EVERY == 0 {
            self.fire_own(p);
        }
        if p.streak.get() < STREAK
            && let Some(g) = p.pop_next()
        {
            p.streak.set(p.streak.get() + 1);
            return Some(g);
        }
        p.streak.set(0);
        if let Some(g) = p
            .pop()
            .or_else(|| p.pop_next())
            .or_else(|| self.take_global(p))
        {
            return Some(g);
        }
        self.fire_own(p);
        p.pop().or_else(|| self.steal(p))
    }

    /// Takes a packet of the global queue; the rest of a batch goes to the local one.
    fn take_global(&'static self, p: &'static P<H>) -> Option<GRef<H>> {
        match self.global.pop()? {
            Packet::One(g) => {
                // A few more, so that singles from outside cost one visit for several.
                for _ in 0..15 {
                    if self.global.len() <= 1 {
                        break;
                    }
                    match self.global.pop() {
                        Some(Packet::One(x)) => p.push_back(x),
                        Some(Packet::Many(batch)) => {
                            batch.into_iter().for_each(|x| p.push_back(x));
                            break;
                        }
                        None => break,
                    }
                }
                Some(g)
            }
            Packet::Many(batch) => {
                let mut it = batch.into_iter();
                let first = it.next();
                it.for_each(|g| p.push_back(g));
                first
            }
        }
    }

    fn fire_own(&'static self, p: &'static P<H>) {
        if p.shard.next() == u64::MAX {
            return;
        }
        let now = self.now();
        let mut due = Vec::new();
        p.shard.fire(now, &mut due);
        due.into_iter().for_each(|g| p.push_back(g));
    }

    /// Half of somebody's queue. Only from those that sysmon called stealable, or that nobody runs: stealing tiny
    /// tasks from a busy P costs more than it gains (and on a GIL build only one M runs anyway).
    fn steal(&'static self, p: &'static P<H>) -> Option<GRef<H>> {
        let ps = self.ps();
        let start = p.random() as usize;
        let below = (0..ps.len()).map(|i| ps[start.wrapping_add(i) % ps.len()]);
        // An M may still hold one above the limit.
        for victim in below.chain(self.all_ps().skip(ps.len())) {
            if victim.id == p.id || !self.may_steal(victim) {
                continue;
            }
            let taken = victim.steal_into(p).or_else(|| {
                let may = !victim.brisk.load(Ordering::Relaxed) || victim.owner.is_idle();
                may.then(|| victim.steal_next()).flatten()
            });
            if let Some(g) = taken {
                p.steals.add(1);
                p.note(Event::Steal, g.id.load(Ordering::Relaxed));
                return Some(g);
            }
        }
        None
    }

    /// True if there is something that another P may take from `victim`. Can be asked by anybody.
    pub(crate) fn has_spoils(&self, victim: &P<H>) -> bool {
        if victim.owner.is_idle() {
            return !victim.is_empty();
        }
        victim.stealable.load(Ordering::Relaxed) && victim.has_spoils()
    }

    /// True if another P may take from `victim`. Can be asked by anybody.
    pub(crate) fn may_steal(&self, victim: &P<H>) -> bool {
        victim.stealable.load(Ordering::Relaxed) || victim.owner.is_idle()
    }
}
