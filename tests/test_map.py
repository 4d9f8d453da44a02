"""`gorun.map` on threads. Beside each guarantee stands a change that its test was seen to catch.

Nothing here measures time. Where an item has to be "slow", it waits for what the test does next.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import itertools
import math
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

import gorun
from gorun._gorun import Latch
from gorun._map import flow, threads, worker
from gorun._map.carrier import Job
from gorun._map.threads import ThreadCarrier

tmap = functools.partial(gorun.map, on="thread")
tmap_async = functools.partial(gorun.map_async, on="thread")

HANG = 30.0  # seconds that only a broken run takes


class Counted:
    """An endless input that counts what was pulled, and by which threads."""

    def __init__(self, end: float = math.inf) -> None:
        self.pulled = 0
        self.by: set[int] = set()
        self.end = end

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> int:
        if self.pulled >= self.end:
            raise StopIteration
        self.by.add(threading.get_ident())
        self.pulled += 1
        return self.pulled - 1


class Gate:
    """What items wait at. Opened when the test ends, come what may."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self) -> None:
        assert self._event.wait(2 * HANG), "nobody opened the gate"  # the test gives up first

    def open(self) -> None:
        self._event.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def square(n: int) -> int:
    return n * n


def until(true: Callable[[], object]) -> None:
    """Waits for what another thread is about to do."""
    limit = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.001)


def at_rest(m: Any) -> bool:
    """Whether all that was taken from the input is through, and its workers are idle."""
    carrier = m._flow.carrier
    return not carrier.work and len(carrier._idle) + len(carrier._free) == carrier.job.workers


def waits(m: Any) -> bool:
    """Whether somebody waits in `next`."""
    return bool(m._flow.carrier.waiting)


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 5000])
@pytest.mark.parametrize(
    "options", [{}, {"workers": 1}, {"workers": 7}, {"chunk": 3}, {"chunk": 4, "buffer": 5}]
)
def test_gives_what_the_builtin_gives(ordered: bool, n: int, options: dict[str, Any]) -> None:
    found = list(tmap(square, range(n), ordered=ordered, **options))
    assert list(map(square, range(n))) == (found if ordered else sorted(found))


def test_several_iterables_end_with_the_shortest() -> None:
    assert list(tmap(lambda a, b, c: a + b + c, [0, 1, 2], (1, 2, 3), iter([2, 3]))) == [3, 6]


@pytest.mark.no_matrix
def test_a_map_is_an_iterator_and_no_public_name_shadows_the_builtin() -> None:
    m = tmap(square, [1])
    assert iter(m) is m
    assert isinstance(m, Iterator)
    assert "map" not in gorun.__all__


def test_many_items() -> None:
    n = 100_000
    assert n * (n - 1) // 2 == sum(tmap(lambda i: i, range(n)))


def test_order_is_the_inputs_whatever_ends_first(gate: Gate) -> None:
    # Mutation: `_look` admits what has landed, as for ordered=False.
    def item(n: int) -> int:
        if n == 0:
            gate.wait()
        if n == 3:
            gate.open()
        return n

    assert list(range(8)) == list(tmap(item, range(8), workers=2))


def test_unordered_gives_each_as_it_comes(gate: Gate) -> None:
    # Mutation: `by_number` is True always: the front then waits for item 0 and is never woken.
    def item(n: int) -> int:
        if n == 0:
            gate.wait()
        return n

    found = []
    for n in tmap(item, range(6), workers=2, ordered=False):
        found.append(n)
        if len(found) == 5:
            gate.open()
    assert found[-1] == 0
    assert list(range(6)) == sorted(found)


def test_an_item_may_wait_for_its_neighbour() -> None:
    # Mutation: without `chunk`, a worker takes two items at a time.
    ran = [threading.Event() for _ in range(3060)]

    def item(n: int) -> int:
        if n >= 3000 and n % 2 == 0:  # by then the run-ahead for short items is long
            assert ran[n + 1].wait(HANG)
        ran[n].set()
        return n

    assert list(range(3060)) == list(tmap(item, range(3060), workers=2))


def test_the_caller_may_release_an_item_by_taking_the_one_before() -> None:
    # Mutation: answers are put down ten at a time.
    given = [threading.Event() for _ in range(40)]

    def item(n: int) -> int:
        assert n == 0 or given[n - 1].wait(HANG)
        return n

    for n in tmap(item, range(40), workers=2):
        given[n].set()


