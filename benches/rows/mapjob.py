"""Row map: a whole job as a command, by `gorun.map`, beside threads, a loop, two processes.

`python -m gorun map` compares the same ways in one process, over real files.

Each sample starts benches/jobs.py in new interpreters and is timed from the start of the first to
the end of the last. What two plain processes reach with half of the input each is what this
machine's memory and hyper-threads allow.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from time import perf_counter_ns

from harness.model import Goal, Row, Sample, Variant, gorun_variant
from jobs import pack, write_input

BENCHES = Path(__file__).resolve().parent.parent


@cache
def job(n: int) -> tuple[Path, int]:
    """The input of n lines and the sum that a run over it must give."""
    folder = Path(tempfile.mkdtemp(prefix="gorun-bench-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / "input.txt"
    write_input(path, n)
    with path.open() as lines:
        return path, sum(map(pack, lines))


def command(
    *commands: tuple[str, ...], job: Callable[[int], tuple[Path, int]] = job
) -> Callable[[int], Sample]:
    """Run the commands at the same time, the input appended to each; add up what they print."""

    def run(n: int) -> Sample:
        path, expected = job(n)
        with ExitStack() as stack:
            outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
            start = perf_counter_ns()
            processes = [
                subprocess.Popen([sys.executable, *words, str(path)], stdout=output, cwd=BENCHES)
                for words, output in zip(commands, outputs, strict=True)
            ]
            codes = [process.wait() for process in processes]
            elapsed = perf_counter_ns() - start
            if any(codes):
                raise RuntimeError(f"{' '.join(commands[0])}: exit codes {codes}")
            results: list[int] = []
            for output in outputs:
                output.seek(0)
                results += map(int, output)
        if sum(results) != expected:
            raise RuntimeError(f"the results add up to {sum(results)}, not {expected}")
        return Sample(elapsed, len(results), elapsed / 1e6)

    return run


def mode(name: str, *rest: str) -> tuple[str, ...]:
    return ("-m", "jobs", name, *rest)


ROW = Row(
    "map",
    "main job: compress a block for each line of a file, whole command, two workers",
    n=6000,
    quick_n=200,
    unit="ms",
    variants=(
        gorun_variant(command(mode("gorun"))),
        Variant("threadpool", command(mode("threads"))),
        Variant("serial", command(mode("serial"))),
        Variant("two processes", command(mode("half", "0"), mode("half", "1"))),
    ),
    goals=(
        Goal("threadpool", "gorun", at_least=1.0),
        Goal("serial", "gorun", at_least=1.6),
        Goal("serial", "two processes", note="what the machine allows"),
    ),
)
