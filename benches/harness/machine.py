"""What the figures were measured on, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
import platform
import time
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
    """CPU seconds of the ended children of a process, and theirs, in ticks."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[13]) + int(after_name[14])) / os.sysconf("SC_CLK_TCK")


def machine_cpu() -> float:
    """CPU seconds that the whole machine was busy since it started, stolen time included.

    It counts in ticks (10 ms as a rule): good for stretches of a few tenths of a second.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
