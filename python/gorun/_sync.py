"""Locks and counters with the methods, argument names, defaults and errors of ``threading``'s.

The queues, time-outs and cancels are the extension's: a ``Gate`` is a first-come queue before a
small state machine. Here stand the names. ``Mutex`` is the extension's own class.

Ends of a wait, for each of them: entered; time-out (False, for WaitGroup TimeoutError); cancel or a
signal handler's error (raised, nothing was taken); closed loop (what was granted is given back);
fork (the child's queues are empty, the states are as they were).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from gorun import _gorun
from gorun._gorun import Gate, Goroutine

if TYPE_CHECKING:
    from gorun._gorun import _Operation

T = TypeVar("T")
P = ParamSpec("P")


def _limit(blocking: bool, timeout: float | None) -> float | None:
    """Turn the arguments of ``threading.Semaphore.acquire`` into a time-out."""
    if blocking:
        return timeout
    if timeout is not None:
        raise ValueError(f"can't specify timeout for non-blocking acquire (timeout={timeout!r})")
    return 0.0


# ---- Semaphore -------------------------------------------------------------------------------


_MOST = 2**62
"""More than any number of units or parties can be; the extension counts in 64 bits."""


def _units(n: int, what: str) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{what} must be a whole number, not {n!r}")
    if not -_MOST <= n <= _MOST:
        raise ValueError(f"{what} is out of range: {n}")
    return n


class _Held:
    """``with`` and ``async with`` for what has ``acquire``, ``acquire_async`` and ``release``."""

    __slots__ = ()

    if TYPE_CHECKING:

        def acquire(self) -> bool: ...
        def acquire_async(self) -> _Operation[bool]: ...
        def release(self) -> None: ...

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.release()

    def __aenter__(self) -> _Operation[bool]:
        return self.acquire_async()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.release()


class Semaphore(_Held):
    """``value`` units; ``acquire`` waits until ``n`` of them are free. First come, first served.

    With ``bounded`` (the default) more than the first ``value`` can never be free, as in
    ``threading.BoundedSemaphore``; without as in ``threading.Semaphore``. A large request is not
    starved by small ones. ValueError for a value below 0. Go's ``golang.org/x/sync/semaphore``.

    >>> import gorun
    >>> sem = gorun.Semaphore(3)
    >>> with sem:
    ...     sem.try_acquire(2), sem.try_acquire(1)
    (True, False)
    """

    __slots__ = ("__weakref__", "_bound", "_gate")

    def __init__(self, value: int = 1, *, bounded: bool = True) -> None:
        if _units(value, "value") < 0:
            raise ValueError(f"semaphore initial value must be >= 0, not {value}")
        self._gate = Gate.units(value)
        self._bound = value if bounded else None

    def __repr__(self) -> str:
        bound = "" if self._bound is None else f"/{self._bound}"
        return f"<gorun.Semaphore at {id(self):#x}: value={self._gate.value()}{bound}>"

    def _want(self, n: int) -> int:
        if _units(n, "n") < 1:
            raise ValueError(f"n must be one or more, not {n}")
        # One unit of none at all is what threading's waits for.
        if self._bound is not None and n > max(self._bound, 1):
            raise ValueError(f"n must not be above the semaphore's {self._bound} units: {n}")
        return n

    def acquire(self, blocking: bool = True, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` units; False if not ``blocking`` or after ``timeout`` seconds without them.

        Raises ValueError for ``n`` below 1 or above the bound, or a time-out without blocking.

        >>> import gorun
        >>> gorun.Semaphore(2).acquire(n=2)
        True
        """
        limit = _limit(blocking, timeout)
        want = self._want(n)
        if not blocking:
            return self._gate.try_enter(want)
        return bool(self._gate.enter(want, limit))

    def acquire_async(
        self, blocking: bool = True, timeout: float | None = None, *, n: int = 1
    ) -> _Operation[bool]:
        """As ``acquire``, awaited."""
        limit = _limit(blocking, timeout)
        return self._gate.enter_async(self._want(n), limit, not blocking)

    def try_acquire(self, n: int = 1) -> bool:
        """Take ``n`` units if that needs no wait; no cancel point.

        >>> import gorun
        >>> gorun.Semaphore(0).try_acquire()
        False
        """
        return self._gate.try_enter(self._want(n))

    def release(self, n: int = 1) -> None:
        """Give ``n`` units back. ValueError below 1, and beyond the bound.

        >>> import gorun
        >>> gorun.Semaphore(0, bounded=False).release(2)
        """
        if _units(n, "n") < 1:
            raise ValueError(f"n must be one or more, not {n}")
        self._gate.leave(n, self._bound)


