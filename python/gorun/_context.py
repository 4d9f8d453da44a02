"""``Context``: a tree of things that end together, as Go's ``context``.

What is not needed is not made: a context is one object and one dict, its done channel is made when
somebody asks for it, its error too.

Who ends a context, and how: ``cancel``, the end of its parent, its deadline. Each tries to put the one
record of the end into ``_state`` under ``_END``; ``dict.setdefault`` decides, once. The winner then
closes the done channel, starts what ``after_func`` kept, ends the children. No lock is held, so a
signal handler or a finalizer may cancel at any time.

A child enters itself into its parent's ``_state`` and looks for the end there afterwards; the parent
puts its end in and looks for children afterwards. Both are operations on one dict, which come in one
order: one of the two sees the other.

Who holds whom: a child its parent; a parent its children weakly, so one that nobody can see is freed,
with its timer. The done channel holds its context (not the other way): while somebody waits on it, it
will be closed. A context with functions that wait for its end is held by its parent, and its parents by
theirs, until it ends or they are stopped (``_pins``).

Ends of others than the context itself: a waiter on the done channel has those of any receive (time-out,
cancel, Ctrl-C, closed event loop: the context goes on). A deadline is a ``Timer`` with a function: it
stands still after ``shutdown`` until somebody waits or starts a goroutine, does not fire at the exit, nor
in a forked child, where the other ends work.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, overload

from gorun import _gorun
from gorun._errors import ChannelClosed, ContextDone
from gorun._gorun import Chan, RecvChan, Timer
from gorun._settings import check_seconds

T = TypeVar("T")

_END, _ERROR, _DONE, _FUNCS = "end", "error", "done", "funcs"
"""Keys of ``Context._state``; children have numbers."""

_number = itertools.count().__next__
_new = object.__new__
_pins = threading.RLock()


class DeadlineExceeded(ContextDone, TimeoutError):
    """The context has ended because its deadline has passed."""


_End: TypeAlias = tuple[bool, object, ContextDone | None]
"""How a context ended: by its deadline or not, the cause that was given, the parent's error."""


def _weakly(state: dict[Any, Any], key: int, child: Context) -> weakref.ref[Context]:
    """A parent's hold on a child. The call-back is ``state.pop(key, ref)``: no Python code runs."""
    return weakref.ref(child, partial(state.pop, key))


