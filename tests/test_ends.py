"""Each waiting operation of channels, select and locks x each caller x each end: nothing is lost or doubled.

Callers and `end_of` are those of test_matrix. A scene is an operation with what makes it happen, what it then
answers, what it answers when the time is up, and a check of what is there afterwards. "Mutation:" names the change
to the code that makes a test fail.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.test_matrix import (
    LIMIT,
    SHORT,
    BlockingInAsync,
    InAsync,
    InMain,
    InPlain,
    InTask,
    InThread,
    end_of,
    end_of_async,
    until,
)

import gorun
from gorun import Chan, Selected, recv, select, select_async, send

Limit = float | None
Check = Callable[[bool], None]


@dataclass
class Scene:
    block: Callable[[Limit], Any]
    wait: Callable[[Limit], Awaitable[Any]]
    ready: Callable[[], object]
    value: Any
    check: Check
    """Called after the end, told whether the operation happened."""
    late: tuple[str, Any] = ("timeout", None)


def started(fn: Callable[[], object]) -> gorun.Goroutine[Any]:
    """Runs `fn` in a goroutine, and waits until it has ended or waits."""
    g = gorun.go(fn)
    until(
        lambda: g.done() or any(i.id == g.id and i.state == "blocked" for i in gorun.goroutines())
    )
    return g


def nothing_in(ch: Chan[Any]) -> None:
    with pytest.raises(gorun.WouldBlock):
        ch.try_recv()


# ---- receives --------------------------------------------------------------------------------------


def receiving(capacity: int, block: Any, wait: Any, value: Any) -> Scene:
    ch: Chan[str] = Chan(capacity)
    senders: list[gorun.Goroutine[Any]] = []

    def ready() -> None:
        senders.append(started(lambda: ch.send("v")))

    def check(happened: bool) -> None:
        if not happened:
            ready()
            assert ch.recv(LIMIT) == "v"
        for g in senders:
            g.result(LIMIT)
        nothing_in(ch)
        assert len(senders) == 1

    return Scene(lambda t: block(ch, t), lambda t: wait(ch, t), ready, value, check)


def recv_0() -> Scene:
    return receiving(0, Chan.recv, Chan.recv_async, "v")


def recv_1() -> Scene:
    return receiving(1, Chan.recv, Chan.recv_async, "v")


def recv_ok() -> Scene:
    return receiving(0, Chan.recv_ok, Chan.recv_ok_async, ("v", True))


def recv_many() -> Scene:
    def block(ch: Chan[str], t: Limit) -> Any:
        return ch.recv_many(3, t)

    def wait(ch: Chan[str], t: Limit) -> Any:
        return ch.recv_many_async(3, timeout=t)

    return receiving(2, block, wait, ["v"])


def view_recv() -> Scene:
    def block(ch: Chan[str], t: Limit) -> Any:
        return ch.receiver().recv(timeout=t)

    def wait(ch: Chan[str], t: Limit) -> Any:
        return ch.receiver().recv_async(timeout=t)

    return receiving(0, block, wait, "v")


def select_recv() -> Scene:
    other: Chan[int] = Chan()

    def block(ch: Chan[str], t: Limit) -> Any:
        return select(recv(None), other, recv(ch), timeout=t)

    def wait(ch: Chan[str], t: Limit) -> Any:
        return select_async(None, other, ch, timeout=t)

    return receiving(0, block, wait, Selected(2, "v", True))


def select_twice_the_same() -> Scene:
    # Mutation: `delist` takes out the winner's node only: the next value goes to nobody.
    def block(ch: Chan[str], t: Limit) -> Any:
        return select(ch, ch, timeout=t)[1:]

    async def wait(ch: Chan[str], t: Limit) -> Any:
        return (await select_async(ch, recv(ch), timeout=t))[1:]

    return receiving(1, block, wait, ("v", True))


# ---- sends -----------------------------------------------------------------------------------------


def sending(capacity: int, block: Any, wait: Any, value: Any) -> Scene:
    ch: Chan[str] = Chan(capacity)
    before = [str(n) for n in range(capacity)]
    for v in before:
        ch.send(v)
    got: list[str] = []
    takers: list[gorun.Goroutine[Any]] = []

    def ready() -> None:
        takers.append(started(lambda: got.append(ch.recv())))

    def check(happened: bool) -> None:
        for g in takers:
            g.result(LIMIT)
        while len(ch):
            got.append(ch.try_recv())
        assert got == [*before, *(["v"] if happened else [])]
        nothing_in(ch)

    return Scene(lambda t: block(ch, t), lambda t: wait(ch, t), ready, value, check)


def send_0() -> Scene:
    return sending(
        0, lambda ch, t: ch.send("v", t), lambda ch, t: ch.send_async("v", timeout=t), None
    )


def send_2() -> Scene:
    return sending(
        2, lambda ch, t: ch.sender().send("v", t), lambda ch, t: ch.send_async("v", t), None
    )


def select_send() -> Scene:
    nobody: Chan[int] = Chan()

    def block(ch: Chan[str], t: Limit) -> Any:
        return select(send(nobody, 1), send(ch, "v"), nobody, timeout=t)

    def wait(ch: Chan[str], t: Limit) -> Any:
        return select_async(send(nobody, 1), send(ch, "v"), nobody, timeout=t)

    return sending(0, block, wait, Selected(1, None, True))


def send_many() -> Scene:
    ch: Chan[str] = Chan(1)
    got: list[str] = []
    takers: list[gorun.Goroutine[Any]] = []

    def ready() -> None:
        takers.append(started(lambda: got.extend(ch)))

    def check(happened: bool) -> None:
        ch.close()
        for g in takers:
            g.result(LIMIT)
        got.extend(ch)
        assert "".join(got) == "abc" if happened else "abc".startswith("".join(got))

    return Scene(
        lambda t: ch.send_many("abc", t),
        lambda t: ch.send_many_async("abc", timeout=t),
        ready,
        3,
        check,
    )


def select_goroutine() -> Scene:
    gate = gorun.Event()
    g = gorun.go(gate.wait)
    ch: Chan[int] = Chan()

    def ready() -> None:
        gate.set()
        until(g.done)

    def check(happened: bool) -> None:
        gate.set()
        assert g.result(LIMIT) is True

    return Scene(
        lambda t: select(ch, g, timeout=t),
        lambda t: select_async(ch, g, timeout=t),
        ready,
        Selected(1, None, True),
        check,
    )


# ---- locks -----------------------------------------------------------------------------------------

FALSE = ("value", False)


def forever(t: Limit) -> float:
    return -1 if t is None else max(t, 0)


def locking(lock: Any, release: Callable[[], object], still_free: Callable[[], bool]) -> Scene:
    """`lock` is taken by another one; `release` frees it."""
    freed: list[int] = []

    def ready() -> None:
        freed.append(1)
        release()

    def check(happened: bool) -> None:
        if not happened and not freed:
            ready()
        if happened:
            assert lock.acquire(False) is False
            lock.release()
        assert still_free()

    return Scene(
        lambda t: lock.acquire(True, forever(t)),
        lambda t: lock.acquire_async(timeout=forever(t)),
        ready,
        True,
        check,
        FALSE,
    )


def mutex() -> Scene:
    lock = gorun.Mutex()
    assert lock.acquire()
    return locking(lock, lock.release, lambda: lock.acquire(False))


def reader() -> Scene:
    lock = gorun.RWMutex()
    lock.writer.acquire()
    s = locking(lock.reader, lock.writer.release, lambda: lock.writer.acquire(False))

    def check(happened: bool) -> None:
        if not lock.reader.locked():
            lock.writer.release()
        assert lock.reader.locked() is happened
        assert lock.writer.acquire(False) is not happened

    s.check = check
    return s


def writer() -> Scene:
    lock = gorun.RWMutex()
    lock.reader.acquire()
    return locking(lock.writer, lock.reader.release, lambda: lock.reader.acquire(False))


def semaphore() -> Scene:
    sem = gorun.Semaphore(3)
    sem.acquire(n=2)
    freed: list[int] = []

    def ready() -> None:
        freed.append(1)
        sem.release()

    def check(happened: bool) -> None:
        free = 1 + len(freed) - (2 if happened else 0)
        assert not sem.try_acquire(free + 1)
        assert free == 0 or sem.try_acquire(free)

    return Scene(
        lambda t: sem.acquire(timeout=t, n=2),
        lambda t: sem.acquire_async(timeout=t, n=2),
        ready,
        True,
        check,
        FALSE,
    )


def event() -> Scene:
    e = gorun.Event()
    return Scene(e.wait, e.wait_async, e.set, True, lambda _: None, FALSE)


def wait_group() -> Scene:
    wg = gorun.WaitGroup()
    wg.add(2)

    def ready() -> None:
        wg.done()
        wg.done()

    return Scene(wg.wait, wg.wait_async, ready, None, lambda _: None)


def cond() -> Scene:
    c = gorun.Cond()
    state: list[int] = []

    def block(t: Limit) -> Any:
        with c:
            return bool(c.wait_for(lambda: state, t))

    async def wait(t: Limit) -> Any:
        async with c:
            return bool(await c.wait_for_async(lambda: state, t))

    def ready() -> None:
        with c:
            state.append(1)
            c.notify()

    def check(happened: bool) -> None:
        # Mutation: `wait` does not take its lock again, or keeps it.
        assert not c.locked()
        if not happened:
            # Nobody is left in the queue to swallow this call.
            g = gorun.go(c.acquire)
            assert g.result(LIMIT)
            c.release()
            assert c._calls.waiting() == 0

    return Scene(block, wait, ready, True, check, FALSE)


SCENES = [
    *(recv_0, recv_1, recv_ok, recv_many, view_recv, select_recv, select_twice_the_same),
    *(send_0, send_2, select_send, send_many, select_goroutine),
    *(mutex, reader, writer, semaphore, event, wait_group, cond),
]
BLOCKING = [InThread, InMain, InPlain, BlockingInAsync]
AWAITING = [InAsync, InTask]
CALLERS = [*BLOCKING, *AWAITING]
CUT = [InPlain, BlockingInAsync, *AWAITING]

every_scene = pytest.mark.parametrize("make", SCENES, ids=lambda m: m.__name__)
every_caller = pytest.mark.parametrize("caller", CALLERS, ids=lambda c: c.__name__)


def start(caller: Any, s: Scene, limit: Limit) -> Any:
    return caller(s.wait if caller in AWAITING else s.block, limit)


def settle(s: Scene, make: Any, happened: bool) -> None:
    """After `ready`: if the operation was cut, another one finds everything as it was."""
    if not happened and make is not send_many:
        assert end_of(lambda: s.block(LIMIT)) == ("value", s.value)
        happened = True
    s.check(happened)


@every_scene
@every_caller
@pytest.mark.parametrize("limit", [None, 0])
def test_at_once(caller: Any, make: Any, limit: Limit) -> None:
    """What can happen at once does, also without time. Mutation: look at the time-out first."""
    s = make()
    s.ready()
    if make is send_many:
        limit = None  # it takes turns with the receiver
    assert start(caller, s, limit).outcome() == ("value", s.value)
    s.check(True)


@every_scene
@every_caller
@pytest.mark.parametrize("limit", [None, LIMIT])
def test_done_while_it_waits(caller: Any, make: Any, limit: Limit) -> None:
    """Who waits is woken. Mutation: `Wakeup::wake` left out anywhere."""
    s = make()
    c = start(caller, s, limit)
    if caller is InMain:
        later = threading.Timer(SHORT, s.ready)
        later.start()
        assert c.outcome() == ("value", s.value)
        later.join()
    else:
        until(c.waits)
        s.ready()
        assert c.outcome() == ("value", s.value)
    s.check(True)


@every_scene
@every_caller
@pytest.mark.parametrize("limit", [SHORT, 0, -1.0])
def test_timed_out(caller: Any, make: Any, limit: float) -> None:
    """Out of time nothing has happened, nor will. Mutation: no `delist` at a time-out."""
    s = make()
    began = time.monotonic()
    assert start(caller, s, limit).outcome() == s.late
    assert time.monotonic() - began >= max(limit, 0)
    s.check(False)


@every_scene
@pytest.mark.parametrize("caller", CUT, ids=lambda c: c.__name__)
def test_cancelled_while_it_waits(caller: Any, make: Any) -> None:
    """A cancel cuts the wait, and nothing is taken. Mutation: `arm(false)`; no `delist` at a cancel."""
    s = make()
    c = start(caller, s, None)
    until(c.waits)
    c.cancel()
    assert c.outcome() == ("cancelled", "why")
    s.check(False)


@every_scene
@pytest.mark.parametrize("kind", ["awaits", "plain", "blocks"])
@pytest.mark.parametrize("limit", [None, 0])
def test_cancelled_on_entry(make: Any, kind: str, limit: Limit) -> None:
    """A pending cancel comes first, also if it could go on (rule 5). Mutation: no `cancel_point` in `perform`."""
    s = make()
    s.ready()

    async def awaits() -> tuple[str, Any]:
        gorun.current().cancel("on entry")  # type: ignore[union-attr]
        return await end_of_async(lambda: s.wait(limit))

    def plain() -> tuple[str, Any]:
        gorun.current().cancel("on entry")  # type: ignore[union-attr]
        return end_of(lambda: s.block(limit))

    async def blocks() -> tuple[str, Any]:
        return plain()

    body: Any = {"awaits": awaits, "plain": plain, "blocks": blocks}[kind]
    assert gorun.go(body).result(LIMIT) == ("cancelled", "on entry")
    settle(s, make, False)


async def end_and_later(s: Scene, out: list[tuple[str, Any]]) -> None:
    """Appends the end, and what the next await raises."""
    out.append(await end_of_async(lambda: s.wait(None)))
    out.append(await end_of_async(gorun.gosched_async))


@every_scene
@pytest.mark.parametrize("caller", [InAsync, InTask], ids=lambda c: c.__name__)
def test_cancelled_in_the_same_instant(caller: Any, make: Any) -> None:
    """One compare-and-swap decides between ready and cancel: it happened, or nothing did.

    And a cancel that came too late is raised at the next await. Mutation: a deliverer that lost does
    not take its value back; no `uncancel` and `cancel` in `asyncio_wait`.
    """
    ends = set()
    for n in range(10):
        s = make()
        out: list[tuple[str, Any]] = []
        if caller is InAsync:
            g = gorun.go(end_and_later, s, out)
            until(
                lambda g=g: any(i.id == g.id and i.state == "waiting" for i in gorun.goroutines())
            )
            first, second = [(s.ready, g.cancel), (g.cancel, s.ready)][n % 2]
            first()
            second()
            g.exception(LIMIT)
        else:

            async def main(n: int = n, s: Scene = s, out: Any = out) -> None:
                task = asyncio.create_task(end_and_later(s, out))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                ready = threading.Thread(target=s.ready)
                ready.start()
                if n % 3 == 0:
                    ready.join()
                elif n % 3 == 1:
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.wait([task])
                await asyncio.to_thread(ready.join)

            asyncio.run(main())
        kind, value = out[0]
        assert (kind, value) in (("value", s.value), ("cancelled", None))
        if kind == "cancelled":
            assert out[1] == ("value", None)
        ends.add(kind)
        settle(s, make, kind == "value")
    assert ends
