"""Settings from the environment and their checks: GOMAXPROCS and those called GORUN_....

Bad input is an error that names the variable, its value and what was expected.
"""

from __future__ import annotations

import math
import os

MAX_PROCS = 512
DEFAULT_MAX_THREADS = 10_000
MAX_THREADS = 1_000_000
DEFAULT_WORKER_GROWTH = 300_000_000
MAX_WORKER_GROWTH = 1 << 62


def _number(text: str, name: str, low: int, high: int) -> int:
    try:
        n = int(text)
    except ValueError:
        n = low - 1
    if not low <= n <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return n


def _read(*path: str) -> str:  # not pathlib, which is slow to import
    with open(os.path.join(*path), errors="surrogateescape") as file:
        return file.read()


def _quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float:
    """CPUs that the cgroup quota (v2, then v1) allows; infinity without one."""
    best = math.inf
    try:
        lines = _read(own).split("\n")
    except OSError:
        return best
    for line in lines:
        _, _, named = line.partition(":")
        controllers, colon, path = named.partition(":")
        if not colon:
            continue
        if controllers == "":  # v2: the limits of all ancestors count
            # With its "..": outside of what this cgroup namespace shows, the way up leads to the root.
            here = os.path.join(root, path.strip("/")).rstrip("/")
            while True:
                best = min(best, _v2(here))
                if here in (root, os.path.dirname(here)):
                    break
                here = os.path.dirname(here)
        elif "cpu" in controllers.split(","):
            for group in (path.lstrip("/"), ""):
                best = min(best, _v1(os.path.join(root, "cpu", group)))
    return best


def _v2(folder: str) -> float:
    try:
        quota, period = _read(folder, "cpu.max").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _v1(folder: str) -> float:
    try:
        quota = int(_read(folder, "cpu.cfs_quota_us"))
        period = int(_read(folder, "cpu.cfs_period_us"))
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def usable_cpus() -> int:
    """CPUs this process may use: affinity, then the cgroup quota rounded up; at least 1."""
    try:
        n = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        n = os.cpu_count() or 1
    quota = _quota()
    if quota < n:
        n = max(1, math.ceil(quota))
    return min(n, MAX_PROCS)


def default_procs() -> int:
    """GOMAXPROCS from the environment, else the usable CPUs."""
    text = os.environ.get("GOMAXPROCS", "").strip()
    return _number(text, "GOMAXPROCS", 1, MAX_PROCS) if text else usable_cpus()


def default_max_threads() -> int:
    """GORUN_MAX_THREADS from the environment, else 10 000 as in Go."""
    text = os.environ.get("GORUN_MAX_THREADS", "").strip()
    return _number(text, "GORUN_MAX_THREADS", 1, MAX_THREADS) if text else DEFAULT_MAX_THREADS


_growth: int | None = None  # as `configure` was told


def worker_growth(told: int | None = None) -> int:
    """Bytes that a worker process may grow by until it is replaced; 0: any. `told` is kept."""
    global _growth
    if told is not None:
        _growth = told
    if _growth is not None:
        return _growth
    text = os.environ.get("GORUN_WORKER_GROWTH", "").strip()
    if not text:
        return DEFAULT_WORKER_GROWTH
    return _number(text, "GORUN_WORKER_GROWTH", 0, MAX_WORKER_GROWTH)


def check_timeout(timeout: float | None) -> float | None:
    """Give a time-out back as a float; TypeError and ValueError (NaN) name what is none."""
    if timeout is None:
        return None
    try:
        if not math.isnan(timeout):  # takes whatever is a number (a Decimal, numpy's), but no str
            return float(timeout)
    except TypeError:
        text = f"timeout must be a number of seconds or None, not {timeout!r}"
        raise TypeError(text) from None
    except OverflowError:
        text = f"timeout is no number of seconds that a float holds: {timeout!r}"
        raise ValueError(text) from None
    raise ValueError(f"timeout must be a number of seconds or None, not {timeout!r}")


def check_seconds(seconds: float, name: str) -> float:
    """Give a number of seconds back as a float; TypeError and ValueError (NaN) name what is none."""
    try:
        number = math.fabs(seconds)  # takes numbers only
    except OverflowError:
        text = f"{name} is no number of seconds that a float holds: {seconds!r}"
        raise ValueError(text) from None
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number of seconds, not {seconds!r}")
    return float(seconds)


def watch_deadlocks() -> bool:
    """GORUN_DEADLOCK: unset or "1" for yes, "0" for no."""
    text = os.environ.get("GORUN_DEADLOCK", "").strip()
    if text not in ("", "0", "1"):
        raise ValueError(f"GORUN_DEADLOCK must be '0' or '1', not {text!r}")
    return text != "0"


def check_sysmon() -> None:
    """GORUN_SYSMON is unset, "auto" or "clock"."""
    text = os.environ.get("GORUN_SYSMON", "")
    if text not in ("", "auto", "clock"):
        raise ValueError(f"GORUN_SYSMON must be 'auto' or 'clock', not {text!r}")
