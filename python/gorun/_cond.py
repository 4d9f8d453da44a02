"""``Cond`` and ``Barrier``: those that stand on a lock and a queue together.

A Cond's waiter takes a number while it holds the lock, gives the lock up, and waits for its number to
be called: a ``notify`` in between is not lost. ``wait`` always takes its lock again before it ends,
whatever happened, and passes a call on that it cannot use. A Barrier is one flag per round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from gorun import _gorun
from gorun._callers import cancel_later, check_async
from gorun._errors import ThreadLimit
from gorun._gorun import Gate, Mutex
from gorun._hooks import _cancel_again, _is_task_cancel
from gorun._settings import check_timeout
from gorun._sync import _units

T = TypeVar("T")

# ---- Cond ------------------------------------------------------------------------------------


class _Shield:
    """Holds a goroutine's cancel back while a Cond takes its lock again."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _gorun._shield_enter()

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _gorun._shield_exit(self._before)


class Cond:
    """A condition variable as ``threading.Condition``, over a ``Mutex``.

    ``lock``: a Mutex or another lock with ``acquire`` and ``release`` (and, to be awaited,
    ``acquire_async``); None makes a Mutex. Go's ``sync.Cond``.

    >>> import gorun
    >>> cond, ready = gorun.Cond(), []
    >>> def produce() -> None:
    ...     with cond:
    ...         ready.append(1)
    ...         cond.notify()
    >>> g = gorun.go(produce)
    >>> with cond:
    ...     cond.wait_for(lambda: ready, timeout=10)
    [1]
    """

    __slots__ = ("__weakref__", "_calls", "_lock", "_orphans")

    def __init__(self, lock: Any = None) -> None:
        if lock is None:
            lock = Mutex()
        elif not (hasattr(lock, "acquire") and hasattr(lock, "release")):
            raise TypeError(f"lock must be a Mutex or None, not {lock!r}")
        self._lock: Any = lock
        self._calls = Gate.calls()
        self._orphans: set[int] = set()  # threads that destroy a waiter whose lock is another's

    def __repr__(self) -> str:
        return f"<gorun.Cond({self._lock!r}, {self._calls.waiting()})>"

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        """Lock the underlying lock.

        >>> import gorun
        >>> cond = gorun.Cond()
        >>> cond.acquire(), cond.acquire(blocking=False)
        (True, False)
        """
        return bool(self._lock.acquire(*args, **kwargs))

    def acquire_async(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, bool]:
        """As ``acquire``, awaited."""
        op: Coroutine[Any, Any, bool] = self._lock.acquire_async(*args, **kwargs)
        return op

    def release(self) -> None:
        """Unlock the underlying lock.

        >>> import gorun
        >>> cond = gorun.Cond()
        >>> cond.acquire(), cond.release()
        (True, None)
        """
        self._lock.release()

    def locked(self) -> bool:
        """Whether the underlying lock is locked.

        >>> import gorun
        >>> gorun.Cond().locked()
        False
        """
        return bool(self._lock.locked())

    def __enter__(self) -> bool:
        self._lock.acquire()
        return True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._lock.release()

    async def __aenter__(self) -> bool:
        await self._lock.acquire_async()
        self._orphans.discard(threading.get_ident())
        return True

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not isinstance(exc, GeneratorExit) or not self._is_orphaned():
            self._lock.release()

    def _owned(self, what: str) -> None:
        lock = self._lock
        if hasattr(lock, "_is_owned"):
            owned = lock._is_owned()
        elif hasattr(lock, "locked"):
            owned = lock.locked()
        else:
            owned = not lock.acquire(False)
            if not owned:
                lock.release()
        if not owned:
            raise RuntimeError(f"cannot {what} on un-acquired lock")

    def _let_go(self) -> Callable[[], None] | None:
        """Unlock; for a re-entrant lock, how to lock it as often again."""
        save = getattr(self._lock, "_release_save", None)
        if save is None:
            self._lock.release()
            return None
        state = save()
        restore = self._lock._acquire_restore
        return lambda: restore(state)

    def wait(self, timeout: float | None = None) -> bool:
        """Unlock, wait for a ``notify``, lock again; False if ``timeout`` seconds were up first.

        The lock is held at the end whatever happened. RuntimeError unless it is held at the start.

        >>> import gorun
        >>> cond = gorun.Cond()
        >>> with cond:
        ...     cond.wait(timeout=0.001)
        False
        """
        self._owned("wait")
        number = self._calls.number()
        called = False
        try:
            again = self._let_go() or self._lock.acquire
        except BaseException:
            self._give_up(number)
            raise
        try:
            called = bool(self._calls.enter(number, timeout)) or self._calls.give_up(number)
        except BaseException:
            self._give_up(number)
            raise
        finally:
            self._retake(again, called)
        return called

    def _give_up(self, number: int) -> None:
        """An error instead of the call: who has the number gives it up, a call is passed on."""
        if self._calls.give_up(number):
            self._calls.notify(1)

    def _retake(self, again: Callable[[], Any], called: bool) -> None:
        """Lock again: no cancel and no signal handler's error comes before that."""
        late: BaseException | None = None
        with _Shield():
            while True:
                try:
                    again()
                    break
                except ThreadLimit:
                    raise
                except (Exception, SystemExit) as e:
                    # A handler's; or the lock's own, or the end of the program: then it comes again.
                    if late is not None:
                        raise
                    late = e
                except BaseException as e:
                    late = e
        if late is not None:
            if called:
                self._calls.notify(1)  # it will not be acted upon here
            raise late

    async def wait_async(self, timeout: float | None = None) -> bool:
        """As ``wait``, awaited."""
        check_async("await Cond.wait_async()")  # later the lock could not be taken again
        self._owned("wait")
        number = self._calls.number()
        called = False
        try:
            self._lock.release()
        except BaseException:
            self._give_up(number)
            raise
        try:
            entered: bool = await self._calls.enter_async(number, timeout)
            called = entered or self._calls.give_up(number)
        except GeneratorExit:
            self._give_up(number)
            self._abandon()
            raise
        except BaseException:
            self._give_up(number)
            await self._retake_async(False)
            raise
        await self._retake_async(called)
        return called

    def _abandon(self) -> None:
        """The coroutine is destroyed and cannot wait for the lock: ``async with`` is told if it has none.

        By the thread, which closes the one frame right after the other: each has a GeneratorExit of its own.
        """
        if not self._lock.acquire(False):
            self._orphans.add(threading.get_ident())

    def _is_orphaned(self) -> bool:
        me = threading.get_ident()
        found = me in self._orphans
        self._orphans.discard(me)
        return found

    async def _retake_async(self, called: bool) -> None:
        """As `_retake`. The cancel of an asyncio task that comes meanwhile is asked for anew (rule 3)."""
        late: BaseException | None = None
        cancel: BaseException | None = None
        with _Shield():
            while True:
                try:
                    await self._lock.acquire_async()
                    break
                except GeneratorExit:
                    self._abandon()
                    if called:
                        self._calls.notify(1)
                    raise
                except Exception:
                    raise
                except BaseException as e:
                    if _is_task_cancel(e):
                        cancel = e
                    else:
                        late = e
        if cancel is not None:
            _cancel_again(cancel)
        if late is not None:
            if called:
                self._calls.notify(1)
            raise late

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until ``predicate()`` is true; its last value, also when the time is up.

        >>> import gorun
        >>> with gorun.Cond() as locked:
        ...     locked
        True
        >>> cond = gorun.Cond()
        >>> with cond:
        ...     cond.wait_for(lambda: 'there'), cond.wait_for(lambda: '', timeout=0.001)
        ('there', '')
        """
        check_timeout(timeout)
        _gorun._cancel_point()
        end = None if timeout is None else time.monotonic() + float(timeout)
        result = predicate()
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    async def wait_for_async(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """As ``wait_for``, awaited."""
        check_timeout(timeout)
        check_async("await Cond.wait_for_async()")
        _gorun._cancel_point()
        end = None if timeout is None else time.monotonic() + float(timeout)
        result = predicate()
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            await self.wait_async(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake up to ``n`` of those that wait, the oldest first. RuntimeError without the lock.

        >>> import gorun
        >>> gorun.Cond().notify()
        Traceback (most recent call last):
        RuntimeError: cannot notify on un-acquired lock
        """
        self._owned("notify")
        if _units(n, "n") > 0:
            self._calls.notify(n)

    def notify_all(self) -> None:
        """Wake all that wait. RuntimeError without the lock.

        >>> import gorun
        >>> cond = gorun.Cond()
        >>> with cond:
        ...     cond.notify_all()
        """
        self._owned("notify")
        self._calls.notify(_ALL)


