//! Records between a parent and a worker process, through memory that both map. README.md beside this file holds the
//! protocol; `memory.rs` is what is mapped, and the only unsafe code.
//!
//! Invariants: what is written is in the writer's half (`room`), what is read in the reader's (`receive`). Each store to
//! `tail`, `head`, `closed` or a flag that a peer may wait for is followed by the fence that README.md tells of.

#[cfg(not(loom))]
mod memory;
#[cfg(all(test, not(loom)))]
mod tests;

use std::time::{Duration, Instant};

#[cfg(not(loom))]
pub use memory::Mapped;

use crate::prim::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use crate::prim::{Wake, shared};

const BYTES: usize = 8; // of a word
const SPINS: u32 = 64; // looks between two at the clock

/// A word with a cache line of its own: the two sides write to different ones.
#[derive(Default, Debug)]
#[repr(C, align(64))]
struct Line<T>(T);

/// The words of one direction.
#[derive(Default, Debug)]
#[repr(C)]
struct Way {
    /// Words that were written. Release by the writer, paired with the reader's acquire in `receive`.
    tail: Line<AtomicU64>,
    /// Words that were read. Release by the reader (`Batch::release`), paired with the writer's acquire in `room`.
    head: Line<AtomicU64>,
    /// 1 while the reader wants to be woken. Ordered by the fences of `arm` and `send`.
    asleep: Line<AtomicU32>,
    /// 1 while the writer wants to be told of room. Ordered by the fences of `send` and `Batch::release`.
    cramped: Line<AtomicU32>,
}

/// The words of both directions, and those for neither.
#[derive(Default, Debug)]
#[repr(C)]
pub struct Words {
    ways: [Way; 2],
    /// Batches up to this number belong to somebody. Acquire and release by both, paired with each other: what the owner
    /// before did with other memory is seen by the next. (What a batch is comes by the rings.)
    claimed: Line<AtomicU64>,
    /// 1 once the parent is through. The worker's to read; ordered by the fences of `close`, `arm` and `send`.
    closed: Line<AtomicU32>,
}

/// Eight bytes of a record. Relaxed: `tail` and `head` order it.
#[derive(Default, Debug)]
#[cfg_attr(not(loom), repr(transparent))]
pub struct Datum {
    bytes: AtomicU64,
    /// Tells a model of a reader and a writer that meet.
    #[cfg(loom)]
    owner: loom::cell::UnsafeCell<()>,
}

impl Datum {
    fn put(&self, word: u64) {
        #[cfg(loom)]
        self.owner.with_mut(|_| ());
        self.bytes.store(word, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        #[cfg(loom)]
        self.owner.with(|_| ());
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Memory of a pair, all zeroes at the start. As many words of data for each way, a power of two.
pub trait Memory {
    /// The words.
    fn words(&self) -> &Words;
    /// The data of a way.
    fn data(&self, way: usize) -> &[Datum];
}

/// Whose end it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who started the worker.
    Parent,
    /// Who was started.
    Worker,
}

/// Why nothing happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The words make no sense: the peer wrote where it may not.
    Torn,
    /// Another thread is at it.
    Busy,
    /// It will never fit.
    TooLarge,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Sent {
    /// It is there. `Call::Due`: the peer is to be woken.
    There(Call),
    /// There is no room; the peer tells when there is more.
    Full,
}

/// Whether somebody has to be woken, by `wake` or (a parent) by the bell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Call {
    /// The peer asked for it.
    Due,
    /// Nobody asked.
    None,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Waited {
    /// Something is there.
    Ready,
    /// Time is up, or a signal came, or nothing at all: look again.
    Nothing,
    /// The parent is through.
    Closed,
}

/// One side of a pair.
#[derive(Debug)]
pub struct End<M> {
    memory: M,
    side: Side,
    sending: AtomicBool,
    receiving: AtomicBool,
}

/// A thread's turn at one of the two flags.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(flag: &'a AtomicBool) -> Result<Self, Refused> {
        // Acquire pairs with the release in `drop`: what the thread before did.
        if flag.swap(true, Ordering::Acquire) {
            return Err(Refused::Busy);
        }
        Ok(Self(flag))
    }
}

