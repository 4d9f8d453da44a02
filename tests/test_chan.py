"""Channels: methods, arguments, closing, order, views, iteration. Their waits by caller and end: test_ends.

"Mutation:" names the change to the code that makes the test fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests import _child
from tests.test_ends import AWAITING, CALLERS, started
from tests.test_matrix import LIMIT, InMain, end_of, until

import gorun
from gorun import Chan, ChannelClosed

HUGE = 2**70

# ---- arguments ---------------------------------------------------------------------------------

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Chan(-1), ValueError, "-1"),
    (lambda: Chan(HUGE), ValueError, str(HUGE)),
    (lambda: Chan(1.5), TypeError, "1.5"),  # type: ignore[arg-type]
    (lambda: Chan("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: Chan(1, 2), TypeError, "2 given"),  # type: ignore[call-arg]
    (lambda: Chan(cap=1), TypeError, "cap"),  # type: ignore[call-arg]
    (lambda: gorun.RecvChan(), TypeError, "receiver"),
    (lambda: gorun.SendChan(), TypeError, "sender"),
    (lambda: type("Sub", (Chan,), {}), TypeError, "Chan"),
    (lambda: Chan().send(), TypeError, "argument v"),  # type: ignore[call-arg]
    (lambda: Chan().send(1, 2, 3), TypeError, "3 given"),  # type: ignore[call-arg]
    (lambda: Chan().send(1, wait=2), TypeError, "wait"),  # type: ignore[call-arg]
    (lambda: Chan().send(1, float("nan")), ValueError, "nan"),
    (lambda: Chan().send(1, "x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: Chan().send_async(1, float("nan")), ValueError, "nan"),
    (lambda: Chan().recv(float("nan")), ValueError, "nan"),
    (lambda: Chan().recv_async("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: Chan().recv_ok(timeout=HUGE**20), ValueError, "float"),
    (lambda: Chan().recv_many(), TypeError, "number"),  # type: ignore[call-arg]
    (lambda: Chan().recv_many(0), ValueError, "0"),
    (lambda: Chan().recv_many(-5), ValueError, "-5"),
    (lambda: Chan().recv_many(HUGE), ValueError, str(HUGE)),
    (lambda: Chan().recv_many("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: Chan().recv_many_async(0), ValueError, "0"),
    (lambda: Chan().send_many(5), TypeError, "5"),  # type: ignore[arg-type]
    (lambda: Chan().send_many_async(5), TypeError, "5"),  # type: ignore[arg-type]
    (lambda: Chan().send_many([1 / 0]), ZeroDivisionError, "zero"),
    (lambda: copy.copy(Chan()), TypeError, "pickle"),
    (lambda: pickle.dumps(Chan().sender()), TypeError, "pickle"),
    (lambda: Chan().sender().recv(), AttributeError, "recv"),  # type: ignore[attr-defined]
    (lambda: Chan().receiver().send(1), AttributeError, "send"),  # type: ignore[attr-defined]
    (lambda: Chan().receiver().close(), AttributeError, "close"),  # type: ignore[attr-defined]
    (lambda: iter(Chan().sender()), TypeError, "iterable"),  # type: ignore[call-overload]
    (lambda: Chan() < Chan(), TypeError, "<"),  # type: ignore[operator]
]


@pytest.mark.no_matrix
@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=range(len(BAD)))
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    """The error names the value. Mutation: any check left out."""
    with pytest.raises(error, match=text):
        call()


@pytest.mark.no_matrix
def test_arguments_by_name() -> None:
    """Mutation: other names in `parse` than in the signature."""
    ch: Chan[int] = Chan(capacity=4)
    ch.send(v=1, timeout=None)
    assert ch.send_many(values=[2, 3], timeout=1) == 2
    assert ch.recv(timeout=1) == 1
    assert ch.recv_ok(timeout=1) == (2, True)
    assert ch.recv_many(n=5, timeout=1) == [3]
    assert ch.try_send(v=7)
    assert gorun.select(gorun.recv(ch=ch)).value == 7
    assert gorun.select(gorun.send(ch=ch, v=8)).ok
    assert ch.recv() == 8

    async def body() -> Any:
        await ch.send_async(v=4, timeout=1)
        await ch.send_many_async(values=(5, 6), timeout=1)
        return [
            await ch.recv_async(timeout=1),
            await ch.recv_ok_async(timeout=1),
            await ch.recv_many_async(n=1, timeout=1),
        ]

    assert gorun.run(body) == [4, (5, True), [6]]


# ---- what it is ----------------------------------------------------------------------------------


@pytest.mark.no_matrix
def test_length_capacity_truth_and_views() -> None:
    """Mutation: `nb_bool` left out: an empty channel is false."""
    ch: Chan[int] = Chan(2)
    assert (len(ch), ch.capacity, bool(ch), ch.closed) == (0, 2, True, False)
    ch.send(1)
    for view in (ch, ch.sender(), ch.receiver()):
        assert (len(view), view.capacity, bool(view), view.closed) == (1, 2, True, False)
        assert view == ch
        assert ch == view
        assert not view != ch  # noqa: SIM202
        assert view != Chan(2)
        assert view != 1
        assert hash(view) == hash(ch)
    assert {ch: "x"}[ch.receiver()] == "x"  # type: ignore[index]
    assert ch.sender() is not ch
    ch.sender().close()
    assert ch.closed
    assert ch.receiver().closed
    assert "closed" in repr(ch.receiver())
    assert isinstance(Chan[int](3), Chan)
    assert not hasattr(ch.sender(), "recv")


def test_a_view_keeps_the_channel() -> None:
    """Mutation: a view without a reference."""
    ch: Chan[int] = Chan(1)
    send, recv = ch.sender(), ch.receiver()
    del ch
    send.send(1)
    assert recv.recv() == 1
    assert send == recv


@pytest.mark.no_matrix
def test_try() -> None:
    """Never wait, and are no cancel points. Mutation: `try_recv` by way of `perform`."""

    def body() -> list[Any]:
        gorun.current().cancel("late")  # type: ignore[union-attr]
        ch: Chan[int] = Chan(1)
        out: list[Any] = [ch.try_send(1), ch.try_send(2), ch.try_recv()]
        with pytest.raises(gorun.WouldBlock):
            ch.try_recv()
        assert Chan[int]().try_send(1) is False
        assert ch.try_send(3)
        ch.close()
        out.append(ch.try_recv())
        for call in (ch.try_recv, lambda: ch.try_send(1), ch.close):
            with pytest.raises(ChannelClosed):
                call()
        gorun.select(ch, default=True)
        try:
            ch.recv()
        except gorun.Cancelled as c:
            out.append(c.reason)
        return out

    assert gorun.go(body).result(LIMIT) == [True, False, 1, 3, "late"]


# ---- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_first_come_first_served(capacity: int) -> None:
    """Receivers and senders each in their order. Mutation: `push` at the head."""
    ch: Chan[int] = Chan(capacity)
    got: dict[int, int] = {}

    async def receiver(n: int) -> None:
        got[n] = await ch.recv_async()

    gs = []
    for n in range(10):
        gs.append(gorun.go(receiver, n))
        until(lambda n=n: gorun.stats().waiting == n + 1)
    for n in range(10):
        ch.send(n)
    gorun.wait(gs)
    assert got == {n: n for n in range(10)}

    async def sender(n: int) -> None:
        await ch.send_async(n)

    gs = []
    for n in range(10 + capacity):
        gs.append(gorun.go(sender, n))
        until(
            lambda n=n: (
                gorun.stats().waiting == max(0, n + 1 - capacity)
                and gs[-1].done() == (n < capacity)
            )
        )
    assert [ch.recv() for _ in range(10 + capacity)] == list(range(10 + capacity))
    gorun.wait(gs)


@pytest.mark.parametrize("capacity", [0, 1, 16])
@pytest.mark.parametrize("many", [False, True])
def test_all_kinds_of_callers_on_one_channel(capacity: int, many: bool) -> None:
    """Everything that is sent is received once, each sender's in order. Mutation: any lost wake-up."""
    ch: Chan[tuple[str, int]] = Chan(capacity)
    n = 60
    got: list[list[tuple[str, int]]] = []

    def send(name: str) -> None:
        values = [(name, i) for i in range(n)]
        if many:
            for i in range(0, n, 10):
                assert ch.send_many(values[i : i + 10]) == 10
        else:
            for v in values:
                ch.send(v)

    async def send_async(name: str) -> None:
        values = [(name, i) for i in range(n)]
        if many:
            for i in range(0, n, 10):
                assert await ch.send_many_async(values[i : i + 10]) == 10
        else:
            for v in values:
                await ch.send_async(v)

    def receive() -> None:
        mine: list[tuple[str, int]] = []
        got.append(mine)
        if many:
            while True:
                try:
                    mine.extend(ch.recv_many(7))
                except ChannelClosed:
                    return
        mine.extend(ch)

    async def receive_async() -> None:
        mine: list[tuple[str, int]] = []
        got.append(mine)
        async for v in ch:
            mine.append(v)

    def in_loop(f: Any, *args: Any) -> threading.Thread:
        return threading.Thread(target=lambda: asyncio.run(f(*args)))

    receivers = [threading.Thread(target=receive), in_loop(receive_async)]
    senders = [threading.Thread(target=send, args=("thread",)), in_loop(send_async, "task")]
    for t in (*receivers, *senders):
        t.start()
    g_receivers = [gorun.go(receive), gorun.go(receive_async)]
    g_senders = [gorun.go(send, "plain"), gorun.go(send_async, "async")]
    for g in g_senders:
        g.result(LIMIT)
    for t in senders:
        t.join(LIMIT)
    ch.close()
    for g in g_receivers:
        g.result(LIMIT)
    for t in receivers:
        t.join(LIMIT)
    names = ("thread", "task", "plain", "async")
    assert sorted(v for mine in got for v in mine) == sorted(
        (x, i) for x in names for i in range(n)
    )
    for mine in got:
        for x in names:
            own = [i for name, i in mine if name == x]
            assert own == sorted(own)


