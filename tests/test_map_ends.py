"""How a `gorun.map` on threads ends, early or late: time-outs, retries, workers, close, exit.

Beside each guarantee stands a change that its test was seen to catch.
"""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests._mapping import (
    HANG,
    Counted,
    Gate,
    at_rest,
    close,
    drop,
    gates,
    leave,
    square,
    stopped_clock,
    tmap,
    until,
    waits,
)

import gorun
from gorun._gorun import Latch
from gorun._map import flow
from gorun._map.threads import ThreadCarrier

gate = pytest.fixture(gates, name="gate")
clock = pytest.fixture(stopped_clock, name="clock")

# ---- time, retries, workers ---------------------------------------------------------------------


def test_timeout_is_for_the_whole(gate: Gate) -> None:
    # Mutation: `_shorter` gives no time-out.
    m = tmap(lambda n: gate.wait(), range(3), timeout=0.05)
    with pytest.raises(TimeoutError, match=r"0\.05 s: 0 of 3"):
        next(m)
    assert list(m) == []
    gate.open()


def test_after_the_timeout_what_is_ready_is_given_and_no_more_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Mutations: `_feed` runs when it is late; being late comes before what is ready.
    now = [0.0]
    monkeypatch.setattr(flow, "_clock", lambda: now[0])
    source = Counted()
    with tmap(square, source, timeout=10, buffer=4, workers=1) as m:
        assert next(m) == 0
        until(lambda: at_rest(m))
        now[0] = 11.0
        assert [next(m) for _ in range(4)] == [1, 4, 9, 16]
        with pytest.raises(TimeoutError):
            next(m)
    assert source.pulled == 5


def test_timeout_is_looked_at_while_the_input_is_slow(gate: Gate) -> None:
    """Though nothing is ready, and there is room for more.

    Mutation: `_feed` goes on until something is ready.
    """
    taken: list[int] = []

    def source() -> Iterator[int]:
        for n in range(500):
            time.sleep(0.01)
            taken.append(n)
            yield n

    with pytest.raises(TimeoutError):
        next(tmap(lambda _: gate.wait(), source(), buffer=1000, timeout=0.1))
    assert len(taken) < 50, "the time-out has waited for the input"
    gate.open()


class Holds:
    """A result that refers to its own map."""

    def __init__(self, n: int) -> None:
        self.map: object = n


def test_a_map_in_a_cycle_with_its_results_is_collected() -> None:
    """What is ready belongs to the map, for the collector too. Mutation: `__traverse__` visits nothing."""
    m = gorun.map(Holds, range(50), on="thread", workers=1)
    first = next(m)
    first.map = m
    m._flow.ready.append(first)  # type: ignore[attr-defined]
    gone = weakref.ref(first)
    del m, first
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("on", ["thread", "process"])
@pytest.mark.parametrize("kind", ["goroutine", "scope", "async"])
def test_next_is_a_cancel_point_though_a_value_is_ready(on: Any, kind: str) -> None:
    """A pending cancel is delivered first, and the value is still there.

    Mutation: `__next__` and `__anext__` without `_cancel_point`.
    """
    given: list[int] = []

    def plain() -> None:
        with gorun.map(square, range(1000), on=on, workers=2, buffer=50) as m:
            while not m._flow.ready:
                gorun.sleep(0.01)  # more than one is there by then
                given.append(next(m))
            if kind == "scope":
                with pytest.raises(TimeoutError), gorun.timeout(0):
                    given.append(next(m))
            else:
                me = gorun.current()
                assert me is not None
                me.cancel()
                with pytest.raises(gorun.Cancelled):
                    given.append(next(m))
            given.append(next(m))

    async def awaiting() -> None:
        async with gorun.map_async(square, range(1000), on=on, workers=2, buffer=50) as m:
            while not m._flow.ready:
                await gorun.sleep_async(0.01)
                given.append(await anext(m))
            me = gorun.current()
            assert me is not None
            me.cancel()
            with pytest.raises(gorun.Cancelled):
                given.append(await anext(m))
            given.append(await anext(m))

    if kind == "scope":
        plain()
    else:
        gorun.go(awaiting if kind == "async" else plain).result(HANG)
    assert given == [n * n for n in range(len(given))]


def test_a_timeout_of_0_tries_once(gate: Gate) -> None:
    # Mutation: `_feed` is not run for the first look.
    source = Counted()
    with pytest.raises(TimeoutError):
        next(tmap(lambda _: gate.wait(), source, timeout=0))
    assert source.pulled > 0
    gate.open()


