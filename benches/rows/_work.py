"""What the rows of the map on processes call; a file of its own, so that every rival can import it."""

from __future__ import annotations

import os
import time
from typing import Any


def tiny(n: int) -> int:
    return n


def spin(seconds: float) -> float:
    """Computes for so long; time of its own, so that two on one core take twice as long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def count_up(n: int) -> int:
    """Some milliseconds of pure Python that shares nothing."""
    total = 0
    for i in range(n):
        total += i & 3
    return total


def total(block: Any) -> float:
    return float(block.sum())


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
