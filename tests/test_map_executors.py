"""`gorun.map(on=<an Executor>)`: chunks on somebody else's workers."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import _RemoteTraceback
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any

import pytest

import gorun
from gorun._map import executors

pytestmark = pytest.mark.no_matrix

LONG = 30.0

resource_tracker.ensure_running()  # a ProcessPoolExecutor would leave it behind

MAKERS: dict[str, Callable[[], Executor]] = {
    "ThreadPoolExecutor": lambda: ThreadPoolExecutor(2),
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    "gorun threads": lambda: gorun.Executor(2),
    "gorun processes": lambda: gorun.Executor(2, on="process"),
}


@pytest.fixture(params=MAKERS)
def on(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with MAKERS[request.param]() as executor:
        yield executor


class Recorder(Executor):
    """Runs calls in threads, and knows them and how many were out at a time."""

    _max_workers = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.most = self.out = 0
        self._pool = ThreadPoolExecutor(2)
        self._lock = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            self.sizes.append(len(args[1].values))
            self.out += 1
            self.most = max(self.most, self.out)
        future = self._pool.submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        with self._lock:
            self.out -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def test_results(on: Executor) -> None:
    """In order, of several iterables, of any function and an endless input.

    Mutation: answers in the order of their arrival.
    """
    assert list(gorun.map(lambda n: n * n, range(3000), on=on)) == [n * n for n in range(3000)]
    assert list(gorun.map(pow, [2, 3, 4], [5, 2, 1], on=on)) == [32, 9, 4]
    assert sorted(gorun.map(abs, range(-100, 0), on=on, ordered=False)) == list(range(1, 101))
    with gorun.map(abs, itertools.count(), on=on) as endless:
        assert list(itertools.islice(endless, 500)) == list(range(500))


def fails_at_threes(n: int) -> int:
    if n % 3 == 0:
        raise KeyError(n)
    return n


def test_errors_are_the_items(on: Executor) -> None:
    """Each item has its own error, whatever chunk it was in, with the traceback of the worker.

    Mutation: an error that fails its chunk.
    """
    values = list(gorun.map(fails_at_threes, range(200), on=on, errors="return"))
    for n, value in enumerate(values):
        if n % 3:
            assert value == n
        else:
            assert isinstance(value, KeyError)
            assert value.args == (n,)
    if (
        type(on) is not ThreadPoolExecutor and on._on != "thread"
        if isinstance(on, gorun.Executor)
        else False
    ):
        assert "fails_at_threes" in str(values[0].__cause__)
    with pytest.raises(KeyError) as caught:
        list(gorun.map(fails_at_threes, range(1, 200), on=on))
    assert caught.value.args == (3,)


def test_remote_traceback() -> None:
    """An error that came out of a process says where it was raised there.

    Mutation: pickle the errors as they are.
    """
    with gorun.Executor(1, on="process") as on:
        [error] = gorun.map(fails_at_threes, [3], on=on, errors="return")
    assert isinstance(error, KeyError)
    assert "in fails_at_threes" in getattr(error.__cause__, "tb", "")
    assert _RemoteTraceback is not None


def test_what_cannot_be_pickled_costs_its_item() -> None:
    """Items and results of a chunk that cannot travel fail by name; their neighbours are there.

    Mutation: `Parcel.__reduce_ex__` without its second try.
    """
    lock = threading.Lock()
    with gorun.Executor(1, on="process") as on:
        items: list[Any] = [1, lock, 3]
        got = list(gorun.map(str, items, on=on, chunk=3, errors="return"))
        assert (got[0], got[2]) == ("1", "3")
        assert "item 1 of gorun.map cannot be sent" in str(got[1])
        got = list(
            gorun.map(
                lambda n: n if n % 2 else threading.Lock(),
                range(4),
                on=on,
                chunk=4,
                errors="return",
            )
        )
        assert got[1::2] == [1, 3]
        assert "item 2 of gorun.map cannot be sent" in str(got[2])


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    """Mutation: `Portable` does not say what it is."""
    lock = threading.Lock()

    def locked(n: int) -> bool:
        return lock.locked()

    with gorun.Executor(1, on="process") as on, pytest.raises(TypeError, match=r"function.*locked"):
        list(gorun.map(locked, [1], on=on))


def test_retries(on: Executor) -> None:
    """An item that raised is run again where it is.

    Mutation: `run_chunk` without its loop.
    """
    [seen] = gorun.map(_second_time, [[]], on=on, retries=2)
    assert seen == 2


def _second_time(tries: list[int]) -> int:
    tries.append(1)
    if len(tries) < 2:
        raise OSError
    return len(tries)


def test_progress_and_time_out(on: Executor) -> None:
    """Progress counts items; the map's time-out is the map's.

    Mutation: count chunks.
    """
    seen: list[tuple[int, int | None]] = []
    assert (
        len(list(gorun.map(abs, range(300), on=on, progress=lambda *now: seen.append(now)))) == 300
    )
    assert seen[0] == (0, 300)
    assert seen[-1] == (300, 300)
    with pytest.raises(TimeoutError):
        list(gorun.map(time.sleep, [0.5] * 20, on=on, timeout=0.1))


def test_chunks_size_themselves() -> None:
    """Short items go in large chunks, long ones alone; a bounded number is out at a time.

    Mutation: one item per chunk; or no window.
    """
    with Recorder() as on:
        assert len(list(gorun.map(abs, range(100_000), on=on))) == 100_000
        assert on.sizes[0] == 1
        assert max(on.sizes) > 1000
        assert on.most <= 2 * executors.WINDOW
        before = len(on.sizes)
        list(gorun.map(time.sleep, [executors.TARGET] * 6, on=on))
        assert on.sizes[before:] == [1] * 6


def test_chunks_as_long_as_said() -> None:
    """With `chunk`, only the last one is shorter, however slowly the caller takes the results.

    Mutation: `_feed` that pulls whatever has room.
    """
    with Recorder() as on:
        for result in gorun.map(abs, range(1005), on=on, chunk=10):
            if result % 7 == 0:
                time.sleep(0.001)
        assert on.sizes == [10] * 100 + [5]
        on.sizes.clear()
        assert list(gorun.map(abs, iter(range(35)), on=on, chunk=10, buffer=15)) == [*range(35)]
        assert on.sizes == [10] * 3 + [5]


def test_chunks_are_whole_where_the_input_is_slow() -> None:
    """The beginning of a chunk waits for its rest, and nothing of it is lost at the end.

    Mutation: `_feed` hands over what has come.
    """

    def source() -> Iterator[int]:
        for n in range(11):
            time.sleep(0.006)  # each item is a pull of its own
            yield n

    with Recorder() as on:
        assert list(gorun.map(abs, source(), on=on, chunk=4)) == [*range(11)]
        assert on.sizes == [4, 4, 3]


def test_a_lost_worker_fails_its_chunk_with_worker_died(tmp_path: Path) -> None:
    """Where the executor gives a chunk up, its items fail with WorkerDied that names them.

    Mutation: `_lost` that passes on what comes.
    """
    with gorun.Executor(1, on="process") as on:
        got = list(gorun.map(_dies_at, range(6), on=on, chunk=2, errors="return"))
    assert got[:2] == [0, 1]
    assert got[4:] == [4, 5]
    for error in got[2:4]:
        assert isinstance(error, gorun.WorkerDied)


def _dies_at(n: int) -> int:
    if n == 3:
        os._exit(9)
    return n


def test_broken_executor() -> None:
    """A standard pool that breaks: what was out fails with WorkerDied, what was not is refused.

    Mutation: treat a refusal as an item's error (it would never end).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as on:
        with pytest.raises(gorun.WorkerDied, match="item"):
            list(gorun.map(_dies_at, range(10), on=on, chunk=1))


