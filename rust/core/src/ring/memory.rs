//! The memory of a pair, mapped: the words, and the data of both ways behind them. The only unsafe code of the rings.
//!
//! Invariants: the mapping lives as long as the `Mapped`, and has `Mapped::SIZE` bytes, all of them behind the file's
//! end when it was made. What is in there is atomics and nothing else, of which any bits are a value.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{Datum, Memory, Words};

const HEAD: usize = 4096; // for the words
const DATA: usize = 1 << 17; // bytes of a way

/// A pair's memory.
#[derive(Debug)]
pub struct Mapped(NonNull<u8>);

// SAFETY: it gives out atomics only, and any thread may unmap.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

const _: () = assert!(size_of::<Words>() <= HEAD);

impl Mapped {
    /// Bytes that are mapped.
    pub const SIZE: usize = HEAD + 2 * DATA;

    /// Maps `SIZE` bytes of `fd` from `offset` on, a multiple of the page size. It has to be sealed against shrinking: else a
    /// peer could have this process killed by a bus error.
    pub fn new(fd: BorrowedFd<'_>, offset: u64) -> io::Result<Self> {
        let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        if size < offset.saturating_add(Self::SIZE as u64) {
            return Err(io::Error::other(
                "the memory is too small for a pair of rings",
            ));
        }
        if !rustix::fs::fcntl_get_seals(fd)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("the memory may shrink: it is not sealed"));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                Self::SIZE,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )?
        };
        NonNull::new(at.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at address zero"))
    }
}

impl Memory for Mapped {
    fn words(&self) -> &Words {
        // SAFETY: at the start of a page, so aligned; inside of the mapping (see the assertion); atomics, which the other
        // process changes as atomics do.
        unsafe { self.0.cast::<Words>().as_ref() }
    }

    fn data(&self, way: usize) -> &[Datum] {
        assert!(way < 2);
        let words = DATA / size_of::<Datum>();
        // SAFETY: aligned, inside of the mapping, atomics.
        unsafe {
            let at = self.0.add(HEAD + way * DATA).cast::<Datum>();
            std::slice::from_raw_parts(at.as_ptr(), words)
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; nobody has a reference into it any more.
        // It cannot fail, and nothing could be done.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), Self::SIZE) };
    }
}
