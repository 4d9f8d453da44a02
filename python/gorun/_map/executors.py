"""Carries the work of a map on somebody else's `concurrent.futures.Executor`, chunk by chunk.

A task of such an executor may cost a millisecond (Dask, Ray), so chunks grow to TARGET seconds of what
items took so far. WINDOW of them for each worker are with the executor at a time; `workers` says how
many workers it has where neither it nor its client tells. parcels.py is what travels.

Each answer comes from a done callback, on whatever thread: it puts the future down and wakes the
front, in whose turn all else happens. A chunk that fails as a whole, because its worker was lost and
the executor's own retries came to their end, fails its items with `WorkerDied`.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from gorun._errors import GoroutineCancelled, WorkerDied
from gorun._gorun import Latch
from gorun._map.blocks import Block
from gorun._map.carrier import Job, longest_ahead
from gorun._map.parcels import Parcel, Portable, run_chunk
from gorun._proc.sizing import Sizing

WINDOW = 2
TARGET = 0.2  # seconds of a chunk: 0.1 to 1, as items vary
# How engines call it, which are not imported here: Dask, Ray.
LOST = ("KilledWorker", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")


def workers_of(executor: Executor) -> int | None:
    """How many calls the executor runs at a time, as far as it tells."""
    told = getattr(executor, "_max_workers", None)
    if told is None and (client := getattr(executor, "_client", None)) is not None:
        threads = client.nthreads()  # of a Dask client, by worker
        told = sum(threads.values()) if isinstance(threads, dict) else None
    return told if isinstance(told, int) and told > 0 else None


class ExecutorCarrier:
    """A `BlockCarrier` (see blocks.py) that submits chunks."""

    def __init__(self, job: Job, executor: Executor, total: int | None) -> None:
        self.job = job
        self.failures: dict[int, BaseException] = {}
        self.broken: BaseException | None = None
        self._executor = executor
        self._portable = Portable(job.fn)
        self._token = os.urandom(16).hex()
        self._numbers = itertools.count()
        self._workers = workers_of(executor) or job.workers
        timed = job.item_timeout is not None
        most = None if job.buffer is None else max(1, job.buffer // (2 * self._workers))
        self._sizing = Sizing(self._workers, 1 if timed else job.chunk, most, TARGET)
        self._total = total
        self._taken = 0
        self._pending: deque[Block] = deque()
        self._running: dict[Future[Parcel], tuple[Block, float]] = {}
        self._done: deque[Future[Parcel]] = deque()
        self._answers: list[Block] = []
        self._latch: Latch | None = None
        self._cancelled = False
        self._grown = 0
        self._longest = longest_ahead(total)

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
        if idle and self.ahead <= out < self._longest:
            self._grown = min(2 * out, self._longest)
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
                future = self._submit_block(block)
            except Exception as error:
                self.broken = error
                return
            self._running[future] = (block, time.monotonic())
            future.add_done_callback(self._came)

    def _submit_block(self, block: Block) -> Future[Parcel]:
        first, items = block
        token = f"{self._token}-{next(self._numbers)}"
        parcel = Parcel(items, {}, self._portable.codec, first)
        star, retries = self.job.star, self.job.retries
        return self._executor.submit(run_chunk, self._portable, parcel, star, retries, token)

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

    def _came(self, future: Future[Parcel]) -> None:
        self._done.append(future)
        self._wake()

    def _take_in(self, future: Future[Parcel]) -> None:
        block, _ = self._running.pop(future, (None, 0.0))
        if block is None:  # given up
            return
        first, items = block
        try:
            parcel = future.result()
            values, errors, seconds = parcel.values, parcel.errors, parcel.seconds
        except CancelledError:
            if not self._cancelled:
                self.broken = GoroutineCancelled("a chunk of gorun.map was cancelled")
            return
        except BaseException as failed:
            values, seconds = [None] * len(items), 0.0
            errors = dict.fromkeys(range(len(items)), _lost(failed, first, items))
        self._sizing.ran(len(items), seconds)
        for place, error in errors.items():
            self.failures[first + place] = error
        self._answers.append((first, values))

    def _wake(self) -> None:
        latch = self._latch
        if latch is not None:
            latch.set()


def _lost(failed: BaseException, first: int, items: list[Any]) -> BaseException:
    """What the items of a chunk fail with that failed as a whole."""
    lost = isinstance(failed, BrokenExecutor) or type(failed).__name__ in LOST
    if not lost or isinstance(failed, WorkerDied):
        return failed
    last = first + len(items) - 1
    of = f"item {first}" if first == last else f"items {first} to {last}"
    kind: Any = type(failed)
    error = _kind(kind)(f"the executor lost {of} of gorun.map: {failed}", tuple(items))
    error.__cause__ = failed
    return error


@functools.cache
def _kind(failed: Any) -> type[WorkerDied]:
    """A WorkerDied that is a BrokenProcessPool too, say, where that is what the executor said."""
    if not issubclass(failed, BrokenExecutor):
        return WorkerDied
    return type("LostWorker", (WorkerDied, failed), {"__module__": __name__})