# ---- closing -------------------------------------------------------------------------------------

ENDS: list[tuple[str, Any, Any, Any]] = [
    ("recv", lambda ch: ch.recv(), lambda ch: ch.recv_async(), ChannelClosed),
    ("recv_ok", lambda ch: ch.recv_ok(), lambda ch: ch.recv_ok_async(), (None, False)),
    ("recv_many", lambda ch: ch.recv_many(2), lambda ch: ch.recv_many_async(2), ChannelClosed),
    ("next", lambda ch: next(ch, "end"), lambda ch: anext(ch, "end"), "end"),
    (
        "select",
        lambda ch: tuple(gorun.select(None, ch)),
        lambda ch: gorun.select_async(None, ch),
        (1, None, False),
    ),
    ("send", lambda ch: ch.send(1), lambda ch: ch.send_async(1), ChannelClosed),
    ("send_many", lambda ch: ch.send_many([1]), lambda ch: ch.send_many_async([1]), ChannelClosed),
    (
        "select_send",
        lambda ch: gorun.select(gorun.send(ch, 1)),
        lambda ch: gorun.select_async(gorun.send(ch, 1)),
        ChannelClosed,
    ),
]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("block", "wait", "end"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS])
def test_closed(caller: Any, block: Any, wait: Any, end: Any, early: bool) -> None:
    """Closed before, or while it waits. Mutation: `close` wakes one side only, or the first only."""
    ch: Chan[int] = Chan()
    if early:
        ch.close()
    c = caller(wait if caller in AWAITING else block, ch)
    later = threading.Timer(0.01, ch.close)
    if not early:
        if caller is InMain:
            later.start()
        else:
            until(c.waits)
            ch.close()
    kind, value = c.outcome()
    if later.ident:
        later.join()
    if end is ChannelClosed:
        assert kind == "error"
        assert isinstance(value, ChannelClosed)
        value.__traceback__ = None
    else:
        assert (kind, value) == ("value", end)