def test_behind_a_long_item_the_others_go_on(gate: Gate) -> None:
    # Mutations: the run-ahead never grows; a dry worker does not wake the front.
    ran = []

    def item(n: int) -> int:
        if n == 5:
            gate.wait()
        ran.append(n)
        if len(ran) == 500:
            gate.open()
        return n

    assert list(tmap(item, range(1000), workers=2)) == list(range(1000))


def test_the_run_ahead_makes_room_whenever_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation: it doubles itself, not what is out; then, once halved, nobody would be fed again.
    monkeypatch.setattr(ThreadCarrier, "_start", lambda self, number: None)
    job = Job(square, 1, 1, None, True, None, None, "raise", *[None] * 2, 0, None, (), None, None)
    carrier = ThreadCarrier(job)
    for number in range(64):
        carrier.put(number, None)
    carrier.watch(0)
    assert carrier.ahead == 4
    carrier._dry = True
    carrier.watch(0)
    assert carrier.ahead == 128
    carrier.watch(1)
    assert carrier.ahead == 64


# ---- laziness and the input ---------------------------------------------------------------------


def test_nothing_happens_before_the_first_next() -> None:
    # Mutation: the constructor of `Flow` takes a step.
    ran: list[int] = []
    source = Counted()
    before = gorun.num_goroutine()
    m = tmap(ran.append, source)
    assert (0, [], before) == (source.pulled, ran, gorun.num_goroutine())
    m.close()


