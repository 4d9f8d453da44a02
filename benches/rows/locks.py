"""Rows mutex, mutex-held, mutex-thread, context: locks and contexts (go/locks.go).

Eight goroutines or tasks on one lock. In `mutex` the locked part only counts: with one thread of
Python at a time nobody is interrupted in it, so the lock is free for whoever comes, here and in
asyncio. In `mutex-held` the owner yields once while it holds the lock, so the other seven wait, and
each release wakes one.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

from .channels import share

WORKERS = 8


class Counter:
    """What the lock guards: an increment that two at a time would lose."""

    def __init__(self) -> None:
        self.n = 0


def gorun_mutex(held: bool) -> Callable[[int], Sample]:
    def run(n: int) -> Sample:
        import gorun

        mu = gorun.Mutex()
        counter = Counter()

        async def body(n: int) -> None:
            for _ in range(n):
                async with mu:
                    counter.n += 1

        async def holder(n: int) -> None:
            gosched_async = gorun.gosched_async
            for _ in range(n):
                async with mu:
                    count = counter.n
                    await gosched_async()
                    counter.n = count + 1

        async def main() -> tuple[int, int]:
            start = perf_counter_ns()
            what = holder if held else body
            for goroutine in [gorun.go(what, share(n, WORKERS, i)) for i in range(WORKERS)]:
                await goroutine
            return perf_counter_ns() - start, counter.n

        return Sample(*gorun.run(main))

    return run


def asyncio_lock(held: bool) -> Callable[[int], Sample]:
    def run(n: int) -> Sample:
        import asyncio

        lock = asyncio.Lock()
        counter = Counter()

        async def body(n: int) -> None:
            for _ in range(n):
                async with lock:
                    counter.n += 1

        async def holder(n: int) -> None:
            sleep = asyncio.sleep
            for _ in range(n):
                async with lock:
                    count = counter.n
                    await sleep(0)
                    counter.n = count + 1

        async def main() -> tuple[int, int]:
            start = perf_counter_ns()
            what = holder if held else body
            await asyncio.gather(*[what(share(n, WORKERS, i)) for i in range(WORKERS)])
            return perf_counter_ns() - start, counter.n

        return Sample(*asyncio.run(main()))

    return run


def gorun_mutex_thread(n: int) -> Sample:
    import gorun

    mu = gorun.Mutex()
    count = 0
    start = perf_counter_ns()
    for _ in range(n):
        with mu:
            count += 1
    return Sample(perf_counter_ns() - start, count)


def threading_lock(n: int) -> Sample:
    import threading

    mu = threading.Lock()
    count = 0
    start = perf_counter_ns()
    for _ in range(n):
        with mu:
            count += 1
    return Sample(perf_counter_ns() - start, count)


def gorun_context(n: int) -> Sample:
    import gorun

    async def main() -> tuple[int, int]:
        background = gorun.background()
        count = 0
        start = perf_counter_ns()
        for _ in range(n):
            background.with_cancel().cancel()
            count += 1
        return perf_counter_ns() - start, count

    return Sample(*gorun.run(main))


ROWS = (
    Row(
        "mutex",
        "`async with mu: count`, 8 goroutines; asyncio.Lock, 8 tasks",
        n=2_000_000,
        quick_n=20_000,
        variants=(
            gorun_variant(gorun_mutex(held=False)),
            go_variant("mutex"),
            Variant("asyncio", asyncio_lock(held=False)),
        ),
        goals=(Goal("gorun", "go", at_most=4), Goal("asyncio", "gorun")),
    ),
    Row(
        "mutex-held",
        "the same with a yield inside, so that seven wait",
        n=200_000,
        quick_n=10_000,
        variants=(
            gorun_variant(gorun_mutex(held=True)),
            go_variant("mutex-held"),
            Variant("asyncio", asyncio_lock(held=True)),
        ),
        goals=(Goal("gorun", "go"), Goal("asyncio", "gorun", at_least=8)),
    ),
    Row(
        "mutex-thread",
        "`with mu: count` by one thread, nobody else; threading.Lock",
        n=1_000_000,
        quick_n=20_000,
        variants=(
            gorun_variant(gorun_mutex_thread),
            go_variant("mutex-thread"),
            Variant("threading", threading_lock),
        ),
        goals=(Goal("gorun", "go"), Goal("gorun", "threading", at_most=2)),
    ),
    Row(
        "context",
        "`background().with_cancel().cancel()`; Go: context.WithCancel and cancel",
        n=300_000,
        quick_n=10_000,
        variants=(gorun_variant(gorun_context), go_variant("context")),
        goals=(Goal("gorun", "go", at_most=3),),
    ),
)
