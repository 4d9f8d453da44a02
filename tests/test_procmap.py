"""`gorun.map` on worker processes: results, order, state, and what travels how.

Failures and ends are in test_procmap_failures.py, the parts by themselves in test_proc.py.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import itertools
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import _child
from tests._mapping import Counted
from tests._procs import alive, note, until

import gorun
from gorun._gorun import _pull
from gorun._map import on_processes
from gorun._map.carrier import Job
from gorun._proc import codec, warm

HANG = 30.0
MANY = 500  # slow items: more than any limit here has time for

pmap = functools.partial(gorun.map, on="process")


def square(n: int) -> int:
    return n * n


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 17, 5000])
@pytest.mark.parametrize(
    "options", [{}, {"workers": 1}, {"workers": 3}, {"chunk": 3}, {"chunk": 4, "buffer": 5}]
)
@pytest.mark.no_matrix
def test_gives_what_the_builtin_gives(ordered: bool, n: int, options: dict[str, Any]) -> None:
    """Every result is given once, in order where that is wanted.

    Mutation: `_take_parts` passes on what has come, whatever its number.
    """
    found = list(pmap(square, range(n), ordered=ordered, **options))
    assert list(map(square, range(n))) == (found if ordered else sorted(found))


def test_many_items_of_uneven_length() -> None:
    """Batches grow, are split, given back and put together again; nothing is lost or doubled.

    Mutation: `take` drops what a block has beyond `most`.
    """

    def item(n: int) -> int:
        if n % 7919 == 0:
            time.sleep(0.02)
        return n

    assert list(pmap(item, range(60_000))) == list(range(60_000))


def test_several_iterables_and_a_keyword_of_each_kind() -> None:
    """With several iterables the function gets one item of each, to the end of the shortest.

    Mutation: the worker calls by `map` in place of `starmap`.
    """
    assert list(pmap(lambda a, b: a - b, [5, 6, 7], iter((1, 2)))) == [4, 4]


def test_the_default_asks_the_interpreter_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """on=None is processes where the interpreter has its lock on, threads where not.

    Mutation: `on_processes` asks once, at import.
    """

    def job(fn: Callable[..., Any], on: Any) -> Job:
        return Job(fn, 1, None, on, True, None, None, "raise", None, None, 0, None, (), None, None)

    async def coroutine(n: int) -> None:
        pass

    for locked in (True, False):
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: locked, raising=False)  # noqa: B023
        assert on_processes(job(square, None)) == locked
        assert on_processes(job(square, "process"))
        assert not on_processes(job(square, "thread"))
        assert not on_processes(job(coroutine, None))


@pytest.mark.no_matrix
def test_it_is_on_processes_where_the_interpreter_has_its_lock() -> None:
    """The default really goes there. Mutation: `_flow` ignores `on_processes`."""
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert (set(gorun.map(lambda _: os.getpid(), range(4))) != {os.getpid()}) == locked


@pytest.mark.no_matrix
def test_an_async_function_stays_here() -> None:
    """Goroutines are of this process. Mutation: `Job` lets on="process" pass."""

    async def item(n: int) -> int:
        return n

    with pytest.raises(ValueError, match="runs on goroutines, not on='process'"):
        pmap(item, [1])


# ---- laziness and the input ---------------------------------------------------------------------


def test_nothing_happens_before_the_first_next() -> None:
    """No item is pulled and no process started by the call. Mutation: the crew is hired at once."""
    source, before = Counted(), warm.pids()
    m = pmap(square, source)
    assert (source.pulled, warm.pids()) == (0, before)
    m.close()


@pytest.mark.parametrize("buffer", [1, 3, 100])
@pytest.mark.parametrize("ordered", [True, False])
def test_buffer_bounds_the_run_ahead(buffer: int, ordered: bool) -> None:
    """Mutation: `room` counts nothing of what is out."""
    source = Counted()
    with pmap(square, source, workers=2, buffer=buffer, ordered=ordered) as m:
        most = max(source.pulled - given for given, _ in zip(range(1, 300), m, strict=False))
    assert most <= buffer


def test_behind_a_long_item_all_of_a_list_may_go_on(tmp_path: Path) -> None:
    """Mutation: the carrier is not told the length."""
    gate = str(tmp_path / "gate")

    def item(n: int) -> int:
        if n == 0:
            end = time.monotonic() + HANG
            while not os.path.exists(gate):
                assert time.monotonic() < end
                time.sleep(0.01)
        if n == 2999:
            open(gate, "w").close()
        return n

    assert list(pmap(item, list(range(3000)), workers=2)) == list(range(3000))


def test_an_endless_input_is_run_ahead_of_by_a_bounded_number() -> None:
    """Behind a long item the others go on, but not for ever. Mutation: LONGEST_AHEAD is 10**6."""
    source = Counted()

    def item(n: int) -> int:
        time.sleep(0.4 if n == 3 else 0)
        return n

    with pmap(item, source, workers=2) as m:
        assert [next(m) for _ in range(5)] == list(range(5))
        assert source.pulled <= 5 + 2048


def test_only_the_thread_that_calls_next_advances_the_input() -> None:
    """Mutation: the crew's thread pulls."""
    source = Counted(3000)

    async def main() -> int:
        m = gorun.map_async(square, source, on="process")
        return sum([1 async for _ in m])

    assert asyncio.run(main()) == 3000
    assert source.by == {threading.get_ident()}


