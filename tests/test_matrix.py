"""Each waiting operation x each caller x each end.

Callers: the main thread, a foreign thread, a plain goroutine, an async goroutine, an asyncio task.
Ends: at once, done, error, timed out, cancelled while it waits, cancelled before it begins.

What it must do is written once for all: `end_of` turns each outcome into a pair. "Mutation:" names
the change to the runtime that makes a test fail.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import gorun
from gorun._gorun import Latch

LIMIT = 20.0
"""Seconds that nothing here comes near."""
SHORT = 0.01
"""A time-out that is to run out."""


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


class Target:
    """What is waited for: a goroutine that ends when told to, and a latch opened with it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.gate = Latch()
        self.latch = Latch()
        self.error = error

        def body() -> str:
            self.gate.wait()
            if error is not None:
                raise error
            return "value"

        self.g = gorun.go(body)

    def end(self) -> None:
        self.gate.set()
        self.latch.set()


# Each takes a target and a time-out. `exception` and `wait` are made to look like `result`.


def result(t: Target, limit: float | None) -> Any:
    return t.g.result(limit)


def exception(t: Target, limit: float | None) -> Any:
    error = t.g.exception(limit)
    if error is not None:
        raise error
    return t.g.result()


def wait(t: Target, limit: float | None) -> Any:
    done, rest = gorun.wait([t.g], limit)
    if rest:
        raise TimeoutError
    return done.pop().result()


def as_completed(t: Target, limit: float | None) -> Any:
    stream = gorun.as_completed([t.g], limit)
    g = next(stream)
    error = g._failed()  # neither this nor the next line is a cancel point
    assert list(stream) == []
    return g.result() if error else "value"


def latch(t: Target, limit: float | None) -> Any:
    if not t.latch.wait(limit):
        raise TimeoutError
    return t.g.result()


async def joined(t: Target, limit: float | None) -> Any:
    if limit is None:
        return await t.g
    if not await t.latch.wait_async(limit):
        raise TimeoutError
    return await t.g


async def wait_async(t: Target, limit: float | None) -> Any:
    done, rest = await gorun.wait_async([t.g], limit)
    if rest:
        raise TimeoutError
    return done.pop().result()


async def as_completed_async(t: Target, limit: float | None) -> Any:
    [g] = [g async for g in gorun.as_completed_async([t.g], limit)]
    return g.result() if g._failed() else "value"


async def latch_async(t: Target, limit: float | None) -> Any:
    if not await t.latch.wait_async(limit):
        raise TimeoutError
    return t.g.result()


Op = Callable[[Target, "float | None"], Any]
BLOCKING: list[Op] = [result, exception, wait, as_completed, latch]
AWAITED: list[Op] = [joined, wait_async, as_completed_async, latch_async]


