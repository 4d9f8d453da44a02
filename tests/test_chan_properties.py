"""Channels, select, semaphores and channel timers against plain models, by Hypothesis.

The machines run every operation to its end or to its wait before the next begins, so that the models
are plain lists. "Mutation:" names the change to the code that a machine finds.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.test_matrix import LIMIT, until
from tests.test_properties import run_machine

import gorun
from gorun import Chan

KINDS = ["plain", "async"]


def parked(g: gorun.Goroutine[Any]) -> bool:
    """It waits, or has ended."""
    return g.done() or any(i.id == g.id and i.wait_reason for i in gorun.goroutines())


def end(g: gorun.Goroutine[Any]) -> Any:
    """Its value, or the type of its error."""
    try:
        return g.result(LIMIT)
    except Exception as error:
        return type(error)


class Waiter:
    """A goroutine in one operation, and what the model says it will end with (None: it waits)."""

    def __init__(self, kind: str, block: Callable[[], Any], wait: Callable[[], Any]) -> None:
        async def body() -> Any:
            return await wait()

        self.g = gorun.go(block if kind == "plain" else body)
        self.expected: Any = None
        until(lambda: parked(self.g))


class Channels(RuleBasedStateMachine):
    """One channel: a buffer, waiting receivers, waiting senders; time-outs, cancels, close, put-back.

    Mutation: a cancelled waiter's node stays; `put_back` at the end; a full buffer does not take the
    oldest sender's value; close drops the buffer.
    """

    @initialize(capacity=st.integers(0, 3))
    def make(self, capacity: int) -> None:
        self.capacity = capacity
        self.ch: Chan[int] = Chan(capacity)
        self.buffer: deque[int] = deque()
        self.receivers: list[Waiter] = []
        self.senders: list[tuple[Waiter, int]] = []
        self.ended: list[Waiter] = []
        self.closed = False
        self.next = 0

    def teardown(self) -> None:
        if hasattr(self, "ch"):
            if not self.closed:
                self.close()
            self.as_the_model()

    # -- the model ---------------------------------------------------------------------------------

    def model_send(self, v: int) -> Any:
        """True, ChannelClosed, or None for a wait."""
        if self.closed:
            return gorun.ChannelClosed
        if self.receivers:
            self.finish(self.receivers.pop(0), v)
            return True
        if len(self.buffer) < self.capacity:
            self.buffer.append(v)
            return True
        return None

    def model_recv(self) -> Any:
        """A value, ChannelClosed, or None for a wait."""
        if self.buffer:
            v = self.buffer.popleft()
            if self.senders and len(self.buffer) < self.capacity:
                waiter, moved = self.senders.pop(0)
                self.buffer.append(moved)
                self.finish(waiter, "sent")
            return v
        if self.senders:
            waiter, v = self.senders.pop(0)
            self.finish(waiter, "sent")
            return v
        return gorun.ChannelClosed if self.closed else None

    def finish(self, waiter: Waiter, expected: Any) -> None:
        waiter.expected = expected
        self.ended.append(waiter)

    def fresh(self) -> int:
        self.next += 1
        return self.next

    # -- operations --------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS), select=st.booleans())
    def send(self, kind: str, select: bool) -> None:
        v = self.fresh()
        expected = self.model_send(v)

        def block() -> str:
            if select:
                gorun.select(None, gorun.send(self.ch, v))
            else:
                self.ch.send(v)
            return "sent"

        async def wait() -> str:
            if select:
                await gorun.select_async(gorun.send(self.ch, v))
            else:
                await self.ch.send_async(v)
            return "sent"

        waiter = Waiter(kind, block, wait)
        if expected is None:
            self.senders.append((waiter, v))
        else:
            self.finish(waiter, "sent" if expected is True else expected)

    @rule(kind=st.sampled_from(KINDS), select=st.booleans())
    def recv(self, kind: str, select: bool) -> None:
        expected = self.model_recv()

        def block() -> Any:
            if select:
                got = gorun.select(None, self.ch, self.ch)
                if not got.ok:
                    raise gorun.ChannelClosed
                return got.value
            return self.ch.recv()

        async def wait() -> Any:
            if select:
                got = await gorun.select_async(self.ch, None, self.ch)
                if not got.ok:
                    raise gorun.ChannelClosed
                return got.value
            return await self.ch.recv_async()

        waiter = Waiter(kind, block, wait)
        if expected is None:
            self.receivers.append(waiter)
        else:
            self.finish(waiter, expected)

    @rule(how=st.sampled_from(["try", "zero", "short"]))
    def send_now(self, how: str) -> None:
        v = self.fresh()
        expected = self.model_send(v)
        if how == "try":
            got: Any = attempt(lambda: self.ch.try_send(v))
            assert got == (expected or False)
        else:
            got = attempt(lambda: self.ch.send(v, 0 if how == "zero" else 0.0005))
            assert got == (
                TimeoutError if expected is None else None if expected is True else expected
            )

    @rule(how=st.sampled_from(["try", "zero", "short", "default"]))
    def recv_now(self, how: str) -> None:
        expected = self.model_recv()
        if how == "try":
            wanted = gorun.WouldBlock if expected is None else expected
            assert attempt(self.ch.try_recv) == wanted
        elif how == "default":
            got = gorun.select(self.ch, default=True)
            if expected is None:
                assert got == (-1, None, False)
            elif expected is gorun.ChannelClosed:
                assert got == (0, None, False)
            else:
                assert got == (0, expected, True)
        else:
            wanted = TimeoutError if expected is None else expected
            assert attempt(lambda: self.ch.recv(0 if how == "zero" else 0.0005)) == wanted

    @rule(n=st.integers(1, 4))
    def send_many(self, n: int) -> None:
        values = [self.fresh() for _ in range(n)]
        sent: Any = 0
        closed = False
        for v in values:
            r = self.model_send(v)
            if r is not True:
                closed = r is not None
                break
            sent += 1
        if sent == n:
            assert self.ch.send_many(values, timeout=0) == n
            return
        with pytest.raises(gorun.ChannelClosed if closed else gorun.PartialSend) as error:
            self.ch.send_many(values, timeout=0)
        assert error.value.sent == sent  # type: ignore[attr-defined]

    @rule(n=st.integers(1, 5))
    def recv_many(self, n: int) -> None:
        values: list[Any] = []
        first = self.model_recv()
        while isinstance(first, int) and not isinstance(first, bool):
            values.append(first)
            if len(values) == n:
                break
            first = self.model_recv()
        wanted: Any = values or (gorun.ChannelClosed if self.closed else TimeoutError)
        assert attempt(lambda: self.ch.recv_many(n, timeout=0)) == wanted

    @precondition(lambda self: self.receivers or self.senders)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        waiters = [*self.receivers, *(w for w, _ in self.senders)]
        waiter = data.draw(st.sampled_from(waiters))
        self.receivers = [w for w in self.receivers if w is not waiter]
        self.senders = [(w, v) for w, v in self.senders if w is not waiter]
        assert waiter.g.cancel()
        assert end(waiter.g) is gorun.GoroutineCancelled

    @precondition(lambda self: not self.closed and not self.receivers)
    @rule()
    def vanish(self) -> None:
        """A task takes a value and its loop is closed: the value goes back to the front."""
        loop = asyncio.new_event_loop()
        op = self.ch.recv_async()
        task = loop.create_task(self.take(op))
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        expected = self.model_recv()
        if expected is None:
            v = self.fresh()
            self.ch.send(v, LIMIT)  # to the task, or to who was before it
            self.buffer.append(v)
            if self.capacity:
                w = self.fresh()
                self.ch.send(w)
                self.buffer.append(w)
            loop.close()
        else:
            assert loop.run_until_complete(task) == expected
            loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task, op
        until(lambda: gc.collect() >= 0 and len(self.ch) == len(self.buffer))

    @staticmethod
    async def take(op: Any) -> Any:
        return await op

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.ch.close()
        for waiter in [*self.receivers, *(w for w, _ in self.senders)]:
            self.finish(waiter, gorun.ChannelClosed)
        self.receivers, self.senders = [], []

    @precondition(lambda self: self.closed)
    @rule()
    def close_again(self) -> None:
        with pytest.raises(gorun.ChannelClosed):
            self.ch.close()

    @invariant()
    def as_the_model(self) -> None:
        if not hasattr(self, "ch"):
            return
        for waiter in self.ended:
            assert end(waiter.g) == waiter.expected
        self.ended = []
        for waiter in [*self.receivers, *(w for w, _ in self.senders)]:
            assert not waiter.g.done()
        assert len(self.ch) == len(self.buffer)
        assert self.ch.closed is self.closed


def attempt(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return type(error)


class Selects(RuleBasedStateMachine):
    """Several channels: whatever is selected, each value is received once or still there.

    Mutation: a losing case keeps its registration; two cases of one select fire.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chans: list[Chan[int]] = [Chan(0), Chan(0), Chan(1), Chan(2)]
        self.sent: list[int] = []
        self.got: list[int] = []
        self.waiters: list[tuple[gorun.Goroutine[Any], dict[int, int]]] = []
        self.next = 0

    @rule(
        data=st.data(),
        kind=st.sampled_from(KINDS),
        limit=st.sampled_from([None, None, 0, 0.0005]),
        n=st.integers(1, 5),
    )
    def select(self, data: Any, kind: str, limit: float | None, n: int) -> None:
        cases: list[Any] = []
        values: dict[int, int] = {}
        for i in range(n):
            ch = data.draw(st.sampled_from(self.chans))
            what = data.draw(st.sampled_from(["recv", "send", "nil"]))
            if what == "send":
                self.next += 1
                values[i] = self.next
                cases.append(gorun.send(ch, self.next))
            else:
                cases.append(ch if what == "recv" else None)

        async def body() -> Any:
            return await gorun.select_async(*cases, timeout=limit)

        def plain() -> Any:
            return gorun.select(*cases, timeout=limit)

        g = gorun.go(body if kind == "async" else plain)
        until(lambda: parked(g))
        self.waiters.append((g, values))

    # No precondition, and no draw from the waiters: which of them are left is for select to choose.
    @rule(n=st.integers(0, 7))
    def cancel(self, n: int) -> None:
        for g, _ in self.waiters[n : n + 1]:
            g.cancel()
            gorun.wait([g])

    @rule(data=st.data())
    def put(self, data: Any) -> None:
        ch = data.draw(st.sampled_from(self.chans))
        self.next += 1
        if ch.try_send(self.next):
            self.sent.append(self.next)

    @rule(data=st.data())
    def take(self, data: Any) -> None:
        ch = data.draw(st.sampled_from(self.chans))
        got = gorun.select(ch, default=True)
        if got.index == 0:
            self.got.append(got.value)  # type: ignore[arg-type]

    def collect(self) -> None:
        left = []
        for g, values in self.waiters:
            if not g.done():
                left.append((g, values))
                continue
            got = attempt(g.result)
            if not isinstance(got, tuple):
                assert got in (TimeoutError, gorun.GoroutineCancelled)
            elif got[0] in values:
                self.sent.append(values[got[0]])
            else:
                assert got[2] is True
                self.got.append(got[1])
        self.waiters = left

    @invariant()
    def nothing_lost_or_doubled(self) -> None:
        # A select that has fired may still be on its way to its end.
        def holds() -> bool:
            self.collect()
            there = sum(len(ch) for ch in self.chans)
            return len(self.sent) == len(self.got) + there

        until(holds)
        assert len(set(self.got)) == len(self.got)
        assert set(self.got) <= set(self.sent)

    def teardown(self) -> None:
        for g, _ in self.waiters:
            g.cancel()
        gorun.wait([g for g, _ in self.waiters])
        self.collect()
        for ch in self.chans:
            ch.close()
            self.got.extend(ch)
        assert sorted(self.got) == sorted(self.sent)