impl Drop for Turn<'_> {
    /// Paired with `take`.
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<M: Memory> End<M> {
    /// One side of `memory`, of which there is one for each side.
    pub fn new(memory: M, side: Side) -> Self {
        let end = Self {
            memory,
            side,
            sending: AtomicBool::new(false),
            receiving: AtomicBool::new(false),
        };
        if side == Side::Parent {
            // Nobody else is there yet. See README.md: a parent is always armed.
            end.incoming().asleep.0.store(1, Ordering::Relaxed);
        }
        end
    }

    fn out(&self) -> usize {
        usize::from(self.side == Side::Worker)
    }

    fn outgoing(&self) -> &Way {
        &self.memory.words().ways[self.out()]
    }

    fn incoming(&self) -> &Way {
        &self.memory.words().ways[1 - self.out()]
    }

    /// Bytes of the largest record.
    pub fn most(&self) -> usize {
        (self.memory.data(self.out()).len() - 1) * BYTES
    }

    // ---- sending ----

    /// Sends the bytes of `parts` as one record.
    pub fn send(&self, parts: &[&[u8]]) -> Result<Sent, Refused> {
        let _turn = Turn::take(&self.sending)?;
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if size > self.most() {
            return Err(Refused::TooLarge);
        }
        let (way, words) = (self.outgoing(), 1 + size.div_ceil(BYTES) as u64);
        let tail = way.tail.0.load(Ordering::Relaxed); // nobody else writes it
        if self.room(tail)? < words {
            way.cramped.0.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst); // against the one in `Batch::release`
            if self.room(tail)? < words {
                return Ok(Sent::Full);
            }
        }
        self.write(tail, size as u64, parts);
        way.tail
            .0
            .store(tail.wrapping_add(words), Ordering::Release);
        fence(Ordering::SeqCst); // against the one in `arm`
        Ok(Sent::There(take(&way.asleep.0)))
    }

    /// Words that may be written from `tail` on.
    fn room(&self, tail: u64) -> Result<u64, Refused> {
        let size = self.memory.data(self.out()).len() as u64;
        let head = self.outgoing().head.0.load(Ordering::Acquire);
        size.checked_sub(tail.wrapping_sub(head))
            .ok_or(Refused::Torn)
    }

    fn write(&self, tail: u64, size: u64, parts: &[&[u8]]) {
        let data = self.memory.data(self.out());
        let mut ring = Cursor::new(data, tail);
        ring.put(size);
        let (mut word, mut filled) = ([0; BYTES], 0);
        for &part in parts {
            let mut part = part;
            if filled > 0 {
                let n = part.len().min(BYTES - filled);
                word[filled..filled + n].copy_from_slice(&part[..n]);
                filled += n;
                part = &part[n..];
                if filled < BYTES {
                    continue;
                }
                ring.put(u64::from_ne_bytes(word));
            }
            let whole = part.chunks_exact(BYTES);
            let rest = whole.remainder();
            for bytes in whole {
                word.copy_from_slice(bytes);
                ring.put(u64::from_ne_bytes(word));
            }
            filled = rest.len();
            word[..filled].copy_from_slice(rest);
        }
        if filled > 0 {
            ring.put(u64::from_ne_bytes(word));
        }
    }

    // ---- receiving ----

    /// Whether a record is there.
    pub fn has_some(&self) -> bool {
        let way = self.incoming();
        // Acquire only for `receive` to see no less than this did.
        way.tail.0.load(Ordering::Acquire) != way.head.0.load(Ordering::Relaxed)
    }

    /// All records that are there: `Batch::release` lets go of those that were taken.
    pub fn receive(&self) -> Result<Batch<'_, M>, Refused> {
        let turn = Turn::take(&self.receiving)?;
        let (way, data) = (self.incoming(), self.memory.data(1 - self.out()));
        let head = way.head.0.load(Ordering::Relaxed); // nobody else writes it
        let tail = way.tail.0.load(Ordering::Acquire); // before the data
        if tail.wrapping_sub(head) > data.len() as u64 {
            return Err(Refused::Torn);
        }
        Ok(Batch {
            end: self,
            data,
            head,
            taken: head,
            given: 0,
            tail,
            _turn: turn,
        })
    }

    /// Asks to be woken; true if something is there already, so that nobody may ever do it.
    pub fn arm(&self) -> bool {
        self.incoming().asleep.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // against those in `send` and `close`
        self.look() != Waited::Nothing
    }

    // ---- a worker's sleep ----

    /// Waits for a record, `timeout` in all, of which at most `look_out` awake. A worker's.
    pub fn wait(&self, look_out: Duration, timeout: Option<Duration>) -> Result<Waited, Refused> {
        let _turn = Turn::take(&self.receiving)?;
        assert_eq!(self.side, Side::Worker);
        let verdict = self.look();
        if verdict != Waited::Nothing {
            return Ok(verdict);
        }
        let (began, most) = (Instant::now(), timeout.unwrap_or(Duration::MAX));
        if !look_out.is_zero() && spin_while(look_out.min(most), || self.look() == Waited::Nothing)
        {
            return Ok(self.look());
        }
        let left = timeout.map(|t| t.saturating_sub(began.elapsed()));
        if !self.arm() {
            let _: Wake = shared::futex_wait(&self.incoming().asleep.0, 1, left);
        }
        self.incoming().asleep.0.store(0, Ordering::Relaxed); // whoever has just taken it wakes nobody
        Ok(self.look())
    }

    /// Waits until `send` may find room: Ready if it is worth a try. A worker's, after `Sent::Full`.
    pub fn wait_for_room(&self, timeout: Option<Duration>) -> Result<Waited, Refused> {
        let _turn = Turn::take(&self.sending)?;
        assert_eq!(self.side, Side::Worker);
        if !self.is_closed() {
            let _: Wake = shared::futex_wait(&self.outgoing().cramped.0, 1, timeout);
        }
        Ok(if self.is_closed() {
            Waited::Closed
        } else {
            Waited::Ready
        })
    }

    fn look(&self) -> Waited {
        if self.has_some() {
            Waited::Ready
        } else if self.side == Side::Worker && self.is_closed() {
            Waited::Closed
        } else {
            Waited::Nothing
        }
    }

    /// Wakes a worker that reads.
    pub fn wake(&self) {
        shared::futex_wake(&self.outgoing().asleep.0, 1);
    }

    /// Wakes a worker that waits for room.
    pub fn wake_sender(&self) {
        shared::futex_wake(&self.incoming().cramped.0, 1);
    }

    // ---- the end, and claims ----

    /// Has the worker's waits end. The parent's.
    pub fn close(&self) {
        self.memory.words().closed.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // against the one in `arm`; and `wait_for_room` looks after its flag was set
        if take(&self.outgoing().asleep.0) == Call::Due {
            self.wake();
        }
        if take(&self.incoming().cramped.0) == Call::Due {
            self.wake_sender();
        }
    }

    /// Whether the parent is through.
    pub fn is_closed(&self) -> bool {
        self.memory.words().closed.0.load(Ordering::Relaxed) != 0
    }

    /// Claims batch `number`; false if the parent has it back. The worker's, in order.
    pub fn claim(&self, number: u64) -> bool {
        let claimed = &self.memory.words().claimed.0;
        claimed
            .compare_exchange(
                number.wrapping_sub(1),
                number,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Claims all batches up to `last` that nobody has: those behind the answer. The parent's, not while it sends.
    pub fn claim_back(&self, last: u64) -> u64 {
        let claimed = &self.memory.words().claimed.0;
        claimed.fetch_max(last, Ordering::AcqRel)
    }
}

/// Takes a flag; `Call::Due` if it was set.
fn take(flag: &AtomicU32) -> Call {
    // The load first: mostly nobody sleeps, and a swap would take the line away.
    if flag.load(Ordering::Relaxed) == 1 && flag.swap(0, Ordering::Relaxed) == 1 {
        Call::Due
    } else {
        Call::None
    }
}

/// Spins while `idle`, up to `limit`; true if it ended before.
pub fn spin_while(limit: Duration, mut idle: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        for _ in 0..SPINS {
            if !idle() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.elapsed() >= limit {
            return false;
        }
    }
}

/// A place in a ring.
struct Cursor<'a> {
    data: &'a [Datum],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[expect(clippy::cast_possible_truncation, reason = "masked")]
    fn new(data: &'a [Datum], at: u64) -> Self {
        Self {
            data,
            at: at as usize & (data.len() - 1),
        }
    }

    fn step(&mut self) -> &'a Datum {
        let word = &self.data[self.at];
        self.at = (self.at + 1) & (self.data.len() - 1);
        word
    }

    fn put(&mut self, word: u64) {
        self.step().put(word);
    }

    fn get(&mut self) -> u64 {
        self.step().get()
    }
}

