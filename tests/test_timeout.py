"""`timeout`: for each caller; nested; rescheduled; with cancels from outside in the same instant; misuse."""

# ruff: noqa: PT012 (what a `with` inside a `with` raises is the subject)

from __future__ import annotations

import asyncio
import gc
import weakref
from decimal import Decimal
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as

import gorun
from gorun import timeout

SHORT = 0.01

every_caller = pytest.mark.parametrize("kind", KINDS)


# ---- each caller x each end ----------------------------------------------------------------------


@every_caller
def test_time_is_up(kind: str) -> None:
    """The block is cut, TimeoutError raised with the Cancelled as its cause, `expired` set.

    Mutation: `_exit` does not raise; or `block_on` arms a thread's wait as not cuttable.
    """

    def plain() -> bool:
        with pytest.raises(TimeoutError) as caught:
            with timeout(SHORT) as scope:
                gorun.sleep(LONG)
        assert isinstance(caught.value.__cause__, gorun.Cancelled)
        gorun.sleep(0)  # nothing is left
        return scope.expired

    async def twin() -> bool:
        with pytest.raises(TimeoutError) as caught:
            async with timeout(SHORT) as scope:
                await gorun.sleep_async(LONG)
        cause = caught.value.__cause__
        assert isinstance(cause, gorun.Cancelled | asyncio.CancelledError)
        await gorun.sleep_async(0)
        return scope.expired

    assert run_as(kind, plain, twin) is True


@every_caller
def test_in_time(kind: str) -> None:
    """A block that ends first is none of the timer's. Mutation: `leave` does not revoke the timer."""

    def plain() -> tuple[bool, int]:
        with timeout(60.0) as scope:
            gorun.sleep(0.001)
        return scope.expired, gorun.stats().timers

    async def twin() -> tuple[bool, int]:
        async with timeout(60.0) as scope:
            await gorun.sleep_async(0.001)
        return scope.expired, gorun.stats().timers

    assert run_as(kind, plain, twin) == (False, 0)


@every_caller
def test_swallowed(kind: str) -> None:
    """Who swallows the cancel inside is heard: no TimeoutError, but `expired`. Mutation: raise whenever fired."""

    def plain() -> bool:
        with timeout(SHORT) as scope:
            with pytest.raises(gorun.Cancelled):
                gorun.sleep(LONG)
            gorun.sleep(0)  # it was delivered
        return scope.expired

    async def twin() -> bool:
        async with timeout(SHORT) as scope:
            with pytest.raises(gorun.Cancelled if kind == "async" else asyncio.CancelledError):
                await gorun.sleep_async(LONG)
            await gorun.sleep_async(0)
        return scope.expired

    assert run_as(kind, plain, twin) is True


@every_caller
@pytest.mark.parametrize("seconds", [0, -1, 0.0, float("-inf")])
def test_at_or_below_zero_it_fires_at_the_first_cancel_point(kind: str, seconds: float) -> None:
    """Mutation: `set_timer` takes 0 for "never"."""

    def plain() -> None:
        with pytest.raises(TimeoutError):
            with timeout(seconds) as scope:
                assert scope.expired
                gorun.go(abs, -1)  # no cancel point
                gorun.gosched()
                pytest.fail("gosched is a cancel point")

    async def twin() -> None:
        with pytest.raises(TimeoutError):
            async with timeout(seconds):
                await gorun.sleep_async(LONG)
                pytest.fail("the time was up")

    run_as(kind, plain, twin)


@every_caller
def test_never(kind: str) -> None:
    """None and infinity never fire. Mutation: `set_timer(None)` fires."""

    def plain() -> None:
        for seconds in (None, float("inf")):
            with timeout(seconds) as scope:
                gorun.sleep(0.001)
            assert not scope.expired

    async def twin() -> None:
        for seconds in (None, float("inf")):
            async with timeout(seconds) as scope:
                await gorun.sleep_async(0.001)
            assert not scope.expired

    run_as(kind, plain, twin)