def test_the_inputs_error_comes_after_the_results() -> None:
    """What was pulled in the same slice as the error is not lost.

    Mutation: `_feed` pulls by `list(islice(...))`.
    """

    def source() -> Iterator[int]:
        yield from range(50)
        raise OSError("unreadable")

    m = pmap(square, source())
    assert list(itertools.islice(m, 50)) == [n * n for n in range(50)]
    with pytest.raises(OSError, match="unreadable"):
        next(m)
    assert list(m) == []


def test_what_is_ready_is_not_held_up_by_a_slow_input() -> None:
    """A result is given while there is room for more of a slow input.

    Mutation: `_feed` says never that the input is slow.
    """
    given: list[int] = []

    def source() -> Iterator[int]:
        for n in range(MANY):
            if given:
                return
            time.sleep(0.01)
            yield n

    for value in pmap(square, source(), buffer=2 * MANY, workers=2):
        given.append(value)
    assert given == [n * n for n in range(len(given))]
    assert len(given) < MANY, "the first result has waited for the whole input"


@pytest.mark.parametrize(("fast", "options"), [(0, {"buffer": 2 * MANY}), (5000, {"chunk": 500})])
def test_timeout_is_looked_at_while_the_input_is_slow(fast: int, options: dict[str, Any]) -> None:
    """However fast the input was before, and though there is room for more.

    Mutations: `_pull` does not look at the clock; `_feed` says never that the input is slow.
    """
    slow: list[int] = []

    def source() -> Iterator[int]:
        yield from range(fast)
        for n in range(MANY):
            time.sleep(0.01)
            slow.append(n)
            yield n

    with pytest.raises(TimeoutError, match="is not through"):
        for _ in pmap(square, source(), workers=2, timeout=0.3, **options):
            pass
    assert len(slow) < 60, "the time-out has waited for the input"  # 30 fit into it


def test_pull_stops_between_items() -> None:
    """`_pull` stops at the end, at so many items, when time is up, and at an error; it loses nothing.

    Mutation: the item at which the time was up is not appended.
    """

    def source() -> Iterator[int]:
        yield from range(2)
        time.sleep(0.1)
        yield 2
        raise OSError("unreadable")

    items: list[int] = []
    numbers = source()
    assert not _pull(numbers, items, 2, HANG)
    assert items == [0, 1]
    assert not _pull(numbers, items, 100, 0.02)
    assert items == [0, 1, 2]
    with pytest.raises(OSError, match="unreadable"):
        _pull(numbers, items, 100, HANG)
    assert items == [0, 1, 2]
    assert _pull(numbers, items, 100, HANG)
    assert not _pull(iter("ab"), [], 0, HANG)


# ---- what travels -------------------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int


class Doubler:
    def __init__(self, by: int) -> None:
        self.by = by

    def method(self, n: int) -> int:
        return self.by * n

    def __call__(self, n: int) -> int:
        return self.by * n


def test_any_function_travels() -> None:
    """Lambdas, closures, methods, partials, callable objects, built-ins, functions of this module.

    Mutation: `wire.dumps` never turns to cloudpickle.
    """
    factor = 3
    for fn in (
        lambda n: factor * n,
        Doubler(3),
        Doubler(3).method,
        functools.partial(int.__mul__, 3),
        (3).__mul__,
    ):
        assert list(pmap(fn, range(5))) == [0, 3, 6, 9, 12]


