"""``Once``, ``once`` and ``SingleFlight``: one run for several callers.

Protocol of a run: the first caller enters it and runs the function itself; the others wait for its latch.
Who delivers: the runner, which notes the outcome and then opens the latch. Ends of a waiter: opened;
cancel, Ctrl-C (it leaves, the run goes on). Ends of the run: a value or an error is kept for all; a run
that was cut short (``Cancelled``, an asyncio cancel, Ctrl-C, a closed coroutine) is not kept, and one of
those who wait begins anew. After a fork a run that was under way in another thread never ends in the child.

The lock is held for moments only; a signal handler on the same thread may take it again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from gorun import _callers, _gorun
from gorun._gorun import Goroutine, Latch

T = TypeVar("T")
P = ParamSpec("P")


class _Run:
    """One run, under way or ended."""

    def __init__(self) -> None:
        self.owner = _callers.identity()
        self.latch = Latch()
        self.kept = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.trace: TracebackType | None = None

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error.with_traceback(self.trace)
        return self.value


def _cut_short(error: BaseException) -> bool:
    return _callers.is_cancel(error) or isinstance(error, GeneratorExit | KeyboardInterrupt)


class Once:
    """Run a function once, whoever comes first: ``once.do(fn, *args)``.

    Everybody gets the result of that run, or its error; who comes while it is under way waits for it. A
    run that was cancelled is not kept: the next caller runs its own. Threads, goroutines and asyncio
    tasks may share one. Go's ``sync.Once`` (and ``sync.OnceValue``).

    >>> import gorun
    >>> first = gorun.Once()
    >>> first.do(lambda: print("running"))
    running
    >>> first.do(lambda: print("running"))
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._run: _Run | None = None

    def _enter(self) -> tuple[_Run, bool]:
        """The run, and whether it is the caller's to do."""
        run = self._run
        if run is not None and run.kept:
            return run, False
        mine = _Run()
        with self._lock:
            if self._run is None:
                self._run = mine
                return mine, True
            run = self._run
        if not run.latch.is_set() and run.owner == mine.owner:
            raise RuntimeError("Once.do() inside its own function would wait for itself")
        return run, False

    def _end(self, run: _Run, value: Any, error: BaseException | None) -> None:
        run.owner = None
        if error is not None and _cut_short(error):
            with self._lock:
                self._run = None
        else:
            if error is not None:
                run.error, run.trace = error, error.__traceback__
            run.value = value
            run.kept = True
        run.latch.set()

    def do(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Run ``fn(*args)`` if nothing was run yet; its result, or that of the run there was.

        Raises the error of that run; RuntimeError inside the function itself. A cancel point.

        >>> import gorun
        >>> once = gorun.Once()
        >>> once.do(pow, 2, 5), once.do(pow, 3, 5)
        (32, 32)
        """
        while True:
            run, mine = self._enter()
            if mine:
                try:
                    _gorun._cancel_point()
                    value = fn(*args)
                except BaseException as error:
                    self._end(run, None, error)
                    raise
                self._end(run, value, None)
                return value
            run.latch.wait()
            if run.kept:
                kept: T = run.outcome()
                return kept

    async def do_async(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any) -> T:
        """As ``do``, with an ``async def`` function.

        >>> import gorun
        >>> async def answer() -> int:
        ...     return 42
        >>> gorun.run(gorun.Once().do_async, answer)
        42
        """
        _callers.check_async("await Once.do_async()")
        while True:
            run, mine = self._enter()
            if mine:
                try:
                    _gorun._cancel_point()
                    value = await fn(*args)
                except BaseException as error:
                    self._end(run, None, error)
                    raise
                self._end(run, value, None)
                return value
            await run.latch.wait_async()
            if run.kept:
                kept: T = run.outcome()
                return kept


@overload
def once(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def once(fn: Callable[P, T]) -> Callable[P, T]: ...
def once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function run once: decorates a plain or an ``async def`` function.

    Each call gives the result of the first, or its error, whatever its arguments. A first run that was
    cancelled is not kept. Raises TypeError unless ``fn`` is callable. Go's ``sync.OnceValue``.

    >>> import gorun
    >>> @gorun.once
    ... def load() -> str:
    ...     print("loading")
    ...     return "config"
    >>> load(), load()
    loading
    ('config', 'config')
    """
    if not callable(fn):
        raise TypeError(f"once decorates a function, not {fn!r}")
    gate = Once()
    if _callers.is_async_def(fn):

        @functools.wraps(fn)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            return await gate.do_async(functools.partial(fn, *args, **kwargs))

        return run_async

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        return gate.do(functools.partial(fn, *args, **kwargs))

    return run


class _Flight(Generic[T]):
    """A call under way: its goroutine and how many wait for it."""

    def __init__(self, g: Goroutine[T]) -> None:
        self.g = g
        self.callers = 1


class SingleFlight:
    """Merge calls with the same key: while one is under way, others wait for its result.

    ``fn`` runs in a goroutine of its own, so a caller that is cancelled only stops waiting. Go's
    ``golang.org/x/sync/singleflight``.

    >>> import gorun
    >>> flight = gorun.SingleFlight()
    >>> flight.do("key", pow, 2, 5)
    (32, False)
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._flights: dict[Hashable, _Flight[Any]] = {}

    def _join(
        self, key: Hashable, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[_Flight[Any], bool]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and not flight.g.done():
                flight.callers += 1
                return flight, True
            flight = self._flights[key] = _Flight(_gorun.go(fn, *args))
        # Outside: if it has ended already this runs at once.
        flight.g.add_done_callback(functools.partial(self._land, key, flight))
        return flight, False

    def _land(self, key: Hashable, flight: _Flight[Any], _: Goroutine[Any]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _shared(self, flight: _Flight[Any], joined: bool) -> bool:
        with self._lock:
            return joined or flight.callers > 1

    @overload
    def do(
        self, key: Hashable, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any
    ) -> tuple[T, bool]: ...
    @overload
    def do(self, key: Hashable, fn: Callable[..., T], /, *args: Any) -> tuple[T, bool]: ...
    def do(self, key: Hashable, fn: Callable[..., Any], /, *args: Any) -> tuple[Any, bool]:
        """The result of ``fn(*args)``, or of the call with this key that is under way, and if it was shared.

        Raises the error of that call, for all who wait; GoroutineCancelled if it was cancelled. A cancel
        point.

        >>> import gorun
        >>> gorun.SingleFlight().do("key", abs, -1)
        (1, False)
        """
        _gorun._cancel_point()  # nothing is started for a caller that is being cancelled
        flight, joined = self._join(key, fn, args)
        value = flight.g.result()
        return value, self._shared(flight, joined)

    @overload
    async def do_async(
        self, key: Hashable, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any
    ) -> tuple[T, bool]: ...
    @overload
    async def do_async(
        self, key: Hashable, fn: Callable[..., T], /, *args: Any
    ) -> tuple[T, bool]: ...
    async def do_async(
        self, key: Hashable, fn: Callable[..., Any], /, *args: Any
    ) -> tuple[Any, bool]:
        """As ``do``, awaited by a goroutine or an asyncio task.

        >>> import gorun
        >>> gorun.run(gorun.SingleFlight().do_async, "key", abs, -1)
        (1, False)
        """
        _gorun._cancel_point()  # nothing is started for a caller that is being cancelled
        flight, joined = self._join(key, fn, args)
        value = await flight.g
        return value, self._shared(flight, joined)

    def forget(self, key: Hashable) -> None:
        """Let the next call with this key run its function, also while another is under way.

        >>> import gorun
        >>> gorun.SingleFlight().forget("key")
        """
        with self._lock:
            self._flights.pop(key, None)