def test_what_is_buffered_is_drained_first() -> None:
    """Mutation: `recv` looks at `closed` first."""
    ch: Chan[int] = Chan(5)
    ch.send_many(range(5))
    ch.close()
    assert ch.recv() == 0
    assert ch.try_recv() == 1
    assert ch.recv_ok() == (2, True)
    assert gorun.select(ch) == (0, 3, True)
    assert ch.recv_many(9) == [4]
    assert ch.recv_ok() == (None, False)
    assert list(ch) == []
    assert gorun.select(ch) == (0, None, False)


def test_senders_that_wait_at_the_close_keep_their_values() -> None:
    """They raise; what they would have sent is not received. Mutation: `close` moves them up."""
    ch: Chan[int] = Chan(1)
    ch.send(0)
    g = started(lambda: end_of(lambda: ch.send(1))[0])
    ch.close()
    assert g.result(LIMIT) == "error"
    assert list(ch) == [0]


def test_thousands_wait_and_the_channel_is_closed() -> None:
    """All wake. Mutation: `close` wakes 64."""
    ch: Chan[int] = Chan()
    full: Chan[int] = Chan(1)
    full.send(0)

    async def receive() -> Any:
        return await ch.recv_ok_async()

    async def send(n: int) -> bool:
        try:
            await full.send_async(n)
        except ChannelClosed:
            return True
        return False

    async def chosen() -> Any:
        return (await gorun.select_async(ch, None))[1:]

    n = 5000
    gs = [gorun.go(receive) for _ in range(n)] + [gorun.go(chosen) for _ in range(n)]
    hs = [gorun.go(send, i) for i in range(n)]
    until(lambda: gorun.stats().waiting == 3 * n)
    ch.close()
    full.close()
    assert {g.result(LIMIT) for g in gs} == {(None, False)}
    assert all(h.result(LIMIT) for h in hs)
    assert list(full) == [0]


