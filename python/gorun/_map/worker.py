"""What runs the items: a worker is one goroutine.

It knows its carrier (threads.py) and nothing of the front. Whatever an item raises is the item's
answer; only a cancel, or an error of the initializer, ends a worker, and then the map with it.
`main` and `_run` have twins with `_async`, which differ in their awaits alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from gorun._errors import Cancelled, GoroutineCancelled, ThreadLimit
from gorun._gorun import Goroutine, current
from gorun._map.carrier import ANY

if TYPE_CHECKING:
    from gorun._map.threads import Entry, ThreadCarrier

_clock = time.monotonic


class Worker:
    """One goroutine of a `ThreadCarrier`, until nothing is left or another takes its place."""

    def __init__(self, carrier: ThreadCarrier, number: int) -> None:
        self.number = number
        self.mine: deque[Entry] = deque()  # taken, not begun; only where `chunk` is above 1
        self.given_up = False  # its item was taken from it: it counts no more
        self.goroutine: Goroutine[object]  # once it runs
        self._carrier = carrier
        self._fresh = True
        self._timed = carrier.job.item_timeout is not None
        self._left = carrier.job.max_tasks  # items until another takes its place

    def main(self) -> None:
        """The body of a plain goroutine."""
        carrier = self._carrier
        self.goroutine = cast("Goroutine[object]", current())
        try:
            while self._run():
                if (latch := carrier.rest()) is None:
                    break
                try:
                    latch.wait()
                except ThreadLimit:  # waiting costs a thread, and there is none to spare
                    carrier.forget(latch)
                    break
            if not self.given_up:
                carrier.leave(self)
        except BaseException as error:
            self._broke(error)

    async def main_async(self) -> None:
        """The body of an async goroutine."""
        carrier = self._carrier
        self.goroutine = cast("Goroutine[object]", current())
        try:
            while await self._run_async():
                if (latch := carrier.rest()) is None:
                    break
                await latch.wait_async()
            if not self.given_up:
                carrier.leave(self)
        except BaseException as error:
            self._broke(error)

    def _run(self) -> bool:
        """Runs items while there are any; False if this worker is to take no more."""
        carrier, take = self._carrier, self._taker()
        fn, star, retries = carrier.job.fn, carrier.job.star, carrier.job.retries
        while not carrier.cancelled:
            try:
                number, item = take()
            except IndexError:
                break
            if self._fresh:
                self._begin()
            self._open(number)
            error, tries = None, retries
            while True:
                try:
                    value = fn(*item) if star else fn(item)
                except BaseException as caught:
                    if self._again(caught, tries):
                        tries -= 1
                        continue
                    value, error = None, caught
                break
            if not self._answer(number, value, error):
                return False
            item = value = None  # or they would live as long as the next item runs
        return True

    async def _run_async(self) -> bool:
        """As `_run`, awaiting what the function gives."""
        carrier, take = self._carrier, self._taker()
        fn, star, retries = carrier.job.fn, carrier.job.star, carrier.job.retries
        while not carrier.cancelled:
            try:
                number, item = take()
            except IndexError:
                break
            if self._fresh:
                self._begin()
            self._open(number)
            error, tries = None, retries
            while True:
                try:
                    value = await (fn(*item) if star else fn(item))
                except BaseException as caught:
                    if self._again(caught, tries):
                        tries -= 1
                        continue
                    value, error = None, caught
                break
            if not self._answer(number, value, error):
                return False
            item = value = None
        return True

    def _taker(self) -> Callable[[], Entry]:
        """What gives the next item, or raises IndexError."""
        return self._carrier.work.popleft if self._carrier.chunk == 1 else self._take_chunk

    def _take_chunk(self) -> Entry:
        mine, work = self.mine, self._carrier.work
        if not mine:
            mine.append(work.popleft())
            with suppress(IndexError):
                while len(mine) < self._carrier.chunk:
                    mine.append(work.popleft())
        return mine.popleft()

    def _begin(self) -> None:
        """Runs the initializer: with the first item in hand, so not for a worker that gets none."""
        self._fresh = False
        job = self._carrier.job
        if job.initializer is not None:
            job.initializer(*job.initargs)

    def _open(self, number: int) -> None:
        if self._timed:
            self._carrier.running[number] = (_clock(), self)

    def _again(self, error: BaseException, tries: int) -> bool:
        """Whether an item that raised `error` is to be run once more."""
        if isinstance(error, Cancelled) or (
            isinstance(error, GeneratorExit) and self._carrier.job.is_async
        ):
            raise error  # meant for the goroutine (of whose coroutine it is the close())
        done_with = tries == 0 or self._carrier.cancelled or self.given_up
        return not done_with and isinstance(error, Exception)

    def _answer(self, number: int, value: Any, error: BaseException | None) -> bool:
        """Puts the answer of an item down; False if this worker is to take no more."""
        carrier = self._carrier
        if self._timed and carrier.running.pop(number, None) is None:
            self.given_up = True  # the front may be about to say so
            return False  # and has answered
        if error is not None:
            trace = error.__traceback__  # its first entry is `_run`: no news, and it holds us
            carrier.failures[number] = error.with_traceback(trace and trace.tb_next)
            if carrier.job.is_fatal(error):
                carrier.drop_behind(number)
        carrier.answers.append((number, value))
        latch = carrier.waiting.pop(number if carrier.by_number else ANY, None)
        if latch is not None:
            latch.set()
        if self._left is not None:
            self._left -= 1
        return self._left != 0

    def _broke(self, error: BaseException) -> None:
        """Ends the map with what ended this worker, unless nobody counts on it any more."""
        is_cancel = isinstance(error, Cancelled)
        if not self.given_up and not self._carrier.cancelled:
            told = error
            if is_cancel:
                told = GoroutineCancelled(f"worker {self.number} of gorun.map was cancelled")
                told.__cause__ = error
            self._carrier.fail(told)
        if is_cancel or isinstance(error, GeneratorExit):
            raise error