def end_of(fn: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "value", fn()
    except BaseException as error:
        return name_of(error)


async def end_of_async(make: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
    try:
        return "value", await make()
    except BaseException as error:
        return name_of(error)


def name_of(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, gorun.Cancelled):
        return "cancelled", error.reason
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", error.args[0] if error.args else None
    if isinstance(error, TimeoutError):
        return "timeout", None
    return "error", error


class Caller:
    """Runs an operation somewhere; `outcome` waits for it; `cancel` cuts it."""

    def __init__(self, op: Op, *args: Any) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    def waits(self) -> bool:
        """True once the operation waits, as far as one can see."""
        raise NotImplementedError

    def outcome(self) -> tuple[str, Any]:
        raise NotImplementedError


class InThread(Caller):
    def __init__(self, op: Op, *args: Any) -> None:
        self.out: list[tuple[str, Any]] = []
        self.since = time.monotonic()
        self.thread = threading.Thread(
            target=lambda: self.out.append(end_of(lambda: op(*args))), daemon=True
        )
        self.thread.start()

    def waits(self) -> bool:
        return time.monotonic() > self.since + SHORT

    def outcome(self) -> tuple[str, Any]:
        self.thread.join(LIMIT)
        return self.out.pop()


class InMain(InThread):
    """The operation is on the main thread, whoever ends it on another."""

    def __init__(self, op: Op, *args: Any) -> None:
        self.run = lambda: end_of(lambda: op(*args))

    def waits(self) -> bool:
        return True

    def outcome(self) -> tuple[str, Any]:
        return self.run()


class InPlain(Caller):
    state = "blocked"

    def __init__(self, op: Op, *args: Any) -> None:
        self.g = self.go(op, args)

    def go(self, op: Op, args: Any) -> gorun.Goroutine[Any]:
        return gorun.go(lambda: end_of(lambda: op(*args)))

    def cancel(self) -> None:
        assert self.g.cancel("why")

    def waits(self) -> bool:
        return any(i.id == self.g.id and i.state == self.state for i in gorun.goroutines())

    def outcome(self) -> tuple[str, Any]:
        got: tuple[str, Any] = self.g.result(LIMIT)
        return got


class InAsync(InPlain):
    state = "waiting"

    def go(self, op: Op, args: Any) -> gorun.Goroutine[Any]:
        return gorun.go(end_of_async, lambda: op(*args))


class BlockingInAsync(InPlain):
    def go(self, op: Op, args: Any) -> gorun.Goroutine[Any]:
        async def body() -> tuple[str, Any]:
            return end_of(lambda: op(*args))

        return gorun.go(body)


class InTask(Caller):
    """A task of a loop that runs in a thread of its own."""

    def __init__(self, op: Op, *args: Any) -> None:
        self.out: list[tuple[str, Any]] = []
        self.ready = threading.Event()

        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            self.task = asyncio.create_task(end_of_async(lambda: op(*args)))
            await asyncio.sleep(SHORT)
            self.ready.set()
            self.out.append(await self.task)

        self.thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        self.thread.start()

    def cancel(self) -> None:
        self.loop.call_soon_threadsafe(self.task.cancel, "why")

    def waits(self) -> bool:
        return self.ready.is_set()

    def outcome(self) -> tuple[str, Any]:
        self.thread.join(LIMIT)
        return self.out.pop()


def pairs(*, cut: bool) -> list[Any]:
    """Callers with the operations that they can use; `cut`: those that can be cancelled."""
    table: dict[type[Caller], list[Op]] = {
        InPlain: BLOCKING,
        InAsync: AWAITED,
        BlockingInAsync: BLOCKING,
        InTask: AWAITED,
    }
    if not cut:
        table |= {InThread: BLOCKING, InMain: BLOCKING}
    return [
        pytest.param(caller, op, id=f"{caller.__name__}-{op.__name__}")
        for caller, ops in table.items()
        for op in ops
    ]


every_pair = pytest.mark.parametrize(("caller", "op"), pairs(cut=False))
every_cut_pair = pytest.mark.parametrize(("caller", "op"), pairs(cut=True))


@every_pair
@pytest.mark.parametrize("limit", [None, LIMIT, 0, -1.0])
def test_at_once(caller: Any, op: Op, limit: float | None) -> None:
    # Mutation: look at the time-out before the state: 0 times out on what is there.
    t = Target()
    t.end()
    t.g.result(LIMIT)
    assert caller(op, t, limit).outcome() == ("value", "value")


@every_pair
@pytest.mark.parametrize("limit", [None, LIMIT])
def test_done_while_it_waits(caller: Any, op: Op, limit: float | None) -> None:
    # Mutation: `Latch.close` wakes nobody.
    t = Target()
    c = caller(op, t, limit)
    if caller is InMain:
        later = threading.Timer(SHORT, t.end)
        later.start()
    else:
        until(c.waits)
        t.end()
    assert c.outcome() == ("value", "value")
    if caller is InMain:
        later.join()


@every_pair
@pytest.mark.parametrize("early", [True, False])
def test_error(caller: Any, op: Op, early: bool) -> None:
    # Mutation: `value()` gives the outcome without looking how it ended.
    error = LookupError("the target's")
    t = Target(error)
    if early:
        t.end()
        until(t.g.done)
    c = caller(op, t, None)
    if not early:
        if caller is InMain:
            threading.Timer(SHORT, t.end).start()
        else:
            until(c.waits)
            t.end()
    kind, value = c.outcome()
    assert (kind, value) == ("error", error)
    error.__traceback__ = None


@every_pair
@pytest.mark.parametrize("limit", [SHORT, 0, -3, 1e-12, -float("inf")])
def test_timed_out(caller: Any, op: Op, limit: float) -> None:
    # Mutation: no timer for the wait; or `unlink` left out (the target's end then hangs).
    t = Target()
    start = time.monotonic()
    assert caller(op, t, limit).outcome() == ("timeout", None)
    assert time.monotonic() - start >= min(max(limit, 0), SHORT)
    assert not t.g.done()
    t.end()
    assert t.g.result(LIMIT) == "value"


@every_cut_pair
@pytest.mark.parametrize("limit", [None, LIMIT])
def test_cancelled_while_it_waits(caller: Any, op: Op, limit: float | None) -> None:
    # Mutation: `arm(false)`: the wait is not cut; or the joined goroutine is cancelled as well.
    t = Target()
    c = caller(op, t, limit)
    until(c.waits)
    c.cancel()
    assert c.outcome() == ("cancelled", "why")
    assert not t.g.done()
    t.end()
    assert t.g.result(LIMIT) == "value"
    assert not t.g.cancelled()


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize("op", [*BLOCKING, *AWAITED], ids=lambda op: op.__name__)
def test_cancelled_before_it_begins(op: Op, limit: float | None, ended: bool) -> None:
    # Mutation: no `take_cancel` on entry where the operation can go on at once (rule 5).
    t = Target()
    if ended:
        t.end()
        t.g.result(LIMIT)

    async def awaits() -> tuple[str, Any]:
        me = gorun.current()
        assert me is not None
        assert me.cancel("on entry")
        got = await end_of_async(lambda: op(t, limit))
        assert await gorun.go(abs, -1) == 1  # delivered once: the next one goes on
        return got

    async def blocks() -> tuple[str, Any]:
        return plain()

    def plain() -> tuple[str, Any]:
        me = gorun.current()
        assert me is not None
        assert me.cancel("on entry")
        got = end_of(lambda: op(t, limit))
        assert gorun.go(abs, -1).result() == 1
        return got

    for fn in [awaits] if op in AWAITED else [blocks, plain]:
        assert gorun.go(fn).result(LIMIT) == ("cancelled", "on entry")
    t.end()
    assert t.g.result(LIMIT) == "value"


# ---- operations without a target -----------------------------------------------------------------


def block_shortly(seconds: float) -> str:
    with gorun.blocking():
        time.sleep(seconds)
    return "left"


PAUSES: list[Callable[[], Any]] = [
    lambda: gorun.sleep(SHORT),
    lambda: gorun.sleep(0),
    gorun.gosched,
    lambda: block_shortly(SHORT),
]
AWAITED_PAUSES: list[Callable[[], Any]] = [
    lambda: gorun.sleep_async(SHORT),
    lambda: gorun.sleep_async(0),
    gorun.gosched_async,
]


@pytest.mark.parametrize("caller", [InMain, InThread, InPlain, BlockingInAsync])
@pytest.mark.parametrize("pause", PAUSES)
def test_pause(caller: Any, pause: Any) -> None:
    kind, value = caller(pause).outcome()
    assert kind == "value"
    assert value in (None, "left")


@pytest.mark.parametrize("caller", [InAsync, InTask])
@pytest.mark.parametrize("pause", AWAITED_PAUSES)
def test_awaited_pause(caller: Any, pause: Any) -> None:
    assert caller(pause).outcome() == ("value", None)


@pytest.mark.parametrize("caller", [InMain, InThread, InPlain, BlockingInAsync, InAsync, InTask])
def test_sleep_sleeps(caller: Any) -> None:
    # Mutation: the wheel fires early.
    pause = gorun.sleep_async if caller in (InAsync, InTask) else gorun.sleep
    for seconds in (0.0005, 0.002, 0.03):
        start = time.monotonic()
        assert caller(pause, seconds).outcome() == ("value", None)
        assert time.monotonic() - start >= seconds


@pytest.mark.parametrize(
    ("caller", "pause"),
    [
        (InPlain, gorun.sleep),
        (BlockingInAsync, gorun.sleep),
        (InAsync, gorun.sleep_async),
        (InTask, gorun.sleep_async),
    ],
)
def test_sleep_is_cut(caller: Any, pause: Any) -> None:
    c = caller(pause, 3600.0)
    until(c.waits)
    c.cancel()
    assert c.outcome() == ("cancelled", "why")


@pytest.mark.parametrize("pause", [*PAUSES, *AWAITED_PAUSES])
def test_pauses_deliver_a_pending_cancel(pause: Any) -> None:
    # Mutation: no `cancel_point` in gosched, or none in `_blocking_enter`.
    async def awaits() -> tuple[str, Any]:
        gorun.current().cancel("pending")  # type: ignore[union-attr]
        return await end_of_async(pause)

    def plain() -> tuple[str, Any]:
        gorun.current().cancel("pending")  # type: ignore[union-attr]
        return end_of(pause)

    fn = awaits if pause in AWAITED_PAUSES else plain
    assert gorun.go(fn).result(LIMIT) == ("cancelled", "pending")


def test_gosched_lets_others_run() -> None:
    # Mutation: gosched_async returns at once.
    out: list[str] = []

    async def body(name: str) -> None:
        for _ in range(3):
            out.append(name)
            await gorun.gosched_async()

    async def main() -> None:
        gs = [gorun.go(body, name) for name in "abc"]
        for g in gs:
            await g

    before = gorun.gomaxprocs(1)
    try:
        gorun.run(main)
    finally:
        gorun.gomaxprocs(before)
    # Nobody goes a second time before everybody was there once.
    assert [sorted(out[i : i + 3]) for i in (0, 3, 6)] == [list("abc")] * 3


def test_plain_gosched_lets_others_run() -> None:
    turns: list[int] = []

    def body(n: int) -> None:
        limit = time.monotonic() + LIMIT
        while len(turns) < 20 and time.monotonic() < limit:
            if len(turns) % 2 == n:
                turns.append(n)
            gorun.gosched()

    gs = [gorun.go(body, n) for n in (0, 1)]
    for g in gs:
        g.result(LIMIT)
    assert turns[:20] == [0, 1] * 10


# ---- blocking sections ---------------------------------------------------------------------------


def test_blocking_gives_the_p_away(maxprocs: int) -> None:
    # Mutation: `_blocking_enter` does not hand off; sysmon would take longer than this takes turns.
    gate = threading.Event()

    def blocks() -> str:
        with gorun.blocking():
            gate.wait()
        return "left"

    gs = [gorun.go(blocks) for _ in range(8)]
    until(lambda: gorun.stats().ms_blocked >= 8)
    assert gorun.go(abs, -1).result(LIMIT) == 1
    states = {i.state for i in gorun.goroutines()}
    assert states == {"blocked"}
    gate.set()
    assert [g.result(LIMIT) for g in gs] == ["left"] * 8
    until(lambda: gorun.stats().ms_blocked == 0)


def test_gorun_inside_blocking() -> None:
    # Mutation: `take_p_again` of an inner operation leaves the counts of the outer section wrong.
    def body() -> list[Any]:
        out: list[Any] = []
        with gorun.blocking():
            out.append(gorun.go(abs, -1).result())
            gorun.sleep(0.001)
            gorun.gosched()
            with gorun.blocking():
                gorun.sleep(0)
                out.append(gorun.go(abs, -2).result(LIMIT))
            out.append(len(gorun.wait([gorun.go(abs, 1)]).done))
        gorun.gosched()
        out.append(gorun.go(abs, -3).result())
        return out

    gs = [gorun.go(body) for _ in range(10)]
    assert [g.result(LIMIT) for g in gs] == [[1, 2, 1, 3]] * 10
    until(lambda: gorun.stats().ms_blocked == 0)


def test_await_inside_blocking_is_refused() -> None:
    # Mutation: no check of `blocking` in `step`.
    async def body() -> str:
        with gorun.blocking():
            for op in (gorun.sleep_async(0), gorun.gosched_async(), gorun.sleep_async(1)):
                with pytest.raises(RuntimeError, match="blocking"):
                    await op
        await gorun.gosched_async()  # afterwards it may
        return "went on"

    assert gorun.go(body).result(LIMIT) == "went on"


def test_blocking_outside_a_goroutine_does_nothing() -> None:
    with gorun.blocking() as section:
        assert isinstance(section, gorun.blocking)
        assert gorun.go(abs, -1).result() == 1


def test_blocking_ends_with_an_error() -> None:
    def body() -> None:
        with gorun.blocking():
            raise LookupError("inside")

    assert str(gorun.go(body).exception(LIMIT)) == "inside"
    until(lambda: gorun.stats().ms_blocked == 0)
