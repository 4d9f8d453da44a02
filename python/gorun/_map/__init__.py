"""The parallel map: `gorun.map` and `gorun.map_async`.

processes.py the carrier whose workers are processes (gorun._proc has them)
executors.py the carrier that submits to somebody else's Executor
threads.py   the carrier whose workers are goroutines; worker.py is one of them
front.py     `Map`, `AsyncMap`: what the caller iterates over; they wait
blocks.py    a flow by blocks of items, for processes and executors
flow.py      order, run-ahead, errors, time-out, progress; never waits
progress.py  tqdm, or a callable
carrier.py   the checked arguments, and what a flow and a carrier say to each other

Imports go downwards in this list. A new carrier comes beside the three and changes nothing else but
the choice in `_flow`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator, Sized
from concurrent.futures import Executor
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from gorun._gil import gil_enabled
from gorun._map.blocks import BlockFlow
from gorun._map.carrier import Job
from gorun._map.executors import ExecutorCarrier
from gorun._map.flow import Flow
from gorun._map.front import AsyncMap, Map
from gorun._map.processes import ProcessCarrier
from gorun._map.progress import Progress, meter
from gorun._map.threads import ThreadCarrier

__all__ = ["AsyncMap", "Map", "map", "map_async"]

A = TypeVar("A")
T = TypeVar("T")
Coro: TypeAlias = Coroutine[Any, Any, T]
On: TypeAlias = Literal["thread", "process"] | Executor | None
Ends: TypeAlias = Literal["raise", "collect"]
Returns: TypeAlias = Literal["return"]


class Options(TypedDict, total=False):
    """What every form of `map` takes by keyword; the docstring of `map` explains each."""

    workers: int | None
    on: On
    ordered: bool
    chunk: int | None
    buffer: int | None
    timeout: float | None
    item_timeout: float | None
    retries: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_tasks_per_child: int | None
    progress: Progress | None


# An `async def` function gives what it returns, any other what it gives; with one iterable the
# function's argument is checked against the items.
# fmt: off
@overload
def map(fn: Callable[[A], Coro[T]], items: Iterable[A], /, *,
        errors: Ends = ..., **options: Unpack[Options]) -> Map[T]: ...
@overload
def map(fn: Callable[[A], T], items: Iterable[A], /, *,
        errors: Ends = ..., **options: Unpack[Options]) -> Map[T]: ...
@overload
def map(fn: Callable[..., Coro[T]], a: Iterable[Any], b: Iterable[Any], /, *more: Iterable[Any],
        errors: Ends = ..., **options: Unpack[Options]) -> Map[T]: ...
@overload
def map(fn: Callable[..., T], a: Iterable[Any], b: Iterable[Any], /, *more: Iterable[Any],
        errors: Ends = ..., **options: Unpack[Options]) -> Map[T]: ...
@overload
def map(fn: Callable[..., Coro[T]], /, *iterables: Iterable[Any],
        errors: Returns, **options: Unpack[Options]) -> Map[T | Exception]: ...
@overload
def map(fn: Callable[..., T], /, *iterables: Iterable[Any],
        errors: Returns, **options: Unpack[Options]) -> Map[T | Exception]: ...
# fmt: on
def map(
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    workers: int | None = None,
    on: On = None,
    ordered: bool = True,
    chunk: int | None = None,
    buffer: int | None = None,
    errors: Literal["raise", "return", "collect"] = "raise",
    timeout: float | None = None,
    item_timeout: float | None = None,
    retries: int = 0,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    max_tasks_per_child: int | None = None,
    progress: Progress | None = False,
) -> Map[Any]:
    """Calls `fn` for every item on all cores at the same time, and iterates over the results.

    A lazy, parallel `builtins.map`: with several iterables `fn` gets one item of each, to the end
    of the shortest. The call checks its arguments; work starts at the first `next`, and only the
    thread that calls `next` advances the input, `buffer` items ahead at most, so the input may be
    endless. Use it in a `for`, or in a `with` that is left early. Like a generator, it serves one
    caller at a time. Each `next` is a cancel point, and one that was cut has taken nothing. What
    was not begun is dropped, and what runs is cancelled (a process: killed), when it is closed,
    when nobody holds it any more, and when it has raised.

    Args:
        fn: any callable, or an `async def` function, of which `workers` run at a time. On threads
            each worker sees its own copy of the context variables as they were at this call. On
            processes `fn` and the items are copies: lambdas and closures are fine, but they do not
            change the caller's objects.
        iterables: one or more; their errors are raised after the results of the items before.
        workers: how many items run at a time, at least 1; None: `gomaxprocs()`. A plain goroutine
            that is waiting costs a thread until the map ends.
        on: "thread": goroutines; "process": worker processes, kept a while for the next map; None:
            threads where they run in parallel (`sys._is_gil_enabled()` is false), else processes,
            asked at each call; or any `concurrent.futures.Executor`. An `async def` function runs
            on goroutines.
        ordered: results in the order of the input; False: as they come.
        chunk: how many items a worker takes at a time, at least 1; None: 1 on threads, else as
            many as pay for the message, by measured time. Items are begun in order, so they may
            wait for those before them, but not within one chunk.
        buffer: how many items, at least 1, may have been taken from the input beyond the results
            given. None: 4 chunks for each worker; more, up to 1024 items (65 536 where the
            iterables have a length), while a worker has nothing to do and the caller waits for a
            result.
        errors: "raise": the first one, in the order of the results, ends the map; "return": it
            stands where the result would; "collect": all good results, then an ExceptionGroup of
            the errors, the input's included. KeyboardInterrupt and its like always end the map.
        timeout: seconds from the first `next`; then `next` gives what is ready, takes no more
            input, and raises TimeoutError as soon as it would have to wait.
        item_timeout: seconds above 0 for one item, retries included; then it fails with a
            TimeoutError. Its worker is replaced: a process is killed, a goroutine is cancelled,
            and a plain function that waits outside gorun keeps its thread until it returns.
            Looked at while `next` waits.
        retries: how often an item that raised an Exception is run again, at once; on processes also
            one whose worker died.
        initializer: called with `initargs` in each worker before its first item; what it raises
            ends the map.
        initargs: arguments of `initializer`.
        max_tasks_per_child: items after which a worker is replaced by a new one.
        progress: True or a label draws with tqdm (`pip install 'gorun[progress]'`); a callable is
            called by `next` with `(done, total)`, first with 0, then whenever more items are done;
            `total` is None where an iterable has no length.

    Raises:
        TypeError, ValueError: at the call, naming the argument and its value.
        ImportError: at the call, where tqdm is wanted and missing.
        TimeoutError: from `next`, when `timeout` is over.
        RuntimeError: from `next`, in place of a StopIteration that `fn` raised.
        GoroutineCancelled: from `next`, when a worker was cancelled, as by `gorun.shutdown()`.
        WorkerDied: from `next`, when a worker process died: `items` is what it had begun.

    From `builtins.map` and `concurrent.futures.Executor.map`; `errors`, `ordered`, `progress` are
    joblib's and mpire's ideas.

    >>> import gorun, itertools
    >>> list(gorun.map(pow, [2, 3, 4], [5, 2, 1]))
    [32, 9, 4]
    >>> with gorun.map(str.upper, itertools.cycle("ab"), workers=2) as letters:
    ...     next(letters), next(letters)
    ('A', 'B')
    """
    job = Job(
        fn, len(iterables), workers, on, ordered, chunk, buffer, errors, timeout, item_timeout,
        retries, initializer, initargs, max_tasks_per_child, progress,
    )  # fmt: skip
    return Map(_flow(job, iterables, progress))


# fmt: off
@overload
def map_async(fn: Callable[[A], Coro[T]], items: Iterable[A], /, *,
              errors: Ends = ..., **options: Unpack[Options]) -> AsyncMap[T]: ...
@overload
def map_async(fn: Callable[[A], T], items: Iterable[A], /, *,
              errors: Ends = ..., **options: Unpack[Options]) -> AsyncMap[T]: ...
@overload
def map_async(fn: Callable[..., Coro[T]], a: Iterable[Any], b: Iterable[Any], /,
              *more: Iterable[Any], errors: Ends = ...,
              **options: Unpack[Options]) -> AsyncMap[T]: ...
@overload
def map_async(fn: Callable[..., T], a: Iterable[Any], b: Iterable[Any], /,
              *more: Iterable[Any], errors: Ends = ...,
              **options: Unpack[Options]) -> AsyncMap[T]: ...
@overload
def map_async(fn: Callable[..., Coro[T]], /, *iterables: Iterable[Any],
              errors: Returns, **options: Unpack[Options]) -> AsyncMap[T | Exception]: ...
@overload
def map_async(fn: Callable[..., T], /, *iterables: Iterable[Any],
              errors: Returns, **options: Unpack[Options]) -> AsyncMap[T | Exception]: ...
# fmt: on
def map_async(
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    workers: int | None = None,
    on: On = None,
    ordered: bool = True,
    chunk: int | None = None,
    buffer: int | None = None,
    errors: Literal["raise", "return", "collect"] = "raise",
    timeout: float | None = None,
    item_timeout: float | None = None,
    retries: int = 0,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    max_tasks_per_child: int | None = None,
    progress: Progress | None = False,
) -> AsyncMap[Any]:
    """Is `map` as an async iterator, for asyncio tasks and async goroutines.

    The same arguments, results and errors; `async for` and `async with` in place of `for` and
    `with`, `aclose()` in place of `close()`. The iterables are plain ones, and the task that
    awaits advances them. A wait that is cancelled has taken nothing: the next one goes on there.

    >>> import gorun
    >>> async def main() -> list[int]:
    ...     return [n async for n in gorun.map_async(abs, [-1, -2])]
    >>> gorun.run(main)
    [1, 2]
    """
    job = Job(
        fn, len(iterables), workers, on, ordered, chunk, buffer, errors, timeout, item_timeout,
        retries, initializer, initargs, max_tasks_per_child, progress,
    )  # fmt: skip
    return AsyncMap(_flow(job, iterables, progress))


def _flow(job: Job, iterables: tuple[Iterable[Any], ...], progress: Progress | None) -> Flow:
    """Chooses the carrier, and puts the parts of one map together."""
    sources = [_iterator(iterable) for iterable in iterables]
    source: Iterator[Any] = zip(*sources, strict=False) if job.star else sources[0]
    total = None
    if all(isinstance(iterable, Sized) for iterable in iterables):
        total = min(len(iterable) for iterable in cast("tuple[Sized, ...]", iterables))
    told = meter(progress, total)
    if isinstance(job.on, Executor):
        return BlockFlow(job, ExecutorCarrier(job, job.on, total), source, total, told)
    if on_processes(job):
        return BlockFlow(job, ProcessCarrier(job, total), source, total, told)
    return Flow(job, ThreadCarrier(job, total), source, total, told)


def on_processes(job: Job) -> bool:
    """Whether a map runs on worker processes: where threads would take turns, if nothing is said."""
    if job.on is not None or job.is_async:
        return job.on == "process"
    return gil_enabled()


def _iterator(iterable: Iterable[Any]) -> Iterator[Any]:
    """As `iter`, with an error that names the value."""
    try:
        return iter(iterable)
    except TypeError as error:
        hint = ": await its items first" if isinstance(iterable, AsyncIterable) else ""
        raise TypeError(f"gorun.map needs plain iterables, not {iterable!r}{hint}") from error
