"""The measuring: each round runs each variant of a row once, in rotating order."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from .machine import machine_cpu
from .model import Row, Sample, Variant
from .proc import NotAvailable, Worker, WorkerFailed
from .stats import Comparison, compare


@dataclass
class Track:
    """A variant's rounds within one row."""

    variant: Variant
    values: list[float] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    """Seconds that each sample took, with what it prepares and checks."""
    others: list[float] = field(default_factory=list)
    """CPU seconds that everything else on the machine used meanwhile, counted in ticks: a short
    sample alone says little (it may come out negative), their sum does."""
    bystanders: list[float] = field(default_factory=list)
    """CPU seconds that this row's other, waiting workers used meanwhile: ought to be 0."""
    about: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    available: bool = True

    def counters(self) -> dict[str, float]:
        """gorun's counters, the median over the rounds; `inexact` is the share of such rounds."""
        stats = [answer["stats"] for answer in self.answers if answer.get("stats")]
        counted = {name: median(s[name] for s in stats) for name in stats[0]} if stats else {}
        if stats:
            counted["inexact"] = sum(s["inexact"] for s in stats) / len(stats)
        return counted if any(counted.values()) else {}


@dataclass
class Result:
    """A row measured on one interpreter."""

    row: Row
    python: str
    tracks: dict[str, Track]
    comparisons: list[Comparison]
    seconds: float

    def cores(self, use: Literal["others", "bystanders"]) -> float:
        """Cores that others, or this row's waiting workers, kept busy during the samples."""
        elapsed = sum(sum(track.elapsed) for track in self.tracks.values())
        used = sum(sum(getattr(track, use)) for track in self.tracks.values())
        return max(0.0, used / elapsed) if elapsed else 0.0


def measure(row: Row, python: str, *, rounds: int, n: int, limit: float) -> Result:
    """Run a row: one warm-up round, which is dropped, then `rounds` that count."""
    started = time.monotonic()
    tracks = {variant.name: Track(variant) for variant in row.variants}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        if not row.fresh:
            for track in tracks.values():
                with failing(track):
                    worker = Worker(row, track.variant, python, limit=limit)
                    stack.callback(worker.close)
                    workers[track.variant.name] = worker
                    track.about = worker.about
        for number in range(rounds + 1):
            for track in rotated(list(tracks.values()), number):
                if track.failure:
                    continue
                with failing(track):
                    if row.fresh:
                        sample_fresh(row, track, python, n=n, limit=limit, keep=number > 0)
                    else:
                        sample(row, track, workers, n=n, keep=number > 0)
    comparisons = [compared(row, tracks, index) for index in range(len(row.goals))]
    return Result(row, python, tracks, comparisons, time.monotonic() - started)


def rotated(tracks: list[Track], number: int) -> list[Track]:
    start = number % len(tracks)
    return tracks[start:] + tracks[:start]


@contextlib.contextmanager
def failing(track: Track) -> Iterator[None]:
    """A variant that fails is out of the row; the others go on."""
    try:
        yield
    except NotAvailable as missing:
        track.failure, track.available = str(missing), False
    except WorkerFailed as failed:
        track.failure = str(failed)
        print(f"{track.variant.name}: {failed}", file=sys.stderr)


def sample_fresh(row: Row, track: Track, python: str, *, n: int, limit: float, keep: bool) -> None:
    worker = Worker(row, track.variant, python, limit=limit)
    try:
        track.about = worker.about
        sample(row, track, {track.variant.name: worker}, n=n, keep=keep)
    finally:
        worker.kill()


def sample(row: Row, track: Track, workers: dict[str, Worker], *, n: int, keep: bool) -> None:
    """One run of one variant while the row's other workers wait for their turn."""
    own = workers[track.variant.name]
    waiting = [w for name, w in workers.items() if name != track.variant.name]
    waiting = [w for w in waiting if w.alive()]
    clock, machine, mine = time.monotonic(), machine_cpu(), own.cpu()
    theirs = sum(worker.cpu() for worker in waiting)
    answer = own.run(n)
    elapsed = time.monotonic() - clock
    theirs = sum(worker.cpu() for worker in waiting) - theirs
    others = machine_cpu() - machine - (own.cpu() - mine) - theirs
    if answer["count"] != n:
        raise WorkerFailed(f"counted {answer['count']}, not {n}")
    if not keep:
        return
    track.answers.append(answer)
    track.values.append(row.value(Sample(answer["ns"], answer["count"], answer.get("value"))))
    track.elapsed.append(elapsed)
    track.others.append(others)
    track.bystanders.append(theirs)


def compared(row: Row, tracks: dict[str, Track], index: int) -> Comparison:
    goal = row.goals[index]
    sides = [tracks[name] for name in (goal.left, goal.right) if name]
    lost = [track for track in sides if track.failure]
    if lost:
        reasons = (track.failure.strip().splitlines()[-1] for track in lost)
        return Comparison(goal, "failed", why="; ".join(dict.fromkeys(reasons)))
    return compare(goal, sides[0].values, sides[-1].values)
