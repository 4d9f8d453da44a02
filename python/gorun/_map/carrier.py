"""What the front of a map and the thing that carries its work say to each other.

The front (flow.py) pulls the input, orders, counts and raises. A carrier (threads.py: goroutines)
only runs items. Neither knows how the other does it.

Rules
1. The front numbers the items from 0 in the order of the input, and hands them over in it.
2. A carrier answers each item exactly once, with its number and value. A failed one has the value
   None, and its error is in `failures` before its answer is seen; the front takes it out.
3. A carrier begins the items in order, so an item may wait for those before it. Behind one whose
   error is fatal it need not begin any, nor answer.
4. Nothing here waits but `join`. The front waits on the latch that `watch` gives; a carrier sets it
   when what is wanted has come, when there is room for more, when it broke, and when it was
   cancelled.
5. A carrier never refers to the front: a front that nobody holds is collected, and cancels it.
"""

from __future__ import annotations

import contextvars
import math
import operator
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

from gorun._callers import is_async_def
from gorun._gorun import Latch
from gorun._runtime import gomaxprocs

ANY = -1  # what a front waits for that takes whatever comes, in place of an item's number
# Behind a long item the others go on, and their results are kept: of that many items. An input that
# has a length is there as a whole, so its results may be, too: a long item among short ones (a 45 MB
# file among thousands of 16 kB) would leave the other workers idle at any smaller number.
LONGEST_AHEAD = 1 << 10
LONGEST_AHEAD_SIZED = 1 << 16
PLACES = ("thread", "process")
ERRORS = ("raise", "return", "collect")


def longest_ahead(total: int | None) -> int:
    """How far a front may run ahead of what it gave, where workers have nothing to do."""
    return LONGEST_AHEAD if total is None else LONGEST_AHEAD_SIZED


class Carrier(Protocol):
    """Runs the items of one map. Only `cancel` is called by others than who has the turn."""

    failures: dict[int, BaseException]  # by number
    broken: BaseException | None  # why no item will be answered any more

    @property
    def ahead(self) -> int:
        """How many items the front may be ahead of what it gave, as things stand."""

    def put(self, number: int, item: Any) -> None:
        """Takes an item over, and has it begun as soon as somebody is free."""

    def finish(self) -> None:
        """Says that the last item was handed over: who runs dry from now on may end."""

    def collect(self) -> list[tuple[int, Any]]:
        """Takes all answers that are there: (number, value), in the order of their arrival."""

    def watch(self, seen: int) -> Latch:
        """Makes the latch of a wait, for item `seen` where order counts: look again, then wait.

        `seen` items have been passed on. The latch may be set early, to have the front look at
        `ahead` again.
        """

    def wait(self, latch: Latch, timeout: float | None) -> None:
        """Waits until the latch is set, `timeout` seconds at most; None: for ever.

        A cancel point, also with 0, which sees to what has come.
        """

    async def wait_async(self, latch: Latch, timeout: float | None) -> None:
        """As `wait`, for a task or an async goroutine."""

    def expire(self) -> float | None:
        """Fails the items that overran `item_timeout`.

        Gives seconds until the next look is due, 0 if there are new answers, None for never.
        """

    def cancel(self, reason: str) -> None:
        """Drops what has not begun, cancels what has. From any thread, also from a collector."""

    def join(self) -> None:
        """After the last answer: waits until nothing of this carrier runs any more."""

    async def join_async(self) -> None:
        """As `join`, for a task or an async goroutine."""


class Job:
    """The checked arguments of one map, but for its input; nothing changes them afterwards.

    Raises the TypeError or ValueError that names the bad value.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        iterables: int,
        workers: int | None,
        on: object,
        ordered: bool,
        chunk: int | None,
        buffer: int | None,
        errors: str,
        timeout: float | None,
        item_timeout: float | None,
        retries: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks_per_child: int | None,
        progress: object,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        if iterables == 0:
            raise TypeError("gorun.map needs at least one iterable after the function")
        _check_on(on)
        _check_initializer(initializer, initargs)
        if errors not in ERRORS:
            raise ValueError(f'errors must be "raise", "return" or "collect", not {errors!r}')
        self.fn = fn
        self.star = iterables > 1  # an item is a tuple of arguments
        self.is_async = makes_coroutine(fn)
        self.on = on
        if self.is_async and on not in (None, "thread"):
            raise ValueError(f"an async def function runs on goroutines, not on={on!r}: {fn!r}")
        if isinstance(on, Executor) and (initializer or max_tasks_per_child):
            raise ValueError(
                f"initializer and max_tasks_per_child are the executor's own: give them to {on!r}"
            )
        self.workers = _whole("workers", workers, 1) or gomaxprocs()
        self.ordered = bool(ordered)
        self.chunk = _whole("chunk", chunk, 1)
        self.buffer = _whole("buffer", buffer, 1)
        self.errors = errors
        self.timeout = _seconds("timeout", timeout)
        self.item_timeout = _seconds("item_timeout", item_timeout)
        self.retries = _whole("retries", retries, 0) or 0
        self.initializer = initializer
        self.initargs = tuple(initargs)
        self.max_tasks = _whole("max_tasks_per_child", max_tasks_per_child, 1)
        self.observed = progress is not None and progress is not False
        self.context = contextvars.copy_context()
        if self.chunk is not None and self.buffer is not None and self.chunk > self.buffer:
            raise ValueError(f"chunk ({chunk}) does not fit into buffer ({buffer})")
        if self.item_timeout is not None and self.item_timeout <= 0:
            raise ValueError(f"item_timeout must be above 0 seconds, not {item_timeout!r}")

    def is_fatal(self, error: BaseException) -> bool:
        """Whether an item's `error` ends the map; KeyboardInterrupt and its like always do."""
        return self.errors == "raise" or not isinstance(error, Exception)


def makes_coroutine(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine: an `async def`, a partial or an object of one."""
    kind = type(fn)
    if is_async_def(fn) or is_async_def(kind.__call__):
        return True
    # A class has the `__call__` of its objects there, which is not what a call of the class does.
    return not issubclass(kind, type) and is_async_def(getattr(fn, "__call__", None))  # noqa: B004


def _check_on(on: object) -> None:
    if not (on is None or isinstance(on, Executor) or (isinstance(on, str) and on in PLACES)):
        raise ValueError(f'on must be None, "thread", "process" or an Executor, not {on!r}')


def _check_initializer(
    initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> None:
    if initializer is None:
        if initargs:
            raise ValueError(f"initargs {initargs!r} without an initializer")
    elif not callable(initializer):
        raise TypeError(f"initializer must be callable, not {initializer!r}")
    elif makes_coroutine(initializer):
        raise TypeError(f"initializer must be a plain function, not {initializer!r}")


def _whole(name: str, value: object, least: int) -> int | None:
    """`value` as an int of at least `least`; None stays None where that is a choice."""
    if value is None and name != "retries":
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def _seconds(name: str, value: float | None) -> float | None:
    """`value` as seconds; None and infinity are None, NaN is a ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be seconds as a number or None, not {value!r}")
    seconds = float(value)
    if math.isnan(seconds):
        raise ValueError(f"{name} must be seconds as a number or None, not {value!r}")
    return None if seconds == math.inf else seconds
