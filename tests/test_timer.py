"""Timers with a function, and the bounds of sleeping. "Mutation:" names what makes a test fail."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import gorun
from gorun._gorun import Latch

LONG = 3600.0
LIMIT = 20.0


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def test_it_fires_once_and_not_early() -> None:
    # Mutation: the wheel rounds down.
    for seconds in (0, 0.0001, 0.003, 0.04):
        fired: list[float] = []
        latch = Latch()

        def run(fired: list[float] = fired, latch: Latch = latch) -> None:
            fired.append(time.monotonic())
            latch.set()

        start = time.monotonic()
        timer = gorun.Timer(seconds, run)
        assert latch.wait(LIMIT)
        assert fired[0] - start >= seconds
        time.sleep(0.01)
        assert len(fired) == 1
        assert timer.stop() is False


def test_it_fires_without_its_handle() -> None:
    # Mutation: `Drop` of the timer disarms it.
    latch = Latch()
    gorun.Timer(0.01, latch.set)
    gc.collect()
    assert latch.wait(LIMIT)


def test_the_function_runs_in_a_goroutine_of_its_own() -> None:
    seen: list[Any] = []
    latch = Latch()

    async def coro() -> None:
        await gorun.sleep_async(0.001)
        seen.append(gorun.current())
        latch.set()

    def plain() -> None:
        seen.append(gorun.current())
        gorun.sleep(0.001)
        latch.set()

    for fn in (coro, plain):
        latch = Latch()
        gorun.Timer(0.001, fn)
        assert latch.wait(LIMIT)
    assert all(isinstance(g, gorun.Goroutine) for g in seen)
    assert seen[0].id != seen[1].id


def test_stop() -> None:
    # Mutation: `disarm` answers True always, or does not revoke.
    fired: list[int] = []
    timer = gorun.Timer(0.02, lambda: fired.append(1))
    assert timer.chan is None
    assert timer.stop() is True
    assert timer.stop() is False
    time.sleep(0.05)
    assert fired == []
    assert gorun.stats().timers == 0


def test_reset() -> None:
    # Mutation: `reset` leaves the old entry: it fires twice.
    fired: list[int] = []
    timer = gorun.Timer(LONG, lambda: fired.append(1))
    for _ in range(5):
        assert timer.reset(LONG) is True
    assert timer.reset(0.001) is True
    until(lambda: fired)
    assert timer.reset(0.001) is False
    until(lambda: len(fired) == 2)
    assert timer.stop() is False
    assert timer.reset(LONG) is False
    assert timer.stop() is True
    time.sleep(0.01)
    assert fired == [1, 1]


def test_reset_from_its_own_function() -> None:
    fired: list[int] = []
    done = Latch()

    def run() -> None:
        fired.append(1)
        if len(fired) < 5:
            assert timer.reset(0.001) is False
        else:
            done.set()

    timer = gorun.Timer(LONG, run)
    timer.reset(0)
    assert done.wait(LIMIT)
    assert len(fired) == 5


def test_stop_and_reset_from_many_threads() -> None:
    # Mutation: `arm` overwrites what another `reset` put there: a panic, or one that nobody stops.
    fired: list[int] = []
    timer = gorun.Timer(LONG, lambda: fired.append(1))
    end = time.monotonic() + 0.3

    def worker() -> None:
        while time.monotonic() < end:
            timer.reset(LONG)
            timer.reset(LONG)
            timer.stop()

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timer.stop()
    until(lambda: gorun.stats().timers == 0)
    assert fired == []


def test_stop_races_with_firing() -> None:
    # Mutation: `stop` answers True although it fires (or False although it does not).
    fired: list[int] = []
    stopped = 0
    n = 300
    for i in range(n):
        timer = gorun.Timer(0.0001 * (i % 3), lambda: fired.append(1))
        stopped += timer.stop()
    until(lambda: len(fired) == n - stopped)
    time.sleep(0.02)
    assert len(fired) + stopped == n


def test_many_timers_in_order() -> None:
    fired: list[int] = []
    latch = Latch(50)

    def run(i: int) -> None:
        fired.append(i)
        latch.done()

    for i in reversed(range(50)):
        gorun.Timer(0.05 + 0.02 * i, lambda i=i: run(i))
    assert latch.wait(LIMIT)
    assert sorted(fired) == list(range(50))


def test_errors_go_to_the_hook(hook_errors: Any) -> None:
    def fails() -> None:
        raise LookupError("timer")

    gorun.Timer(0, fails)
    [args] = hook_errors.take()
    assert args.exc_value.args == ("timer",)


VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="unset")


def test_the_context_of_the_making() -> None:
    # Mutation: `arm` takes the context of the call of `reset`.
    seen: list[str] = []
    latch = Latch(2)

    def run() -> None:
        seen.append(VAR.get())
        VAR.set("lost")
        latch.done()

    token = VAR.set("making")
    timer = gorun.Timer(LONG, run)
    VAR.set("reset")
    timer.reset(0)
    until(lambda: len(seen) == 1)
    timer.reset(0)
    assert latch.wait(LIMIT)
    VAR.reset(token)
    assert seen == ["making", "making"]


def test_timers_in_cycles_are_collected() -> None:
    # Mutation: no __traverse__.
    class Owner:
        def __init__(self, seconds: float) -> None:
            self.ran = Latch()
            self.timer = gorun.Timer(seconds, self.run)

        def run(self) -> None:
            self.ran.set()

    owner = Owner(LONG)
    ref = weakref.ref(owner)
    owner.timer.stop()
    del owner
    gc.collect()
    assert ref() is None
    owner = Owner(0)
    ref = weakref.ref(owner)
    assert owner.ran.wait(LIMIT)
    del owner
    until(lambda: gc.collect() >= 0 and ref() is None)


def test_a_pending_timer_holds_its_function_and_lets_it_go() -> None:
    class Thing:
        def __call__(self) -> None: ...

    thing = Thing()
    ref = weakref.ref(thing)
    timer = gorun.Timer(LONG, thing)
    del thing
    gc.collect()
    assert ref() is not None
    timer.stop()
    del timer
    gc.collect()
    assert ref() is None


def test_weakrefs_to_timers() -> None:
    timer = gorun.Timer(LONG, print)
    ref = weakref.ref(timer)
    timer.stop()
    del timer
    gc.collect()
    assert ref() is None


# ---- values (rule 4) -----------------------------------------------------------------------------

WAYS: dict[str, Callable[[Any], Any]] = {
    "sleep": gorun.sleep,
    "sleep_async": gorun.sleep_async,
    "Timer": lambda s: gorun.Timer(s, print),
    "reset": lambda s: reset_one(s),
}


def reset_one(seconds: Any) -> None:
    timer = gorun.Timer(LONG, print)
    try:
        timer.reset(seconds)
    finally:
        assert timer.stop()  # as it was


@pytest.mark.no_matrix
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [-1, -1e-9, float("-inf"), float("nan"), 10**400])
def test_bad_numbers(way: str, bad: Any) -> None:
    # Mutation: clamp instead of refusing.
    with pytest.raises(ValueError, match="seconds") as caught:
        WAYS[way](bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.no_matrix
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [None, "1", b"1", [1], 1j, object()])
def test_no_numbers(way: str, bad: Any) -> None:
    with pytest.raises(TypeError, match="seconds") as caught:
        WAYS[way](bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("long", [float("inf"), 1e300, 2**63, 10**300])
def test_for_ever(long: float) -> None:
    # Mutation: Duration::from_secs_f64 without the clamp panics.
    g = gorun.go(gorun.sleep, long)

    async def coro() -> None:
        await gorun.sleep_async(long)

    h = gorun.go(coro)
    until(lambda: gorun.stats().waiting == 2)
    assert gorun.Timer(long, print).stop()
    for x in (g, h):
        x.cancel()
        assert isinstance(x.exception(LIMIT), gorun.GoroutineCancelled)


@pytest.mark.parametrize("short", [0, 0.0, -0.0, False, 1e-300, 5e-324])
def test_nothing_is_a_gosched(short: float) -> None:
    async def coro() -> None:
        await gorun.sleep_async(short)

    gorun.sleep(short)
    gorun.go(gorun.sleep, short).result(LIMIT)
    gorun.go(coro).result(LIMIT)


def test_numbers_of_other_kinds() -> None:
    from decimal import Decimal
    from fractions import Fraction

    for seconds in (True * 0.001, Decimal("0.001"), Fraction(1, 1000)):
        gorun.sleep(seconds)  # type: ignore[arg-type]
    gorun.sleep(seconds=0.001)


def test_bad_calls() -> None:
    with pytest.raises(TypeError):
        gorun.sleep()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        gorun.sleep(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        gorun.sleep(second=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        gorun.sleep_async()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="callable"):
        gorun.Timer(1, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        gorun.Timer()  # type: ignore[call-arg]
