//! One side's end of the rings between a parent and a worker process (`gorun_core::ring`), with frames for records.
//!
//! A frame is a head (the numbers of `wire.py`'s) and a body. Who may call what when is said in the core; callers have
//! locks of their own, and a fork's child deserts its end before it does anything else.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gorun_core::ring::{Call, End, Mapped, Refused, Sent, Side, Waited, spin_while};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

const HEAD: usize = 48;
static BELL: u8 = 0;

/// What a frame is, but for its body: kind, buffers, number, count, bytes of the body, segment, its new size.
type Head = (u32, u32, u64, u64, u64, u64, u64);

/// An end of the rings in the memory of a descriptor, from `offset` on: with a bell (a socket, whose other end the parent
/// watches) that of a worker.
#[pyclass(frozen, name = "_Link", module = "gorun._gorun")]
pub struct PyLink {
    end: End<Mapped>,
    bell: Option<RawFd>,
    /// Set in a forked child, by its only thread, before anybody else looks; or where the bell is gone, which a later look
    /// may see or not: no pairing.
    deserted: AtomicBool,
}

fn told(why: Refused) -> PyErr {
    match why {
        Refused::Torn => {
            PyOSError::new_err("what another process wrote into shared memory makes no sense")
        }
        Refused::Busy => PyRuntimeError::new_err("another thread is using this end of a link"),
        Refused::TooLarge => PyValueError::new_err("a frame is larger than the ring"),
    }
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::MAX)
}

impl PyLink {
    fn end(&self) -> PyResult<&End<Mapped>> {
        if self.deserted.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err(
                "this end of a link is another process's, or its bell is gone",
            ));
        }
        Ok(&self.end)
    }

    /// Wakes the peer, if it asked for it. `reader`: the one that reads, else the one that waits for room. Where the bell
    /// is broken, the next call says so: what was sent or received has been.
    fn call(&self, call: Call, reader: bool) {
        if call == Call::None {
            return;
        }
        match self.bell {
            Some(bell) if ring(bell).is_err() => self.desert(),
            Some(_) => {}
            None if reader => self.end.wake(),
            None => self.end.wake_sender(),
        }
    }
}

/// Rings. An error: the descriptor is not what it was, as an item has closed it.
fn ring(bell: RawFd) -> std::io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: a byte of our own. What is no socket any more is refused.
    if unsafe { libc::send(bell, (&raw const BELL).cast(), 1, flags) } < 0 {
        let error = std::io::Error::last_os_error();
        // Full of bytes that were not read: one more would say no more.
        if error.kind() != std::io::ErrorKind::WouldBlock {
            return Err(error);
        }
    }
    Ok(())
}

#[pymethods]
impl PyLink {
    /// Bytes of memory that it takes.
    #[classattr]
    const SIZE: usize = Mapped::SIZE;

    #[new]
    #[pyo3(signature = (fd, offset, bell = None))]
    fn new(fd: RawFd, offset: u64, bell: Option<RawFd>) -> PyResult<Self> {
        if fd < 0 {
            return Err(PyValueError::new_err("a descriptor is not negative"));
        }
        let side = if bell.is_some() {
            Side::Worker
        } else {
            Side::Parent
        };
        // SAFETY: open, as the caller says; a closed one is an error of the calls that are made of it.
        let memory = Mapped::new(unsafe { BorrowedFd::borrow_raw(fd) }, offset)?;
        Ok(Self {
            end: End::new(memory, side),
            bell,
            deserted: AtomicBool::new(false),
        })
    }

