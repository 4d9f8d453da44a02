"""The iterator that `Executor.map` gives: over futures, in order.

As in `concurrent.futures`, on every version what 3.14 does: submits in the call, ordered, `timeout`
from the call on, `buffersize`. Dropped before its first `next` it cancels nothing (everything is run);
closed or dropped later, or after an error, it cancels what has not begun. It keeps neither its
executor nor a result that it has given.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


def check(buffersize: object) -> None:
    """Raises the TypeError or ValueError of a bad `buffersize`, in 3.14's words."""
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def results(
    executor: Executor,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    buffersize: int | None,
) -> Iterator[T]:
    """Submits, and gives the iterator."""
    check(buffersize)
    end = None if timeout is None else timeout + time.monotonic()
    source = zip(*iterables, strict=False)
    first = source if buffersize is None else islice(source, buffersize)
    futures = deque(executor.submit(fn, *args) for args in first)
    more = None if buffersize is None else source
    return _iterate(futures, weakref.ref(executor), fn, more, end)


def chunked(
    executor: Executor,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """As `results`, `chunksize` items in one call; `buffersize` counts items."""
    check(buffersize)
    if chunksize < 1:
        raise ValueError(f"chunksize must be >= 1, not {chunksize}")
    if chunksize == 1:
        return results(executor, fn, iterables, timeout, buffersize)
    source = zip(*iterables, strict=False)
    chunks = iter(lambda: list(islice(source, chunksize)), [])
    ahead = None if buffersize is None else max(1, buffersize // chunksize)
    return _flatten(results(executor, partial(_run, fn), (chunks,), timeout, ahead))


def _run(fn: Callable[..., T], chunk: list[tuple[Any, ...]]) -> list[T]:
    """Runs in the worker: the results of one chunk."""
    return [fn(*args) for args in chunk]


def _flatten(lists: Iterator[list[T]]) -> Iterator[T]:
    try:
        for values in lists:
            values.reverse()
            while values:
                yield values.pop()
    finally:
        lists.close()  # type: ignore[attr-defined]  # a generator


def _iterate(
    futures: deque[Future[T]],
    executor: weakref.ref[Executor],
    fn: Callable[..., T],
    source: Iterator[tuple[Any, ...]] | None,
    end: float | None,
) -> Iterator[T]:
    try:
        while futures:
            if source is not None and (living := executor()) is not None:
                if (args := next(source, None)) is None:
                    source = None
                else:
                    futures.append(living.submit(fn, *args))
                    del args
                del living
            # A generator's frame would keep the future, and so the result, until the next one.
            yield _take(futures, end)
    finally:
        for future in futures:
            future.cancel()


def _take(futures: deque[Future[T]], end: float | None) -> T:
    """The result of the first one, which is cancelled if it does not come in time."""
    future = futures.popleft()
    try:
        return future.result(None if end is None else end - time.monotonic())
    finally:
        future.cancel()
        del future  # its error refers to this frame
