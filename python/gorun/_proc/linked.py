"""Frames by rings in shared memory: what the two ends of a `Wire` are where there is such memory.

The rings are Rust's (`gorun_core::ring`, its README has the protocol): nothing is copied into the kernel, no call is
made of it while both sides are awake, and who sleeps is woken once. The socket is there for
- descriptors of new segments, each sent before its frame is, with the segment's number;
- the bell: a byte for a parent that asked for it. It asks again whenever it has read from the socket, and then looks
  for frames once more. So what it is to see is either told by a byte that is still there, or will be;
- the end: who has closed its socket is gone.

A body for which no segment could be had goes in pieces: the first with the head of the whole, MORE of them behind.

A worker sleeps at its ring. It ends with its parent by a signal (child.py: the lifeline), and looks at the socket
now and then: where that signal could not be set up (`tied`) more often. An item may have closed both.

Both sides load this file; it imports nothing but what a bare interpreter has at hand.
"""

from __future__ import annotations

import os
import struct
import sys
from _socket import MSG_CTRUNC, MSG_DONTWAIT, MSG_PEEK, SCM_RIGHTS, SOL_SOCKET
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence
    from typing import Any

    from gorun._gorun import _Link
    from gorun._proc import wire
else:
    from _collections import deque

    if __name__ == "_gorun_linked":  # a worker's
        wire = sys.modules["_gorun_wire"]
    else:
        from gorun._proc import wire

WATCH, WATCH_TIED = 1.0, 30.0  # seconds between two looks of a worker at its socket
SEGMENT = struct.Struct("<Q")  # what comes with a descriptor


class Linked(wire.Wire):
    """What both ends have in common."""

    def __init__(self, sock: Any, link: _Link) -> None:
        super().__init__(sock)
        self.link = link
        self._unsent: deque[tuple[wire.Head, bytes]] = deque()
        self._passing: deque[tuple[int, int]] = (
            deque()
        )  # (segment, descriptor) of those that are new
        self._frames: deque[tuple[wire.Head, bytes]] = deque()
        self._new: dict[int, int] = {}  # descriptors of segments that were not seen yet
        self._pieces: tuple[wire.Head, bytearray] | None = None  # of a frame that is not whole

    # ---- sending ------------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Whether `flush` has to be called again."""
        return bool(self._unsent)

    @property
    def wants_socket(self) -> bool:
        """Whether the socket has to take a descriptor before the next frame can go."""
        return bool(self._unsent and self._passing) and self._passing[0][0] == self._unsent[0][0][5]

    def _queue(self, head: wire.Head, parts: Sequence[wire.Chunk], fd: int | None) -> None:
        if fd is not None:
            self._passing.append((head[5], fd))
        body = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        self._unsent.append((head, body[: wire.INLINE]))
        for at in range(wire.INLINE, len(body), wire.INLINE):
            piece = body[at : at + wire.INLINE]
            self._unsent.append(((wire.MORE, 0, 0, 0, len(piece), 0, 0), piece))

    def send(self, kind: int, number: int, count: int, data: bytes) -> bool:
        """As `put` and `flush`, of SMALL bytes at most: nothing is raised but OSError."""
        if not self._unsent and self.link.send(kind, 0, number, count, len(data), 0, 0, data):
            return True
        self._unsent.append(((kind, 0, number, count, len(data), 0, 0), data))
        return False

    def flush(self) -> bool:
        """Sends what there is; False if there is no room. OSError: the other side is gone."""
        unsent = self._unsent
        while unsent:
            head, body = unsent[0]
            if self.wants_socket and not self._pass_one():
                return False
            if not self.link.send(*head, body):
                return False
            unsent.popleft()
        return True

    def _pass_one(self) -> bool:
        """Sends the next descriptor, if the socket takes it."""
        segment, fd = self._passing[0]
        rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))]
        try:
            self.sock.sendmsg([SEGMENT.pack(segment)], rights)
        except BlockingIOError:
            return False
        self._passing.popleft()
        os.close(fd)
        return True

    # ---- receiving ----------------------------------------------------------------------------

    def _next(self) -> wire.Frame | None:
        while self._frames:
            head, body = self._frames.popleft()
            if head[5]:
                return wire.Frame(head, self._view(head[5], head[6], head[4]))
            if head[0] != wire.MORE and head[4] == len(body):
                # Buffers are for objects that may be changed.
                return wire.Frame(head, bytearray(body) if head[1] else body)
            if self._pieces is None:
                self._pieces = head, bytearray()
            head, whole = self._pieces
            whole += body
            if len(whole) >= head[4]:
                self._pieces = None
                return wire.Frame(head, whole)
        return None

    def _descriptor(self, segment: int) -> int:
        while segment not in self._new:  # it was sent before: nothing is waited for
            try:
                alive = self.read_socket()
            except BlockingIOError:
                alive = False
            if not alive:
                raise OSError("a frame came without its memory")
        return self._new.pop(segment)

    def read_socket(self) -> bool:
        """Takes in descriptors; False at its end. BlockingIOError: nothing is there."""
        data, extra, flags, _ = self.sock.recvmsg(wire.SMALL, wire.ROOM, MSG_DONTWAIT)
        for _, _, fds in extra:  # one: the kernel stops behind it, so its number comes last
            (self._new[SEGMENT.unpack(data[-SEGMENT.size :])[0]],) = struct.unpack("i", fds)
        if flags & MSG_CTRUNC:
            raise OSError("a descriptor did not come: too many are open")
        return bool(data)

    def close(self) -> None:
        """Lets go of the socket and the memory."""
        for fd in (*dict(self._passing).values(), *self._new.values()):
            os.close(fd)
        self._passing.clear()
        self._new.clear()
        super().close()


