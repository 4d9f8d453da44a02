"""`gorun.map(on=...)` on somebody else's executor: chunks, order, errors, the end."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import gorun

HANG = 30.0


def square(n: int) -> int:
    return n * n


class Counting(Executor):
    """Runs at `submit`, and keeps what it was given: an executor that says nothing of itself."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.pending: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.held = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.chunks.append(args[1].values)
        future: Future[Any] = Future()
        if self.held:
            self.pending.append((future, lambda: fn(*args, **kwargs)))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("options", [{}, {"chunk": 3}, {"buffer": 5}, {"buffer": 1}])
@pytest.mark.parametrize("n", [0, 1, 7, 3000])
def test_gives_what_the_builtin_gives(
    threads: ThreadPoolExecutor, ordered: bool, options: dict[str, Any], n: int
) -> None:
    """Mutation: `_next` drops what a block has beyond the chunk."""
    found = list(gorun.map(square, range(n), on=threads, ordered=ordered, **options))
    assert list(map(square, range(n))) == (found if ordered else sorted(found))


@pytest.mark.no_matrix
def test_a_lambda_on_a_process_pool() -> None:
    """The function travels as to our own workers. Mutation: `Portable` has no `__reduce__`."""
    factor = 3
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(gorun.map(lambda n: factor * n, range(100), on=pool)) == [
            3 * n for n in range(100)
        ]


def test_chunks_grow_with_what_is_known() -> None:
    """The first items go alone, tiny ones then by the hundred. Mutation: chunks are of one item."""
    executor = Counting()
    assert sum(gorun.map(square, range(20_000), on=executor)) == sum(map(square, range(20_000)))
    sizes = [len(chunk) for chunk in executor.chunks]
    assert sizes[0] == 1
    assert max(sizes) > 100
    assert sum(sizes) == 20_000


def test_the_executor_has_a_bounded_number_of_chunks() -> None:
    """Two for each worker; the input is not run through. Mutation: `_submit` looks at no window."""
    executor = Counting()
    executor.held = True
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for n in range(10**6):
            pulled.append(n)
            yield n

    with gorun.map(square, source(), on=executor, workers=3) as m:
        timer = threading.Timer(0.2, m.close)
        timer.start()
        assert list(m) == []
        timer.join()
    assert len(executor.pending) == 6
    assert len(pulled) <= 1024 * 2
    assert all(future.cancelled() for future, _ in executor.pending)


def test_errors_retries_and_several_iterables(threads: ThreadPoolExecutor) -> None:
    """Mutation: an error stands at its place in the chunk, not at its number."""
    tries: list[int] = []

    def item(n: int, m: int) -> float:
        tries.append(n)
        return m / n

    found = list(
        gorun.map(item, [1, 0, 2], [3, 3, 3], on=threads, errors="return", retries=2, chunk=3)
    )
    assert [f if isinstance(f, float) else type(f) for f in found] == [3.0, ZeroDivisionError, 1.5]
    assert sorted(tries) == [0, 0, 0, 1, 2]
    m = gorun.map(item, [1, 0, 2], [3, 3, 3], on=threads)
    assert next(m) == 3.0
    with pytest.raises(ZeroDivisionError):
        next(m)


def test_timeouts(threads: ThreadPoolExecutor) -> None:
    """Of an item, which is given up, and of the whole. Mutation: `expire` gives none up."""
    go = threading.Event()

    def item(n: int) -> int:
        assert n != 1 or go.wait(HANG)
        return n

    found = list(gorun.map(item, range(4), on=threads, item_timeout=0.1, errors="return"))
    assert [f if isinstance(f, int) else type(f) for f in found] == [0, TimeoutError, 2, 3]
    with pytest.raises(TimeoutError, match="0 of 1"):
        list(gorun.map(item, [1], on=threads, timeout=0.1))
    go.set()


def test_an_executor_that_takes_no_more(threads: ThreadPoolExecutor) -> None:
    """Its error ends the map. Mutation: `_submit` lets it pass."""
    threads.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        list(gorun.map(square, range(5), on=threads))


@pytest.mark.no_matrix
def test_an_executor_that_breaks() -> None:
    """Its error is each item's, and a WorkerDied too. Mutation: `_take_in` waits on."""
    import os

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.raises(BrokenProcessPool) as caught:
            list(gorun.map(os._exit, [1, 2, 3], on=pool))
    assert isinstance(caught.value, gorun.WorkerDied)
    assert caught.value.items == (1,)


def test_a_chunk_that_somebody_cancels() -> None:
    """Mutation: a cancelled future is waited for."""
    executor = Counting()
    executor.held = True
    m = gorun.map(square, range(5), on=executor)

    def cancel() -> None:
        while not executor.pending:
            time.sleep(0.001)
        executor.pending[0][0].cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(gorun.GoroutineCancelled, match="a chunk"):
        list(m)
    thread.join()


def test_from_a_task_and_a_goroutine(threads: ThreadPoolExecutor) -> None:
    """Mutation: `wait_async` blocks."""

    async def main() -> list[int]:
        return [n async for n in gorun.map_async(square, range(500), on=threads)]

    expected = [n * n for n in range(500)]
    assert asyncio.run(main()) == expected
    assert gorun.go(main).result(HANG) == expected


@pytest.mark.no_matrix
def test_what_is_the_executors_own_is_refused(threads: ThreadPoolExecutor) -> None:
    """Mutation: `Job` lets it pass, and nobody does it."""
    for options in ({"initializer": print}, {"max_tasks_per_child": 3}):
        with pytest.raises(ValueError, match="the executor's own"):
            gorun.map(square, [1], on=threads, **options)  # type: ignore[call-overload]


def test_what_is_no_exception_ends_the_map(threads: ThreadPoolExecutor) -> None:
    """Whatever `errors` says. Mutation: `run_chunk` runs it again."""
    tries: list[int] = []

    def leave(n: int) -> None:
        tries.append(n)
        raise SystemExit(n)

    with pytest.raises(SystemExit):
        list(gorun.map(leave, [1], on=threads, errors="return", retries=3))
    assert tries == [1]