@every_caller
def test_errors_pass(kind: str) -> None:
    """An error of the body is raised as it is, also after the time. Mutation: TimeoutError for any error."""

    def plain() -> None:
        with pytest.raises(LookupError), timeout(LONG):
            raise LookupError
        with pytest.raises(LookupError):
            with timeout(0) as scope:
                try:
                    gorun.sleep(LONG)
                except gorun.Cancelled:
                    raise LookupError from None
        assert scope.expired

    async def twin() -> None:
        with pytest.raises(LookupError):
            async with timeout(LONG):
                raise LookupError
        with pytest.raises(LookupError):
            async with timeout(0) as scope:
                try:
                    await gorun.sleep_async(LONG)
                except BaseException:
                    raise LookupError from None
        assert scope.expired

    run_as(kind, plain, twin)


@every_caller
def test_operations_that_are_cut(kind: str) -> None:
    """Joins and events are cut as sleeps are. Mutation: `block` does not look at the pinned waker."""
    target = gorun.go(gorun.sleep, LONG)
    latch = gorun._gorun.Latch()

    def plain() -> None:
        for wait in (target.result, latch.wait, lambda: gorun.wait([target])):
            with pytest.raises(TimeoutError), timeout(SHORT):
                wait()

    async def twin() -> None:
        async def join() -> None:
            await target

        for wait in (join, latch.wait_async, lambda: gorun.wait_async([target])):
            with pytest.raises(TimeoutError):
                async with timeout(SHORT):
                    await wait()

    run_as(kind, plain, twin)
    assert not target.done()
    target.cancel()
    target.exception(LIMIT)


OPERATIONS = [
    "recv",
    "send",
    "recv_ok",
    "select",
    "mutex",
    "reader",
    "semaphore",
    "cond",
    "event",
    "group",
]


@every_caller
@pytest.mark.parametrize("what", [*OPERATIONS, "barrier"])
def test_every_operation_is_cut(kind: str, what: str) -> None:
    """Channels and locks as well, by whichever caller, on entry (0 s) and while they wait; nothing is taken.

    Mutation: a fast path without `cancel_point`; an `Attempt` that does not leave its list.
    """
    ch = gorun.Chan[int]()
    mu, sem, event, cond = gorun.Mutex(), gorun.Semaphore(1), gorun.Event(), gorun.Cond()
    rw, wg, barrier = gorun.RWMutex(), gorun.WaitGroup(), gorun.Barrier(2)
    assert mu.acquire()
    assert sem.acquire()
    assert rw.writer.acquire()
    wg.add()

    def with_cond() -> None:
        with cond:
            cond.wait()

    async def with_cond_async() -> None:
        async with cond:
            await cond.wait_async()

    plains: dict[str, Any] = {
        "recv": ch.recv,
        "send": lambda: ch.send(1),
        "recv_ok": ch.recv_ok,
        "select": lambda: gorun.select(ch, gorun.send(ch, 1)),
        "mutex": mu.acquire,
        "reader": rw.reader.acquire,
        "semaphore": sem.acquire,
        "cond": with_cond,
        "event": event.wait,
        "group": wg.wait,
        "barrier": barrier.wait,
    }
    twins: dict[str, Any] = {
        "recv": ch.recv_async,
        "send": lambda: ch.send_async(1),
        "recv_ok": ch.recv_ok_async,
        "select": lambda: gorun.select_async(gorun.recv(ch), gorun.send(ch, 1)),
        "mutex": mu.acquire_async,
        "reader": rw.reader.acquire_async,
        "semaphore": sem.acquire_async,
        "cond": with_cond_async,
        "event": event.wait_async,
        "group": wg.wait_async,
        "barrier": barrier.wait_async,
    }

    def plain() -> None:
        for seconds in (0, 0.002):
            with pytest.raises(TimeoutError), timeout(seconds):
                plains[what]()
            barrier.reset()

    async def twin() -> None:
        for seconds in (0, 0.002):
            with pytest.raises(TimeoutError):
                async with timeout(seconds):
                    await twins[what]()
            barrier.reset()

    run_as(kind, plain, twin)
    # All is as it was, and nobody is left in a list.
    for release in (mu.release, sem.release, rw.writer.release, wg.done):
        release()
    for lock in (mu, sem, rw.writer, cond):
        assert lock.acquire(False)  # type: ignore[attr-defined]
    cond.notify()
    with pytest.raises(gorun.WouldBlock):
        ch.try_recv()
    assert ch.try_send(1) is False


# ---- nested --------------------------------------------------------------------------------------


