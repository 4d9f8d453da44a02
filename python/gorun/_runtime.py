"""The runtime as a whole: run, spawn, settings, sections, shutdown, and what it knows of itself.

The hot calls (go, sleep, ...) come straight from the extension; here is what is easier in Python.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, overload

from gorun import _gorun, _hooks, _settings
from gorun._errors import Deadlock
from gorun._gorun import Goroutine

T = TypeVar("T")
P = ParamSpec("P")

# The reason of a cancel that came of a Ctrl-C. Known by its identity: others may use the word.
INTERRUPTED = "".join(["inter", "rupted"])

# ---- run and spawn ---------------------------------------------------------------------------


@overload
def run(main: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
def run(main: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
def run(main: Coroutine[Any, Any, T], /) -> T: ...
def run(main: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Run ``main(*args, **kwargs)`` in a goroutine, wait for it, and return its value.

    The calling thread waits and runs no goroutine itself. Ctrl-C, or any exception from a signal
    handler, cancels ``main``, waits for its cleanup and is then raised, as is Deadlock; a second one is
    raised at once. Other goroutines go on. Raises what ``main`` raises; RuntimeError inside a goroutine and
    on a thread with a running asyncio loop. Go's ``main``.

    >>> import gorun
    >>> gorun.run(lambda: 6 * 7)
    42
    """
    if _gorun.current() is not None:
        raise RuntimeError("gorun.run() inside a goroutine: use gorun.go() and join it instead")
    if _gorun._loop_runs_here():
        raise RuntimeError(
            "gorun.run() on a thread with a running asyncio loop: `await gorun.go(...)` instead"
        )
    g = _gorun._spawn(main, args, kwargs, None, None)
    try:
        g._wait()
    except BaseException as e:
        _gorun._take(g)
        by_user = isinstance(e, KeyboardInterrupt)
        g.cancel(
            INTERRUPTED if by_user else "deadlock" if isinstance(e, Deadlock) else "interrupted"
        )
        g._wait()
        raise
    return g.result()


def is_interrupted() -> bool:
    """Whether the program ends by a KeyboardInterrupt that nobody caught.

    The interpreter notes what it prints as uncaught. At a prompt (`sys.ps1`) that ends nothing, and
    may be long ago.
    """
    kind = getattr(sys, "last_type", None)
    known = isinstance(kind, type) and issubclass(kind, KeyboardInterrupt)
    return known and not hasattr(sys, "ps1")


