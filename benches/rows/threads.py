"""Rows thread-chan, thread-chan128, bridge: channels between threads, and into an asyncio loop.

Go's side of the thread rows locks both goroutines to threads of their own (go/channels.go).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

from .channels import BUFFER, in_order


def between_threads(
    make: Callable[[], tuple[Callable[[int], Any], Callable[[], int]]],
) -> Callable[[int], Sample]:
    """One thread sends n numbers, this one receives them; the thread's start is timed too."""

    def run(n: int) -> Sample:
        from threading import Thread

        send, recv = make()

        def sender() -> None:
            for i in range(n):
                send(i)

        thread = Thread(target=sender)
        value = -1
        start = perf_counter_ns()
        thread.start()
        for _ in range(n):
            value = recv()
        elapsed = perf_counter_ns() - start
        thread.join()
        return Sample(elapsed, in_order(value, n))

    return run


def gorun_chan(capacity: int) -> Callable[[], tuple[Callable[[int], Any], Callable[[], int]]]:
    def make() -> tuple[Callable[[int], Any], Callable[[], int]]:
        import gorun

        ch: gorun.Chan[int] = gorun.Chan(capacity)
        return ch.send, ch.recv

    return make


def thread_queue(capacity: int) -> Callable[[], tuple[Callable[[int], Any], Callable[[], int]]]:
    def make() -> tuple[Callable[[int], Any], Callable[[], int]]:
        from queue import Queue

        queue: Queue[int] = Queue(capacity)
        return queue.put, queue.get

    return make


def gorun_bridge(n: int) -> Sample:
    """A goroutine sends, an asyncio task of this thread receives."""
    import asyncio

    import gorun

    async def sender(ch: gorun.Chan[int]) -> None:
        send = ch.send_async
        for i in range(n):
            await send(i)

    async def main() -> tuple[int, int]:
        ch: gorun.Chan[int] = gorun.Chan(BUFFER)
        recv = ch.recv_async
        value = -1
        start = perf_counter_ns()
        goroutine = gorun.go(sender, ch)
        for _ in range(n):
            value = await recv()
        elapsed = perf_counter_ns() - start
        await goroutine
        return elapsed, in_order(value, n)

    return Sample(*asyncio.run(main()))


def janus_bridge(n: int) -> Sample:
    """A thread puts, an asyncio task of this thread gets."""
    import asyncio
    from threading import Thread

    import janus

    async def main() -> tuple[int, int]:
        queue: janus.Queue[int] = janus.Queue(BUFFER)

        def sender() -> None:
            put = queue.sync_q.put
            for i in range(n):
                put(i)

        get = queue.async_q.get
        thread = Thread(target=sender)
        value = -1
        start = perf_counter_ns()
        thread.start()
        for _ in range(n):
            value = await get()
        elapsed = perf_counter_ns() - start
        thread.join()
        await queue.aclose()
        return elapsed, in_order(value, n)

    return Sample(*asyncio.run(main()))


def row(name: str, title: str, capacity: int, rival: int, n: int, at_least: float) -> Row:
    return Row(
        name,
        title,
        n=n,
        quick_n=n // 20,
        variants=(
            gorun_variant(between_threads(gorun_chan(capacity))),
            go_variant(name),
            Variant("queue", between_threads(thread_queue(rival))),
        ),
        goals=(Goal("gorun", "go"), Goal("queue", "gorun", at_least=at_least)),
    )


ROWS = (
    row(
        "thread-chan",
        "thread to thread, ch.send and ch.recv, unbuffered; Queue(1)",
        0,
        1,
        10_000,
        2,
    ),
    row(
        "thread-chan128",
        "thread to thread, ch.send and ch.recv, a buffer of 128; Queue(128)",
        *(BUFFER, BUFFER, 100_000, 3),
    ),
    Row(
        "bridge",
        "goroutine to asyncio task, a buffer of 128; janus: thread to task",
        n=40_000,
        quick_n=2_000,
        variants=(gorun_variant(gorun_bridge), Variant("janus", janus_bridge)),
        goals=(Goal("janus", "gorun", at_least=3),),
    ),
)
