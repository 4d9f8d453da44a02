"""One map under way: pulls the input, keeps the order, counts, and raises; but never waits.

A `step` looks at what has come, feeds the carrier (carrier.py has the rules between the two), and
says what to wait for. `Map` and `AsyncMap` (front.py) do the waiting.

Invariants
- taken = items pulled from the input; seen = items whose outcome was passed on, to `ready` or as
  an error. The items between the two are with the carrier or in `landed`, by their numbers.
- taken <= values given to the caller + buffer, whenever `next` returns: the run-ahead.
- `ready` holds half of the run-ahead at most, so the workers go on while the caller takes it.
- Only who holds the turn changes a flow. `close` may come from anywhere (another thread, a signal
  handler, a collector): it sets `closed`, cancels the carrier, and whoever has the turn tidies up.
- An exception that leaves `step` has ended the map.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from gorun._gorun import Latch
from gorun._map.carrier import Carrier, Job
from gorun._map.progress import Meter

# An input that has taken longer is a slow one: what is ready by then is given first, and if nothing is,
# the workers, the clock and pending cancels are seen to before the next item.
SLOW_INPUT_SECONDS = 1e-3

_END = object()

_clock = time.monotonic


class Wait(NamedTuple):
    """What to wait for before the next step."""

    latch: Latch | None  # None: for the carrier's end
    timeout: float | None = None  # seconds, None for ever


class Flow:
    """One map under way, without the waiting. `with flow` takes the turn."""

    def __init__(
        self,
        job: Job,
        carrier: Carrier,
        source: Iterator[Any],
        total: int | None,
        meter: Meter | None,
    ) -> None:
        self.ready: deque[Any] = deque()  # taken from without the turn
        self.carrier = carrier
        self.closed = False
        self._job = job
        self._source: Iterator[Any] | None = source  # None: at its end, or no more is wanted
        self._total = total
        self._meter = meter
        self._begun = False
        self._joined = False
        self._slow = False  # the input was left in the middle, since it takes long
        self._deadline: float | None = None
        self._taken = 0
        self._seen = 0
        self._done = 0  # what the meter shows: arrived, in whatever order
        self._landed: dict[int, Any] = {}  # answers, in the order of their arrival
        self._verdict: BaseException | None = None  # raised once `ready` is empty
        self._input_error: Exception | None = None  # raised once all else is through
        self._errors: list[Exception] = []  # errors="collect"
        self._turn = threading.Lock()

    def __enter__(self) -> None:
        if not self._turn.acquire(blocking=False):
            raise ValueError("this gorun.map is being advanced already, by another caller")

    def __exit__(self, *exc: object) -> None:
        self._turn.release()

    def step(self) -> Wait | bool:
        """True: `ready` has a value; False: all is over. Else wait, then step again.

        Raises what the map ends with, and TimeoutError when its time is up.
        """
        try:
            move = not self.closed and self._move()
            if self.closed:
                self._tidy()
                return False
            return move
        except BaseException:
            self.end("gorun.map has failed")
            raise

    def close(self) -> None:
        """Ends the map from anywhere: a step that is under way or waits says False next."""
        if self.closed:
            return
        self.closed = True
        self.carrier.cancel("gorun.map was closed")
        if self._turn.acquire(blocking=False):  # else the one who has it tidies up
            self._tidy()
            self._turn.release()

    # ---- with the turn ----------------------------------------------------------------------

    def _move(self) -> Wait | bool:
        first = not self._begun
        if first:
            self._begin()
        latch: Latch | None = None
        while not self.closed:
            broken = self.carrier.broken  # asked first: what came before it counts
            self._look()
            late = self._deadline is not None and _clock() >= self._deadline
            if self._slow and self.ready:
                self._slow = False  # they come before the next slow item, once
            elif first or not late:
                self._slow = self._feed()
            if self.ready:
                return True
            if self._verdict is not None:
                self._raise(self._verdict)
            if self._source is None and self._taken == self._seen:
                return self._end()
            if broken is not None:
                self._raise(broken)
            if late:
                self._raise(self._too_late())
            if self._slow:  # see to all else, and go on
                self.carrier.expire()
                return Wait(Latch(), 0.0)
            first = False
            if latch is None:
                latch = self._watch()  # registered: look again, then wait
            elif (due := self.carrier.expire()) != 0:
                return Wait(latch, self._shorter(due))
        return False

    def _begin(self) -> None:
        self._begun = True
        if self._job.timeout is not None:
            self._deadline = _clock() + self._job.timeout
        if self._meter is not None:
            self._meter.show(0)

    def _look(self) -> None:
        """Takes the answers that are there, and fills `ready` if it is empty."""
        answers = self.carrier.collect()
        if answers:
            self._landed.update(answers)
            self._done += len(answers)
            if self._meter is not None:
                self._meter.show(self._done)
            failures = self.carrier.failures
            if failures and any(self._job.is_fatal(error) for error in failures.copy().values()):
                self._stop_input()  # the map will end there: nothing behind it is wanted
        if self._landed and not self.ready and self._verdict is None:
            if self._job.ordered:
                self._admit(range(self._seen, self._seen + self._most()))
            else:
                self._admit(list(islice(self._landed, self._most())))

    def _most(self) -> int:
        """How much `ready` may hold: the rest of the run-ahead keeps the workers busy."""
        return max(1, self.carrier.ahead // 2)

    def _admit(self, numbers: Iterable[int]) -> None:
        """Passes on the outcomes of `numbers` as `errors` has it, up to the first that is out."""
        landed, failures, ready = self._landed, self.carrier.failures, self.ready
        for number in numbers:
            if number not in landed:
                return
            value = landed.pop(number)
            self._seen += 1
            if not failures or (error := failures.pop(number, None)) is None:
                ready.append(value)
            elif self._job.is_fatal(error):
                self._verdict = error
                return
            elif self._job.errors == "return":
                ready.append(error)
            elif isinstance(error, Exception):  # what is none is fatal
                self._errors.append(error)

    def _feed(self) -> bool:
        """Pulls as much of the input as the run-ahead has room for; each item is off at once.

        True: it stopped before that, since the input is slow.
        """
        if (room := self._room()) <= 0 or self._source is None:
            return False
        slow = _clock() + SLOW_INPUT_SECONDS
        while room > 0 and self._source is not None:
            try:
                item = next(self._source, _END)
            except Exception as error:
                self._input_error = error
                item = _END
            if item is _END:
                self._stop_input()
                return False
            self.carrier.put(self._taken, item)
            self._taken += 1
            room -= 1
            if _clock() > slow:
                self._look()
                return room > 0 and self._source is not None
        return False

    def _room(self) -> int:
        """How many items may be pulled; one of `ready` is as good as given."""
        given = self._seen - max(0, len(self.ready) - 1)
        return self.carrier.ahead - (self._taken - given)

    def _watch(self) -> Latch:
        return self.carrier.watch(self._seen)

    def _stop_input(self) -> None:
        if self._source is not None:
            self._source = None
            self.carrier.finish()

    def _end(self) -> Wait | bool:
        """Everything is through: first the workers' end, then the errors, then the end."""
        if not self._joined:
            self._joined = True
            return Wait(None)
        if self._job.errors == "collect" and self._input_error is not None:
            self._errors.append(self._input_error)
        elif self._input_error is not None:
            self._raise(self._input_error)
        if self._errors:
            self._raise(self._group())
        self.end("gorun.map is at its end")
        return False

    def _raise(self, error: BaseException) -> None:
        """Raises `error` as the map's end, held by nothing here: else it would be a cycle."""
        self._verdict = self._input_error = None
        self._errors = []
        try:
            if isinstance(error, (StopIteration, StopAsyncIteration)):
                # As in a generator (PEP 479): a loop would take it for the end of the map.
                raise RuntimeError(f"{self._job.fn!r} raised {error!r} in gorun.map") from error
            raise error
        finally:
            del error

    def _group(self) -> ExceptionGroup[Exception]:
        count = len(self._errors)
        return ExceptionGroup(f"{count} error{'s'[: count > 1]} in gorun.map", self._errors)

    def _too_late(self) -> TimeoutError:
        of = "" if self._total is None else f" of {self._total}"
        error = TimeoutError(
            f"gorun.map is not through after {self._job.timeout} s: {self._done}{of} items are done"
        )
        if self._errors:
            error.__cause__ = self._group()
        return error

    def _shorter(self, due: float | None) -> float | None:
        """Seconds until the map's deadline or `due`, whichever comes first."""
        if self._deadline is None:
            return due
        left = max(0.0, self._deadline - _clock())
        return left if due is None else min(left, due)

    def end(self, reason: str) -> None:
        """As `close`, for who has the turn."""
        self.closed = True
        self.carrier.cancel(reason)
        self._tidy()

    def _tidy(self) -> None:
        """Lets go of everything; again and again does no harm."""
        meter, self._meter = self._meter, None
        self._source = None
        self.ready.clear()
        self._landed.clear()
        if meter is not None:
            meter.close()
