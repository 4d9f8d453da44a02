"""Operations as the bodies of goroutines: `go(ch.recv_async)` and `go(ch.recv_async())` wait and give the result.

"Mutation:" names the change to the code that makes the test fail.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from tests._callers import LIMIT, until

import gorun
from gorun import Chan, go
from gorun._gorun import Latch


def spawned(fn: Any) -> gorun.Goroutine[Any]:
    return gorun.spawn(fn)


def in_a_group(fn: Any) -> gorun.Goroutine[Any]:
    with gorun.Group() as group:
        return group.go(fn)


STARTS: list[Callable[[Any], gorun.Goroutine[Any]]] = [go, spawned, in_a_group]


@pytest.mark.parametrize("start", STARTS, ids=["go", "spawn", "group"])
def test_an_operation_is_awaited(start: Callable[[Any], gorun.Goroutine[Any]]) -> None:
    """Given as it is, and returned by what was called.

    Mutations: `parts` does not know operations; `first` takes what the call returned for the result.
    """
    ch: Chan[int] = Chan(2)
    ch.send_many([1, 2])
    assert start(ch.recv_async()).result(LIMIT) == 1
    assert start(ch.recv_async).result(LIMIT) == 2
    assert start(lambda: gorun.sleep_async(0)).result(LIMIT) is None


def test_from_everywhere() -> None:
    """`run`, `go_many`, timers and jobs too. Mutation: as above."""
    ch: Chan[int] = Chan(1)
    assert gorun.run(ch.send_async, 1) is None
    assert gorun.run(ch.recv_async()) == 1
    assert [g.result(LIMIT) for g in gorun.go_many(gorun.sleep_async, [0, 0])] == [None, None]
    timer = gorun.Timer(0.0, lambda: ch.send_async(3))
    assert ch.recv(LIMIT) == 3
    assert not timer.stop()
    job = gorun.every(0.001, ch.send_async, 4)
    assert ch.recv(LIMIT) == 4
    job.cancel()
    until(lambda: gorun.num_goroutine() == 0)


def test_it_is_cancelled_as_any_other() -> None:
    """While it waits, and before its first step: then without a warning. Mutation: `first` does not close it."""
    ch: Chan[int] = Chan()
    g = go(ch.recv_async)
    until(lambda: gorun.stats().waiting == 1)
    assert g.cancel()
    assert isinstance(g.exception(LIMIT), gorun.GoroutineCancelled)

    async def main() -> None:
        late = [go(ch.recv_async()), go(ch.recv_async)]
        for g in late:
            g.cancel()
        await gorun.wait_async(late)
        assert all(g.cancelled() for g in late)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gorun.run(main)
        gc.collect()


@pytest.mark.no_matrix
def test_misuse() -> None:
    """Mutations: no check of arguments; of `was_awaited`."""
    ch: Chan[int] = Chan(1)
    ch.send(1)
    op = ch.recv_async()
    with pytest.raises(TypeError, match="takes no arguments"):
        go(op, 1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes no arguments"):
        gorun.spawn(op, kwargs={"a": 1})  # type: ignore[call-overload]
    assert go(op).result(LIMIT) == 1
    with pytest.raises(RuntimeError, match="awaited already"):
        go(op)


@pytest.mark.no_matrix
def test_a_sleep_of_nothing_keeps_its_name() -> None:
    """In the warning too. Mutation: a plain operation's name goes by its length."""
    with pytest.warns(RuntimeWarning, match="'sleep_async' was never awaited"):
        gorun.sleep_async(0)
    with pytest.warns(RuntimeWarning, match="'gosched_async' was never awaited"):
        gorun.gosched_async()


# ---- StopIteration -------------------------------------------------------------------------------


async def _awaits(g: Any) -> Any:
    return await g


async def _awaits_twice(g: Any) -> Any:
    with pytest.raises(RuntimeError) as raised:
        await g
    return raised.value.__cause__


async def _shares(g: Any) -> Any:
    # The same through a coroutine of ours that raises an outcome again.
    return await gorun.SingleFlight().do_async("key", g.result)


@pytest.mark.parametrize("awaits", [_awaits, _shares])
@pytest.mark.parametrize("runner", [gorun.run, asyncio.run], ids=["goroutine", "task"])
def test_a_stop_iteration_is_no_value_of_the_await(runner: Any, awaits: Any) -> None:
    """It comes as the cause of a RuntimeError, as in generators and asyncio's futures.

    Mutation: no `told_apart` in `stepped`: the await returns "boom" from Python 3.12 on.
    """

    def body() -> None:
        raise StopIteration("boom")

    g = gorun.go(body)
    until(g.done)
    with pytest.raises(RuntimeError, match="goroutine raised StopIteration") as raised:
        runner(awaits(g))
    cause = raised.value.__cause__
    assert isinstance(cause, StopIteration)
    assert cause.value == "boom"
    # Who asks without an await gets it as it is, and so does each await after that.
    assert g.exception() is cause
    with pytest.raises(StopIteration, match="boom"):
        g.result()
    if awaits is _awaits:
        assert runner(_awaits_twice(g)) is cause


@pytest.mark.parametrize("runner", [gorun.run, asyncio.run], ids=["goroutine", "task"])
def test_a_stop_iteration_after_a_wait(runner: Any) -> None:
    """The same where the await has parked. Mutation: as above."""
    gate = Latch()

    def body() -> None:
        gate.wait()
        raise StopIteration

    async def opens() -> None:
        gorun.go(gate.set)

    async def main() -> None:
        g = gorun.go(body)
        gorun.go(opens)
        await g

    with pytest.raises(RuntimeError, match="goroutine raised StopIteration"):
        runner(main())
