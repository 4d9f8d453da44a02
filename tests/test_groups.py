"""`Group`: for each caller; errors, cancels, limit, context; what it never leaves behind; misuse."""
# ruff: noqa: PT012 (what a `with` inside a `with` raises is the subject)

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as, until, waits

import gorun
from gorun import Group

every_caller = pytest.mark.parametrize("kind", KINDS)


async def sleeper() -> None:
    await gorun.sleep_async(LONG)


def plain_sleeper() -> None:
    gorun.sleep(LONG)


def fails(text: str = "x") -> None:
    raise LookupError(text)


def texts(error: BaseException) -> list[str]:
    assert isinstance(error, BaseExceptionGroup)
    return [str(e) for e in error.exceptions]


# ---- the block -----------------------------------------------------------------------------------


@every_caller
def test_waits_for_all(kind: str) -> None:
    """Leaving waits for what was started, and for what that started. Mutation: the exit does not wait."""
    done: list[str] = []

    def plain() -> None:
        with Group() as group:

            def child() -> None:
                gorun.sleep(0.005)
                group.go(grandchild)
                done.append("child")

            def grandchild() -> None:
                gorun.sleep(0.005)
                done.append("grandchild")

            assert group.go(child).name.startswith("goroutine-")

    async def twin() -> None:
        async with Group() as group:

            async def child() -> None:
                await gorun.sleep_async(0.005)
                group.go(grandchild)
                done.append("child")

            async def grandchild() -> None:
                await gorun.sleep_async(0.005)
                done.append("grandchild")

            group.go(child)

    run_as(kind, plain, twin)
    assert done == ["child", "grandchild"]


@every_caller
def test_empty(kind: str) -> None:
    def plain() -> None:
        with Group() as group:
            pass
        assert isinstance(group.context.err(), gorun.ContextDone)

    async def twin() -> None:
        async with Group() as group:
            pass
        assert isinstance(group.context.err(), gorun.ContextDone)

    run_as(kind, plain, twin)


@every_caller
def test_the_first_error_cancels_children_and_body(kind: str) -> None:
    """Mutation: `_fail` cancels the children only (the body sleeps on), or the body only."""
    after: list[str] = []

    def plain() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            with Group() as group:
                g = group.go(sleeper)
                h = group.go(plain_sleeper)
                until(lambda: waits(g) and waits(h))
                group.go(fails)
                gorun.sleep(LONG)
                after.append("never")
        assert g.cancelled()
        assert h.cancelled()
        assert group.context.cause() is caught.value.exceptions[0]
        gorun.sleep(0.0)  # the body's cancel is not left over
        return texts(caught.value)

    async def twin() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                g = group.go(sleeper)
                h = group.go(plain_sleeper)
                group.go(fails)
                await gorun.sleep_async(LONG)
                after.append("never")
        assert g.cancelled()
        assert h.cancelled()
        assert group.context.cause() is caught.value.exceptions[0]
        await gorun.sleep_async(0.0)
        return texts(caught.value)

    assert run_as(kind, plain, twin) == ["x"]
    assert after == []


@every_caller
def test_the_bodys_own_error(kind: str) -> None:
    """It is in the group, after errors that came first. Mutation: raise it by itself."""

    def plain() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            with Group() as group:
                g = group.go(sleeper)
                raise ValueError("body")
        assert g.cancelled()
        assert isinstance(group.context.cause(), ValueError)
        return texts(caught.value)

    async def twin() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                g = group.go(sleeper)
                raise ValueError("body")
        assert g.cancelled()
        assert isinstance(group.context.cause(), ValueError)
        return texts(caught.value)

    assert run_as(kind, plain, twin) == ["body"]


@every_caller
def test_all_errors(kind: str) -> None:
    """Also of those that failed while they were being cancelled. Mutation: keep the first only."""

    def bad_cleanup() -> None:
        try:
            gorun.sleep(LONG)
        finally:
            raise ValueError("cleanup")

    def plain() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            with Group() as group:
                g = group.go(bad_cleanup)
                until(lambda: waits(g))
                group.go(fails)
        return sorted(texts(caught.value))

    async def twin() -> Any:
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                g = group.go(bad_cleanup)
                while not waits(g):
                    await gorun.sleep_async(0.001)
                group.go(fails)
        return sorted(texts(caught.value))

    assert run_as(kind, plain, twin) == ["cleanup", "x"]


def test_base_exceptions() -> None:
    """Mutation: `ExceptionGroup` instead of `BaseExceptionGroup`: a TypeError."""

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(BaseExceptionGroup) as caught, Group() as group:
        group.go(leave)
    assert type(caught.value) is BaseExceptionGroup
    assert isinstance(caught.value.exceptions[0], SystemExit)