def test_a_timeout_error_of_an_item_is_the_items() -> None:
    def item(n: int) -> int:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        list(tmap(item, [1], timeout=HANG))


def test_retries_run_an_item_again() -> None:
    # Mutations: one try less; one more; no limit.
    tries: dict[int, int] = {}

    def item(n: int) -> int:
        tries[n] = tries.get(n, 0) + 1
        if tries[n] <= n:
            raise ValueError(n)
        return n

    found = list(tmap(item, range(5), retries=2, errors="return", workers=1))
    assert [*found[:3], repr(found[3])] == [0, 1, 2, "ValueError(3)"]
    assert tries == {0: 1, 1: 2, 2: 3, 3: 3, 4: 3}


def test_retries_are_for_exceptions_alone() -> None:
    # Mutation: `_again` does not look at the kind.
    tries = []

    def item(n: int) -> None:
        tries.append(n)
        raise SystemExit

    with pytest.raises(SystemExit):
        list(tmap(item, [1], retries=5))
    assert tries == [1]


@pytest.mark.parametrize("ordered", [True, False])
def test_item_timeout_fails_the_item_and_replaces_its_worker(
    gate: Gate, clock: list[float], ordered: bool
) -> None:
    # Mutations: `_give_up` frees no number; `_answer` does not ask `running`.
    before = gorun.num_goroutine()

    def item(n: int) -> int:
        if n in (1, 2):
            clock[0] += 1
            gate.wait()
        if n == 4:  # the two are still there, and end without another word
            gate.open()
            until(lambda: gorun.num_goroutine() == before + 1)
        return n

    m = tmap(
        item, range(5), item_timeout=0.05, workers=1, chunk=2, errors="return", ordered=ordered
    )
    found = [n if isinstance(n, int) else type(n) for n in m]
    assert found == [0, TimeoutError, TimeoutError, 3, 4]


def test_item_timeout_cuts_a_goroutine_where_it_waits_in_gorun() -> None:
    # Mutation: `_give_up` does not cancel: the goroutines are reported as leaked.
    ended = []

    def item(n: int) -> None:
        try:
            gorun.sleep(HANG * 10)
        finally:
            ended.append(n)

    found = list(tmap(item, range(2), item_timeout=0.05, workers=2, errors="return"))
    assert [str(error) for error in found] == [
        f"item {n} of gorun.map took longer than 0.05 s" for n in range(2)
    ]
    until(lambda: sorted(ended) == [0, 1])


def test_initializer_runs_once_in_each_worker_before_its_items() -> None:
    # Mutation: `_run` begins anew each time.
    local = threading.local()
    made = []

    def begin(label: str) -> None:
        local.label = label
        made.append(label)

    found = list(
        tmap(lambda n: local.label, range(500), workers=3, initializer=begin, initargs=("here",))
    )
    assert found == ["here"] * 500
    assert 1 <= len(made) <= 3


@pytest.mark.parametrize("errors", ["raise", "return", "collect"])
def test_an_error_of_the_initializer_ends_the_map(errors: Any) -> None:
    # Mutation: `fail` does not wake the front.
    def begin() -> None:
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        list(tmap(square, range(5), initializer=begin, errors=errors))


@pytest.mark.parametrize("chunk", [None, 5])
def test_max_tasks_per_child_replaces_a_worker(chunk: int | None) -> None:
    # Mutations: `_left` is never counted down; a worker that leaves keeps its chunk.
    begun: list[int] = []
    m = tmap(
        square, range(10), workers=1, max_tasks_per_child=3, chunk=chunk,
        initializer=lambda: begun.append(1),
    )  # fmt: skip
    assert [n * n for n in range(10)] == list(m)
    assert len(begun) == 4


def test_workers_is_how_many_run_at_a_time() -> None:
    # Mutation: twice as many numbers in `free`.
    most, now, lock = 0, 0, threading.Lock()
    meet = threading.Barrier(3)

    def item(n: int) -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        if n < 3:
            meet.wait(HANG)
        time.sleep(0.001)
        with lock:
            now -= 1
        return n

    list(tmap(item, range(60), workers=3))
    assert most == 3


# ---- the end ------------------------------------------------------------------------------------


def test_no_worker_outlives_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation: `join` does nothing. Exactly, and at once: no waiting here.
    def rest(self: ThreadCarrier) -> Latch | None:
        time.sleep(0.02)  # the worker is late to see that nothing is left
        return usual(self)

    usual = ThreadCarrier.rest
    monkeypatch.setattr(ThreadCarrier, "rest", rest)
    before = gorun.num_goroutine()
    assert list(tmap(square, range(3), workers=3)) == [0, 1, 4]
    assert before == gorun.num_goroutine()


