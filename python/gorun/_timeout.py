"""``timeout``: a scope that cancels what runs inside when its time is up.

Protocol: ``rust/py/src/scope.rs``. In an asyncio task it is ``asyncio.timeout``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gorun import _callers, _gorun
from gorun._errors import Cancelled
from gorun._settings import check_timeout

if TYPE_CHECKING:
    import asyncio


class timeout(  # noqa: N801  (reads as a statement)
    AbstractContextManager["timeout"], AbstractAsyncContextManager["timeout"]
):
    """``with timeout(seconds) as scope:`` or ``async with``: the block is cancelled when the time is up.

    The gorun operation that waits then (or the next one) raises Cancelled; when that reaches the end
    of the block, the scope raises TimeoutError in its place. One that was swallowed inside leaves
    ``expired`` True. ``seconds`` at or below 0 is up at the first cancel point, None never. A scope
    swallows its own Cancelled only: one from outside that is pending too is raised at the next cancel
    point. In a plain function or thread only gorun's operations are cut, never a ``time.sleep``; in
    an asyncio task the scope is ``asyncio.timeout``. Raises ValueError for NaN. Where Go has
    ``context.WithTimeout``.

    >>> import gorun
    >>> try:
    ...     with gorun.timeout(0.01) as scope:
    ...         gorun.sleep(3600)
    ... except TimeoutError:
    ...     print("expired:", scope.expired)
    expired: True
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = check_timeout(seconds)
        self._scope = _gorun._Scope()
        self._in_task: asyncio.Timeout | None = None
        self._before = 0  # how often the task had been asked to cancel
        self._entered = False

    @property
    def expired(self) -> bool:
        """True once the time was up inside the block, also if the Cancelled was swallowed.

        >>> import gorun
        >>> with gorun.timeout(60) as scope:
        ...     pass
        >>> scope.expired
        False
        """
        return self._scope.fired if self._in_task is None else self._in_task.expired()

    def reschedule(self, seconds: float | None) -> None:
        """Let the time be up ``seconds`` from now (None: never) instead; before the block, from its start.

        Raises ValueError for NaN, RuntimeError when the time was up already or the block has ended.

        >>> import gorun
        >>> with gorun.timeout(60) as scope:
        ...     scope.reschedule(None)
        """
        seconds = check_timeout(seconds)
        if self._in_task is not None:
            self._in_task.reschedule(self._when(seconds))
        elif self._scope.fired:
            raise RuntimeError(f"the time-out of {self._seconds} s is up already")
        elif self._scope.is_open:
            self._scope.set_timer(seconds)
        elif self._entered:
            raise RuntimeError("the block of this time-out has ended")
        self._seconds = seconds

    @staticmethod
    def _when(seconds: float | None) -> float | None:
        import asyncio

        return None if seconds is None else asyncio.get_running_loop().time() + float(seconds)

    def _begin(self) -> None:
        if self._entered:
            raise RuntimeError("a timeout is entered once: make a new one")
        self._entered = True

    def _enter(self) -> Self:
        self._begin()
        self._scope.enter()
        try:
            self._scope.set_timer(self._seconds)
        except BaseException:
            self._scope.leave()
            raise
        return self

    def _exit(self, exc: BaseException | None) -> None:
        fired = self._scope.leave()
        if fired and isinstance(exc, Cancelled) and exc._origin == self._scope.origin:
            raise TimeoutError(f"timed out after {self._seconds} s") from exc

    async def _enter_task(self) -> Self:
        import asyncio

        self._begin()
        task = asyncio.current_task()
        self._before = 0 if task is None else task.cancelling()
        self._in_task = asyncio.timeout_at(self._when(self._seconds))
        await self._in_task.__aenter__()
        return self

    def __enter__(self) -> Self:
        if _callers.task() is not None:
            return _callers.at_once(self._enter_task())
        return self._enter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._in_task is not None:
            _callers.at_once(self._in_task.__aexit__(exc_type, exc, tb))
        else:
            self._exit(exc)

    async def __aenter__(self) -> Self:
        if _gorun._loop_runs_here():
            return await self._enter_task()
        _callers.check_async("async with timeout()")
        return self._enter()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._in_task is not None:
            await self._in_task.__aexit__(exc_type, exc, tb)
            task = _callers.task()
            if task is not None and self._in_task.expired():
                await _callers.drop_cancel(task, self._before)
        else:
            self._exit(exc)
