"""Runs what is submitted on worker processes, by a `Pool` of gorun._proc.

The pool pickles, starts, feeds, watches and replaces the workers, and answers each call on a thread of
its own; here its answers become what `concurrent.futures` promises.

Protocol
Who delivers: the pool, by `done`, once for each call that it has begun. Who claims: `begin`, which is
the future's `set_running_or_notify_cancel`: a future cancelled before is skipped.
Ends: cancel      up to `begin`, by the future; `drop` cancels all that are out, and leaves those running
      close       the pool takes no more and runs what it has; it is told once
      death       of a worker: the calls that it had begun fail with `BrokenWorker`, the rest goes on
      broken      (the initializer failed, or no worker comes up): every call fails with BrokenProcessPool
      fork        the child gets a new pool, with none of the parent's calls
      Ctrl-C      that leaves the `with` block or the program: the workers are terminated
      exit        exits.py closes and joins

Invariant: a future that `put` accepted is the pool's until it is settled or skipped.
"""

from __future__ import annotations

import signal
import time
import weakref
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import InvalidStateError
from concurrent.futures._base import FINISHED, LOGGER, PENDING, RUNNING
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from functools import partial
from threading import TIMEOUT_MAX
from typing import Any, ClassVar, TypeAlias, TypeVar

from gorun._errors import WorkerDied
from gorun._executor import exits
from gorun._executor.future import Future
from gorun._gorun import Goroutine
from gorun._proc.pool import Pool

