"""What becomes of the batches of a worker that died.

Outcomes that it had noted are told, what else was begun fails, the rest goes back. A batch that was
being unpickled when the worker died goes back item by item, and an item that was alone then fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gorun._proc.worker import Batch, Worker


class Will:
    """Read once, when all that the worker sent has been taken in."""

    def __init__(self, worker: Worker) -> None:
        unbegun = worker.regain()
        self.logged: list[tuple[int, Any]] = []  # the item's number, what was noted
        self.fallen: list[tuple[Sequence[int], list[Any]]] = []
        self.back: list[Batch] = []
        self.alone = 0  # of those that go back: how many have to go one by one
        self.lost = False  # it died at work
        for batch in worker.batches:
            begun = max(batch.answered, worker.begun(batch))
            if begun > batch.answered:
                self.lost = True
                self._begun(worker, batch, begun)
            elif batch.answered == 0 and worker.ready and not batch.alone:  # it was being unpickled
                self.lost = True
                if len(batch.items) == 1:
                    self.fallen.append((batch.numbers, batch.items))
                    continue
                self.alone += len(batch.items)
            if begun < len(batch.items):
                self.back.append(Batch(0, batch.numbers[begun:], batch.items[begun:], 0.0))
        self.back += unbegun

    def _begun(self, worker: Worker, batch: Batch, begun: int) -> None:
        noted = worker.logged(batch)
        places = range(batch.answered, begun)
        self.logged += [(batch.numbers[place], noted[place]) for place in places if place in noted]
        lost = [place for place in places if place not in noted]
        if lost:  # else it died between two items, or after the last
            self.fallen.append(([batch.numbers[p] for p in lost], [batch.items[p] for p in lost]))