class Semaphores(RuleBasedStateMachine):
    """Units, first come first served, with weights, time-outs and cancels.

    Mutation: a newcomer passes; a waiter that gave up holds the next ones up; units are lost.
    """

    @initialize(value=st.integers(0, 5), bounded=st.booleans())
    def make(self, value: int, bounded: bool) -> None:
        self.sem = gorun.Semaphore(value, bounded=bounded)
        self.bound = value if bounded else None
        self.free = value
        self.queue: list[tuple[Waiter, int]] = []
        self.ended: list[Waiter] = []

    def admit(self) -> None:
        while self.queue and self.queue[0][1] <= self.free:
            waiter, n = self.queue.pop(0)
            self.free -= n
            waiter.expected = True
            self.ended.append(waiter)

    def fits(self, n: int) -> bool:
        return self.bound is None or n <= max(self.bound, 1)

    @rule(n=st.integers(1, 6), kind=st.sampled_from(KINDS))
    def acquire(self, n: int, kind: str) -> None:
        if not self.fits(n):
            with pytest.raises(ValueError, match="above"):
                self.sem.acquire(n=n)
            return
        now = not self.queue and n <= self.free
        waiter = Waiter(kind, lambda: self.sem.acquire(n=n), lambda: self.sem.acquire_async(n=n))
        if now:
            self.free -= n
            waiter.expected = True
            self.ended.append(waiter)
        else:
            self.queue.append((waiter, n))

    @rule(n=st.integers(1, 6), how=st.sampled_from(["try", "not blocking", "zero", "short"]))
    def acquire_now(self, n: int, how: str) -> None:
        if not self.fits(n):
            return
        now = not self.queue and n <= self.free
        if how == "try":
            got = self.sem.try_acquire(n)
        elif how == "not blocking":
            got = self.sem.acquire(False, n=n)
        else:
            got = self.sem.acquire(True, 0 if how == "zero" else 0.0005, n=n)
        assert got is now
        if now:
            self.free -= n

    @rule(n=st.integers(1, 6))
    def release(self, n: int) -> None:
        if self.bound is not None and self.free + n > self.bound:
            with pytest.raises(ValueError, match="too many"):
                self.sem.release(n)
            return
        self.sem.release(n)
        self.free += n
        self.admit()

    @precondition(lambda self: getattr(self, "queue", None))
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        i = data.draw(st.sampled_from(range(len(self.queue))))
        waiter, _ = self.queue.pop(i)
        assert waiter.g.cancel()
        assert end(waiter.g) is gorun.GoroutineCancelled
        self.admit()

    @invariant()
    def as_the_model(self) -> None:
        if not hasattr(self, "sem"):
            return
        for waiter in self.ended:
            assert end(waiter.g) == waiter.expected
        self.ended = []
        assert not any(w.g.done() for w, _ in self.queue)
        assert self.sem._gate.value() == self.free
        assert self.sem._gate.waiting() == len(self.queue)

    def teardown(self) -> None:
        for waiter, _ in getattr(self, "queue", ()):
            waiter.g.cancel()
        gorun.wait([w.g for w, _ in getattr(self, "queue", ())])


