"""Hundreds of thousands of goroutines asleep at the same time, and what one of them costs.

python examples/sleepers.py [how many, by default 200000]
"""

import os
import sys
import time
from pathlib import Path

import gorun

SECONDS = 0.5  # that each sleeps


async def sleeper(number: int) -> int:
    """Sleeps, then says which one it is."""
    await gorun.sleep_async(SECONDS)
    return number


def memory() -> int:
    """Bytes that this process has in memory (0 where there is no /proc)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main(count: int) -> bool:
    """Starts `count` sleepers, joins them all, and checks that none was lost."""
    before, began = memory(), time.perf_counter()
    sleepers = gorun.go_many(sleeper, range(count))
    started = time.perf_counter() - began
    print(f"{gorun.num_goroutine():,} goroutines, started in {started:.2f} s")
    while gorun.stats().waiting < count and not sleepers[0].done():
        gorun.sleep(0.001)  # until the last one sleeps too, or the first one is awake again
    print(f"{(memory() - before) / max(1, count):.0f} bytes each")
    total = sum(g.result() for g in sleepers)
    print(f"all awake after {time.perf_counter() - began:.2f} s")
    return total == count * (count - 1) // 2


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