def test_classes_of_a_module_that_workers_do_not_have(tmp_path: Path) -> None:
    """Items, results and exceptions of such a class are the parent's own again.

    Mutation: `_out_of_reach` finds nothing.
    """
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "class Thing:\n"
        "    def __init__(self, n): self.n = n\n"
        "class Oops(Exception): pass\n"
        "def turn(thing):\n"
        "    if thing.n == 2: raise Oops(thing.n)\n"
        "    return Thing(-thing.n)\n"
    )
    module = type(sys)("elsewhere_of_this_test")
    module.__file__ = str(script)
    sys.modules[module.__name__] = module
    try:
        exec(script.read_text(), module.__dict__)
        things = [module.Thing(n) for n in range(4)]
        found = list(pmap(module.turn, things, errors="return"))
        assert [type(f) for f in found] == [module.Thing] * 2 + [module.Oops, module.Thing]
        assert [f.n for f in found if isinstance(f, module.Thing)] == [0, -1, -3]
    finally:
        del sys.modules[module.__name__]


@pytest.mark.no_matrix
def test_a_program_needs_no_guard(tmp_path: Path) -> None:
    """Functions, classes and exceptions of `__main__`; the program's body does not run again.

    Mutation: b"__main__" is not in `by_value`.
    """
    script = tmp_path / "program.py"
    script.write_text(
        "import gorun, sys\n"
        "print('once', flush=True)\n"
        "class P:\n"
        "    def __init__(self, n): self.n = n\n"
        "class Oops(Exception): pass\n"
        "def turn(p):\n"
        "    if p.n == 1: raise Oops('one')\n"
        "    return P(p.n + 1)\n"
        "found = list(gorun.map(turn, [P(n) for n in range(3)], on='process', errors='return'))\n"
        "print([f.n if type(f) is P else type(f) is Oops for f in found])\n"
    )
    assert _child.run_file(str(script)).out.splitlines() == ["once", "[1, True, 3]"]


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_items_and_results_of_any_size(size: int, kind: Any) -> None:
    """Mutations: a segment is used again before it is free; a body above INLINE is cut."""
    items = [kind([n]) * size for n in range(6)]
    assert list(pmap(lambda data: data[:-1], items)) == [data[:-1] for data in items]