class ParentEnd(Linked):
    """A parent's: nothing waits, the socket is watched by who owns this."""

    def __init__(self, sock: Any, link: _Link) -> None:
        super().__init__(sock, link)
        self._more = False  # asked for the bell, and has not looked since

    @property
    def may_have_more(self) -> bool:
        """Whether `fill` has to be called once more."""
        return self._more

    def fill(self) -> bool:
        """Takes all frames that are there. BlockingIOError: none is; OSError: they make no sense."""
        self._more = False
        frames = self.link.receive()
        if not frames:
            raise BlockingIOError
        self._frames.extend(frames)
        return True

    def read_socket(self) -> bool:
        """As all ends do. Then frames have to be looked for (`fill`)."""
        try:
            return super().read_socket()
        finally:
            self._more = True
            self.link.arm()

    def heard(self) -> bool:
        """The bell: False if it was the end of the socket. Then frames have to be looked for."""
        try:
            return self.read_socket()
        except BlockingIOError:  # somebody else has heard it
            return True
        except OSError:
            return False


class WorkerEnd(Linked):
    """A worker's: it waits where there is no room, or no frame."""

    def __init__(self, sock: Any, link: _Link, tied: bool) -> None:
        super().__init__(sock, link)
        self._watch = WATCH_TIED if tied else WATCH
        self.keep = None

    def send(self, kind: int, number: int, count: int, data: bytes) -> bool:
        """As `put` and `flush`."""
        return super().send(kind, number, count, data) or self.flush()

    def claim(self, number: int) -> bool:
        """Claims a batch; False if the parent has it back. OSError: the parent is gone."""
        return self.link.claim(number)

    def flush(self) -> bool:
        """Sends what there is. OSError: the parent is gone."""
        while not super().flush():
            if not self.link.wait_for_room(self._watch) or self._is_orphan():
                raise OSError("the parent is gone")
        return True

    def fill(self) -> bool:
        """Waits for frames; False at the end of the stream, or when `keep` is over."""
        link, limit = self.link, None if self.keep is None else monotonic() + self.keep
        look_out, self.look_out = self.look_out, 0.0
        while True:
            left = self._watch if limit is None else min(self._watch, limit - monotonic())
            found = link.wait(look_out, left)
            if found:
                self._frames.extend(link.receive())
                return True
            if found is None or (limit is not None and monotonic() >= limit) or self._is_orphan():
                return False

    def _is_orphan(self) -> bool:
        """Whether the parent has closed the socket, or an item has."""
        try:
            return not self.sock.recv(1, MSG_PEEK | MSG_DONTWAIT)  # else of a descriptor's number
        except BlockingIOError:
            return False
        except OSError:
            return True
