"""Frames between a parent and one worker: what is small by rings or a socket, the rest in segments.

A frame is a header, and a body: the pickle, then its out-of-band buffers (protocol 5), aligned. A
body above INLINE bytes goes into a segment, a memfd that both sides map: the sender copies it
there once, the receiver reads it in place. The others go through rings in shared memory (linked.py).
Without memfd (or with GORUN_SHM=0) bodies of any size go through the socket, as `Wire` does it.

Segments
- The sender owns its segments. The first frame that uses one carries its file descriptor
  (which comes by the socket, before the frame does, where there are rings).
- A segment is the receiver's from the frame on, until it answers FREE (use it again) or LOST (some
  object still lives in it: the receiver keeps its mapping, the sender forgets its own).
- DROP tells the receiver that a free segment will not be used again.
- Nothing has a name in the file system: what both sides have closed is gone, however they ended.

Both sides load this file; it imports nothing but what a bare interpreter has at hand.
"""

from __future__ import annotations

import os
import struct
import sys
from _pickle import dumps as _dumps
from _socket import CMSG_LEN, MSG_CTRUNC, SCM_RIGHTS, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Chunk: TypeAlias = bytes | bytearray | memoryview
    # Of a frame: kind, buffers, number, count, bytes of the body, segment (0: none), its new size
    Head: TypeAlias = tuple[int, int, int, int, int, int, int]

# To the worker.
SETUP, JOB, BATCH, EXIT, CALL = 1, 2, 3, 4, 5
# To the parent.
READY, DONE, PART, BAD, RESULT, GROWN = 11, 12, 13, 14, 15, 16
# Both ways.
FREE, LOST, DROP, MORE = 21, 22, 23, 24

# As it goes through a socket.
HEADER = struct.Struct("<IIQQQIQ")
SIZES = "<{}Q"
ALIGNED = 64

# The page that a worker and its parent share: number of the batch, items begun, bytes of the log; then the
# log, entry after entry: place in the batch, bytes of the pickled outcome, the outcome. Behind it in the same
# memory lie the rings (linked.py).
PAGE = 1 << 16
LOG = 64  # where it begins
ENTRY = struct.Struct("<II")

# What goes through the pipes of tokens (where there are no rings) and of wishes: the number of a batch. Whole,
# as a worker that was held up may find any number of batches that were taken back before one that was not.
TOKEN = struct.Struct("<Q")

SMALL = 1 << 12  # bytes that are copied to be one piece with their header
INLINE = 1 << 16  # bytes of a body that the socket carries
OUT_OF_BAND = 1 << 14  # bytes from which a buffer is not copied into the pickle
SMALLEST_SEGMENT = 1 << 18
FREE_BYTES = 1 << 26  # of free segments that one side keeps
KEPT_SEGMENTS = 64  # that objects of the receiver may live in; then it copies
AT_ONCE = 1 << 16  # bytes asked of the socket
ROOM = CMSG_LEN(64)  # for descriptors

# The count of a CALL says whether the worker may look out for the next one without sleeping.
SLEEP, LOOK_OUT = 1, 2
# Seconds that either side looks out before it sleeps: a sleeper on another CPU wakes in 20 us. A wait that was
# slept through had both sides woken, and what came meanwhile is slower, too: one of up to SLEPT might have been quick.
QUICK, SLEPT = 1e-4, 2e-4
SKIPS = 1 << 10  # waits that are not tried, at most, after one that was in vain


def dumps(thing: Any, by_value: Sequence[bytes]) -> tuple[bytes, list[memoryview]]:
    """The pickle of `thing` and its large buffers.

    By cloudpickle where pickle cannot, and where the pickle names a module of `by_value`, of which
    the other side has none or another one (`__main__`).
    """
    buffers: list[memoryview] = []

    def keep(buffer: Any) -> bool:
        """Whether a buffer is to go into the pickle."""
        try:
            view: memoryview = buffer.raw()
        except BufferError:
            return True
        if view.nbytes < OUT_OF_BAND:
            return True
        buffers.append(view)
        return False

    data = _plain(thing, by_value, keep)
    if data is None:
        buffers.clear()
        data = sibling("byvalue").dumps(thing, keep)
    return data, buffers


def whole(thing: Any, by_value: Sequence[bytes]) -> bytes:
    """As `dumps`, with the buffers in the pickle."""
    data = _plain(thing, by_value, None)
    return sibling("byvalue").dumps(thing, None) if data is None else data


def _plain(thing: Any, by_value: Sequence[bytes], keep: Any) -> bytes | None:
    """The pickle; None if there is none, or if it names one of `by_value`."""
    try:
        data = _dumps(thing, 5, buffer_callback=keep)
    except Exception:
        return None
    for name in by_value:
        if name in data:
            return None
    return data


