"""`Once`, `once`, `SingleFlight`: one run for all callers, of each kind; errors, cancels, misuse."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as, until, waits

import gorun
from gorun import Once, SingleFlight, once

every_caller = pytest.mark.parametrize("kind", KINDS)


@every_caller
def test_one_run_for_all(kind: str) -> None:
    """Many callers of all kinds, one run, one result. Mutation: `_enter` does not look under the lock."""
    gate = gorun._gorun.Latch()
    runs: list[int] = []
    one = Once()

    def slow(n: int) -> object:
        runs.append(n)
        gate.wait()
        return value

    async def slow_async(n: int) -> object:
        runs.append(n)
        await gate.wait_async()
        return value

    value = object()

    def plain() -> Any:
        return one.do(slow, 1)

    async def twin() -> Any:
        return await one.do_async(slow_async, 1)

    others = [gorun.go(plain) for _ in range(5)] + [gorun.go(twin) for _ in range(5)]
    until(lambda: all(waits(g) for g in others))
    gorun.Timer(0.005, gate.set)
    assert run_as(kind, plain, twin) is value
    assert all(g.result(LIMIT) is value for g in others)
    assert runs == [1]


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("what", ["Once", "SingleFlight"])
def test_a_pending_cancel_starts_nothing(what: str, kind: str) -> None:
    """`do` is a cancel point on entry; a first run that was cut so is not kept.

    Mutation: any of the four `_cancel_point()` left out.
    """
    one, flight, runs = Once(), SingleFlight(), list[int]()

    async def run_async() -> None:
        runs.append(2)

    def plain() -> None:
        g = gorun.current()
        assert g is not None
        g.cancel()
        if what == "Once":
            one.do(runs.append, 1)
        else:
            flight.do("key", runs.append, 1)

    async def twin() -> None:
        g = gorun.current()
        assert g is not None
        g.cancel()
        await (one.do_async(run_async) if what == "Once" else flight.do_async("key", run_async))

    g = gorun.go(plain if kind == "plain" else twin)
    assert isinstance(g.exception(LIMIT), gorun.GoroutineCancelled)
    assert runs == []
    assert one.do(lambda: 3) == 3


@pytest.mark.no_matrix
def test_awaited_by_nobody_known() -> None:
    """Driven outside of goroutines and tasks. Mutation: no `check_async`."""

    async def body() -> int:
        return 1

    one = Once()
    with pytest.raises(RuntimeError, match=r"do_async.*goroutine.*asyncio"):
        one.do_async(body).send(None)
    assert one.do(lambda: 2) == 2


@every_caller
def test_one_error_for_all(kind: str) -> None:
    """Each gets the same error, with the first traceback. Mutation: an error is not kept."""
    runs: list[int] = []
    one = Once()

    def bad() -> None:
        runs.append(1)
        raise LookupError("x")

    async def bad_async() -> None:
        bad()

    def plain() -> BaseException:
        with pytest.raises(LookupError) as caught:
            one.do(bad)
        return caught.value

    async def twin() -> BaseException:
        with pytest.raises(LookupError) as caught:
            await one.do_async(bad_async)
        return caught.value

    first = run_as(kind, plain, twin)
    depth = len(_frames(first))
    for _ in range(3):
        assert run_as(kind, plain, twin) is first
    assert len(_frames(first)) <= depth + 2
    assert runs == [1]


def _frames(error: BaseException) -> list[Any]:
    out, tb = [], error.__traceback__
    while tb is not None:
        out.append(tb)
        tb = tb.tb_next
    return out


@pytest.mark.parametrize("kind", ["plain", "async", "task"])
def test_a_cancelled_first_run_is_not_kept(kind: str) -> None:
    """One of those who waited runs its own. Mutation: `_cut_short` knows no Cancelled (or no CancelledError)."""
    one = Once()
    gate = gorun._gorun.Latch()
    started = threading.Event()

    def slow() -> str:
        started.set()
        gate.wait()
        return "ran"

    async def slow_async() -> str:
        started.set()
        await gate.wait_async()
        return "ran"

    def cancel_first() -> gorun.Goroutine[str]:
        first = gorun.go(one.do, slow) if kind == "plain" else gorun.go(one.do_async, slow_async)
        assert started.wait(LIMIT)
        until(lambda: waits(first))
        second = gorun.go(one.do, slow)
        until(lambda: waits(second))
        first.cancel()
        assert isinstance(first.exception(LIMIT), gorun.GoroutineCancelled)
        return second

    async def cancel_task() -> gorun.Goroutine[str]:
        first = asyncio.create_task(one.do_async(slow_async))
        await asyncio.sleep(0.005)
        second = gorun.go(one.do, slow)
        while not waits(second):
            await asyncio.sleep(0.001)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return second

    second = asyncio.run(cancel_task()) if kind == "task" else cancel_first()
    gate.set()
    assert second.result(LIMIT) == "ran"
    assert one.do(slow) == "ran"


def test_a_cancelled_waiter_leaves_the_run_alone() -> None:
    """Mutation: `do` ends the run when its wait is cut."""
    one = Once()
    gate = gorun._gorun.Latch()
    first = gorun.go(one.do, gate.wait)
    until(lambda: waits(first))
    with pytest.raises(TimeoutError), gorun.timeout(0.005):
        one.do(abs, -1)
    gate.set()
    assert first.result(LIMIT) is True
    assert one.do(abs, -1) is True


@pytest.mark.parametrize("kind", KINDS)
def test_do_inside_its_own_function(kind: str) -> None:
    """It would wait for itself. Mutation: no look at the owner: a hang."""
    one = Once()

    def again() -> None:
        with pytest.raises(RuntimeError, match="itself"):
            one.do(abs, -1)

    async def again_async() -> None:
        with pytest.raises(RuntimeError, match="itself"):
            await one.do_async(again_async)

    def plain() -> None:
        one.do(again)

    async def twin() -> None:
        await one.do_async(again_async)

    run_as(kind, plain, twin)


def test_decorator() -> None:
    """Both kinds of function keep their name and kind. Mutation: the async one returns its coroutine."""
    runs: list[Any] = []

    @once
    def load(a: int, *, b: int = 0) -> tuple[int, int]:
        """Loads."""
        runs.append(a)
        return a, b

    @once
    async def fetch(a: int) -> int:
        runs.append(a)
        await gorun.sleep_async(0.001)
        return a

    assert (load(1, b=2), load(3)) == ((1, 2), (1, 2))
    assert (load.__name__, load.__doc__) == ("load", "Loads.")
    gs = [gorun.go(fetch, n) for n in (7, 7, 7)]
    assert [g.result(LIMIT) for g in gs] == [7, 7, 7]
    assert asyncio.run(fetch(9)) == 7
    assert runs == [1, 7]
    with pytest.raises(TypeError, match="3"):
        once(3)  # type: ignore[call-overload]


def test_once_is_freed_with_its_value() -> None:
    class Thing:
        pass

    one = Once()
    ref = weakref.ref(one.do(Thing))
    del one
    gc.collect()
    assert ref() is None


# ---- SingleFlight --------------------------------------------------------------------------------


@every_caller
def test_flights_are_shared(kind: str) -> None:
    """`shared` is True for the leader too. Mutation: `_shared` looks at `joined` only."""
    flight = SingleFlight()
    gate = gorun._gorun.Latch()
    runs: list[int] = []

    def slow(n: int) -> int:
        runs.append(n)
        gate.wait()
        return n

    async def slow_async(n: int) -> int:
        runs.append(n)
        await gate.wait_async()
        return n

    def plain() -> Any:
        return flight.do("key", slow, 1)

    async def twin() -> Any:
        return await flight.do_async("key", slow_async, 1)

    leader = gorun.go(plain)
    until(lambda: runs)
    joiners = [gorun.go(fn) for fn in (plain, twin)]
    until(lambda: all(waits(g) for g in [leader, *joiners]))

    def open_for_four() -> None:
        until(lambda: flight._flights["key"].callers == 4)
        gate.set()

    opener = gorun.go(open_for_four)
    assert run_as(kind, plain, twin) == (1, True)
    opener.result(LIMIT)
    assert [g.result(LIMIT) for g in [leader, *joiners]] == [(1, True)] * 3
    assert runs == [1]
    assert run_as(kind, plain, twin) == (1, False)


def test_keys_do_not_mix() -> None:
    flight = SingleFlight()
    gate = gorun._gorun.Latch()
    g = gorun.go(flight.do, "a", gate.wait)
    until(lambda: waits(g))
    assert flight.do("b", abs, -1) == (1, False)
    gate.set()
    assert g.result(LIMIT) == (True, False)


def test_errors_go_to_all() -> None:
    """Mutation: the key of a failed call stays."""
    flight = SingleFlight()
    gate = gorun._gorun.Latch()

    def bad() -> None:
        gate.wait()
        raise LookupError("x")

    gs = [gorun.go(flight.do, "a", bad) for _ in range(3)]
    until(lambda: all(waits(g) for g in gs))
    gate.set()
    errors = {g.exception(LIMIT) for g in gs}
    assert len(errors) == 1
    assert isinstance(errors.pop(), LookupError)
    assert flight.do("a", abs, -1) == (1, False)


def test_a_cancelled_caller_only_stops_waiting() -> None:
    """Also the leader: `fn` runs in its own goroutine. Mutation: the leader runs it itself."""
    flight = SingleFlight()
    gate = gorun._gorun.Latch()
    leader = gorun.go(flight.do, "a", gate.wait)
    until(lambda: waits(leader))
    other = gorun.go(flight.do, "a", gate.wait)
    until(lambda: waits(other))
    leader.cancel()
    assert isinstance(leader.exception(LIMIT), gorun.GoroutineCancelled)
    with pytest.raises(TimeoutError), gorun.timeout(0.005):
        flight.do("a", gate.wait)
    gate.set()
    assert other.result(LIMIT) == (True, True)


def test_forget() -> None:
    """Mutation: the end of a forgotten call takes the key of the new one out."""
    flight = SingleFlight()
    gates = [gorun._gorun.Latch() for _ in range(2)]
    a = gorun.go(flight.do, "a", gates[0].wait)
    until(lambda: waits(a))
    flight.forget("a")
    flight.forget("missing")
    b = gorun.go(flight.do, "a", gates[1].wait)
    until(lambda: waits(b))
    gates[0].set()
    assert a.result(LIMIT) == (True, False)
    c = gorun.go(flight.do, "a", abs, -1)
    until(lambda: waits(c))
    gates[1].set()
    assert b.result(LIMIT) == (True, True)
    assert c.result(LIMIT) == (True, True)


def test_flight_of_a_bad_function() -> None:
    flight = SingleFlight()
    with pytest.raises(TypeError):
        flight.do("a", 3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unhashable"):
        flight.do([], abs, -1)  # type: ignore[arg-type]
    assert flight.do("a", abs, -1) == (1, False)


def test_an_ended_call_is_not_joined() -> None:
    """Its key may still be there for a moment. Mutation: `_join` does not look whether it has ended."""
    flight = SingleFlight()
    g = gorun.go(abs, -1)
    g.result(LIMIT)
    flight._flights["k"] = gorun._once._Flight(g)
    assert flight.do("k", abs, -2) == (2, False)


def test_many_callers_at_once() -> None:
    """Each result comes from a run that was under way while its caller asked. Mutation: join an ended call."""
    flight = SingleFlight()
    stamp = iter(range(10**6))
    lock = threading.Lock()

    def run() -> int:
        with lock:
            return next(stamp)

    def caller() -> bool:
        last = -1
        for _ in range(50):
            before = flight.do("k", run)[0]
            if before <= last:
                return False
            last = before
        return True

    callers: list[Callable[[], bool]] = [caller] * 4
    assert all(g.result(LIMIT) for g in [gorun.go(c) for c in callers])


@pytest.mark.parametrize("seconds", [LONG])
def test_a_run_that_never_ends_holds_nobody_who_has_a_timeout(seconds: float) -> None:
    flight = SingleFlight()
    with pytest.raises(TimeoutError), gorun.timeout(0.005):
        flight.do("k", gorun.sleep, seconds)
    for g in gorun._gorun._live():
        g.cancel()
