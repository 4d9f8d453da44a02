//! The memory under the timer wheel: numbered nodes that never move, in chunks of 64.
//!
//! Why not a `Vec` with a free list: it would keep the memory of its busiest moment for ever. Here a chunk whose
//! last node is freed goes back to the allocator, so a million timers added and cancelled leave next to nothing.
//! Why not a `Box` per timer: an allocation each, and no safe way to name it by a `Copy` key.
//!
//! Invariants:
//! 1. A chunk is in exactly one state: *full* (in no list), *partial* (in the partial list: at least one node live,
//!    one free), *spare* (`self.spare`, wholly free, memory kept), *vacant* (in the vacant list, memory given back).
//! 2. There is at most one spare, so a timer added and cancelled in a loop at a chunk's edge allocates nothing;
//!    and the highest chunk is never vacant, so the directory shrinks too (it keeps 24 bytes for a vacant chunk
//!    below a living one).
//! 3. A free node's generation is 0. A live node's is never 0 and comes from one counter for the whole slab: a
//!    counter per node would be forgotten with its chunk and start again, and an old key would match a new timer.
//!    (The counter wraps: a key kept for exactly 2^32 - 1 further inserts, whose last one landed in the same node,
//!    would match wrongly.)
//!
//! The slab does not know what `tick`, `next` and `prev` of a live node mean: they are the wheel's.
#![forbid(unsafe_code)]

/// "No node" and "no chunk".
pub(super) const NIL: u32 = u32::MAX;

/// Nodes per chunk: 2 KiB for a pointer-sized value, so the spare of an idle wheel is small, and yet one
/// allocation in 64 inserts even while growing.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 6;

/// Names one timer in one wheel, for as long as it is armed; afterwards it matches nothing.
///
/// A key says nothing about which wheel it came from: whoever has several must remember that beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(super) index: u32,
    generation: u32,
}

impl Key {
    /// The key of no timer: it never matches.
    pub const NONE: Key = Key {
        index: NIL,
        generation: 0,
    };
}

/// One timer, or one free place (then `next` chains the free ones of its chunk).
pub(super) struct Node<T> {
    value: Option<T>,
    pub(super) tick: u64,
    pub(super) next: u32,
    pub(super) prev: u32,
    generation: u32,
}

/// Directory entry of a chunk. `free` heads its free nodes (NIL when full or vacant); `next` and `prev` link the
/// chunks of the list that it is in, if any.
struct Chunk<T> {
    nodes: Option<Box<[Node<T>; CHUNK]>>,
    free: u32,
    live: u32,
    next: u32,
    prev: u32,
}

/// The two lists of chunks (invariant 1); indices into `Slab::lists`.
const PARTIAL: usize = 0;
const VACANT: usize = 1;