@pytest.mark.parametrize("way", [close, leave, drop])
def test_the_rest_is_cancelled_and_nothing_is_left(gate: Gate, way: Callable[[Any], None]) -> None:
    # Mutations: `cancel` keeps `work`, and `_run` does not look at `cancelled`; `cancel` cancels
    # no goroutine; `close` does nothing.
    ran, cut = [], []

    def item(n: int) -> int:
        ran.append(n)
        if n == 1:
            until(lambda: len(ran) == 4)
        if n == 3:
            try:
                gorun.sleep(HANG * 10)
            except gorun.Cancelled as error:
                cut.append(error.reason)
                raise
        if n > 1:
            gate.wait()  # outside gorun: runs on
        return n

    before = gorun.num_goroutine()
    m = tmap(item, Counted(), workers=3, buffer=50)
    assert [next(m), next(m)] == [0, 1]
    way(m)
    assert list(m) == []
    way(m)  # again does no harm
    gate.open()
    until(lambda: gorun.num_goroutine() == before)
    assert {0, 1, 2, 3} <= set(ran) <= {0, 1, 2, 3, 4}
    assert cut == ["gorun.map was closed"]


def test_idle_workers_end_with_the_map_that_nobody_holds() -> None:
    # Mutations: the carrier refers to the `Map`; `__del__` does nothing; `cancel` neither wakes
    # the idle nor cancels them.
    before = gorun.num_goroutine()
    m = tmap(square, Counted(), workers=2, buffer=4)
    next(m)
    cycle: list[Any] = [m]
    cycle.append(cycle)
    del m
    until(lambda: at_rest(cycle[0]))
    assert gorun.num_goroutine() > before
    cycle = []
    until(lambda: gc.collect() >= 0 and gorun.num_goroutine() == before)


def test_close_from_another_thread_ends_a_wait(gate: Gate) -> None:
    # Mutation: `cancel` does not wake the front.
    m = tmap(lambda n: gate.wait(), range(3))
    with ThreadPoolExecutor(1) as other:
        rest = other.submit(list, m)
        until(lambda: waits(m))
        m.close()
        assert rest.result(HANG) == []
    gate.open()


def test_one_caller_at_a_time(gate: Gate) -> None:
    # Mutation: `Flow.__enter__` waits for its turn.
    m = tmap(lambda n: gate.wait() or n, range(3), workers=1)
    with ThreadPoolExecutor(1) as other:
        rest = other.submit(list, m)
        until(lambda: waits(m))
        with pytest.raises(ValueError, match="advanced already"):
            next(m)
        gate.open()
        assert rest.result(HANG) == [0, 1, 2]


def test_an_input_that_asks_for_a_result_is_told_so() -> None:
    m = tmap(square, (next(m) for _ in range(3)))  # noqa: F821 - the very point
    with pytest.raises(ValueError, match="advanced already"):
        next(m)


class Interrupt(Exception):
    """What the signal handler of the next tests raises."""


@pytest.fixture
def interrupts() -> Iterator[None]:
    def handler(signum: int, frame: types.FrameType | None) -> None:
        raise Interrupt

    usual = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, usual)


def test_a_wait_that_a_signal_cuts_has_changed_nothing(gate: Gate, interrupts: None) -> None:
    # Mutation: every exception that leaves `_advance` ends the map.
    m = tmap(lambda n: gate.wait() or n, range(3), workers=1)
    main = threading.get_ident()

    def interrupt() -> None:
        until(lambda: waits(m))
        signal.pthread_kill(main, signal.SIGUSR1)

    with ThreadPoolExecutor(1) as other:
        other.submit(interrupt)
        with pytest.raises(Interrupt):
            next(m)
    gate.open()
    assert list(m) == [0, 1, 2]


@pytest.mark.no_matrix
def test_ctrl_c_ends_a_wait_and_the_map() -> None:
    # Mutation: `_advance` has no `except KeyboardInterrupt`.
    child = """
import gorun, sys, threading
m = gorun.map(
    lambda n: print("runs", flush=True) or gorun.sleep(3600), range(3), workers=1, on="thread"
)
try:
    next(m)
except KeyboardInterrupt:
    print("cut", list(m), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cut []\n"
        assert process.wait(HANG) == 0
