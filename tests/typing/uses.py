"""Typical uses, for `mypy --strict`: each `assert_type` is what a user's editor shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import gorun
from gorun import Goroutine


async def double(n: int, *, times: int = 1) -> int:
    await gorun.sleep_async(0.1)
    return 2 * n * times


def text(n: int) -> str:
    gorun.sleep(0.1)
    return str(n)


class Maker:
    def __call__(self, n: int) -> bytes:
        return bytes(n)


class Thing:
    async def method(self, n: int) -> float:
        return n / 2


# Goroutines know what their body returns.
assert_type(gorun.go(double, 1), Goroutine[int])
assert_type(gorun.go(double, 1, times=2), Goroutine[int])
assert_type(gorun.go(double(1)), Goroutine[int])
assert_type(gorun.go(text, 1), Goroutine[str])
assert_type(gorun.go(Maker(), 1), Goroutine[bytes])
assert_type(gorun.go(Thing().method, 1), Goroutine[float])
assert_type(gorun.go(lambda: 1), Goroutine[int])
assert_type(gorun.spawn(double, (1,), name="x", tags=["a"]), Goroutine[int])
assert_type(gorun.spawn(text, [1], {}), Goroutine[str])
assert_type(gorun.spawn(double(1), name="x"), Goroutine[int])
assert_type(gorun.go_many(double, [1, 2]), list[Goroutine[int]])
assert_type(gorun.go_many(text, range(3)), list[Goroutine[str]])
assert_type(gorun.run(double, 1), int)
assert_type(gorun.run(double(1)), int)
assert_type(gorun.run(text, 1), str)

# What a handle answers.
g = gorun.go(double, 1)
assert_type(g.result(), int)
assert_type(g.result(timeout=1), int)
assert_type(g.exception(1.5), BaseException | None)
assert_type(g.cancel("why"), bool)
assert_type(g.id, int)
assert_type(g.name, str)
assert_type(g.done(), bool)
assert_type(g.cancelled(), bool)
assert_type(gorun.current(), Goroutine[Any] | None)
g.add_done_callback(lambda h: print(h.result() + 1))
wider: Goroutine[object] = g  # covariant


async def joins() -> None:
    assert_type(await g, int)
    assert_type(await gorun.go(text, 1), str)
    assert_type(await gorun.sleep_async(1), None)
    assert_type(await gorun.gosched_async(), None)
    done, rest = await gorun.wait_async([g])
    assert_type(done, set[Goroutine[Any]])
    assert_type(rest, set[Goroutine[Any]])
    assert_type(gorun.as_completed_async([g]), AsyncIterator[Goroutine[int]])
    async for h in gorun.as_completed_async([g], timeout=1):
        assert_type(h.result(), int)
    async with gorun.shield() as s:
        assert_type(s, gorun.shield)
    task = asyncio.create_task(gorun.sleep_async(1))
    assert_type(task, asyncio.Task[None])
    assert_type(await asyncio.gather(g, gorun.go(text, 1)), tuple[int, str])
    assert_type(await asyncio.wait_for(g, 1), int)


assert_type(gorun.as_completed([g]), Iterator[Goroutine[int]])
assert_type(gorun.wait([g], return_when="FIRST_COMPLETED").done, set[Goroutine[Any]])

# The runtime.
assert_type(gorun.gomaxprocs(), int)
assert_type(gorun.gomaxprocs(2), int)
gorun.configure(max_threads=10)
assert_type(gorun.num_goroutine(), int)
assert_type(gorun.shutdown(1.0), bool)
assert_type(gorun.stats().ps[0].runs, int)
assert_type(gorun.stats().ready_mean, float)
assert_type(gorun.goroutines()[0].at, str | None)
with gorun.blocking():
    pass
with gorun.shield():
    pass


def hook(args: gorun.ExceptHookArgs, /) -> None:
    assert_type(args.exc_value, BaseException | None)
    assert_type(args.goroutine, Goroutine[Any] | None)


gorun.excepthook = hook

# Time.
timer = gorun.Timer(1, lambda: None)
assert_type(timer.stop(), bool)
assert_type(timer.reset(2.5), bool)
gorun.Timer(0.5, joins)

# Errors.
try:
    g.result()
except gorun.GoroutineCancelled as error:
    assert_type(error.reason, object)
except gorun.WorkerDied as died:
    assert_type(died.items, tuple[object, ...])
    assert_type(died.exitcode, int | None)
