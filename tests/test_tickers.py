"""`after`, `Timer(seconds)` with a channel, `Ticker`. "Mutation:" names the change that makes the test fail."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests.test_matrix import LIMIT, until

import gorun
from gorun import Ticker, Timer, after

HUGE = 2**5000
NAN = float("nan")

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: after(-1), ValueError, "-1"),
    (lambda: after(NAN), ValueError, "nan"),
    (lambda: after("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: after(HUGE), ValueError, "float"),
    (lambda: after(), TypeError, "argument"),  # type: ignore[call-arg]
    (lambda: Timer(-0.5), ValueError, "-0.5"),
    (lambda: Timer(NAN), ValueError, "nan"),
    (lambda: Timer(1, 2), TypeError, "2"),  # type: ignore[arg-type]
    (lambda: Ticker(0), ValueError, "0"),
    (lambda: Ticker(-1), ValueError, "-1"),
    (lambda: Ticker(NAN), ValueError, "nan"),
    (lambda: Ticker(HUGE), ValueError, "float"),
    (lambda: Ticker(None), TypeError, "None"),  # type: ignore[arg-type]
]


@pytest.mark.no_matrix
@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=range(len(BAD)))
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    """The error names the value. Mutation: any check left out."""
    with pytest.raises(error, match=text):
        call()


def no_timers() -> bool:
    return gorun.stats().timers == 0


def test_a_bad_reset_leaves_it_as_it_was() -> None:
    """Mutation: `reset` stops before it looks at its argument."""
    timer, ticker = Timer(0.01), Ticker(0.01)
    for bad in (-1, NAN, "x"):
        with pytest.raises((ValueError, TypeError)):
            timer.reset(bad)  # type: ignore[arg-type]
        with pytest.raises((ValueError, TypeError)):
            ticker.reset(bad)  # type: ignore[arg-type]
    assert timer.chan.recv(LIMIT) > 0  # type: ignore[union-attr]
    assert ticker.chan.recv(LIMIT) > 0
    ticker.stop()


def test_the_far_future() -> None:
    """Mutation: nanoseconds overflow: they fire at once."""
    for seconds in (1e300, float("inf"), 9.3e9, 2.0**63):
        timer, ticker, chan = Timer(seconds), Ticker(seconds), after(seconds)
        time.sleep(0.002)
        for ch in (timer.chan, ticker.chan, chan):
            assert ch is not None
            with pytest.raises(gorun.WouldBlock):
                ch.try_recv()
        assert timer.reset(0) is True
        assert timer.chan.recv(LIMIT)  # type: ignore[union-attr]
        ticker.stop()
    del chan, ch, timer, ticker
    until(no_timers)


def test_never_early_and_tells_when() -> None:
    """Mutation: the wheel rounds down; the time of the making is sent."""
    for seconds in (0, 0.0005, 0.003, 0.02):
        began = time.monotonic()
        at = after(seconds).recv(LIMIT)
        end = time.monotonic()
        assert began + seconds <= at <= end
        began = time.monotonic()
        at = Timer(seconds).chan.recv(LIMIT)  # type: ignore[union-attr]
        assert began + seconds <= at <= time.monotonic()
    began = time.monotonic()
    with Ticker(0.004) as ticker:
        ticks = [ticker.chan.recv(LIMIT) for _ in range(4)]
    for n, at in enumerate(ticks):
        assert at >= began + 0.004 * (n + 1)


def test_the_channel_shows_nothing() -> None:
    """Go 1.23. Mutation: `hidden` ignored: a stale length is seen."""
    timer = Timer(0)
    ch = timer.chan
    assert ch is not None
    until(no_timers)
    for _ in range(20):  # off the wheel is not yet delivered
        assert (len(ch), ch.capacity, ch.closed, bool(ch)) == (0, 0, False, True)
        time.sleep(0.001)
    assert isinstance(ch, gorun.RecvChan)
    assert not hasattr(ch, "send")
    assert timer.chan == ch
    assert ch.recv(LIMIT) > 0


def test_no_stale_value_after_stop_or_reset() -> None:
    """Many rounds around the moment of firing. Mutation: `stop` does not empty the channel."""
    for n in range(200):
        timer = Timer(0.0005)
        ch = timer.chan
        assert ch is not None
        time.sleep(0.0003 + 0.000002 * n)
        if n % 2:
            # Nothing was received: as in Go 1.23, stop says true also after it has fired.
            assert timer.stop() is True
            assert timer.stop() is False
            with pytest.raises(gorun.WouldBlock):
                ch.try_recv()
        else:
            assert timer.reset(3600) is True
            with pytest.raises(TimeoutError):
                ch.recv(0.0001)
            assert timer.stop() is True
    until(no_timers)


def test_stop_and_reset_after_it_was_received() -> None:
    timer = Timer(0)
    assert timer.chan.recv(LIMIT)  # type: ignore[union-attr]
    assert timer.stop() is False
    assert timer.reset(0) is False
    assert timer.chan.recv(LIMIT)  # type: ignore[union-attr]
    assert timer.reset(3600) is False
    assert timer.reset(3600) is True
    assert timer.stop() is True
    assert timer.reset(0.001) is False
    assert timer.chan.recv(LIMIT)  # type: ignore[union-attr]


def test_a_waiter_outlives_stop_and_reset() -> None:
    """It gets the value of the last turn. Mutation: `stop` closes the channel."""
    timer = Timer(3600)
    g = gorun.go(timer.chan.recv)  # type: ignore[union-attr]
    until(lambda: any(i.wait_reason for i in gorun.goroutines()))
    timer.stop()
    timer.reset(3600)
    timer.reset(0.001)
    assert g.result(LIMIT) > 0


def test_unreachable_ones_are_freed_at_once() -> None:
    """Go 1.23. Mutation: the wheel owns the channel."""
    chans = [after(3600) for _ in range(50)]
    timers: list[Any] = [Timer(3600) for _ in range(50)]
    tickers = [Ticker(3600) for _ in range(50)]
    assert gorun.stats().timers == 150
    timers = [t.chan for t in timers]  # the channel alone keeps it
    tickers_ = [t.chan for t in tickers]
    del tickers
    assert gorun.stats().timers == 150
    del chans, timers, tickers_
    until(no_timers)


def test_a_dropped_ticker_whose_channel_is_held_goes_on() -> None:
    ch = Ticker(0.001).chan
    assert [ch.recv(LIMIT) > 0 for _ in range(3)] == [True] * 3
    del ch
    until(no_timers)


def test_a_ticker_in_a_cycle_is_collected() -> None:
    """Mutation: Ticker's parts are invisible to the collector."""

    class Owner:
        pass

    owner: Any = Owner()
    owner.ticker = Ticker(0.001)
    owner.timer = Timer(3600)
    owner.self = owner
    owner.end = owner.ticker._end
    owner.end_value = gorun.Chan(1)
    owner.end_value.send(owner)
    ref = weakref.ref(owner)
    del owner
    gc.collect()
    assert ref() is None
    until(no_timers)


