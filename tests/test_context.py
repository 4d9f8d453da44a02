"""Context variables in goroutines.

"Mutation:" names the change to the runtime that makes the test fail.
"""

from __future__ import annotations

import contextvars
import threading
import time
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


# ---- contexts ------------------------------------------------------------------------------------

VAR: contextvars.ContextVar[Any] = contextvars.ContextVar("VAR", default="unset")


@pytest.fixture
def var() -> Any:
    token = VAR.set("outer")
    yield VAR
    VAR.reset(token)


@pytest.mark.parametrize("make", [gorun.go, gorun.spawn, lambda fn: gorun.go_many(fn, [None])[0]])
def test_a_goroutine_sees_a_copy_of_its_creators_context(make: Any, var: Any) -> None:
    # Mutation: `ctx` null in `parts`, or copied in the first step.
    gate = threading.Event()

    def body(*_: Any) -> Any:
        gate.wait()
        seen = var.get()
        var.set("inner")
        return seen, var.get()

    g = make(body)
    var.set("later")
    gate.set()
    assert g.result(LIMIT) == ("outer", "inner")
    assert var.get() == "later"


def test_context_across_awaits_and_migrations(var: Any) -> None:
    # Mutation: no PyContext_Enter on a resume.
    async def body(n: int) -> None:
        assert var.get() == "outer"
        for i in range(20):
            token = var.set((n, i))
            await (gorun.gosched_async() if i % 3 else gorun.sleep_async(0.0001))
            assert var.get() == (n, i)
            if i % 2:
                var.reset(token)
                await gorun.gosched_async()
                assert var.get() == (n, i - 1)

    gs = gorun.go_many(body, range(50))
    for g in gs:
        g.result(LIMIT)
    assert var.get() == "outer"


def test_setting_the_same_object_again_and_tokens(var: Any) -> None:
    same = object()

    async def body() -> None:
        token = var.set(same)
        await gorun.gosched_async()
        again = var.set(same)
        await gorun.sleep_async(0.001)
        assert again.old_value is same
        var.reset(again)
        await gorun.gosched_async()
        assert var.get() is same
        var.reset(token)
        assert var.get() == "outer"

    gorun.go(body).result(LIMIT)
    assert var.get() == "outer"


def test_a_token_of_one_goroutine_is_no_use_in_another(var: Any) -> None:
    token = gorun.go(lambda: var.set(1)).result(LIMIT)
    with pytest.raises(ValueError, match="different Context"):
        var.reset(token)


def test_goroutine_inside_goroutine_sees_the_inner_context(var: Any) -> None:
    async def outer() -> Any:
        var.set("middle")
        return await gorun.go(var.get)

    assert gorun.go(outer).result(LIMIT) == "middle"


def test_context_run_inside_a_goroutine(var: Any) -> None:
    async def body() -> Any:
        ctx = contextvars.copy_context()
        inner = ctx.run(var.set, "deep")
        await gorun.gosched_async()
        return var.get(), ctx[var], inner is not None

    assert gorun.go(body).result(LIMIT) == ("outer", "deep", True)


def test_go_inside_context_run(var: Any) -> None:
    ctx = contextvars.copy_context()
    ctx.run(var.set, "elsewhere")
    assert ctx.run(gorun.go, var.get).result(LIMIT) == "elsewhere"


def test_callbacks_see_the_context_of_their_adding(var: Any) -> None:
    # Mutation: no PyContext_Enter in `run_callbacks`.
    gate = threading.Event()
    out: list[Any] = []
    g = gorun.go(gate.wait)

    def callback(_: Any) -> None:
        out.append(var.get())
        var.set("lost")

    var.set("first")
    g.add_done_callback(callback)
    var.set("second")
    g.add_done_callback(callback)
    var.set("third")
    gate.set()
    g.result(LIMIT)
    until(lambda: len(out) == 2)
    g.add_done_callback(callback)
    assert out == ["first", "second", "third"]
    assert var.get() == "third"
