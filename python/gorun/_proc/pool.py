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
- `settle(value, error)` is tried in place of `done`, by whoever read the outcome, a caller of `help`
  too: it must run no code of users, and gives False if it would have to. Without it, or then, `done` is
  called.
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
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType
from typing import Any, Protocol, TypeAlias

from gorun._errors import WorkerDied
from gorun._proc.codec import Codec, unsendable
from gorun._proc.crew import Crew
from gorun._proc.errors import shown
from gorun._proc.lead import hold, let_go
from gorun._proc.sizing import Sizing

__all__ = ["Call", "Pool"]

FUNCTIONS = frozenset((FunctionType, BuiltinFunctionType))
PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))  # they name nothing


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
    def calls(self) -> list[Call]:
        """Those that are not done, in order."""
        return self._calls.outstanding

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

    def put(self, call: Call) -> None:
        """As `submit`, of a call that is its own record: one object less, or five."""
        self._calls.submit(call)

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


_What: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Call(Protocol):
    """One call, from `submit` until `_tell` was called."""

    _what: _What
    _begun: bool  # False at first; the pool's, as the next one is
    _packed: Any

    @property
    def _begin(self) -> Callable[[], bool]:
        """The `begin` of `submit`."""

    @property
    def _tell(self) -> Callable[[Any, BaseException | None], object]:
        """The `done` of `submit`."""

    @property
    def _settle(self) -> Callable[[Any, BaseException | None], bool] | None:
        """The `settle` of `submit`."""


class _Call:
    """A `Call` of functions."""

    __slots__ = ("_begin", "_begun", "_packed", "_settle", "_tell", "_what")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        begin: Callable[[], bool],
        done: Callable[[Any, BaseException | None], object],
        settle: Callable[[Any, BaseException | None], bool] | None,
    ) -> None:
        self._what = fn, args, kwargs
        self._begin, self._tell, self._settle = begin, done, settle
        self._begun = False
        self._packed: Any = None


# What is to be told, the first one last. As many as were read together: without a GIL, what two threads
# both take from and put to costs more than all the rest.
_Told: TypeAlias = list[tuple[Call, Any, BaseException | None]]


