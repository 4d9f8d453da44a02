"""Timers, joins and cancels against plain models, by Hypothesis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import gorun
from gorun._gorun import Latch

LONG = 3600.0
LIMIT = 20.0
OPTIONS = settings(
    max_examples=25,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.0002)


class Timers(RuleBasedStateMachine):
    """A timer is pending or not; `stop` and `reset` say which; what fires is counted.

    Mutation: `stop` leaves the entry in the wheel; `reset` answers False always.
    """

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[gorun.Timer] = []
        self.pending: list[bool] = []
        self.fired: list[int] = []
        self.expected: list[int] = []

    def teardown(self) -> None:
        for timer in self.timers:
            timer.stop()
        until(lambda: gorun.stats().timers == 0)

    def fire(self, i: int) -> None:
        self.fired[i] += 1

    def wait_for(self, i: int) -> None:
        self.expected[i] += 1
        until(lambda: self.fired[i] == self.expected[i])
        self.pending[i] = False

    @rule(soon=st.sampled_from([None, 0.0, 0.0005]))
    def make(self, soon: float | None) -> None:
        i = len(self.timers)
        self.fired.append(0)
        self.expected.append(0)
        self.pending.append(True)
        self.timers.append(gorun.Timer(LONG if soon is None else soon, lambda: self.fire(i)))
        if soon is not None:
            self.wait_for(i)

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def stop(self, data: Any) -> None:
        i = data.draw(st.sampled_from(range(len(self.timers))))
        assert self.timers[i].stop() is self.pending[i]
        self.pending[i] = False

    @precondition(lambda self: self.timers)
    @rule(data=st.data(), soon=st.sampled_from([None, 0.0, 0.0005]))
    def reset(self, data: Any, soon: float | None) -> None:
        i = data.draw(st.sampled_from(range(len(self.timers))))
        assert self.timers[i].reset(LONG if soon is None else soon) is self.pending[i]
        self.pending[i] = True
        if soon is not None:
            self.wait_for(i)

    @invariant()
    def as_the_model(self) -> None:
        assert self.fired == self.expected
        assert gorun.stats().timers == sum(self.pending)


class Joins(RuleBasedStateMachine):
    """Goroutines that wait for a latch: ended by it, by a cancel, or not yet; joined in any way.

    Mutation: `Latch.close` skips a waiter; `cancel` answers True for what has ended; a time-out
    leaves its node in the list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[Latch] = []
        self.gs: list[gorun.Goroutine[Any]] = []
        self.ends: list[Any] = []  # None, or ("value", i), or ("cancelled", reason)
        self.called: list[int] = []
        self.added: list[int] = []

    def teardown(self) -> None:
        for gate in self.gates:
            gate.set()
        gorun.wait(self.gs)

    def one(self, data: Any) -> int:
        i: int = data.draw(st.sampled_from(range(len(self.gs))))
        return i

    @rule(kind=st.sampled_from(["plain", "async", "foreign"]))
    def make(self, kind: str) -> None:
        i, gate = len(self.gs), Latch()

        async def coro() -> tuple[str, int]:
            await gate.wait_async()
            return "value", i

        def plain() -> tuple[str, int]:
            gate.wait()
            return "value", i

        async def over_another() -> Any:
            assert inner is not None
            return await inner

        inner = gorun.go(coro) if kind == "foreign" else None
        fn: Any = {"plain": plain, "async": coro, "foreign": over_another}[kind]
        self.gates.append(gate)
        self.gs.append(gorun.go(fn))
        self.ends.append(None)
        self.called.append(0)
        self.added.append(0)
        n = i
        until(
            lambda: any(
                x.id == self.gs[n].id and x.state in ("waiting", "blocked")
                for x in gorun.goroutines()
            )
        )

    @precondition(lambda self: self.gs)
    @rule(data=st.data())
    def open(self, data: Any) -> None:
        i = self.one(data)
        self.gates[i].set()
        until(self.gs[i].done)
        self.ends[i] = self.ends[i] or ("value", i)

    @precondition(lambda self: self.gs)
    @rule(data=st.data(), reason=st.sampled_from([None, "a", "b"]))
    def cancel(self, data: Any, reason: str | None) -> None:
        i = self.one(data)
        assert self.gs[i].cancel(reason) is (self.ends[i] is None)
        until(self.gs[i].done)
        self.ends[i] = self.ends[i] or ("cancelled", reason)

    @precondition(lambda self: self.gs)
    @rule(data=st.data(), limit=st.sampled_from([0, 0.0005, -1]))
    def join(self, data: Any, limit: float) -> None:
        i = self.one(data)
        try:
            got: Any = self.gs[i].result(limit)
        except TimeoutError:
            got = None
        except gorun.GoroutineCancelled as error:
            got = ("cancelled", error.reason)
        assert got == self.ends[i]

    @precondition(lambda self: self.gs)
    @rule(data=st.data(), when=st.sampled_from(["ALL_COMPLETED", "FIRST_COMPLETED"]))
    def wait(self, data: Any, when: str) -> None:
        some = data.draw(st.sets(st.sampled_from(range(len(self.gs)))))
        done, rest = gorun.wait([self.gs[i] for i in some], 0.0005, when)
        assert done == {self.gs[i] for i in some if self.ends[i]}
        assert rest == {self.gs[i] for i in some if not self.ends[i]}

    @precondition(lambda self: self.gs)
    @rule(data=st.data())
    def callback(self, data: Any) -> None:
        i = self.one(data)

        def called(_: Any) -> None:
            self.called[i] += 1

        self.gs[i].add_done_callback(called)
        self.added[i] += 1

    @invariant()
    def as_the_model(self) -> None:
        for g, end in zip(self.gs, self.ends, strict=True):
            assert g.done() is (end is not None)
            assert g.cancelled() is (end is not None and end[0] == "cancelled")
        until(
            lambda: (
                self.called == [n if e else 0 for n, e in zip(self.added, self.ends, strict=True)]
            )
        )


def run_machine(machine: type[RuleBasedStateMachine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=OPTIONS)  # type: ignore[no-untyped-call]


def test_timers_against_a_model() -> None:
    run_machine(Timers)


def test_joins_against_a_model() -> None:
    run_machine(Joins)


@OPTIONS
@given(
    args=st.lists(st.integers(), max_size=6),
    kwargs=st.dictionaries(st.text("abcdef", max_size=3), st.integers(), max_size=4),
)
def test_arguments_arrive(args: list[int], kwargs: dict[str, int]) -> None:
    def body(*a: Any, **k: Any) -> Any:
        return a, k

    assert gorun.go(body, *args, **kwargs).result(LIMIT) == (tuple(args), kwargs)
    assert gorun.spawn(body, args, kwargs).result(LIMIT) == (tuple(args), kwargs)


@OPTIONS
@given(st.floats() | st.integers() | st.booleans())
def test_any_number_of_seconds(seconds: float) -> None:
    # Mutation: Duration::from_secs_f64 of what it cannot hold panics.
    async def body() -> None:
        await gorun.sleep_async(seconds)

    bad = seconds != seconds or seconds < 0 or abs(seconds) > 1.7976931348623157e308
    if bad and seconds != float("inf"):
        with pytest.raises(ValueError, match="seconds"):
            gorun.Timer(seconds, print)
        with pytest.raises(ValueError, match="seconds"):
            gorun.sleep(seconds)
        assert isinstance(gorun.go(body).exception(LIMIT), ValueError)
    else:
        timer = gorun.Timer(seconds, lambda: None)
        timer.stop()
        g = gorun.go(body)
        g.cancel()
        gorun.wait([g])
