//! Doors for the loom models (`tests/loom_*.rs`) and the unit tests into what the crate keeps to itself. Built for them
//! only.
//!
//! Nothing here decides anything: each door calls the one function that it is named after.

use std::cell::Cell;

use crate::host::Host;
use crate::prim::atomic::Ordering;
use crate::runtime::Runtime;
use crate::sched::{GRef, M, Mode, P, Packet, Token};

impl<H: Host> Runtime<H> {
    /// An M, without a thread of its own: that of the caller.
    pub fn model_m(&'static self) -> M<H> {
        let id = self.new_ctl();
        self.sched.lock().live += 1;
        M {
            ctl: self.m_ctl(id),
            rt: self,
            p: Cell::new(None),
            token: Cell::new(Token::default()),
            mode: Cell::new(Mode::None),
            g: Cell::new(None),
        }
    }

    /// A G in phase Running, with `refs` references.
    pub fn model_g(&'static self, refs: u32) -> GRef<H> {
        let g = self.pool.take();
        g.set_refs(refs);
        g.waker.word.renew_running();
        g
    }

    /// `find`.
    pub fn model_find(&'static self, m: &M<H>) -> Option<GRef<H>> {
        self.find(m)
    }

    /// Puts an M into the idle list, as `idle` does.
    pub fn model_list(&'static self, m: &M<H>) {
        self.sched.lock().idle_ms.push(m.ctl);
        self.idle_ms.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts an M into the list `wanting`, as `acquire_p` does.
    pub fn model_want(&'static self, m: &M<H>) {
        self.sched.lock().wanting.push_back(m.ctl);
        self.wanting.fetch_add(1, Ordering::Relaxed);
    }

    /// `idle`.
    pub fn model_idle(&'static self, m: &M<H>) -> bool {
        self.idle(m)
    }

    /// `rest`.
    pub fn model_rest(&'static self, m: &M<H>) {
        self.rest(m);
    }

    /// `pass_on`.
    pub fn model_pass_on(&'static self, p: &'static P<H>) {
        self.pass_on(p);
    }

    /// `fire_all_due`.
    pub fn model_fire_all_due(&'static self) {
        self.fire_all_due();
    }

    /// The deep sleep of sysmon.
    pub fn model_sleep_deep(&self) {
        self.sleep_deep();
    }

    /// A push from outside.
    pub fn model_submit(&'static self, g: GRef<H>) {
        self.submit(Packet::One(g));
    }

    /// What `stop` does before it waits.
    pub fn model_stop(&'static self) {
        self.set_stopping();
        let s = self.sched.lock();
        for c in s.idle_ms.iter().chain(&s.wanting) {
            c.parker.unpark();
        }
    }

    /// How many Ps are idle and how many Ms are, by list and by counter.
    pub fn model_idle_counts(&self) -> [usize; 4] {
        let s = self.sched.lock();
        [
            s.idle_ps.len(),
            self.idle_ps.load(Ordering::Relaxed) as usize,
            s.idle_ms.len(),
            self.idle_ms.load(Ordering::Relaxed) as usize,
        ]
    }

    /// Frees the runtime: a model runs a hundred thousand times.
    ///
    /// # Safety
    /// Nobody uses it, its Ps or its Gs afterwards.
    #[cfg(loom)]
    pub unsafe fn model_free(&'static self) {
        // SAFETY: all came from Box::leak, once each; by the caller's promise nobody looks again.
        unsafe {
            for p in self.all_ps() {
                drop(Box::from_raw(std::ptr::from_ref(p).cast_mut()));
            }
            for c in self.ctls() {
                drop(Box::from_raw(std::ptr::from_ref(*c).cast_mut()));
            }
            self.pool.model_free();
            drop(Box::from_raw(std::ptr::from_ref(self).cast_mut()));
        }
    }
}

impl<H: Host> M<H> {
    /// `hold`, of a P that is in no list.
    pub fn model_hold(&self, p: &'static P<H>) {
        self.hold(p);
    }

    /// `enter`.
    pub fn model_enter(&self) -> bool {
        self.enter()
    }

    /// `leave`.
    pub fn model_leave(&self) {
        self.leave();
    }

    /// The P it holds.
    pub fn model_p(&self) -> Option<&'static P<H>> {
        self.p.get()
    }
}
