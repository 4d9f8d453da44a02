"""What the extension calls back: threads, reports, the asyncio side of an await.

The extension looks these names up once. None of them is called under a lock of the core.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
import warnings
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator

    from gorun._gorun import Goroutine, Told, _Operation

T = TypeVar("T")

# ---- Ms ------------------------------------------------------------------------------------


class _NoWait(threading.Event):
    """The event by which ``Thread.start`` waits for the new thread: here nobody waits.

    An M that starts another one has work to do, and the wait is a switch there and back (and on
    GIL builds the new thread would take the interpreter first). If a later Python waits in another
    way, starting is only slower.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return True


_threads: WeakSet[threading.Thread] = WeakSet()
"""The threads of Ms."""


def start_thread(number: int) -> None:
    """Start the thread of M ``number``: a daemon, so that a blocked one never holds up the exit."""
    from gorun import _gorun

    thread = threading.Thread(
        target=_gorun._m_main, args=(number,), name=f"gorun-m{number}", daemon=True
    )
    vars(thread)["_started"] = _NoWait()
    thread.start()
    _threads.add(thread)


def join_threads(end: float) -> None:
    """Wait until ``end`` (of ``time.monotonic``) for the threads of Ms that the runtime has stopped.

    Such an M has left the extension, but its thread still runs the end of ``threading``'s own code,
    and a tracer's. If the interpreter goes down meanwhile the thread hangs in there, maybe with a
    lock of the interpreter's (free-threaded 3.13 under coverage.py: the exit then hangs too).
    """
    for thread in threading.enumerate():
        if thread in _threads:
            with contextlib.suppress(RuntimeError):  # asked for, and not started yet
                thread.join(max(0.0, end - time.monotonic()))


def m_started() -> None:
    """Prepare the thread of an M; called on it, before its first goroutine."""
    sys.set_asyncgen_hooks(finalizer=_close_generator)
    sync_trace()


def sync_trace() -> None:
    """Apply the hooks of ``threading.settrace`` and ``setprofile`` to this thread."""
    if (trace := threading.gettrace()) is not None and sys.gettrace() is None:
        sys.settrace(trace)
    if (profile := threading.getprofile()) is not None and sys.getprofile() is None:
        sys.setprofile(profile)


def _close_generator(agen: AsyncGenerator[Any, Any]) -> None:
    """Close an async generator that was dropped half-way, in a goroutine of its own."""
    from gorun import _gorun

    async def close() -> None:
        await agen.aclose()

    _gorun.go(close)


# ---- errors that nobody took -----------------------------------------------------------------


class ExceptHookArgs(NamedTuple):
    """What ``gorun.excepthook`` is called with."""

    exc_type: type[BaseException]
    exc_value: BaseException | None
    exc_traceback: TracebackType | None
    goroutine: Goroutine[Any] | None


_created: dict[int, str] = {}


def excepthook(args: ExceptHookArgs, /) -> None:
    """Print an error that nobody took to ``sys.stderr``, with the place of the goroutine's birth.

    ``args`` has ``exc_type``, ``exc_value``, ``exc_traceback`` and ``goroutine``. Assign a function
    to ``gorun.excepthook`` to replace it. SystemExit does not come here. At the exit of the
    interpreter errors come whose goroutine is still held by somebody. Where Go panics.

    >>> import gorun
    >>> gorun.excepthook is gorun._hooks.excepthook
    True
    """
    err = sys.stderr
    if err is None:
        return
    g = args.goroutine
    name = "a goroutine" if g is None else f"goroutine {g.id} ({g.name})"
    where = None if g is None else _created.get(g.id)
    head = f"Exception in {name}{f', created at {where}' if where else ''}:\n"
    trace = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
    err.write("".join((head, *trace)))  # in one: others report at the same time


