"""Rows chan, chan128, chan128x4, ring, select, fanout: channels between goroutines (go/channels.go).

One side sends numbers in order, the other counts them; the last one that a lone receiver gets must
be the last one that was sent. "many" moves the same values by `send_many` and `recv_many`, in
portions of the buffer's size.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from harness.model import Goal, Row, Sample, Variant, go_variant, gorun_variant

from ._count import counted

if TYPE_CHECKING:
    import asyncio

    from gorun import Chan
    from gorun._gorun import CountDown

BUFFER = 128
RING = 1000
SETTLE = 0.2


def share(n: int, pairs: int, index: int) -> int:
    """How many of n values pair number `index` moves."""
    return n // pairs + (index < n % pairs)


def in_order(last: int, n: int) -> int:
    """n, if the last value that a lone receiver got is the last one that was sent."""
    if last != n - 1:
        raise RuntimeError(f"received {last} last, not {n - 1}")
    return n


# ---- senders and receivers ----------------------------------------------------------------------


def gorun_pairs(capacity: int, pairs: int, portion: int = 1) -> Callable[[int], Sample]:
    """`pairs` senders and as many receivers on one channel."""

    async def sender(ch: Chan[int], n: int) -> None:
        send = ch.send_async
        for i in range(n):
            await send(i)

    async def receiver(ch: Chan[int], n: int) -> int:
        recv = ch.recv_async
        value = -1
        for _ in range(n):
            value = await recv()
        return in_order(value, n) if pairs == 1 else n

    async def many_sender(ch: Chan[int], n: int) -> None:
        for at in range(0, n, portion):
            await ch.send_many_async(range(at, min(at + portion, n)))

    async def many_receiver(ch: Chan[int], n: int) -> int:
        left = n
        value = -1
        while left:
            values = await ch.recv_many_async(min(portion, left))
            left -= len(values)
            value = values[-1]
        return in_order(value, n) if pairs == 1 else n

    def run(n: int) -> Sample:
        import gorun

        async def main() -> tuple[int, int]:
            ch: Chan[int] = gorun.Chan(capacity)
            send, recv = (sender, receiver) if portion == 1 else (many_sender, many_receiver)
            start = perf_counter_ns()
            receivers = [gorun.go(recv, ch, share(n, pairs, i)) for i in range(pairs)]
            for i in range(pairs):
                gorun.go(send, ch, share(n, pairs, i))
            count = 0
            for goroutine in receivers:
                count += await goroutine
            elapsed = perf_counter_ns() - start
            return elapsed, count - len(ch)

        return Sample(*gorun.run(main))

    return run


def asyncio_pairs(capacity: int, pairs: int) -> Callable[[int], Sample]:
    async def sender(queue: asyncio.Queue[int], n: int) -> None:
        put = queue.put
        for i in range(n):
            await put(i)

    async def receiver(queue: asyncio.Queue[int], n: int) -> int:
        get = queue.get
        value = -1
        for _ in range(n):
            value = await get()
        return in_order(value, n) if pairs == 1 else n

    def run(n: int) -> Sample:
        import asyncio

        async def main() -> tuple[int, int]:
            queue: asyncio.Queue[int] = asyncio.Queue(capacity)
            start = perf_counter_ns()
            receivers = [receiver(queue, share(n, pairs, i)) for i in range(pairs)]
            senders = [sender(queue, share(n, pairs, i)) for i in range(pairs)]
            ends = await asyncio.gather(*receivers, *senders)
            elapsed = perf_counter_ns() - start
            return elapsed, sum(filter(None, ends)) - queue.qsize()

        return Sample(*asyncio.run(main()))

    return run


# ---- the ring -----------------------------------------------------------------------------------


def gorun_ring(n: int) -> Sample:
    """A number counts down while it goes round a ring of goroutines; n hops."""
    import gorun

    async def member(into: Chan[int], out: Chan[int]) -> None:
        recv, send = into.recv_async, out.send_async
        while True:
            left = await recv()
            if left == 0:
                return
            await send(left - 1)

    async def main() -> tuple[int, int]:
        ring: list[Chan[int]] = [gorun.Chan() for _ in range(RING)]
        start = perf_counter_ns()
        members = [
            gorun.go(member, into, out) for into, out in zip(ring, ring[1:] + ring[:1], strict=True)
        ]
        await ring[0].send_async(n)
        await members[n % RING]
        elapsed = perf_counter_ns() - start
        for goroutine in members:
            goroutine.cancel()
        await gorun.wait_async(members)
        return elapsed, n

    return Sample(*gorun.run(main))


# ---- select -------------------------------------------------------------------------------------


def gorun_select(n: int) -> Sample:
    """Two senders, a channel each; one receiver selects."""
    import gorun

    async def sender(ch: Chan[int], n: int) -> None:
        send = ch.send_async
        for i in range(n):
            await send(i)

    async def main() -> tuple[int, int]:
        a: Chan[int] = gorun.Chan()
        b: Chan[int] = gorun.Chan()
        select = gorun.select_async
        second = 0
        start = perf_counter_ns()
        gorun.go(sender, a, share(n, 2, 0))
        gorun.go(sender, b, share(n, 2, 1))
        for _ in range(n):
            index, _value, _ok = await select(a, b)
            second += index
        elapsed = perf_counter_ns() - start
        if second != share(n, 2, 1):
            raise RuntimeError(f"the second case fired {second} times of {n}")
        return elapsed, n

    return Sample(*gorun.run(main))


# ---- one close, many waiters --------------------------------------------------------------------


def gorun_fanout(n: int) -> Sample:
    """Microseconds from `close` until n goroutines that wait on the channel have ended."""
    import gorun
    from gorun._gorun import CountDown

    async def waiter(ch: Chan[int], begun: CountDown, left: CountDown) -> None:
        begun.done()
        _value, ok = await ch.recv_ok_async()
        if not ok:
            left.done()

    async def main() -> Sample:
        ch: Chan[int] = gorun.Chan()
        begun, left = CountDown(n), CountDown(n)
        for _ in range(n):
            gorun.go(waiter, ch, begun, left)
        await begun.wait_async()
        await gorun.sleep_async(SETTLE)  # the last ones step from the counter to the channel
        start = perf_counter_ns()
        ch.close()
        await left.wait_async()
        elapsed = perf_counter_ns() - start
        return Sample(elapsed, counted(left, n), elapsed / 1e3)

    sample: Sample = gorun.run(main)
    return sample


# ---- rows ---------------------------------------------------------------------------------------

BUFFERED = (
    "ch of 128, {0} senders : {0} receivers; asyncio Queue(128); many: by send_many, recv_many"
)


def buffered(name: str, pairs: int, at_most: float) -> Row:
    return Row(
        name,
        BUFFERED.format(pairs),
        n=400_000,
        quick_n=20_000,
        variants=(
            gorun_variant(gorun_pairs(BUFFER, pairs)),
            gorun_variant(gorun_pairs(BUFFER, pairs, BUFFER), name="many"),
            go_variant(name),
            Variant("asyncio", asyncio_pairs(BUFFER, pairs)),
        ),
        goals=(
            Goal("gorun", "go", at_most=at_most),
            Goal("many", "go", at_most=1.0),
            Goal("asyncio", "gorun", at_least=5),
        ),
    )


ROWS = (
    Row(
        "chan",
        "`await ch.send_async(i)`, `await ch.recv_async()` 1:1 on an unbuffered channel; Queue(1)",
        n=200_000,
        quick_n=10_000,
        variants=(
            gorun_variant(gorun_pairs(0, 1)),
            go_variant("chan"),
            Variant("asyncio", asyncio_pairs(1, 1)),
        ),
        goals=(Goal("gorun", "go", at_most=1.0), Goal("asyncio", "gorun", at_least=35)),
    ),
    buffered("chan128", 1, 2.2),
    buffered("chan128x4", 4, 2.8),
    Row(
        "ring",
        f"one token round a ring of {RING} goroutines with unbuffered channels, per hop",
        n=400_000,
        quick_n=10_000,
        variants=(gorun_variant(gorun_ring), go_variant("ring")),
        goals=(Goal("gorun", "go", at_most=1.2),),
    ),
    Row(
        "select",
        "`await select_async(a, b)`: two receives, a sender on each",
        n=200_000,
        quick_n=10_000,
        variants=(gorun_variant(gorun_select), go_variant("select")),
        goals=(Goal("gorun", "go", at_most=1.5),),
    ),
    Row(
        "fanout",
        "close of a channel that 10 000 goroutines wait on, until all have ended",
        n=10_000,
        quick_n=1_000,
        unit="us",
        variants=(gorun_variant(gorun_fanout), go_variant("fanout")),
        goals=(Goal("gorun", "go", at_most=3.0),),
    ),
)