# ---- iteration -----------------------------------------------------------------------------------


def test_iteration_ends_with_the_channel() -> None:
    """`for` and `async for`, over the channel and its view. Mutation: `next` raises ChannelClosed."""
    for view in (False, True):
        ch: Chan[int] = Chan(2)
        g = gorun.go(lambda ch=ch: [ch.send(i) for i in range(10)] and ch.close())
        assert list(ch.receiver() if view else ch) == list(range(10))
        g.result(LIMIT)

        async def body(ch: Any) -> list[int]:
            return [v async for v in ch]

        ch = Chan()
        g = gorun.go(lambda ch=ch: [ch.send(i) for i in range(10)] and ch.close())
        assert gorun.run(body, ch.receiver() if view else ch) == list(range(10))
        g.result(LIMIT)
        ch = Chan(3)
        ch.send_many(range(3))
        ch.close()
        assert asyncio.run(body(ch)) == [0, 1, 2]


# ---- many at once --------------------------------------------------------------------------------


def test_recv_many_waits_for_the_first_only() -> None:
    """Mutation: wait until there are `n`."""
    ch: Chan[int] = Chan(4)
    ch.send_many(range(3))
    assert ch.recv_many(10) == [0, 1, 2]
    ch.send_many(range(4))
    assert ch.recv_many(2) == [0, 1]
    senders = [started(lambda n=n: ch.send(n)) for n in range(4, 8)]
    assert ch.recv_many(100) == [2, 3, 4, 5, 6, 7]
    gorun.wait(senders)
    with pytest.raises(TimeoutError):
        ch.recv_many(1, timeout=0)


