"""Carries the work of a map on worker processes: numbered items in, blocks of values out.

The crew (`gorun._proc.crew`) has the workers; this is its client. What it holds is pending items and
answers that the front has not collected, and it is changed with the crew's turn, or by the front
while it has the flow's; each hand-over is one operation on a deque or a dict.

A plain thread that waits serves the crew itself, so that no result changes threads. A goroutine, a
task, or a thread inside a scope (`gorun.timeout`, `Group`) waits on a latch, where it can be cut, and
then the crew has a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from gorun._errors import WorkerDied
from gorun._gorun import Latch, _cancellable
from gorun._map.blocks import Block
from gorun._map.carrier import Job, longest_ahead
from gorun._proc import warm
from gorun._proc.codec import Codec, goes_by_value
from gorun._proc.crew import Crew
from gorun._proc.sizing import Sizing
from gorun._proc.start import share_of
from gorun._runtime import is_interrupted

# Batches for each worker that the front may run ahead: one runs, one is there, two are with the
# caller or wait for their turn.
BATCHES_AHEAD = 4
# Behind a long item there is work to do: where workers are idle, the run-ahead grows as far as
# carrier.py has it, and up to as many bytes.
BYTES_AHEAD = 1 << 26

NAME = "gorun.map"
FIRST = 4  # workers that are started ahead where nobody knows how many items there are

_clock = time.monotonic


class ProcessCarrier:
    """A `BlockCarrier` (see blocks.py) whose workers are processes."""

    def __init__(self, job: Job, total: int | None) -> None:
        self.job = job
        self.failures: dict[int, BaseException] = {}
        self.broken: BaseException | None = None
        self.cancelled = False
        self._pending: deque[Block] = deque()  # to be begun, in order
        self._answers: deque[Block] = deque()
        self._latch: Latch | None = None  # the front's, while it waits
        self._news = False
        self._total = total
        self._taken = 0  # by the crew, of what will be taken
        self._ending = False
        self._fatal: int | None = None  # behind this item nothing is wanted
        self._tries: dict[int, int] = {}  # of items that workers died with: they go one by one
        self._grown = 0
        self._longest = longest_ahead(total)
        timed = job.item_timeout is not None
        most = None
        if job.buffer is not None:
            most = max(1, job.buffer // (2 * job.workers))
        self._sizing = Sizing(job.workers, 1 if timed else job.chunk, most)
        self._crew: Crew | None = None

    # ---- the front's side -----------------------------------------------------------------------

    @property
    def ahead(self) -> int:
        """How many items the front may be ahead of what it gave."""
        if self.job.buffer is not None:
            return self.job.buffer
        return max(self._grown, self._sizing.usual * self.job.workers * BATCHES_AHEAD)

    def put(self, first: int, items: list[Any]) -> None:
        """Takes a block of items over."""
        if self.cancelled or self._fatal is not None:
            return
        if self._crew is None:
            self._crew = self._hire()
        self._pending.append((first, items))
        if self._crew.room:
            self._crew.push()

    def finish(self) -> None:
        """Says that the last item was handed over."""
        self._ending = True

    def collect(self) -> list[Block]:
        """Takes all answers that are there."""
        self._news = False
        take = self._answers.popleft
        return [take() for _ in range(len(self._answers))]

    def watch(self, out: int) -> Latch:
        """Makes the latch of a wait while `out` items are taken and not given."""
        self._latch = latch = Latch()
        more = self.job.buffer is None and not self._ending
        if more and self._crew is not None and out >= self.ahead and self._crew.idle:
            most = self._longest
            if self._sizing.bytes * most > BYTES_AHEAD:
                most = int(BYTES_AHEAD / self._sizing.bytes)
            if out < most:
                self._grown = min(2 * out, most)
                latch.set()
        if self._news:
            latch.set()
        return latch

    def wait(self, latch: Latch, timeout: float | None) -> None:
        """Waits for the latch, and meanwhile for the workers."""
        crew = self._crew
        if crew is not None and not crew.in_background and _cancellable():
            crew.background()  # only a wait of gorun can be cut
        if crew is None or crew.in_background:
            latch.wait(timeout)
            return
        limit = None if timeout is None else _clock() + timeout
        left = timeout
        while not latch.is_set():
            crew.serve(left)
            if limit is not None and (left := limit - _clock()) <= 0:
                return

    async def wait_async(self, latch: Latch, timeout: float | None) -> None:
        """As `wait`, for a task or an async goroutine."""
        if self._crew is not None:
            self._crew.background()
        await latch.wait_async(timeout)

    def expire(self) -> float | None:
        """Fails the items that overran `item_timeout`; seconds until the next look."""
        limit = self.job.item_timeout
        if limit is None or self._crew is None:
            return None
        nearest, late = self._crew.expire(limit)
        for number in late:
            error = TimeoutError(f"item {number} of gorun.map took longer than {limit} s")
            self._settle(number, error)
        if late:
            self._crew.push()
        return 0.0 if late else nearest

    def cancel(self, reason: str) -> None:
        """Drops what has not begun, and kills who is busy. From any thread, also from a collector."""
        self.cancelled = True
        self._pending.clear()
        if self._crew is not None:
            self._crew.end()
        self._wake_front()

    def interrupt(self) -> None:
        """Ends it from the main thread, with a KeyboardInterrupt for who waits."""
        self.broken = KeyboardInterrupt("gorun.map was interrupted")
        self._news = True
        if self._crew is not None:
            self._crew.wake()
        self._wake_front()

    def join(self) -> None:
        """Nothing runs after the last answer."""

    async def join_async(self) -> None:
        """Nothing runs after the last answer."""

    def _hire(self) -> Crew:
        job = self.job
        if goes_by_value(job.fn):  # for the first time: this process has to load cloudpickle, too
            most = FIRST if self._total is None else self._total
            warm.prepare(share_of(job.workers, None), min(job.workers, most), NAME)
        codec = Codec(job.fn, job.initializer)
        _hiring.add(self)
        packed = codec.job(
            job.fn, job.initializer, job.initargs, star=job.star, retries=job.retries
        )
        return Crew(
            self,
            codec,
            packed,
            self._sizing,
            limit=job.workers,
            name=NAME,
            max_tasks=job.max_tasks,
            timed=job.item_timeout is not None,
            stateful=job.initializer is not None,
        )

    # ---- the crew's side ------------------------------------------------------------------------

    def left(self) -> int | None:
        if self._ending:
            return sum(len(items) for _, items in self._pending)
        return None if self._total is None else max(1, self._total - self._taken)

    def has_more(self) -> bool:
        return bool(self._pending)

    def is_busy(self) -> bool:
        return True

    def take(self, most: int) -> tuple[range, list[Any]] | None:
        pending = self._pending
        try:
            first, items = pending.popleft()
        except IndexError:
            return None
        tried = self._tries
        if first in tried:  # alone, so that the next death costs none of those beside it
            most = 1
        if len(items) > most:
            pending.appendleft((first + most, items[most:]))
            items = items[:most]
        else:
            while pending and len(items) < most and pending[0][0] == first + len(items):
                if tried and pending[0][0] in tried:
                    break
                number, more = pending.popleft()
                room = most - len(items)
                if len(more) > room:
                    pending.appendleft((number + room, more[room:]))
                    more = more[:room]
                items = items + more
        self._taken += len(items)
        return range(first, first + len(items)), items

    def back(self, numbers: Sequence[int], items: list[Any]) -> None:
        self._taken -= len(items)
        if not self.cancelled and (self._fatal is None or numbers[0] < self._fatal):
            self._pending.appendleft((numbers[0], items))

    def answer(
        self, numbers: Sequence[int], values: list[Any], errors: dict[int, BaseException]
    ) -> None:
        for place, error in errors.items():
            self._fail(numbers[place], error)
        self._answers.append((numbers[0], values))
        self._news = True

    def died(self, numbers: Sequence[int], items: list[Any], exitcode: int | None) -> None:
        held = tuple(items)
        names = f"item {numbers[0]}" if len(held) == 1 else f"items {numbers[0]} to {numbers[-1]}"
        again: list[tuple[int, Any]] = []
        for number, item in zip(numbers, items, strict=True):
            tries = self._tries[number] = self._tries.get(number, 0) + 1
            if tries <= self.job.retries:
                again.append((number, item))
                continue
            text = f"a worker process of gorun.map died (exit code {exitcode}) with {names} begun"
            self._settle(number, WorkerDied(text, held, exitcode))
        for number, item in reversed(again):
            self.back(range(number, number + 1), [item])

    def result(self, number: int, value: Any, error: BaseException | None) -> None:
        """Never: items of a map go in batches."""

    def broke(self, error: BaseException) -> None:
        self.broken = error
        self._news = True

    def name(self, number: int) -> str:
        return f"item {number} of gorun.map"

    def wake(self) -> None:
        if self._news or self.cancelled:
            self._wake_front()

    def _settle(self, number: int, error: BaseException) -> None:
        self._fail(number, error)
        self._answers.append((number, [None]))
        self._news = True

    def _fail(self, number: int, error: BaseException) -> None:
        self.failures[number] = error
        if self.job.is_fatal(error) and (self._fatal is None or number < self._fatal):
            self._fatal = number
            for _ in range(len(self._pending)):
                first, items = self._pending.popleft()
                if first < number:
                    self._pending.append((first, items))

    def _wake_front(self) -> None:
        latch = self._latch
        if latch is not None:
            latch.set()


_hiring: WeakSet[ProcessCarrier] = WeakSet()


def _at_exit() -> None:
    """The exit waits for threads, and those for their maps: a Ctrl-C that ends the program ends them."""
    if is_interrupted():
        for carrier in tuple(_hiring):
            carrier.interrupt()


with suppress(RuntimeError):  # of an import at the very end
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
