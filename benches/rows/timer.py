"""Rows timer, timer-memory: timers with a callback that are stopped long before they are due (go/timer.go).

`timer`: each is stopped before the next one is started. `timer-memory`: a thousand at a time, and the
loop or scheduler gets a turn after each thousand, in which it may tidy up.
"""

from __future__ import annotations

from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

from ._work import resident

HOUR = 3600.0
AT_ONCE = 1000


def fired() -> None:
    raise AssertionError("a stopped timer fired")


def gorun_timer(n: int) -> Sample:
    import gorun

    timer = gorun.Timer

    async def main() -> tuple[int, int]:
        stopped = 0
        start = perf_counter_ns()
        for _ in range(n):
            if timer(HOUR, fired).stop():
                stopped += 1
        return perf_counter_ns() - start, stopped

    return Sample(*gorun.run(main))


def asyncio_call_later(n: int) -> Sample:
    import asyncio

    async def main() -> tuple[int, int]:
        call_later = asyncio.get_running_loop().call_later
        stopped = 0
        start = perf_counter_ns()
        for _ in range(n):
            handle = call_later(HOUR, fired)
            handle.cancel()
            stopped += handle.cancelled()
        await asyncio.sleep(0)  # the loop drops cancelled handles here: part of their price
        return perf_counter_ns() - start, stopped

    return Sample(*asyncio.run(main()))


def gorun_left(n: int) -> Sample:
    """Megabytes that n timers leave behind, beside those of a first two thousand."""
    import gorun

    def some() -> int:
        timers = [gorun.Timer(HOUR, fired) for _ in range(AT_ONCE)]
        return sum([timer.stop() for timer in timers])

    async def main() -> Sample:
        for _ in range(2):
            some()
            await gorun.gosched_async()
        start, before, stopped = perf_counter_ns(), resident(), 0
        while stopped < n:
            stopped += some()
            await gorun.gosched_async()
        return Sample(perf_counter_ns() - start, stopped, (resident() - before) / 1e6)

    sample: Sample = gorun.run(main)
    return sample


def asyncio_left(n: int) -> Sample:
    import asyncio

    async def main() -> Sample:
        call_later = asyncio.get_running_loop().call_later

        def some() -> int:
            handles = [call_later(HOUR, fired) for _ in range(AT_ONCE)]
            for handle in handles:
                handle.cancel()
            return sum([handle.cancelled() for handle in handles])

        for _ in range(2):
            some()
            await asyncio.sleep(0)
        start, before, stopped = perf_counter_ns(), resident(), 0
        while stopped < n:
            stopped += some()
            await asyncio.sleep(0)
        return Sample(perf_counter_ns() - start, stopped, (resident() - before) / 1e6)

    return asyncio.run(main())


ROW = Row(
    "timer",
    "timer start + stop; asyncio call_later + cancel",
    n=100_000,
    quick_n=10_000,
    variants=(
        gorun_variant(gorun_timer),
        go_variant("timer"),
        Variant("asyncio", asyncio_call_later),
    ),
    goals=(Goal("gorun", "go", at_most=1.0), Goal("asyncio", "gorun", at_least=6)),
)

LEFT = Row(
    "timer-memory",
    "memory that stays after a million timers were started and stopped, a thousand at a time",
    n=1_000_000,
    quick_n=20_000,
    unit="MB",
    fresh=True,
    variants=(gorun_variant(gorun_left), Variant("asyncio", asyncio_left)),
    goals=(Goal("gorun", how="alone", at_most=1.0), Goal("asyncio", how="alone")),
)