class Blob:
    """Pickles its data out of band, as an array does."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Blob, (pickle.PickleBuffer(self.data),)


def test_large_buffers_travel_out_of_band_and_may_be_kept() -> None:
    """A worker that keeps what it got keeps it whole, however many come after it.

    Mutation: `done_with` says FREE though something lives in the segment.
    """
    kept: list[Blob] = []

    def keep(blob: Blob) -> tuple[bool, Blob]:
        kept.append(blob)
        good = all(bytes(b.data[:1]) * len(b.data) == bytes(b.data) for b in kept)
        return good, Blob(bytearray(b"r") * len(blob.data))

    blobs = (Blob(bytearray([n]) * 200_000) for n in range(100))
    for good, back in pmap(keep, blobs, workers=1):
        assert good
        assert bytes(back.data) == b"r" * 200_000


def test_many_small_buffers() -> None:
    """Mutation: OUT_OF_BAND is 0 and the head has room for 65535."""
    found = pmap(lambda blob: len(blob.data), [Blob(bytearray(n)) for n in range(300)], chunk=100)
    assert list(found) == list(range(300))


# ---- state --------------------------------------------------------------------------------------


def test_initializer_runs_once_in_each_worker() -> None:
    """Its state is there for the items, and for no other map.

    Mutation: workers with an initializer are kept for the next map.
    """

    def begin(label: str) -> None:
        sys.gorun_label = label  # type: ignore[attr-defined]

    found = pmap(lambda n: sys.gorun_label, range(50), initializer=begin, initargs=("here",))  # type: ignore[attr-defined]
    assert list(found) == ["here"] * 50
    assert not any(pmap(lambda n: hasattr(sys, "gorun_label"), range(20)))


@pytest.mark.parametrize("chunk", [None, 5])
def test_max_tasks_per_child_replaces_a_worker(chunk: int | None) -> None:
    """No process runs more than so many items. Mutation: `left` is never counted down."""
    found = list(pmap(lambda n: os.getpid(), range(8), max_tasks_per_child=3, chunk=chunk))
    assert max(collections.Counter(found).values()) <= 3


def test_workers_are_kept_for_the_next_map() -> None:
    """The second map has the first one's processes, and they see what has changed meanwhile.

    Mutation: `_is_warm` is False always; `tell` says nothing.
    """
    first: set[int] = set()
    for _ in range(20):  # the second worker may come when the first one has done all
        first.update(pmap(lambda n: (time.sleep(0.05), os.getpid())[1], range(4), workers=2))
        if len(first) >= 2:
            break
    assert len(first) == 2
    os.environ["GORUN_TEST_NEWS"] = "seen"
    try:
        second = list(
            pmap(
                lambda n: (time.sleep(0.05), os.getpid(), os.environ.get("GORUN_TEST_NEWS"))[1:],
                range(4),
                workers=2,
            )
        )
    finally:
        del os.environ["GORUN_TEST_NEWS"]
    assert {pid for pid, _ in second} <= first
    assert {news for _, news in second} == {"seen"}


def test_what_one_map_has_changed_is_not_the_nexts(tmp_path: Path) -> None:
    """The folder and the environment of a worker that is kept.

    Mutation: `take_job` without `go_home`.
    """

    def wander(n: int) -> int:
        os.chdir(tmp_path)
        os.environ["GORUN_TEST_LEFT"] = "behind"
        return os.getpid()

    def look(n: int) -> tuple[int, str, str | None]:
        return os.getpid(), os.getcwd(), os.environ.get("GORUN_TEST_LEFT")

    [pid] = pmap(wander, [0], workers=1)
    assert list(pmap(look, [0], workers=1)) == [(pid, os.getcwd(), None)]


@pytest.mark.parametrize("chunk", [1, 20, 200])
def test_an_item_that_forks(chunk: int, tmp_path: Path) -> None:
    """The fork has the item, and is no second worker: it answers nothing, takes nothing more, and ends.

    Mutations: `forked` does not close the socket; it does not clear the items, nor set their end.
    """

    def fork(n: int) -> int:
        if n == 5 and os.fork() == 0:
            note(tmp_path, "fork")
        with open(tmp_path / str(n), "a") as file:
            file.write("x")
        return n

    count = max(2 * chunk, 40)
    assert list(pmap(fork, range(count), workers=1, chunk=chunk)) == list(range(count))
    until(lambda: (tmp_path / "5").read_text() == "xx")
    until(lambda: not alive(int((tmp_path / "fork").read_text())))
    assert {(tmp_path / str(n)).read_text() for n in range(count) if n != 5} == {"x"}


def test_inside_a_worker() -> None:
    """SIGINT is ignored, standard input is empty, inner threads are limited, the name says gorun.

    Mutations: one for each.
    """

    def look(n: int) -> tuple[Any, ...]:
        import signal

        name = Path("/proc/self/comm").read_text().strip()
        limit = int(os.environ["OMP_NUM_THREADS"])
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN, sys.stdin.read(), limit, name

    for ignored, text, limit, name in pmap(look, range(2), workers=os.cpu_count()):
        assert (ignored, text, limit) == (True, "", 1)
        assert name.startswith("gorun.map")


@pytest.mark.no_matrix
def test_hash_seed_and_path_are_the_parents(tmp_path: Path) -> None:
    """Mutations: the worker starts with -I; `sys.path` is not handed over."""
    (tmp_path / "only_here.py").write_text("def f(n): return n, hash('seed')\n")
    out = _child.run(
        f"""
        sys.path.append({str(tmp_path)!r})
        import only_here
        print(list(gorun.map(only_here.f, [1], on="process")) == [only_here.f(1)])
        print("only_here" in gorun._proc.codec.Codec(only_here.f).by_value)
        """,
        PYTHONHASHSEED="7",
    ).out
    assert out.splitlines() == ["True", "False"]


@pytest.mark.no_matrix
def test_what_a_worker_prints_comes_before_its_result() -> None:
    """Standard output is the parent's, and flushed. Mutation: `flush_output` does nothing."""
    out = _child.run(
        """
        def item(n):
            sys.stdout.write(f"item {n}\\n")
            return n
        for n in gorun.map(item, range(3), on="process", workers=1):
            print(f"result {n}\\n", end="", flush=True)
        """,
        PYTHONUNBUFFERED="",  # else the two cut into each other's lines
    ).out
    lines = out.splitlines()
    assert sorted(lines) == [f"{what} {n}" for what in ("item", "result") for n in range(3)]
    for n in range(3):
        assert lines.index(f"item {n}") < lines.index(f"result {n}")