@every_caller
def test_a_body_that_joins_its_children(kind: str) -> None:
    """The error of a child that was joined comes once; a child that is cancelled for it brings none.

    Mutations: errors in a list; `_fail` keeps each GoroutineCancelled.
    """

    def plain() -> None:
        for _ in range(20):
            with pytest.raises(ExceptionGroup) as caught, Group() as group:
                group.go(fails, "joined").result()
            assert texts(caught.value) == ["joined"]
            with pytest.raises(ExceptionGroup) as caught, Group() as group:
                other = group.go(sleeper)
                group.go(other.result)
                group.go(fails, "first")
                other.result()
            assert texts(caught.value) == ["first"]

    async def twin() -> None:
        for _ in range(20):
            with pytest.raises(ExceptionGroup) as caught:
                async with Group() as group:
                    await group.go(fails, "joined")
            assert texts(caught.value) == ["joined"]
            with pytest.raises(ExceptionGroup) as caught:
                async with Group() as group:
                    other = group.go(sleeper)
                    group.go(other.result)
                    group.go(fails, "first")
                    await other
            assert texts(caught.value) == ["first"]

    run_as(kind, plain, twin)


@every_caller
def test_cancelled_children_are_no_errors(kind: str) -> None:
    """Mutation: `_child_ended` takes GoroutineCancelled for an error."""

    def plain() -> bool:
        with Group() as group:
            g = group.go(sleeper)
            g.cancel()
        return g.cancelled()

    async def twin() -> bool:
        async with Group() as group:
            g = group.go(sleeper)
            g.cancel()
        return g.cancelled()

    assert run_as(kind, plain, twin)


def test_errors_do_not_reach_excepthook() -> None:
    """They were taken: the fixture fails otherwise. Mutation: `_error` does not count as asking."""
    with pytest.raises(ExceptionGroup), Group() as group:
        group.go(fails)
        gorun.sleep(0.01)
    gc.collect()


# ---- limit ---------------------------------------------------------------------------------------


@every_caller
@pytest.mark.parametrize("limit", [1, 3])
def test_limit(kind: str, limit: int) -> None:
    """Never more than `limit` at a time, and all run. Mutation: `try_take` counts one too few."""
    now, most, runs = 0, 0, 0
    lock = threading.Lock()

    def child() -> None:
        nonlocal now, most, runs
        with lock:
            now += 1
            most = max(most, now)
        gorun.sleep(0.001)
        with lock:
            now -= 1
            runs += 1

    def plain() -> None:
        with Group(limit=limit) as group:
            for _ in range(10):
                group.go(child)

    async def twin() -> None:
        async with Group(limit=limit) as group:
            for _ in range(10):
                await group.go_async(child)

    run_as(kind, plain, twin)
    assert (most <= limit, runs) == (True, 10)


def test_try_go() -> None:
    """Mutation: `try_go` waits."""
    gate = gorun._gorun.Latch()
    with Group(limit=1) as group:
        g = group.try_go(gate.wait)
        assert g is not None
        assert group.try_go(abs, -1) is None
        gate.set()
        g.result(LIMIT)
        until(lambda: group.try_go(abs, -1))


def test_an_error_while_waiting_at_the_limit() -> None:
    """The body that waits for a slot is cut. Mutation: `take` does not hand a slot on that it was given."""
    gate = gorun._gorun.Latch()

    def fail_later() -> None:
        gate.wait()
        raise LookupError

    for _ in range(20):
        gate = gorun._gorun.Latch()
        with pytest.raises(ExceptionGroup), Group(limit=1) as group:
            group.go(fail_later)
            gorun.Timer(0.001, gate.set)
            group.go(abs, -1)
            group.go(abs, -1)
            group.go(abs, -1)


def test_cancelled_waiters_leave_the_slots_alone() -> None:
    """Mutation: `_leave` forgets the slot that came in the same instant."""

    def body() -> None:
        gate = gorun._gorun.Latch()
        with Group(limit=1) as group:
            group.go(gate.wait)
            for _ in range(20):
                with pytest.raises(TimeoutError), gorun.timeout(0.0005):
                    group.go(abs, -1)
            gate.set()
            assert group.go(abs, -1).result(LIMIT) == 1
            assert group.go(abs, -2).result(LIMIT) == 2

    gorun.go(body).result(LIMIT)


def test_a_slot_that_came_too_late_goes_on() -> None:
    """A waiter that leaves in the instant in which it was given a slot. Mutation: `_leave` never gives it back."""
    slots = gorun._groups._Slots(1)
    assert slots.try_take()
    gate = slots._queue()
    slots.give()
    assert gate.is_set()
    slots._leave(gate)
    assert slots.try_take()


# ---- go ------------------------------------------------------------------------------------------


def test_go_in_a_cancelled_group() -> None:
    """What is started after the first error never runs. Mutation: `_start` does not look."""
    ran: list[int] = []

    def late(group: Group) -> None:
        try:
            gorun.sleep(LONG)
        finally:
            group.go(ran.append, 1)

    with pytest.raises(ExceptionGroup), Group() as group:
        g = group.go(late, group)
        until(lambda: waits(g))
        group.go(fails)
    assert ran == []