T = TypeVar("T")
Call: TypeAlias = tuple[futures.Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class BrokenWorker(WorkerDied, BrokenProcessPool):
    """Is the error of a call whose worker died: a `WorkerDied`, and a `BrokenProcessPool` too.

    Unlike with ProcessPoolExecutor the pool is not broken: other calls go on, new ones are taken.
    """


class ProcessFuture(Future[T]):
    """The future of a call on a process. Whoever waits for it may see to the workers meanwhile.

    It is the pool's record of the call too: each object less is felt where many are out.
    """

    _what: Any = None
    _packed: Any = None
    _begun = False

    def __init__(self, team: ProcessTeam) -> None:
        super().__init__()
        # Until it is done. So a team is there as long as calls are, whoever drops its executor.
        self._team: ProcessTeam | None = team

    def result(self, timeout: float | None = None) -> T:
        """As the base's."""
        if (team := self._team) is not None:
            timeout = self._wait(team.pool, timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the base's."""
        if (team := self._team) is not None:
            timeout = self._wait(team.pool, timeout)
        return super().exception(timeout)

    def cancel(self) -> bool:
        """As the base's."""
        team, cancelled = self._team, super().cancel()
        if cancelled and team is not None:
            team.pool.changed(self)
        return cancelled

    def _wait(self, pool: Pool, timeout: float | None) -> float | None:
        """Waits with the pool, as far as that goes: what is left of `timeout`."""
        if timeout is None:
            pool.help(self, self._is_done, None)
            return None
        if not 0 < timeout <= TIMEOUT_MAX:  # the base knows what to do with it
            return timeout
        limit = time.monotonic() + timeout
        pool.help(self, self._is_done, timeout)
        return max(0.0, limit - time.monotonic())

    def _is_done(self) -> bool:
        with self._lock:  # see lead.py
            return self._state not in (PENDING, RUNNING)

    # ---- called by the pool ----------------------------------------------------------------

    def _begin(self) -> bool:
        """Whether the call is to be made."""
        if self.set_running_or_notify_cancel():
            return True
        self._team = None
        self._what = self._packed = None
        return False

    def _settle(self, value: Any, error: BaseException | None) -> bool:
        """Takes the outcome, unless somebody's code would be run by that."""
        with self._lock:
            if not self.is_plain:
                return False
            if error is None and self._made is None and self._state == RUNNING:
                self._result = value
                self._state = FINISHED  # as `set_result`: here each step counts
                self._team = self._what = self._packed = None
            else:
                self._take(value, error)
            return True

    def _tell(self, value: Any, error: BaseException | None) -> None:
        """Takes the outcome, where somebody else may be waiting for it with the pool."""
        team = self._team
        assert team is not None
        try:
            self._take(value, error)
        except BaseException:  # of a callback: Exceptions do not come here
            LOGGER.exception("exception calling callback for %r", self)
        finally:
            team.pool.changed(self)

    def _take(self, value: Any, error: BaseException | None) -> None:
        team, self._team = self._team, None
        assert team is not None
        self._what = self._packed = None
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(_told(error, error is team.pool.broken))
        except InvalidStateError:  # cancelled, where the call never began
            pass


class ProcessTeam:
    """The worker processes of one executor, and the calls that are out."""

    def __init__(
        self,
        workers: int,
        name: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks: int | None,
        inner_threads: int | None = None,
    ) -> None:
        self.refusal: Callable[[], Exception] | None = None  # why no call is accepted
        self.owner: weakref.ref[Any] | None = None
        self._make = partial(
            Pool,
            workers,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks,
            name=name,
            inner_threads=inner_threads,
        )
        self.pool = self._make()
        exits.enlist(self)

    members: ClassVar[dict[Goroutine[None], int]] = {}  # there are no goroutines

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        return self.pool.pids

    @property
    def broken(self) -> str | bool:
        """Why the pool is broken, or False."""
        error = self.pool.broken
        return False if error is None else str(error) or type(error).__name__

    def future(self) -> ProcessFuture[Any]:
        """What a call is put with."""
        return ProcessFuture(self)

    def put(self, call: Call) -> None:
        """Accepts a call, or raises what `refusal` makes, or that the pool is broken."""
        if self.refusal is not None:
            raise self.refusal()
        future, fn, args, kwargs = call
        assert isinstance(future, ProcessFuture)
        future._what = fn, args, kwargs
        try:
            self.pool.put(future)
        except BaseException as error:
            if error is self.pool.broken:
                error.__traceback__ = None  # kept by the pool, whose frames it would keep
                raise _broken_pool(error) from error
            if self.refusal is not None:  # closed in between
                raise self.refusal() from None
            raise

    def close(self, refusal: Callable[[], Exception]) -> None:
        """No more calls; what is out is run, then the workers end. Never waits."""
        if self.refusal is None:
            self.refusal = refusal
            self.pool.shutdown(wait=False)

    def leave(self) -> None:
        """Accepts nothing more because the interpreter ends; what waits is run."""
        self.close(exits.too_late)

    def drop(self) -> None:
        """Cancels what is out and not begun."""
        for future in self.pool.calls:
            assert isinstance(future, ProcessFuture)
            future.cancel()

    def join(self) -> None:
        """Waits until every worker has ended."""
        self.pool.shutdown(wait=True)

    def stop(self, *, kill: bool) -> None:
        """Sends SIGTERM, or SIGKILL, to the workers; what they run fails with `BrokenWorker`."""
        self.pool.kill(signal.SIGKILL if kill else signal.SIGTERM)

    def interrupted(self) -> None:
        """Terminates the workers: a Ctrl-C is not for them, and would wait for their calls."""
        self.close(exits.interrupted)
        self.drop()
        self.stop(kill=False)

    def after_fork(self) -> None:
        """In the child: a new pool; what is out is the parent's."""
        self.pool = self._make()
        if self.refusal is not None:
            self.pool.shutdown(wait=False)


def _told(error: BaseException, broken: bool) -> BaseException:
    """`error` as concurrent.futures has it."""
    if broken:
        told: BaseException = _broken_pool(error)
    elif type(error) is WorkerDied:
        told = BrokenWorker(str(error), error.items, error.exitcode)
    else:
        cause = error.__cause__
        text = getattr(cause, "tb", None)
        if isinstance(text, str) and type(cause).__name__ == "RemoteTraceback":
            error.__cause__ = _RemoteTraceback(text)  # type: ignore[arg-type]  # it is the text
        return error
    told.__cause__ = error
    return told


def _broken_pool(error: BaseException) -> BrokenProcessPool:
    if isinstance(error, BrokenProcessPool):
        return error
    return BrokenProcessPool(str(error) or type(error).__name__)
