"""`gorun.Executor`: a `concurrent.futures.Executor` on goroutines or on worker processes.

threads.py    the workers that are goroutines
processes.py  the workers that are processes (gorun._proc)
future.py     the futures
exits.py      what happens at exit, at `gorun.shutdown`, at a fork
results.py    the iterator of `Executor.map`
views.py      workers under the names of concurrent.futures

This file has the checks, and hands calls to the team that runs them. A team knows nothing of its
executor, which may be collected while the team is still at work: then it is closed.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from gorun import _settings
from gorun._executor import exits
from gorun._executor.future import Future
from gorun._executor.results import chunked, results
from gorun._executor.threads import ThreadTeam
from gorun._executor.views import WorkerProcess, WorkerThread

if TYPE_CHECKING:
    from gorun._executor.processes import ProcessTeam

__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")

_number = itertools.count().__next__


class Executor(futures.Executor):
    """Is a `concurrent.futures.Executor` whose workers are goroutines, or processes.

    Everything `concurrent.futures` promises holds: real `Future`s, `shutdown`, `with`, a broken pool
    after a failed initializer, exit that waits for pending calls; for asyncio's
    `loop.run_in_executor`, dask's `scheduler=` and the like it is one more executor.

    `on="thread"`: each worker is one plain goroutine on one thread until shutdown, so thread-locals
    stay, and gorun's operations inside a call hand the P on. Calls see the worker's context
    variables, not the caller's, as with ThreadPoolExecutor. A call that is cut by a cancel of its
    worker (`gorun.shutdown()`) fails with GoroutineCancelled.

    `on="process"`: workers are processes that need no `if __name__ == "__main__"`; lambdas and
    functions of a notebook travel too. A worker that dies fails the calls that it had begun, with
    an error that is both a `WorkerDied` and a `BrokenProcessPool`, and is replaced: the others go
    on. What cannot be pickled fails its own call only.

    Args:
        max_workers: at least 1; None: 4 more than the usable CPUs, up to 32; for processes the
            usable CPUs.
        on: "thread" or "process".
        thread_name_prefix: worker threads are called this, "_" and a number, meanwhile.
        initializer: called with `initargs` in each worker before its first call; if it raises, the
            executor is broken: every call fails with BrokenThreadPool or BrokenProcessPool.
        initargs: arguments of `initializer`.
        max_tasks_per_child: calls after which a worker is replaced by a new one; None: never.
        mp_context: taken for ProcessPoolExecutor's sake where `on` is "process", and not used: the
            workers are always started afresh, never by a bare fork.

    Raises:
        TypeError, ValueError: naming the argument and its value.

    >>> import gorun
    >>> with gorun.Executor(2) as executor:
    ...     executor.submit(pow, 2, 5).result(), list(executor.map(abs, [-1, -2]))
    (32, [1, 2])
    """

    _inner_threads: int | None = None  # of BLAS and OpenMP in a worker process; None: its share

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        on: Literal["thread", "process"] = "thread",
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        mp_context: object = None,
    ) -> None:
        if on not in ("thread", "process"):
            raise ValueError(f'on must be "thread" or "process", not {on!r}')
        if max_workers is None:
            cpus = _settings.usable_cpus()
            max_workers = min(32, cpus + 4) if on == "thread" else cpus
        elif isinstance(max_workers, bool) or not isinstance(max_workers, int):
            raise TypeError(f"max_workers must be a whole number or None, not {max_workers!r}")
        elif max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError(
                    f"max_tasks_per_child must be an integer, not {max_tasks_per_child!r}"
                )
            if max_tasks_per_child <= 0:
                raise ValueError(f"max_tasks_per_child must be >= 1, not {max_tasks_per_child}")
        self._max_workers = max_workers
        if on == "thread" and mp_context is not None:
            raise ValueError(f'mp_context is for on="process", not for threads: {mp_context!r}')
        self._on = on
        name = thread_name_prefix or f"gorun.Executor-{_number()}"
        options = (max_workers, name, initializer, tuple(initargs), max_tasks_per_child)
        team: ThreadTeam | ProcessTeam
        if on == "process":
            from gorun._executor.processes import ProcessTeam  # multiprocessing: not for everybody

            team = ProcessTeam(*options, self._inner_threads)
        else:
            team = ThreadTeam(*options)
        self._team = team
        self._put = team.put
        self._future: Callable[[], Future[Any]] = team.future
        # The team holds the reference, and its workers the team: it is there for as long as it matters.
        team.owner = weakref.ref(self, partial(_orphaned, team))

    @property
    def _broken(self) -> str | bool:
        """Why the executor is broken, or False; where concurrent.futures' own ones have it."""
        return self._team.broken

    @property
    def _threads(self) -> set[WorkerThread]:
        """As ThreadPoolExecutor's, but those only that have not left."""
        return {WorkerThread(goroutine) for goroutine in list(self._team.members)}

    @property
    def _processes(self) -> dict[int, WorkerProcess]:
        """As ProcessPoolExecutor's: by process id."""
        return {pid: WorkerProcess(pid) for pid in self._team.pids}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Has `fn(*args, **kwargs)` called by a worker, and gives a Future of what it returns.

        RuntimeError after shutdown and at interpreter exit; a BrokenExecutor when broken.

        >>> import gorun
        >>> with gorun.Executor(1) as executor:
        ...     executor.submit(divmod, 7, 2).result()
        (3, 1)
        """
        future: Future[T] = self._future()
        self._put((future, fn, args, kwargs))
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Gives `map(fn, *iterables)`, called by the workers; results in order.

        The input is taken at once, or `buffersize` items ahead of the results where that is given
        (as in 3.14, on every version). `timeout` is seconds from this call: then `next` raises
        TimeoutError. `chunksize`: how many items a process takes at a time; no effect on threads.
        An error ends the iterator; what has not begun by then is cancelled. For a lazy map that
        sizes its own chunks see `gorun.map`.

        >>> import gorun, itertools
        >>> with gorun.Executor(1) as executor:
        ...     squares = executor.map(pow, itertools.count(), itertools.repeat(2), buffersize=8)
        ...     next(squares), next(squares), next(squares)
        (0, 1, 4)
        """
        if self._on == "process":
            return chunked(self, fn, iterables, timeout, chunksize, buffersize)
        return results(self, fn, iterables, timeout, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accepts no more calls; what is pending is run, or cancelled with `cancel_futures`.

        `wait` waits until every worker has left. At interpreter exit that is waited for anyway.

        >>> import gorun
        >>> executor = gorun.Executor(1)
        >>> future = executor.submit(abs, -1)
        >>> executor.shutdown()
        >>> future.done()
        True
        """
        team = self._team
        team.close(_shut)
        if cancel_futures:
            team.drop()
        if wait:
            team.join()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Shuts down and waits; after a Ctrl-C, processes are terminated instead."""
        interrupted = exits.is_interrupt(exc_val)
        if interrupted:
            self._team.interrupted()
        try:
            self.shutdown(wait=not interrupted or self._on == "thread")
        except KeyboardInterrupt:
            self._team.interrupted()
            raise

    def terminate_workers(self) -> None:
        """Shuts down without waiting: what is pending is cancelled, and so are the workers.

        Processes get SIGTERM, and their calls fail as those of a worker that died. On a thread a
        call is cut at its next gorun operation and fails with GoroutineCancelled; one that never
        comes to any runs to its end. From 3.14's ProcessPoolExecutor.

        >>> import gorun
        >>> executor = gorun.Executor(1)
        >>> future = executor.submit(gorun.sleep, 60)
        >>> executor.terminate_workers()
        >>> executor.shutdown()
        """
        self.shutdown(wait=False, cancel_futures=True)
        self._team.stop(kill=False)

    def kill_workers(self) -> None:
        """As `terminate_workers`, but the calls under way fail at once, and nobody waits for them.

        Processes get SIGKILL. On threads their futures have a BrokenThreadPool error; a call that
        cannot be cut keeps its thread until it returns, what it returns is dropped, and the exit
        does not wait for it.

        >>> import gorun
        >>> executor = gorun.Executor(1, on="process")
        >>> executor.kill_workers()
        >>> executor.submit(abs, -1)
        Traceback (most recent call last):
        RuntimeError: cannot schedule new futures after shutdown
        """
        self.shutdown(wait=False, cancel_futures=True)
        self._team.stop(kill=True)

    def __repr__(self) -> str:
        kind = "threads" if self._on == "thread" else "processes"
        return f"<gorun.Executor of {self._max_workers} {kind} at {id(self):#x}>"


def _orphaned(
    team: ThreadTeam | ProcessTeam, _: object, finalizing: Callable[[], bool] = sys.is_finalizing
) -> None:
    """Closes a team whose executor was collected; what waits is run."""
    team.owner = None
    if not finalizing():  # then every team was joined, and what closing needs may have gone
        team.close(_shut)


def _shut() -> Exception:
    return RuntimeError("cannot schedule new futures after shutdown")
