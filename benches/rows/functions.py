"""Row functions: plain functions started in bulk, results taken in order (go/blocking.go)."""

from __future__ import annotations

from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant


def one() -> int:
    return 1


def gorun_functions(n: int) -> Sample:
    import gorun

    start = perf_counter_ns()
    goroutines = [gorun.go(one) for _ in range(n)]
    count = sum([goroutine.result() for goroutine in goroutines])
    return Sample(perf_counter_ns() - start, count)


def pool_functions(n: int) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        start = perf_counter_ns()
        futures = [pool.submit(one) for _ in range(n)]
        count = sum([future.result() for future in futures])
        return Sample(perf_counter_ns() - start, count)


ROW = Row(
    "functions",
    "plain function: go(f) + result(), in bulk; ThreadPoolExecutor(2) submit + result",
    n=20_000,
    quick_n=5_000,
    variants=(
        gorun_variant(gorun_functions),
        go_variant("functions"),
        Variant("threadpool", pool_functions),
    ),
    goals=(Goal("gorun", "go"), Goal("threadpool", "gorun", at_least=4)),
)