@overload
def spawn(
    fn: Callable[..., Coroutine[Any, Any, T]],
    /,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    priority: object = None,
    tags: Iterable[str] = (),
) -> Goroutine[T]: ...
@overload
def spawn(
    fn: Callable[..., T],
    /,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    priority: object = None,
    tags: Iterable[str] = (),
) -> Goroutine[T]: ...
@overload
def spawn(
    fn: Coroutine[Any, Any, T],
    /,
    *,
    name: str | None = None,
    priority: object = None,
    tags: Iterable[str] = (),
) -> Goroutine[T]: ...
def spawn(
    fn: Any,
    /,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    priority: object = None,
    tags: Iterable[str] = (),
) -> Goroutine[Any]:
    """``go`` with a name and tags: they show in ``goroutines()`` and in error reports.

    ``priority`` is kept for ``gorun.policy`` and must be None until that is there. Raises TypeError
    for what ``go`` would refuse.

    >>> import gorun
    >>> g = gorun.spawn(pow, (2, 5), name="power", tags=["maths"])
    >>> g.name, g.result()
    ('power', 32)
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {name!r}")
    if priority is not None:
        raise ValueError(f"priority must be None, not {priority!r}: there are no priorities yet")
    labels = tuple(tags)
    if isinstance(tags, str) or not all(isinstance(t, str) for t in labels):
        raise TypeError(f"tags must be an iterable of str, not {tags!r}")
    return _gorun._spawn(fn, tuple(args), dict(kwargs or {}), name, labels or None)


# ---- settings --------------------------------------------------------------------------------


def gomaxprocs(n: int | None = None) -> int:
    """How many goroutines may run at once (the number of Ps); ``n`` changes it while running.

    Returns the previous value. The default is the environment's ``GOMAXPROCS``, else the CPUs this
    process may use (affinity, then cgroup quota). ValueError unless 1 <= n <= 512. Go's
    ``runtime.GOMAXPROCS``.

    >>> import gorun
    >>> before = gorun.gomaxprocs(1)
    >>> gorun.gomaxprocs(before)
    1
    """
    if n is None:
        return _gorun._gomaxprocs(0)
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"gomaxprocs takes a whole number or None, not {n!r}")
    if not 1 <= n <= _settings.MAX_PROCS:
        raise ValueError(f"gomaxprocs must be from 1 to {_settings.MAX_PROCS}, not {n}")
    return _gorun._gomaxprocs(n)


def configure(*, max_threads: int | None = None, worker_growth: int | None = None) -> None:
    """Change settings while running.

    ``max_threads`` (10 000, environment ``GORUN_MAX_THREADS``) bounds the threads that run
    goroutines. At the limit plain goroutines queue; a gorun operation that would block the last
    free thread raises ThreadLimit. Go's ``debug.SetMaxThreads``.

    ``worker_growth`` (300 000 000, environment ``GORUN_WORKER_GROWTH``) is how many bytes a worker
    process may grow by since its first call; beyond that another takes its place, between two
    batches. 0: however much. It holds for maps and executors that start their workers later.

    TypeError, ValueError: they name the bad value, and nothing is changed.

    >>> import gorun
    >>> gorun.configure(max_threads=10_000)
    """
    if worker_growth is not None:
        if isinstance(worker_growth, bool) or not isinstance(worker_growth, int):
            raise TypeError(f"worker_growth must be a whole number, not {worker_growth!r}")
        if not 0 <= worker_growth <= _settings.MAX_WORKER_GROWTH:
            raise ValueError(
                f"worker_growth must be from 0 to {_settings.MAX_WORKER_GROWTH}, not {worker_growth}"
            )
    if max_threads is not None:
        if isinstance(max_threads, bool) or not isinstance(max_threads, int):
            raise TypeError(f"max_threads must be a whole number, not {max_threads!r}")
        if not 1 <= max_threads <= _settings.MAX_THREADS:
            raise ValueError(
                f"max_threads must be from 1 to {_settings.MAX_THREADS}, not {max_threads}"
            )
        _gorun._max_threads(max_threads)
    if worker_growth is not None:
        _settings.worker_growth(worker_growth)


# ---- sections --------------------------------------------------------------------------------


class blocking(AbstractContextManager["blocking"]):  # noqa: N801  (reads as a statement)
    """``with blocking():`` hands the P on at its start and takes one again at its end.

    For calls that are known to block: nothing has to find out first. Outside a goroutine it does
    nothing. An await inside raises RuntimeError. Go does this around each system call.

    >>> import gorun, time
    >>> def wait() -> str:
    ...     with gorun.blocking():
    ...         time.sleep(0.001)
    ...     return "done"
    >>> gorun.go(wait).result()
    'done'
    """

    def __enter__(self) -> Self:
        _gorun._blocking_enter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        _gorun._blocking_exit()


class shield(  # noqa: N801  (reads as a statement)
    AbstractContextManager["shield"], AbstractAsyncContextManager["shield"]
):
    """``with shield():`` or ``async with shield():`` holds a cancel from outside back.

    A cancel that arrives inside waits until the block has ended and is delivered at the next
    cancel point after it, as does the end of a ``timeout`` or the failure of a ``Group`` around the
    shield; those inside the shield work. Where nothing can be cancelled (a thread outside of scopes,
    an asyncio task) it does nothing. RuntimeError where this shield is open: to nest, make another.

    >>> import gorun
    >>> def work() -> bool:
    ...     with gorun.shield():
    ...         gorun.current().cancel()
    ...         gorun.sleep(0.001)
    ...     return True
    >>> gorun.go(work).result()
    True
    """

    def __init__(self) -> None:
        self._before: int | None = None
        self._free = [True]  # emptied while it is open; by `pop`, which one caller wins

    def __enter__(self) -> Self:
        try:
            self._free.pop()
        except IndexError:
            raise RuntimeError("this shield is open already: make another one") from None
        self._before = _gorun._shield_enter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._before is not None:
            _gorun._shield_exit(self._before)
        self._free.append(True)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, tb)


# ---- what it knows of itself -----------------------------------------------------------------


class PStats(NamedTuple):
    """Counters of one P: goroutines in its queue, steps run, goroutines stolen, and so on."""

    id: int
    queue: int
    runs: int
    steals: int
    handoffs: int
    parks: int
    timers: int


class Stats(NamedTuple):
    """Counters of the runtime; ``ready_mean`` and ``ready_max`` are seconds from ready to running.

    The latencies come from a sample of one in 64. ``ms_blocked`` are the threads inside gorun's own
    blocking calls and ``with blocking()``; ``ms_without_p`` those that were found blocked in another
    call, until their goroutine has ended or awaits.
    """

    gomaxprocs: int
    goroutines: int
    runnable: int
    running: int
    waiting: int
    created: int
    ended: int
    ms: int
    ms_idle: int
    ms_blocked: int
    ms_without_p: int
    global_queue: int
    timers: int
    handoffs: int
    steals: int
    ready_mean: float
    ready_max: float
    ps: tuple[PStats, ...]


def stats() -> Stats:
    """Counters of the runtime, taken without stopping it.

    >>> import gorun
    >>> gorun.stats().gomaxprocs == gorun.gomaxprocs()
    True
    """
    head, mid, mean, worst, ps = _gorun._stats()
    return Stats(*head, *mid, mean, worst, tuple(PStats(*p) for p in ps))


class GoroutineInfo(NamedTuple):
    """One live goroutine, as ``goroutines()`` saw it.

    ``state`` is "runnable", "running", "waiting" or "blocked" (a thread waits with it). ``wait_reason``
    is "" unless it waits in a gorun operation, and ``waiting`` says for how many seconds, but not of a
    call that was found blocked. ``created_at`` and ``at`` are "file:line in function" or None.
    """

    id: int
    name: str
    state: str
    wait_reason: str
    waiting: float
    created_at: str | None
    at: str | None
    tags: tuple[str, ...]


def goroutines() -> list[GoroutineInfo]:
    """Every live goroutine, by number, taken without stopping the runtime. Go's ``debug=2`` dump.

    >>> import gorun
    >>> gorun.goroutines()
    []
    """
    rows = sorted(_gorun._goroutines())
    return [
        GoroutineInfo(n, name or f"goroutine-{n}", state, why, secs, born, at, tags or ())
        for n, name, state, why, secs, born, at, tags in rows
    ]


# ---- the end ---------------------------------------------------------------------------------

_EXIT_LIMIT = 0.5

at_shutdown: list[Callable[[], object]] = []
"""Called by `shutdown` and at the exit before goroutines are cancelled: who would start others stops."""


def shutdown(timeout: float | None = None) -> bool:
    """Cancel every job and goroutine, wait for them, and stop the threads; True if all ended in time.

    ``timeout`` in seconds (None: no limit) is for the whole. ``go`` afterwards starts the runtime
    anew, and so does a thread's gorun call that waits, and an await of an asyncio task, while timers are
    pending: those are kept. RuntimeError on a thread that runs goroutines: in one, and in a done callback
    or finalizer there. Runs at interpreter exit with a short limit.

    >>> import gorun
    >>> gorun.shutdown(5.0)
    True
    """
    if _gorun._on_an_m():  # current() is None in done callbacks and finalizers
        raise RuntimeError("gorun.shutdown() inside a goroutine would wait for itself")
    limit = _settings.check_timeout(timeout)
    end = None if limit is None else time.monotonic() + max(limit, 0.0)

    def left() -> float | None:
        return None if end is None else max(0.0, end - time.monotonic())

    ended = _cancel_all(left)
    # A timer that has just fired would keep what it calls alive until the runtime is used again.
    while (s := stats()).ms and (s.global_queue or any(p.queue for p in s.ps)) and left() != 0.0:
        time.sleep(0.0005)
    rest = left()
    stopped = _gorun._stop(1e9 if rest is None else rest)
    return ended and stopped


def _cancel_all(left: Callable[[], float | None]) -> bool:
    """Cancel what lives until nothing does; False if the time was up first."""
    for stop in at_shutdown:
        stop()
    while live := _gorun._live():
        for g in live:
            g.cancel("shutdown")
        for g in live:
            if not g._wait(left()):
                return False
        del live, g
    return True


def _at_exit() -> None:
    # Executors and threads that are no daemons have been joined by now, whichever came first.
    _gorun._set_finalizing()
    end = time.monotonic() + _EXIT_LIMIT
    try:
        _cancel_all(lambda: max(0.0, end - time.monotonic()))
    finally:
        stopped = _gorun._stop(max(0.05, end - time.monotonic()))
        # Now: when their handles go, the user's hook may have gone first.
        _gorun._report_unasked()
        if stopped:
            _hooks.join_threads(max(end, time.monotonic() + 0.05))


def _install() -> None:
    """Make the runtime of this process and hook it into fork and exit. Once, at import."""
    _settings.check_sysmon()
    watch = _settings.watch_deadlocks()
    _gorun._init(_settings.default_procs(), _settings.default_max_threads())
    _gorun._watch_deadlocks(watch)
    os.register_at_fork(after_in_child=_gorun._after_fork)
    # Not threading._register_atexit: that runs before other threads are joined, and before the hooks
    # of executors that were imported earlier.
    atexit.register(_at_exit)
