"""Runs what is submitted on goroutines of this process: one plain goroutine for each worker.

Calls wait in one deque. A worker takes from it until it is empty, then rests on a latch of its own,
in gorun, with its P handed on. Workers are started one by one, when a call comes and none rests.

Protocol
Every hand-over is one operation on a deque or a dict, atomic with and without the GIL. There is no
lock of ours, so a destructor or a signal handler may submit in the middle of any of it. Each pair
of sides uses two things in opposite order, so at least one of the two sees the other:
    put    work += call; take from idle or free   | worker  idle += latch; look at work
    put    work += call; look at refusal          | worker  look at refusal; then find work empty: leave
    left   free += number; look at work           | put     work += call; take from free
    close  refusal = ...; empty idle              | worker  idle += latch; look at refusal

Who delivers: `put`. Who claims: the one worker that pops a call; it alone settles the future.
Ends: time-out    there is none here; futures have their own
      cancel      a future's is the future's affair: a worker skips it. A cancelled worker fails its call
                  with GoroutineCancelled and ends; if calls wait, another takes its place
      close       workers run what waits, then leave. `drop` cancels what waits
      Ctrl-C      goes to the main thread, which may wait in `join`: that is cut short, nothing else;
                  no thread can be ended, so `with` and the exit wait for them all the same
      fork        the child has no worker: `after_fork` forgets them and what waits, and starts anew
      exit        exits.py closes and joins every team before gorun itself shuts down

Invariants
- Worker numbers are tokens: each is in `free`, or belongs to one worker in `members`. Who takes a worker
  out of `members`, in one operation, and nobody else, puts its number back: twice would be two workers.
- A call that was accepted (`put` returned) is run, cancelled, or failed.
- A team never refers to its executor strongly.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import LOGGER
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from typing import Any, ClassVar, TypeAlias

from gorun._errors import Cancelled, GoroutineCancelled, ThreadLimit
from gorun._executor import exits
from gorun._executor.future import Future as OwnFuture
from gorun._gil import gil_enabled
from gorun._gorun import Goroutine, Latch
from gorun._runtime import spawn

Call: TypeAlias = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

BROKEN = "A thread initializer failed, the thread pool is not usable anymore"

STARTING_SECONDS = 0.0005
# Without the GIL a look at the length of a deque is no fence: the popping decides there.
_FENCELESS = not gil_enabled()
# 3.14 lets threads inherit the context of who starts them; before, they begin with an empty one.
_INHERITS = bool(getattr(sys.flags, "thread_inherit_context", False))


class ThreadTeam:
    """The workers of one executor, and the calls that wait for them."""

    def __init__(
        self,
        workers: int,
        name: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks: int | None,
    ) -> None:
        self.refusal: Callable[[], Exception] | None = None  # why no call is accepted
        self.broken: str | bool = False
        self.owner: weakref.ref[Any] | None = None  # its callback closes us
        self.members: dict[Goroutine[None], int] = {}  # and their numbers
        self._work: deque[Call] = deque()
        self._idle: deque[Latch] = deque()
        self._free = deque(range(workers))
        self._workers = workers
        self._first: dict[int, Call] = {}  # by worker: started for it, and not yet begun
        self._running: dict[int, Future[Any]] = {}  # by worker
        self._name = name
        self._initializer = initializer
        self._initargs = initargs
        self._max_tasks = max_tasks
        self._epoch = 0  # of the fork: workers of another one are gone
        exits.enlist(self)

    pids: ClassVar[list[int]] = []  # there are no processes

    future = OwnFuture  # what a call is put with

    # ---- the callers' side -----------------------------------------------------------------

    def put(self, call: Call) -> None:
        """Accepts a call, or raises what `refusal` makes."""
        self._refuse()
        work = self._work
        if self._free and not self._idle and not work and self._start(call):
            return
        work.append(call)
        # After a shutdown no worker is started: it would take the call that is taken back below.
        if self.refusal is None and (self._idle or self._free or _FENCELESS):
            self._summon()
        # Closed in between: the last worker may have left before.
        while self.refusal is not None:
            try:
                work.remove(call)
            except ValueError:
                return  # taken: it is run, or was cancelled
            except IndexError:  # somebody else took one meanwhile
                continue
            self._refuse()

    def _refuse(self) -> None:
        """Raises why no call is accepted, if none is."""
        if self.refusal is not None:
            raise self.refusal()

    def close(self, refusal: Callable[[], Exception]) -> None:
        """No more calls; what waits is run, then the workers leave. Never waits."""
        if self.refusal is None:
            self.refusal = refusal
        while (latch := _take(self._idle)) is not None:
            latch.set()

    def drop(self) -> None:
        """Cancels what waits, and tells who waits for it."""
        while (call := _take(self._work)) is not None:
            _cancel(call)

    def join(self) -> None:
        """Waits until every worker has left; RuntimeError in one of them."""
        # All numbers may be free while somebody is about to start the next worker for what waits.
        while len(self._free) < self._workers or self._work:
            for goroutine in list(self.members):
                goroutine._wait()
                self._left(goroutine)
            if self._work and self._free:
                self._summon()
            elif not self.members and len(self._free) < self._workers:
                time.sleep(STARTING_SECONDS)  # a thread is between taking a number and starting it

    def stop(self, *, kill: bool) -> None:
        """Cancels the workers; if `kill`, their calls fail at once and nobody waits for them."""
        for goroutine, number in list(self.members.items()):
            goroutine.cancel("the executor was told to stop its workers")
            if not kill:
                continue
            future = self._running.get(number)
            if future is not None:
                with suppress(InvalidStateError):
                    future.set_exception(BrokenThreadPool("the worker of this call was killed"))
            self._left(goroutine)

    def interrupted(self) -> None:
        """Nothing: see above."""

    def leave(self) -> None:
        """Accepts nothing more because the interpreter ends; what waits is run."""
        self.close(exits.too_late)

    def after_fork(self) -> None:
        """In the child: none of the workers is there, and what waits is the parent's."""
        self._epoch += 1
        # Not touched any more: they belong to threads that are not here.
        self._work, self._idle = deque(), deque()
        self.members, self._running, self._first = {}, {}, {}
        self._free = deque(range(self._workers))

    # ---- the workers' side -----------------------------------------------------------------

    def _summon(self) -> None:
        """Has one more worker look for work: one that rests, else a new one."""
        if (latch := _take(self._idle)) is not None:
            latch.set()
        else:
            self._start(None)

    def _start(self, call: Call | None) -> bool:
        """Starts a worker, which begins with `call`; False: there are as many as there may be."""
        if (number := _take(self._free)) is None:
            return False
        if call is not None:
            self._first[number] = call
        context = contextvars.copy_context() if _INHERITS else contextvars.Context()
        name = f"{self._name}_{number}"
        try:
            goroutine = context.run(spawn, self._main, (number, name, self._epoch), name=name)
        except BaseException:
            self._first.pop(number, None)
            self._free.append(number)
            raise
        self.members[goroutine] = number
        goroutine.add_done_callback(self._left)
        return True

    def _left(self, goroutine: Goroutine[None]) -> None:
        """Frees the number of a worker that has ended, once; if there is work, another takes it."""
        if (number := self.members.pop(goroutine, None)) is None:  # who waits for it was faster
            return
        if (call := self._first.pop(number, None)) is not None:
            _cancel(call)  # cancelled before its first step
        self._free.append(number)
        if self._work:
            self._summon()

    def _main(self, number: int, name: str, epoch: int) -> None:
        """The body of a worker."""
        thread = threading.current_thread()
        usual, thread.name = thread.name, name
        try:
            if self._begin(number):
                self._serve(number, epoch)
        except BaseException:
            LOGGER.critical("Exception in worker", exc_info=True)
        finally:
            thread.name = usual

    def _begin(self, number: int) -> bool:
        """Runs the initializer; False if it failed, and the executor is broken."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException:
            LOGGER.critical("Exception in initializer:", exc_info=True)
            self.broken = BROKEN
            self.refusal = _broken
            call = self._first.pop(number, None)
            while call is not None:
                with suppress(InvalidStateError):
                    call[0].set_exception(_broken())
                call = _take(self._work)
            self.close(_broken)
            return False
        return True

    def _serve(self, number: int, epoch: int) -> None:
        """Runs calls until there is nothing to do any more, or this worker has done its share."""
        call = self._first.pop(number, None)
        left = -1 if self._max_tasks is None else self._max_tasks
        take, running = self._work.popleft, self._running
        while left and self._epoch == epoch:
            if call is None:
                try:
                    call = take()
                except IndexError:
                    if not self._rest():
                        return
                    continue
            future, fn, args, kwargs = call
            call = None
            if future.set_running_or_notify_cancel():
                running[number] = future
                try:
                    value = fn(*args, **kwargs)
                except BaseException as error:
                    if not _fail(future, error):
                        return
                else:
                    try:
                        future.set_result(value)
                    except InvalidStateError:  # killed, and was told so
                        return
                    del value
                running.pop(number, None)
                left -= 1
            del future, fn, args, kwargs  # or they would live as long as the next call runs

    def _rest(self) -> bool:
        """Waits for work, or until there may be some; False: leave."""
        if self.refusal is not None:
            return bool(self._work)
        latch = Latch()
        self._idle.append(latch)
        if self._work or self.refusal is not None:  # it came in between
            with suppress(ValueError):
                self._idle.remove(latch)
            return True
        try:
            latch.wait()
        except (ThreadLimit, Cancelled) as error:
            with suppress(ValueError):
                self._idle.remove(latch)
            if self._work:  # the latch may have been set for it
                self._summon()
            # At the limit a worker that rests would cost the last thread; a cancelled one ends.
            return isinstance(error, ThreadLimit) and bool(self._work)
        return True


def _fail(future: Future[Any], error: BaseException) -> bool:
    """Hands the error of a call to its future; False if it was meant for the worker itself."""
    told = error
    if isinstance(error, Cancelled):
        told = GoroutineCancelled("the worker that ran this call was cancelled", error.reason)
        told.__cause__ = error
    trace = error.__traceback__  # its first entry is the worker's loop: no news, and it holds us
    error.__traceback__ = trace and trace.tb_next
    try:
        future.set_exception(told)
    except InvalidStateError:  # killed, and was told so
        return False
    finally:
        del future
    return told is error


def _cancel(call: Call) -> None:
    """Cancels a call that nobody will run, and tells who waits for it."""
    if call[0].cancel():
        call[0].set_running_or_notify_cancel()


def _broken() -> Exception:
    return BrokenThreadPool(BROKEN)


def _take(things: deque[Any]) -> Any:
    """The first of `things`, removed; None if there is none."""
    try:
        return things.popleft()
    except IndexError:
        return None
