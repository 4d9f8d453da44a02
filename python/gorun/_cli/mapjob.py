"""`python -m gorun map`: works on real files by `gorun.map`, and against its rivals.

The same function for every file (jobs.py) goes through `gorun.map`, a plain loop, ThreadPoolExecutor and
ProcessPoolExecutor, and all four have to agree.

What keeps the comparison fair
- The files are read once before anything is timed, so all four find them in the page cache.
- The rounds go through the four in turn, each beginning with another; the best round counts.
- All have the same number of workers. Both pools are running before their time begins, while
  `gorun.map` starts its goroutines within it, and in the first round its processes.
- The sleeping goroutines are there during all four; but processes of a pool have their own memory.
- The progress bar is drawn for `gorun.map` alone, at its cost.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gorun
from gorun._cli.jobs import JOBS, Job, read
from gorun._gil import gil_enabled

SLEEPERS = 200_000
ROUNDS = 3
OURS = "gorun.map"
# Chunks of files for each process: more even out the end, fewer save messages.
CHUNKS_EACH = 16
SHOWN = 10  # files that were left out
SKIPPED = {"site-packages", "dist-packages", "__pycache__"}


def find(paths: list[str], suffix: str = "") -> list[str]:
    """All files under `paths`, sorted; those of the standard library if there are none.

    What is no folder is taken for a file, so that a misspelt one is reported as unreadable.
    """
    found: set[str] = set()
    for path in paths or [sysconfig.get_path("stdlib")]:
        if not os.path.isdir(path):
            found.add(path)
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = [name for name in folders if name not in SKIPPED]
            found.update(os.path.join(folder, name) for name in files if name.endswith(suffix))
    return sorted(found)


# ---- the four -----------------------------------------------------------------------------------


@dataclass
class Variant:
    """One way of doing the job, and the seconds that its rounds took."""

    name: str
    told: str
    run: Callable[[list[str], str], list[Any]]  # (files, label of the round)
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Seconds of the fastest round."""
        return min(self.seconds)


