"""Who calls: an asyncio task, a goroutine, or a plain thread.

In an await a running asyncio loop on this thread wins, else the goroutine that is being driven.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from gorun import _gorun, _hooks
from gorun._errors import Cancelled

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def task() -> asyncio.Task[Any] | None:
    """The asyncio task that runs on this thread, or None."""
    if not _gorun._loop_runs_here():
        return None
    import asyncio

    return asyncio.current_task()


def identity() -> object:
    """Something that is equal for one caller only: its task, its goroutine, or its thread's number."""
    return task() or _gorun.current() or threading.get_ident()


def check_async(what: str) -> None:
    """RuntimeError unless something can be awaited here. `what` as the user wrote it."""
    if not _gorun._loop_runs_here() and _gorun.current() is None:
        raise RuntimeError(
            f"`{what}` belongs into a goroutine (gorun.go) or an asyncio task: here runs neither"
        )


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} suspends")


def is_cancel(error: BaseException | None) -> bool:
    """True for what cancels a goroutine or an asyncio task."""
    if isinstance(error, Cancelled):
        return True
    asyncio = sys.modules.get("asyncio")  # without it there is no such error
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def cancel_later(error: BaseException) -> bool:
    """Let the caller's cancel, which was delivered too late, be pending again; False if it is no cancel."""
    if isinstance(error, Cancelled):
        _gorun._cancel_again(error._origin, error.reason)
    elif is_cancel(error):
        _hooks._cancel_again(error)
    else:
        return False
    return True


def call_in_loop(loop: asyncio.AbstractEventLoop, fn: Callable[[], object]) -> None:
    """Have the loop call ``fn``; nothing happens if it is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(fn)