@pytest.mark.parametrize("buffer", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("ordered", [True, False])
def test_buffer_bounds_the_run_ahead(buffer: int, ordered: bool) -> None:
    # Mutations: `room` counts nothing of what is out; `room` is one more; `room` is one less.
    source = Counted()
    with tmap(square, source, workers=2, buffer=buffer, ordered=ordered) as m:
        most = max(source.pulled - given for given, _ in zip(range(1, 500), m, strict=False))
    assert buffer == most


def test_an_endless_input_is_run_ahead_of_by_a_bounded_number() -> None:
    # Mutation: LONGEST_AHEAD is a million.
    source = Counted()

    def item(n: int) -> None:
        if n == 3:  # a long one: the others run ahead of it
            until(lambda: source.pulled >= n + 1024)
            time.sleep(0.05)  # for them to go too far

    with tmap(item, source, workers=2) as m:
        for given in range(1, 5):
            next(m)
            assert source.pulled <= given + 1024


def test_only_the_thread_that_calls_next_advances_the_input() -> None:
    # Mutation: `_feed` runs in a thread of its own.
    source = Counted(5000)
    m = tmap(square, source)
    assert next(m) == 0
    pulled = source.pulled
    until(lambda: at_rest(m))
    assert pulled == source.pulled
    with ThreadPoolExecutor(1) as other:  # the rest by another thread: both have pulled
        assert other.submit(lambda: sum(1 for _ in m)).result() == 4999
        assert {threading.get_ident(), *(t.ident for t in other._threads)} == source.by


def test_the_inputs_error_comes_after_the_results() -> None:
    # Mutation: `_pull` does not catch the error.
    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError("unreadable")

    m = tmap(square, source(), buffer=100)
    assert list(itertools.islice(m, 5)) == [0, 1, 4, 9, 16]
    with pytest.raises(OSError, match="unreadable"):
        next(m)
    assert list(m) == []


def test_what_is_ready_is_not_held_up_by_a_slow_input() -> None:
    # Mutation: `_feed` goes on until there is no room.
    taken = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        time.sleep(0.01)  # slow, and by its end the first item is through
        until(lambda: m._flow.carrier.answers or m._flow._seen)  # type: ignore[attr-defined]
        yield 2
        assert taken.wait(HANG), "the first result waits for the third item"
        yield 3

    m = tmap(square, source(), buffer=10)
    assert next(m) == 1
    taken.set()
    assert list(m) == [4, 9]


def test_the_input_is_let_go_when_the_map_ends() -> None:
    # Mutation: `_tidy` keeps the source.
    ended = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.append(True)

    m = tmap(square, source())
    next(m)
    m.close()
    gc.collect()
    assert ended == [True]


def test_items_and_results_that_are_through_are_kept_by_nobody(gate: Gate) -> None:
    # Mutation: `_run` does not let go of its item and value.
    class Thing:
        pass

    things = [Thing() for _ in range(3)]
    refs = [weakref.ref(thing) for thing in things]

    def item(thing: Thing) -> Thing:
        if thing is refs[2]():
            gate.wait()
        return thing

    with tmap(item, (things.pop(0) for _ in range(3)), workers=1) as m:
        next(m)
        next(m)
        until(lambda: gc.collect() >= 0 and not refs[0]() and not refs[1]())
        assert refs[2]()
        gate.open()


# ---- errors -------------------------------------------------------------------------------------


def fails_at(*bad: int) -> Callable[[int], int]:
    def item(n: int) -> int:
        if n in bad:
            raise ValueError(n)
        return n

    return item


def test_raise_gives_the_results_before_then_the_first_error_in_order(gate: Gate) -> None:
    # Mutations: any failure that has landed is the verdict; `_admit` goes on behind the verdict.
    def item(n: int) -> int:
        if n == 2:
            gate.wait()  # fails after item 3 has
        if n == 3:
            gate.open()
        return fails_at(2, 3)(n)

    m = tmap(item, range(10), workers=2)
    assert [next(m), next(m)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(m)
    assert list(m) == []


def test_raise_cancels_the_rest() -> None:
    # Mutations: `end` does not cancel the carrier; `drop_behind` is not called.
    ran = []
    begun = threading.Event()

    def item(n: int) -> None:
        ran.append(n)
        if n == 1:
            assert begun.wait(HANG)
            raise ValueError(n)
        if n == 2:
            begun.set()
            gorun.sleep(HANG * 10)

    with pytest.raises(ValueError, match="1"):
        list(tmap(item, range(100), workers=2, buffer=50))
    assert sorted(ran) == [0, 1, 2]


def test_raise_stops_the_input_at_once(gate: Gate) -> None:
    # Mutation: `_look` does not stop the input.
    source = Counted(100)

    def item(n: int) -> int:
        if n == 0:
            gate.wait()
        return fails_at(1)(n)

    m = tmap(item, source, workers=2, buffer=4)
    threading.Timer(0.05, gate.open).start()
    assert next(m) == 0
    with pytest.raises(ValueError, match="1"):
        next(m)
    assert source.pulled <= 5


def test_return_puts_errors_in_their_places() -> None:
    found = list(tmap(fails_at(1, 4), range(6), errors="return"))
    assert [n if isinstance(n, int) else repr(n) for n in found] == [
        0,
        "ValueError(1)",
        2,
        3,
        "ValueError(4)",
        5,
    ]


def test_collect_gives_all_good_results_then_one_group() -> None:
    # Mutation: `_end` raises the first of the errors.
    m = tmap(fails_at(1, 4), range(6), errors="collect")
    assert list(itertools.islice(m, 4)) == [0, 2, 3, 5]
    with pytest.raises(ExceptionGroup) as caught:
        next(m)
    assert [repr(e) for e in caught.value.exceptions] == ["ValueError(1)", "ValueError(4)"]
    assert list(m) == []


def test_collect_without_errors_raises_nothing() -> None:
    assert list(tmap(fails_at(), range(3), errors="collect")) == [0, 1, 2]


def test_collect_has_the_inputs_error_in_the_group() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("unreadable")

    with pytest.raises(ExceptionGroup) as caught:
        list(tmap(fails_at(1), source(), errors="collect"))
    assert [ValueError, OSError] == [type(e) for e in caught.value.exceptions]


@pytest.mark.parametrize("errors", ["raise", "return", "collect"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_ends_the_map(errors: Any, kind: type[BaseException]) -> None:
    # Mutation: `_is_fatal` looks at `errors` alone.
    def item(n: int) -> int:
        if n == 3:
            raise kind
        return n

    m = tmap(item, range(100), errors=errors, workers=1)
    with pytest.raises(kind):
        list(m)
    assert list(m) == []


def test_stop_iteration_of_an_item_is_not_the_end_of_the_map() -> None:
    # Mutation: `_raise` raises every error as it is.
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(tmap(lambda it: next(it), [iter([1]), iter([])]))


def test_an_error_keeps_its_traceback_and_nothing_of_the_worker() -> None:
    # Mutation: `_answer` keeps the whole traceback.
    def deep(n: int) -> float:
        return 1 / n

    with pytest.raises(ZeroDivisionError) as caught:
        list(tmap(lambda n: deep(n), [1, 0]))
    names = [entry.name for entry in caught.traceback]
    assert names[-2:] == ["<lambda>", "deep"]
    assert not any("worker.py" in str(entry.path) for entry in caught.traceback)
    assert caught.value.__context__ is None


def test_a_worker_that_is_cancelled_ends_the_map_with_an_error() -> None:
    # Mutation: `_broke` does nothing for a cancel; then `next` waits for ever.
    def item(n: int) -> int:
        if n == 2:
            me = gorun.current()
            assert me is not None
            me.cancel("no more")
            gorun.sleep(HANG)
        return n

    m = tmap(item, range(5), workers=1)
    assert [next(m), next(m)] == [0, 1]
    with pytest.raises(gorun.GoroutineCancelled, match=r"gorun\.map was cancelled"):
        next(m)


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `item_timeout` is measured with: it stands still but for what the test adds."""
    now = [0.0]
    for module in (threads, worker):
        monkeypatch.setattr(module, "_clock", lambda: now[0])
    return now


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


def close(m: Any) -> None:
    m.close()


def leave(m: Any) -> None:
    with m:
        pass


def drop(m: Any) -> None:
    m.__del__()  # what the last reference does


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


# ---- context, progress, nesting -----------------------------------------------------------------

VAR = contextvars.ContextVar("VAR", default="unset")


def test_workers_see_the_context_of_the_call() -> None:
    # Mutations: the context is copied in `_start`; the workers share one context.
    meet = threading.Barrier(2)  # so two workers have one each

    def item(n: int) -> str:
        found = VAR.get()
        VAR.set("inside")
        meet.wait(HANG)
        return found

    VAR.set("at the call")
    m = tmap(item, range(2), workers=2)
    VAR.set("later")
    assert list(m) == ["at the call"] * 2
    assert VAR.get() == "later"


@pytest.mark.parametrize("ordered", [True, False])
def test_progress_counts_every_item_once(ordered: bool) -> None:
    # Mutations: failed ones are not counted; `show` also when nothing is new.
    seen: list[tuple[int, int | None]] = []
    list(
        tmap(
            fails_at(2), range(200), ordered=ordered, errors="return",
            progress=lambda done, total: seen.append((done, total)),
        )
    )  # fmt: skip
    counts = [done for done, _ in seen]
    assert seen[0] == (0, 200)
    assert seen[-1] == (200, 200)
    assert counts == sorted(set(counts))


def test_progress_counts_what_waits_for_its_turn(gate: Gate) -> None:
    # Mutation: `by_number` does not ask whether somebody looks on.
    def show(done: int, total: int | None) -> None:
        if done == 4:
            gate.open()

    m = tmap(lambda n: n or gate.wait(), range(5), workers=2, progress=show)
    assert list(m) == [None, 1, 2, 3, 4]


def test_progress_knows_no_total_of_a_generator() -> None:
    totals: list[int | None] = []
    list(tmap(pow, [1, 2], iter([3, 4]), progress=lambda done, total: totals.append(total)))
    assert {None} == set(totals)


def test_an_error_of_the_progress_callable_ends_the_map() -> None:
    def show(done: int, total: int | None) -> None:
        if done:
            raise OSError("no screen")

    m = tmap(square, range(5), progress=show)
    with pytest.raises(OSError, match="no screen"):
        list(m)
    assert list(m) == []


class FakeBar:
    """Stands in for tqdm, which is optional."""

    made: ClassVar[list[FakeBar]] = []

    def __init__(self, total: int | None, desc: str | None) -> None:
        self.total, self.desc, self.n, self.closed = total, desc, 0, 0
        FakeBar.made.append(self)

    def update(self, n: int) -> None:
        assert not self.closed
        self.n += n

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[FakeBar]:
    FakeBar.made = []
    module = types.SimpleNamespace(tqdm=FakeBar)
    monkeypatch.setitem(sys.modules, "tqdm", module)
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    return FakeBar.made


@pytest.mark.parametrize(("progress", "label"), [(True, None), ("files", "files"), ("", "")])
def test_progress_draws_with_tqdm(bars: list[FakeBar], progress: Any, label: str | None) -> None:
    m = tmap(square, range(9), progress=progress)
    assert bars == []  # it begins with the work
    list(m)
    assert [(9, label, 9, 1)] == [(b.total, b.desc, b.n, b.closed) for b in bars]


def test_the_bar_is_closed_with_the_map(bars: list[FakeBar]) -> None:
    # Mutation: `_tidy` leaves the meter alone.
    with tmap(square, range(9), progress=True) as m:
        next(m)
    assert [bar.closed for bar in bars] == [1]


def test_progress_without_tqdm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install 'gorun\[progress\]'"):
        tmap(square, [1], progress=True)


def test_a_map_inside_a_map() -> None:
    def row(n: int) -> int:
        return sum(tmap(square, range(n), workers=2))

    def whole() -> list[int]:
        return list(tmap(row, range(20), workers=2))

    assert [sum(i * i for i in range(n)) for n in range(20)] == gorun.go(whole).result(HANG)


def test_maps_in_many_threads_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        sums = pool.map(lambda n: sum(tmap(square, range(n), workers=3)), [500] * 40)
        assert [sum(i * i for i in range(500))] * 40 == list(sums)


# ---- async functions, map_async -----------------------------------------------------------------


async def asquare(n: int) -> int:
    await gorun.sleep_async(0)
    return n * n


class Power:
    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    async def __call__(self, n: int) -> int:
        return int(n**self.exponent)


@pytest.mark.parametrize("fn", [asquare, functools.partial(asquare), Power(2)])
def test_an_async_function_is_awaited(fn: Callable[[int], Any]) -> None:
    # Mutation: `makes_coroutine` asks `iscoroutinefunction(fn)` alone.
    assert [n * n for n in range(500)] == list(tmap(fn, range(500)))


def test_as_many_async_items_run_as_there_are_workers() -> None:
    begun: set[int] = set()

    async def item(n: int) -> int:
        begun.add(n)
        while n < 100 and len(begun) < 100:
            assert len(begun) <= 100
            await gorun.sleep_async(0.001)
        return n

    assert list(tmap(item, range(200), workers=100)) == list(range(200))


def test_async_errors_retries_and_the_end() -> None:
    tries = []

    async def item(n: int) -> int:
        tries.append(n)
        if n == 1:
            raise ValueError(n)
        return n

    found = list(tmap(item, range(3), errors="return", retries=2, workers=1))
    assert [n if isinstance(n, int) else repr(n) for n in found] == [0, "ValueError(1)", 2]
    assert tries == [0, 1, 1, 1, 2]


def test_close_cancels_async_items_at_their_await() -> None:
    begun, ended = [], []

    async def item(n: int) -> None:
        begun.append(n)
        try:
            while n or len(begun) < 3:
                await gorun.sleep_async(HANG * 10 if n else 0.001)
        finally:
            ended.append(n)

    with tmap(item, range(9), workers=3) as m:
        next(m)
    until(lambda: sorted(begun) == sorted(ended))
    assert 3 <= len(begun) <= 4


def test_item_timeout_cancels_an_async_item(clock: list[float]) -> None:
    ended = []

    async def item(n: int) -> int:
        try:
            if n == 1:
                clock[0] += 1
                await gorun.sleep_async(HANG * 10)
            return n
        finally:
            ended.append(n)

    m = tmap(item, range(3), item_timeout=0.05, errors="return", workers=1)
    assert [n if isinstance(n, int) else type(n) for n in m] == [0, TimeoutError, 2]
    until(lambda: sorted(ended) == [0, 1, 2])


async def collect(m: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in m]


@pytest.fixture(params=["goroutine", "asyncio"])
def drive(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs an `async def` function as a goroutine, and as an asyncio task."""
    import asyncio

    if request.param == "goroutine":
        return lambda main: gorun.go(main).result(HANG)
    return lambda main: asyncio.run(main())


@pytest.mark.parametrize("fn", [square, asquare])
def test_map_async_gives_what_map_gives(drive: Callable[[Any], Any], fn: Any) -> None:
    async def main() -> tuple[list[int], list[int]]:
        return (
            await collect(tmap_async(fn, range(300))),
            await collect(tmap_async(fn, range(300), ordered=False, workers=3)),
        )

    in_order, others = drive(main)
    assert [n * n for n in range(300)] == in_order == sorted(others)


def test_map_async_raises_what_map_raises(drive: Callable[[Any], Any]) -> None:
    async def main() -> list[str]:
        told = []
        for errors in ("raise", "collect"):
            try:
                await collect(tmap_async(fails_at(1), range(3), errors=errors))  # type: ignore[call-overload]
            except Exception as error:
                told.append(repr(error))
        return told

    assert drive(main) == [
        "ValueError(1)",
        "ExceptionGroup('1 error in gorun.map', [ValueError(1)])",
    ]


def test_map_async_left_early_leaves_nothing(drive: Callable[[Any], Any]) -> None:
    async def main() -> int:
        async with tmap_async(square, Counted(), workers=2) as m:
            return await anext(m)

    before = gorun.num_goroutine()
    assert drive(main) == 0
    until(lambda: gorun.num_goroutine() == before)


@pytest.mark.no_matrix
def test_a_cancelled_wait_of_map_async_has_taken_nothing(gate: Gate) -> None:
    # Mutation: every exception that leaves `_advance` ends the map.
    import asyncio

    async def main() -> list[int]:
        m = tmap_async(lambda n: gate.wait() or n, range(4), workers=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(m), 0.05)
        gate.open()
        return await collect(m)

    assert asyncio.run(main()) == [0, 1, 2, 3]


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"workers": 0}, ValueError, "workers must be at least 1, not 0"),
        ({"workers": 2.5}, TypeError, "workers must be an integer, not 2.5"),
        ({"workers": True}, TypeError, "workers must be an integer, not True"),
        ({"chunk": -1}, ValueError, "chunk must be at least 1, not -1"),
        ({"chunk": "2"}, TypeError, "chunk must be an integer, not '2'"),
        ({"buffer": 0}, ValueError, "buffer must be at least 1, not 0"),
        ({"chunk": 5, "buffer": 4}, ValueError, r"chunk \(5\) does not fit into buffer \(4\)"),
        ({"errors": "ignore"}, ValueError, "errors must be .* not 'ignore'"),
        ({"timeout": math.nan}, ValueError, "timeout must be .* not nan"),
        ({"timeout": "1"}, TypeError, "timeout must be .* not '1'"),
        ({"item_timeout": math.nan}, ValueError, "item_timeout must be .* not nan"),
        ({"item_timeout": 0}, ValueError, "item_timeout must be above 0 seconds, not 0"),
        ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
        ({"retries": None}, TypeError, "retries must be an integer, not None"),
        ({"initializer": 3}, TypeError, "initializer must be callable, not 3"),
        ({"initializer": asquare}, TypeError, "initializer must be a plain function, not <fun"),
        ({"initargs": (1,)}, ValueError, r"initargs \(1,\) without an initializer"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be at least 1, not 0"),
        ({"progress": 3}, TypeError, "progress must be .* not 3"),
        ({"on": "gpu"}, ValueError, "on must be .* not 'gpu'"),
        ({"on": 3}, ValueError, "on must be .* not 3"),
    ],
)
def test_a_bad_argument_is_named_at_the_call(options: Any, kind: Any, told: str) -> None:
    for form in (gorun.map, gorun.map_async):
        with pytest.raises(kind, match=told):
            form(square, [1], **options)


@pytest.mark.no_matrix
def test_a_bad_function_or_iterable_is_named_at_the_call() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    for args, told in [
        ((3, [1]), "fn must be callable, not 3"),
        ((square,), "at least one iterable"),
        ((square, 3), "plain iterables, not 3"),
        ((square, [1], None), "plain iterables, not None"),
        ((square, numbers()), "await its items first"),
    ]:
        with pytest.raises(TypeError, match=told):
            tmap(*args)  # type: ignore[call-overload]


@pytest.mark.no_matrix
def test_what_is_on_by_default_may_be_said() -> None:
    m = tmap(
        square, [1, 2], workers=None, on="thread", ordered=True, chunk=None, buffer=None,
        errors="raise", timeout=math.inf, item_timeout=None, retries=0, initializer=None,
        initargs=(), max_tasks_per_child=None, progress=None,
    )  # fmt: skip
    assert list(m) == [1, 4]