def test_go_in_a_cancelled_group_against_a_quick_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor if it is taken up before `go` has cancelled it. Mutation: no `_never`."""
    ran: list[int] = []
    real = gorun.go

    def go(*args: Any) -> gorun.Goroutine[Any]:
        g: gorun.Goroutine[Any] = real(*args)
        until(lambda: g.done() or waits(g))
        return g

    with pytest.raises(ExceptionGroup), Group() as group:
        group.go(fails)
        with pytest.raises(gorun.Cancelled):
            gorun.sleep(LONG)
        monkeypatch.setattr(gorun._gorun, "go", go)
        late = group.go(ran.append, 1)
        monkeypatch.undo()
        assert isinstance(late.exception(LIMIT), gorun.GoroutineCancelled)
    assert ran == []


def test_go_outside_of_the_block() -> None:
    """Mutation: `_closed` is never set."""
    group = Group()
    for call in (group.go, group.try_go):
        with pytest.raises(RuntimeError, match="not entered"):
            call(abs, -1)
    with group:
        pass
    for call in (group.go, group.try_go):
        with pytest.raises(RuntimeError, match="has ended"):
            call(abs, -1)
    assert gorun.num_goroutine() == 0


def test_go_refuses_what_gorun_go_refuses() -> None:
    """A bad function leaves the count as it was. Mutation: `_start` does not count down."""
    with Group(limit=1) as group:
        for _ in range(3):
            with pytest.raises(TypeError):
                group.go(3)  # type: ignore[call-overload]
        assert group.go(abs, -1).result() == 1


def test_kinds_of_functions() -> None:
    async def coro(n: int, *, m: int) -> int:
        return n + m

    async def none() -> str:
        return "object"

    with Group() as group:
        a = group.go(coro, 1, m=2)
        b = group.go(pow, 2, 3)
        c = group.go(none())
    assert (a.result(), b.result(), c.result()) == (3, 8, "object")


@pytest.mark.no_matrix
def test_at_the_limit_of_threads() -> None:
    """The last free thread cannot wait: an error, not a hang. Mutation: try again for ever."""
    from tests import _child

    out = _child.run(
        """
        def body():
            with gorun.Group() as group:
                group.go(print, "never")
        try:
            go(body).result(30)
        except ExceptionGroup as error:
            print([type(e).__name__ for e in error.exceptions], flush=True)
        while gorun.num_goroutine():
            time.sleep(0.001)
        """,
        GORUN_MAX_THREADS="1",
    ).out
    assert out == "['ThreadLimit']"


# ---- context -------------------------------------------------------------------------------------


def test_context() -> None:
    """A child of the one that was given; it does not end that. Mutation: the context itself is used."""
    parent = gorun.background().with_value("k", "v").with_cancel()
    with Group(context=parent) as group:
        assert group.context.value("k") == "v"
        assert group.context.err() is None
    assert group.context.err() is not None
    assert group.context.cause() is group.context.err()
    assert parent.err() is None
    parent.cancel()
    with Group(context=parent) as group:
        assert group.context.err() is parent.err()


# ---- misuse --------------------------------------------------------------------------------------


def test_bad_arguments() -> None:
    for limit in (0, -1):
        with pytest.raises(ValueError, match=str(limit)):
            Group(limit=limit)
    for bad in (1.5, "1", True):
        with pytest.raises(TypeError, match="limit"):
            Group(limit=bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="context"):
        Group(context=object())  # type: ignore[arg-type]


def test_a_sync_with_in_a_loop() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="async with"):
            with Group():
                pass

    asyncio.run(main())


def test_entered_twice() -> None:
    with Group() as group:
        with pytest.raises(RuntimeError, match="once"):
            group.__enter__()


def test_async_with_outside_of_goroutines_and_tasks() -> None:
    """Mutation: no `check_async` in `go_async`."""
    coroutine = Group().__aenter__()
    with pytest.raises(RuntimeError, match=r"goroutine.*asyncio"):
        coroutine.send(None)
    with Group() as group, pytest.raises(RuntimeError, match=r"go_async.*goroutine.*asyncio"):
        group.go_async(abs, -1).send(None)


# ---- memory --------------------------------------------------------------------------------------


def test_ended_groups_are_freed() -> None:
    """With their errors, whose frames hold the group. Mutation: `_end` keeps the errors."""

    def body() -> weakref.ref[Any]:
        group = Group()
        try:
            with group:
                group.go(fails)
                gorun.sleep(LONG)
        except ExceptionGroup:
            pass
        return weakref.ref(group)

    ref = body()
    gc.collect()
    assert ref() is None


@pytest.mark.slow
def test_many_children() -> None:
    with Group() as group:
        for _ in range(5000):
            group.go(gorun.gosched)
    assert gorun.num_goroutine() == 0
