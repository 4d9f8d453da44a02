"""Carries the work of a map on somebody else's `concurrent.futures.Executor`, chunk by chunk.

A task of such an executor may cost a millisecond (Dask, Ray), so chunks grow to a tenth of a second
of what items took so far. WINDOW of them for each worker are with the executor at a time; `workers`
says how many workers it has where it does not tell (`_max_workers`). The function travels as worker
processes get theirs (`Portable`), so a lambda is no trouble; an executor of threads gets it as it is.

Each answer comes from a done callback, on whatever thread: it puts the future down and wakes the
front, in whose turn all else happens.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, TypeAlias

from gorun._errors import GoroutineCancelled
from gorun._gorun import Latch
from gorun._map.blocks import Block
from gorun._map.carrier import Job
from gorun._proc.codec import Codec
from gorun._proc.sizing import Sizing

WINDOW = 2
TARGET = 0.1  # seconds of a chunk
LONGEST_AHEAD = 1024

Outcome: TypeAlias = tuple[list[Any], dict[int, BaseException], float]


class Portable:
    """A function that pickles itself as worker processes get theirs."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __reduce__(self) -> tuple[Any, ...]:
        data, buffers = Codec(self.fn).dumps(self.fn)
        return _unpack, (data, [bytes(buffer) for buffer in buffers])


def _unpack(data: bytes, buffers: list[bytes]) -> Portable:
    return Portable(pickle.loads(data, buffers=buffers))


def run_chunk(portable: Portable, items: list[Any], star: bool, retries: int) -> Outcome:
    """Runs the items of a chunk where the executor has put it."""
    fn, values, errors = portable.fn, [], {}
    began = time.perf_counter()
    for place, item in enumerate(items):
        left = retries
        while True:
            try:
                value = fn(*item) if star else fn(item)
            except BaseException as error:
                if left and isinstance(error, Exception):
                    left -= 1
                    continue
                value, errors[place] = None, error
                if not isinstance(error, Exception):
                    raise
            break
        values.append(value)
    return values, errors, time.perf_counter() - began


class ExecutorCarrier:
    """A `BlockCarrier` (see blocks.py) that submits chunks."""

    def __init__(self, job: Job, executor: Executor, total: int | None) -> None:
        self.job = job
        self.failures: dict[int, BaseException] = {}
        self.broken: BaseException | None = None
        self._executor = executor
        self._portable = Portable(job.fn)
        told = getattr(executor, "_max_workers", None)
        self._workers = told if isinstance(told, int) and told > 0 else job.workers
        timed = job.item_timeout is not None
        most = None if job.buffer is None else max(1, job.buffer // (2 * self._workers))
        self._sizing = Sizing(self._workers, 1 if timed else job.chunk, most, TARGET)
        self._total = total
        self._taken = 0
        self._pending: deque[Block] = deque()
        self._running: dict[Future[Outcome], tuple[Block, float]] = {}
        self._done: deque[Future[Outcome]] = deque()
        self._answers: list[Block] = []
        self._latch: Latch | None = None
        self._cancelled = False
        self._grown = 0

    @property
    def ahead(self) -> int:
        if self.job.buffer is not None:
            return self.job.buffer
        return max(self._grown, self._sizing.usual * self._workers * (WINDOW + 2))

    def put(self, first: int, items: list[Any]) -> None:
        self._pending.append((first, items))
        self._submit()

    def finish(self) -> None:
        self._total = self._taken + sum(len(items) for _, items in self._pending)

    def collect(self) -> list[Block]:
        for _ in range(len(self._done)):
            self._take_in(self._done.popleft())
        self._submit()
        answers, self._answers = self._answers, []
        return answers

    def watch(self, out: int) -> Latch:
        self._latch = latch = Latch()
        idle = len(self._running) < self._workers and self.job.buffer is None
        if idle and self.ahead <= out < LONGEST_AHEAD:
            self._grown = min(2 * out, LONGEST_AHEAD)
            latch.set()
        if self._done or self._answers:
            latch.set()
        return latch

    def wait(self, latch: Latch, timeout: float | None) -> None:
        latch.wait(timeout)

    async def wait_async(self, latch: Latch, timeout: float | None) -> None:
        await latch.wait_async(timeout)

    def expire(self) -> float | None:
        limit = self.job.item_timeout
        if limit is None:
            return None
        now, nearest, late = time.monotonic(), limit, False
        for future, ((first, items), since) in list(self._running.items()):
            if not future.running():
                self._running[future] = ((first, items), now)
            elif since + limit > now:
                nearest = min(nearest, since + limit - now)
            elif self._running.pop(future, None):
                late = True
                self.failures[first] = TimeoutError(
                    f"item {first} of gorun.map took longer than {limit} s"
                )
                self._answers.append((first, [None] * len(items)))
        return 0.0 if late else min(nearest, 0.05)

    def cancel(self, reason: str) -> None:
        self._cancelled = True
        self._pending.clear()
        for future in list(self._running):
            future.cancel()
        self._wake()

    def join(self) -> None:
        """Nothing runs after the last answer."""

    async def join_async(self) -> None:
        """Nothing runs after the last answer."""

    def _submit(self) -> None:
        while self._pending and not self._cancelled and self.broken is None:
            if len(self._running) >= self._workers * WINDOW:
                return
            left = None if self._total is None else self._total - self._taken
            block = self._next(self._sizing.size(left))
            try:
                future = self._executor.submit(
                    run_chunk, self._portable, block[1], self.job.star, self.job.retries
                )
            except Exception as error:
                self.broken = error
                return
            self._running[future] = (block, time.monotonic())
            future.add_done_callback(self._came)

    def _next(self, most: int) -> Block:
        first, items = self._pending.popleft()
        if len(items) > most:
            self._pending.appendleft((first + most, items[most:]))
            items = items[:most]
        while self._pending and len(items) < most:
            number, more = self._pending.popleft()
            room = most - len(items)
            if len(more) > room:
                self._pending.appendleft((number + room, more[room:]))
            items = items + more[:room]
        self._taken += len(items)
        return first, items

    def _came(self, future: Future[Outcome]) -> None:
        self._done.append(future)
        self._wake()

    def _take_in(self, future: Future[Outcome]) -> None:
        block, _ = self._running.pop(future, (None, 0.0))
        if block is None:  # given up
            return
        first, items = block
        try:
            values, errors, seconds = future.result()
        except CancelledError:
            if not self._cancelled:
                self.broken = GoroutineCancelled("a chunk of gorun.map was cancelled")
            return
        except BaseException as failed:
            values, seconds = [None] * len(items), 0.0
            errors = dict.fromkeys(range(len(items)), failed)
        self._sizing.ran(len(items), seconds)
        for place, error in errors.items():
            self.failures[first + place] = error
        self._answers.append((first, values))

    def _wake(self) -> None:
        latch = self._latch
        if latch is not None:
            latch.set()
