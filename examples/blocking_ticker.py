"""Blocking calls do not hold up the others: a goroutine ticks while twice as many as there are Ps
sit in time.sleep, which knows nothing of gorun.

The P of a goroutine that blocks is taken from its thread and given to the next one. In asyncio
each of these calls would stop the loop for its whole length.

python examples/blocking_ticker.py
"""

import sys
import time

import gorun

BLOCK = 0.25  # seconds of each blocking call
TICK = 0.001  # seconds between two ticks


def blocks(calls: int) -> None:
    """A plain goroutine that calls something that blocks."""
    for _ in range(calls):
        time.sleep(BLOCK)


async def ticker(late: list[float], blockers: list[gorun.Goroutine[None]]) -> None:
    """Ticks until the last of `blockers` has ended, and notes how late each tick was."""
    due = time.monotonic()
    while not all(g.done() for g in blockers):
        due = max(due + TICK, time.monotonic())
        await gorun.sleep_async(max(0.0, due - time.monotonic()))
        late.append(time.monotonic() - due)


def main() -> bool:
    """Runs both, and checks that the ticks went on during the blocking calls."""
    late: list[float] = []
    blockers = [gorun.go(blocks, 2) for _ in range(2 * gorun.gomaxprocs())]
    gorun.go(ticker, late, blockers).result()
    late.sort()
    print(f"{len(blockers)} goroutines in blocking calls of {BLOCK * 1e3:.0f} ms, twice each")
    print(
        f"{len(late)} ticks beside them; late by {late[len(late) // 2] * 1e3:.2f} ms in the median,"
        f" {late[-1] * 1e3:.2f} ms at most"
    )
    # Without the hand-over there would be a tick or two for each blocking call.
    return len(late) > 20


if __name__ == "__main__":
    sys.exit(not main())
