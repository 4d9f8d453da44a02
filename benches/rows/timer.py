"""Row timer: a timer with a callback, started and stopped before the next one (go/timer.go)."""

from __future__ import annotations

from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

HOUR = 3600.0


def fired() -> None:
    raise AssertionError("a stopped timer fired")


def gorun_timer(n: int) -> Sample:
    import gorun

    timer = gorun.Timer if hasattr(gorun, "Timer") else gorun._gorun.Timer

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
