"""`gorun.map` on threads: results, the input, errors, arguments.

Beside each guarantee stands a change that its test was seen to catch.
Nothing here measures time. Where an item has to be "slow", it waits for what the test does next.
"""

from __future__ import annotations

import contextvars
import gc
import itertools
import math
import sys
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from tests._mapping import (
    HANG,
    Counted,
    Gate,
    asquare,
    at_rest,
    fails_at,
    gates,
    square,
    tmap,
    until,
)

import gorun
from gorun._map.carrier import Job
from gorun._map.threads import ThreadCarrier

gate = pytest.fixture(gates, name="gate")

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


def test_behind_a_long_item_all_of_a_list_may_go_on(gate: Gate) -> None:
    # Mutation: the carrier is not told the length.
    ran = []

    def item(n: int) -> int:
        if n == 0:
            gate.wait()
        ran.append(n)
        if len(ran) == 2999:
            gate.open()
        return n

    assert list(tmap(item, list(range(3000)), workers=2)) == list(range(3000))


def test_the_run_ahead_makes_room_whenever_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation: it doubles itself, not what is out; then, once halved, nobody would be fed again.
    monkeypatch.setattr(ThreadCarrier, "_start", lambda self, number: None)
    job = Job(square, 1, 1, None, True, None, None, "raise", *[None] * 2, 0, None, (), None, None)
    carrier = ThreadCarrier(job, None)
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
