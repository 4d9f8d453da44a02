"""What a map is to its user: `Map` for threads and goroutines, `AsyncMap` for who can await.

They take values from the flow (flow.py) and wait for it, one with its thread, one with an await;
all else is the flow's. Each `next` is a cancel point, also when a value is ready: that costs some 15
ns, little more than to ask whether it is needed. A wait that is cut short (a cancel, an exception of
a signal handler) has changed nothing, and another `next` goes on from there; after a
KeyboardInterrupt nobody wants that, so it ends the map.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TypeVar

from gorun._gorun import _cancel_point, _Results, current
from gorun._map.flow import Flow

T = TypeVar("T")


class Map(_Results[T], Iterator[T]):
    """What `gorun.map` gives: an iterator over the results, and a context manager."""

    def __new__(cls, flow: Flow) -> Map[T]:
        return super().__new__(cls, flow.ready.popleft)

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def _advance(self) -> None:
        """Waits until there is a value; raises StopIteration, or what the map ends with."""
        flow = self._flow
        with flow:
            try:
                while (move := flow.step()) is not True:
                    if move is False:
                        raise StopIteration
                    if move.latch is None:
                        flow.carrier.join()
                    else:
                        flow.carrier.wait(move.latch, move.timeout)
            except KeyboardInterrupt:
                flow.end("gorun.map was interrupted")
                raise

    def close(self) -> None:
        """Ends the map: what has not begun is dropped, what runs is cancelled, never waits.

        A plain function that runs is cut at its next gorun operation, an `async def` at its next
        await; its result is dropped. `next` raises StopIteration from then on.
        """
        self._flow.close()

    def __enter__(self) -> Map[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing():  # then the workers have gone, and so may have what close() needs
            self._flow.close()


class AsyncMap(AsyncIterator[T]):
    """What `gorun.map_async` gives: an async iterator, and an async context manager."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._ready: deque[T] = flow.ready
        self._in_goroutine = False  # who advanced it last; a task is cancelled by its loop

    def __aiter__(self) -> AsyncMap[T]:
        return self

    async def __anext__(self) -> T:
        ready = self._ready
        if self._in_goroutine:
            _cancel_point()
        while True:
            while ready:
                try:
                    return ready.popleft()
                except IndexError:
                    continue
            await self._advance()

    async def _advance(self) -> None:
        """As `Map._advance`, awaiting; raises StopAsyncIteration."""
        flow = self._flow
        self._in_goroutine = current() is not None
        if self._in_goroutine:
            _cancel_point()
        with flow:
            while (move := flow.step()) is not True:
                if move is False:
                    raise StopAsyncIteration
                if move.latch is None:
                    await flow.carrier.join_async()
                else:
                    await flow.carrier.wait_async(move.latch, move.timeout)

    async def aclose(self) -> None:
        """Ends the map, as `Map.close` does."""
        self._flow.close()

    async def __aenter__(self) -> AsyncMap[T]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flow.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _finalizing():  # then the workers have gone, and so may have what close() needs
            self._flow.close()
