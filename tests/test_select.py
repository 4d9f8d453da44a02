"""`select`: its cases, the uniform choice, exactly one, against itself, crowds. Waits by caller and end: test_ends.

"Mutation:" names the change to the code that makes the test fail.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.test_ends import started
from tests.test_matrix import LIMIT, until

import gorun
from gorun import Chan, ChannelClosed, Selected, recv, select, select_async, send

NOTHING = "select (nothing to wait for)"

# ---- arguments and answers -----------------------------------------------------------------------

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: select(1), TypeError, "not 1"),  # type: ignore[call-overload]
    (lambda: select(Chan().sender()), TypeError, "SendChan"),  # type: ignore[call-overload]
    (lambda: select("abc"), TypeError, "'abc'"),  # type: ignore[call-overload]
    (lambda: select([Chan()]), TypeError, "Chan"),  # type: ignore[call-overload]
    (lambda: recv(Chan().sender()), TypeError, "SendChan"),  # type: ignore[arg-type]
    (lambda: recv(3), TypeError, "not 3"),  # type: ignore[arg-type]
    (lambda: send(Chan().receiver(), 1), TypeError, "RecvChan"),  # type: ignore[arg-type]
    (lambda: send(3, 1), TypeError, "not 3"),  # type: ignore[arg-type]
    (lambda: send(Chan()), TypeError, "value"),  # type: ignore[call-arg]
    (lambda: select(wait=1), TypeError, "wait"),  # type: ignore[call-overload]
    (lambda: select(timeout=float("nan")), ValueError, "nan"),
    (lambda: select(timeout="x"), TypeError, "'x'"),  # type: ignore[call-overload]
    (lambda: select_async(timeout=float("nan")), ValueError, "nan"),
    (lambda: select_async(1), TypeError, "not 1"),  # type: ignore[call-overload]
    (lambda: type(recv(None))(), TypeError, "gorun.recv"),
]


@pytest.mark.no_matrix
@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=range(len(BAD)))
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    """The error names the value. Mutation: any check left out."""
    with pytest.raises(error, match=text):
        call()


@pytest.mark.no_matrix
def test_answers() -> None:
    """What API.md says of each kind of case. Mutation: any of the tuples."""
    ch: Chan[str] = Chan(1)
    assert select(send(ch, "a")) == Selected(0, None, True)
    got = select(None, recv(None), recv(ch.receiver()))
    assert isinstance(got, Selected)
    assert (got.index, got.value, got.ok) == got == (2, "a", True)
    assert select(ch, default=True) == (-1, None, False)
    assert select(default=True) == (-1, None, False)
    assert select(None, default=True, timeout=0) == (-1, None, False)
    ch.send("b")
    assert select(ch, default=True) == (0, "b", True)
    ch.close()
    assert select(ch.receiver()) == (0, None, False)
    assert select(ch, default=True) == (0, None, False)
    for default in (False, True):
        with pytest.raises(ChannelClosed):
            select(send(ch.sender(), "x"), default=default)
    g = gorun.go(abs, -1)
    gorun.wait([g])
    assert select(None, g) == (1, None, True)
    assert g.result() == 1
    assert hash(select(default=True)) == hash((-1, None, False))
    with pytest.raises(TimeoutError):
        select(timeout=0.001)
    with pytest.raises(TimeoutError):
        select(send(None, 1), None, timeout=0)


@pytest.mark.no_matrix
def test_answers_of_any_make_die_alike() -> None:
    """Made by select, by hand, with other fields, of a subclass, in a long chain.

    Mutations: `drop_places` keeps one with more fields, or a subclass's; it leaves a value; it does
    not go through `deaths`.
    """

    class Thing:
        pass

    class Mine(Selected[Any]):
        extra = 1

    ch: Chan[Any] = Chan(1)
    for _ in range(3):
        seen = []
        for wrap in (Selected, Mine, lambda i, v, ok: tuple.__new__(Selected, (i, v, ok, i))):
            thing = Thing()
            seen.append(weakref.ref(thing))
            answer: Any = wrap(0, thing, True)
            assert answer[1] is thing
            # In the memory that was kept: the next one that dies may leave its own.
            taken = select(default=True)
            del thing, answer
            given = select(default=True)
            assert (type(given), *given) == (Selected, -1, None, False)
            del taken, given
            kept = Mine(1, 2, True)
            assert (type(kept), kept.extra, len(kept)) == (Mine, 1, 3)
        thing = Thing()
        seen.append(weakref.ref(thing))
        ch.send(thing)
        assert select(ch).value is thing
        del thing
        assert [ref() for ref in seen] == [None] * 4
    chain = Selected(0, None, True)
    for _ in range(200_000):
        chain = Selected(0, chain, True)  # type: ignore[assignment]
    del chain


def test_a_case_can_be_used_again() -> None:
    """Mutation: the select moves the value out of the case."""
    ch: Chan[int] = Chan(3)
    s, r = send(ch, 5), recv(ch)
    for _ in range(3):
        assert select(s).index == 0
    assert [select(r).value for _ in range(3)] == [5, 5, 5]


def test_nothing_to_wait_for_blocks_until_cancelled() -> None:
    """Mutation: an empty select returns."""

    async def nothing() -> None:
        await select_async(None)

    plain, awaits = gorun.go(select), gorun.go(nothing)
    until(lambda: [i.wait_reason for i in gorun.goroutines()] == [NOTHING] * 2)
    for g in (plain, awaits):
        assert not g.done()
        g.cancel()
    gorun.wait([plain, awaits])
    assert plain.cancelled()
    assert awaits.cancelled()


def test_a_goroutine_cannot_select_its_own_end() -> None:
    """As joining oneself. Mutation: no `refuse_self`: it hangs."""
    ch: Chan[int] = Chan()

    def body() -> None:
        select(ch, gorun.current())

    assert isinstance(gorun.go(body).exception(LIMIT), RuntimeError)


def test_an_error_of_a_goroutine_is_not_taken_by_a_select(hook_errors: Any) -> None:
    """It tells the end, not the outcome: nobody asked for that. Mutation: select marks it as taken."""

    def fails() -> None:
        raise LookupError("nobody's")

    g = gorun.go(fails)
    assert select(g, timeout=LIMIT) == (0, None, True)
    del g
    [error] = hook_errors.take()
    assert str(error.exc_value) == "nobody's"


def test_default_is_no_cancel_point() -> None:
    """Rule 5: it does not wait. Mutation: `perform` for a select with a default."""

    def body() -> Any:
        gorun.current().cancel("late")  # type: ignore[union-attr]
        first = select(default=True).index
        try:
            select(timeout=0)
        except gorun.Cancelled as c:
            return first, c.reason

    assert gorun.go(body).result(LIMIT) == (-1, "late")


# ---- the choice ----------------------------------------------------------------------------------


def uniform(counts: Counter[int], cases: int) -> None:
    n = sum(counts.values())
    for i in range(cases):
        assert n / cases * 0.7 < counts[i] < n / cases * 1.3, counts


def test_uniform_among_the_ready() -> None:
    """In a million years one of these fails by chance. Mutation: the first that is ready."""
    chans: list[Chan[int]] = [Chan(1) for _ in range(4)]
    for ch in chans:
        ch.send(0)
    counts: Counter[int] = Counter()
    for _ in range(4000):
        i = select(*chans).index
        chans[i].send(0)
        counts[i] += 1
    uniform(counts, 4)
    ch = chans[0]
    ch.recv()
    both = Counter(
        select(send(ch, 1), None, send(chans[1], 1), default=True).index for _ in range(3)
    )
    assert both == {0: 1, -1: 2}
    pair: Counter[int] = Counter()
    one: Chan[int] = Chan(2)
    one.send(1)
    for _ in range(3000):  # both sides of one channel
        got = select(one, send(one, 2))
        pair[got.index] += 1
        one.try_send(1) if got.index == 0 else one.try_recv()
    uniform(pair, 2)


def test_uniform_in_tasks_and_goroutines() -> None:
    chans: list[Chan[int]] = [Chan(1) for _ in range(3)]

    async def body() -> Counter[int]:
        for ch in chans:
            ch.try_send(0)
        counts: Counter[int] = Counter()
        for _ in range(1500):
            i = (await select_async(*chans)).index
            chans[i].send(0)
            counts[i] += 1
        return counts

    uniform(gorun.run(body), 3)
    uniform(asyncio.run(body()), 3)


def test_the_first_to_come_wakes_it() -> None:
    """Several become ready before a waiting select runs again: it gets the one that woke it, whichever stands first.

    Mutation: the winner is the first case that is ready when it looks again.
    """
    chans: list[Chan[int]] = [Chan(1), Chan(1), Chan(1)]
    orders = list(itertools.permutations(range(3))) * 5
    got: list[int] = []

    async def choose() -> None:
        for order in orders:
            got.append((await select_async(*chans)).index)
            for i in order[1:]:
                assert await chans[i].recv_async() == i

    async def feed(order: tuple[int, ...]) -> None:
        for i in order:  # the first to who waits, the others into the buffers: all in one step
            await chans[i].send_async(i)

    g = gorun.go(choose)
    for n, order in enumerate(orders):
        until(lambda n=n: gorun.stats().waiting == 1 and len(got) == n)  # type: ignore[misc]
        gorun.go(feed, order).result(LIMIT)
    g.result(LIMIT)
    assert got == [order[0] for order in orders]


def test_uniform_among_goroutines_that_ended_meanwhile() -> None:
    """Both have ended before the waiting thread runs again: none is preferred.

    Mutation: the first that has ended wins.
    """
    counts: Counter[int] = Counter()

    async def wait(gate: gorun.Event) -> None:
        await gate.wait_async()

    for _ in range(100):
        gate = gorun.Event()
        g, h = (gorun.go(wait, gate) for _ in range(2))
        until(lambda: gorun.stats().waiting == 2)
        gorun.go(gate.set)
        counts[select(g, h).index] += 1
        gorun.wait([g, h])
    assert counts[1] >= 5, counts


def test_uniform_among_cases_of_one_channel() -> None:
    """A parked select with a channel twice: either case. Mutation: they register as they stand there."""
    counts: Counter[int] = Counter()
    ch: Chan[int] = Chan()
    for n in range(100):
        g = gorun.go(select, ch, ch) if n % 2 else gorun.go(select, send(ch, 1), send(ch, 1))
        until(lambda: gorun.stats().waiting == 1)
        if n % 2:
            ch.send(1)
        else:
            ch.recv()
        counts[g.result(LIMIT).index] += 1
    assert min(counts[0], counts[1]) > 20, counts


# ---- exactly one ---------------------------------------------------------------------------------


def test_exactly_one_case_fires() -> None:
    """Many selects on many channels: what is received is what was sent. Mutation: no `delist` of the losers."""
    chans: list[Chan[int]] = [Chan(n % 3) for n in range(6)]
    n = 300
    got: list[int] = []
    sent: list[int] = []

    async def receive() -> None:
        while True:
            s = await select_async(*chans, stop)
            if s.index == len(chans):
                return
            got.append(s.value)  # type: ignore[arg-type]

    async def sending(k: int) -> None:
        for i in range(n):
            v = k * n + i
            s = await select_async(*(send(ch, v) for ch in chans))
            assert s.value is None
            sent.append(v)

    def plain(k: int) -> None:
        for i in range(n):
            select(*(send(ch, k * n + i) for ch in reversed(chans)))
            sent.append(k * n + i)

    stop: Chan[int] = Chan()
    receivers = [gorun.go(receive) for _ in range(5)]
    thread = threading.Thread(target=lambda: asyncio.run(receive()))
    thread.start()
    gs = [gorun.go(sending, k) for k in range(3)] + [gorun.go(plain, k) for k in range(3, 5)]
    for g in gs:
        g.result(LIMIT)
    until(lambda: len(got) == len(sent))
    stop.close()
    for g in receivers:
        g.result(LIMIT)
    thread.join(LIMIT)
    assert sorted(got) == sorted(sent) == list(range(5 * n))


def test_select_against_select() -> None:
    """Two that only have each other, both ways. Mutation: lock in the caller's order."""
    a: Chan[int] = Chan()
    b: Chan[int] = Chan()
    n = 400
    count = [0, 0]

    async def one() -> None:
        for _ in range(n):
            s = await select_async(send(a, 1), recv(b))
            count[0] += 1 if s.index == 0 else -1

    async def other() -> None:
        for _ in range(n):
            s = await select_async(send(b, 1), recv(a))
            count[1] += 1 if s.index == 1 else -1

    gs = [gorun.go(one), gorun.go(other)]
    for g in gs:
        g.result(LIMIT)
    assert count[0] == count[1]