@every_caller
@pytest.mark.parametrize("first", ["inner", "outer"])
def test_each_scope_swallows_its_own(kind: str, first: str) -> None:
    """Mutation: `_exit` takes any Cancelled for its own."""
    a, b = (LONG, SHORT) if first == "inner" else (SHORT, LONG)

    def plain() -> tuple[Any, ...]:
        inside = False
        with pytest.raises(TimeoutError):
            with timeout(a) as outer:
                try:
                    with timeout(b) as inner:
                        gorun.sleep(LONG)
                except TimeoutError:
                    inside = True
                    raise
        return inside, outer.expired, inner.expired

    async def twin() -> tuple[Any, ...]:
        inside = False
        with pytest.raises(TimeoutError):
            async with timeout(a) as outer:
                try:
                    async with timeout(b) as inner:
                        await gorun.sleep_async(LONG)
                except TimeoutError:
                    inside = True
                    raise
        return inside, outer.expired, inner.expired

    inner_fired = first == "inner"
    assert run_as(kind, plain, twin) == (inner_fired, not inner_fired, inner_fired)


@pytest.mark.parametrize("kind", ["thread", "plain"])
def test_both_fire(kind: str) -> None:
    """Both scopes are due: each raises, one after the other. Mutation: `deliver` forgets the others."""

    def plain() -> list[str]:
        seen = []
        with pytest.raises(TimeoutError):
            with timeout(LONG) as outer:
                with pytest.raises(TimeoutError):
                    with timeout(0):
                        outer.reschedule(0)
                        gorun.sleep(LONG)
                seen.append("inner")
                gorun.sleep(LONG)
                seen.append("never")
        return seen

    async def twin() -> None: ...

    assert run_as(kind, plain, twin) == ["inner"]


def test_the_inner_end_takes_its_cancel_back() -> None:
    """A scope that fired without a cancel point leaves nothing behind. Mutation: `leave` does not withdraw."""

    def plain() -> str:
        with timeout(0) as scope:
            pass
        assert scope.expired
        gorun.sleep(0)
        return "nothing pending"

    async def twin() -> str:
        async with timeout(0):
            pass
        await gorun.sleep_async(0)
        return "nothing pending"

    for kind in ("thread", "plain", "async"):
        assert run_as(kind, plain, twin) == "nothing pending"


# ---- reschedule ----------------------------------------------------------------------------------


@every_caller
def test_reschedule(kind: str) -> None:
    """Later, never, and sooner. Mutation: `set_timer` leaves the earlier timer armed."""

    def plain() -> None:
        with timeout(0.02) as scope:
            scope.reschedule(LONG)
            gorun.sleep(0.03)
            scope.reschedule(None)
        assert not scope.expired
        with pytest.raises(TimeoutError):
            with timeout(None) as scope:
                scope.reschedule(SHORT)
                gorun.sleep(LONG)
        with pytest.raises(TimeoutError):
            with timeout(LONG) as scope:
                scope.reschedule(-1)
                gorun.sleep(LONG)

    async def twin() -> None:
        async with timeout(0.02) as scope:
            scope.reschedule(LONG)
            await gorun.sleep_async(0.03)
            scope.reschedule(None)
        assert not scope.expired
        with pytest.raises(TimeoutError):
            async with timeout(None) as scope:
                scope.reschedule(SHORT)
                await gorun.sleep_async(LONG)
        with pytest.raises(TimeoutError):
            async with timeout(LONG) as scope:
                scope.reschedule(-1)
                await gorun.sleep_async(LONG)

    run_as(kind, plain, twin)


def test_reschedule_too_late() -> None:
    """Mutation: `reschedule` arms a timer of an expired or ended scope."""
    with timeout(0) as scope:
        with pytest.raises(RuntimeError, match="up already"):
            scope.reschedule(1)
    scope = timeout(LONG)
    scope.reschedule(0)  # before the block: counts from its start
    with pytest.raises(TimeoutError), scope:
        gorun.sleep(LONG)
    with timeout(LONG) as scope:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        scope.reschedule(1)


# ---- misuse --------------------------------------------------------------------------------------


def test_bad_seconds() -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match="nan"):
        timeout(float("nan"))
    with pytest.raises(TypeError, match="'1'"):
        timeout("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float"):
        timeout(10**400)
    with timeout(LONG) as scope:
        with pytest.raises(ValueError, match="nan"):
            scope.reschedule(float("nan"))


