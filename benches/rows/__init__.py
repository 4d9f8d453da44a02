"""The rows, in the order of the table. One file per row (or per pair that shares its bodies)."""

from __future__ import annotations

from harness.model import Row

from . import (
    channels,
    ctrlc,
    executors,
    functions,
    gosched,
    handoff,
    locks,
    mapjob,
    parked,
    parse,
    procmap,
    scaling,
    sleep,
    sleepers,
    spawn,
    threads,
    timer,
)

ROWS: tuple[Row, ...] = (
    *spawn.ROWS,
    gosched.ROW,
    sleep.ROW,
    timer.ROW,
    timer.LEFT,
    parked.MEMORY,
    functions.ROW,
    sleepers.ROW,
    handoff.ROW,
    parked.IDLE,
    *channels.ROWS,
    *locks.ROWS,
    *threads.ROWS,
    *ctrlc.ROWS,
    *scaling.ROWS,
    *executors.ROWS,
    mapjob.ROW,
    *parse.ROWS,
    *procmap.ROWS,
)


def find(name: str) -> Row:
    for row in ROWS:
        if row.name == name:
            return row
    raise SystemExit(f"no row {name!r}; there are {', '.join(row.name for row in ROWS)}")