def test_send_many_tells_how_many_were_sent() -> None:
    """By time-out, close, cancel, an error of a handler, the limit of threads. Mutation: no `tell_sent`."""
    ch: Chan[str] = Chan(2)
    with pytest.raises(gorun.PartialSend) as late:
        ch.send_many("abc", timeout=0.001)
    assert isinstance(late.value, TimeoutError)
    assert late.value.sent == 2
    assert ch.recv_many(9) == ["a", "b"]

    out: list[Any] = []

    async def awaits() -> None:
        try:
            await ch.send_many_async("abc")
        except BaseException as e:
            out.append(e.sent)  # type: ignore[attr-defined]
            raise

    def plain() -> None:
        try:
            ch.send_many("abc")
        except BaseException as e:
            out.append(e.sent)  # type: ignore[attr-defined]
            raise

    for body in (awaits, plain):
        g = gorun.go(body)
        until(lambda: any(i.wait_reason for i in gorun.goroutines()))
        assert ch.recv() == "a"
        until(lambda: len(ch) == 2)
        g.cancel()
        gorun.wait([g])
        assert ch.recv_many(9) == ["b", "c"] or out[-1] == 3
        assert len(ch) == 0
    assert set(out) <= {2, 3}

    async def in_task() -> None:
        task = asyncio.create_task(awaits())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    out.clear()
    asyncio.run(in_task())
    assert out == [2]
    assert ch.recv_many(9) == ["a", "b"]

    g = gorun.go(plain)
    until(lambda: len(ch) == 2)
    until(lambda: any(i.state == "blocked" for i in gorun.goroutines()))
    ch.close()
    assert isinstance(g.exception(LIMIT), ChannelClosed)
    assert out[-1] == 2


@pytest.mark.no_matrix
def test_send_many_in_a_handler_and_at_the_limit() -> None:
    """Ctrl-C and ThreadLimit tell it too. Mutation: `cut` only for a cancel."""
    ended = _child.run(
        """
        ch = gorun.Chan(2)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            ch.send_many('abc')
        except KeyboardInterrupt as e:
            print(e.sent, ch.recv_many(9))
        gorun.gomaxprocs(1)
        gorun.configure(max_threads=1)
        def body():
            try:
                ch.send_many('abc')
            except gorun.ThreadLimit as e:
                return e.sent
        print(go(body).result(10), ch.recv_many(9))
        """
    )
    assert ended.out == "2 ['a', 'b']\n2 ['a', 'b']"


def test_values_can_be_anything() -> None:
    """None, exceptions, channels, the channel itself. Mutation: null stands for None somewhere."""
    ch: Chan[Any] = Chan(9)
    things = [None, LookupError("x"), StopIteration(1), ch, Chan(), (), float("nan")]
    assert ch.send_many(things) == 7
    got = ch.recv_many(9)
    assert all(a is b for a, b in zip(got, things, strict=True))
    ch.send(None)
    assert ch.recv_ok() == (None, True)
    g = started(lambda: ch.recv_ok())
    ch.send(None)
    assert g.result(LIMIT) == (None, True)


def test_a_received_value_belongs_to_its_receiver_alone() -> None:
    """Dropped by who received it, it is gone at once, while the goroutine goes on.

    Mutation: `ops/stop.rs` puts the StopIteration aside without emptying it.
    """

    class Thing:
        pass

    async def main() -> list[bool]:
        ch: Chan[Any] = Chan(1)
        alone = []
        for _ in range(3):
            thing = Thing()
            ref = weakref.ref(thing)
            await ch.send_async(thing)
            del thing
            got = await ch.recv_async()
            assert got is ref()
            del got
            alone.append(ref() is None)
        return alone

    assert gorun.run(main) == [True] * 3


def test_the_end_of_an_operation_driven_by_hand() -> None:
    """`next` on an operation ends in a StopIteration of its own: kept, it keeps its value; `yield from` gives it.

    Mutation: the StopIteration that is used again is handed out while somebody still has it.
    """

    class Wrapped:
        def __init__(self, op: Any) -> None:
            self.op = op

        def __await__(self) -> Any:
            return (yield from self.op.__await__())

    async def main() -> tuple[list[Any], list[Any]]:
        ch: Chan[Any] = Chan(9)
        values = [(1, 2), StopIteration(3), None, "x", (), "y"]
        ch.send_many(values)
        kept = []
        for _ in range(4):
            with pytest.raises(StopIteration) as caught:
                next(ch.recv_async())  # type: ignore[call-overload]
            kept.append(caught.value)
        rest = [await Wrapped(ch.recv_async()), await ch.recv_async()]
        return [error.value for error in kept] + rest, values

    got, values = gorun.run(main)
    assert all(a is b for a, b in zip(got, values, strict=True))


