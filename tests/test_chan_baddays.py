"""Bad days of channels and select: vanished takers, signals, destructors, cycles, races, forks.

"Mutation:" names the change to the code that makes the test fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests import _child
from tests.test_ends import started
from tests.test_matrix import LIMIT, until

import gorun
from gorun import Chan, recv, select, select_async, send

# ---- the taker has vanished ----------------------------------------------------------------------

TAKES: dict[str, Callable[[Chan[Any]], Any]] = {
    "recv": lambda ch: ch.recv_async(),
    "recv_ok": lambda ch: ch.recv_ok_async(),
    "recv_many": lambda ch: ch.recv_many_async(3),
    "anext": lambda ch: anext(ch),
    "select": lambda ch: select_async(None, ch),
}


def abandoned(make: Callable[[], Any], deliver: Callable[[], object], how: str) -> None:
    """A task waits for `make()`; `deliver` is called; the task never runs again."""
    loop = asyncio.new_event_loop()

    async def body() -> None:
        await make()

    task = loop.create_task(body())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    if how == "closed":
        loop.close()  # nobody can be called any more
        deliver()
    else:
        deliver()  # the loop was told, and has no more turns
        loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()


@pytest.mark.parametrize("how", ["closed", "closed later"])
@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
@pytest.mark.parametrize("capacity", [0, 2])
def test_the_value_goes_back_to_the_front(take: Any, how: str, capacity: int) -> None:
    """Of a task whose loop is closed. Mutation: `_vanished` without `undo`; `put_back` at the end."""
    ch: Chan[str] = Chan(capacity)

    def deliver() -> None:
        ch.send("first", LIMIT)
        if capacity:
            ch.send("second")

    abandoned(lambda: take(ch), deliver, how)
    until(lambda: gc.collect() >= 0 and len(ch) == 1 + bool(capacity))
    assert ch.recv(LIMIT) == "first"
    if capacity:
        assert ch.recv(LIMIT) == "second"
    with pytest.raises(gorun.WouldBlock):
        ch.try_recv()


@pytest.mark.parametrize("how", ["closed", "closed later"])
def test_it_goes_to_the_next_who_waits(how: str) -> None:
    """Mutation: `put_back` wakes nobody."""
    ch: Chan[str] = Chan()
    out: list[gorun.Goroutine[Any]] = []

    def deliver() -> None:
        out.append(started(ch.recv))
        ch.send("v", LIMIT)

    abandoned(lambda: ch.recv_async(), deliver, how)
    until(lambda: gc.collect() >= 0 and out[0].done())
    assert out[0].result(LIMIT) == "v"


@pytest.mark.parametrize("how", ["closed", "closed later"])
def test_what_a_vanished_task_was_granted_is_given_back(how: str) -> None:
    """Locks, units, calls. Mutation: `undo` left out for any of them."""
    mu, sem, rw, cond = gorun.Mutex(), gorun.Semaphore(2), gorun.RWMutex(), gorun.Cond()
    mu.acquire()
    abandoned(mu.acquire_async, mu.release, how)
    until(lambda: gc.collect() >= 0 and mu.acquire(False))
    mu.release()
    mu.acquire()

    def late() -> None:
        time.sleep(0.003)
        mu.release()  # handed over

    abandoned(mu.acquire_async, late, how)
    until(lambda: gc.collect() >= 0 and mu.acquire(False))
    # The first of the two may have been told only now: then the second waits, for as long as it is locked.
    mu.release()
    sem.acquire(n=2)
    abandoned(lambda: sem.acquire_async(n=2), lambda: sem.release(2), how)
    until(lambda: gc.collect() >= 0 and sem.try_acquire(2))
    rw.writer.acquire()
    abandoned(rw.reader.acquire_async, rw.writer.release, how)
    until(lambda: gc.collect() >= 0 and rw.writer.acquire(False))
    abandoned(rw.writer.acquire_async, rw.writer.release, how)
    until(lambda: gc.collect() >= 0 and rw.writer.acquire(False))

    async def wait() -> None:
        async with cond:
            await cond.wait_async()

    others: list[gorun.Goroutine[Any]] = []

    def call() -> None:
        others.append(gorun.go(wait))
        until(lambda: cond._calls.waiting() == 2)
        with cond:
            cond.notify()

    abandoned(wait, call, how)
    until(lambda: gc.collect() >= 0 and others[0].done())


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_a_task_that_lives_on_without_its_loop(take: Any) -> None:
    """The loop was told and closed before its next turn; the task is still referred to, and never runs again.

    Mutation: no `Drop` of `PyTold`: the value is lost while the task lives.
    """
    for _ in range(20):
        ch: Chan[str] = Chan(1)
        loop = asyncio.new_event_loop()

        async def body(ch: Chan[str] = ch) -> None:
            await take(ch)

        task = loop.create_task(body())
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        ch.send("v", LIMIT)
        until(lambda loop=loop: loop._ready)  # type: ignore[misc]
        loop.close()
        # Without a GIL what an M made is freed by that M, or by the collector.
        until(lambda ch=ch: len(ch) == 1 or (gc.collect() >= 0 and len(ch) == 1))  # type: ignore[misc]
        assert ch.recv(LIMIT) == "v"
        assert not task.done()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()
        with pytest.raises(gorun.WouldBlock):
            ch.try_recv()


def test_a_loop_that_closes_in_the_middle_of_a_wake() -> None:
    """Its queue takes one more callback, which nobody runs, though the loop itself is kept.

    Mutation: `_wake` that does not look whether the loop is closed (free-threaded builds).
    """

    async def take(op: Any) -> Any:
        return await op

    for _ in range(200):
        ch: Chan[int] = Chan(3)
        loop = asyncio.new_event_loop()
        task = loop.create_task(take(ch.recv_async()))
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        ch.send(1)
        ch.send(2)
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        until(lambda ch=ch: len(ch) == 2 or (gc.collect() >= 0 and len(ch) == 2))  # type: ignore[misc]
        assert ch.recv_many(2) == [1, 2]


def test_a_thrown_into_operation_gives_back() -> None:
    """`close` and `throw` of an operation that has its value. Mutation: `withdraw` drops it."""
    ch: Chan[int] = Chan(1)

    async def body() -> None:
        await ch.recv_async()

    for end in ("close", "throw"):
        loop = asyncio.new_event_loop()
        coro = body()
        task = loop.create_task(coro)
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        ch.send(7)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if end == "close":
            coro.close()
        else:
            with pytest.raises(LookupError):
                coro.throw(LookupError("thrown"))
        assert ch.try_recv() == 7
        loop.close()
        del task, coro
        gc.collect()


# ---- in the same instant -------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["recv", "select", "send"])
@pytest.mark.parametrize("kind", ["async", "plain", "timeout"])
def test_cancelled_or_late_in_the_instant_it_was_woken(op: str, kind: str) -> None:
    """Many rounds: what was sent is received once, by it or by the next. Mutation: no compare-and-swap."""
    rounds = 300 if kind == "async" else 100
    ends = {True: 0, False: 0}
    for n in range(rounds):
        ch: Chan[int] = Chan()
        limit = 0.0004 if kind == "timeout" else None

        async def awaits(ch: Any = ch, n: int = n) -> Any:
            if op == "recv":
                return await ch.recv_async()
            if op == "select":
                return (await select_async(None, ch, ch)).value
            return await ch.send_async(n)

        def plain(ch: Any = ch, n: int = n, limit: Any = limit) -> Any:
            if op == "recv":
                return ch.recv(limit)
            if op == "select":
                return select(None, ch, ch, timeout=limit).value
            return ch.send(n, limit)

        g = gorun.go(awaits if kind == "async" else plain)
        if kind != "timeout":
            until(lambda g=g: any(i.id == g.id and i.wait_reason for i in gorun.goroutines()))
        other: Any = ch.recv if op == "send" else lambda ch=ch, n=n: ch.send(n)
        h = gorun.go(other)
        if kind != "timeout":
            if n % 3 == 0:
                gorun.gosched()
            g.cancel()
        try:
            value = g.result(LIMIT)
            happened = True
        except (gorun.GoroutineCancelled, TimeoutError):
            happened = False
        ends[happened] += 1
        if happened:
            assert op == "send" or value == n
            assert h.result(LIMIT) == (n if op == "send" else None)
        elif op == "send":
            ch.send(n + 1, LIMIT)
            assert h.result(LIMIT) == n + 1
        else:
            assert ch.recv(LIMIT) == n
            h.result(LIMIT)
        with pytest.raises(gorun.WouldBlock):
            ch.try_recv()
    assert sum(ends.values()) == rounds


# ---- signals -------------------------------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    "wait",
    [
        "ch.recv()",
        "ch.recv(30)",
        "full.send('x')",
        "gorun.select(ch, gorun.send(full, 'x'))",
        "next(ch)",
        "full.send_many('xyz')",
        "ch.recv_many(3)",
    ],
)
def test_ctrl_c_in_a_wait(wait: str) -> None:
    """Nothing was sent or taken, and nothing is left in the queues. Mutation: no `delist` on `Round::Failed`."""
    _child.run(
        f"""
        ch, full = gorun.Chan(), gorun.Chan(1)
        full.send('first')
        for _ in range(2):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                {wait}
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("no KeyboardInterrupt")
        assert not ch.try_send('nobody')
        assert full.try_recv() == 'first'
        assert len(full) == 0
        g = go(ch.recv)
        ch.send('somebody', 10)
        assert g.result(10) == 'somebody'
        """
    )


@pytest.mark.no_matrix
def test_a_handler_that_uses_the_channel_it_interrupted() -> None:
    """The waiting thread steps aside: its handler may take, send, select, close.

    Mutation: no `aside`: what the handler sends is given to the wait below it.
    """
    _child.run(
        """
        ch, out = gorun.Chan(), []
        def handler(*_):
            out.append('handler')
            # The thread that waits in `ch.recv()` is this one: it gets nothing meanwhile.
            assert not ch.try_send('x')
            try:
                ch.try_recv()
            except gorun.WouldBlock:
                pass
            g = go(ch.send, 'for the handler')
            out.append(ch.recv(10))
            g.result(10)
            assert gorun.select(ch, timeout=0.01, default=True).index == -1
        signal.signal(signal.SIGUSR1, handler)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        threading.Timer(0.5, ch.send, ('for the waiter',)).start()
        out.append(ch.recv(20))
        assert out == ['handler', 'for the handler', 'for the waiter'], out

        def close(*_):
            ch.close()
        signal.signal(signal.SIGUSR1, close)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert ch.recv_ok() == (None, False)

        mu = gorun.Mutex()
        mu.acquire()
        signal.signal(signal.SIGUSR1, lambda *_: mu.release())
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert mu.acquire(timeout=20)

        event = gorun.Event()
        signal.signal(signal.SIGUSR1, lambda *_: (event.set(), event.clear()))
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert event.wait(20)
        """
    )


@pytest.mark.no_matrix
def test_a_waiter_keeps_its_place_while_handlers_run() -> None:
    """Mutation: an interrupted waiter enlists at the end."""
    _child.run(
        """
        ch, got = gorun.Chan(), []
        signal.signal(signal.SIGUSR1, lambda *_: None)
        def later():
            time.sleep(0.1)
            g = go(lambda: got.append(('second', ch.recv())))
            while not any(i.state == 'blocked' for i in gorun.goroutines()):
                time.sleep(0.001)
            for _ in range(5):
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.03)
            ch.send(1)
            ch.send(2)
            g.result(10)
        t = threading.Thread(target=later)
        t.start()
        got.append(('first', ch.recv()))
        t.join()
        assert sorted(got) == [('first', 1), ('second', 2)], got
        """
    )


# ---- destructors ---------------------------------------------------------------------------------


class UsesItsChannel:
    """Not a local class: 3.13t keeps those, and what they close over, if another thread drops an instance."""

    def __init__(self, ch: Chan[Any], seen: list[str]) -> None:
        self.ch, self.seen = ch, seen

    def __del__(self) -> None:
        self.ch.try_send("from del")
        with contextlib.suppress(gorun.WouldBlock, gorun.ChannelClosed):
            self.ch.try_recv()
        self.seen.append("del")


def test_values_whose_del_uses_the_channel() -> None:
    """While they are dropped by any method. Mutation: a value is dropped under the lock: it hangs."""
    seen: list[str] = []
    ch: Chan[Any] = Chan(4)

    def value() -> UsesItsChannel:
        return UsesItsChannel(ch, seen)

    ch.send(value())
    ch.recv()
    with pytest.raises(TimeoutError):
        Chan[Any]().send(value(), 0.001)
    select(send(Chan(), value()), default=True)
    g = started(lambda: ch.recv_ok())
    ch.send(value())
    del g
    full: Chan[Any] = Chan()
    with pytest.raises(gorun.PartialSend):
        full.send_many([value(), value()], timeout=0.001)
    full.close()
    with pytest.raises(gorun.ChannelClosed):
        full.send(value())
    with pytest.raises(gorun.ChannelClosed):
        full.try_send(value())
    until(lambda: gc.collect() >= 0 and len(seen) == 8)

    class Own:
        """Uses the channel whose buffer it is in, when that goes."""

        def __init__(self, box: Chan[Any]) -> None:
            self.box = box

        def __del__(self) -> None:
            self.box.try_send(1)
            seen.append("own")

    box: Chan[Any] = Chan(2)
    box.send(Own(box))
    del box
    gc.collect()
    until(lambda: "own" in seen)


def test_del_in_the_arguments_of_waiting_operations() -> None:
    """A cancelled sender drops its value, whose destructor uses gorun. Mutation: dropped detached."""
    out: list[Any] = []

    class Value:
        def __del__(self) -> None:
            out.append(gorun.go(abs, -3).result(LIMIT))

    ch: Chan[Any] = Chan()

    async def body() -> None:
        await ch.send_async(Value())

    def plain() -> None:
        ch.send(Value())

    for fn in (body, plain):
        g = gorun.go(fn)
        until(lambda: any(i.wait_reason for i in gorun.goroutines()))
        g.cancel()
        gorun.wait([g])
        del g
    until(lambda: gc.collect() >= 0 and out == [3, 3])


# ---- cycles --------------------------------------------------------------------------------------


class Thing:
    it: Any


def chan_holds_itself() -> Any:
    thing = Thing()
    thing.it = Chan(2)
    thing.it.send(thing)
    thing.it.send(thing.it)
    return thing


def view_in_its_channel() -> Any:
    thing = Thing()
    ch: Chan[Any] = Chan(3)
    thing.it = ch.receiver()
    ch.send_many([thing, ch.sender()])
    return thing


def case_in_a_channel() -> Any:
    thing = Thing()
    ch: Chan[Any] = Chan(3)
    thing.it = send(ch, thing)
    ch.send_many([thing.it, recv(ch)])
    return thing


def operation() -> Any:
    thing = Thing()
    ch: Chan[Any] = Chan(1)
    ch.send(thing)
    thing.it = [ch.recv_async(), ch.send_async(thing), ch.send_many_async([thing, thing])]
    thing.it.append(select_async(send(ch, thing), recv(ch)))
    for op in thing.it:
        op.close()
    return thing


def timer() -> Any:
    thing = Thing()
    thing.it = [gorun.Timer(3600), gorun.after(3600), gorun.Ticker(3600)]
    thing.it += [thing.it[0].chan, Chan(1)]
    thing.it[-1].send(thing)
    return thing


def ended_goroutine() -> Any:
    thing = Thing()
    ch: Chan[Any] = Chan(1)

    async def body() -> Any:
        await ch.send_async(thing)
        return ch

    g = gorun.go(body)
    until(g.done)
    thing.it = g
    return thing


def locks() -> Any:
    thing = Thing()
    cond = gorun.Cond()
    thing.it = [cond, gorun.Barrier(2, action=lambda: thing), gorun.WaitGroup(), gorun.Event()]
    return thing


MAKES = [
    *(chan_holds_itself, view_in_its_channel, case_in_a_channel, operation),
    *(timer, ended_goroutine, locks),
]


@pytest.mark.parametrize("make", MAKES, ids=lambda m: m.__name__)
def test_cycles_are_collected(make: Callable[[], Any]) -> None:
    """Mutation: `traverse` or `clear` of that type left out."""
    thing = make()
    ref = weakref.ref(thing)
    del thing
    until(lambda: gc.collect() >= 0 and ref() is None)


def test_a_channel_of_waiters_is_not_collected() -> None:
    """Live goroutines are held (rule 6), and with them what they wait for. Mutation: the queue holds no reference."""
    out: list[Any] = []

    async def body() -> None:
        ch: Chan[int] = Chan()
        weak.append(weakref.ref(ch))
        out.append(await select_async(ch, stop))

    stop: Chan[int] = Chan()
    weak: list[Any] = []
    gorun.go(body)
    until(lambda: gorun.stats().waiting == 1)
    for _ in range(3):
        gc.collect()
    assert weak[0]() is not None
    weak[0]().send(5, LIMIT)
    until(lambda: out == [(0, 5, True)])
    until(lambda: gc.collect() >= 0 and weak[0]() is None)


def test_the_collector_runs_beside_senders_and_receivers() -> None:
    """It looks at buffers while they change. Mutation: `visit` without the lock."""
    ch: Chan[Any] = Chan(8)
    stop = time.monotonic() + 0.4

    def send_all() -> None:
        while time.monotonic() < stop:
            ch.send_many([[ch], [1], {"a": ch}])

    async def receive() -> int:
        n = 0
        async for _ in ch:
            n += 1
        return n

    gs = [gorun.go(send_all) for _ in range(2)]
    hs = [gorun.go(receive) for _ in range(2)]
    while time.monotonic() < stop:
        gc.collect()
    gorun.wait(gs)
    ch.close()
    assert sum(h.result(LIMIT) for h in hs) % 3 == 0


# ---- fork ----------------------------------------------------------------------------------------


@pytest.mark.no_matrix
def test_fork_with_waiters_in_the_parent() -> None:
    """The child finds the values and none of the waiters, and uses the channels. Mutation: lists outlive the fork."""
    _child.run(
        """
        warnings.simplefilter("ignore")
        ch, full, sel = gorun.Chan(), gorun.Chan(2), gorun.Chan()
        full.send_many('ab')
        async def receive():
            return await ch.recv_async()
        gs = [go(ch.recv), go(receive), go(full.send, 'c')]
        gs += [go(lambda: gorun.select(ch, sel)), go(ch.recv, 100)]
        timer, ticker = gorun.Timer(3600), gorun.Ticker(3600)
        while sum(i.state in ('blocked', 'waiting') for i in gorun.goroutines()) < 5:
            time.sleep(0.001)
        def child():
            assert not ch.try_send('nobody waits here')
            assert full.recv_many(9) == ['a', 'b']
            g = go(ch.recv)
            ch.send('child', 20)
            assert g.result(20) == 'child'
            assert gorun.select(sel, gorun.after(0.01), timeout=20).index == 1
            timer.reset(0.01)
            assert timer.chan.recv(20) > 0
            ticker.reset(0.01)
            assert next(ticker) and next(ticker)
            ticker.stop()
            ch.close()
            full.close()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                child()
                code = 0
            except BaseException:
                import traceback; traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert full.recv_many(9) == ['a', 'b', 'c']
        for n in range(3):
            ch.send(n, 20)
        sel.close()
        ch.close()
        ends = []
        for g in gs:
            try:
                ends.append(g.result(20))
            except gorun.ChannelClosed:
                ends.append('closed')
        """
    )


# ---- exit ----------------------------------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    "who", ["go(ch.recv)", "go(receive)", "thread(ch.recv)", "thread(cond_wait)"]
)
def test_exit_with_waiters(who: str) -> None:
    """The program ends, promptly and quietly. Mutation: exit waits for a blocked plain goroutine."""
    ended = _child.run(
        f"""
        ch, cond = gorun.Chan(), gorun.Cond()
        async def receive():
            await ch.recv_async()
        def cond_wait():
            with cond:
                cond.wait()
        def thread(f):
            threading.Thread(target=f, daemon=True).start()
        {who}
        time.sleep(0.05)
        """,
        exit_clock=True,
    )
    assert ended.exit_seconds is not None
    assert ended.exit_seconds < 10


def test_a_thread_that_ends_while_others_wait() -> None:
    """Its waker goes back; the channel does not remember it. Mutation: a node left in the list."""
    ch: Chan[int] = Chan()

    def body() -> None:
        with pytest.raises(TimeoutError):
            ch.recv(0.001)
        with pytest.raises(TimeoutError):
            select(ch, send(ch, 1), timeout=0.001)

    for _ in range(20):
        t = threading.Thread(target=body)
        t.start()
        t.join(LIMIT)
        assert ch.try_send(1) is False
