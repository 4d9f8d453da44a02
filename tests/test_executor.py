"""`gorun.Executor(on="thread")`: what is its own, beside CPython's tests (test_cpython_executors.py).

Where the standard library's executor has an answer, the test asks both.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from tests._gates import LONG, Gate, gate

import gorun
from gorun import Executor

__all__ = ["gate"]  # a fixture


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (ValueError, "greater than 0.*0", {"max_workers": 0}),
        (ValueError, "greater than 0.*-3", {"max_workers": -3}),
        (TypeError, "max_workers.*2.5", {"max_workers": 2.5}),
        (TypeError, "max_workers.*True", {"max_workers": True}),
        (ValueError, "on must be.*'fibre'", {"on": "fibre"}),
        (TypeError, "initializer.*7", {"initializer": 7}),
        (TypeError, "max_tasks_per_child.*'2'", {"max_tasks_per_child": "2"}),
        (ValueError, "max_tasks_per_child.*0", {"max_tasks_per_child": 0}),
        (ValueError, "mp_context.*'spawn'", {"mp_context": "spawn"}),
    ],
)
def test_bad_arguments(error: type[Exception], words: str, options: dict[str, Any]) -> None:
    """Each names the argument and its value.

    Mutation: drop one check.
    """
    with pytest.raises(error, match=words):
        Executor(**options)


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    ("error", "words", "buffersize"),
    [
        (TypeError, "buffersize must be an integer or None", "1"),
        (ValueError, "buffersize must be None or > 0", 0),
        (ValueError, "buffersize must be None or > 0", -1),
    ],
)
def test_bad_buffersize(error: type[Exception], words: str, buffersize: Any) -> None:
    """As in 3.14, and nothing has been submitted.

    Mutation: check it after the first submit.
    """
    with Executor(1) as executor:
        seen: list[int] = []
        with pytest.raises(error, match=words):
            executor.map(seen.append, range(3), buffersize=buffersize)
    assert seen == []


@pytest.mark.no_matrix
def test_is_an_executor() -> None:
    """It is a concurrent.futures.Executor with its Futures, and says how many workers it has.

    Mutation: give the goroutine in place of the future.
    """
    with Executor(3) as executor:
        assert isinstance(executor, futures.Executor)
        assert isinstance(executor.submit(abs, 1), futures.Future)
        assert executor._max_workers == 3
        assert repr(executor).startswith("<gorun.Executor of 3 threads")


# ---- workers -------------------------------------------------------------------------------------


def test_a_worker_is_one_goroutine_on_one_thread() -> None:
    """All calls of a worker see the same goroutine, thread and thread-locals.

    Mutation: one goroutine per call.
    """
    local = threading.local()

    def look() -> tuple[Any, int, int]:
        local.calls = getattr(local, "calls", 0) + 1
        return gorun.current(), threading.get_ident(), local.calls

    with Executor(1) as executor:
        seen = [executor.submit(look).result(LONG) for _ in range(20)]
    assert len({goroutine for goroutine, _, _ in seen}) == 1
    assert len({thread for _, thread, _ in seen}) == 1
    assert [calls for _, _, calls in seen] == list(range(1, 21))


def test_names() -> None:
    """Worker and thread are named by the prefix while it lasts; the thread gets its name back.

    Mutation: leave the thread's name.
    """

    def names() -> tuple[str, str]:
        goroutine = gorun.current()
        assert goroutine is not None
        return goroutine.name, threading.current_thread().name

    with Executor(1, thread_name_prefix="bee") as executor:
        assert executor.submit(names).result(LONG) == ("bee_0", "bee_0")
    with Executor(1) as executor:
        name = executor.submit(names).result(LONG)[0]
    assert name.startswith("gorun.Executor-")
    assert name.endswith("_0")
    assert not any(thread.name.startswith(("bee", name)) for thread in threading.enumerate())


def test_private_names(gate: Gate) -> None:
    """What others reach for in a ThreadPoolExecutor: its workers, to count and to wait for.

    Mutation: `_threads` of workers that have left.
    """
    with Executor(3, thread_name_prefix="bee") as executor:
        for _ in range(3):
            executor.submit(gate)
        gate.entered(3)
        workers = executor._threads
        assert {worker.name for worker in workers} == {"bee_0", "bee_1", "bee_2"}
        assert all(worker.is_alive() for worker in workers)
        gate.open()
        executor.shutdown(wait=False)
        for worker in workers:
            worker.join(LONG)
            assert not worker.is_alive()
    assert executor._processes == {}


def test_idle_workers_hold_no_p() -> None:
    """More resting workers than Ps: other goroutines run as if there were none.

    Mutation: rest on a threading.Event under GORUN_SYSMON off; here: a busy wait in `_rest`.
    """
    with Executor(6) as executor:
        gate = Gate()
        calls = [executor.submit(gate) for _ in range(6)]
        gate.entered(6)
        gate.open()
        futures.wait(calls, LONG)
        resting = [g for g in gorun.goroutines() if "Executor" in g.name]
        assert len(resting) == 6
        for _ in range(1000):
            if all(g.state == "waiting" for g in gorun.goroutines()):
                break
            time.sleep(0.01)
        stats = gorun.stats()
        assert stats.waiting == 6
        assert stats.running == 0
        assert gorun.go(abs, -1).result(LONG) == 1


def test_starts_no_more_workers_than_needed() -> None:
    """A worker that rests is used before a new one is started.

    Mutation: `put` without its look at `_idle`.
    """
    with Executor(5) as executor:
        for n in range(20):
            assert executor.submit(abs, -n).result(LONG) == n
            while len(executor._team._idle) == len(executor._team._work):  # none: not at rest yet
                time.sleep(0.001)
        assert len(executor._team.members) == 1


def test_as_many_at_once_as_there_are_workers(gate: Gate) -> None:
    """Calls that block do not hold each other up, up to `max_workers`; the next one waits.

    Mutation: wake one worker only.
    """
    with Executor(4) as executor:
        calls = [executor.submit(gate, n) for n in range(5)]
        gate.entered(4)
        assert not gate._in.acquire(timeout=0.05)
        assert not calls[4].running()
        gate.open()
        assert [call.result(LONG) for call in calls] == [0, 1, 2, 3, 4]


def test_order_with_one_worker() -> None:
    """One worker runs calls in the order of submission, replaced or not.

    Mutation: `put` starts a worker with its call while others wait.
    """
    for tasks in (None, 1, 3):
        seen: list[int] = []
        with Executor(1, max_tasks_per_child=tasks) as executor:
            for n in range(50):
                executor.submit(seen.append, n)
        assert seen == list(range(50))


class Lingering(deque[Any]):
    """Numbers of workers that are free a while before the next one is started."""

    def __init__(self, numbers: Iterable[int]) -> None:
        super().__init__(numbers)
        self.free = threading.Event()

    def append(self, number: Any) -> None:
        super().append(number)
        self.free.set()
        time.sleep(0.05)


def test_shutdown_in_the_middle_of_a_replacement() -> None:
    """Waits for what the next worker is to run. Mutation: `join` is over when all numbers are free."""
    executor = Executor(1, max_tasks_per_child=1)
    executor._team._free = free = Lingering([0])  # type: ignore[union-attr]
    gate = threading.Event()
    calls = [executor.submit(gate.wait, LONG) for _ in range(5)]
    gate.set()
    assert free.free.wait(LONG)
    executor.shutdown()
    assert all(call.done() for call in calls)


def test_one_replaced_worker_at_a_time() -> None:
    """Though `shutdown` and a worker's end both see that it has left.

    Mutation: `_left` looks whether it is there, and then takes it out.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(500):
            seen: list[int] = []
            with Executor(1, max_tasks_per_child=1) as executor:
                calls = [executor.submit(seen.append, n) for n in range(50)]
            assert seen == list(range(50))
            assert not any(call.cancelled() for call in calls)
    finally:
        sys.setswitchinterval(interval)


