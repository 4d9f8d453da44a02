"""`Group` and cancels from outside: in the body, at the wait, beside errors, time-outs, Ctrl-C, other groups."""
# ruff: noqa: PT012, PT017 (what a `with` inside a `with` raises is the subject)

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as, until
from tests.test_groups import fails, sleeper, texts

import gorun
from gorun import Group

every_caller = pytest.mark.parametrize("kind", KINDS)


# ---- cancels from outside ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async", "task"])
def test_a_cancel_in_the_body(kind: str) -> None:
    """It cancels the children, waits for them, and goes on. Mutation: `_leave_body` takes it for an error."""
    ended: list[str] = []

    async def child() -> None:
        try:
            await gorun.sleep_async(LONG)
        finally:
            await gorun.sleep_async(0.005)
            ended.append("child")

    def plain() -> None:
        with Group() as group:
            group.go(child)
            started.set()
            gorun.sleep(LONG)

    async def twin() -> None:
        async with Group() as group:
            group.go(child)
            started.set()
            await gorun.sleep_async(LONG)

    started = threading.Event()
    if kind == "task":
        cancel_task(twin, started)
    else:
        g = gorun.go(plain if kind == "plain" else twin)
        assert started.wait(LIMIT)
        until(lambda: gorun.stats().waiting == 2)
        g.cancel("outside")
        assert isinstance(g.exception(LIMIT), gorun.GoroutineCancelled)
    assert ended == ["child"]


def cancel_task(body: Any, started: threading.Event) -> None:
    async def main() -> None:
        task = asyncio.create_task(body())
        while not started.is_set() or gorun.stats().waiting < 1:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["plain", "async", "task"])
def test_a_cancel_that_meets_the_wait(kind: str) -> None:
    """It goes to the children and is raised when they have ended.

    Mutation: `__exit__` lets it through at once: the child lives on.
    """
    ended: list[str] = []

    async def child() -> None:
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled as error:
            await gorun.sleep_async(0.005)
            ended.append(str(error.reason))
            raise

    def plain() -> None:
        with Group() as group:
            group.go(child)
            started.set()

    async def twin() -> None:
        async with Group() as group:
            group.go(child)
            started.set()

    started = threading.Event()
    if kind == "task":
        cancel_task(twin, started)
        assert len(ended) == 1
        return
    g = gorun.go(plain if kind == "plain" else twin)
    assert started.wait(LIMIT)
    until(lambda: gorun.stats().waiting == 2)
    g.cancel("outside")
    error = g.exception(LIMIT)
    assert isinstance(error, gorun.GoroutineCancelled)
    assert error.reason == "outside"
    assert ended == ["outside"]


@pytest.mark.parametrize("kind", ["plain", "async", "task"])
def test_errors_win_over_a_cancel_which_stays_pending(kind: str) -> None:
    """Mutation: `_end` does not ask for the outer cancel again."""

    async def child() -> None:
        try:
            await gorun.sleep_async(LONG)
        finally:
            raise LookupError("cleanup")

    def plain() -> str:
        try:
            with Group() as group:
                group.go(child)
                started.set()
        except ExceptionGroup as error:
            assert texts(error) == ["cleanup"]
        try:
            gorun.sleep(LONG)
        except gorun.Cancelled as error:
            return str(error.reason)
        return "lost"

    async def twin() -> str:
        try:
            async with Group() as group:
                group.go(child)
                started.set()
        except ExceptionGroup as error:
            assert texts(error) == ["cleanup"]
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled as error:
            return str(error.reason)
        except asyncio.CancelledError:
            raise
        return "lost"

    started = threading.Event()
    if kind == "task":
        cancel_task(twin, started)
        return
    g = gorun.go(plain if kind == "plain" else twin)
    assert started.wait(LIMIT)
    until(lambda: gorun.stats().waiting == 2)
    g.cancel("outside")
    assert g.result(LIMIT) == "outside"


