//! Hand-off: an M that is about to block gives its P away, and gets one back afterwards.
//!
//! Invariants:
//! - An M inside a blocking section has no P; its goroutine counts as "blocked".
//! - After the section at most `gomaxprocs` goroutines run: the M takes an idle P, or joins the list `wanting` under the
//!   same lock and waits until somebody hands a P over. Taking and giving under one lock leaves no gap between them.

use std::sync::atomic::Ordering;

use super::g::{GRef, flag};
use super::m::{M, Mode};
use crate::host::Host;
use crate::runtime::Runtime;
use crate::trace::Event;

impl<H: Host> Runtime<H> {
    /// True if one more M may block: the last free one must not, at the limit of threads.
    pub fn may_block(&'static self) -> bool {
        let blocked = self.blocked_ms.load(Ordering::Relaxed) + 1;
        if blocked < self.max_threads.load(Ordering::Relaxed) {
            return true;
        }
        let s = self.sched.lock();
        !s.idle_ms.is_empty() || blocked < s.live
    }

    /// Gives the P away before blocking. In mode Body (or without a P: then nothing is given). Attached.
    pub fn hand_off(&'static self, m: &M<H>, g: GRef<H>) {
        g.flags.fetch_or(flag::BLOCKED, Ordering::Relaxed);
        self.blocked_ms.fetch_add(1, Ordering::Relaxed);
        m.ctl.without_p.store(false, Ordering::Relaxed);
        if m.mode.get() != Mode::Body || !m.enter() {
            return;
        }
        let Some(p) = m.p.get() else { return };
        p.handoffs.add(1);
        p.note(Event::HandOff, g.id.load(Ordering::Relaxed));
        m.drop_p();
        self.pass_on(p);
    }

    /// Finds a new M for a free P if there is anything for it to do. Anybody, detached too.
    pub(crate) fn pass_on(&'static self, p: &'static super::p::P<H>) {
        let ctl = {
            let mut s = self.sched.lock();
            match self.pop_wanting(&mut s) {
                Some(w) => Some(w),
                None if p.is_empty() && self.global.is_empty() => None,
                None => self.pop_idle_m(&mut s),
            }
        };
        if let Some(c) = ctl {
            self.hand_to(c, p);
            return;
        }
        self.idle_p(p);
        // Late work, whose submitter saw no idle P; or an M that came home meanwhile. One that is starting looks itself.
        if self.has_work() {
            self.wake_one();
        }
    }

    /// Gets a P again after blocking. Attached; waits detached. Returns in mode Body.
    pub fn take_p_again(&'static self, m: &M<H>, g: GRef<H>) {
        if m.mode.get() == Mode::None {
            self.acquire_p(m);
        }
        g.flags.fetch_and(!flag::BLOCKED, Ordering::Relaxed);
        self.blocked_ms.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gets a P for an M whose goroutine goes on running. Returns in mode Body.
    pub fn acquire_p(&'static self, m: &M<H>) {
        m.ctl.without_p.store(false, Ordering::Relaxed);
        let p = {
            let mut s = self.sched.lock();
            match s.idle_ps.pop() {
                Some(id) => {
                    self.idle_ps.fetch_sub(1, Ordering::Relaxed);
                    Some(self.p(id))
                }
                None => {
                    s.wanting.push_back(m.ctl);
                    self.wanting.fetch_add(1, Ordering::Relaxed);
                    None
                }
            }
        };
        match p {
            Some(p) => {
                m.hold(p);
                self.sysmon.note_running();
            }
            None => {
                self.sysmon.kick();
                self.await_p(m);
            }
        }
        m.leave();
    }

    /// Gives the P away once and takes one again: `gosched` of a goroutine that keeps its M.
    pub fn gosched_keep_m(&'static self, m: &M<H>) {
        if m.mode.get() == Mode::None || (m.mode.get() == Mode::Body && !m.enter()) {
            self.acquire_p(m);
            return;
        }
        let Some(p) = m.p.get() else { return };
        if self.wanted() || !p.is_empty() || !self.global.is_empty() || p.shard.next() <= self.now()
        {
            let (ctl, idle) = {
                let mut s = self.sched.lock();
                let ctl = self.pop_wanting(&mut s).or_else(|| self.pop_idle_m(&mut s));
                // No M wants a P while one is idle.
                let idle = ctl.and_then(|_| s.idle_ps.pop());
                if idle.is_some() {
                    self.idle_ps.fetch_sub(1, Ordering::Relaxed);
                } else if ctl.is_some() {
                    s.wanting.push_back(m.ctl);
                    self.wanting.fetch_add(1, Ordering::Relaxed);
                }
                (ctl, idle)
            };
            // Without another M nobody could take the P: then this yield is none.
            if let Some(c) = ctl {
                m.drop_p();
                self.hand_to(c, p);
                match idle {
                    Some(id) => m.hold(self.p(id)),
                    None => self.await_p(m),
                }
            }
        }
        m.leave();
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
