"""Rows memory, idle: what parked goroutines cost while nothing happens (go/parked.go).

Each sample has a process of its own, which the harness ends without waiting for the parked.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

if TYPE_CHECKING:
    from gorun._gorun import CountDown

FOR_EVER = 3600.0
LIMIT = 120.0
SETTLE = 0.2


def resident() -> int:
    """Resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def sleeper(left: CountDown) -> None:
    import gorun

    left.done()
    await gorun.sleep_async(FOR_EVER)


def gorun_park(n: int) -> int:
    """Start n sleepers; how many goroutines live when all of them are on their way to sleep."""
    import gorun
    from gorun._gorun import CountDown

    left = CountDown(n)

    async def spawner() -> None:
        for _ in range(n):
            gorun.go(sleeper, left)

    gorun.run(spawner)
    if not left.wait(LIMIT):
        raise RuntimeError("not every goroutine came to its sleep")
    time.sleep(SETTLE)
    living: int = gorun.num_goroutine()
    return living


def gorun_memory(n: int) -> Sample:
    start, before = perf_counter_ns(), resident()
    count = gorun_park(n)
    return Sample(perf_counter_ns() - start, count, (resident() - before) / n)


def asyncio_memory(n: int) -> Sample:
    import asyncio

    count = 0

    async def body() -> None:
        nonlocal count
        count += 1
        await asyncio.get_running_loop().create_future()

    async def main() -> Sample:
        start, before = perf_counter_ns(), resident()
        tasks = [asyncio.create_task(body()) for _ in range(n)]
        while count < n:
            await asyncio.sleep(0.001)
        await asyncio.sleep(SETTLE)
        grown = resident() - before
        if any(task.done() for task in tasks):
            raise RuntimeError("a task ended that should wait")
        for task in tasks:
            task.cancel()
        return Sample(perf_counter_ns() - start, count, grown / n)

    return asyncio.run(main())


def gorun_idle(n: int) -> Sample:
    """CPU of the process in percent of a core, over 5 s at the full n (less for fewer)."""
    began = perf_counter_ns()
    count = gorun_park(n)
    time.sleep(1)
    start, cpu = time.monotonic(), cpu_seconds()
    time.sleep(n * 50e-6)
    used, elapsed = cpu_seconds() - cpu, time.monotonic() - start
    return Sample(perf_counter_ns() - began, count, 100 * used / elapsed)


MEMORY = Row(
    "memory",
    "resident bytes per goroutine parked in a sleep; Go: on a channel; asyncio: task on a future",
    n=200_000,
    quick_n=50_000,
    unit="bytes",
    fresh=True,
    variants=(
        gorun_variant(gorun_memory),
        go_variant("memory"),
        Variant("asyncio", asyncio_memory),
    ),
    goals=(Goal("gorun", "go", at_most=0.25), Goal("gorun", "asyncio", at_most=0.4)),
)

IDLE = Row(
    "idle",
    "CPU of a process with parked goroutines and nothing to do",
    n=100_000,
    quick_n=20_000,
    unit="% of a core",
    fresh=True,
    variants=(gorun_variant(gorun_idle), go_variant("idle")),
    goals=(Goal("gorun", how="alone", at_most=0.5), Goal("go", how="alone")),
)
