"""Single calls on worker processes: what an executor is built on.

    pool = Pool(max_workers, initializer=..., initargs=(), max_tasks_per_child=None, name="...",
                inner_threads=None)
    pool.submit(fn, args, kwargs, begin, done, settle=None)
    pool.help(who, is_done, timeout)

- `submit` pickles the call at once, and never waits for a worker. It may start one. What cannot be
  pickled is told to `done`, not raised. RuntimeError after `shutdown`; `pool.broken` (an exception)
  is raised once the pool is broken.
- `begin()` is called once, when the call is about to go to a worker; False drops the call, and
  `done` is not called then (`Future.set_running_or_notify_cancel` fits). So a call is cancelled by
  whoever made it, up to that moment. It is called again for no reason: a call that comes back from
  a worker unbegun is sent again without asking.
- `done(value, error)` is called once for each call that has begun, from the pool's thread (or in
  `submit`, for what cannot be pickled): `error` is None, or what `fn` raised with the worker's
  traceback as its `__cause__` (`RemoteTraceback`, whose `.tb` is the text), `WorkerDied`, or
  why a result could not be pickled. It must not raise and must not wait.
- `settle(value, error)` is tried in place of `done` where the outcome came to a caller of `help`: it
  must run no code of users, and gives False if it would have to. Without it, or then, `done` is called.
- `help(who, is_done, timeout)` waits until `is_done()`, or for `timeout` seconds, by seeing to the
  workers itself (lead.py). It returns early where it cannot: somebody else does, or the pool is over.
  Who settles `who` otherwise says so (`changed`).
- A worker that dies fails the calls that it had begun, with `WorkerDied` whose `.items` are the
  `(fn, args, kwargs)` of those; the others are run by the next worker, which takes its place.
  The pool breaks (`pool.broken`, all calls fail with it) when the initializer raises, and when
  several workers in turn die before they were ready.
- `kill(signal)` sends the signal to every worker; calls not done fail with `WorkerDied`, and no
  worker is started for those that wait: they fail too.
- `shutdown(wait)` takes no more calls; those that are there run to their end, then the workers end.
  `wait=True` waits for that. `pool.pids` are the workers' process ids, `pool.idle` is how many wait
  for work.

`done` is called without a lock of the pool held: it may submit. `begin` is called under one: it may
not, and it must not wait.
One thread per pool, a daemon named after it, from the first `submit` to the end. A pool that nobody
holds ends as by `shutdown(wait=False)`. In a forked child a pool is empty and broken.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gorun._errors import WorkerDied
from gorun._proc.codec import Codec, unsendable
from gorun._proc.crew import Crew
from gorun._proc.errors import shown
from gorun._proc.lead import hold, let_go
from gorun._proc.sizing import Sizing

__all__ = ["Pool"]


class Pool:
    """At most `max_workers` processes that run calls; started as there are calls for them."""

    def __init__(
        self,
        max_workers: int,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        name: str = "gorun-pool",
        inner_threads: int | None = None,
    ) -> None:
        self._calls = _Calls(
            max_workers, initializer, initargs, max_tasks_per_child, name, inner_threads
        )

    @property
    def broken(self) -> BaseException | None:
        """Why no call will succeed any more."""
        return self._calls.broken

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that live."""
        return self._calls.crew.pids

    @property
    def idle(self) -> int:
        """How many workers wait for work."""
        return self._calls.crew.idle

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        begin: Callable[[], bool],
        done: Callable[[Any, BaseException | None], object],
        settle: Callable[[Any, BaseException | None], bool] | None = None,
    ) -> None:
        """Has a worker call `fn(*args, **kwargs)`."""
        self._calls.submit(_Call(fn, args, kwargs, begin, done, settle))

    def help(self, who: object, is_done: Callable[[], bool], timeout: float | None) -> None:
        """Sees to the workers until `is_done()`, or for `timeout` seconds, or not at all."""
        self._calls.crew.help(who, is_done, timeout)

    def changed(self, who: object) -> None:
        """Has the caller of `help` look at `who`."""
        if self._calls.crew.lead.who is who:
            self._calls.crew.wake()

    def kill(self, signal: int) -> None:
        """Sends `signal` to all workers, and fails what is not done."""
        self._calls.kill(signal)

    def shutdown(self, wait: bool = True) -> None:
        """Takes no more calls; the workers end when all are done."""
        self._calls.shutdown()
        if wait:
            self._calls.join()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At exit the workers are killed (warm.py), or the executor has waited.
        if not _finalizing() and hasattr(self, "_calls"):
            self._calls.shutdown()


class _Call:
    """One call, from `submit` until `done` was told."""

    __slots__ = ("args", "begin", "begun", "done", "fn", "kwargs", "packed", "settle")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        begin: Callable[[], bool],
        done: Callable[[Any, BaseException | None], object],
        settle: Callable[[Any, BaseException | None], bool] | None,
    ) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.begin, self.done, self.settle = begin, done, settle
        self.begun = False
        self.packed: Any = None