class Context(AbstractContextManager["Context"]):
    """A node in a tree of things that end together: by ``cancel``, at a deadline, or with the parent.

    Made from ``background()`` or another context by ``with_cancel``, ``with_timeout``,
    ``with_deadline``, ``with_value``, ``without_cancel``. It only tells: whoever works for it looks at
    ``err()`` or receives from ``done``. ``with ctx:`` cancels it at the end of the block. Go's
    ``context.Context``, with its cancel function as a method.

    >>> import gorun
    >>> with gorun.background().with_timeout(60.0) as ctx:
    ...     child = ctx.with_value("user", "ann")
    ...     print(child.value("user"), child.err())
    ann None
    >>> child.err()
    ContextDone('the context was cancelled')
    """

    # Defaults here: making one writes as few fields as possible.
    _parent: Context | None = None
    _deadline: float | None = None
    _key: object = None
    _value: object = None
    _has_value = False
    _endless = False
    _busy = False  # its end has more to do than to be noted
    _own: int | None = None  # its number among its parent's children
    _pinned = 0
    _timer: Timer | None = None
    _expire: _Expire | None = None
    _state: dict[Any, Any]

    def __init__(self) -> None:
        raise TypeError("contexts are made from gorun.background(): see with_cancel and so on")

    # ---- making

    def with_cancel(self) -> Context:
        """A child that ``cancel`` ends, and the end of this context.

        >>> import gorun
        >>> child = gorun.background().with_cancel()
        >>> child.cancel()
        >>> child.err()
        ContextDone('the context was cancelled')
        """
        child = _new(Context)
        child._parent = self
        child._state = {}
        if not self._endless:
            self._adopt(child)
        return child

    def with_timeout(self, seconds: float) -> Context:
        """A child that ends ``seconds`` from now (at or below 0: at once), or with this context.

        Raises ValueError for NaN, TypeError unless it is a number.

        >>> import gorun
        >>> gorun.background().with_timeout(0).err()
        DeadlineExceeded('the deadline of the context has passed')
        """
        return self.with_deadline(time.monotonic() + check_seconds(seconds, "seconds"))

    def with_deadline(self, monotonic: float) -> Context:
        """A child that ends when ``time.monotonic()`` reaches ``monotonic``, or with this context.

        The deadline of this context counts if it is earlier. Raises ValueError for NaN, TypeError unless
        it is a number.

        >>> import gorun, time
        >>> at = time.monotonic() + 60
        >>> gorun.background().with_deadline(at).deadline == at
        True
        """
        monotonic = check_seconds(monotonic, "monotonic")
        if self._deadline is not None and self._deadline <= monotonic:
            return self.with_cancel()
        child = _new(_WithTimer)
        child._parent = self
        child._state = {}
        child._deadline = monotonic
        if not self._endless:
            self._adopt(child)
        left = monotonic - time.monotonic()
        if left <= 0:
            child._finish(True, None)
        elif child._end() is None:
            child._busy = True
            child._expire = _Expire(child)
            child._timer = Timer(left, child._expire)
            if child._end() is not None:
                child._timer.stop()
        return child

    def with_value(self, key: object, value: object) -> Context:
        """A child in which ``key`` has ``value``: keys are found by equality.

        >>> import gorun
        >>> gorun.background().with_value("a", 1).value("a")
        1
        """
        child = self.with_cancel()
        child._key, child._value, child._has_value = key, value, True
        return child

    def without_cancel(self) -> Context:
        """A child with this context's values only: neither its end nor its deadline.

        >>> import gorun
        >>> ctx = gorun.background().with_value("a", 1)
        >>> free = ctx.without_cancel()
        >>> ctx.cancel()
        >>> free.value("a"), free.err()
        (1, None)
        """
        child = _new(Context)
        child._parent = self
        child._state = {}
        return child

    def _adopt(self, child: Context) -> None:
        state = self._state
        child._own = key = _number()
        if self._deadline is not None and child._deadline is None:
            child._deadline = self._deadline
        self._busy = child._busy = True
        state[key] = _weakly(state, key, child)
        end = state.get(_END)
        if end is not None:
            child._finish(end[0], end[1], self.err())

    # ---- asking

    @property
    def done(self) -> RecvChan[Any]:
        """A channel that is closed when the context has ended: to receive from, or for ``select``.

        The same channel each time, also for ``background()``, whose end never comes.

        >>> import gorun
        >>> ctx = gorun.background().with_timeout(0.01)
        >>> ctx.done.recv_ok()
        (None, False)
        """
        with _pins:
            chan = _alive(self._state.get(_DONE))
            if chan is None:
                chan = Chan()
                chan._keep(self)
                self._busy = True
                self._state[_DONE] = weakref.ref(chan)
        if self._end() is not None:
            _close(chan)
        return chan.receiver()

    @property
    def deadline(self) -> float | None:
        """When it ends by itself, in seconds of ``time.monotonic``, or None.

        >>> import gorun
        >>> gorun.background().deadline is None
        True
        """
        return self._deadline

    def _end(self) -> _End | None:
        end: _End | None = self._state.get(_END)
        return end

    def err(self) -> ContextDone | None:
        """None while it has not ended, else a ContextDone; after a deadline one that is a TimeoutError.

        >>> import gorun
        >>> ctx = gorun.background().with_timeout(0)
        >>> isinstance(ctx.err(), TimeoutError)
        True
        """
        end = self._end()
        if end is None:
            return None
        error: ContextDone | None = end[2] or self._state.get(_ERROR)
        if error is None:
            made = (
                DeadlineExceeded("the deadline of the context has passed")
                if end[0]
                else ContextDone("the context was cancelled")
            )
            error = self._state.setdefault(_ERROR, made)
        return error

    def cause(self) -> Any:
        """What the first ``cancel`` gave as the cause, here or in the parent that ended it; else ``err()``.

        >>> import gorun
        >>> ctx = gorun.background().with_cancel()
        >>> ctx.cancel(LookupError("gone"))
        >>> ctx.with_cancel().cause()
        LookupError('gone')
        """
        end = self._end()
        return self.err() if end is None or end[1] is None else end[1]

    @overload
    def value(self, key: object) -> Any: ...
    @overload
    def value(self, key: object, default: T) -> Any | T: ...
    def value(self, key: object, default: object = None) -> Any:
        """The value of ``key`` here or in the nearest parent that has one, else ``default``.

        >>> import gorun
        >>> gorun.background().value("missing", "default")
        'default'
        """
        at: Context | None = self
        while at is not None:
            if at._has_value and at._key == key:
                return at._value
            at = at._parent
        return default

    # ---- ending

    def cancel(self, cause: object = None) -> None:
        """End it and its children; the first end counts, and brings its cause.

        Never waits. Raises RuntimeError for ``background()``.

        >>> import gorun
        >>> ctx = gorun.background().with_cancel()
        >>> ctx.cancel("first")
        >>> ctx.cancel("second")
        >>> ctx.cause()
        'first'
        """
        end = (False, cause, None)
        if self._state.setdefault(_END, end) is end and self._busy:
            self._wind_up(end)

    def _finish(self, by_deadline: bool, cause: object, error: ContextDone | None = None) -> None:
        end = (by_deadline, cause, error)
        if self._state.setdefault(_END, end) is end and self._busy:
            self._wind_up(end)

    def _wind_up(self, end: _End) -> None:
        """The rest of the end, for this context and all below (without recursion: trees may be deep)."""
        todo = [self]
        while todo:
            ctx = todo.pop()
            parent, state = ctx._parent, ctx._state
            if ctx._own is not None and parent is not None:
                parent._state.pop(ctx._own, None)
            if ctx._timer is not None:
                ctx._timer.stop()
                ctx._expire = None
            if len(state) == 1:
                continue  # nothing but the end
            done = _alive(state.get(_DONE))
            if done is not None:
                _close(done)
            funcs = state.get(_FUNCS, {})
            for key in list(funcs):
                after = funcs.pop(key, None)  # by one: `stop` does the same
                if after is not None:
                    after.start()
            kids = [key for key in list(state) if type(key) is int]
            error = ctx.err() if kids else None
            for key in kids:
                child = _child(state.pop(key, None))
                if child is None:
                    continue
                its = (end[0], end[1], error)
                if child._state.setdefault(_END, its) is its and child._busy:
                    todo.append(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.cancel()

    def after_func(self, fn: Callable[[], object]) -> Callable[[], bool]:
        """Run ``fn()`` in a goroutine of its own when the context has ended (at once if it has).

        It sees a copy of the context variables of this call. Gives back a function ``stop()``: True if
        that took ``fn`` back before it was started. Raises TypeError unless ``fn`` is callable. Go's
        ``context.AfterFunc``.

        >>> import gorun
        >>> ctx = gorun.background().with_cancel()
        >>> stop = ctx.after_func(lambda: print("never"))
        >>> stop(), stop()
        (True, False)
        """
        if not callable(fn):
            raise TypeError(f"after_func takes a callable, not {fn!r}")
        after = _After(self, fn)
        if self._endless:
            return after.stop
        self._busy = True
        self._pin()
        funcs = self._state.setdefault(_FUNCS, {})
        funcs[after.key] = after
        if self._end() is not None and funcs.pop(after.key, None) is not None:
            after.start()
        return after.stop

    # ---- being held

    def _pin(self) -> None:
        with _pins:
            at: Context | None = self
            while at is not None and at._end() is None:
                at._pinned += 1
                if at._pinned == 1:
                    at._hold(at)
                at = at._parent if at._own is not None else None

    def _unpin(self) -> None:
        with _pins:
            at: Context | None = self
            while at is not None and at._end() is None:
                at._pinned -= 1
                if at._pinned == 0:
                    at._hold(None)
                at = at._parent if at._own is not None else None

    def _hold(self, strong: Context | None) -> None:
        parent = self._parent
        if self._own is not None and parent is not None and self._own in parent._state:
            if strong is not None:
                parent._state[self._own] = strong
            else:
                parent._state[self._own] = _weakly(parent._state, self._own, self)
            if self._end() is not None:
                parent._state.pop(self._own, None)  # it ended meanwhile
        if self._expire is not None:
            self._expire.strong = strong

    def __repr__(self) -> str:
        if self._endless:
            return "<Context background>"
        error = self.err()
        return f"<Context {'open' if error is None else f'ended: {error}'}>"


def _child(kid: Any) -> Context | None:
    """A parent holds a child weakly, or itself while it is pinned."""
    held: Context | None = kid if kid is None or isinstance(kid, Context) else kid()
    return held


class _WithTimer(Context):
    """One with a deadline of its own."""

    def __del__(self) -> None:
        if self._timer is not None:
            self._timer.stop()


class _Expire:
    """What the timer calls: it holds its context only while that is pinned."""

    def __init__(self, ctx: Context) -> None:
        self.weak = weakref.ref(ctx)
        self.strong: Context | None = None

    def __call__(self) -> None:
        ctx = self.weak()
        if ctx is not None:
            ctx._finish(True, None)


class _After:
    """A function that waits for the end of a context."""

    def __init__(self, ctx: Context, fn: Callable[[], object]) -> None:
        self.key = _number()
        self.ctx: Context | None = ctx
        self.fn: Callable[[], object] | None = fn
        self.variables = contextvars.copy_context()

    def start(self) -> None:
        fn, self.fn, self.ctx = self.fn, None, None
        if fn is not None:
            self.variables.run(_gorun.go, fn)

    def stop(self) -> bool:
        ctx = self.ctx
        if ctx is not None and ctx._endless:
            self.fn = self.ctx = None
            return True
        if ctx is None or ctx._state.get(_FUNCS, {}).pop(self.key, None) is None:
            return False
        self.fn = self.ctx = None
        ctx._unpin()
        return True


class _Background(Context):
    """The root."""

    _endless = True

    def cancel(self, cause: object = None) -> None:
        raise RuntimeError("background() never ends: cancel a child of it (with_cancel)")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        pass


_background = _new(_Background)
_background._state = {}


def background() -> Context:
    """The root of all contexts: it never ends, has no deadline and no values.

    >>> import gorun
    >>> gorun.background().err() is None
    True
    """
    return _background


def _alive(ref: weakref.ref[Chan[Any]] | None) -> Chan[Any] | None:
    return None if ref is None else ref()


def _close(done: Chan[Any]) -> None:
    with contextlib.suppress(ChannelClosed):  # by another who ended it
        done.close()
    done._keep(None)
