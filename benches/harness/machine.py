"""What the figures were measured on, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


def describe() -> dict[str, str]:
    """The head of a report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "load before": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def process_cpu(pid: int) -> float:
    """CPU seconds of a process, all its threads, by its clock (see clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def children_cpu(pid: int) -> float:
    """CPU seconds of the children of a process, and theirs; of those that have ended, in ticks."""
    seconds = 0.0
    parents: dict[int, list[int]] = {}
    ended: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ends just now: its parent has it with the others
            after_name = path.read_text().rpartition(")")[2].split()
            number = int(path.parent.name)
            parents.setdefault(int(after_name[1]), []).append(number)
            ended[number] = (int(after_name[13]) + int(after_name[14])) / os.sysconf("SC_CLK_TCK")
    family = [pid]
    for member in family:
        seconds += ended.get(member, 0.0)
        if member != pid:
            with suppress(OSError):
                seconds += process_cpu(member)
        family += parents.get(member, [])
    return seconds


def machine_cpu() -> float:
    """CPU seconds that the whole machine was busy since it started, stolen time included.

    It counts in ticks (10 ms as a rule): good for stretches of a few tenths of a second.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
