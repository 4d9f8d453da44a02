"""What bodies may do: awaits of all kinds, asyncio inside, threads, tracing.

"Mutation:" names the change to the runtime that makes the test fail.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import gorun

LONG = 3600.0
LIMIT = 20.0
"""Seconds that nothing here comes near: only a failure waits for it."""


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


# ---- what bodies may do --------------------------------------------------------------------------


def test_asyncio_run_inside_goroutines() -> None:
    async def main() -> int:
        await asyncio.sleep(0.001)
        await gorun.sleep_async(0.001)
        return await gorun.go(abs, -9)

    def plain() -> int:
        return asyncio.run(main())

    async def coro() -> int:
        n = asyncio.run(main())
        await gorun.gosched_async()
        return n

    assert gorun.go(plain).result(LIMIT) == 9
    assert gorun.go(coro).result(LIMIT) == 9


def test_async_generators_left_half_way_are_closed() -> None:
    # Mutation: `_close_generator` hands `agen.aclose` itself to go.
    closed: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await gorun.sleep_async(0.001)
            closed.append(gorun.current())

    async def body() -> None:
        async for _ in numbers():
            break

    gorun.go(body).result(LIMIT)
    gc.collect()
    until(lambda: closed)
    assert isinstance(closed[0], gorun.Goroutine)


def test_async_generators_run_through() -> None:
    async def numbers() -> Any:
        for i in range(3):
            await gorun.gosched_async()
            yield i

    async def body() -> list[int]:
        return [i async for i in numbers()]

    assert gorun.go(body).result(LIMIT) == [0, 1, 2]


def test_yield_none_is_a_gosched() -> None:
    # Mutation: treat None as foreign.
    @types.coroutine
    def bare() -> Any:
        got = yield
        return got

    async def body() -> list[Any]:
        return [await bare() for _ in range(5)]

    assert gorun.go(body).result(LIMIT) == [None] * 5


class Foreign:
    def __await__(self) -> Any:
        yield self


def test_foreign_awaitables() -> None:
    # Mutation: end the goroutine with the TypeError instead of throwing it in.
    async def body() -> list[str]:
        texts = []
        for make in (Foreign, lambda: asyncio.Future(loop=loop)):
            for _ in range(2):
                try:
                    await make()
                except TypeError as error:
                    texts.append(str(error))
        await gorun.sleep_async(0.001)  # it goes on
        return texts

    loop = asyncio.new_event_loop()
    try:
        texts = gorun.go(body).result(LIMIT)
    finally:
        loop.close()
    assert len(texts) == 4
    assert all("test_bodies.Foreign" in text for text in texts[:2])
    assert all("Future" in text for text in texts[2:])
    assert all("gorun.asyncio" in text for text in texts)

    async def alone() -> None:
        await Foreign()

    assert isinstance(gorun.go(alone).exception(LIMIT), TypeError)


def test_foreign_awaitable_that_catches_and_returns() -> None:
    class Stubborn:
        def __await__(self) -> Any:
            try:
                yield self
            except TypeError:
                return "caught"

    async def body() -> Any:
        return await Stubborn(), await gorun.go(abs, -1)

    assert gorun.go(body).result(LIMIT) == ("caught", 1)

    async def direct() -> Any:
        return await Stubborn()

    assert gorun.go(direct).result(LIMIT) == "caught"


def test_threads_of_goroutines() -> None:
    local = threading.local()

    def body() -> tuple[str, bool, bool]:
        thread = threading.current_thread()
        local.x = 1
        gorun.gosched()
        gorun.sleep(0.001)
        assert local.x == 1  # a plain goroutine keeps its thread
        return thread.name, thread.daemon, thread in threading.enumerate()

    name, daemon, listed = gorun.go(body).result(LIMIT)
    assert name.startswith("gorun-m")
    assert name.removeprefix("gorun-m").isdigit()
    assert daemon
    assert listed


def test_tracing_sees_goroutines() -> None:
    # In a fresh process: threads that exist already are not traced, as with threading itself.
    # Mutation: make Ms outside `threading` and leave `sync_trace` out.
    code = """
import sys, threading
seen = {"trace": set(), "profile": set()}
def trace(frame, event, arg):
    seen["trace"].add(frame.f_code.co_name)
    return trace
def profile(frame, event, arg):
    seen["profile"].add(frame.f_code.co_name)
threading.settrace(trace)
threading.setprofile(profile)
import gorun
async def coro_body():
    await gorun.sleep_async(0.001)
    inner_call()
def inner_call(): pass
def plain_body(): inner_call()
gorun.go(coro_body).result()
gorun.go(plain_body).result()
for kind in seen:
    assert {"coro_body", "plain_body", "inner_call"} <= seen[kind], (kind, seen)
"""
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_sys_setprofile_inside_a_body() -> None:
    def body() -> set[str]:
        seen: set[str] = set()
        sys.setprofile(lambda frame, event, arg: seen.add(frame.f_code.co_name))
        try:
            until(lambda: True)
        finally:
            sys.setprofile(None)
        return seen

    assert "until" in gorun.go(body).result(LIMIT)


def test_never_awaited_coroutines_are_not_hidden() -> None:
    # gorun takes no part: a coroutine that a body forgets warns as everywhere.
    async def inner() -> None: ...

    def body() -> None:
        inner()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gorun.go(body).result(LIMIT)
        gc.collect()
    assert any("never awaited" in str(w.message) for w in caught)


@pytest.mark.parametrize("n", [1000])
def test_many_goroutines_of_both_kinds(n: int) -> None:
    async def coro(i: int) -> int:
        await gorun.gosched_async()
        return await gorun.go(abs, -i)

    gs = gorun.go_many(coro, range(n))
    assert sum(g.result(LIMIT) for g in gs) == n * (n - 1) // 2