@contextmanager
def variants(job: Job, workers: int, files: int) -> Iterator[list[Variant]]:
    """The four, with their pools running."""
    chunk = max(1, files // (workers * CHUNKS_EACH))
    work = job.run
    ours = "goroutines" if job.on == "thread" or not gil_enabled() else "processes"
    # Not by fork, which is unsafe beside threads, and gorun has some.
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        processes = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
        for pool in (threads, processes):
            _start(pool, workers)
        yield [
            Variant(
                OURS,
                f"{workers} {ours}, with the progress bar",
                lambda paths, label: list(
                    gorun.map(work, paths, workers=workers, on=job.on, progress=progress(label))
                ),
            ),
            Variant("plain loop", "one thread", lambda paths, _: [work(p) for p in paths]),
            Variant(
                "ThreadPoolExecutor",
                f"{workers} threads (a chunk size means nothing to it)",
                lambda paths, _: list(threads.map(work, paths)),
            ),
            Variant(
                "ProcessPoolExecutor",
                f"{workers} processes, spawned before; chunksize {chunk}",
                lambda paths, _: list(processes.map(work, paths, chunksize=chunk)),
            ),
        ]


def _start(pool: Executor, workers: int) -> None:
    """Has all workers of a pool run: each is kept busy until the last has begun."""
    done, _ = wait([pool.submit(time.sleep, 0.2) for _ in range(workers)])
    for future in done:
        future.result()


def progress(label: str) -> str | Callable[[int, int | None], None]:
    """What `gorun.map` is to draw with: tqdm, or a line of our own where it is missing."""
    if importlib.util.find_spec("tqdm") is not None:
        return label
    shown = [-1]

    def show(done: int, total: int | None) -> None:
        percent = 100 * done // total if total else 100
        if percent != shown[0]:
            shown[0] = percent
            end = "\n" if done == total else ""
            print(f"\r{label}: {done} of {total} ({percent} %)", end=end, file=sys.stderr)

    return show


# ---- the sleepers -------------------------------------------------------------------------------


@dataclass
class Sleepers:
    """Goroutines that sleep beside the job."""

    count: int
    seconds: float = 0.0  # to start them all
    bytes: int = 0  # what the process grew by
    alive: int = 0  # still asleep when the job was done


async def _sleep(seconds: float) -> None:
    await gorun.sleep_async(seconds)


@contextmanager
def sleeping(count: int) -> Iterator[Sleepers]:
    """Has `count` goroutines asleep while the block runs."""
    found = Sleepers(count)
    before, began = _memory(), time.perf_counter()
    crowd = gorun.go_many(_sleep, itertools.repeat(24 * 3600.0, count)) if count else []
    while gorun.stats().waiting < count:  # until the last has begun and parked
        gorun.sleep(0.005)
    found.seconds, found.bytes = time.perf_counter() - began, _memory() - before
    try:
        yield found
    finally:
        found.alive = sum(not sleeper.done() for sleeper in crowd)
        for sleeper in crowd:
            sleeper.cancel()
        gorun.wait(crowd)


def _memory() -> int:
    """Bytes of memory that this process has resident; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


# ---- the job ------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of a run."""

    job: str
    workers: int
    files: int
    bytes: int
    unreadable: list[Any]
    sleepers: Sleepers
    variants: list[Variant]
    disagree: list[str]  # names of those that found something else than the plain loop

    @property
    def ours(self) -> float:
        """Seconds of the best round of `gorun.map`."""
        return next(v.best for v in self.variants if v.name == OURS)

    def text(self) -> str:
        """The report for people."""
        gil = "" if gil_enabled() else ", free-threaded"
        crowd, mb = self.sleepers, 1e6
        rows = [
            f"gorun {gorun.__version__}, {platform.python_implementation()} "
            f"{platform.python_version()}{gil}, {self.workers} workers",
            f"{self.job}: {self.files:,} files, {self.bytes / mb:.1f} MB, each {JOBS[self.job].told}",
        ]
        if crowd.count:
            rows.append(
                f"{crowd.alive:,} goroutines asleep beside all four, started in "
                f"{crowd.seconds:.2f} s: {crowd.bytes / mb:.1f} MB, "
                f"{crowd.bytes / crowd.count:.0f} bytes each"
            )
        rows += ["", f"{'':<20}{'best s':>8}{'MB/s':>8}{'time':>9}   rounds"]
        for v in self.variants:
            rounds = " ".join(f"{s:.3f}" for s in v.seconds)
            speed = self.bytes / mb / v.best
            rows.append(
                f"{v.name:<20}{v.best:>8.3f}{speed:>8.1f}{v.best / self.ours:>7.2f} x   "
                f"{rounds}   {v.told}"
            )
        rows += ["", f"(time: relative to {OURS}; above 1 is slower)"]
        rows += [f"left out: {d.path}: {d.error}" for d in self.unreadable[:SHOWN]]
        if len(self.unreadable) > SHOWN:
            rows.append(f"left out: {len(self.unreadable) - SHOWN} more (--json has them)")
        rows.append(
            f"THEY DISAGREE: {', '.join(self.disagree)} found something else than the plain loop"
            if self.disagree
            else f"all {len(self.variants)} agree on {self.files - len(self.unreadable):,} files"
        )
        return "\n".join(rows)

    def json(self) -> str:
        """The report for programs."""
        told: dict[str, Any] = {
            "gorun": gorun.__version__,
            "python": platform.python_version(),
            "gil": gil_enabled(),
            "job": self.job,
            "workers": self.workers,
            "files": self.files,
            "bytes": self.bytes,
            "unreadable": {d.path: d.error for d in self.unreadable},
            "sleepers": asdict(self.sleepers),
            "variants": {
                v.name: {
                    "seconds": v.seconds,
                    "best": v.best,
                    "time_to_ours": v.best / self.ours,
                    "how": v.told,
                }
                for v in self.variants
            },
            "agree": not self.disagree,
        }
        return json.dumps(told, indent=2)


def run(name: str, files: list[str], workers: int, sleepers: int, rounds: int) -> Report:
    """Does a job in all variants, `rounds` times, beside `sleepers` goroutines."""
    job = JOBS[name]
    for path in files:
        with suppress(OSError):
            read(path)  # into the page cache
    found: dict[str, list[Any]] = {}
    disagree: set[str] = set()
    with variants(job, workers, len(files)) as all_four, sleeping(sleepers) as crowd:
        for turn in range(rounds):
            first = turn % len(all_four)
            for variant in all_four[first:] + all_four[:first]:
                began = time.perf_counter()
                result = variant.run(files, f"{OURS}, round {turn + 1} of {rounds}")
                variant.seconds.append(time.perf_counter() - began)
                if result != found.setdefault(variant.name, result):
                    disagree.add(variant.name)  # with itself
    plain = found["plain loop"]
    disagree |= {name for name, result in found.items() if result != plain}
    return Report(
        job=name,
        workers=workers,
        files=len(files),
        bytes=sum(d.size for d in plain),
        unreadable=[d for d in plain if d.error],
        sleepers=crowd,
        variants=all_four,
        disagree=sorted(disagree),
    )


def main(argv: list[str]) -> int:
    """Runs the command; 0 if all four agree, 1 if not, 2 if it was called wrongly."""
    parser = argparse.ArgumentParser(
        prog="python -m gorun map",
        description="Work on files by gorun.map, then by a plain loop, ThreadPoolExecutor and "
        "ProcessPoolExecutor; check that all four agree; compare.",
    )
    parser.add_argument(
        "paths", nargs="*", help="files and folders (default: the standard library)"
    )
    parser.add_argument(
        "--job",
        choices=JOBS,
        default="parse",
        help="parse: count the nodes and names of Python files, pure Python (default); "
        "hash: compress and hash any files, in native code",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--workers", type=_count(1), default=gorun.gomaxprocs(), metavar="N")
    parser.add_argument("--rounds", type=_count(1), default=ROUNDS, metavar="N")
    parser.add_argument(
        "--sleepers",
        type=_count(0),
        default=SLEEPERS,
        metavar="N",
        help=f"goroutines that sleep meanwhile (default: {SLEEPERS:,})",
    )
    options = parser.parse_args(argv)
    files = find(options.paths, JOBS[options.job].suffix)
    if not files:
        parser.error(f"no files under {' '.join(options.paths)}")
    report = run(options.job, files, options.workers, options.sleepers, options.rounds)
    _print(report.json() if options.json else report.text())
    return 1 if report.disagree else 0


def _print(text: str) -> None:
    """Prints, with escapes for what stdout cannot take: names of files may be any bytes."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _count(least: int) -> Callable[[str], int]:
    """A type for argparse: a whole number of at least `least`."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} up")
        return int(text)

    return count
