"""Who calls: an asyncio task, a goroutine, or a plain thread.

In an await a running asyncio loop on this thread wins, else the goroutine that is being driven.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from gorun import _gorun, _hooks
from gorun._errors import Cancelled

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
CO_COROUTINE = 0x80  # inspect.CO_COROUTINE


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


async def drop_cancel(task: asyncio.Task[Any], before: int) -> None:
    """Take a cancel back that the running task was asked for and has not met.

    A block that asked for it calls this after its own ``uncancel``; ``before`` is what ``cancelling()``
    was at its start. Up to CPython 3.12 ``uncancel`` leaves the cancel pending, later while others are
    counted: it would be raised at an await after the block. asyncio's own awaits always meet it inside;
    one of gorun's that has happened returns, and the cancel is asked for anew.
    """
    if task.cancelling() > before or not getattr(task, "_must_cancel", False):
        return
    import asyncio

    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        if task.cancelling() > before:  # from outside, just now
            _hooks._cancel_again(error)


def call_in_loop(loop: asyncio.AbstractEventLoop, fn: Callable[[], object]) -> None:
    """Have the loop call ``fn``; nothing happens if it is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(fn)


def is_async_def(fn: object) -> bool:
    """What `inspect.iscoroutinefunction` says of `fn`; without `inspect`, which is slow to import.

    Nothing can be marked as one (3.12) where nobody has imported that. Nor is it imported here when it
    is first wanted: a child forked in the middle of an import never gets out of it.
    """
    known = getattr(sys.modules.get("inspect"), "iscoroutinefunction", None)
    if known is not None:
        return bool(known(fn))
    while True:
        if isinstance(fn, MethodType):
            fn = fn.__func__
        elif isinstance(fn, partial):
            fn = fn.func
        else:
            return isinstance(fn, FunctionType) and bool(fn.__code__.co_flags & CO_COROUTINE)