def test_slow_readers_lose_ticks() -> None:
    """One is held, the beat stays. Mutation: ticks queue up."""
    with Ticker(0.005) as ticker:
        began = ticker.chan.recv(LIMIT)
        time.sleep(0.05)
        late = ticker.chan.recv(LIMIT)
        assert late - began < 0.05
        after_it = ticker.chan.recv(LIMIT)
        assert after_it > late
        assert after_it - began >= 0.04


def test_reset_changes_the_beat() -> None:
    """Mutation: the old period goes on."""
    with Ticker(3600) as ticker:
        ticker.reset(0.001)
        assert ticker.chan.recv(LIMIT)
        assert ticker.chan.recv(LIMIT)
        ticker.reset(3600)
        with pytest.raises(TimeoutError):
            ticker.chan.recv(0.01)
        ticker.stop()
        ticker.stop()
        ticker.reset(0.001)
        assert next(ticker) > 0


def test_iteration_ends_with_stop() -> None:
    """In each kind of caller. Mutation: `stop` wakes nobody who iterates."""

    def plain(t: Ticker) -> list[float]:
        return list(t)

    async def awaits(t: Ticker) -> list[float]:
        return [x async for x in t]

    for run in (
        lambda t: gorun.go(plain, t).result(LIMIT),
        lambda t: gorun.go(awaits, t).result(LIMIT),
        lambda t: asyncio.run(awaits(t)),
        plain,
    ):
        ticker = Ticker(0.001)
        stop = threading.Timer(0.05, ticker.stop)
        stop.start()
        ticks = run(ticker)
        assert ticks
        assert ticks == sorted(ticks)
        assert not ticker.chan.closed
        with pytest.raises(StopIteration):
            next(ticker)
        stop.join()

    async def body() -> int:
        n = 0
        async with Ticker(0.001) as t:
            async for _ in t:
                n += 1
                if n == 3:
                    break
        with pytest.raises(StopAsyncIteration):
            await anext(t)
        return n

    assert gorun.run(body) == 3
    assert asyncio.run(body()) == 3


def test_stopped_from_many_sides_at_once() -> None:
    """Mutation: `stop` looks whether it is closed, and then closes: one of two raises."""
    for _ in range(30):
        ticker = Ticker(0.0005)
        gs = [gorun.go(ticker.stop) for _ in range(4)]
        for g in gs:
            g.result(LIMIT)
    until(no_timers)


def test_a_ticker_of_a_microsecond(maxprocs: int) -> None:
    """It holds nothing up, and stops. Mutation: a late one delivers all that it missed."""
    with Ticker(1e-6) as ticker:
        ticks = [ticker.chan.recv(LIMIT) for _ in range(200)]
        assert ticks == sorted(ticks)
        assert gorun.go(abs, -1).result(LIMIT) == 1
        assert [g.result(LIMIT) for g in gorun.go_many(abs, range(100))] == list(range(100))
        gorun.sleep(0.001)
    with pytest.raises(gorun.WouldBlock):
        ticker.chan.try_recv()
    time.sleep(0.002)
    with pytest.raises(gorun.WouldBlock):
        ticker.chan.try_recv()
    until(no_timers)
    with Ticker(1e-12) as ticker:
        assert ticker.chan.recv(LIMIT)


def test_many_timers_added_and_stopped() -> None:
    """They are freed when they are stopped. Mutation: `revoke` leaves the entry in the wheel."""
    for _ in range(5):
        timers = [Timer(3600 + i) for i in range(2000)]
        assert gorun.stats().timers == 2000
        assert all(t.stop() for t in timers)
        assert gorun.stats().timers == 0


def test_one_timer_reset_from_many_sides() -> None:
    """One value at the end, whoever came last. Mutation: two turns are armed."""
    timer = Timer(3600)

    async def body() -> None:
        for _ in range(100):
            timer.reset(3600)
            await gorun.gosched_async()
            timer.stop()

    gs = [gorun.go(body) for _ in range(4)]
    for g in gs:
        g.result(LIMIT)
    timer.reset(0)
    assert timer.chan.recv(LIMIT)  # type: ignore[union-attr]
    time.sleep(0.003)
    with pytest.raises(gorun.WouldBlock):
        timer.chan.try_recv()  # type: ignore[union-attr]
    until(no_timers)
