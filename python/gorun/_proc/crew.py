"""Workers at work on the batches of one client: a map's carrier, or a pool of single calls.

Protocol
- The client has numbered items. The crew takes some from it (`take`), sends them as a batch to a
  worker that has room, and tells the client what came of each item, once (`answer`), or hands items
  that nobody has begun back to it (`back`), for the next `take`.
- A worker has two batches at most: the second is there when the first is done. With `timed` it has
  one, of one item, so that its time can be told. Not `eager`, it has one where items are long: what
  is with a worker counts as begun for the client's own clients.
- Whoever calls `serve` does the work: a thread that waits for results, or the crew's own thread
  (`background`), where the one that waits is a goroutine, a task, or nobody. Several may be in it;
  lead.py says which one for a pool.
- All state belongs to who holds the turn, a lock that is never held while waiting. `push` does not
  wait for it either: who has it looks for new items once more after letting go of it. `end` may come
  from anywhere, also from a collector inside of a call of ours: it sets a flag, and whoever has the
  turn, or takes it next, tidies up.

Skew. A batch is sized by what items took so far (sizing.py), and items may turn out otherwise:
- LATE after its begin a worker is asked for what it has not begun of its batch, and for the results
  that are there (child.py: its helper).
- While a worker is idle and the client has nothing, the batches that others have not begun are taken
  back and dealt again.

Death: will.py says what becomes of a dead worker's batches. Where workers die before they were ready,
START_TRIES times in a row, the crew is broken.

The end: idle workers are kept for the next map (warm.py) if they have no state of this one, the
others are killed. Fork: the child's crew is broken. Exit: warm.py.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gorun._gorun import _look_out
from gorun._proc import start, warm, wire
from gorun._proc.client import NOBODY, Client
from gorun._proc.codec import Codec, unsendable
from gorun._proc.inbox import LATE
from gorun._proc.lead import Lead, hold, let_go
from gorun._proc.sizing import Sizing
from gorun._proc.watch import Watch
from gorun._proc.worker import Worker
from gorun._settings import usable_cpus

LONG = 2e-2  # seconds of an item, beside which the wait for the next one is nothing
WORTH = 2e-4  # seconds of an item, beside which a message for it alone is nothing
LOOKS = 64  # of a leader at the rings, between two at all else
HELD = 5e-3  # seconds that a batch may stand behind another while a worker is idle

_clock = time.monotonic


class Crew(Watch):
    """Up to `limit` workers for one client."""

    def __init__(
        self,
        client: Client,
        codec: Codec,
        job: tuple[bytes, list[memoryview]],
        sizing: Sizing,
        *,
        limit: int,
        name: str,
        max_tasks: int | None = None,
        timed: bool = False,
        stateful: bool = False,
        eager: bool = True,
        calls: bool = False,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        self.lead = Lead()
        self._client: Client = client
        self._codec = codec
        self._job = job
        self._sizing = sizing
        self._limit = limit
        self._name = name
        self._max_tasks = max_tasks
        self._timed = timed
        self._eager = eager
        self._calls = calls  # items are packed calls, which may be sent as they are
        self._stateful = stateful
        self._share = start.share_of(limit, inner)
        self._cpus = usable_cpus()
        self._lookout = wire.Lookout()  # the leader's
        self._looks = 0  # that were not in vain
        self._started = 0
        self._alone = 0  # how many items are to go one by one
        self._turn = threading.Lock()
        self._tidied = False
        warm.crews.add(self)
        self._due: float | None = None  # when to look at late batches
        self._thread: threading.Thread | None = None
        self._thread_id = 0  # while it runs: numbers are given again
        self._asleep = False  # the thread waits for workers, or is about to
        self._roused = False  # ... and is to call the client's `wake`
        self._pid = os.getpid()

    # ---- from outside -------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [worker.pid for worker in self._team.copy()]

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return sum(not worker.batches and not worker.leaving for worker in self._team.copy())

    @property
    def room(self) -> bool:
        """Whether a worker would take more, or could be started."""
        return len(self._team) < self._limit or any(map(self._has_room, self._team))

    @property
    def hungry(self) -> bool:
        """Whether one item is worth a message now: a worker would stand idle, or items are long.

        Else it waits until a worker is done, and goes with what has come together: one message for
        each short item costs the caller more than the item.
        """
        team = self._team
        if self.has_idle:
            return True
        if len(team) < self._limit:
            return True
        return self._sizing.each > WORTH and any(map(self._has_room, team))

    @property
    def has_idle(self) -> bool:
        """Whether a worker has nothing to do."""
        for worker in self._team:  # noqa: SIM110 - for each call: a generator costs more
            if not (worker.batches or worker.leaving):
                return True
        return False

    @property
    def in_background(self) -> bool:
        """Whether the crew has a thread of its own."""
        return self._thread is not None

    @property
    def is_mine(self) -> bool:
        """Whether this is the crew's thread."""
        return self._thread_id == get_ident()

    def join(self) -> None:
        """Waits for the end of the crew's thread."""
        if self._thread is not None and not self.is_mine:
            self._thread.join()

    def push(self) -> None:
        """Sends what the client has to whoever has room; who has the turn does it for others."""
        self._check_process()
        held = hold()
        try:
            self._push()
            self._after()
        finally:
            if held:
                let_go()

    def call(self) -> bool:
        """Sends the client's next item at once, if a worker is idle; True if that was done.

        As `push`, for one packed call, in fewer steps. Signals are held; the client is not told.
        """
        if self._pid != warm.process or warm.is_over() or not self._turn.acquire(blocking=False):
            return False
        try:
            if self.ended or self.broken is not None or self._alone:
                return False
            for worker in self._team:
                if worker.takes_calls and not worker.leaving:
                    break
            else:
                return False
            if worker.left is not None:
                return False
            if (work := self._client.take(1)) is not None:
                self._send(worker, *work)
        except BaseException as error:
            self._hurt(error)
            raise
        finally:
            self._turn.release()
        if self._has_work():
            self._push()
        return True

    def _push(self) -> None:
        while self._turn.acquire(blocking=False):
            due = self._due
            try:
                self._deal()
            except BaseException as error:
                self._hurt(error)
                raise
            finally:
                self._turn.release()
            if due is None and self._due is not None and self.in_background:
                self.wake()  # it waits without an end
            if not self._has_work():
                break

    def _has_work(self) -> bool:
        """Whether items have come since they were dealt, and somebody would take them."""
        if not self._client.has_more() or self.ended or self.broken is not None:
            return False
        return self.hungry if self._calls else self.room

    @property
    def _spare(self) -> bool:
        """Whether a CPU is left that no worker at work needs: who has nothing to do may look out there."""
        return self._busy < self._cpus

    @property
    def _busy(self) -> int:
        """How many workers are at work."""
        busy = 0
        for worker in self._team:
            if worker.batches:
                busy += 1
        return busy

    def _look_out(self) -> bool:
        """Whether a frame comes within a moment, without going to sleep; others may run meanwhile."""
        links = tuple([worker.link for worker in self._team.copy() if worker.link is not None])
        return _look_out(links, wire.QUICK)

    def serve(self, timeout: float | None, lead: bool = False) -> None:
        """Waits up to `timeout` seconds for something to happen, and sees to it."""
        self._check_process()
        began, due = _clock(), self._due
        if due is not None:
            left = max(0.0, due - _clock())
            timeout = left if timeout is None else min(timeout, left)
        try:
            events: list[tuple[int, int]] = []
            if lead and self._spare and self._lookout.worth() and self._look_out():
                self._looks += 1
                if self._looks % LOOKS == 0:  # deaths are not seen otherwise
                    events = self._poll.poll(0)
            else:
                events = self._poll.poll(-1 if timeout is None else min(timeout, 1e6))
        except (ValueError, OSError):  # it was closed meanwhile
            return
        if lead:
            self._lookout.took(_clock() - began)
        elif self.is_mine:
            self._asleep = False
        held = hold()
        try:
            with self._turn:
                try:
                    if not self._tidied and not warm.is_over():
                        self._see(events)
                except BaseException as error:
                    self._hurt(error)
                    raise
            if self._has_work():
                self._push()
            self._after()
        finally:
            if held:
                let_go()

    def background(self) -> None:
        """Has a thread serve from now on, to the end."""
        if self._thread is None and not self.ended:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def expire(self, limit: float) -> tuple[float, list[int]]:
        """Kills workers whose item has taken `limit` seconds: (seconds to the next, numbers)."""
        now, nearest = _clock(), limit
        late: list[int] = []
        with self._turn:
            for worker in self._team.copy():
                if worker.ready and worker.batches:
                    left = worker.batches[0].since + limit - now
                    if left > 0:
                        nearest = min(nearest, left)
                        continue
                    self._read(worker, everything=True)  # it may have just made it
                    if not worker.batches:
                        continue
                    late += worker.batches.popleft().numbers
                    self._drop(worker, kill=True)
        self._after()
        return nearest, late

    def signal(self, number: int) -> None:
        """Sends a signal to all workers."""
        with self._turn:
            for worker in self._team:
                worker.signal(number)
        self._after()

    def wake(self) -> None:
        """Has those in `serve` come out of it."""
        with suppress(OSError):
            os.write(self._wake_in, b"\0")

    def nudge(self) -> None:
        """As `wake`, for who had something for the crew and was kept from saying what."""
        self.wake()
        self.lead.unpark()

    def rouse(self) -> None:
        """Has the crew's thread call the client's `wake`; see lead.py.

        A leader that calls this reads the pipe itself: it would come here again and again while the thread
        runs a callback.
        """
        self._roused = True
        self.lead.unpark()
        if self._asleep:
            self.wake()

    def help(self, who: object, done: Callable[[], bool], timeout: float | None) -> None:
        """Leads until `done`, or for `timeout` seconds; returns early where that cannot be."""
        lead, limit = self.lead, None if timeout is None else _clock() + timeout
        leads, before = False, None
        try:
            if not lead.free.acquire(blocking=False):
                return
            leads, before = True, lead.who  # that is of who is interrupted by our signal handler
            lead.thread, lead.lately, lead.who, left = get_ident(), True, who, None
            while not (done() or self.ended or self.broken is not None):
                if limit is not None and (left := limit - _clock()) <= 0:
                    return
                self.serve(left, lead=True)
        except (RuntimeError, SystemExit):  # of `_check_process`
            if self._pid == os.getpid() and not warm.is_over():
                raise
        finally:  # up to the release no Python is called: no handler comes in between
            if leads:
                lead.who = before
            try:  # noqa: SIM105 - suppress() is such a call
                lead.free.release()  # also where a handler raised as soon as we had it
            except RuntimeError:
                pass
            if before is not None:
                self.wake()
            elif leads and self._client.is_busy():
                lead.unpark()

    def end(self) -> None:
        """Ends it, from anywhere; takes no more, kills who is busy."""
        self.ended = True
        self._after()
        self.lead.unpark()
        if not self._tidied:
            self.wake()

    # ---- with the turn ------------------------------------------------------------------------

    def _deal(self) -> None:
        """Sends what there is to those with room: to who is idle, to a new one, to who is busy."""
        while not self.ended and self.broken is None and self._client.has_more():
            worker = self._least_busy()
            fresh = worker is None or (worker.batches and len(self._team) < self._limit)
            if worker is None and len(self._team) >= self._limit:
                return
            size = 1 if self._alone else self._sizing.size(self._client.left())
            if worker is not None and worker.left is not None and not fresh:
                size = min(size, worker.left)
            if fresh and self._max_tasks is not None:
                size = min(size, self._max_tasks)
            work = self._client.take(size)
            if work is None:
                return
            if self._alone:
                self._alone -= 1
            if fresh:
                worker = self._start()
            if worker is None:
                self._client.back(*work)
                return
            self._send(worker, *work)

    def _least_busy(self) -> Worker | None:
        for worker in self._team:
            if not (worker.batches or worker.leaving):
                return worker
        able = [worker for worker in self._team if self._has_room(worker)]
        return min(able, key=lambda worker: len(worker.batches), default=None)

    def _depth(self) -> int:
        """How many batches a worker may have: one before anything is known, two where it pays."""
        each = self._sizing.each
        return 1 if self._timed or each == 0 or (each > LONG and not self._eager) else 2

    def _has_room(self, worker: Worker) -> bool:
        if worker.leaving:
            return False
        try:
            first = worker.batches[0]
        except IndexError:  # none, or not any more: `room` looks without the turn
            return True
        if len(worker.batches) >= self._depth() or worker.wire.unsent:
            return False
        return _clock() < first.since + HELD  # else it would be taken back soon

    def _start(self) -> Worker | None:
        try:
            worker = warm.start(self._share, f"{self._name} {self._started}")
        except OSError as error:
            told = RuntimeError(f"no worker process could be started: {error}")
            told.__cause__ = error
            self._break(told)
            return None
        self._started += 1
        worker.left = self._max_tasks
        worker.leaving = False
        worker.take_job(self._started, self._job, 0)
        self._team.append(worker)
        self._watch(worker)
        return worker

    def _send(self, worker: Worker, numbers: Sequence[int], items: list[Any]) -> None:
        one = len(items) == 1
        try:
            if one and self._calls and type(items[0]) is bytes and worker.takes_calls:
                size = len(items[0])
                worker.call(numbers[0], items[0], self._busy + 1 < self._cpus)  # it included
            else:
                data, buffers = packed = self._codec.dumps(items)
                size = len(data) + sum(b.nbytes for b in buffers)
                worker.send(numbers, items, packed)
                worker.batches[-1].known = len(self._codec.by_value)
        except Exception as error:  # also where there is no memory for what was pickled
            if not one:
                self._one_by_one(numbers, items)
                return
            told = unsendable(self._client.name(numbers[0]), error)
            told.__cause__ = error
            self._client.answer(numbers, [None], {0: told})
            return
        self._sizing.sent(len(items), size)
        if worker.left == 0:
            worker.leave()
        self._flush(worker)
        if len(worker.batches) > 1 or not one:
            self._look_at(_clock() + HELD)

    def _one_by_one(self, numbers: Sequence[int], items: list[Any]) -> None:
        """Hands items back that have to be tried alone."""
        self._client.back(numbers, items)
        self._alone += len(items)

    def _see(self, events: list[tuple[int, int]]) -> None:
        """Sees to what happened, and to what is to be done now."""
        self._look(events)
        if self._client.has_more():
            self._deal()
        self._balance()

    def _balance(self) -> None:
        """Sees to batches that take long, and to workers that have nothing."""
        self._due = None
        for worker in self._team:
            if worker.batches:
                break
        else:
            return
        now = _clock()
        idle = not self.ended and any(not w.batches and not w.leaving for w in self._team)
        again = False
        for worker in self._team:
            if not worker.batches:
                continue
            first = worker.batches[0]
            late = first.since + LATE
            if len(first.items) - first.answered > 1 and not first.asked and worker.ready:
                if now < late:
                    self._look_at(late)
                else:
                    worker.ask_back(first)
            if idle and (len(worker.batches) > 1 or not worker.ready):
                if now < first.since + HELD:
                    self._look_at(first.since + HELD)
                    continue
                for batch in reversed(worker.regain()):
                    self._client.back(batch.numbers, batch.items)
                    again = True
        if again:
            self._deal()

    def _look_at(self, when: float) -> None:
        if self._due is None or when < self._due:
            self._due = when

    # ---- the end ------------------------------------------------------------------------------

    def _break(self, error: BaseException) -> None:
        if self.broken is None:
            self.broken = error
            self._client.broke(error)

    def _hurt(self, error: BaseException) -> None:
        """Breaks the crew: what a signal handler raises, say, may have come in the middle."""
        told = RuntimeError(f"the worker processes were lost to {error!r}")
        told.__cause__ = error
        self._break(told)

    def _after(self) -> None:
        """Without the turn: tells the client, and tidies up if that is due and nobody has it."""
        while self.ended and not self._tidied and self._turn.acquire(blocking=False):
            try:
                self._tidy()
            finally:
                self._turn.release()
        self._client.wake()

    def _tidy(self) -> None:
        if self._tidied:
            return
        self._tidied = True
        team, self._team = self._team, []
        idle = [w for w in team if self._is_warm(w)]
        busy = [w for w in team if w not in idle]
        for worker in busy:
            worker.kill()
        for worker in idle:
            warm.give(worker)
        for worker in busy:
            warm.stop(worker, kill=True)
        self._watched.clear()
        self._client = NOBODY  # or the two would hold each other
        self.wake()  # the pipe and the poll stay while somebody may be in it: see `__del__`

    def _is_warm(self, worker: Worker) -> bool:
        return not (
            self._stateful
            or worker.batches
            or worker.leaving
            or not worker.ready
            or worker.wire.unsent
            or self.broken is not None
            or worker.left is not None
        )

    def _run(self) -> None:
        self._thread_id = get_ident()
        while not (self._tidied or warm.is_over()):
            if self.lead.park():
                self._client.wake()
                continue
            self._asleep = (
                True  # before it looks whether it was roused: `rouse` looks at both in turn
            )
            if self._roused:
                self._asleep = self._roused = False
                self._client.wake()
                continue
            try:
                self.serve(None)
            except Exception:  # whose crew it is has been told
                self.end()
            if self.lead.who is not None:  # what we took from the pipe may have been for the leader
                self.wake()
        self._thread_id = 0

    def _check_process(self) -> None:
        if self._pid != warm.process:
            raise RuntimeError("worker processes belong to the process that started them")
        warm.check()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # It was never whole, or the interpreter ends: so have the workers, and maybe our globals.
        if not hasattr(self, "_pid") or _finalizing():
            return
        if self._pid == os.getpid() and not self._tidied:
            self.ended = True
            self._tidy()
        self._poll.close()
        os.close(self._wake_out)
        os.close(self._wake_in)
