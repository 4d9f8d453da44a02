"""Rows parse, ftmap: pure Python that computes, on every core.

parse: the main job's work (`python -m gorun map --job parse`), as whole commands over the same files
(benches/jobs.py); what two plain processes reach with half of the files each is what the machine allows.
ftmap: two Ms beside two plain threads that share nothing; free-threaded builds alone say something.
"""

from __future__ import annotations

import atexit
import shutil
import sysconfig
import tempfile
import threading
from functools import cache
from pathlib import Path
from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, gorun_variant
from jobs import parse

from ._work import count_up
from .mapjob import command, mode

ASIDE = {"test", "tests", "idle_test", "site-packages"}


@cache
def files(n: int) -> tuple[Path, int]:
    """A list of n files from all over the standard library, and the number of all their nodes."""
    folder = Path(tempfile.mkdtemp(prefix="gorun-bench-"))
    atexit.register(shutil.rmtree, folder)
    library = Path(sysconfig.get_path("stdlib"))
    found = [
        file
        for file in sorted(library.rglob("*.py"))
        if ASIDE.isdisjoint(file.relative_to(library).parts)
    ]
    found = [found[i * len(found) // n] for i in range(n)]  # of few files some twice
    path = folder / "files.txt"
    path.write_text("".join(f"{file}\n" for file in found))
    with path.open() as lines:
        return path, sum(map(parse, lines))


PARSE = Row(
    "parse",
    "parse n files from all over the standard library, whole command, two workers",
    n=1000,
    quick_n=20,
    unit="ms",
    variants=(
        gorun_variant(command(mode("parse-gorun"), job=files)),
        Variant("PPE best", command(mode("parse-pool"), job=files)),
        Variant("serial", command(mode("parse-serial"), job=files)),
        Variant("two threads", command(mode("parse-threads"), job=files)),
        Variant(
            "two processes",
            command(mode("parse-half", "0"), mode("parse-half", "1"), job=files),
        ),
    ),
    goals=(
        Goal("two processes", "gorun", at_least=0.95),
        Goal("PPE best", "gorun", at_least=1.0),
        Goal("serial", "gorun"),
        Goal("two threads", "gorun", note="what a free-threaded interpreter allows"),
    ),
)

LOOPS = 20_000  # about a millisecond


def gorun_threads(n: int) -> Sample:
    import gorun

    start = perf_counter_ns()
    found = sum(gorun.map(count_up, [LOOPS] * n, workers=2, on="thread"))
    elapsed = perf_counter_ns() - start
    if found != n * count_up(LOOPS):
        raise RuntimeError(f"the results add up to {found}")
    return Sample(elapsed, n)


def two_threads(n: int) -> Sample:
    found = [0, 0]

    def half(which: int, share: int) -> None:
        found[which] = sum(map(count_up, [LOOPS] * share))

    threads = [threading.Thread(target=half, args=(i, (n + i) // 2)) for i in range(2)]
    start = perf_counter_ns()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = perf_counter_ns() - start
    if sum(found) != n * count_up(LOOPS):
        raise RuntimeError(f"the results add up to {sum(found)}")
    return Sample(elapsed, n)


THREADS = Row(
    "ftmap",
    "pure Python by gorun.map on two Ms, beside two plain threads, per item of 1 ms",
    n=400,
    quick_n=20,
    variants=(gorun_variant(gorun_threads), Variant("two threads", two_threads)),
    goals=(Goal("two threads", "gorun", at_least=0.95),),
)

ROWS = (PARSE, THREADS)
