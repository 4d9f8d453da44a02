"""What the tests of worker processes share: functions that a worker can import, and waiting.

A test's own functions travel by reference where the tests are importable (`python -m pytest` puts the
folder on the path), else by value (`pytest`). Both have to work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

HANG = 30.0
"""Seconds that only a broken run takes."""


def until(true: Callable[[], object]) -> None:
    """Waits for what another process is about to do."""
    limit = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs: neither gone, nor ended and not waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def note(folder: Path, name: object) -> None:
    """Leaves a file that says that something was begun, and by whom."""
    partial = folder / f".{name}"
    partial.write_text(str(os.getpid()))
    partial.rename(folder / str(name))


def act(plan: tuple[int, str, float]) -> int:
    """Does what a plan says: sleep, compute, raise, die, or nothing."""
    n, what, seconds = plan
    if what == "sleep":
        time.sleep(seconds)
    elif what == "spin":
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
    elif what == "raise":
        raise ValueError(n)
    elif what == "die":
        os._exit(n % 100 + 1)
    return n
