"""Errors that nobody took.

"Mutation:" names the change to the runtime that makes the test fail.
"""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import time
import traceback
import types
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


def names(trace: types.TracebackType | None) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(trace)]


# ---- excepthook ----------------------------------------------------------------------------------


def fails(text: str) -> None:
    raise LookupError(text)


def test_excepthook_gets_what_nobody_took(hook_errors: Any) -> None:
    # Mutation: no report in `reset`.
    g = gorun.spawn(fails, ("nobody",), name="lonely")
    n = g.id
    until(g.done)
    assert hook_errors.left() == []
    del g
    [args] = hook_errors.take()
    assert args.exc_type is LookupError
    assert args.exc_value.args == ("nobody",)
    assert args.exc_traceback is args.exc_value.__traceback__
    assert names(args.exc_traceback) == ["fails"]
    assert args.goroutine.id == n
    assert args.goroutine.name == "lonely"
    assert args.goroutine.done()
    assert isinstance(args, gorun.ExceptHookArgs)
    # It can be asked now, and is not reported again.
    assert args.goroutine.exception() is args.exc_value
    del args
    gc.collect()


def test_excepthook_when_the_handle_was_dropped_at_once(hook_errors: Any) -> None:
    gorun.go(fails, "early")
    [args] = hook_errors.take()
    assert args.exc_value.args == ("early",)


@pytest.mark.parametrize(
    "take",
    [
        lambda g: g.exception(LIMIT),
        lambda g: gorun.go(g.result).exception(LIMIT),
        lambda g: gorun.go(_await_it, g).exception(LIMIT),
        lambda g: asyncio.run(_swallow(g)),
    ],
    ids=["exception", "result", "await", "asyncio"],
)
def test_excepthook_is_not_called_for_what_was_taken(take: Any, hook_errors: Any) -> None:
    # Mutation: do not `take` in `outcome` or `exception`.
    g = gorun.go(fails, "taken")
    take(g)
    del g
    gc.collect()
    time.sleep(0.02)
    assert hook_errors.left() == []


async def _await_it(g: Any) -> None:
    await g


async def _swallow(g: Any) -> None:
    with pytest.raises(LookupError):
        await g


def test_wait_and_callbacks_do_not_take(hook_errors: Any) -> None:
    # Mutation: `_failed` or `done` takes.
    g = gorun.go(fails, "looked at")
    g.add_done_callback(lambda g: None)
    gorun.wait([g], return_when="FIRST_EXCEPTION")
    assert g.done()
    assert not g.cancelled()
    repr(g)
    del g
    [args] = hook_errors.take()
    assert args.exc_value.args == ("looked at",)


def test_excepthook_is_not_called_for_cancels(hook_errors: Any) -> None:
    async def body() -> None:
        await gorun.sleep_async(LONG)

    g = gorun.go(body)
    g.cancel()
    until(g.done)
    del g
    gc.collect()
    time.sleep(0.02)
    assert hook_errors.left() == []


def test_default_excepthook_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation: `report` passes no site.
    err = io.StringIO()  # capsys would lose what an M writes while it is read
    monkeypatch.setattr(sys, "stderr", err)
    usual, gorun.excepthook = gorun.excepthook, gorun._hooks.excepthook
    try:
        g = gorun.spawn(fails, ("printed",), name="printer")  # the place of creation
        n = g.id
        del g
        until(lambda: "LookupError: printed\n" in err.getvalue())
    finally:
        gorun.excepthook = usual
    first, *rest = err.getvalue().splitlines()
    assert first.startswith(f"Exception in goroutine {n} (printer), created at ")
    # The place is that of the user's call, not one inside gorun.
    assert "test_excepthook.py" in first
    assert rest[0] == "Traceback (most recent call last):"
    assert any("in fails" in line for line in rest)


def test_an_error_in_the_hook_is_unraisable(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation: let the hook's error pass: it would end the M.
    got: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: got.append(args.exc_value))

    def hook(args: Any, /) -> None:
        raise ValueError("in the hook")

    usual, gorun.excepthook = gorun.excepthook, hook
    try:
        gorun.go(fails, "lost")
        until(lambda: got)
    finally:
        gorun.excepthook = usual
    assert [str(error) for error in got] == ["in the hook"]
    got.clear()
    assert gorun.go(abs, -1).result(LIMIT) == 1


def test_the_hook_may_use_gorun(hook_errors: Any) -> None:
    out: list[Any] = []

    def hook(args: Any, /) -> None:
        out.append(gorun.go(abs, -3).result(LIMIT))
        out.append(args.goroutine)  # kept: it lives on

    usual, gorun.excepthook = gorun.excepthook, hook
    try:
        gorun.go(fails, "kept")
        until(lambda: len(out) == 2)
    finally:
        gorun.excepthook = usual
    assert out[0] == 3
    assert out[1].exception().args == ("kept",)


def test_a_report_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at the same time do not run into each other. Mutation: `print`, then `print_exception`."""
    writes: list[str] = []

    class Err(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    error = LookupError("whole")
    monkeypatch.setattr(sys, "stderr", Err())
    gorun._hooks.excepthook(gorun.ExceptHookArgs(LookupError, error, None, None))
    assert writes == ["Exception in a goroutine:\nLookupError: whole\n"]
