"""`gorun.map` with async functions, and `gorun.map_async`.

Beside each guarantee stands a change that its test was seen to catch.
"""

from __future__ import annotations

import functools
import unittest.mock
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests import _child
from tests._mapping import (
    HANG,
    Counted,
    Gate,
    asquare,
    fails_at,
    gates,
    square,
    stopped_clock,
    tmap,
    tmap_async,
    until,
)

import gorun

gate = pytest.fixture(gates, name="gate")
clock = pytest.fixture(stopped_clock, name="clock")

# ---- async functions, map_async -----------------------------------------------------------------


class Power:
    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    async def __call__(self, n: int) -> int:
        return int(n**self.exponent)


@pytest.mark.parametrize("fn", [asquare, functools.partial(asquare), Power(2)])
def test_an_async_function_is_awaited(fn: Callable[[int], Any]) -> None:
    # Mutation: `makes_coroutine` asks `iscoroutinefunction(fn)` alone.
    assert [n * n for n in range(500)] == list(tmap(fn, range(500)))


class Makes(type):
    """Whose classes are called with an await."""

    async def __call__(cls, n: int) -> int:  # type: ignore[override]
        return n * n


class Made(metaclass=Makes):
    """A call of it gives no object."""


def test_a_class_is_no_async_function() -> None:
    """Though its objects are: a call of it makes one. Unless its metaclass says otherwise.

    Mutations: `makes_coroutine` asks a class for its `__call__`; or does not ask `type(fn)`.
    """
    powers = list(tmap(Power, [1, 2]))
    assert [power.exponent for power in powers] == [1, 2]
    assert list(tmap(Made, [2, 3])) == [4, 9]  # type: ignore[arg-type]


def test_a_mock_is_what_it_was_made_as() -> None:
    """Mutation: what `isinstance` takes for a builtin function is not async: that asks the mock's spec."""
    mock = unittest.mock.AsyncMock(spec=len, return_value=7)
    assert list(tmap(mock, [1, 2])) == [7, 7]


def test_async_functions_without_inspect() -> None:
    """As `inspect` says, which `import gorun` does not load.

    Mutations: partials, or methods, are not taken off; the flag is another one.
    """
    _child.run(
        """
        from functools import partial
        from gorun._callers import is_async_def
        class Some:
            async def method(self): pass
            @classmethod
            async def kind(cls): pass
            async def __call__(self): pass
        async def generator():
            yield
        async def f(): pass
        yes = [f, partial(partial(f)), Some().method, Some.kind, partial(Some().method), Some.method]
        no = [print, len, generator, Some, Some(), lambda: f(), partial(print), None, 1, [].append]
        assert "inspect" not in sys.modules
        assert all(map(is_async_def, yes))
        assert not any(map(is_async_def, no))
        import inspect
        for fn in yes + no:
            assert is_async_def(fn) == inspect.iscoroutinefunction(fn), fn
        """
    )


def test_as_many_async_items_run_as_there_are_workers() -> None:
    begun: set[int] = set()

    async def item(n: int) -> int:
        begun.add(n)
        while n < 100 and len(begun) < 100:
            assert len(begun) <= 100
            await gorun.sleep_async(0.001)
        return n

    assert list(tmap(item, range(200), workers=100)) == list(range(200))


def test_async_errors_retries_and_the_end() -> None:
    tries = []

    async def item(n: int) -> int:
        tries.append(n)
        if n == 1:
            raise ValueError(n)
        return n

    found = list(tmap(item, range(3), errors="return", retries=2, workers=1))
    assert [n if isinstance(n, int) else repr(n) for n in found] == [0, "ValueError(1)", 2]
    assert tries == [0, 1, 1, 1, 2]


def test_close_cancels_async_items_at_their_await() -> None:
    begun, ended = [], []

    async def item(n: int) -> None:
        begun.append(n)
        try:
            while n or len(begun) < 3:
                await gorun.sleep_async(HANG * 10 if n else 0.001)
        finally:
            ended.append(n)

    with tmap(item, range(9), workers=3) as m:
        next(m)
    until(lambda: sorted(begun) == sorted(ended))
    assert 3 <= len(begun) <= 4


def test_item_timeout_cancels_an_async_item(clock: list[float]) -> None:
    ended = []

    async def item(n: int) -> int:
        try:
            if n == 1:
                clock[0] += 1
                await gorun.sleep_async(HANG * 10)
            return n
        finally:
            ended.append(n)

    m = tmap(item, range(3), item_timeout=0.05, errors="return", workers=1)
    assert [n if isinstance(n, int) else type(n) for n in m] == [0, TimeoutError, 2]
    until(lambda: sorted(ended) == [0, 1, 2])


async def collect(m: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in m]


@pytest.fixture(params=["goroutine", "asyncio"])
def drive(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs an `async def` function as a goroutine, and as an asyncio task."""
    import asyncio

    if request.param == "goroutine":
        return lambda main: gorun.go(main).result(HANG)
    return lambda main: asyncio.run(main())


@pytest.mark.parametrize("fn", [square, asquare])
def test_map_async_gives_what_map_gives(drive: Callable[[Any], Any], fn: Any) -> None:
    async def main() -> tuple[list[int], list[int]]:
        return (
            await collect(tmap_async(fn, range(300))),
            await collect(tmap_async(fn, range(300), ordered=False, workers=3)),
        )

    in_order, others = drive(main)
    assert [n * n for n in range(300)] == in_order == sorted(others)


def test_map_async_raises_what_map_raises(drive: Callable[[Any], Any]) -> None:
    async def main() -> list[str]:
        told = []
        for errors in ("raise", "collect"):
            try:
                await collect(tmap_async(fails_at(1), range(3), errors=errors))  # type: ignore[call-overload]
            except Exception as error:
                told.append(repr(error))
        return told

    assert drive(main) == [
        "ValueError(1)",
        "ExceptionGroup('1 error in gorun.map', [ValueError(1)])",
    ]


def test_map_async_left_early_leaves_nothing(drive: Callable[[Any], Any]) -> None:
    async def main() -> int:
        async with tmap_async(square, Counted(), workers=2) as m:
            return await anext(m)

    before = gorun.num_goroutine()
    assert drive(main) == 0
    until(lambda: gorun.num_goroutine() == before)


@pytest.mark.no_matrix
def test_a_cancelled_wait_of_map_async_has_taken_nothing(gate: Gate) -> None:
    # Mutation: every exception that leaves `_advance` ends the map.
    import asyncio

    async def main() -> list[int]:
        m = tmap_async(lambda n: gate.wait() or n, range(4), workers=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(m), 0.05)
        gate.open()
        return await collect(m)

    assert asyncio.run(main()) == [0, 1, 2, 3]