# ---- RWMutex ---------------------------------------------------------------------------------

_READ, _WRITE = 0, 1


class _Side(_Held):
    """One side of a reader-writer lock, of the shape of ``Mutex``."""

    __slots__ = ("__weakref__", "_gate", "_want")

    def __init__(self, gate: Gate, want: int) -> None:
        self._gate = gate
        self._want = want

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        name = "writer" if self._want else "reader"
        return f"<{state} {name} of gorun.RWMutex at {id(self._gate):#x}>"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Lock it; False if it could not be at once (not ``blocking``) or within ``timeout`` seconds."""
        limit = _gorun._lock_limit(blocking, timeout)
        if not blocking:
            return self._gate.try_enter(self._want)
        return bool(self._gate.enter(self._want, limit))

    def acquire_async(self, blocking: bool = True, timeout: float = -1) -> _Operation[bool]:
        """As ``acquire``, awaited."""
        limit = _gorun._lock_limit(blocking, timeout)
        return self._gate.enter_async(self._want, limit, not blocking)

    def release(self) -> None:
        """Unlock it; RuntimeError if it is not locked."""
        self._gate.leave(self._want)

    def locked(self) -> bool:
        """Whether somebody holds this side."""
        value = self._gate.value()
        return value < 0 if self._want else value > 0


class RWMutex:
    """Many readers or one writer: ``reader`` and ``writer`` are two locks of ``Mutex``'s shape.

    First come, first served: a waiting writer holds new readers off. Go's ``sync.RWMutex``.

    >>> import gorun
    >>> rw = gorun.RWMutex()
    >>> with rw.reader, rw.reader:
    ...     rw.writer.acquire(blocking=False)
    False
    """

    __slots__ = ("__weakref__", "_gate", "_reader", "_writer")

    def __init__(self) -> None:
        self._gate = Gate.readers()
        self._reader = _Side(self._gate, _READ)
        self._writer = _Side(self._gate, _WRITE)

    def __repr__(self) -> str:
        n = self._gate.value()
        state = "unlocked" if n == 0 else "a writer" if n < 0 else f"{n} readers"
        return f"<gorun.RWMutex at {id(self):#x}: {state}>"

    @property
    def reader(self) -> _Side:
        """The lock that many may hold together. Go's ``RLocker``.

        >>> import gorun
        >>> with gorun.RWMutex().reader as locked:
        ...     locked
        True
        """
        return self._reader

    @property
    def writer(self) -> _Side:
        """The lock that one may hold, alone.

        >>> import gorun
        >>> rw = gorun.RWMutex()
        >>> with rw.writer:
        ...     rw.reader.acquire(blocking=False)
        False
        """
        return self._writer


# ---- Event -----------------------------------------------------------------------------------


class Event:
    """A flag to wait for, as ``threading.Event``.

    >>> import gorun
    >>> event = gorun.Event()
    >>> event.wait(timeout=0), event.set(), event.wait()
    (False, None, True)
    """

    __slots__ = ("__weakref__", "_gate")

    def __init__(self) -> None:
        self._gate = Gate.flag()

    def __repr__(self) -> str:
        state = "set" if self.is_set() else "unset"
        return f"<gorun.Event at {id(self):#x}: {state}>"

    def is_set(self) -> bool:
        """Whether the flag is set.

        >>> import gorun
        >>> gorun.Event().is_set()
        False
        """
        return self._gate.value() == 1

    def set(self) -> None:
        """Set the flag and wake all that wait for it.

        >>> import gorun
        >>> event = gorun.Event()
        >>> event.set(), event.is_set()
        (None, True)
        """
        self._gate.set(True)

    def clear(self) -> None:
        """Take the flag down.

        >>> import gorun
        >>> event = gorun.Event()
        >>> event.set(), event.clear(), event.is_set()
        (None, None, False)
        """
        self._gate.set(False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if ``timeout`` seconds are up first.

        >>> import gorun
        >>> gorun.Event().wait(timeout=0.001)
        False
        """
        return bool(self._gate.enter(1, timeout))

    def wait_async(self, timeout: float | None = None) -> _Operation[bool]:
        """As ``wait``, awaited."""
        return self._gate.enter_async(1, timeout)