def test_a_loop_is_found_though_as_many_modules_are_imported_as_before() -> None:
    """The size of `sys.modules` tells nothing any more once asyncio was found.

    Mutation: `modules_unchanged` does not look at `GET`.
    """
    ended = _child.run(
        """
        for i in range(1000):
            sys.modules[f"stand_in_{i}"] = sys
        ch = gorun.Chan(1)
        try:
            next(ch.recv_async())  # the first look: nothing runs here
        except RuntimeError:
            before = len(sys.modules)
        assert "asyncio.events" not in sys.modules
        import asyncio
        async def main():
            await ch.send_async(1)
            return await ch.recv_async()
        assert asyncio.run(main()) == 1
        for i in range(len(sys.modules) - before):
            del sys.modules[f"stand_in_{i}"]
        assert len(sys.modules) == before
        print(asyncio.run(main()))
        """
    )
    assert ended.out == "1"


def test_an_operation_that_is_not_awaited_warns_and_does_nothing() -> None:
    """Rule 2, for each twin. Mutation: no warning in `dealloc`; the value is sent when built."""
    ch: Chan[int] = Chan(3)
    ch.send(7)
    mu, event, sem, wg = gorun.Mutex(), gorun.Event(), gorun.Semaphore(), gorun.WaitGroup()
    makes: list[tuple[str, Callable[[], Any]]] = [
        ("send_async", lambda: ch.send_async(1)),
        ("recv_async", ch.recv_async),
        ("recv_ok_async", ch.recv_ok_async),
        ("recv_many_async", lambda: ch.recv_many_async(2)),
        ("send_many_async", lambda: ch.send_many_async([1, 2])),
        ("select_async", lambda: gorun.select_async(ch)),
        ("acquire_async", mu.acquire_async),
        ("acquire_async", sem.acquire_async),
        ("wait_async", event.wait_async),
        ("wait_async", wg.wait_async),
    ]
    for name, make in makes:
        with pytest.warns(RuntimeWarning, match=f"{name}.* was never awaited"):
            make()
        op = make()
        op.close()
        with pytest.raises(RuntimeError, match="reuse"):
            op.send(None)
    assert len(ch) == 1
    assert mu.acquire(False)
    assert sem.try_acquire()


def test_awaited_twice() -> None:
    """Rule 2. Mutation: the state goes back to New."""
    ch: Chan[int] = Chan(3)
    ch.send_many([1, 2])

    async def body() -> int:
        op = ch.recv_async()
        got = await op
        with pytest.raises(RuntimeError, match="recv_async"):
            await op
        return got

    assert gorun.run(body) == 1
    assert asyncio.run(body()) == 2
    with pytest.raises(RuntimeError, match="neither"):
        ch.recv_async().send(None)


def test_a_channel_goes_with_its_values() -> None:
    """Mutation: `dealloc` forgets the buffer."""

    class Thing:
        pass

    ch: Chan[Any] = Chan(2)
    thing = Thing()
    ref = weakref.ref(thing)
    ch.send(thing)
    ch.send(1)
    del thing
    assert ref() is not None
    del ch
    assert ref() is None


def test_send_many_async_takes_its_iterable_when_awaited() -> None:
    """Built and dropped, or cancelled on entry, it has taken nothing. If the iterable raises, nothing is sent.

    Mutation: `Batch::new` makes the values.
    """
    taken: list[int] = []

    def numbers(n: int) -> Iterator[int]:
        for k in range(n):
            taken.append(k)
            if k == 3:
                raise KeyError(k)
            yield k

    ch = gorun.Chan[int](10)

    async def main() -> None:
        op = ch.send_many_async(numbers(2))
        assert taken == []
        assert await op == 2
        with pytest.raises(KeyError):
            await ch.send_many_async(numbers(5))
        with pytest.raises(TypeError, match="an iterable of values, not 7"):
            ch.send_many_async(7)  # type: ignore[arg-type]
        taken.clear()
        gorun.current().cancel()  # type: ignore[union-attr]
        with contextlib.suppress(gorun.Cancelled):
            await ch.send_many_async(numbers(2))

    gorun.run(main)
    assert (taken, len(ch)) == ([], 2)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        ch.send_many_async(numbers(2))
    assert taken == []