def test_max_tasks_per_child() -> None:
    """A worker is replaced after so many calls, and all calls are run (gh-115634).

    Mutation: `_left` without `_summon`.
    """
    for workers, tasks in ((1, 2), (2, 3)):
        ids = []
        with Executor(workers, max_tasks_per_child=tasks) as executor:
            calls = [executor.submit(gorun.current) for _ in range(10)]
            for call in calls:
                goroutine = call.result(LONG)
                assert goroutine is not None
                ids.append(goroutine.id)
        assert max(ids.count(n) for n in ids) <= tasks


@pytest.mark.parametrize("make", [Executor, ThreadPoolExecutor])
def test_contexts(make: Callable[..., futures.Executor]) -> None:
    """Calls see the worker's context, which keeps what they set; as with ThreadPoolExecutor.

    Mutation: `_start` in the caller's context.
    """
    var = contextvars.ContextVar("var", default="unset")
    var.set("the caller's")
    with make(1) as executor:
        first = executor.submit(var.get).result(LONG)
        assert first == ("the caller's" if _inherits() else "unset")
        executor.submit(var.set, "the worker's").result(LONG)
        assert executor.submit(var.get).result(LONG) == "the worker's"
    assert var.get() == "the caller's"


def _inherits() -> bool:
    import sys

    return bool(getattr(sys.flags, "thread_inherit_context", False))


