"""Row handoff: how late a ticker of 1 ms is beside 64 that block their threads (go/blocking.go).

Lateness is taken against the schedule: a stall of 50 ms makes each tick that it covers late, and
none is left out. The blockers are `async def` bodies that call time.sleep, which nothing
announces: only a runtime that takes the P away keeps the ticker going. Go blocks in nanosleep(2),
its own like of it; `go-parked` blocks in time.Sleep, which holds no thread.
"""

from __future__ import annotations

import time
from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

BLOCKERS = 64
BLOCK = 0.05
TICK = 0.001


def p99_ms(late: list[float], blocks: int) -> float:
    if blocks < BLOCKERS:
        raise RuntimeError(f"only {blocks} blocks of {BLOCKERS} blockers")
    return sorted(late)[(99 * len(late) + 99) // 100 - 1] * 1e3


def gorun_handoff(n: int) -> Sample:
    import gorun

    stop = False

    async def blocker() -> int:
        blocks = 0
        while not stop or not blocks:
            time.sleep(BLOCK)
            blocks += 1
            await gorun.gosched_async()
        return blocks

    async def ticker() -> list[float]:
        late: list[float] = []
        due = time.monotonic()
        for _ in range(n):
            due += TICK
            if (wait := due - time.monotonic()) > 0:
                await gorun.sleep_async(wait)
            late.append(time.monotonic() - due)
        return late

    async def main() -> Sample:
        nonlocal stop
        start = perf_counter_ns()
        blockers = [gorun.go(blocker) for _ in range(BLOCKERS)]
        late = await gorun.go(ticker)
        elapsed = perf_counter_ns() - start
        stop = True
        blocks = 0
        for goroutine in blockers:
            blocks += await goroutine
        return Sample(elapsed, len(late), p99_ms(late, blocks))

    sample: Sample = gorun.run(main)
    return sample


def asyncio_handoff(n: int) -> Sample:
    import asyncio

    stop = False

    async def blocker() -> int:
        blocks = 0
        while not stop or not blocks:
            await asyncio.to_thread(time.sleep, BLOCK)
            blocks += 1
        return blocks

    async def ticker() -> list[float]:
        late: list[float] = []
        due = time.monotonic()
        for _ in range(n):
            due += TICK
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            late.append(time.monotonic() - due)
        return late

    async def main() -> Sample:
        nonlocal stop
        start = perf_counter_ns()
        blockers = [asyncio.create_task(blocker()) for _ in range(BLOCKERS)]
        late = await asyncio.create_task(ticker())
        elapsed = perf_counter_ns() - start
        stop = True
        blocks = sum(await asyncio.gather(*blockers))
        return Sample(elapsed, len(late), p99_ms(late, blocks))

    return asyncio.run(main())


ROW = Row(
    "handoff",
    "p99 lateness of a 1 ms ticker beside 64 that block 50 ms in time.sleep; asyncio to_thread",
    n=1000,
    quick_n=200,
    unit="ms",
    variants=(
        gorun_variant(gorun_handoff),
        go_variant("handoff"),
        go_variant("handoff-parked", name="go-parked"),
        Variant("asyncio", asyncio_handoff),
    ),
    goals=(
        Goal("gorun", "go", "minus", at_most=2),
        Goal("gorun", "go-parked", "minus", at_most=2, note="stricter: Go holds no thread"),
        Goal("gorun", "asyncio", "minus"),
    ),
)