@every_caller
def test_seconds_of_other_kinds(kind: str) -> None:
    """Mutation: no `float` for the loop's clock."""
    short: Any = Decimal("0.01")

    def plain() -> None:
        with pytest.raises(TimeoutError), timeout(short) as scope:
            scope.reschedule(short)
            gorun.sleep(LONG)

    async def twin() -> None:
        with pytest.raises(TimeoutError):
            async with timeout(short) as scope:
                scope.reschedule(short)
                await gorun.sleep_async(LONG)

    run_as(kind, plain, twin)


def test_entered_twice() -> None:
    scope = timeout(LONG)
    with scope:
        with pytest.raises(RuntimeError, match="once"):
            scope.__enter__()
    with pytest.raises(RuntimeError, match="once"), scope:
        pass


def test_async_with_outside_of_goroutines_and_tasks() -> None:
    coroutine = timeout(1).__aenter__()
    with pytest.raises(RuntimeError, match=r"goroutine.*asyncio"):
        coroutine.send(None)


def test_left_elsewhere() -> None:
    """A scope that another thread leaves says so, and is ended. Mutation: `leave` does not look who leaves."""
    scope = timeout(LONG)
    g = gorun.go(scope.__enter__)
    g.result(LIMIT)
    with pytest.raises(RuntimeError, match="another goroutine or thread"):
        scope.__exit__(None, None, None)


def test_a_scope_in_a_plain_with_of_a_task() -> None:
    """`with` in a task is asyncio.timeout too: awaits are cut. Mutation: a scope of the loop's thread."""

    async def main() -> bool:
        with pytest.raises(TimeoutError):
            with timeout(SHORT) as scope:
                await asyncio.sleep(LONG)
        return scope.expired

    assert asyncio.run(main())


# ---- memory --------------------------------------------------------------------------------------


def test_scopes_are_freed() -> None:
    """Ended scopes leave no timer and no object behind. Mutation: `revoke` does not release the dormant G."""

    def body() -> weakref.ref[Any]:
        with timeout(LONG) as scope:
            ref = weakref.ref(scope)
        del scope
        return ref

    ref = gorun.go(body).result(LIMIT)
    gc.collect()
    assert ref() is None
    assert gorun.stats().timers == 0


def test_a_goroutine_that_returns_its_scope() -> None:
    """The cycle goroutine -> outcome -> scope -> goroutine is broken by the end of the scope.

    Mutation: `leave` keeps the target.
    """

    class Holder:
        pass

    def body() -> Any:
        with timeout(LONG) as scope:
            holder = Holder()
            holder.scope = scope  # type: ignore[attr-defined]
        return holder

    g = gorun.go(body)
    ref = weakref.ref(g.result(LIMIT))
    del g
    gc.collect()
    assert ref() is None


# ---- fork and exit -------------------------------------------------------------------------------


@pytest.mark.no_matrix
def test_a_scope_around_a_fork() -> None:
    """In the child it never fires, and ends; new ones work. Mutation: `revoke` does not look at the epoch."""
    from tests import _child

    out = _child.run(
        """
        with gorun.timeout(0.2) as outer:
            pid = os.fork()
            if pid == 0:
                try:
                    with gorun.timeout(0.01):
                        gorun.sleep(3600)
                except TimeoutError:
                    gorun.sleep(0.3)
                    print("child", outer.expired, flush=True)
            else:
                assert os.waitpid(pid, 0)[1] == 0
        if pid == 0:
            os._exit(0)
        print("parent", outer.expired)
        """,
        flags=("-W", "ignore"),
    ).out
    assert out.splitlines() == ["child False", "parent True"]


@pytest.mark.no_matrix
def test_exit_inside_scopes() -> None:
    """Threads and goroutines inside scopes do not hold the exit up. Mutation: `over` comes after the cancel."""
    from tests import _child

    ended = _child.run(
        """
        def scope():
            with gorun.timeout(3600):
                gorun.sleep(3600)
        threading.Thread(target=scope, daemon=True).start()
        go(scope)
        async def twin():
            async with gorun.timeout(3600):
                await nap()
        go(twin)
        gorun.sleep(0.05)
        """,
        exit_clock=True,
    )
    assert ended.exit_seconds is not None
    assert ended.exit_seconds < 10