def sibling(name: str) -> Any:
    """A file beside this one that is seldom needed. A worker has no gorun around it."""
    if __name__ != "_gorun_wire":
        import importlib

        return importlib.import_module(f"gorun._proc.{name}")
    full = f"_gorun_{name}"
    if (module := sys.modules.get(full)) is None:
        from _frozen_importlib_external import SourceFileLoader

        module = type(sys)(full)
        path = os.path.join(os.path.dirname(__file__), f"{name}.py")
        SourceFileLoader(full, path).exec_module(module)
        sys.modules[full] = module
    return module


def memory(size: int) -> int | None:
    """A file descriptor of that much memory that can be shared; None where there is no such."""
    if os.environ.get("GORUN_SHM") == "0":
        return None
    try:
        import fcntl

        fd = os.memfd_create("gorun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (ImportError, AttributeError, OSError):
        return None
    try:
        os.ftruncate(fd, size)
        # Nobody can make it a bus error for the other side.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        os.close(fd)
        return None
    return fd


class Lookout:
    """Whether it pays to look out: what came at once the last time may do so again.

    Who looks out in vain has kept others from their work, and is no longer the one whom the system
    prefers as it sleeps most of the time. So each time in vain doubles the waits without a try.
    """

    def __init__(self) -> None:
        self._quick = False
        self._tried = False
        self._skip = 0  # waits still to be slept through
        self._skips = 1

    def worth(self) -> bool:
        """Whether to look out now; `took` has to follow."""
        if self._skip:
            self._skip -= 1
            return False
        self._tried = self._quick
        return self._quick

    def took(self, seconds: float) -> None:
        """Takes note of a wait, however it was waited."""
        if not self._tried:
            self._quick = seconds < SLEPT
            return
        self._tried = False
        self._quick = quick = seconds < QUICK
        if quick:
            self._skips = max(1, self._skips * 7 // 8)
        else:
            self._skip = self._skips
            self._skips = min(2 * self._skips, SKIPS)


class Frame:
    """What came: `data` is a pickle, `buffers` belong to it."""

    __slots__ = ("buffers", "count", "data", "kind", "number", "segment")

    def __init__(self, head: tuple[int, ...], body: Chunk) -> None:
        self.kind, buffers, self.number, self.count, _, self.segment, _ = head
        self.buffers: list[Any] = []
        self.data: Chunk = body
        if not buffers:
            return
        whole = memoryview(body)
        sizes = struct.Struct(SIZES.format(buffers + 1))
        size, *others = sizes.unpack_from(whole)
        at = sizes.size
        self.data = whole[at : at + size]
        at += size
        for size in others:
            at += -at % ALIGNED
            self.buffers.append(whole[at : at + size])
            at += size

    def copy(self) -> None:
        """Has the buffers live in memory of their own."""
        self.buffers = [bytearray(view) for view in self.buffers]


class Wire:
    """One side of the socket. The parent's does not block, the worker's does."""

    look_out = 0.0  # seconds that the next `fill` may stay awake; here none
    claim: Any = None  # of a batch by its number, where that needs no token

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self._out: list[tuple[memoryview, int | None]] = []  # and the descriptor that goes with it
        self._in = bytearray()
        # Of the first read on, and kept: memory of that size costs more than to read.
        self._buffer: memoryview | None = None
        self._fds: list[int] = []
        self._head: tuple[int, ...] | None = None
        self._body: bytearray | None = None  # that is being filled
        self._filled = 0
        self._got = 0  # bytes by the last read
        self._ready: Frame | None = None  # that was read in one piece
        self._mine: dict[int, tuple[mmap.mmap, int]] = {}
        self._free: dict[int, int] = {}  # of mine: number to size
        self._theirs: dict[int, mmap.mmap] = {}
        self._lost: list[mmap.mmap] = []
        self._last = 0
        self._keep: float | None = None

    @property
    def keep(self) -> float | None:
        """Seconds without a frame until `fill` raises TimeoutError; a worker's."""
        return self._keep

    @keep.setter
    def keep(self, seconds: float | None) -> None:
        self._keep = seconds

    # ---- sending ------------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Whether `flush` has to be called again."""
        return bool(self._out)

    @property
    def wants_socket(self) -> bool:
        """Whether that is once the socket takes more."""
        return bool(self._out)

    def put(
        self,
        kind: int,
        number: int = 0,
        count: int = 0,
        data: bytes = b"",
        buffers: Sequence[memoryview] = (),
    ) -> None:
        """Has a frame sent by the next `flush`. Where that raises, nothing of it will be."""
        parts: list[Chunk] = [data]
        size = len(data)
        if buffers:
            sizes = struct.pack(SIZES.format(len(buffers) + 1), size, *[b.nbytes for b in buffers])
            size += len(sizes)
            parts.insert(0, sizes)
            for buffer in buffers:
                gap = -size % ALIGNED
                if gap:
                    parts.append(bytes(gap))
                parts.append(buffer)
                size += gap + buffer.nbytes
        segment, fresh, fd = 0, 0, None
        if size > INLINE:
            segment, fresh, fd = self._place(size, parts)
        head = kind, len(buffers), number, count, size, segment, fresh
        self._queue(head, () if segment else parts, fd)

    def _queue(self, head: Head, parts: Sequence[Chunk], fd: int | None) -> None:
        """Has a frame sent by the next `flush`."""
        packed = HEADER.pack(*head)
        if fd is not None or head[4] <= SMALL:
            self._out.append((memoryview(packed + b"".join(parts)), fd))
        else:
            self._out.append((memoryview(packed), None))
            self._out += [(memoryview(part).cast("B"), None) for part in parts if len(part)]

    def send(self, kind: int, number: int, count: int, data: bytes) -> bool:
        """As `put` and `flush`, of SMALL bytes at most: nothing is raised but OSError."""
        whole = HEADER.pack(kind, 0, number, count, len(data), 0, 0) + data
        try:
            sent = 0 if self._out else self.sock.send(whole)
        except BlockingIOError:
            sent = 0
        if sent == len(whole):
            return True
        self._out.append((memoryview(whole)[sent:], None))
        return False

    def flush(self) -> bool:
        """Sends what there is; False if the socket would block. OSError: the other side is gone."""
        out = self._out
        if len(out) == 1 and out[0][1] is None:  # nearly always
            try:
                sent = self.sock.send(out[0][0])
            except BlockingIOError:
                return False
            if sent == out[0][0].nbytes:
                out.clear()
                return True
            out[0] = (out[0][0][sent:], None)
        while out:
            views = [out[0][0]]
            for view, other in out[1:64]:
                if other is not None:
                    break
                views.append(view)
            fd = out[0][1]
            extra = [] if fd is None else [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))]
            try:
                sent = self.sock.sendmsg(views, extra)
            except BlockingIOError:
                return False
            if fd is not None:
                os.close(fd)
                out[0] = (out[0][0], None)
            whole = 0
            for view in views:
                if sent < view.nbytes:
                    out[whole] = (view[sent:], None)
                    break
                sent -= view.nbytes
                whole += 1
            del out[:whole]
        return True

    def _place(self, size: int, parts: Sequence[Chunk]) -> tuple[int, int, int | None]:
        """Copies `parts` into a segment: its number, and size and descriptor if it is new."""
        fits = [(room, number) for number, room in self._free.items() if size <= room <= 4 * size]
        fd = None
        if fits:
            _, number = min(fits)
            del self._free[number]
            memory_of, fresh = self._mine[number][0], 0
        else:
            fresh = max(SMALLEST_SEGMENT, 1 << (size - 1).bit_length())
            fd = memory(fresh)
            if fd is None:
                return 0, 0, None
            import mmap

            # A descriptor of its own: the mapping's is closed when it likes.
            try:
                memory_of = mmap.mmap(fd, fresh)
            except BaseException:
                os.close(fd)
                raise
            self._last = number = self._last + 1
            self._mine[number] = (memory_of, fresh)
        at = 0
        for part in parts:
            end = at + (part.nbytes if isinstance(part, memoryview) else len(part))
            memory_of[at:end] = part
            at = end
        return number, fresh, fd

    # ---- receiving ----------------------------------------------------------------------------

    @property
    def may_have_more(self) -> bool:
        """Whether the last `fill` may have left something in the socket."""
        return self._body is not None or self._got >= AT_ONCE

    def fill(self) -> bool:
        """Reads once; False at the end of the stream. BlockingIOError: nothing is there."""
        if self._body is not None:
            with memoryview(self._body) as view, view[self._filled :] as rest:
                got = self.sock.recv_into(rest)
            self._filled += got
            return bool(got)
        if (buffer := self._buffer) is None:
            buffer = self._buffer = memoryview(bytearray(AT_ONCE))
        if self._keep is not None:
            self.sock.settimeout(self._keep)
        try:
            got, extra, flags, _ = self.sock.recvmsg_into((buffer,), ROOM)
        finally:
            if self._keep is not None:
                self.sock.settimeout(None)
        if flags & MSG_CTRUNC:
            raise OSError("a descriptor did not come: too many are open")
        data = bytes(buffer[:got])
        for _, _, fds in extra:
            self._fds += struct.unpack(f"{len(fds) // 4}i", fds[: len(fds) // 4 * 4])
        self._got = got
        if self._in or not self._whole(data):
            self._in += data
        return bool(data)

    def _whole(self, data: bytes) -> bool:
        """Whether that is one frame, without buffers: then it need not be copied again."""
        if len(data) < HEADER.size:
            return False
        head = HEADER.unpack_from(data)
        if head[1] or head[5] or HEADER.size + head[4] != len(data):
            return False
        self._ready = Frame(head, memoryview(data)[HEADER.size :])
        return True

    def get(self) -> Frame | None:
        """The next whole frame that has been read, if there is one."""
        while True:
            frame = self._next()
            if frame is None or frame.kind not in (FREE, LOST, DROP):
                return frame
            if frame.kind == DROP:
                if (mapped := self._theirs.pop(frame.number, None)) is not None:
                    mapped.close()
            elif frame.number in self._mine:
                self._regain(frame.number, frame.kind == FREE)

    def _next(self) -> Frame | None:
        if self._ready is not None:
            frame, self._ready = self._ready, None
            return frame
        if self._body is not None:
            if self._filled < len(self._body):
                return None
            head, self._head, body, self._body = self._head, None, self._body, None
            assert head is not None
            return Frame(head, body)
        if len(self._in) < HEADER.size:
            return None
        head = HEADER.unpack_from(self._in)
        _, _, _, _, size, segment, fresh = head
        if segment:
            del self._in[: HEADER.size]
            return Frame(head, self._view(segment, fresh, size))
        end = HEADER.size + size
        if len(self._in) < end:
            if size > AT_ONCE:
                self._head, self._body = head, bytearray(size)
                self._filled = len(self._in) - HEADER.size
                self._body[: self._filled] = self._in[HEADER.size :]
                self._in.clear()
            return None
        with memoryview(self._in) as whole:
            body = bytearray(whole[HEADER.size : end])
        del self._in[:end]
        return Frame(head, body)

    def _view(self, segment: int, fresh: int, size: int) -> memoryview:
        if fresh:
            import mmap

            fd = self._descriptor(segment)
            self._theirs[segment] = mmap.mmap(fd, fresh)
            os.close(fd)
        return memoryview(self._theirs[segment])[:size]

    def _descriptor(self, _segment: int) -> int:
        """That of a new segment."""
        return self._fds.pop(0)

    def done_with(self, frame: Frame) -> None:
        """Gives the memory of a frame back to its sender, with the next `flush`."""
        frame.buffers, frame.data = [], b""
        if not frame.segment:
            return
        mapped = self._theirs[frame.segment]
        try:
            mapped.resize(len(mapped))  # refused while anybody has a view of it
            self.put(FREE, frame.segment)
            return
        except (BufferError, SystemError):
            pass
        self.put(LOST, frame.segment)
        self._lost = [m for m in self._lost if not _closed(m)]
        self._lost.append(self._theirs.pop(frame.segment))

    @property
    def keeps_many(self) -> bool:
        """Whether so many objects live in segments that the next ones had better be copied."""
        if len(self._lost) >= KEPT_SEGMENTS:
            self._lost = [m for m in self._lost if not _closed(m)]
        return len(self._lost) >= KEPT_SEGMENTS

    def _regain(self, number: int, free: bool) -> None:
        if free:
            self._free[number] = self._mine[number][1]
            while len(self._free) > 1 and sum(self._free.values()) > FREE_BYTES:
                oldest = next(iter(self._free))
                del self._free[oldest]
                self._mine.pop(oldest)[0].close()
                self.put(DROP, oldest)
        else:
            self._mine.pop(number)[0].close()

    def trim(self) -> None:
        """Lets go of all memory, when both sides know that none is in use: each says nothing.

        What they said of it before, and the other reads later, means nothing any more.
        """
        for mapped, _ in self._mine.values():
            mapped.close()
        for mapped in self._theirs.values():
            _closed(mapped)
        self._mine, self._free, self._theirs, self._lost = {}, {}, {}, []

    def close(self) -> None:
        """Lets go of the socket and the memory."""
        self.sock.close()
        for fd in (*self._fds, *(fd for _, fd in self._out if fd is not None)):
            os.close(fd)
        self._fds, self._out = [], []
        self.trim()


def _closed(mapped: mmap.mmap) -> bool:
    """Closes a mapping that nothing lives in."""
    try:
        mapped.close()
    except BufferError:
        return False
    return True
