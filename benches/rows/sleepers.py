"""Row sleepers: plain functions that block their thread for 50 ms, all at once (go/blocking.go)."""

from __future__ import annotations

import time
from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

SECONDS = 0.05


def block() -> int:
    time.sleep(SECONDS)
    return 1


def gorun_sleepers(n: int) -> Sample:
    import gorun

    start = perf_counter_ns()
    goroutines = [gorun.go(block) for _ in range(n)]
    count = sum([goroutine.result() for goroutine in goroutines])
    elapsed = perf_counter_ns() - start
    return Sample(elapsed, count, elapsed / 1e6)


def thread_sleepers(n: int) -> Sample:
    from threading import Thread

    counts: list[int] = []  # append is atomic with and without a GIL
    start = perf_counter_ns()
    threads = [Thread(target=lambda: counts.append(block())) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = perf_counter_ns() - start
    return Sample(elapsed, sum(counts), elapsed / 1e6)


ROW = Row(
    "sleepers",
    "plain functions that sleep 50 ms, all at once; a Thread each; Go: in a blocking system call",
    n=1000,
    quick_n=200,
    unit="ms",
    variants=(
        gorun_variant(gorun_sleepers),
        go_variant("sleepers"),
        Variant("threads", thread_sleepers),
    ),
    goals=(Goal("gorun", "go"), Goal("threads", "gorun", at_least=1)),
)
