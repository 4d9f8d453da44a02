"""Waiting for several goroutines: ``wait`` and ``as_completed``, as in ``concurrent.futures``.

Each stands on done callbacks and one latch; whoever waits blocks or awaits that. A time-out or a
cancel leaves the goroutines alone, and takes the callbacks back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from gorun._gorun import CountDown, Goroutine, current
from gorun._settings import check_timeout

T = TypeVar("T")

# Never opened, only tried: a cancel point for where the next goroutine is there already.
_NEVER = CountDown()

_WHEN = ("FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")


class DoneAndNotDone(NamedTuple):
    """What ``wait`` returns: the goroutines that have ended, and the others."""

    done: set[Goroutine[Any]]
    not_done: set[Goroutine[Any]]


def _check(gs: Iterable[Goroutine[Any]]) -> list[Goroutine[Any]]:
    out = list(dict.fromkeys(gs))
    me = current()
    for g in out:
        if not isinstance(g, Goroutine):
            raise TypeError(f"expected goroutines, got {g!r} of type {type(g).__name__}")
        if g is me:
            raise RuntimeError("a goroutine cannot join itself")
    return out


def _failed(g: Goroutine[Any]) -> bool:
    return g._failed()


class _Gate:
    """Opens a latch when ``return_when`` is met."""

    def __init__(self, gs: list[Goroutine[Any]], when: str) -> None:
        if when not in _WHEN:
            raise ValueError(f"return_when must be one of {', '.join(_WHEN)}, not {when!r}")
        self.gs = gs
        self.when = when
        self.latch = CountDown(max(1, len(gs)))
        if not gs:
            self.latch.set()
        self.callback = self._ended
        for g in gs:
            g.add_done_callback(self.callback)

    def leave(self) -> None:
        """Take the callbacks back from those that have not ended."""
        for g in self.gs:
            g._drop_done_callback(self.callback)
        del self.callback  # it refers to us

    def _ended(self, g: Goroutine[Any]) -> None:
        if self.when == "FIRST_COMPLETED" or (self.when == "FIRST_EXCEPTION" and _failed(g)):
            self.latch.set()
        elif not self.latch.is_set():
            self.latch.done()

    def sets(self) -> DoneAndNotDone:
        done = {g for g in self.gs if g.done()}
        return DoneAndNotDone(done, set(self.gs) - done)


def wait(
    fs: Iterable[Goroutine[Any]],
    timeout: float | None = None,
    return_when: str = "ALL_COMPLETED",
) -> DoneAndNotDone:
    """Wait for goroutines; returns ``(done, not_done)`` as ``concurrent.futures.wait`` does.

    ``timeout`` in seconds; running out is no error, what has not ended is in ``not_done``.
    ``return_when``: "ALL_COMPLETED", "FIRST_COMPLETED" or "FIRST_EXCEPTION". RuntimeError where a
    goroutine waits for itself.

    >>> import gorun
    >>> done, rest = gorun.wait([gorun.go(abs, -1), gorun.go(abs, -2)])
    >>> sorted(g.result() for g in done), rest
    ([1, 2], set())
    """
    gate = _Gate(_check(fs), return_when)
    try:
        gate.latch.wait(timeout)
    finally:
        gate.leave()
    return gate.sets()


async def wait_async(
    fs: Iterable[Goroutine[Any]],
    timeout: float | None = None,
    return_when: str = "ALL_COMPLETED",
) -> DoneAndNotDone:
    """As ``wait``, awaited by a goroutine or an asyncio task.

    >>> import gorun
    >>> async def main() -> int:
    ...     return len((await gorun.wait_async([gorun.go(abs, -1)])).done)
    >>> gorun.run(main)
    1
    """
    gate = _Gate(_check(fs), return_when)
    try:
        await gate.latch.wait_async(timeout)
    finally:
        gate.leave()
    return gate.sets()


class _Stream:
    """Goroutines in the order of their ends."""

    def __init__(self, gs: list[Goroutine[Any]], timeout: float | None) -> None:
        limit = check_timeout(timeout)
        self.end = None if limit is None else time.monotonic() + limit
        self.gs = gs
        self.total = len(gs)
        self.left = self.total
        self.ready: deque[Goroutine[Any]] = deque()
        self.lock = threading.Lock()
        self.latch: CountDown | None = None

    def enter(self) -> None:
        """Hear of the ends. At the first step: one that is made and dropped has done nothing."""
        self.callback = self._ended
        for g in self.gs:
            g.add_done_callback(self.callback)

    def leave(self) -> None:
        """Take the callbacks back from those that have not ended."""
        for g in self.gs:
            g._drop_done_callback(self.callback)
        del self.callback  # it refers to us

    def _ended(self, g: Goroutine[Any]) -> None:
        with self.lock:
            self.ready.append(g)
            latch, self.latch = self.latch, None
        if latch is not None:
            latch.set()

    def take(self) -> Goroutine[Any] | CountDown:
        """The next one, or what to wait on."""
        with self.lock:
            if self.ready:
                self.left -= 1
                return self.ready.popleft()
            self.latch = CountDown(1)
            return self.latch

    def seconds(self) -> float | None:
        return None if self.end is None else self.end - time.monotonic()

    def late(self) -> TimeoutError:
        return TimeoutError(f"{self.left} of {self.total} goroutines have not ended in time")


def as_completed(
    fs: Iterable[Goroutine[T]], timeout: float | None = None
) -> Iterator[Goroutine[T]]:
    """Yield goroutines as they end, as ``concurrent.futures.as_completed`` does.

    ``timeout`` in seconds is for the whole, from the call on; TimeoutError when it is over.

    >>> import gorun
    >>> sorted(g.result() for g in gorun.as_completed(gorun.go_many(abs, [-1, -2])))
    [1, 2]
    """
    stream = _Stream(_check(fs), timeout)
    return _sync(stream)


def _sync(stream: _Stream) -> Iterator[Goroutine[Any]]:
    try:
        stream.enter()
        while stream.left:
            got = stream.take()
            if isinstance(got, Goroutine):
                _NEVER.wait(0)
                yield got
            elif not got.wait(stream.seconds()):
                raise stream.late()
    finally:
        stream.leave()


def as_completed_async(
    fs: Iterable[Goroutine[T]], timeout: float | None = None
) -> AsyncIterator[Goroutine[T]]:
    """As ``as_completed``, for ``async for`` in a goroutine or an asyncio task.

    >>> import gorun
    >>> async def main() -> list[int]:
    ...     return [g.result() async for g in gorun.as_completed_async([gorun.go(abs, -3)])]
    >>> gorun.run(main)
    [3]
    """
    stream = _Stream(_check(fs), timeout)
    return _async(stream)


async def _async(stream: _Stream) -> AsyncIterator[Goroutine[Any]]:
    try:
        stream.enter()
        while stream.left:
            got = stream.take()
            if isinstance(got, Goroutine):
                await _NEVER.wait_async(0)
                yield got
            elif not await got.wait_async(stream.seconds()):
                raise stream.late()
    finally:
        stream.leave()