/// The records that were there.
pub struct Batch<'a, M: Memory> {
    end: &'a End<M>,
    data: &'a [Datum],
    head: u64,
    taken: u64,
    /// Words of the record that `peek` gave last.
    given: u64,
    tail: u64,
    _turn: Turn<'a>,
}

impl<'a, M: Memory> Batch<'a, M> {
    /// The next record; the same one again, unless `done` was called.
    pub fn peek(&mut self) -> Result<Option<Record<'a>>, Refused> {
        let left = self.tail.wrapping_sub(self.taken);
        if left == 0 {
            return Ok(None);
        }
        let mut ring = Cursor::new(self.data, self.taken);
        let size = ring.get();
        if size.div_ceil(BYTES as u64) >= left {
            return Err(Refused::Torn);
        }
        self.given = 1 + size.div_ceil(BYTES as u64);
        #[expect(clippy::cast_possible_truncation, reason = "no more than the ring has")]
        Ok(Some(Record {
            ring,
            left: size as usize,
        }))
    }

    /// Takes the record that `peek` gave last.
    pub fn done(&mut self) {
        self.taken = self.taken.wrapping_add(std::mem::take(&mut self.given));
    }

    /// Gives the room of what was taken back. `Call::Due`: the writer waits for it.
    pub fn release(self) -> Call {
        if self.taken == self.head {
            return Call::None;
        }
        let way = self.end.incoming();
        way.head.0.store(self.taken, Ordering::Release); // after the data was read
        fence(Ordering::SeqCst); // against the one in `send`
        take(&way.cramped.0)
    }
}

/// A record that is being read, from its start to its end.
pub struct Record<'a> {
    ring: Cursor<'a>,
    left: usize,
}

impl Record<'_> {
    /// Bytes that are still to be read.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Reads the next bytes: a number of whole words, or all the rest. False: there are not so many.
    pub fn read(&mut self, into: &mut [u8]) -> bool {
        if into.len() > self.left || (into.len() % BYTES != 0 && into.len() != self.left) {
            return false;
        }
        self.left -= into.len();
        let mut whole = into.chunks_exact_mut(BYTES);
        for bytes in &mut whole {
            bytes.copy_from_slice(&self.ring.get().to_ne_bytes());
        }
        let rest = whole.into_remainder();
        if !rest.is_empty() {
            let last = self.ring.get().to_ne_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
        true
    }
}
