"""Rows of the map on worker processes: tiny items, skewed ones, arrays, start, progress, memory.

All rivals have two workers, and their pools run before a sample's time begins, but in row start.
What takes 50 us or more for an item would take minutes for what the others are given, so
`ProcessPoolExecutor.map` and loky at their default chunk size do the first 20 000 items; all are told
per item. joblib, loky and mpire are in requirements/bench.txt; where one is missing its variant is
"not available".
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from harness.model import Goal, Row, Sample, Variant, gorun_variant

from ._work import resident, spin, tiny, total

if TYPE_CHECKING:
    from gorun._map.front import Map

WORKERS = 2
FEW = 20_000  # items for who needs some 50 us for each


@cache
def executor() -> Any:
    """A ProcessPoolExecutor whose workers run; it lives as long as the variant's process."""
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(WORKERS)
    list(pool.map(spin, [0.1] * WORKERS))
    return pool


@cache
def pool() -> Any:
    pool = multiprocessing.Pool(WORKERS)
    pool.map(spin, [0.1] * WORKERS, chunksize=1)
    return pool


def joblib_map(fn: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> Iterable[Any]:
    """joblib's own backend, whose workers stay between two calls."""
    from joblib import Parallel, delayed

    results: Iterable[Any] = Parallel(WORKERS, **options)(delayed(fn)(item) for item in items)
    return results


@cache
def loky() -> Any:
    from loky import get_reusable_executor

    executor = get_reusable_executor(WORKERS, timeout=600)
    list(executor.map(spin, [0.1] * WORKERS))
    return executor


@cache
def mpire() -> Any:
    from mpire import WorkerPool

    pool = WorkerPool(WORKERS, keep_alive=True)
    pool.map(spin, [0.1] * WORKERS)
    return pool


def ready(start: Callable[[], Any], run: Callable[[int], Sample]) -> Callable[[int], Sample]:
    """A row function whose rival is started before its time begins."""

    def sample(n: int) -> Sample:
        start()
        return run(n)

    return sample


def gorun_map(fn: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> Map[Any]:
    import gorun

    return gorun.map(fn, items, workers=WORKERS, on="process", **options)


def timed(run: Callable[[], Iterable[Any]], expected: float, n: int, items: int) -> Sample:
    start = perf_counter_ns()
    found = sum(run())
    elapsed = perf_counter_ns() - start
    if found != expected:
        raise RuntimeError(f"the results add up to {found}, not {expected}")
    return Sample(elapsed, n, elapsed / items)


# ---- tiny items ---------------------------------------------------------------------------------


def tiny_items(run: Callable[[Iterable[int]], Iterable[int]], most: int = 1 << 40) -> Any:
    def sample(n: int) -> Sample:
        items = min(n, most)
        return timed(lambda: run(range(items)), items * (items - 1) // 2, n, items)

    return sample


TINY = Row(
    "procmap",
    "map(tiny, range(n)) on two processes, default settings, per item",
    n=1_000_000,
    quick_n=50_000,
    variants=(
        gorun_variant(tiny_items(lambda items: gorun_map(tiny, items))),
        Variant("PPE", tiny_items(lambda items: executor().map(tiny, items), FEW)),
        Variant("PPE chunk 100", tiny_items(lambda i: executor().map(tiny, i, chunksize=100))),
        Variant("Pool.map", tiny_items(lambda items: pool().map(tiny, items))),
        Variant(
            "joblib",
            ready(
                lambda: joblib_map(spin, [0.1] * WORKERS),
                tiny_items(lambda items: joblib_map(tiny, items), 10 * FEW),
            ),
        ),
        Variant("loky", ready(loky, tiny_items(lambda items: loky().map(tiny, items), FEW))),
        Variant("mpire", ready(mpire, tiny_items(lambda items: mpire().map(tiny, items)))),
    ),
    goals=(
        Goal("gorun", how="alone", at_most=200),
        Goal("PPE", "gorun", at_least=100),
        Goal("PPE chunk 100", "gorun", at_least=5),
        Goal("Pool.map", "gorun", at_least=1),
        Goal("joblib", "gorun", at_least=1),
        Goal("loky", "gorun", at_least=1),
        Goal("mpire", "gorun", at_least=1),
    ),
)


# ---- skewed items -------------------------------------------------------------------------------

LONG = 100  # times a short one


def listed(times: list[float]) -> float:
    """Seconds that list scheduling of this order takes."""
    free = [0.0] * WORKERS
    for seconds in times:
        free[free.index(min(free))] += seconds
    return max(free)


def skewed(run: Callable[[list[float]], Iterable[float]], place: int) -> Callable[[int], Sample]:
    """n microseconds a short item; the value is the time over that of list scheduling."""

    def sample(n: int) -> Sample:
        times = [n / 1e6] * 100
        times[place] *= LONG
        start = perf_counter_ns()
        done = sum(1 for _ in run(times))
        elapsed = perf_counter_ns() - start
        if done != len(times):
            raise RuntimeError(f"{done} results, not {len(times)}")
        return Sample(elapsed, n, elapsed / 1e9 / listed(times))

    return sample


def skew_row(name: str, place: int) -> Row:
    return Row(
        f"skew-{name}",
        f"100 items, the {name} takes 100 times as long: time over list scheduling",
        n=3000,
        quick_n=1000,
        unit="x",
        variants=(
            gorun_variant(skewed(lambda times: gorun_map(spin, times), place)),
            Variant("PPE", skewed(lambda times: executor().map(spin, times), place)),
            Variant("Pool.map", skewed(lambda times: pool().map(spin, times), place)),
            Variant(
                "joblib",
                ready(
                    lambda: joblib_map(spin, [0.1] * WORKERS),
                    skewed(lambda times: joblib_map(spin, times), place),
                ),
            ),
            Variant("loky", ready(loky, skewed(lambda times: loky().map(spin, times), place))),
            Variant("mpire", ready(mpire, skewed(lambda times: mpire().map(spin, times), place))),
        ),
        goals=(
            Goal("gorun", how="alone", at_most=1.15),
            Goal("PPE", how="alone"),
            Goal("Pool.map", how="alone"),
            Goal("joblib", how="alone"),
            Goal("loky", how="alone"),
            Goal("mpire", how="alone"),
        ),
    )


# ---- arrays -------------------------------------------------------------------------------------


def blocks(n: int) -> Iterator[Any]:
    """n blocks of 1 MB, each made when it is wanted."""
    import numpy as np

    block = np.ones(1 << 17)
    for _ in range(n):
        yield block.copy()


def arrays(run: Callable[[Iterator[Any]], Iterable[float]]) -> Callable[[int], Sample]:
    def sample(n: int) -> Sample:
        return timed(lambda: run(blocks(n)), n * (1 << 17), n, n * 1000)

    return sample


ARRAYS = Row(
    "arrays",
    "sum of each of n blocks of numpy, 1 MB each, per block",
    n=1000,
    quick_n=50,
    unit="us",
    variants=(
        gorun_variant(arrays(lambda items: gorun_map(total, items))),
        Variant("PPE", arrays(lambda items: executor().map(total, items))),
        Variant(
            "joblib",
            ready(
                lambda: joblib_map(spin, [0.1] * WORKERS),
                # Its threshold is 1 MB, and a block is no more than that.
                arrays(lambda items: joblib_map(total, items, max_nbytes="100K")),
            ),
        ),
        Variant("loop", arrays(lambda items: map(total, items))),
    ),
    goals=(
        Goal("PPE", "gorun", at_least=5),
        Goal("joblib", "gorun", at_least=1, note="memory-mapped"),
        Goal("loop", "gorun"),
    ),
)


# ---- the start ----------------------------------------------------------------------------------


def first(open_pool: Callable[[], AbstractContextManager[Any]], again: bool) -> Any:
    """Milliseconds to the first result, of a first pool or a second one."""

    def sample(n: int) -> Sample:
        elapsed = 0
        for _ in range(1 + again):
            start = perf_counter_ns()
            with open_pool() as results:
                if next(iter(results)) != 7:
                    raise RuntimeError("not the first result")
                elapsed = perf_counter_ns() - start
        return Sample(elapsed, n, elapsed / 1e6)

    return sample


class Mapped:
    """A ProcessPoolExecutor and the results of a map on it."""

    def __init__(self, method: str) -> None:
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(method)
        self.pool = ProcessPoolExecutor(WORKERS, mp_context=context)

    def __enter__(self) -> Any:
        return self.pool.map(tiny, [7])

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown()


def ours() -> AbstractContextManager[Any]:
    return gorun_map(tiny, [7])


START = Row(
    "start",
    "start to the first result of a map on two processes: the first one, and the next",
    n=1,
    quick_n=1,
    unit="ms",
    fresh=True,
    variants=(
        gorun_variant(first(ours, again=False)),
        gorun_variant(first(ours, again=True), name="gorun, next"),
        Variant("forkserver", first(partial(Mapped, "forkserver"), again=False)),
        Variant("forkserver, next", first(partial(Mapped, "forkserver"), again=True)),
        Variant("spawn", first(partial(Mapped, "spawn"), again=False)),
        Variant("spawn, next", first(partial(Mapped, "spawn"), again=True)),
        Variant("fork", first(partial(Mapped, "fork"), again=False)),
    ),
    goals=(
        Goal("forkserver", "gorun", at_least=1),
        Goal("spawn", "gorun", at_least=1),
        Goal("forkserver, next", "gorun, next", at_least=1),
        Goal("spawn, next", "gorun, next", at_least=1),
        Goal("fork", "gorun", note="unsafe beside threads"),
        Goal("fork", "gorun, next", note="unsafe beside threads"),
    ),
)


# ---- progress, memory ---------------------------------------------------------------------------


def shown(**options: Any) -> Callable[[int], Sample]:
    def sample(n: int) -> Sample:
        times = [2e-5] * n
        return timed(lambda: gorun_map(spin, times, **options), sum(times), n, n)

    return sample


PROGRESS = Row(
    "progress",
    "a map of items of 20 us with its progress bar, beside none",
    n=20_000,
    quick_n=1000,
    variants=(
        gorun_variant(shown(progress="items"), name="with"),
        gorun_variant(shown(), name="without"),
    ),
    goals=(Goal("with", "without", at_most=1.01),),
)


def growth(n: int) -> Sample:
    """Megabytes that this process grew by in the last nine tenths of an endless input."""
    from itertools import count

    start = perf_counter_ns()
    before = 0
    with gorun_map(tiny, (bytes(1000) for _ in count())) as results:
        for number, _ in enumerate(results, 1):
            if number == n // 10:
                before = resident()
            if number == n:
                break
        after = resident()
    return Sample(perf_counter_ns() - start, n, (after - before) / 1e6)


ENDLESS = Row(
    "endless",
    "memory that the parent grows by over an endless input, after its first tenth",
    n=500_000,
    quick_n=20_000,
    unit="MB",
    fresh=True,
    variants=(gorun_variant(growth),),
    goals=(Goal("gorun", how="alone", at_most=8),),
)

ROWS = (
    TINY,
    *(skew_row(name, place) for name, place in (("first", 0), ("middle", 50), ("last", 99))),
    ARRAYS,
    START,
    PROGRESS,
    ENDLESS,
)