    /// Sends a frame; False if there is no room for it now. The peer then tells when there is more.
    #[expect(clippy::too_many_arguments, reason = "a frame's")]
    fn send(
        &self,
        kind: u32,
        buffers: u32,
        number: u64,
        count: u64,
        size: u64,
        segment: u64,
        fresh: u64,
        body: &[u8],
    ) -> PyResult<bool> {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&kind.to_ne_bytes());
        head[4..8].copy_from_slice(&buffers.to_ne_bytes());
        for (place, word) in [number, count, size, segment, fresh]
            .into_iter()
            .enumerate()
        {
            head[8 + 8 * place..16 + 8 * place].copy_from_slice(&word.to_ne_bytes());
        }
        match self.end()?.send(&[&head, body]).map_err(told)? {
            Sent::Full => Ok(false),
            Sent::There(call) => {
                self.call(call, true);
                Ok(true)
            }
        }
    }

    /// Takes all frames that are there: (head, body) of each. What it raises comes behind what it could take.
    fn receive<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let frames = PyList::empty(py);
        let mut batch = self.end()?.receive().map_err(told)?;
        let mut take = || -> PyResult<bool> {
            let Some(mut record) = batch.peek().map_err(told)? else {
                return Ok(false);
            };
            let mut head = [0; HEAD];
            if !record.read(&mut head) {
                return Err(told(Refused::Torn));
            }
            let body = PyBytes::new_with(py, record.left(), |bytes| {
                record.read(bytes);
                Ok(())
            })?;
            frames.append((unpacked(&head), body).into_pyobject(py)?)?;
            batch.done();
            Ok(true)
        };
        let error = loop {
            match take() {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        self.call(batch.release(), false);
        match error {
            Some(error) if frames.is_empty() => Err(error),
            _ => Ok(frames),
        }
    }

    /// Whether a frame is there.
    fn has_some(&self) -> PyResult<bool> {
        Ok(self.end()?.has_some())
    }

    /// Has the peer ring the bell at the next frame; True if one is there. A parent's, after it has read the bell.
    fn arm(&self) -> PyResult<bool> {
        Ok(self.end()?.arm())
    }

    /// Waits for a frame, the first `look_out` seconds awake: True if there is one, False if it was for nothing (time, a
    /// signal), None if the parent is through. A worker's.
    fn wait(&self, py: Python<'_>, look_out: f64, timeout: Option<f64>) -> PyResult<Option<bool>> {
        let (end, limit) = (self.end()?, timeout.map(seconds));
        if end.has_some() {
            return Ok(Some(true));
        }
        let verdict = py.detach(|| end.wait(seconds(look_out), limit));
        Ok(match verdict.map_err(told)? {
            Waited::Ready => Some(true),
            Waited::Nothing => Some(false),
            Waited::Closed => None,
        })
    }

    /// Waits until `send` may find room, after it did not; False if the parent is through. A worker's.
    fn wait_for_room(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (end, limit) = (self.end()?, timeout.map(seconds));
        let verdict = py.detach(|| end.wait_for_room(limit));
        Ok(verdict.map_err(told)? == Waited::Ready)
    }

    /// Claims a batch to be run; False if the parent has it back. A worker's, in the order of their numbers.
    fn claim(&self, number: u64) -> PyResult<bool> {
        Ok(self.end()?.claim(number))
    }

    /// Takes back all batches up to `last`, the last one sent, but those up to the answer. A parent's.
    fn claim_back(&self, last: u64) -> PyResult<u64> {
        Ok(self.end()?.claim_back(last))
    }

    /// Has the worker's waits end. A parent's.
    fn close(&self) {
        if !self.deserted.load(Ordering::Relaxed) {
            self.end.close();
        }
    }

    /// In a forked child: it is the parent process's.
    fn desert(&self) {
        self.deserted.store(true, Ordering::Relaxed);
    }
}

fn unpacked(head: &[u8; HEAD]) -> Head {
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| head[at + i]));
    let half = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| head[at + i]));
    (
        half(0),
        half(4),
        word(8),
        word(16),
        word(24),
        word(32),
        word(40),
    )
}

/// Looks at several links, awake, until a frame is there: True; False after `limit` seconds. Others may run meanwhile.
#[pyfunction]
pub fn _look_out(py: Python<'_>, links: &Bound<'_, PyTuple>, limit: f64) -> PyResult<bool> {
    let links = links
        .iter()
        .map(|link| Ok(link.cast_into::<PyLink>()?.unbind()))
        .collect::<PyResult<Vec<Py<PyLink>>>>()?;
    let ends = links.iter().map(|link| &link.get().end).collect::<Vec<_>>();
    let limit = seconds(limit);
    Ok(py.detach(|| spin_while(limit, || !ends.iter().any(|end| end.has_some()))))
}