@pytest.mark.parametrize("kind", KINDS)
def test_inside_a_timeout(kind: str) -> None:
    """The scope's cancel goes to the children; TimeoutError comes out. Mutation: the group swallows it."""

    def plain() -> bool:
        with pytest.raises(TimeoutError), gorun.timeout(0.01), Group() as group:
            g = group.go(sleeper)
        return g.cancelled()

    async def twin() -> bool:
        with pytest.raises(TimeoutError):
            async with gorun.timeout(0.01):
                async with Group() as group:
                    g = group.go(sleeper)
        return g.cancelled()

    assert run_as(kind, plain, twin)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_nest(kind: str) -> None:
    """An inner group's error comes out of both; the outer's error cuts the inner. Mutation: one origin for all."""

    def plain() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            with Group() as outer:
                g = outer.go(sleeper)
                with Group() as inner:
                    inner.go(fails, "inner")
        assert g.cancelled()
        assert texts(caught.value.exceptions[0]) == ["inner"]
        with pytest.raises(ExceptionGroup) as caught:
            with Group() as outer:
                with Group() as inner:
                    h = inner.go(sleeper)
                    outer.go(fails, "outer")
        assert h.cancelled()
        return texts(caught.value)

    async def twin() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as outer:
                g = outer.go(sleeper)
                async with Group() as inner:
                    inner.go(fails, "inner")
        assert g.cancelled()
        assert texts(caught.value.exceptions[0]) == ["inner"]
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as outer:
                async with Group() as inner:
                    h = inner.go(sleeper)
                    outer.go(fails, "outer")
        assert h.cancelled()
        return texts(caught.value)

    assert run_as(kind, plain, twin) == ["outer"]


def test_the_bodys_cancel_against_its_end() -> None:
    """Many times: a child fails while the body ends. The error comes out, nothing stays pending.

    Mutation: `leave` does not withdraw; for a task: no `uncancel`.
    """

    def plain() -> None:
        for _ in range(40):
            with pytest.raises(ExceptionGroup), Group() as group:
                group.go(fails)
                gorun.gosched()
            gorun.gosched()

    async def twin() -> None:
        for i in range(40):
            with pytest.raises(ExceptionGroup):
                async with Group() as group:
                    group.go(fails)
                    if i % 2:
                        time.sleep(0.001)
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    gorun.go(plain).result(LIMIT)
    plain()
    asyncio.run(twin())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_cancel_that_meets_children_that_join_each_other(kind: str) -> None:
    """It comes out as it is: that a child met another's cancel is no error. Mutation: `_fail` keeps it."""

    def joins(first: gorun.Goroutine[None]) -> None:
        try:
            gorun.sleep(LONG)
        finally:
            first.result()

    async def awaits(first: gorun.Goroutine[None]) -> None:
        try:
            await gorun.sleep_async(LONG)
        finally:
            await first

    def plain() -> None:
        with Group() as group:
            group.go(joins, group.go(sleeper))
            started.set()

    async def twin() -> None:
        async with Group() as group:
            group.go(awaits, group.go(sleeper))
            started.set()

    started = threading.Event()
    g = gorun.go(plain if kind == "plain" else twin)
    assert started.wait(LIMIT)
    until(lambda: sum(i.wait_reason == "sleep" for i in gorun.goroutines()) == 2)
    g.cancel("outside")
    error = g.exception(LIMIT)
    assert isinstance(error, gorun.GoroutineCancelled)
    assert error.reason == "outside"


def test_a_tasks_operation_that_has_happened_when_the_groups_cancel_comes() -> None:
    """It returns and the cancel is asked for anew (rule 3), but not beyond the block.

    Mutation: no `drop_cancel` (fails up to 3.12).
    """

    async def main() -> None:
        for _ in range(3):
            ch: gorun.Chan[int] = gorun.Chan()
            with pytest.raises(ExceptionGroup) as caught:
                async with Group() as group:

                    def together(ch: gorun.Chan[int] = ch, group: Group = group) -> None:
                        assert ch.try_send(1)
                        time.sleep(0.02)
                        child = group.go(fails)
                        until(child.done)
                        time.sleep(0.02)  # by now the loop was told of both

                    asyncio.get_running_loop().call_later(0.005, together)
                    await ch.recv_async()
            assert texts(caught.value) == ["x"]
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    asyncio.run(main())


def test_ctrl_c_at_the_wait() -> None:
    """What a signal handler raises cancels the children; it is an error of the group. No child outlives it."""

    class Stop(Exception):
        pass

    def handler(*_: object) -> None:
        raise Stop("signal")

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident or 0
    try:
        timer = gorun.Timer(0.02, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        with pytest.raises(ExceptionGroup) as caught, Group() as group:
            g = group.go(sleeper)
        assert texts(caught.value) == ["signal"]
        assert g.cancelled()
        timer.stop()
    finally:
        signal.signal(signal.SIGUSR1, before)
