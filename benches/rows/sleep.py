"""Row sleep: many goroutines sleep 1 ms each (go/timer.go)."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

from ._count import counted

if TYPE_CHECKING:
    from gorun._gorun import CountDown

SECONDS = 0.001


def gorun_sleep(n: int) -> Sample:
    import gorun
    from gorun._gorun import CountDown

    sleep_async = gorun.sleep_async

    async def body(left: CountDown) -> None:
        await sleep_async(SECONDS)
        left.done()

    async def main() -> tuple[int, int]:
        left = CountDown(n)
        start = perf_counter_ns()
        for _ in range(n):
            gorun.go(body, left)
        await left.wait_async()
        return perf_counter_ns() - start, counted(left, n)

    return Sample(*gorun.run(main))


def asyncio_sleep(n: int) -> Sample:
    import asyncio

    count = 0

    async def body() -> None:
        nonlocal count
        await asyncio.sleep(SECONDS)
        count += 1

    async def main() -> int:
        start = perf_counter_ns()
        await asyncio.gather(*[asyncio.create_task(body()) for _ in range(n)])
        return perf_counter_ns() - start

    return Sample(asyncio.run(main()), count)


ROW = Row(
    "sleep",
    "sleep of 1 ms, all at once",
    n=100_000,
    quick_n=10_000,
    variants=(
        gorun_variant(gorun_sleep),
        go_variant("sleep"),
        Variant("asyncio", asyncio_sleep),
    ),
    goals=(Goal("gorun", "go", at_most=1.5), Goal("asyncio", "gorun", at_least=6)),
)
