"""Rows ctrlc, ctrlc-worst: from SIGINT to KeyboardInterrupt where the main thread waits.

A thread sends the signal to the main thread, 2 to 52 ms after it began to wait, so that it falls
anywhere into the slices of 50 ms in which gorun sleeps. `queue` is the standard library's way to
wait, without a time-out: its lock is interrupted by the signal itself.
"""

from __future__ import annotations

import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from time import perf_counter_ns

from harness.model import Goal, Row, Runtime, Sample, Variant

SLICE = 0.05
PATIENCE = 60.0

Figure = Callable[[list[float]], float]


def interrupted(wait: Callable[[], object], n: int, figure: Figure) -> Sample:
    """Interrupts `wait` n times; `figure` of the milliseconds that each took."""
    # Who is started in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(n)
    main = threading.get_ident()
    turn = threading.Semaphore(0)
    sent: list[int] = []

    def sender() -> None:
        for _ in range(n):
            turn.acquire()
            time.sleep(0.002 + rng.random() * SLICE)
            sent.append(perf_counter_ns())
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=sender)
    took: list[float] = []
    start = perf_counter_ns()
    thread.start()
    for _ in range(n):
        try:
            turn.release()
            wait()
        except KeyboardInterrupt:
            took.append((perf_counter_ns() - sent[-1]) / 1e6)
    elapsed = perf_counter_ns() - start
    thread.join()
    return Sample(elapsed, len(took), figure(took))


def in_recv(n: int, figure: Figure) -> Sample:
    import gorun

    return interrupted(gorun.Chan().recv, n, figure)


def in_result(n: int, figure: Figure) -> Sample:
    import gorun

    async def sleeper() -> None:
        await gorun.sleep_async(PATIENCE)

    goroutine = gorun.go(sleeper)
    try:
        return interrupted(goroutine.result, n, figure)
    finally:
        goroutine.cancel()


def in_sleep(n: int, figure: Figure) -> Sample:
    import gorun

    return interrupted(lambda: gorun.sleep(PATIENCE), n, figure)


def in_queue(n: int, figure: Figure) -> Sample:
    import queue

    return interrupted(queue.SimpleQueue().get, n, figure)


def row(name: str, title: str, figure: Figure, at_most: float) -> Row:
    def variant(kind: str, run: Callable[[int, Figure], Sample], runtime: Runtime) -> Variant:
        return Variant(kind, lambda n: run(n, figure), runtime=runtime)

    return Row(
        name,
        title,
        n=20,
        quick_n=3,
        unit="ms",
        variants=(
            variant("recv", in_recv, "gorun"),
            variant("result", in_result, "gorun"),
            variant("sleep", in_sleep, "gorun"),
            variant("queue", in_queue, "python"),
        ),
        goals=(
            Goal("recv", how="alone", at_most=at_most),
            Goal("result", how="alone", at_most=at_most),
            Goal("sleep", how="alone", at_most=at_most),
            Goal("queue", how="alone"),
        ),
    )


ROWS = (
    row(
        "ctrlc",
        "SIGINT to KeyboardInterrupt in the waiting main thread: median",
        statistics.median,
        1,
    ),
    row("ctrlc-worst", "the same: the worst of them", max, 1000 * SLICE),
)
