"""``Group``: goroutines that end with a block.

Protocol. A child's end is reported by its done callback, on the thread that ends it; it counts down,
keeps the error, and at the first error cancels the others, the context and the body. The body is
cancelled through a scope of its own (``rust/py/src/scope.rs``; in an asyncio task by ``task.cancel``,
taken back by ``uncancel`` as ``asyncio.TaskGroup`` does), which ends when the body does.

Ends of the wait at the end of the block (a latch, opened by the last child; until then children may
start others):

- the last child ends: the group is closed, and ``go`` raises from now on.
- cancel (from outside, of a scope around, of the task), Ctrl-C: goes to the children, and the wait goes
  on; raised at last, unless there are errors: then a cancel stays pending.
- time-out: there is none; a ``timeout`` around the group is a cancel.
- the limit of threads: a plain goroutine on the last free one cannot wait for goroutines that need it.
  ThreadLimit is an error of the group; the children are cancelled, and end when the thread is free.
- a deadlock: the children are cancelled, and the wait goes on; if they cannot be cut there is a second
  one, and nothing to wait for. It is an error of the group.
- closed loop, fork, exit: nobody waits any more, the children are the runtime's.

The lock is held for moments only, around nothing that waits or runs foreign code. It can be taken
again by a signal handler on the same thread (RLock): each section leaves the fields consistent at each
of its lines.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from gorun import _callers, _gorun
from gorun._context import Context, background
from gorun._errors import Cancelled, Deadlock, GoroutineCancelled, ThreadLimit
from gorun._gorun import Goroutine, Latch

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
P = ParamSpec("P")


class _Slots:
    """At most ``n`` at a time, first come, first served. A slot that a canceller was given goes on."""

    def __init__(self, n: int) -> None:
        self._lock = threading.RLock()
        self._free = n
        self._waiting: deque[Latch] = deque()

    def try_take(self) -> bool:
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return True
            return False

    def give(self) -> None:
        with self._lock:
            gate = self._waiting.popleft() if self._waiting else None
            if gate is None:
                self._free += 1
        if gate is not None:
            gate.set()

    def _queue(self) -> Latch:
        gate = Latch()
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                gate.set()
            else:
                self._waiting.append(gate)
        return gate

    def _leave(self, gate: Latch) -> None:
        with self._lock:
            if gate in self._waiting:
                self._waiting.remove(gate)
                return
        self.give()

    def take(self) -> None:
        gate = self._queue()
        try:
            gate.wait()
        except BaseException:
            self._leave(gate)
            raise

    async def take_async(self) -> None:
        gate = self._queue()
        try:
            await gate.wait_async()
        except BaseException:
            self._leave(gate)
            raise


async def _never() -> None:
    """Stands in for what is started in a cancelled group."""
    await _gorun.sleep_async(math.inf)


class _Body:
    """How the body is cancelled: a goroutine or thread through a scope, a task by its own means."""

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self._task = task
        self._scope = _gorun._Scope()
        self._before = 0
        self._asked = False  # of the task: in its loop's thread only
        self._over = False

    def enter(self) -> None:
        if self._task is None:
            self._scope.enter()
        else:
            self._before = self._task.cancelling()

    def cancel(self, why: str) -> None:
        """From any thread."""
        task = self._task
        if task is None:
            self._scope.fire(why)
        elif not self._over:

            def ask() -> None:
                if not self._over and not self._asked:
                    self._asked = True
                    task.cancel(why)

            _callers.call_in_loop(task.get_loop(), ask)

    def leave(self, exc: BaseException | None) -> BaseException | None:
        """The body has ended with ``exc``: gives it back unless it is this scope's own cancel."""
        self._over = True
        if self._task is None:
            self._scope.leave()
            if isinstance(exc, Cancelled) and exc._origin == self._scope.origin:
                return None
        elif self._asked and self._task.uncancel() <= self._before and self.is_cancel(exc):
            return None
        return exc

    async def left(self) -> None:
        """After `leave` in a task: the cancel that was asked for, if the body has not met it, is taken back."""
        if self._task is not None and self._asked:
            await _callers.drop_cancel(self._task, self._before)

    def is_cancel(self, error: BaseException | None) -> bool:
        """True for what cancels this kind of caller."""
        if self._task is None:
            return isinstance(error, Cancelled)
        return _callers.is_cancel(error)

    def cancel_again(self, error: BaseException) -> None:
        """An outer cancel that was delivered gives way to errors: it is pending again."""
        if isinstance(error, Cancelled):
            _gorun._cancel_again(error._origin, error.reason)
        elif self._task is not None:
            self._task.uncancel()
            self._task.cancel(*error.args)