class ChannelTimers(RuleBasedStateMachine):
    """A timer with a channel is pending, has its value there, or neither; stop and reset empty it.

    Mutation: a stale value after `reset`; `stop` says False while its value was not received.
    """

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[gorun.Timer] = []
        self.state: list[str] = []  # "pending", "fired", "off"

    def set(self, i: int, soon: bool) -> None:
        self.state[i] = "fired" if soon else "pending"
        if soon:
            until(lambda: gorun.stats().timers == self.state.count("pending"))
            until(lambda: not self.busy())

    @staticmethod
    def busy() -> bool:
        s = gorun.stats()
        return s.runnable + s.running > 0

    def one(self, data: Any) -> int:
        i: int = data.draw(st.sampled_from(range(len(self.timers))))
        return i

    @rule(soon=st.booleans())
    def make(self, soon: bool) -> None:
        self.timers.append(gorun.Timer(0 if soon else 3600))
        self.state.append("")
        self.set(len(self.timers) - 1, soon)

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def stop(self, data: Any) -> None:
        i = self.one(data)
        fired = self.state[i] == "fired"
        if fired:
            # Its step may still be under way: the value is then not delivered. Either way nothing was received.
            assert self.timers[i].stop() is True
        else:
            assert self.timers[i].stop() is (self.state[i] == "pending")
        self.state[i] = "off"

    @precondition(lambda self: self.timers)
    @rule(data=st.data(), soon=st.booleans())
    def reset(self, data: Any, soon: bool) -> None:
        i = self.one(data)
        assert self.timers[i].reset(0 if soon else 3600) is (self.state[i] != "off")
        self.set(i, soon)

    @precondition(lambda self: self.timers)
    @rule(data=st.data(), how=st.sampled_from(["recv", "select", "try"]))
    def take(self, data: Any, how: str) -> None:
        i = self.one(data)
        ch: Any = self.timers[i].chan
        if self.state[i] == "fired":
            self.state[i] = "off"
            assert ch.recv(LIMIT) > 0
        elif how == "try":
            with pytest.raises(gorun.WouldBlock):
                ch.try_recv()
        elif how == "select":
            assert gorun.select(ch, default=True).index == -1
        else:
            with pytest.raises(TimeoutError):
                ch.recv(0.0003)

    @invariant()
    def as_the_model(self) -> None:
        until(lambda: gorun.stats().timers == self.state.count("pending"))
        assert all(len(t.chan) == 0 for t in self.timers)  # type: ignore[arg-type]

    def teardown(self) -> None:
        self.timers.clear()
        until(lambda: gc.collect() >= 0 and gorun.stats().timers == 0)


@pytest.mark.parametrize(
    "machine", [Channels, Selects, Semaphores, ChannelTimers], ids=lambda m: m.__name__
)
def test_against_a_model(machine: type[RuleBasedStateMachine]) -> None:
    run_machine(machine)
