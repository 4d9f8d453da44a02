"""Carries the work of a map on goroutines: plain ones, or async ones for an `async def`.

A worker (worker.py) is one goroutine. It takes an item, runs it, puts its answer down, and goes on;
when there is nothing to take it waits on a latch of its own. Workers are started one by one, when
there is work that nobody idle could take. No goroutine and no future per item.

Why nothing is lost
Every hand-over is one operation on a deque or a dict, which is atomic with and without the GIL
(without it each takes the container's own lock). There is no lock of ours, so a collector or a
signal handler may cancel a map in the middle of any of it. Each pair of sides uses two containers
in opposite order, so at least one of the two sees the other:
    put     work += item; take from idle        | worker  idle += latch; look at work
    answer  answers += one; take from waiting   | front   waiting[n] = latch; look at answers
    leave   free += number; look at work        | put     work += item; take from free
    cancel  flag = True; empty idle             | worker  idle += latch; look at the flag
    dry     flag = True; take from waiting      | front   waiting[n] = latch; look at the flag

Invariants
- Items are begun in order: all workers take from the one end of one deque, `chunk` at a time.
- Worker numbers are tokens: each is in `free`, or belongs to one worker that has not left.
- While there is work, a worker is awake, or a latch taken from `idle` has been set.
- An item under `item_timeout` belongs to whoever pops its entry of `running`: the worker that
  finished it, or the front that gave it up. A worker that lost its item ends at once, and its
  number has been freed for it.

Rejected: slices of many short items that one worker takes at once, their size fitted to the time
they take. They cost a third less per item (0.35 us), but an item that waits for its neighbour
would wait in its own slice for ever. Short items are paid for by a longer run-ahead instead.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from gorun._errors import GoroutineCancelled
from gorun._gorun import Goroutine, Latch
from gorun._map.carrier import ANY, Job, longest_ahead
from gorun._map.worker import Worker
from gorun._runtime import spawn

# Takes for each worker that the front may run ahead: one runs, and three are there when the caller
# is busy with a result.
TAKES_AHEAD = 4
# It doubles when a worker is dry while the caller waits for one result: behind a long item there is
# work to do, and where all items are short the thread switches of each wait (10-50 us) are what
# costs. With 1024 items those cost next to nothing; carrier.py has the limit, for bounded memory.
# It halves at each wait for a result that finds no worker dry: it is longer than it need be.

T = TypeVar("T")
Entry: TypeAlias = tuple[int, Any]  # an item, or its answer, with its number

_clock = time.monotonic


class ThreadCarrier:
    """A `Carrier` (see carrier.py) whose workers are goroutines of this process."""

    def __init__(self, job: Job, total: int | None) -> None:
        self.job = job
        self.failures: dict[int, BaseException] = {}
        self.broken: BaseException | None = None
        self.cancelled = False
        self.work: deque[Entry] = deque()
        self.answers: deque[Entry] = deque()
        self.waiting: dict[int, Latch] = {}  # at most one entry: the front's
        self.running: dict[int, tuple[float, Worker]] = {}  # number: since; for item_timeout
        self.chunk = job.chunk or 1
        self.by_number = job.ordered and not job.observed
        self._ending = False  # no item will come any more
        self._failed = False  # nor is any wanted: the map ends at one that has failed
        self._idle: deque[Latch] = deque()
        self._free = deque(range(job.workers))
        self._team: deque[Goroutine[object]] = deque()  # started, perhaps ended, not given up
        self._shortest = job.buffer or job.workers * TAKES_AHEAD * self.chunk
        self._longest = job.buffer or max(self._shortest, longest_ahead(total))
        self._ahead = self._shortest
        self._next = 0  # number of the next item
        self._watched = -1  # how many had been passed on when the front began its latest wait
        self._dry = False  # a worker has found nothing to do

    # ---- the front's side -----------------------------------------------------------------

    @property
    def ahead(self) -> int:
        return self._ahead

    def put(self, number: int, item: Any) -> None:
        if self._failed:
            return
        self._next = number + 1
        self.work.append((number, item))
        if self._idle or self._free:  # a look without their locks may be late: see `watch`
            self._summon(1)

    def finish(self) -> None:
        self._ending = True
        self._wake_idle()

    def collect(self) -> list[Entry]:
        take = self.answers.popleft
        return [take() for _ in range(len(self.answers))]  # nobody else takes any

    def watch(self, seen: int) -> Latch:
        latch = Latch()
        self.waiting.clear()
        self.waiting[seen if self.by_number else ANY] = latch
        out = self._next - seen
        if self._dry and out >= self._ahead:
            self._dry = False  # with more to do, they will say so again when that is done
            self._ahead = min(out * 2, self._longest)
        elif not self._dry and seen != self._watched:
            self._ahead = max(self._ahead // 2, self._shortest)
        self._watched = seen
        if self.work:
            self._summon(len(self.work))
        return latch

    def wait(self, latch: Latch, timeout: float | None) -> None:
        latch.wait(timeout)

    async def wait_async(self, latch: Latch, timeout: float | None) -> None:
        await latch.wait_async(timeout)

    def expire(self) -> float | None:
        limit = self.job.item_timeout
        if limit is None:
            return None
        now, nearest = _clock(), limit  # what begins after now is not due before `limit`
        for number, (since, worker) in self.running.copy().items():
            left = since + limit - now
            if left > 0:
                nearest = min(nearest, left)
            elif self.running.pop(number, None) is not None:
                self._give_up(number, worker, limit)
                nearest = 0.0
        return nearest

    def cancel(self, reason: str) -> None:
        self.cancelled = self._ending = True
        self.work.clear()
        self._wake_idle()
        self._wake_front()
        self._cancel_team(reason)

    def join(self) -> None:
        while (goroutine := _take(self._team)) is not None:
            goroutine.exception()

    async def join_async(self) -> None:
        while (goroutine := _take(self._team)) is not None:
            with suppress(GoroutineCancelled):
                await goroutine

    def _give_up(self, number: int, worker: Worker, limit: float) -> None:
        """Answers for an item that overran, and leaves its worker to itself."""
        error = TimeoutError(f"item {number} of gorun.map took longer than {limit} s")
        worker.given_up = True
        with suppress(ValueError):
            self._team.remove(worker.goroutine)
        worker.goroutine.cancel(str(error))
        self.failures[number] = error
        self.answers.append((number, None))
        self.leave(worker)

    # ---- the workers' side ----------------------------------------------------------------

    def rest(self) -> Latch | None:
        """After finding no work: a latch to wait on before looking again, or None: leave."""
        if self._ending:
            return None
        latch = Latch()
        self._idle.append(latch)
        if self.work or self._ending:  # it came in between: look again at once
            self.forget(latch)
            latch.set()
        else:
            self._dry = True
            if self._ahead < self._longest:
                self._wake_front()
        return latch

    def forget(self, latch: Latch) -> None:
        """Takes back a latch that nobody will wait on; it may have been taken already."""
        with suppress(ValueError):
            self._idle.remove(latch)

    def leave(self, worker: Worker) -> None:
        """Frees the number of a worker that takes no more, and gives back what it has taken."""
        back = len(worker.mine)
        self.work.extendleft(reversed(worker.mine))
        self._free.append(worker.number)
        if self.work:
            self._summon(back + 1)

    def drop_behind(self, number: int) -> None:
        """Forgets what is not begun and behind item `number`, at which the map will end."""
        self._failed = True
        with suppress(IndexError):
            while (entry := self.work.pop())[0] > number:
                pass
            self.work.append(entry)  # was given back: nobody may have seen it meanwhile
            self._summon(1)

    def fail(self, error: BaseException) -> None:
        """No more answers: the map ends with `error`, in place of all that is still out."""
        self.broken = error
        self._wake_front()

    def _summon(self, count: int) -> None:
        """Has up to `count` more workers look for work: idle ones, else new ones."""
        for _ in range(0 if self.cancelled else count):
            if (latch := _take(self._idle)) is not None:
                latch.set()
            elif (number := _take(self._free)) is not None:
                self._start(number)
            else:
                return

    def _start(self, number: int) -> None:
        worker = Worker(self, number)
        body = worker.main_async if self.job.is_async else worker.main
        # In a copy, since a context cannot be entered twice at the same time.
        run = self.job.context.copy().run
        self._team.append(run(spawn, body, name=f"gorun.map worker {number}"))
        oldest = _take(self._team)  # one in, one out: ended ones do not pile up
        if oldest is not None and not oldest.done():
            self._team.append(oldest)
        if self.cancelled:  # in between; then one of them may have been missed
            self._cancel_team()

    def _cancel_team(self, reason: str = "gorun.map was closed") -> None:
        while (goroutine := _take(self._team)) is not None:
            goroutine.cancel(reason)

    def _wake_idle(self) -> None:
        while (latch := _take(self._idle)) is not None:
            latch.set()

    def _wake_front(self) -> None:
        with suppress(KeyError):
            while True:
                self.waiting.popitem()[1].set()


def _take(things: deque[T]) -> T | None:
    """The first of `things`, removed; None if there is none."""
    try:
        return things.popleft()
    except IndexError:
        return None