# ---- failures ------------------------------------------------------------------------------------


def test_initializer(caplog: pytest.LogCaptureFixture) -> None:
    """Runs once in each worker; where it fails the executor is broken, and says so each time.

    Mutation: `_begin` without draining what waits.
    """
    local = threading.local()
    with Executor(2, initializer=setattr, initargs=(local, "x", 5)) as executor:
        calls = [executor.submit(getattr, local, "x") for _ in range(10)]
        assert [call.result(LONG) for call in calls] == [5] * 10

    def fail() -> None:
        time.sleep(0.02)  # let some calls wait
        raise KeyError("no")

    with (
        caplog.at_level(logging.CRITICAL, "concurrent.futures"),
        Executor(2, initializer=fail) as executor,
    ):
        calls = []

        def submit_on() -> None:
            while True:
                calls.append(executor.submit(abs, 1))
                time.sleep(0.001)

        with pytest.raises(BrokenThreadPool, match="not usable"):
            submit_on()
        for call in calls:
            assert isinstance(call.exception(LONG), BrokenThreadPool)
        assert executor._broken
    assert "KeyError: 'no'" in caplog.text
    caplog.clear()  # the records hold tracebacks, and those the executor


def test_any_error_is_the_futures() -> None:
    """Also those that are no Exception; the worker goes on, and its frame is not in the traceback.

    Mutation: `except Exception` in `_serve`.
    """

    def fail(error: BaseException) -> None:
        raise error

    with Executor(1) as executor:
        first = executor.submit(gorun.current).result(LONG)
        for kind in (ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration):
            error = executor.submit(fail, kind("x")).exception(LONG)
            assert type(error) is kind
            assert error.__traceback__ is not None
            assert error.__traceback__.tb_frame.f_code.co_name == "fail"
        assert executor.submit(gorun.current).result(LONG) is first
        del error, first


def test_a_cancelled_worker_fails_its_call_and_is_replaced(gate: Gate) -> None:
    """The call ends with GoroutineCancelled, the others are run.

    Mutation: `_fail` that says True: the worker goes on.
    """

    def cut() -> None:
        gorun.current().cancel("enough")  # type: ignore[union-attr]
        gorun.sleep(LONG)

    with Executor(1) as executor:
        first = executor.submit(gorun.current).result(LONG)
        calls = [executor.submit(cut), *(executor.submit(abs, -n) for n in range(5))]
        with pytest.raises(gorun.GoroutineCancelled, match="enough") as caught:
            calls[0].result(LONG)
        assert isinstance(caught.value.__cause__, gorun.Cancelled)
        assert [call.result(LONG) for call in calls[1:]] == list(range(5))
        assert executor.submit(gorun.current).result(LONG) is not first
    del caught, first


