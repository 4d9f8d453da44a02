"""Rows spawn, spawn2: start goroutines that count a WaitGroup-like counter down (go/spawn.go)."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

from ._count import counted

if TYPE_CHECKING:
    from gorun._gorun import CountDown


async def body(left: CountDown) -> None:
    left.done()


def gorun_spawn(spawners: int) -> Callable[[int], Sample]:
    """The spawners are goroutines, as in Go; the first one also waits."""

    def run(n: int) -> Sample:
        import gorun
        from gorun._gorun import CountDown

        async def spawner(left: CountDown, share: int) -> None:
            go = gorun.go
            for _ in range(share):
                go(body, left)

        async def main() -> tuple[int, int]:
            left = CountDown(n)
            start = perf_counter_ns()
            if spawners == 1:
                go = gorun.go
                for _ in range(n):
                    go(body, left)
            else:
                for i in range(spawners):
                    gorun.go(spawner, left, n // spawners + (i < n % spawners))
            await left.wait_async()
            elapsed = perf_counter_ns() - start
            return elapsed, counted(left, n)

        return Sample(*gorun.run(main))

    return run


def asyncio_gather(n: int) -> Sample:
    import asyncio

    count = 0

    async def bump() -> None:
        nonlocal count
        count += 1

    async def main() -> int:
        start = perf_counter_ns()
        await asyncio.gather(*[asyncio.create_task(bump()) for _ in range(n)])
        return perf_counter_ns() - start

    return Sample(asyncio.run(main()), count)


def row(name: str, title: str, spawners: int, at_most: float) -> Row:
    return Row(
        name,
        title,
        n=300_000,
        quick_n=30_000,
        variants=(
            gorun_variant(gorun_spawn(spawners)),
            go_variant(name),
            Variant("asyncio", asyncio_gather),
        ),
        goals=(
            Goal("gorun", "go", at_most=at_most),
            Goal("asyncio", "gorun", at_least=25),
        ),
    )


ROWS = (
    row("spawn", "spawn, run, count down `async def`, one spawner; create_task + gather", 1, 0.6),
    row("spawn2", "the same with two spawners, half each", 2, 0.5),
)
