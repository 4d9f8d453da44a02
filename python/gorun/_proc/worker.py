"""One worker process as its parent sees it. It waits for nothing; crew.py says when to look.

A worker is dead when its pidfd says so (without pidfd: when its socket is at the end). What it sent
before is read first: rings outlive their writer. It is reaped here, once, so its pid is its own until then.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from gorun._gorun import _Link
from gorun._proc import linked, start, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

_HEAD = struct.Struct("<QQQ")  # of the page: see wire.py

REAP_SECONDS = 0.5  # that is waited for a killed process to be gone


class Batch:
    """Items that were sent together, in their order, and the numbers they have."""

    __slots__ = ("alone", "answered", "asked", "items", "known", "number", "numbers", "since")

    def __init__(self, number: int, numbers: Sequence[int], items: list[Any], now: float) -> None:
        self.number = number
        self.numbers = numbers
        self.items = items
        self.answered = 0  # how many of the first ones
        self.since = now  # when it was sent, or became the first of its worker
        self.known = 0  # how many names were sent by value
        self.alone = False  # a call that was sent as it is
        self.asked = False  # the worker was asked to give back what it has not begun


class Worker:
    """A process, its socket, and the batches that it has and has not answered."""

    def __init__(self, share: start.Share, name: str, by_value: bool = False) -> None:
        self.share = share
        self._ends = start.start(share)
        self.pid = self._ends.pid
        self.pidfd = _pidfd(self.pid)
        self.link: _Link | None = None
        self.wire = wire.Wire(self._ends.sock)
        self.batches: deque[Batch] = deque()
        self.ready = False  # has taken its job
        self.left: int | None = None  # items until it is to end
        self.leaving = False  # gets no more
        self.exitcode: int | None = None  # once reaped
        self.closed = False
        self._page: mmap.mmap | None = None
        if self._ends.memory is not None:
            try:
                import mmap

                self._page = mmap.mmap(self._ends.memory, wire.PAGE)  # wants one descriptor more
                self.link = _Link(self._ends.memory, wire.PAGE)
            except BaseException:
                self.end(kill=True)
                raise
            finally:
                os.close(self._ends.memory)
            self.wire = linked.ParentEnd(self._ends.sock, self.link)
        self._last = 0
        self._told: dict[str, object] = {}
        self.tell(name, by_value)

    @property
    def fd(self) -> int:
        """What to watch for frames."""
        return self._ends.sock.fileno()

    def tell(self, name: str, by_value: bool = False) -> None:
        """Tells it what it has to know of this process, where that is news."""
        told = start.setup(name, self.share)
        if by_value:
            told["by_value"] = True
        if told != self._told:
            self._told = told
            self.wire.put(wire.SETUP, data=pickle.dumps(told))

    def take_job(self, number: int, job: tuple[bytes, list[memoryview]], keep: float) -> None:
        """Says what is to be done; without work for `keep` seconds (0: for ever) it ends."""
        self.ready = False
        self.wire.put(wire.JOB, number, int(keep * 1000), *job)

    def rest(self, keep: float) -> None:
        """Takes the job away, and what belongs to it."""
        self.wire.put(wire.JOB, 0, int(keep * 1000))
        self.wire.trim()

    def send(
        self, numbers: Sequence[int], items: list[Any], packed: tuple[bytes, list[memoryview]]
    ) -> None:
        """Hands a batch over."""
        batch = Batch(self._last + 1, numbers, items, time.monotonic())
        self.wire.put(wire.BATCH, batch.number, len(items), *packed)  # first: it may raise
        self._last = batch.number
        if (tokens := self._ends.tokens) is not None:
            os.write(tokens[1], wire.TOKEN.pack(batch.number))
        self.batches.append(batch)
        if self.left is not None:
            self.left -= len(items)

    @property
    def takes_calls(self) -> bool:
        """Whether a call may be sent as it is: it says in the page what it has begun."""
        return self.ready and not self.batches and self.link is not None

    def call(self, number: int, item: bytes, look_out: bool) -> bool:
        """Sends one packed call as it is; False if the wire has to be flushed."""
        last = self._last + 1
        batch = Batch(last, (number,), [item], time.monotonic())
        batch.alone = True
        how = wire.LOOK_OUT if look_out else wire.SLEEP
        if large := len(item) > wire.SMALL:
            self.wire.put(wire.CALL, last, how, item)  # first: it may raise
        self._last = last  # no number is left out: claims go from one to the next
        self.batches.append(batch)
        if self.left is not None:
            self.left -= 1
        try:
            return self.wire.flush() if large else self.wire.send(wire.CALL, last, how, item)
        except OSError:  # it is dead: its pidfd says so, or its socket
            self.forsake()
            return True

    def regain(self) -> list[Batch]:
        """Takes back the batches that it has not begun: all but those that it has claimed."""
        count = 0
        if self.link is not None:
            claimed = self.link.claim_back(self._last)
            if claimed > self._last:
                self.forsake()
            for batch in self.batches:
                count += batch.number > claimed
        elif (tokens := self._ends.tokens) is not None:
            with suppress(BlockingIOError):
                while os.read(tokens[0], wire.TOKEN.size):
                    count += 1
        back = [self.batches.pop() for _ in range(count)][::-1]
        if self.left is not None:
            self.left += sum(len(batch.items) for batch in back)
        return back

    def ask_back(self, batch: Batch) -> None:
        """Asks it to give back what it has not begun of a batch."""
        batch.asked = True
        with suppress(OSError):  # it is dead, and we are about to see it
            os.write(self._ends.control, wire.TOKEN.pack(batch.number))

    def begun(self, batch: Batch) -> int:
        """How many items of a batch a dead worker had begun."""
        if self._page is None:
            return len(batch.items) if batch is self.batches[0] else 0
        number, count, _ = _HEAD.unpack_from(self._page)
        return min(count, len(batch.items)) if number == batch.number else 0

    def logged(self, batch: Batch) -> dict[int, Any]:
        """What a dead worker had noted of the outcomes of a batch, by their places."""
        found: dict[int, Any] = {}
        if self._page is None:
            return found
        number, _, size = _HEAD.unpack_from(self._page)
        at = wire.LOG
        end = at + size if number == batch.number else at
        while at < end:
            place, length = wire.ENTRY.unpack_from(self._page, at)
            at += wire.ENTRY.size
            with suppress(Exception):  # then it is one more that was lost
                found[place] = pickle.loads(self._page[at : at + length])
            at += length
        return found

    def dead(self) -> bool:
        """Whether it has ended; then `exitcode` is there."""
        if self.exitcode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else reaped it
                pid, status = self.pid, 0
            if pid:
                self.exitcode = os.waitstatus_to_exitcode(status)
        return self.exitcode is not None

    def signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if not self.dead():
            try:
                if self.pidfd is not None:
                    signal.pidfd_send_signal(self.pidfd, number)
                else:
                    os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """Kills it, and waits for nothing."""
        self.signal(signal.SIGKILL)

    def forsake(self) -> None:
        """Kills one that has no socket any more, or wrote nonsense into its rings; if it is not dead anyway."""
        if self.link is not None:
            self.kill()

    def leave(self) -> None:
        """Has it end after what it has; it is gone when `dead` says so."""
        self.leaving = True
        self.wire.put(wire.EXIT)

    def end(self, kill: bool) -> None:
        """Ends it (if it is idle, by itself), waits for that, and lets go of everything."""
        if self.closed:
            return
        self.closed = True
        if kill:
            self.kill()
        self._ends.sock.close()  # the end of the stream, for one that is idle
        if self.link is not None:
            self.link.close()
        if not self._gone(REAP_SECONDS):
            self.kill()
            if not self._gone(REAP_SECONDS):
                self._reap()
        self.forget()

    def bury(self) -> None:
        """Waits for the end of one that was killed. Its descriptors stay: another thread may be using them."""
        self._gone(REAP_SECONDS)

    def _reap(self) -> None:
        """Has a thread wait for one that was killed and takes its time, as it may on a busy machine."""
        with suppress(RuntimeError):  # the interpreter ends: whoever inherits it will
            threading.Thread(target=self._wait_for_it, name="gorun-reaper", daemon=True).start()

    def _wait_for_it(self) -> None:
        with suppress(ChildProcessError):  # somebody else reaped it
            os.waitpid(self.pid, 0)

    def _gone(self, seconds: float) -> bool:
        limit = time.monotonic() + seconds
        while not self.dead():
            left = limit - time.monotonic()
            if left <= 0:
                return False
            if self.pidfd is not None:
                poll = select.poll()
                poll.register(self.pidfd, select.POLLIN)
                poll.poll(left * 1000)
            else:
                time.sleep(0.001)
        return True

    def forget(self) -> None:
        """Closes this side's ends, and no more: all that a forked child may do."""
        self.closed = True
        if self.link is not None:
            self.link.desert()
        self.wire.close()
        fds = [self._ends.lifeline, self._ends.control, *(self._ends.tokens or ())]
        for fd in fds if self.pidfd is None else [*fds, self.pidfd]:
            with suppress(OSError):
                os.close(fd)
        if self._page is not None:
            self._page.close()


def _pidfd(pid: int) -> int | None:
    if os.environ.get("GORUN_PIDFD") == "0":
        return None
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
