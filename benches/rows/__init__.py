"""The rows, in the order of the table. One file per row (or per pair that shares its bodies)."""

from __future__ import annotations

from harness.model import Row

from . import (
    ctrlc,
    executors,
    functions,
    gosched,
    handoff,
    mapjob,
    parked,
    parse,
    procmap,
    scaling,
    sleep,
    sleepers,
    spawn,
    timer,
)

ROWS: tuple[Row, ...] = (
    *spawn.ROWS,
    gosched.ROW,
    sleep.ROW,
    timer.ROW,
    parked.MEMORY,
    functions.ROW,
    sleepers.ROW,
    handoff.ROW,
    parked.IDLE,
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