class _Calls:
    """The calls of a pool: the client of its crew (crew.py says who calls what).

    A call is in `pending` from `submit` on, then with the crew and in `known`, by a number, until it is told.
    Who has the crew's turn moves it; while it is in neither, `moving` is set. Without a GIL who submits
    and who answers meet at the end of `pending` and nowhere else: at a dict that one fills and the other
    empties both waited most of the time, 60 system calls for each call.
    What is to be told lies in `told` until somebody comes out of the crew, or in `left` for the pool's thread.
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
        self._known: dict[int, Call] = {}
        self._pending: deque[Call] = deque()
        self._moving = False
        self._told: deque[_Told] = deque()
        self._mine: deque[_Told] = deque()  # the thread's
        self._types: set[Any] = set()  # of what has been sent; and the modules of functions
        self._closing = False
        self._killed: WorkerDied | None = None
        # Of submit against shutdown; a handler may submit in the middle.
        self._lock = threading.RLock()
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

    def submit(self, call: Call) -> None:
        try:
            call._packed = self._pack(call)
        except Exception as error:
            self._refuse()
            told = unsendable(f"the call of {shown(call._what[0])}", error)
            told.__cause__ = error
            if call._begin():
                call._tell(None, told)
            return
        crew = self.crew
        try:
            with self._lock:
                self._refuse()
                if not crew.in_background:
                    crew.background()  # one; and not after a `shutdown` that found none
                alone = not self._pending and crew.has_idle
                self._pending.append(call)
            if alone and self._send():
                return
            if crew.broken is not None:
                crew.rouse()
            elif crew.hungry:
                crew.push()
        except BaseException:  # of a signal handler: whoever waits next sees to the call
            crew.nudge()
            raise

    def _send(self) -> bool:
        """Sends a call to an idle worker, if there is one."""
        crew = self.crew
        held = hold()
        try:
            sent = crew.call()
            if sent and (
                self._told or self._mine or self._closing or self.broken is not None or crew.ended
            ):
                crew.push()
            return sent
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

    def _pack(self, call: Call) -> Any:
        if (data := self._pack_plain(call)) is not None:
            return data
        news = False
        fn, args, kwargs = call._what
        for thing in (type(fn), *map(type, args), *map(type, kwargs.values())):
            news |= thing not in self._types
            self._types.add(thing)
        if (name := getattr(fn, "__module__", None)) not in self._types or news:
            self._types.add(name)
            self._codec.dumps_all(call._what)
        data, buffers = self._codec.dumps(call._what)
        return (data, [pickle.PickleBuffer(buffer) for buffer in buffers]) if buffers else data

    def _pack_plain(self, call: Call) -> bytes | None:
        """Packs a known function with arguments that name nothing and have no buffers, if it is that."""
        types, (fn, args, kwargs) = self._types, call._what
        if type(fn) not in FUNCTIONS or type(fn) not in types or kwargs:
            return None
        if fn.__module__ not in types:
            return None
        for argument in args:
            if type(argument) not in PLAIN:
                return None
        return self._codec.dumps_plain(call._what)

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

    @property
    def outstanding(self) -> list[Call]:
        """Those that are not told, in order; for who has not the turn."""
        # Calls may move while they are copied: once from `pending`, seldom back.
        some, known, more = self._waiting(), list(self._known.values()), self._waiting()
        return list(dict.fromkeys([*known, *more, *some]))

    def _waiting(self) -> list[Call]:
        """A copy of `pending`."""
        while True:
            try:
                return list(self._pending)
            except RuntimeError:  # without a GIL it may change meanwhile
                continue

    @property
    def _is_empty(self) -> bool:
        return not (self._pending or self._moving or self._known)  # in the order of their way

    def left(self) -> int | None:
        return len(self._pending)

    def has_more(self) -> bool:
        return bool(self._pending)

    def is_busy(self) -> bool:
        return bool(not self._is_empty or self._told or self._mine)

    def take(self, most: int) -> tuple[list[int], list[Any]] | None:
        numbers: list[int] = []
        items: list[Any] = []
        self._moving = True
        try:
            while len(numbers) < most:
                try:
                    call = self._pending.popleft()
                except IndexError:
                    break
                if not (call._begun or call._begin()):
                    continue
                call._begun = True
                number = next(self._numbers)
                self._known[number] = call
                if self._killed is not None:
                    self._tell(number, None, self._killed)
                    continue
                numbers.append(number)
                items.append(call._packed)
        finally:
            self._moving = False
        return (numbers, items) if numbers else None

    def back(self, numbers: Sequence[int], items: list[Any]) -> None:
        self._moving = True
        calls = [self._known.pop(number, None) for number in reversed(numbers)]
        self._pending.extendleft(call for call in calls if call is not None)
        self._moving = False

    def answer(
        self, numbers: Sequence[int], values: list[Any], errors: dict[int, BaseException]
    ) -> None:
        told: _Told = []
        for place, number in enumerate(numbers):
            if (
                call := self._known.pop(number, None)
            ) is not None:  # else it was failed with the pool
                told.append((call, values[place], errors.get(place) if errors else None))
        told.reverse()
        self._told.append(told)

    def result(self, number: int, value: Any, error: BaseException | None) -> None:
        self._tell(number, value, error)

    def died(self, numbers: Sequence[int], items: list[Any], exitcode: int | None) -> None:
        calls = [self._known[number] for number in numbers if number in self._known]
        held = tuple(call._what for call in calls)
        for number, call in zip(numbers, calls, strict=False):
            text = (
                f"a worker process died (exit code {exitcode}) in a call of {shown(call._what[0])}"
            )
            self._tell(number, None, WorkerDied(text, held, exitcode))

    def broke(self, error: BaseException) -> None:
        with self._lock:
            self.broken = error  # `wake` does the rest

    def name(self, number: int) -> str:
        call = self._known.get(number)
        return f"call {number}" if call is None else f"the call of {shown(call._what[0])}"

    def wake(self) -> None:
        crew = self.crew
        if not crew.is_mine:
            if crew.lead.is_mine:
                self._settle()
            if self._told or self._mine or self._is_over():
                crew.rouse()
            return
        if self.broken is not None:
            self._fail_all(self.broken)
        self._tell_mine()
        if self._is_over() and self._is_empty and not crew.ended:
            crew.end()

    def _is_over(self) -> bool:
        """Whether there is an end to be made now: of all calls, or of the crew."""
        return self.broken is not None or (self._closing and self._is_empty)

    def _tell_mine(self) -> None:
        """By the pool's thread: tells all that is to be told."""
        self._settle()
        while self._mine:
            [(call, value, error)] = self._mine.popleft()
            call._tell(value, error)
            del call, value, error
            self._settle()  # what came meanwhile comes before the next callback, which may take long

    def _settle(self) -> None:
        """Tells what can be told without code of users; leaves the rest for the pool's thread."""
        told, settled = self._told, False
        while told:
            try:
                some = told.popleft()
            except IndexError:  # somebody else was faster
                break
            while some:
                one = call, value, error = some.pop()
                if call._settle is None or not call._settle(value, error):
                    self._mine.append([one])
                else:
                    settled = True
                del one, call, value, error
        lead = self.crew.lead
        if settled and lead.who is not None and not lead.is_mine:
            self.crew.wake()  # it may be what that one waits for

    def _fail_all(self, error: BaseException) -> None:
        """Tells all calls that are there that the pool is broken."""
        for number in list(self._known):
            call = self._known.get(number)
            if call is None:  # a leader has just read its answer
                continue
            if call._begun or call._begin():
                self._tell(number, None, error)
            else:
                self._known.pop(number, None)
        while self._pending:
            with suppress(IndexError):  # as above
                call = self._pending.popleft()
                if call._begun or call._begin():
                    self._told.append([(call, None, error)])

    def _tell(self, number: int, value: Any, error: BaseException | None) -> None:
        call = self._known.pop(number, None)
        if call is not None:  # else it was failed with the pool
            self._told.append([(call, value, error)])
