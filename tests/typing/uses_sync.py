"""Typical uses of locks, counters, clocks and `map`: mypy --strict finds nothing here."""

from __future__ import annotations

from typing import assert_type

import gorun
from gorun import Goroutine, RecvChan


async def double(n: int) -> int:
    return 2 * n


def text(n: int) -> str:
    return str(n)


def add(a: int, b: float) -> float:
    return a + b


# Locks.
mu = gorun.Mutex()
with mu:
    assert_type(mu.locked(), bool)
assert_type(mu.acquire(), bool)
assert_type(mu.acquire(blocking=False), bool)
assert_type(mu.acquire(timeout=1), bool)
mu.release()
rw = gorun.RWMutex()
with rw.reader, rw.writer:
    pass
assert_type(rw.writer.acquire(timeout=1), bool)
sem = gorun.Semaphore(3, bounded=False)
with sem:
    assert_type(sem.acquire(n=2, timeout=1), bool)
    assert_type(sem.try_acquire(2), bool)
    sem.release(2)
for cond in (gorun.Cond(), gorun.Cond(mu)):
    with cond:
        assert_type(cond.wait(1), bool)
        assert_type(cond.wait_for(lambda: 3), int)
        cond.notify(2)
        cond.notify_all()
event = gorun.Event()
event.set()
assert_type((event.is_set(), event.wait(1)), tuple[bool, bool])
barrier = gorun.Barrier(2, action=event.clear)
assert_type(barrier.wait(1), int)
assert_type((barrier.parties, barrier.n_waiting, barrier.broken), tuple[int, int, bool])

# Counters.
wg = gorun.WaitGroup()
wg.add(2)
wg.done()
wg.wait(timeout=1)
assert_type(wg.go(double, 1), Goroutine[int])
assert_type(wg.go(text, 1), Goroutine[str])


async def awaited() -> None:
    async with mu, rw.reader, rw.writer, sem, gorun.Cond():
        pass
    assert_type(await mu.acquire_async(timeout=1), bool)
    assert_type(await rw.reader.acquire_async(), bool)
    assert_type(await sem.acquire_async(n=2), bool)
    assert_type(await gorun.Cond().wait_async(1), bool)
    assert_type(await gorun.Cond().wait_for_async(lambda: "x"), str)
    assert_type(await event.wait_async(1), bool)
    assert_type(await barrier.wait_async(), int)
    assert_type(await wg.wait_async(1), None)
    await wg


# Clocks.
assert_type(gorun.after(1), RecvChan[float])
assert_type(gorun.Timer(1).chan, RecvChan[float] | None)
with gorun.Ticker(0.5) as ticker:
    assert_type(ticker, gorun.Ticker)
    assert_type(ticker.chan, RecvChan[float])
    ticker.reset(1)
    for when in ticker:
        assert_type(when, float)


async def ticks() -> None:
    async with gorun.Ticker(0.5) as ticker:
        async for when in ticker:
            assert_type(when, float)


# Map.
assert_type(list(gorun.map(text, [1, 2])), list[str])
assert_type(list(gorun.map(double, [1, 2], workers=2)), list[int])
assert_type(list(gorun.map(add, [1, 2], [0.5, 1.5])), list[float])
assert_type(list(gorun.map(text, [1], errors="return")), list[str | Exception])
assert_type(list(gorun.map(double, [1], errors="collect", on="thread")), list[int])
with gorun.map(text, range(3), ordered=False) as texts:
    assert_type(next(texts), str)


async def mapped() -> list[str]:
    assert_type([x async for x in gorun.map_async(double, [1])], list[int])
    assert_type([x async for x in gorun.map_async(add, [1], [0.5])], list[float])
    assert_type(
        [x async for x in gorun.map_async(text, [1], errors="return")], list[str | Exception]
    )
    return [x async for x in gorun.map_async(text, [1])]
