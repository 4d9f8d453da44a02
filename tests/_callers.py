"""Runs the same thing as each kind of caller: a thread, a plain and an async goroutine, an asyncio task.

A test gives a plain function and its `async def` twin; the first serves the thread and the plain
goroutine, the second the other two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import gorun

LONG = 3600.0
LIMIT = 20.0

KINDS = ("thread", "plain", "async", "task")


def run_as(
    kind: str, plain: Callable[[], Any], twin: Callable[[], Coroutine[Any, Any, Any]]
) -> Any:
    """The result of the function, or its error, as this kind of caller."""
    if kind == "thread":
        return plain()
    if kind == "task":
        return asyncio.run(twin())
    return gorun.go(plain if kind == "plain" else twin).result(LIMIT)


def until(condition: Callable[[], object]) -> None:
    """Waits for a state."""
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def waits(g: gorun.Goroutine[Any]) -> bool:
    """True while it is parked, or blocked in an operation."""
    state = next((i.state for i in gorun.goroutines() if i.id == g.id), None)
    return state in ("waiting", "blocked")