class Group(AbstractContextManager["Group"], AbstractAsyncContextManager["Group"]):
    """``with Group() as group:`` or ``async with``: no goroutine of the group outlives the block.

    ``group.go(fn, ...)`` starts one; with ``limit`` at most so many run at a time. The first error
    cancels the others **and the body**, and is ``group.context.cause()``; leaving raises an
    ExceptionGroup of all errors, the body's own included (a BaseExceptionGroup where needed). Cancelled
    goroutines are no errors. A cancel that meets the wait at the end goes to the goroutines and is
    raised when they have ended; errors win over it, and it stays pending. ``group.context`` is a child
    of ``context`` (of ``background()``), cancelled at the end. Raises ValueError for a ``limit`` below
    1; RuntimeError for ``with`` on the thread of a running asyncio loop. Go's ``errgroup``.

    >>> import gorun
    >>> with gorun.Group() as group:
    ...     a = group.go(pow, 2, 5)
    ...     b = group.go(pow, 3, 5)
    >>> a.result() + b.result()
    275
    """

    def __init__(self, *, limit: int | None = None, context: Context | None = None) -> None:
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, int):
                raise TypeError(f"limit must be a whole number or None, not {limit!r}")
            if limit < 1:
                raise ValueError(f"limit must be 1 or more, or None, not {limit}")
        if context is not None and not isinstance(context, Context):
            raise TypeError(f"context must be a gorun.Context or None, not {context!r}")
        self._slots = None if limit is None else _Slots(limit)
        self._context = (background() if context is None else context).with_cancel()
        self._lock = threading.RLock()
        self._body: _Body | None = None
        self._children: set[Goroutine[Any]] = set()
        self._live = 0
        self._errors: dict[int, BaseException] = {}  # by id: who joins a child has its error, too
        self._cancelled: object = None  # the reason that goes to the children, once there is one
        self._ended: Latch | None = None  # there once the body is over
        self._closed = False

    @property
    def context(self) -> Context:
        """The group's context: cancelled by the first error, and at the end.

        >>> import gorun
        >>> with gorun.Group() as group:
        ...     print(group.context.err())
        None
        >>> group.context.err()
        ContextDone('the context was cancelled')
        """
        return self._context

    # ---- starting

    @overload
    def go(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[T]: ...
    @overload
    def go(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Goroutine[T]: ...
    @overload
    def go(self, fn: Coroutine[Any, Any, T], /) -> Goroutine[T]: ...
    def go(self, fn: Any, /, *args: Any, **kwargs: Any) -> Goroutine[Any]:
        """Start ``fn(*args, **kwargs)`` as ``gorun.go`` does; at the limit wait until one has ended.

        In a group that was cancelled it is cancelled at once, and never runs. Raises RuntimeError before
        and after the block. A cancel point at the limit only.

        >>> import gorun
        >>> with gorun.Group(limit=1) as group:
        ...     gs = [group.go(abs, -n) for n in range(3)]
        >>> [g.result() for g in gs]
        [0, 1, 2]
        """
        self._check_open()
        if self._slots is not None and not self._slots.try_take():
            self._slots.take()
        return self._start(fn, args, kwargs)

    @overload
    async def go_async(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[T]: ...
    @overload
    async def go_async(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[T]: ...
    @overload
    async def go_async(self, fn: Coroutine[Any, Any, T], /) -> Goroutine[T]: ...
    async def go_async(self, fn: Any, /, *args: Any, **kwargs: Any) -> Goroutine[Any]:
        """As ``go``, awaited by a goroutine or an asyncio task.

        >>> import gorun
        >>> async def main() -> int:
        ...     async with gorun.Group(limit=1) as group:
        ...         g = await group.go_async(pow, 2, 5)
        ...     return g.result()
        >>> gorun.run(main)
        32
        """
        _callers.check_async("await Group.go_async()")
        self._check_open()
        if self._slots is not None and not self._slots.try_take():
            await self._slots.take_async()
        return self._start(fn, args, kwargs)

    @overload
    def try_go(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[T] | None: ...
    @overload
    def try_go(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Goroutine[T] | None: ...
    @overload
    def try_go(self, fn: Coroutine[Any, Any, T], /) -> Goroutine[T] | None: ...
    def try_go(self, fn: Any, /, *args: Any, **kwargs: Any) -> Goroutine[Any] | None:
        """As ``go``, but never wait: None at the limit.

        >>> import gorun
        >>> with gorun.Group(limit=1) as group:
        ...     g = group.go(gorun.sleep, 0.01)
        ...     print(group.try_go(abs, -1))
        None
        """
        self._check_open()
        if self._slots is not None and not self._slots.try_take():
            return None
        return self._start(fn, args, kwargs)

    def _check_open(self) -> None:
        if self._body is None:
            raise RuntimeError("the group was not entered: `with Group() as group:`")
        if self._closed:
            raise RuntimeError("the group has ended: no goroutine of it outlives its block")

    def _start(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Goroutine[Any]:
        with self._lock:
            closed = self._closed
            if not closed:
                self._live += 1
            too_late = self._cancelled is not None
        if closed:
            self._give_slot()
            self._check_open()
        if too_late and callable(fn):
            fn, args, kwargs = _never, (), {}  # an M may be quicker than the cancel below
        try:
            g = _gorun.go(fn, *args, **kwargs)
        except BaseException:
            self._count_down()
            raise
        with self._lock:
            self._children.add(g)
            why = self._cancelled
        if why is not None:
            g.cancel(why)
        g.add_done_callback(self._child_ended)
        return g

    # ---- ends

    def _give_slot(self) -> None:
        if self._slots is not None:
            self._slots.give()

    def _child_ended(self, g: Goroutine[Any]) -> None:
        error = g._error()
        with self._lock:
            self._children.discard(g)
        if error is not None and not g.cancelled():
            self._fail(error)
        self._count_down()

    def _count_down(self) -> None:
        self._give_slot()
        with self._lock:
            self._live -= 1
            last = self._live == 0 and self._ended is not None
            if last:
                self._closed = True
        if last and self._ended is not None:
            self._ended.set()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if (
                isinstance(error, GoroutineCancelled)
                and error.reason is self._cancelled is not None
            ):
                return  # who joins a child meets the group's cancel there, maybe before its own
            first = not self._errors
            self._errors[id(error)] = error
        if first:
            self._context.cancel(error)
            why = f"{type(error).__name__} in another goroutine of the group"
            self._cancel_children(why)
            if self._body is not None:
                self._body.cancel(why)

    def _cancel_children(self, why: object) -> None:
        with self._lock:
            self._cancelled = why
            children = list(self._children)
        for g in children:
            g.cancel(why)

    # ---- the block

    def _enter(self, task: asyncio.Task[Any] | None) -> Self:
        if self._body is not None:
            raise RuntimeError("a group is entered once: make a new one")
        self._body = _Body(task)
        self._body.enter()
        return self

    def __enter__(self) -> Self:
        if _gorun._loop_runs_here():
            raise RuntimeError(
                "`with Group()` would block the running asyncio loop: use `async with`"
            )
        return self._enter(None)

    async def __aenter__(self) -> Self:
        task = _callers.task()
        if task is None:
            _callers.check_async("async with Group()")
        return self._enter(task)

    def _leave_body(self, exc: BaseException | None) -> BaseException | None:
        """The body is over: the outer cancel that ended it, if it was one."""
        assert self._body is not None
        exc = self._body.leave(exc)
        outer = None
        if isinstance(exc, GeneratorExit) or self._body.is_cancel(exc):
            outer = exc
            self._stop(exc)
        elif exc is not None:
            self._fail(exc)
        with self._lock:
            self._ended = Latch()
            if self._live == 0:
                self._closed = True
                self._ended.set()
        return outer

    def _stop(self, error: BaseException | None) -> None:
        """The body is being cancelled: so are the children."""
        reason = getattr(error, "reason", None)
        self._context.cancel()
        self._cancel_children("the group was cancelled" if reason is None else reason)

    def _met(self, error: BaseException, outer: BaseException | None) -> BaseException | None:
        """Something met the wait: the outer cancel from now on."""
        assert self._body is not None
        if self._body.is_cancel(error):
            self._stop(error)
            return outer or error
        self._fail(error)
        self._cancel_children("the group was interrupted")  # also if it had failed before
        return outer

    def _end(self, exc: BaseException | None, outer: BaseException | None) -> None:
        """Raise what is to be raised. The group's own cancel never goes on: it comes with an error."""
        assert self._body is not None
        self._context.cancel()
        errors, self._errors = list(self._errors.values()), {}
        try:
            if errors:
                if outer is not None:
                    self._body.cancel_again(outer)
                raise BaseExceptionGroup("errors in a Group", errors) from None
            if outer is not None and outer is not exc:
                raise outer
        finally:
            # The errors' tracebacks hold this frame.
            del errors, exc, outer, self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        outer = self._leave_body(exc)
        assert self._ended is not None
        stuck = False
        try:
            while True:
                try:
                    self._ended.wait()
                    break
                except ThreadLimit as error:
                    # No thread is left that could end the children: they are cancelled, and end when this one is free.
                    outer = self._met(error, outer)
                    self._closed = True
                    break
                except Deadlock as error:
                    outer = self._met(error, outer)
                    if stuck:
                        self._closed = True
                        break
                    stuck = True
                except BaseException as error:
                    outer = self._met(error, outer)
            self._end(exc, outer)
        finally:
            del exc, outer

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        outer = self._leave_body(exc)
        assert self._ended is not None
        assert self._body is not None
        if isinstance(exc, GeneratorExit):
            return  # the coroutine is being closed: it may not await any more
        await self._body.left()
        try:
            while True:
                try:
                    await self._ended.wait_async()
                    break
                except GeneratorExit:
                    self._stop(None)
                    raise
                except BaseException as error:
                    outer = self._met(error, outer)
            self._end(exc, outer)
        finally:
            del exc, outer
