"""Rows scale-spawn, scale-gosched: throughput must not fall when P grows."""

from __future__ import annotations

import os
from collections.abc import Callable

from harness.model import Goal, Row, Sample, go_variant, gorun_variant

from .gosched import gorun_gosched
from .spawn import gorun_spawn

PROCS = (1, 2, 4)
KEPT = 0.9
"""Of the throughput at P = 1: "never below by more than 10 %"."""


def goal(procs: int) -> Goal:
    """P = 1's time over the other's is the other's throughput relative to P = 1's."""
    if procs > len(os.sched_getaffinity(0)):
        return Goal("gorun@1", f"gorun@{procs}", note="more Ps than cores")
    return Goal("gorun@1", f"gorun@{procs}", at_least=KEPT)


def row(name: str, title: str, run: Callable[[int], Sample], n: int) -> Row:
    return Row(
        f"scale-{name}",
        title,
        n=n,
        quick_n=n // 10,
        variants=(
            *(gorun_variant(run, procs=p, name=f"gorun@{p}") for p in PROCS),
            *(go_variant(name, procs=p, name=f"go@{p}") for p in PROCS),
        ),
        goals=(
            *(goal(p) for p in PROCS[1:]),
            *(Goal("go@1", f"go@{p}") for p in PROCS[1:]),
        ),
    )


ROWS = (
    row("spawn", "throughput of spawn at P = 1, 2, 4, one spawner", gorun_spawn(1), 300_000),
    row("gosched", "throughput of gosched at P = 1, 2, 4, two goroutines", gorun_gosched, 600_000),
)