# ---- WaitGroup -------------------------------------------------------------------------------


class WaitGroup:
    """Waits until a count has come down to 0. Go's ``sync.WaitGroup``.

    >>> import gorun
    >>> wg = gorun.WaitGroup()
    >>> seen = []
    >>> for n in (1, 2, 3):
    ...     _ = wg.go(seen.append, n)
    >>> wg.wait()
    >>> sorted(seen)
    [1, 2, 3]
    """

    __slots__ = ("__weakref__", "_gate")

    def __init__(self) -> None:
        self._gate = Gate.count()

    def __repr__(self) -> str:
        return f"<gorun.WaitGroup at {id(self):#x}: {self._gate.value()}>"

    def add(self, n: int = 1) -> None:
        """Add ``n`` (it may be negative) to the count. ValueError if it would become negative.

        >>> import gorun
        >>> gorun.WaitGroup().add(-1)
        Traceback (most recent call last):
        ValueError: the count of a WaitGroup must not become negative: 0 + -1
        """
        if self._gate.add(_units(n, "n")) is None:
            what = "become negative" if n < 0 else "exceed 64 bits"
            raise ValueError(
                f"the count of a WaitGroup must not {what}: {self._gate.value()} + {n}"
            )

    def done(self) -> None:
        """Take one from the count; wakes those that wait when it is 0.

        >>> import gorun
        >>> wg = gorun.WaitGroup()
        >>> wg.add(), wg.done(), wg.wait()
        (None, None, None)
        """
        self.add(-1)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the count is 0. TimeoutError after ``timeout`` seconds.

        >>> import gorun
        >>> wg = gorun.WaitGroup()
        >>> wg.add(2)
        >>> wg.wait(timeout=0.001)
        Traceback (most recent call last):
        TimeoutError: the wait has timed out
        """
        self._gate.enter(1, timeout)

    def wait_async(self, timeout: float | None = None) -> _Operation[None]:
        """As ``wait``, awaited."""
        return self._gate.enter_async(1, timeout)

    def __await__(self) -> Generator[Any, None, None]:
        return self._gate.enter_async(1, None).__await__()

    @overload
    def go(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[T]: ...
    @overload
    def go(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Goroutine[T]: ...
    def go(self, fn: Any, /, *args: Any, **kwargs: Any) -> Goroutine[Any]:
        """Run ``fn`` in a goroutine that counts: one more now, one less when it has ended.

        >>> import gorun
        >>> wg = gorun.WaitGroup()
        >>> g = wg.go(pow, 2, 5)
        >>> wg.wait()
        >>> g.result()
        32
        """
        self.add()
        try:
            g: Goroutine[Any] = _gorun.go(fn, *args, **kwargs)
        except BaseException:
            self.done()
            raise
        g.add_done_callback(self._one_ended)
        return g

    def _one_ended(self, g: Goroutine[Any]) -> None:
        self.done()


for _cls in (Semaphore, RWMutex, Event, WaitGroup):
    _cls.__module__ = "gorun"
del _cls
