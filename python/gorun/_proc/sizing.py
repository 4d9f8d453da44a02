"""How many items make a batch: as many as pay for the message, and no more.

A message costs the parent some 50 us, an item anything. So a batch is to take TARGET seconds, by
what the items before have taken. It is held back by three things:
- what is known: an eighth of what has been done, at most. The first items go alone, so that one
  long item cannot stand behind short ones.
- what is left, where that is known: half of a fair share (factoring, Hummel et al. 1992), down to
  LEAST seconds: so late nobody waits long for the last one, and a message costs a quarter of that.
- bytes: a batch of big items is no cheaper than one of them.
"""

from __future__ import annotations

TARGET = 2e-3  # seconds
LEAST = 2e-4  # seconds
LARGEST = 1 << 14  # items
BYTES = 1 << 20
LEARN = 8  # items done for each one in a batch


class Sizing:
    """The rule, and what it has seen so far."""

    def __init__(
        self,
        workers: int,
        fixed: int | None = None,
        most: int | None = None,
        target: float = TARGET,
    ) -> None:
        self._workers = workers
        self._fixed = fixed
        self._most = LARGEST if most is None else most
        self._target = target
        self._done = 0
        self.each = 0.0  # seconds
        self.bytes = 0.0  # of an item

    def ran(self, items: int, seconds: float) -> None:
        """Takes note of a batch that is done."""
        if items:
            each = seconds / items
            self.each = each if self._done == 0 else (self.each + each) / 2
            self._done += items

    def slow(self, seconds: float, items: int) -> None:
        """Takes note of a batch that takes longer than it was to."""
        self.each = max(self.each, seconds / items)

    def sent(self, items: int, size: int) -> None:
        """Takes note of the bytes of a batch."""
        each = size / items
        self.bytes = max(each, (self.bytes + each) / 2)

    @property
    def usual(self) -> int:
        """Items of a batch, as things stand."""
        if self._fixed is not None:
            return self._fixed
        most = min(self._most, 1 + self._done // LEARN)
        if self.each * most > self._target:
            most = int(self._target / self.each)
        if self.bytes * most > BYTES:
            most = int(BYTES / self.bytes)
        return max(1, most)

    def size(self, left: int | None) -> int:
        """Items of the next batch, when `left` are left (None: nobody knows)."""
        if self._fixed is not None or left is None:
            return self.usual
        least = int(LEAST / self.each) if self.each else 1
        return max(1, min(self.usual, left, max(least, -(-left // (2 * self._workers)))))
