"""A flow for carriers that take and answer whole blocks of items: processes, and executors.

The rules of flow.py and carrier.py hold, with blocks in place of items: a block is a number, that of
its first item, and a list. It is answered in as many pieces as the carrier likes, each a block again.
Items are pulled at the speed of C, for a moment at a time: of a slow input, one by one. Where the caller
gave the length of chunks, the beginning of one waits here for its rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias, cast

from gorun._gorun import Latch, _pull
from gorun._map.carrier import Job
from gorun._map.flow import SLOW_INPUT_SECONDS, Flow
from gorun._map.progress import Meter

Block: TypeAlias = tuple[int, list[Any]]

LONGEST_PULL = 1 << 14  # items

_clock = time.monotonic


class BlockCarrier(Protocol):
    """As `Carrier` (carrier.py), by blocks."""

    failures: dict[int, BaseException]
    broken: BaseException | None

    @property
    def ahead(self) -> int:
        """How many items the front may be ahead of what it gave, as things stand."""

    def put(self, first: int, items: list[Any]) -> None:
        """Takes a block over."""

    def finish(self) -> None:
        """Says that the last item was handed over."""

    def collect(self) -> list[Block]:
        """Takes all answers that are there."""

    def watch(self, out: int) -> Latch:
        """Makes the latch of a wait while `out` items are taken and not given."""

    def wait(self, latch: Latch, timeout: float | None) -> None:
        """Waits until the latch is set; None: for ever."""

    async def wait_async(self, latch: Latch, timeout: float | None) -> None:
        """As `wait`, for a task or an async goroutine."""

    def expire(self) -> float | None:
        """Fails the items that overran `item_timeout`; as `Carrier.expire`."""

    def cancel(self, reason: str) -> None:
        """Drops what has not begun, ends what has. From any thread, also from a collector."""

    def join(self) -> None:
        """After the last answer: waits until nothing of this carrier runs any more."""

    async def join_async(self) -> None:
        """As `join`, for a task or an async goroutine."""


class BlockFlow(Flow):
    """A `Flow` over a `BlockCarrier`."""

    def __init__(
        self,
        job: Job,
        carrier: BlockCarrier,
        source: Iterator[Any],
        total: int | None,
        meter: Meter | None,
    ) -> None:
        super().__init__(job, cast("Any", carrier), source, total, meter)
        self._blocks = carrier
        self._parts: dict[int, list[Any]] = {}  # answers, by the number of their first item
        # What the input is pulled by, where the run-ahead has it. With a time for items each goes by itself.
        self._chunk = 1 if job.item_timeout is not None else job.chunk or 1
        self._part: list[Any] = []  # of a chunk: taken, not handed over

    def _look(self) -> None:
        answers = self._blocks.collect()
        if answers:
            self._parts.update(answers)
            self._done += sum([len(values) for _, values in answers])
            if self._meter is not None:
                self._meter.show(self._done)
            failures = self._blocks.failures
            if failures and any(self._job.is_fatal(e) for e in failures.copy().values()):
                self._stop_input()
        if not self.ready and self._verdict is None:
            self._take_parts(self._most())

    def _take_parts(self, most: int) -> None:
        """Passes on outcomes, `most` at a time: in order, or as they came."""
        parts = self._parts
        while parts and most > 0 and self._verdict is None:
            first = self._seen if self._job.ordered else next(iter(parts))
            values = parts.pop(first, None)
            if values is None:
                return
            if len(values) > most:
                rest = {first + most: values[most:]}
                if self._job.ordered:
                    parts.update(rest)
                else:
                    self._parts = parts = rest | parts
                values = values[:most]
            most -= len(values)
            if self._blocks.failures:
                self._landed = dict(enumerate(values, first))
                self._admit(range(first, first + len(values)))
            else:
                self._seen += len(values)
                self.ready.extend(values)

    def _feed(self) -> bool:
        slow = _clock() + SLOW_INPUT_SECONDS
        while self._source is not None and (wanted := self._wanted()) > 0:
            items, self._part = self._part, []
            had = len(items)
            ended = False
            try:
                ended = _pull(self._source, items, wanted, SLOW_INPUT_SECONDS)
            except Exception as error:
                self._input_error = error
                ended = True
            if ended:
                self._source = None
            first = self._taken - had
            self._taken = first + len(items)
            if not ended and (over := len(items) % self._chunk):
                self._part = items[-over:]
                del items[-over:]
            if items:
                self._blocks.put(first, items)
            if ended:
                self._blocks.finish()
                return False
            if _clock() > slow:
                self._look()
                return self._source is not None and self._wanted() > 0
        return False

    def _wanted(self) -> int:
        """How many items to pull next: such that whole chunks are there."""
        had = len(self._part)
        whole = min(self._room() + had, max(LONGEST_PULL, self._chunk))
        return whole - whole % self._chunk - had

    def _watch(self) -> Latch:
        return self._blocks.watch(self._taken - self._seen)

    def _tidy(self) -> None:
        super()._tidy()
        self._parts.clear()
        self._part = []
