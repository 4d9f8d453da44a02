"""Rows of `gorun.Executor` beside concurrent.futures: bulk and round trip, on threads and processes.

Workers are up before the clock starts, in each variant. "bulk" is from the first `submit` to the last
result; "submit" is the caller's part alone: to the end of the last `submit`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from time import perf_counter_ns
from typing import Any

from harness.model import Goal, Row, Sample, Variant, gorun_variant

Make = Callable[[], Executor]


def one() -> int:
    return 1


def gorun_executor(on: Any) -> Make:
    def make() -> Executor:
        import gorun

        return gorun.Executor(2, on=on)

    return make


def threads() -> Executor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(2)


def processes() -> Executor:
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(2)


def warm(executor: Executor) -> None:
    for call in [executor.submit(one) for _ in range(50)]:
        call.result()


def bulk(make: Make, whole: bool) -> Callable[[int], Sample]:
    def run(n: int) -> Sample:
        with make() as executor:
            warm(executor)
            submit = executor.submit
            start = perf_counter_ns()
            calls: list[Future[int]] = [submit(one) for _ in range(n)]
            elapsed = perf_counter_ns() - start
            count = sum([call.result() for call in calls])
            return Sample(perf_counter_ns() - start if whole else elapsed, count)

    return run


def round_trip(make: Make) -> Callable[[int], Sample]:
    def run(n: int) -> Sample:
        count = 0
        with make() as executor:
            warm(executor)
            start = perf_counter_ns()
            for _ in range(n):
                count += executor.submit(one).result()
            return Sample(perf_counter_ns() - start, count)

    return run


def row(
    name: str,
    title: str,
    n: int,
    on: str,
    rival: Make,
    run: Callable[[Make], Any],
    goal: float | None,
) -> Row:
    other = "threadpool" if on == "thread" else "processpool"
    return Row(
        name,
        title,
        n=n,
        quick_n=n // 10,
        variants=(gorun_variant(run(gorun_executor(on))), Variant(other, run(rival))),
        goals=(Goal(other, "gorun", at_least=goal),),
    )


ROWS = (
    row(
        "executor-submit",
        'Executor(2, on="thread").submit in bulk; ThreadPoolExecutor(2)',
        20_000, "thread", threads, lambda make: bulk(make, whole=False), 2.0,
    ),
    row(
        "executor-bulk",
        'Executor(2, on="thread").submit in bulk, all results; ThreadPoolExecutor(2)',
        20_000, "thread", threads, lambda make: bulk(make, whole=True), None,
    ),
    row(
        "executor-trip",
        'Executor(2, on="thread").submit().result(); ThreadPoolExecutor(2)',
        2_000, "thread", threads, round_trip, None,
    ),
    row(
        "procexec-bulk",
        'Executor(2, on="process").submit in bulk, all results; ProcessPoolExecutor(2)',
        10_000, "process", processes, lambda make: bulk(make, whole=True), 5.0,
    ),
    row(
        "procexec-trip",
        'Executor(2, on="process").submit().result(); ProcessPoolExecutor(2)',
        2_000, "process", processes, round_trip, 3.0,
    ),
)  # fmt: skip