class _Calls:
    """The calls of a pool: the client of its crew (crew.py says who calls what).

    A call is in `pending` or with the crew, and in `known` from `submit` until it is told. What is
    to be told lies in `told` until somebody comes out of the crew, or in `left` for the pool's thread.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks: int | None,
        name: str,
        inner: int | None,
    ) -> None:
        self.broken: BaseException | None = None
        self._codec = Codec(initializer)
        self._numbers = itertools.count()
        self._known: dict[int, _Call] = {}
        self._pending: deque[int] = deque()
        self._told: deque[tuple[_Call, Any, BaseException | None]] = deque()
        self._mine: deque[tuple[_Call, Any, BaseException | None]] = deque()  # the thread's
        self._types: set[Any] = set()  # of what has been sent; and the modules of functions
        self._closing = False
        self._killed: WorkerDied | None = None
        self._lock = threading.Lock()  # of submit against shutdown
        self.crew = Crew(
            self,
            self._codec,
            self._codec.job(None, initializer, initargs),
            Sizing(workers),
            limit=workers,
            name=name,
            max_tasks=max_tasks,
            stateful=True,
            eager=False,
            calls=True,
            inner=inner,
        )
        self._pid = os.getpid()

    # ---- from outside -------------------------------------------------------------------------

    def submit(self, call: _Call) -> None:
        self._refuse()
        try:
            call.packed = self._pack(call)
        except Exception as error:
            told = unsendable(f"the call of {shown(call.fn)}", error)
            told.__cause__ = error
            if call.begin():
                call.done(None, told)
            return
        crew = self.crew
        held = hold()
        try:
            with self._lock:
                self._refuse()
                number = next(self._numbers)
                self._known[number] = call
                crew.background()  # one; and not after a `shutdown` that found none
            self._pending.append(number)
            if crew.broken is not None:
                crew.rouse()
            elif crew.hungry:
                crew.push()
        finally:
            if held:
                let_go()

    def _refuse(self) -> None:
        if self.broken is not None:
            raise self.broken
        if self._closing:
            raise RuntimeError("cannot schedule new calls after shutdown")
        if self._pid != os.getpid():
            raise RuntimeError("a pool belongs to the process that made it")

    def _pack(self, call: _Call) -> Any:
        news = False
        for thing in (type(call.fn), *map(type, call.args), *map(type, call.kwargs.values())):
            news |= thing not in self._types
            self._types.add(thing)
        if (name := getattr(call.fn, "__module__", None)) not in self._types or news:
            self._types.add(name)
            self._codec.dumps_all((call.fn, call.args, call.kwargs))
        data, buffers = self._codec.dumps((call.fn, call.args, call.kwargs))
        return (data, [pickle.PickleBuffer(buffer) for buffer in buffers]) if buffers else data

    def kill(self, signal: int) -> None:
        self._killed = WorkerDied(f"the worker processes were sent signal {signal}")
        self.crew.signal(signal)
        self.crew.push()
        self.crew.rouse()

    def shutdown(self) -> None:
        with self._lock:
            self._closing = True
        if not self.crew.in_background:
            self.crew.end()
        else:
            self.crew.rouse()

    def join(self) -> None:
        self.crew.join()

    # ---- the crew's side ----------------------------------------------------------------------

    def left(self) -> int | None:
        return len(self._pending)

    def has_more(self) -> bool:
        return bool(self._pending)

    def is_busy(self) -> bool:
        return bool(self._known or self._told or self._mine)

    def take(self, most: int) -> tuple[list[int], list[Any]] | None:
        numbers: list[int] = []
        while len(numbers) < most:
            try:
                number = self._pending.popleft()
            except IndexError:
                break
            if (call := self._known.get(number)) is None:
                continue
            if not call.begun and not call.begin():
                del self._known[number]
                continue
            call.begun = True
            if self._killed is not None:
                self._tell(number, None, self._killed)
                continue
            numbers.append(number)
        return (numbers, [self._known[number].packed for number in numbers]) if numbers else None

    def back(self, numbers: Sequence[int], items: list[Any]) -> None:
        self._pending.extendleft(reversed(numbers))

    def answer(
        self, numbers: Sequence[int], values: list[Any], errors: dict[int, BaseException]
    ) -> None:
        for place, number in enumerate(numbers):
            self._tell(number, values[place], errors.get(place))

    def result(self, number: int, value: Any, error: BaseException | None) -> None:
        self._tell(number, value, error)

    def died(self, numbers: Sequence[int], items: list[Any], exitcode: int | None) -> None:
        calls = [self._known[number] for number in numbers if number in self._known]
        held = tuple((call.fn, call.args, call.kwargs) for call in calls)
        for number, call in zip(numbers, calls, strict=False):
            text = f"a worker process died (exit code {exitcode}) in a call of {shown(call.fn)}"
            self._tell(number, None, WorkerDied(text, held, exitcode))

    def broke(self, error: BaseException) -> None:
        with self._lock:
            self.broken = error  # `wake` does the rest

    def name(self, number: int) -> str:
        call = self._known.get(number)
        return f"call {number}" if call is None else f"the call of {shown(call.fn)}"

    def wake(self) -> None:
        crew = self.crew
        if not crew.is_mine:
            if crew.lead.is_mine:
                self._settle()
            if self._told or self._mine or (self._closing or self.broken is not None):
                crew.rouse()
            return
        if self.broken is not None:
            self._fail_all(self.broken)
        for told in (self._mine, self._told):
            while told:
                try:
                    call, value, error = told.popleft()
                except IndexError:  # a leader was faster
                    break
                call.done(value, error)
                del call, value, error
        over = self._closing or self.broken is not None
        if over and not self._known and not crew.ended:
            crew.end()

    def _settle(self) -> None:
        """By a leader: tells what can be told without code of users."""
        told = self._told
        while told:
            try:
                call, value, error = told.popleft()
            except IndexError:  # the thread was faster
                break
            if call.settle is None or not call.settle(value, error):
                self._mine.append((call, value, error))
            del call, value, error

    def _fail_all(self, error: BaseException) -> None:
        """Tells all calls that are there that the pool is broken."""
        for number in list(self._known):
            call = self._known.get(number)
            if call is None:  # a leader has just read its answer
                continue
            if call.begun or call.begin():
                self._tell(number, None, error)
            else:
                self._known.pop(number, None)

    def _tell(self, number: int, value: Any, error: BaseException | None) -> None:
        call = self._known.pop(number, None)
        if call is not None:  # else it was failed with the pool
            self._told.append((call, value, error))
