"""wait and as_completed, held against concurrent.futures. "Mutation:" names what fails a test."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
import weakref
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import gorun
from gorun._gorun import Latch
from gorun._joining import _Stream

LONG = 3600.0
LIMIT = 20.0
NEVER = Latch()


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def fails() -> None:
    raise LookupError


async def _wait(*args: Any, **kwargs: Any) -> Any:
    return await gorun.wait_async(*args, **kwargs)


WAITS: dict[str, Callable[..., Any]] = {
    "thread": gorun.wait,
    "plain": lambda *a, **k: gorun.go(gorun.wait, *a, **k).result(),
    "async": lambda *a, **k: gorun.go(_wait, *a, **k).result(),
    "task": lambda *a, **k: asyncio.run(_wait(*a, **k)),
}
every_wait = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@every_wait
@pytest.mark.parametrize("when", ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"])
@pytest.mark.parametrize("ends", ["", "v", "e", "vv", "ve", "vw", "ew", "cw", "w", "vce", "vcw"])
def test_like_concurrent_futures(wait: Any, when: str, ends: str) -> None:
    # v: a value, e: an error, c: cancelled, w: waits for ever. The other library is the model.
    # Mutation: count a cancel as an exception, or wait for all where the first will do.
    gate = Latch()

    def make(end: str) -> gorun.Goroutine[Any]:
        g = gorun.go({"v": lambda: 1, "e": fails, "c": gate.wait, "w": gate.wait}[end])
        if end == "c":
            g.cancel()
        if end != "w":
            until(g.done)
        return g

    def model(end: str) -> concurrent.futures.Future[int]:
        f: concurrent.futures.Future[int] = concurrent.futures.Future()
        if end == "c":
            f.cancel()
            f.set_running_or_notify_cancel()
        elif end == "v":
            f.set_result(1)
        elif end == "e":
            f.set_exception(LookupError())
        return f

    gs, fs = [make(end) for end in ends], [model(end) for end in ends]
    limit = 0.005 if "w" in ends else LIMIT
    done, rest = wait(gs, timeout=limit, return_when=when)
    if ends:
        expected = concurrent.futures.wait(fs, timeout=limit, return_when=when)
        assert {gs.index(g) for g in done} == {fs.index(f) for f in expected.done}
        assert {gs.index(g) for g in rest} == {fs.index(f) for f in expected.not_done}
    else:
        assert (done, rest) == (set(), set())
    gate.set()
    for g in gs:
        g.exception()


@every_wait
def test_wait_for_the_first_while_it_waits(wait: Any) -> None:
    # Mutation: `_Gate._ended` opens the latch for the last only.
    gate, other = Latch(), Latch()
    a, b = gorun.go(gate.wait), gorun.go(other.wait)
    later = threading.Timer(0.01, gate.set)
    later.start()
    done, rest = wait([a, b], return_when="FIRST_COMPLETED")
    assert (done, rest) == ({a}, {b})
    other.set()
    assert wait([a, b]).done == {a, b}
    later.join()


@every_wait
def test_wait_for_the_first_exception_while_it_waits(wait: Any) -> None:
    gate, other = Latch(), Latch()
    a = gorun.go(lambda: gate.wait() and fails())
    b = gorun.go(other.wait)
    v = gorun.go(abs, 1)
    later = threading.Timer(0.01, gate.set)
    later.start()
    done, rest = wait([v, a, b], return_when="FIRST_EXCEPTION")
    assert (done, rest) == ({a, v}, {b})
    assert isinstance(a.exception(), LookupError)
    other.set()
    b.result()
    later.join()


def test_duplicates_and_iterators() -> None:
    g = gorun.go(abs, -1)
    assert gorun.wait(iter([g, g])).done == {g}
    assert list(gorun.as_completed([g, g])) == [g]


def test_wait_leaves_nothing_behind() -> None:
    # Mutation: no `leave`: callbacks pile up on goroutines that live long.
    refs: list[Any] = []
    gate = Latch()
    g = gorun.go(gate.wait)

    class Gate(gorun._joining._Gate):
        def __init__(self, *args: Any) -> None:
            refs.append(weakref.ref(self))
            super().__init__(*args)

    usual, gorun._joining._Gate = gorun._joining._Gate, Gate  # type: ignore[misc]
    try:
        for _ in range(10):
            gorun.wait([g], 0)
    finally:
        gorun._joining._Gate = usual  # type: ignore[misc]
    gc.collect()
    assert [ref() for ref in refs] == [None] * 10
    gate.set()
    g.result()


def test_as_completed_left_half_way() -> None:
    gate = Latch()
    g, h = gorun.go(abs, -1), gorun.go(gate.wait)
    stream = gorun.as_completed([g, h])
    assert next(stream) is g
    stream.close()  # type: ignore[attr-defined]
    gate.set()
    assert h.result() is True

    async def body() -> Any:
        async for x in gorun.as_completed_async([g, h]):
            return x
        return None

    assert gorun.go(body).result(LIMIT) in (g, h)


def test_as_completed_in_the_order_of_the_ends() -> None:
    # Mutation: yield in the order of the input.
    gates = [Latch() for _ in range(5)]
    gs = [gorun.go(gate.wait) for gate in gates]
    stream = gorun.as_completed(gs)
    for i in (3, 0, 4, 1, 2):
        gates[i].set()
        assert next(stream) is gs[i]
    with pytest.raises(StopIteration):
        next(stream)


def test_as_completed_counts_its_time_from_the_call() -> None:
    # Mutation: start the clock at the first `next`.
    g = gorun.go(gorun.sleep, LONG)
    stream = gorun.as_completed([g], 0.01)
    gorun.sleep(0.02)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="1 of 1 goroutines"):
        next(stream)
    assert time.monotonic() - start < 10 * 0.01 + LIMIT
    g.cancel()


def test_as_completed_out_of_time_gives_what_is_there() -> None:
    g, h = gorun.go(abs, -1), gorun.go(gorun.sleep, LONG)
    g.result()
    stream = gorun.as_completed([h, g], 0)
    assert next(stream) is g
    with pytest.raises(TimeoutError, match="1 of 2"):
        next(stream)
    h.cancel()


@every_wait
def test_bad_arguments(wait: Any) -> None:
    g = gorun.go(abs, 1)
    with pytest.raises(ValueError, match=r"return_when must be one of .*not 'SOME'"):
        wait([g], return_when="SOME")
    with pytest.raises(TypeError, match="expected goroutines, got 5"):
        wait([g, 5])
    with pytest.raises(TypeError):
        wait(g)
    with pytest.raises(ValueError, match=r"timeout.*nan"):
        wait([g], float("nan"))
    with pytest.raises(TypeError, match=r"timeout.*'1'"):
        wait([g], "1")
    g.result()


def test_bad_arguments_of_as_completed_come_at_the_call() -> None:
    # Mutation: make it a generator function.
    g = gorun.go(abs, 1)
    for call in (gorun.as_completed, gorun.as_completed_async):
        with pytest.raises(ValueError, match=r"timeout.*nan"):
            call([g], float("nan"))
        with pytest.raises(TypeError, match=r"timeout.*'1'"):
            call([g], "1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected goroutines"):
            call([5])  # type: ignore[list-item]
    g.result()


JOINS: dict[str, Callable[[gorun.Goroutine[Any], Any], Any]] = {
    "result": lambda g, t: g.result(t),
    "exception": lambda g, t: g.exception(timeout=t),
    "latch": lambda g, t: NEVER.wait(t),
    "latch_async": lambda g, t: NEVER.wait_async(t),
}


@pytest.mark.parametrize("how", JOINS)
@pytest.mark.parametrize("ended", [True, False])
def test_bad_timeouts(how: str, ended: bool) -> None:
    # Rule 4. Mutation: look at the time-out only when there is something to wait for.
    gate = Latch()
    g = gorun.go(gate.wait)
    if ended:
        gate.set()
        g.result()
    for bad in ("1", [], object()):
        with pytest.raises(TypeError, match="timeout") as caught:
            JOINS[how](g, bad)
        assert repr(bad) in str(caught.value)
    for number in (float("nan"), 10**400):
        with pytest.raises(ValueError, match="timeout"):
            JOINS[how](g, number)
    gate.set()
    g.result()


@pytest.mark.parametrize("long", [None, float("inf"), 1e300, 2**70])
def test_long_timeouts(long: Any) -> None:
    # Mutation: Instant::now() + Duration panics.
    for call in (lambda g: g.result(long), lambda g: gorun.wait([g], long).done.pop().result()):
        assert call(gorun.go(gorun.sleep, 0.002)) is None

    async def main() -> Any:
        latch = Latch()
        gorun.go(lambda: (gorun.sleep(0.002), latch.set()))
        return await latch.wait_async(long)

    assert gorun.run(main) is True
    assert asyncio.run(main()) is True


@pytest.mark.no_matrix
@pytest.mark.parametrize("number", [Decimal("0.001"), Fraction(1, 1000)])
def test_timeouts_of_any_number(number: Any) -> None:
    """Decimals too, as everywhere else. Mutation: `check_timeout` gives the number back as it came."""
    g = gorun.go(gorun.sleep, LONG)
    with pytest.raises(TimeoutError):
        next(gorun.as_completed([g], number))
    with pytest.raises(TimeoutError):
        g.result(number)
    assert gorun.wait([g], number).not_done == {g}
    assert not gorun.shutdown(-number)
    g.cancel()


@pytest.mark.no_matrix
def test_named_as_in_concurrent_futures() -> None:
    """Mutation: another name than `fs`."""
    g = gorun.go(abs, -1)
    assert gorun.wait(fs=[g], timeout=LIMIT, return_when="ALL_COMPLETED").done == {g}
    assert list(gorun.as_completed(fs=[g], timeout=LIMIT)) == [g]
    assert gorun.run(gorun.wait_async, fs=[g]).done == {g}


def test_waiting_for_oneself() -> None:
    """It would never end. Mutation: no look at `current` in `_check`."""

    def body() -> None:
        me: list[Any] = [gorun.current()]
        for call in (gorun.wait, gorun.as_completed, gorun.as_completed_async):
            with pytest.raises(RuntimeError, match="cannot join itself"):
                call(me)  # type: ignore[operator]

    async def twin() -> None:
        with pytest.raises(RuntimeError, match="cannot join itself"):
            await gorun.wait_async([gorun.current()])  # type: ignore[list-item]

    gorun.run(body)
    gorun.run(twin)


def test_timeout_errors_say_which() -> None:
    g = gorun.go(gorun.sleep, LONG)
    with pytest.raises(TimeoutError, match=f"goroutine {g.id}"):
        g.result(0.001)
    with pytest.raises(TimeoutError, match=f"goroutine {g.id}"):
        g.exception(0)
    g.cancel()


def test_many_joiners() -> None:
    # Mutation: `Latch.close` stops after the first waiter.
    gate = Latch()
    g = gorun.go(gate.wait)

    async def joiner() -> Any:
        return await g

    gs = [gorun.go(joiner) for _ in range(200)] + [gorun.go(g.result) for _ in range(20)]
    until(lambda: gorun.stats().waiting >= 221)
    gate.set()
    assert [h.result(LIMIT) for h in gs] == [True] * 220


@pytest.mark.parametrize("name", ["as_completed", "as_completed_async"])
def test_as_completed_made_and_dropped_has_done_nothing(name: str) -> None:
    """Nor one that is kept and not begun. Mutation: register when it is made: its `finally` never runs."""
    gate = Latch()
    g = gorun.go(gate.wait)

    def streams() -> int:
        gc.collect()
        return sum(type(o) is _Stream for o in gc.get_objects())

    before = streams()
    for _ in range(3):
        getattr(gorun, name)([g])
    assert streams() == before
    gate.set()
    assert g.result(LIMIT) is True
