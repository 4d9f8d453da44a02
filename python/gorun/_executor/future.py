"""A `concurrent.futures.Future` that is cheap until somebody waits for it.

A plain one makes a Condition, two lists, a deque and five bound methods, about a dozen objects that
the collector looks at again and again while many futures are out: that was two thirds of the cost
of submitting. This one makes a lock. What others reach for in a future (`wait`, `as_completed`,
asyncio) is made when they do: `_condition` around the same lock, `_waiters`, `_done_callbacks`.

Invariant, as in the standard library: `_state` changes under the lock only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, TypeVar

T = TypeVar("T")
_RLock = threading.RLock


class Future(futures.Future[T]):
    """Is what `gorun.Executor.submit` gives."""

    def __init__(self) -> None:
        # Not the base's, on purpose: it makes what is made late here.
        self._lock = _RLock()
        self._state = PENDING
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._made: threading.Condition | None = None
        self._waits: list[Any] | None = None
        self._calls: list[Callable[[Any], object]] | None = None

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # set by nobody
        with self._lock:
            if self._made is None:
                self._made = threading.Condition(self._lock)
            return self._made

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        with self._lock:
            if self._waits is None:
                self._waits = []
            return self._waits

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        with self._lock:
            if self._calls is None:
                self._calls = []
            return self._calls

    @property
    def is_plain(self) -> bool:
        """Whether nobody has a callback on it."""
        return self._calls is None

    def done(self) -> bool:
        """Whether it was cancelled or has finished."""
        return self._state not in (PENDING, RUNNING)

    def result(self, timeout: float | None = None) -> T:
        """As the base's; at once where the result is there."""
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return super().result(timeout)

    def set_running_or_notify_cancel(self) -> bool:
        """As the base's, for the executor."""
        with self._lock:
            if self._state == PENDING:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """As the base's, for the executor."""
        with self._lock:
            if self._made is None and self._calls is None and self._state == RUNNING:
                self._result = result
                self._state = FINISHED
                return
        super().set_result(result)