_ALL = 2**62


# ---- Barrier ---------------------------------------------------------------------------------


class _Round:
    """One filling of a Barrier: those that came wait before its gate, which opens when it is full or broken.

    Complete, its action is under way: who comes then waits for the next round before the same gate.
    """

    __slots__ = ("broken", "came", "full", "gate", "last", "left")

    def __init__(self, broken: bool = False) -> None:
        self.gate = Gate.flag()
        self.came = 0
        self.left: list[int] = []  # the numbers of those that came and were cut
        self.last = -1  # the number of the one that completed it
        self.full = False
        self.broken = broken

    def check(self) -> None:
        """Raise if it is broken: before its gate has opened it may still become so."""
        if self.broken:
            raise threading.BrokenBarrierError


class Barrier:
    """Lets ``parties`` callers go on together, again and again, as ``threading.Barrier``.

    ``action`` is called by the last that comes, before any goes on; ``timeout`` (seconds) is the
    default of ``wait``. Raises ``threading.BrokenBarrierError``, and ValueError unless there is a party.

    >>> import gorun
    >>> barrier = gorun.Barrier(2)
    >>> g = gorun.go(barrier.wait)
    >>> sorted([barrier.wait(), g.result()])
    [0, 1]
    """

    __slots__ = ("__weakref__", "_action", "_mutex", "_parties", "_round", "_timeout")

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        if _units(parties, "parties") < 1:
            raise ValueError(f"parties must be > 0, not {parties}")
        check_timeout(timeout)
        self._parties = parties
        self._action = action
        self._timeout = timeout
        self._mutex = Mutex()
        self._round = _Round()

    def __repr__(self) -> str:
        if self.broken:
            return f"<gorun.Barrier at {id(self):#x}: broken>"
        return f"<gorun.Barrier at {id(self):#x}: waiters={self.n_waiting}/{self.parties}>"

    def _come(self) -> tuple[_Round, int]:
        """Count one more: its number, or -1 if the round is complete and its action under way."""
        with self._mutex:
            this = self._round
            if this.broken:
                raise threading.BrokenBarrierError
            if this.came == self._parties:
                return this, -1
            index = this.left.pop() if this.left else this.came
            this.came += 1
            if this.came == self._parties:
                this.last = index
                if self._action is None:
                    self._open(this)
            return this, index

    def _complete(self, this: _Round) -> None:
        """By the last that came: the action, then all go on. Nothing is locked meanwhile."""
        if self._action is None:
            return  # it went on when the last was counted
        try:
            self._action()
        except BaseException:
            with _Shield(), self._mutex:
                self._break(this)
            raise
        with _Shield(), self._mutex:
            if not this.broken:
                self._open(this)
        this.check()

    def _open(self, this: _Round) -> None:
        self._round = _Round()
        this.full = True
        this.gate.set(True)

    def _break(self, this: _Round) -> None:
        this.broken = True
        this.gate.set(True)

    def _cut(self, this: _Round, index: int, error: BaseException) -> bool:
        """An error ended the wait: who comes later takes the place, unless the round is complete.

        True if all have gone on already: then this one has too, and a cancel came too late (rule 3).
        """
        with _Shield(), self._mutex:
            if this.came < self._parties:
                this.came -= 1
                this.left.append(index)
            full = this.full
        return full and cancel_later(error)

    def _late(self, this: _Round) -> bool:
        """The time is up: True if the round is complete all the same, and its action decides; else it breaks."""
        with _Shield(), self._mutex:
            if this.came == self._parties and not this.broken:
                return True
            self._break(this)
            return False

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all have come; a number from 0 to parties - 1, another one for each.

        Raises BrokenBarrierError if the barrier is or becomes broken, also by a time-out of one.

        >>> import gorun
        >>> gorun.Barrier(1).wait()
        0
        """
        check_timeout(timeout)
        limit = self._timeout if timeout is None else timeout
        this, index = self._come()
        while index < 0:
            this.gate.enter(1)
            this, index = self._come()
        if index == this.last:
            self._complete(this)
            return index
        try:
            if not this.gate.enter(1, limit) and self._late(this):
                this.gate.enter(1)
        except BaseException as error:
            if not self._cut(this, index, error):
                raise
        this.check()
        return index

    async def wait_async(self, timeout: float | None = None) -> int:
        """As ``wait``, awaited."""
        check_timeout(timeout)
        check_async("await Barrier.wait_async()")
        limit = self._timeout if timeout is None else timeout
        this, index = self._come()
        while index < 0:
            await this.gate.enter_async(1)
            this, index = self._come()
        if index == this.last:
            self._complete(this)
            return index
        try:
            if not await this.gate.enter_async(1, limit) and self._late(this):
                await this.gate.enter_async(1)
        except BaseException as error:
            if not self._cut(this, index, error):
                raise
        this.check()
        return index

    def reset(self) -> None:
        """Start anew; those that wait get BrokenBarrierError.

        >>> import gorun
        >>> barrier = gorun.Barrier(2)
        >>> barrier.abort(), barrier.reset(), barrier.broken
        (None, None, False)
        """
        with _Shield(), self._mutex:
            old, self._round = self._round, _Round()
            if old.came:
                self._break(old)

    def abort(self) -> None:
        """Break it: those that wait, and that come until ``reset``, get BrokenBarrierError.

        >>> import gorun
        >>> barrier = gorun.Barrier(2)
        >>> barrier.abort(), barrier.broken
        (None, True)
        """
        with _Shield(), self._mutex:
            self._break(self._round)

    @property
    def parties(self) -> int:
        """How many go on together."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        this = self._round
        return 0 if this.full or this.broken else this.came

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._round.broken


for _cls in (Cond, Barrier):
    _cls.__module__ = "gorun"
del _cls