/// See the head of this file.
pub(super) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    lists: [u32; 2],
    spare: u32,
    generation: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            lists: [NIL; 2],
            spare: NIL,
            generation: 0,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Store `value`. `next` and `prev` of its node are the caller's to set.
    #[inline]
    pub(super) fn insert(&mut self, tick: u64, value: T) -> Key {
        let mut c = self.lists[PARTIAL];
        if c == NIL {
            c = self.open_chunk();
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.len += 1;
        let chunk = &mut self.chunks[c as usize];
        let key = Key {
            index: chunk.free,
            generation: self.generation,
        };
        let node = chunk.node_mut(key.index);
        node.value = Some(value);
        node.tick = tick;
        node.generation = key.generation;
        chunk.free = node.next;
        chunk.live += 1;
        if chunk.free == NIL {
            self.unlink(PARTIAL, c);
        }
        key
    }

    /// Free the live node `index` and return what it held.
    #[inline]
    pub(super) fn remove(&mut self, index: u32) -> T {
        let c = index >> CHUNK_BITS;
        let chunk = &mut self.chunks[c as usize];
        let free = chunk.free;
        let node = chunk.node_mut(index);
        let value = node.value.take().expect("the wheel links live nodes only");
        node.generation = 0;
        node.next = free;
        chunk.free = index;
        chunk.live -= 1;
        self.len -= 1;
        if chunk.live == 0 {
            self.close_chunk(c);
        } else if free == NIL {
            self.link(PARTIAL, c);
        }
        value
    }

    /// Is `key` that of a live node?
    #[inline]
    pub(super) fn contains(&self, key: Key) -> bool {
        let nodes = match self.chunks.get((key.index >> CHUNK_BITS) as usize) {
            Some(chunk) => &chunk.nodes,
            None => return false,
        };
        // No test for generation 0: only NONE carries it, and no chunk has its index.
        matches!(nodes, Some(nodes) if nodes[offset(key.index)].generation == key.generation)
    }

    #[inline]
    pub(super) fn node(&self, index: u32) -> &Node<T> {
        let chunk = &self.chunks[(index >> CHUNK_BITS) as usize];
        &chunk.nodes.as_ref().expect(HAS_NODES)[offset(index)]
    }

    #[inline]
    pub(super) fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        self.chunks[(index >> CHUNK_BITS) as usize].node_mut(index)
    }

    /// Get a chunk with free nodes into the (empty) partial list: the spare one, else new memory.
    #[cold]
    fn open_chunk(&mut self) -> u32 {
        let c = if self.spare != NIL {
            std::mem::replace(&mut self.spare, NIL)
        } else if self.lists[VACANT] != NIL {
            let c = self.lists[VACANT];
            self.unlink(VACANT, c);
            self.chunks[c as usize] = Chunk::new(c);
            c
        } else {
            let c = self.chunks.len() as u32;
            assert!(c < NIL >> CHUNK_BITS, "more than four billion timers");
            self.chunks.push(Chunk::new(c));
            c
        };
        self.link(PARTIAL, c);
        c
    }

    /// The last node of partial chunk `c` was freed: make it the spare, or give its memory back.
    #[cold]
    fn close_chunk(&mut self, c: u32) {
        self.unlink(PARTIAL, c);
        if self.spare == NIL {
            self.spare = c;
            return;
        }
        // Keep the lower one, so that the spare does not hold up the whole directory.
        let freed = c.max(self.spare);
        self.spare = c.min(self.spare);
        let chunk = &mut self.chunks[freed as usize];
        chunk.nodes = None;
        chunk.free = NIL;
        self.link(VACANT, freed);

        while matches!(self.chunks.last(), Some(last) if last.nodes.is_none()) {
            self.unlink(VACANT, self.chunks.len() as u32 - 1);
            self.chunks.pop();
        }
        // A factor of four down to two: a size that swings about one bound never reallocates each time.
        if self.chunks.capacity() > 4 * self.chunks.len().max(4) {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }

    /// Put chunk `c`, which is in no list, in front: what was touched last is in the cache.
    fn link(&mut self, list: usize, c: u32) {
        let head = std::mem::replace(&mut self.lists[list], c);
        let chunk = &mut self.chunks[c as usize];
        chunk.prev = NIL;
        chunk.next = head;
        if head != NIL {
            self.chunks[head as usize].prev = c;
        }
    }

    fn unlink(&mut self, list: usize, c: u32) {
        let Chunk { prev, next, .. } = self.chunks[c as usize];
        match prev {
            NIL => self.lists[list] = next,
            _ => self.chunks[prev as usize].next = next,
        }
        if next != NIL {
            self.chunks[next as usize].prev = prev;
        }
    }

    /// Bytes on the heap, for the tests of what is given back.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let with_nodes = self.chunks.iter().filter(|c| c.nodes.is_some()).count();
        self.chunks.capacity() * size_of::<Chunk<T>>() + with_nodes * size_of::<[Node<T>; CHUNK]>()
    }

    /// Let a test start near the wrap of the generation counter.
    #[cfg(test)]
    pub(super) fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
    }
}

#[cfg(test)]
impl<T> Node<T> {
    pub(super) fn value_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("live")
    }
}

const HAS_NODES: &str = "a chunk with live or free nodes has memory";

/// Place of a node in its chunk.
#[inline]
const fn offset(index: u32) -> usize {
    index as usize & (CHUNK - 1)
}

impl<T> Chunk<T> {
    /// Chunk number `c` with all its nodes free, chained in order.
    fn new(c: u32) -> Self {
        let first = c << CHUNK_BITS;
        let nodes: Box<[Node<T>]> = (1..=CHUNK as u32)
            .map(|i| Node {
                value: None,
                tick: 0,
                next: if i == CHUNK as u32 { NIL } else { first + i },
                prev: NIL,
                generation: 0,
            })
            .collect();
        Self {
            nodes: nodes.try_into().ok(),
            free: first,
            live: 0,
            next: NIL,
            prev: NIL,
        }
    }

    #[inline]
    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        &mut self.nodes.as_mut().expect(HAS_NODES)[offset(index)]
    }
}
