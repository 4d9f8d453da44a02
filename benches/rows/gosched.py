"""Row gosched: two goroutines that yield in turn (go/gosched.go)."""

from __future__ import annotations

from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant


def gorun_gosched(n: int) -> Sample:
    import gorun

    async def body() -> int:
        gosched_async = gorun.gosched_async
        count = 0
        for _ in range(n // 2):
            await gosched_async()
            count += 1
        return count

    async def main() -> tuple[int, int]:
        start = perf_counter_ns()
        both = gorun.go(body), gorun.go(body)
        count = 0
        for goroutine in both:
            count += await goroutine
        return perf_counter_ns() - start, count

    return Sample(*gorun.run(main))


def asyncio_sleep0(n: int) -> Sample:
    import asyncio

    async def body() -> int:
        count = 0
        for _ in range(n // 2):
            await asyncio.sleep(0)
            count += 1
        return count

    async def main() -> tuple[int, int]:
        start = perf_counter_ns()
        counts = await asyncio.gather(body(), body())
        return perf_counter_ns() - start, sum(counts)

    return Sample(*asyncio.run(main()))


ROW = Row(
    "gosched",
    "`await gosched_async()`, two goroutines; asyncio sleep(0), two tasks",
    n=600_000,
    quick_n=60_000,
    variants=(
        gorun_variant(gorun_gosched),
        go_variant("gosched"),
        Variant("asyncio", asyncio_sleep0),
    ),
    goals=(Goal("gorun", "go", at_most=0.7), Goal("asyncio", "gorun", at_least=15)),
)