def test_what_a_call_holds_is_let_go() -> None:
    """Neither arguments nor result nor error live on in a worker that rests.

    Mutation: `_serve` without its `del`.
    """
    import gc
    import weakref

    class Thing:
        pass

    def fail(thing: Thing) -> None:
        raise KeyError(thing)

    with Executor(1) as executor:
        for call in (lambda thing: thing, fail):
            thing = Thing()
            ref = weakref.ref(thing)
            future = executor.submit(call, thing)
            futures.wait([future], LONG)
            del thing, future
            for _ in range(1000):
                gc.collect()
                if ref() is None:
                    break
                time.sleep(0.01)
            assert ref() is None


# ---- map -----------------------------------------------------------------------------------------


def test_map_with_buffersize_is_lazy() -> None:
    """Takes that many items ahead of what it gave, of an endless input too.

    Mutation: take the whole input.
    """
    source = itertools.count()
    with Executor(2) as executor:
        results = executor.map(abs, source, buffersize=4)
        assert next(source) == 4
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert next(source) == 8  # three more were taken, and ours


def test_map_closed_cancels_the_rest(gate: Gate) -> None:
    """What has not begun is cancelled when the iterator is closed; dropped unused it cancels nothing.

    Mutation: `_iterate` without its `finally`.
    """
    ran: list[int] = []
    with Executor(1) as executor:
        executor.map(ran.append, range(5))
        assert executor.submit(abs, 0).result(LONG) == 0
        assert ran == [0, 1, 2, 3, 4]
        block = executor.submit(gate)
        results = executor.map(ran.append, [7, 8], timeout=0.0)
        with pytest.raises(TimeoutError):
            next(results)
        results = executor.map(ran.append, [9])
        gate.open()
        block.result(LONG)
        assert next(results) is None
    assert ran == [0, 1, 2, 3, 4, 9]


# ---- with others ---------------------------------------------------------------------------------


def test_futures_of_several_executors() -> None:
    """`wait` and `as_completed` take ours and theirs together.

    Mutation: a future whose `_condition` is not around its own lock.
    """
    with Executor(2) as ours, ThreadPoolExecutor(2) as theirs:
        calls = [executor.submit(abs, -n) for n in range(50) for executor in (ours, theirs)]
        assert sorted(call.result() for call in futures.as_completed(calls, LONG)) == sorted(
            [*range(50), *range(50)]
        )
        calls = [executor.submit(time.sleep, 0.01) for executor in (ours, theirs)]
        assert futures.wait(calls, LONG).not_done == set()


def test_run_in_executor() -> None:
    """asyncio awaits it, and a call may raise; cancelling the task cancels a call that waits.

    Mutation: `set_result` that calls no callback.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with Executor(2) as executor:
            calls = [loop.run_in_executor(executor, abs, -n) for n in range(20)]
            assert await asyncio.gather(*calls) == list(range(20))
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(executor, divmod, 1, 0)

    asyncio.run(main())


def test_calls_may_use_gorun() -> None:
    """A call is in a goroutine: it sleeps, starts and joins others, submits more.

    Mutation: workers that are plain threads.
    """
    with Executor(2) as executor:

        def work(n: int) -> int:
            gorun.sleep(0.001)
            more = executor.submit(abs, -n) if n % 2 else None
            one = gorun.go(abs, -n).result()
            return one + (more.result(LONG) if more is not None and n < 0 else 0)

        assert list(executor.map(work, range(20), timeout=LONG)) == list(range(20))


@pytest.mark.no_matrix
def test_few_threads() -> None:
    """Where threads are short, workers leave instead of resting, and every call is run.

    Mutation: `_rest` that lets ThreadLimit through.
    """
    from tests import _child

    _child.run(
        """
        gorun.configure(max_threads=2)
        with gorun.Executor(5) as executor:
            for _ in range(20):
                assert [*executor.map(abs, range(5))] == [*range(5)]
        """
    )
