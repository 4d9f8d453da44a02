//! What channels and selects must do, in the plainest words: no locks, no pointers, no waiters that are late. Waiters
//! are numbers; a plain send or receive is a select of one case.

use std::collections::VecDeque;

use crate::chan::{Blocked, Fate, Side};

/// A registered case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub who: usize,
    pub case: usize,
    /// What a sender sends.
    pub value: u64,
    pub aside: bool,
}

/// A waiter's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    pub who: usize,
    pub case: usize,
    pub fate: Fate,
    /// What it received, or what it keeps because it was not sent.
    pub value: Option<u64>,
}

/// One channel.
#[derive(Default)]
pub struct Chan {
    pub capacity: usize,
    pub buf: VecDeque<u64>,
    pub closed: bool,
    pub receivers: Vec<Entry>,
    pub senders: Vec<Entry>,
}

/// Several, and who was woken.
#[derive(Default)]
pub struct Chans {
    pub all: Vec<Chan>,
    pub told: Vec<Told>,
}

impl Chans {
    /// Of these capacities.
    pub fn new(capacities: impl IntoIterator<Item = usize>) -> Self {
        let one = |capacity| Chan {
            capacity,
            ..Chan::default()
        };
        Self {
            all: capacities.into_iter().map(one).collect(),
            told: Vec::new(),
        }
    }

    fn list(&mut self, c: usize, side: Side) -> &mut Vec<Entry> {
        match side {
            Side::Send => &mut self.all[c].senders,
            Side::Recv => &mut self.all[c].receivers,
        }
    }

    /// Its wait is over.
    pub fn forget(&mut self, who: usize) {
        for c in &mut self.all {
            c.receivers.retain(|e| e.who != who);
            c.senders.retain(|e| e.who != who);
        }
    }

    /// Takes the oldest that is not aside; it waits nowhere any more.
    fn claim(&mut self, c: usize, side: Side) -> Option<Entry> {
        let e = *self.list(c, side).iter().find(|e| !e.aside)?;
        self.forget(e.who);
        Some(e)
    }

    /// In its old place, or last.
    pub fn register(&mut self, c: usize, side: Side, e: Entry) {
        let list = self.list(c, side);
        match list.iter_mut().find(|o| (o.who, o.case) == (e.who, e.case)) {
            Some(old) => *old = e,
            None => list.push(e),
        }
    }

    pub fn aside(&mut self, who: usize) {
        for c in &mut self.all {
            for e in c.receivers.iter_mut().chain(&mut c.senders) {
                e.aside |= e.who == who;
            }
        }
    }

    pub fn send(&mut self, c: usize, value: u64) -> Result<(), Blocked> {
        if self.all[c].closed {
            return Err(Blocked::Closed);
        }
        if self.deliver(c, value) {
            return Ok(());
        }
        let ch = &mut self.all[c];
        if ch.buf.len() >= ch.capacity {
            return Err(Blocked::Wait);
        }
        ch.buf.push_back(value);
        Ok(())
    }

    fn deliver(&mut self, c: usize, value: u64) -> bool {
        let Some(e) = self.claim(c, Side::Recv) else {
            return false;
        };
        self.told.push(Told {
            who: e.who,
            case: e.case,
            fate: Fate::Done,
            value: Some(value),
        });
        true
    }

    /// Once closed, nothing is sent any more.
    fn taken(&mut self, c: usize) -> Option<u64> {
        if self.all[c].closed {
            return None;
        }
        let e = self.claim(c, Side::Send)?;
        self.told.push(Told {
            who: e.who,
            case: e.case,
            fate: Fate::Done,
            value: None,
        });
        Some(e.value)
    }

    pub fn recv(&mut self, c: usize) -> Result<u64, Blocked> {
        if let Some(v) = self.all[c].buf.pop_front() {
            if self.all[c].buf.len() < self.all[c].capacity {
                let up = self.taken(c);
                self.all[c].buf.extend(up);
            }
            return Ok(v);
        }
        if let Some(v) = self.taken(c) {
            return Ok(v);
        }
        Err(if self.all[c].closed {
            Blocked::Closed
        } else {
            Blocked::Wait
        })
    }

    pub fn put_back(&mut self, c: usize, value: u64) {
        if !self.deliver(c, value) {
            self.all[c].buf.push_front(value);
        }
    }

    pub fn close(&mut self, c: usize) -> bool {
        if std::mem::replace(&mut self.all[c].closed, true) {
            return false;
        }
        for side in [Side::Recv, Side::Send] {
            while let Some(e) = self.claim(c, side) {
                self.told.push(Told {
                    who: e.who,
                    case: e.case,
                    fate: Fate::Closed,
                    value: (side == Side::Send).then_some(e.value),
                });
            }
        }
        true
    }

    /// What the file heads promise.
    pub fn check(&self) {
        for c in &self.all {
            let waits =
                |l: &[Entry], but: Option<usize>| l.iter().any(|e| !e.aside && Some(e.who) != but);
            for r in c.receivers.iter().filter(|e| !e.aside) {
                assert!(c.buf.is_empty() && !waits(&c.senders, Some(r.who)));
            }
            assert!(!waits(&c.senders, None) || c.buf.len() >= c.capacity);
        }
    }
}