def report(exc: BaseException, goroutine: Goroutine[Any] | None, created_at: str | None) -> None:
    """Hand an error to the replaceable hook; also while the interpreter takes its modules apart.

    Free-threaded builds may let go of the last handles when this module is apart as well: nobody is left to tell.
    """
    if globals()["sys"] is None:
        return
    gorun = (sys.modules or {}).get("gorun")
    if goroutine is not None and created_at is not None:
        _created[goroutine.id] = created_at
    try:
        hook = getattr(gorun, "excepthook", excepthook)
        hook(ExceptHookArgs(type(exc), exc, exc.__traceback__, goroutine))
    finally:
        if goroutine is not None:
            _created.pop(goroutine.id, None)


def end_child(error: BaseException | None) -> None:
    """End a forked child whose body has returned: as a program ends, without its exit hooks."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        code = 1
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def warn_start(why: str) -> None:
    """Say once that a thread could not be started; at the end of the program that is as it should be."""
    # 3.12.0 and 3.12.1 refuse while executors are still being joined and the main thread lives.
    if not threading.main_thread().is_alive() or "interpreter shutdown" in str(why):
        return
    warnings.warn(
        f"gorun: cannot start another thread to run goroutines on: {why}; they share those there are",
        RuntimeWarning,
        stacklevel=2,
    )


def warn_limit(max_threads: str) -> None:
    """Say once that blocked goroutines wait because the limit of threads is met."""
    warnings.warn(
        f"gorun: all {max_threads} threads (max_threads) are in use and blocked; goroutines wait "
        "until one returns. Raise the limit with gorun.configure(max_threads=...)",
        RuntimeWarning,
        stacklevel=2,
    )


def foreign_awaitable(value: object) -> TypeError:
    """Make the error for an await of something that gorun cannot drive."""
    cls = type(value)
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return TypeError(
        f"a goroutine cannot await {cls.__module__}.{cls.__qualname__}: {text}. Await gorun's "
        "own operations here, and reach an asyncio loop through gorun.asyncio"
    )


async def awaited(op: _Operation[T]) -> T:
    """The body of a goroutine that was given an operation instead of a coroutine."""
    return await op


# ---- awaiting gorun from an asyncio task -----------------------------------------------------


def _set(fut: asyncio.Future[None], told: Told) -> None:
    told.read()
    if not fut.done():
        fut.set_result(None)


def _wake(loop: asyncio.AbstractEventLoop, fut: asyncio.Future[None], op: _Operation[Any]) -> None:
    """Resume the task that waits; if its loop is closed, give back what was delivered to it.

    A loop that closes later drops what it has not got to: ``Told`` gives back then.
    """
    from gorun import _gorun

    try:
        loop.call_soon_threadsafe(_set, fut, _gorun.Told(op))
    except RuntimeError:
        op._vanished()
    else:
        # Closed in the middle of the call, as may be without a GIL: nobody looks at its queue again.
        if loop.is_closed():
            op._vanished()


async def asyncio_wait(op: _Operation[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Wait in a task of ``loop`` until ``op`` has happened.

    The compare-and-swap behind ``_withdraw`` decides between the operation and a cancel of the
    task. If the operation came first it returns as if nothing had been, and the cancel is asked
    for anew, so that it arrives at the task's next await. Who was only told to try again, as a
    mutex does, arms once more.
    """
    import asyncio

    while True:
        fut: asyncio.Future[None] = loop.create_future()
        armed = op._arm(partial(_wake, loop, fut, op))
        if armed is None:
            await asyncio.sleep(0)
        if not armed:
            return
        try:
            await fut
        except asyncio.CancelledError as e:
            if op._withdraw():
                raise
            _cancel_again(e)
            return


def _is_task_cancel(error: BaseException) -> bool:
    """Whether it is asyncio's CancelledError; asyncio is not imported for that."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _cancel_again(error: BaseException) -> None:
    """Let a cancel that came too late arrive at the next await of the running task."""
    import asyncio

    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel(*error.args)
