"""``Pool``: things that are costly to make, kept for the next who needs one. Go's ``sync.Pool``.

Two generations, as Go's: each full run of the collector drops what was not used since the one before
(``_old``) and turns what lies there now into that. One deque per generation, whose ends are atomic: no
lock, so a finalizer or a signal handler may get and put too. Not one per P: ARCHITECTURE.md says why.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_pools: dict[int, weakref.ref[Pool[Any]]] = {}
_FULL = 0 if "t" in sys.abiflags else 1 if sys.version_info >= (3, 14) else 2
"""The generation that the collector names for its widest runs of its own accord. Free-threaded builds know one only,
and CPython 3.14 collects what is old in steps, each of which is a 1.
"""


def _forget(key: int, pools: dict[int, Any], _: object) -> None:
    pools.pop(key, None)


class Pool(Generic[T]):
    """Keeps things for later use: ``get`` takes one or calls ``new()``, ``put`` gives one back.

    It may drop what it keeps at any time: what lies unused during two full runs of the collector is
    gone. Any thread, goroutine or task may use it; it never waits. Raises TypeError unless ``new`` is
    callable. Go's ``sync.Pool``.

    >>> import gorun
    >>> buffers = gorun.Pool(bytearray)
    >>> with buffers.use() as buffer:
    ...     buffer += b"data"
    >>> buffers.get() is buffer
    True
    """

    def __init__(self, new: Callable[[], T]) -> None:
        if not callable(new):
            raise TypeError(f"Pool takes a function that makes a new thing, not {new!r}")
        self._new = new
        self._fresh: deque[T] = deque()
        self._old: deque[T] = deque()
        key = id(self)
        _pools[key] = weakref.ref(self, partial(_forget, key, _pools))

    def get(self) -> T:
        """One that was put, else a new one.

        >>> import gorun
        >>> gorun.Pool(list).get()
        []
        """
        try:
            return self._fresh.pop()
        except IndexError:
            pass
        try:
            return self._old.pop()
        except IndexError:
            return self._new()

    def put(self, x: T) -> None:
        """Give one to whoever needs one next.

        >>> import gorun
        >>> pool = gorun.Pool(list)
        >>> pool.put(["used"])
        >>> pool.get()
        ['used']
        """
        self._fresh.append(x)

    @contextmanager
    def use(self) -> Iterator[T]:
        """``with pool.use() as x:`` gets one and puts it back at the end, whatever happened.

        >>> import gorun
        >>> with gorun.Pool(list).use() as x:
        ...     x.append(1)
        """
        x = self.get()
        try:
            yield x
        finally:
            self.put(x)

    def _age(self) -> deque[T]:
        dropped = self._old
        self._old, self._fresh = self._fresh, deque()
        return dropped


def _collected(phase: str, info: dict[str, int]) -> None:
    """The collector's call."""
    if phase == "stop" and info["generation"] >= _FULL:
        for ref in list(_pools.values()):
            pool = ref()
            if pool is not None:
                pool._age()


gc.callbacks.append(_collected)
