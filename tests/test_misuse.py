"""Wrong and odd use: operations dropped, awaited twice, driven by hand (rules 1 and 2).

"Mutation:" names the change to the runtime that makes a test fail.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gorun
from gorun._gorun import Latch

LONG = 3600.0
LIMIT = 20.0


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


OPS: dict[str, Callable[[], Any]] = {
    "sleep_async": lambda: gorun.sleep_async(0.001),
    "gosched_async": gorun.gosched_async,
    "wait_async": lambda: opened().wait_async(),
}


def opened() -> Latch:
    latch = Latch()
    latch.set()
    return latch


every_op = pytest.mark.parametrize("name", OPS)


@every_op
def test_never_awaited(name: str) -> None:
    # Mutation: no `warn_unawaited` in dealloc.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        OPS[name]()
        gc.collect()
    [warning] = caught
    assert warning.category is RuntimeWarning
    assert f"'{name}' was never awaited" in str(warning.message)


@every_op
def test_never_awaited_did_nothing(name: str) -> None:
    before = gorun.stats()
    op = OPS[name]()
    time.sleep(0.01)
    after = gorun.stats()
    assert (after.timers, after.created, after.goroutines) == (
        before.timers,
        before.created,
        before.goroutines,
    )
    op.close()  # a closed one does not warn
    del op
    gc.collect()


@pytest.mark.parametrize("name", ["wait_async", "as_completed_async"])
def test_python_side_operations_never_awaited(name: str) -> None:
    g = gorun.go(abs, -1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(gorun, name)([g])
        gc.collect()
    if name == "wait_async":  # the other is an async generator, which never warns
        assert ["wait_async" in str(w.message) for w in caught] == [True]
    g.result()


@every_op
@pytest.mark.parametrize("where", ["goroutine", "task"])
def test_awaited_twice(name: str, where: str) -> None:
    # Mutation: neither `am_await` nor `step` looks for Ended (each alone is enough).
    async def body() -> str:
        op = OPS[name]()
        await op
        with pytest.raises(RuntimeError, match=f"already awaited {name}"):
            await op
        with pytest.raises(RuntimeError, match="already awaited"):
            op.send(None)
        return "ok"

    if where == "task":
        assert asyncio.run(body()) == "ok"
    else:
        assert gorun.go(body).result(LIMIT) == "ok"


@every_op
def test_awaited_by_two_at_once(name: str) -> None:
    gate = Latch()
    op: Any = gate.wait_async() if name == "wait_async" else gorun.sleep_async(0.05)

    async def body() -> Any:
        return await op

    async def main() -> None:
        a = gorun.go(body)
        until(lambda: gorun.stats().waiting)
        b = gorun.go(body)
        assert isinstance(b.exception(LIMIT), RuntimeError)
        gate.set()
        await a

    gorun.run(main)


@every_op
def test_send_throw_close(name: str) -> None:
    # Mutation: leave one out of the table; or `close` leaves the wait armed.
    op = OPS[name]()
    assert all(callable(getattr(op, m)) for m in ("send", "throw", "close", "__await__"))
    with pytest.raises(LookupError, match="thrown"):
        op.throw(LookupError("thrown"))
    op.close()
    op.close()
    op = OPS[name]()
    with pytest.raises(LookupError):
        op.throw(LookupError)
    op = OPS[name]()
    for bad in (5, "text", int, None):
        with pytest.raises(TypeError):
            op.throw(bad)
    with pytest.raises(TypeError):
        op.throw()
    op.close()


@every_op
def test_driven_outside_of_everything(name: str) -> None:
    op = OPS[name]()
    with pytest.raises(RuntimeError, match=f"{name}.*goroutine.*asyncio"):
        op.send(None)
    op = OPS[name]()
    with pytest.raises(RuntimeError, match=name):
        next(op)


@every_op
def test_driven_by_hand_in_a_plain_goroutine(name: str) -> None:
    def body() -> None:
        OPS[name]().send(None)

    with pytest.raises(RuntimeError, match="plain-function goroutine"):
        gorun.go(body).result(LIMIT)


def test_thrown_into_while_it_waits() -> None:
    # Mutation: `throw` does not withdraw: the latch fires a wait that is over.
    latch = Latch()

    class Half:
        """Starts an operation and leaves it."""

        def __await__(self) -> Any:
            op = latch.wait_async(LONG)
            it = op.__await__()
            first = next(it)
            assert first is it
            with pytest.raises(LookupError):
                op.throw(LookupError())
            with pytest.raises(RuntimeError):
                op.send(None)
            return "left"
            yield

    async def body() -> Any:
        got = [await Half() for _ in range(3)]
        latch.set()
        got.append(await latch.wait_async())
        await gorun.sleep_async(0.001)
        return got

    assert gorun.go(body).result(LIMIT) == ["left"] * 3 + [True]


def test_coroutine_closed_while_its_operation_waits() -> None:
    latch = Latch()

    async def inner() -> None:
        await latch.wait_async(LONG)

    class Half:
        def __await__(self) -> Any:
            coro = inner()
            it = coro.__await__()
            next(it)
            coro.close()
            return "closed"
            yield

    async def body() -> Any:
        got = await Half()
        latch.set()
        await gorun.gosched_async()
        return got

    assert gorun.go(body).result(LIMIT) == "closed"


def test_operation_yielded_twice_by_hand_goes_on_waiting() -> None:
    latch = Latch()

    class Pump:
        def __await__(self) -> Any:
            it = latch.wait_async().__await__()
            while True:
                try:
                    yield next(it)
                except StopIteration as stop:
                    return stop.value

    async def body() -> Any:
        return await Pump()

    g = gorun.go(body)
    until(lambda: gorun.stats().waiting)
    latch.set()
    assert g.result(LIMIT) is True


def test_latches() -> None:
    latch = Latch(2)
    latch.done()
    assert not latch.is_set()
    latch.done()
    assert latch.is_set()
    with pytest.raises(ValueError, match="more often"):
        latch.done()
    latch.set()
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"not {bad}"):
            Latch(bad)
    with pytest.raises(TypeError):
        Latch("1")  # type: ignore[arg-type]


def test_subinterpreters_are_refused() -> None:
    code = """
try:
    import _xxsubinterpreters as sub
except ImportError:
    import _interpreters as sub
i = sub.create()
r = sub.run_string(i, '''
try:
    import gorun
except ImportError as error:
    print("refused:", error)
''')
print("end", r)
"""
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert "refused:" in got.stdout, (got.stdout, got.stderr)


def test_import_twice_is_one_module() -> None:
    import importlib

    again = importlib.import_module("gorun")
    assert again is gorun
    assert again.__version__ == gorun._gorun.__version__


def test_a_foreign_awaitable_that_nobody_else_holds() -> None:
    """Mutation: `resume` drops what was yielded before it is named (a crash)."""

    @types.coroutine
    def odd() -> Iterator[object]:
        # A class of its own, so that the name is gone with it.
        yield type("Odd" * 100, (), {})()

    async def body() -> str:
        with pytest.raises(TypeError) as caught:
            await odd()
        return str(caught.value)

    for _ in range(20):
        assert "OddOdd" in gorun.go(body).result(20)


def test_a_foreign_awaitable_without_a_repr() -> None:
    """What it yields is told by its type. Mutation: `repr` unguarded: its error comes in place of ours."""

    class Odd:
        def __repr__(self) -> str:
            raise LookupError

        def __await__(self) -> Any:
            yield self

    async def body() -> None:
        await Odd()

    with pytest.raises(TypeError, match=r"cannot await .*Odd: <.*Odd object at .*asyncio"):
        gorun.run(body)