# ---- who waits ----------------------------------------------------------------------------------


def test_from_threads_goroutines_and_tasks() -> None:
    """A map on processes is advanced by a plain goroutine, an async one, and an asyncio task.

    Mutation: `wait_async` starts no thread: nobody serves the workers.
    """

    def plain() -> list[int]:
        return list(pmap(square, range(300)))

    async def task() -> list[int]:
        return [n async for n in gorun.map_async(square, range(300), on="process")]

    expected = [n * n for n in range(300)]
    assert plain() == expected
    assert gorun.go(plain).result(HANG) == expected
    assert gorun.go(task).result(HANG) == expected
    assert asyncio.run(task()) == expected


def test_maps_in_many_threads_at_once() -> None:
    """Mutation: `warm.start` gives one worker to two."""
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(list(pmap(square, range(200), workers=2))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[n * n for n in range(200)]] * 6


def test_a_map_inside_a_map() -> None:
    """Mutation: the inner workers are not told where gorun is."""

    def row(n: int) -> int:
        return sum(gorun.map(lambda i: i * i, range(n), on="process"))

    assert list(pmap(row, range(6), workers=2)) == [sum(i * i for i in range(n)) for n in range(6)]


def test_progress_counts_every_item_once() -> None:
    """Mutation: pieces of a block are counted as blocks."""
    counts: list[tuple[int, int | None]] = []
    list(pmap(square, range(2000), progress=lambda *told: counts.append(told)))
    assert counts[0] == (0, 2000)
    assert counts[-1] == (2000, 2000)
    done = [n for n, _ in counts]
    assert done == sorted(set(done))


def test_modules_behind_modules_that_workers_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a function's helpers need, and the class of an item that nothing else tells of.

    Mutations: `dumps_all` looks once; a batch that could not be unpickled is not looked at.
    """
    deep, near = type(sys)("gorun_test_deep"), type(sys)("gorun_test_near")
    for module in (deep, near):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("class Thing:\n    n = 3\ndef helper(n): return n + Thing.n", deep.__dict__)
    exec("from gorun_test_deep import helper\ndef far(n): return helper(n)", near.__dict__)
    far = near.far

    def item(n: int) -> int:
        return int(far(n))

    assert list(pmap(item, range(3))) == [3, 4, 5]
    assert list(pmap(getattr, [deep.Thing()] * 3, ["n"] * 3)) == [3, 3, 3]


def test_functions_are_looked_up_where_workers_would() -> None:
    """The standard library and gorun are within reach, this module is what it is.

    Mutation: `_in_reach` says True always.
    """
    assert codec.Codec(os.path.join).by_value == (b"__main__",)
    assert codec.Codec(gorun.sleep).by_value == (b"__main__",)


# ---- long batches -------------------------------------------------------------------------------


def picky(n: int) -> int:
    if n % 97 == 0:
        raise IndexError(n)
    if n % 101 == 0:
        raise StopIteration(n)
    return n


@pytest.mark.no_matrix
def test_errors_in_long_batches() -> None:
    """Are those of their items, whatever their types: no end of a batch.

    Mutations: `steps` says `ended` before its last items are run; no look for a StopIteration in `run`.
    """

    def told(chunk: int) -> list[tuple[type, str]]:
        found = pmap(picky, range(1, 1000), chunk=chunk, workers=2, errors="return")
        return [(type(value), str(value)) for value in found]

    assert told(400) == told(1)
    last: list[list[int]] = [[1], *([] for _ in range(300)), [2], []]
    found = list(pmap(list.pop, last, chunk=303, errors="return"))
    assert [type(value) for value in found] == [int, *[IndexError] * 300, int, IndexError]


def long_first(n: int) -> int:
    time.sleep(0.3 if n % 500 == 0 else 0)
    return n


@pytest.mark.no_matrix
def test_long_batches_are_given_back() -> None:
    """What is not begun goes to who is idle, and nothing is lost or run twice.

    Mutation: `give_back` keeps the items.
    """
    for _ in range(3):
        assert list(pmap(long_first, range(1000), chunk=500, workers=2)) == list(range(1000))