def test_closed_early() -> None:
    """What is with the executor and has not begun is cancelled at the map's end, however that comes.

    Mutation: `cancel` that cancels nothing.
    """

    class Stuck(Executor):
        """Begins nothing."""

        _max_workers = 2

        def __init__(self) -> None:
            self.calls: list[Future[Any]] = []

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.calls.append(Future())
            return self.calls[-1]

    on = Stuck()
    with pytest.raises(TimeoutError):
        next(gorun.map(abs, range(100), on=on, chunk=1, timeout=0.05))
    assert len(on.calls) == 2 * executors.WINDOW
    assert all(call.cancelled() for call in on.calls)


def test_cancelled_by_others() -> None:
    """A chunk that somebody else cancels ends the map, and says so.

    Mutation: wait for it for ever.
    """
    on = ThreadPoolExecutor(1)
    gate = threading.Event()
    results = gorun.map(lambda _: gate.wait(LONG), range(10), on=on, chunk=1)
    threading.Timer(
        0.05, lambda: (on.shutdown(wait=False, cancel_futures=True), gate.set())
    ).start()
    with pytest.raises((gorun.GoroutineCancelled, CancelledError, RuntimeError)):
        list(results)
    on.shutdown()


def test_equal_chunks_are_not_one() -> None:
    """Each chunk differs in its arguments, for executors that give equal calls one result (Dask).

    Mutation: leave the token out.
    """
    seen = set()

    class Deduping(Recorder):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            seen.add(args[-1])
            return super().submit(fn, *args, **kwargs)

    on = Deduping()
    for _ in range(2):
        list(gorun.map(lambda _: random.random(), [0] * 10, on=on, chunk=1))
    assert len(seen) == 20
    on.shutdown()


def test_async(on: Executor) -> None:
    """`map_async` too.

    Mutation: a carrier without `wait_async`.
    """

    async def main() -> list[int]:
        return [n async for n in gorun.map_async(abs, range(-50, 0), on=on)]

    assert gorun.run(main) == list(range(50, 0, -1))