def test_both_sides_of_one_channel_do_not_meet_in_one_select() -> None:
    """As in Go it waits for somebody else. Mutation: `poll` takes from its own place."""
    ch: Chan[str] = Chan()
    with pytest.raises(TimeoutError):
        select(ch, send(ch, "own"), timeout=0.002)
    g = started(lambda: select(ch, send(ch, "own")))
    assert ch.recv(LIMIT) == "own"
    assert g.result(LIMIT) == (1, None, True)
    g = started(lambda: select(ch, send(ch, "own")))
    ch.send("mine", LIMIT)
    assert g.result(LIMIT) == (0, "mine", True)
    pair = [gorun.go(lambda n=n: select(ch, send(ch, n))) for n in ("x", "y")]  # type: ignore[misc]
    ends = sorted(g.result(LIMIT) for g in pair)
    assert ends[0][0] == 0
    assert ends[1] == (1, None, True)
    assert ends[0].value in ("x", "y")


def test_a_loser_leaves_nothing_behind() -> None:
    """After a thousand selects that lost on a quiet channel its first receiver gets the first value.

    Mutation: `leave_channels` left out.
    """
    quiet: Chan[int] = Chan()
    busy: Chan[int] = Chan()

    async def feed() -> None:
        for i in range(1000):
            await busy.send_async(i)

    g = gorun.go(feed)
    for i in range(1000):
        assert select(quiet, busy, send(quiet, 1) if i % 2 else None, timeout=LIMIT).value == i
    g.result(LIMIT)
    assert quiet.try_send(1) is False
    with pytest.raises(gorun.WouldBlock):
        quiet.try_recv()
    r = started(quiet.recv)
    quiet.send(5, LIMIT)
    assert r.result(LIMIT) == 5


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_thousand_goroutines_in_one_select_on_100_channels(kind: str) -> None:
    """Each value goes to one of them, and the close ends all. Mutation: a quadratic search in `lock`."""
    chans: list[Chan[int]] = [Chan() for _ in range(100)]
    got: list[int] = []
    n = 1000 if kind == "async" else 100

    async def body() -> None:
        while True:
            s = await select_async(*chans)
            if not s.ok:
                return
            got.append(s.value)  # type: ignore[arg-type]

    def plain() -> None:
        while (s := select(*chans)).ok:
            got.append(s.value)  # type: ignore[arg-type]

    gs = [gorun.go(body if kind == "async" else plain) for _ in range(n)]
    until(lambda: sum(bool(i.wait_reason) for i in gorun.goroutines()) == n)
    for i in range(1000):
        chans[i % 100].send(i, LIMIT)
    until(lambda: len(got) == 1000)
    assert sorted(got) == list(range(1000))
    for ch in chans:
        ch.close()
    for g in gs:
        g.result(LIMIT)


def test_time_out_against_ready() -> None:
    """At the very moment: a value is received, or it is there for the next. Mutation: `delist` ignores the fate."""
    lost = 0
    for n in range(60):
        ch: Chan[int] = Chan()
        g = gorun.go(lambda ch=ch: select(ch, timeout=0.002))
        time.sleep(0.0018 + 0.00001 * (n % 40))
        sent = ch.try_send(n)
        try:
            assert g.result(LIMIT) == (0, n, True)
            assert sent
        except TimeoutError:
            assert not sent
            lost += 1
    assert lost <= 60


def test_select_with_after() -> None:
    """Go's time-out idiom. Mutation: the timer's channel does not wake a select."""
    ch: Chan[int] = Chan()
    got = select(ch, gorun.after(0.002), timeout=LIMIT)
    assert got.index == 1
    assert isinstance(got.value, float)

    async def body() -> int:
        return (await select_async(ch, gorun.after(0.002), timeout=LIMIT)).index

    assert gorun.run(body) == 1
    assert asyncio.run(body()) == 1
