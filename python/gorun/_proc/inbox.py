"""What workers send, frame by frame, as it is told to their crew's client. With the crew's turn."""

from __future__ import annotations

import pickle
import time
from contextlib import suppress
from typing import Any

from gorun._proc import wire
from gorun._proc.client import Client
from gorun._proc.codec import Codec, unpack_error
from gorun._proc.sizing import Sizing
from gorun._proc.worker import Worker

LATE = 1e-2  # seconds that a batch may take before its worker is asked for what it has not begun

_clock = time.monotonic


class Inbox:
    """The receiving half of a crew."""

    _client: Client
    _codec: Codec
    _sizing: Sizing
    _failed_starts: int

    def _flush(self, worker: Worker) -> None:
        """Sends what there is for a worker."""
        raise NotImplementedError

    def _one_by_one(self, numbers: Any, items: list[Any]) -> None:
        """Hands items back that have to be tried alone."""
        raise NotImplementedError

    def _look_at(self, when: float) -> None:
        """Has late batches be looked at then, at the latest."""
        raise NotImplementedError

    def _break(self, error: BaseException) -> None:
        """Ends the crew: nothing more will be answered."""
        raise NotImplementedError

    def _take_in(self, worker: Worker, frame: wire.Frame) -> None:
        if frame.kind == wire.RESULT:
            self._take_result(worker, frame)
        elif frame.kind in (wire.DONE, wire.PART):
            self._take_outcomes(worker, frame)
        elif frame.kind == wire.GROWN:
            if not worker.leaving:
                worker.leave()
                self._flush(worker)
        elif frame.kind == wire.READY:
            worker.ready = True
            self._failed_starts = 0
            if worker.batches:
                worker.batches[0].since = _clock()
                self._look_at(worker.batches[0].since + LATE)
        elif frame.kind == wire.BAD:
            what, packed = pickle.loads(frame.data)
            if frame.count == 0:
                error = unpack_error(packed, what)
                error.add_note(f"({what} of a worker process)")
                self._break(error)
                return
            batch = worker.batches.popleft()
            self._learn_from(batch.items)
            if batch.known < len(self._codec.by_value):
                self._client.back(batch.numbers, batch.items)
                return
            if len(batch.items) > 1:
                self._one_by_one(batch.numbers, batch.items)
                return
            name = self._client.name(batch.numbers[0])
            error = unpack_error(packed, name)
            error.add_note(f"({name} could not be unpickled in the worker process)")
            self._client.answer(batch.numbers, [None], {0: error})

    def _learn_from(self, items: list[Any]) -> None:
        """Looks for another way to send items that a worker could not unpickle."""
        with suppress(Exception):  # they have been pickled before, but who knows
            self._codec.learn_from(self._codec.dumps(items)[0])

    def _take_result(self, worker: Worker, frame: wire.Frame) -> None:
        batch = worker.batches.popleft()
        assert batch.number == frame.number
        number = batch.numbers[0]
        error = None
        try:
            if frame.buffers:
                frame.copy()
            value, packed, seconds = pickle.loads(frame.data, buffers=frame.buffers)
            self._sizing.ran(1, seconds)
            error = None if packed is None else unpack_error(packed, self._client.name(number))
        except BaseException as why:
            value, error = None, self._undone(number, why)
        if frame.segment:
            worker.wire.done_with(frame)
        if worker.batches:
            worker.batches[0].since = now = _clock()
            self._look_at(now + LATE)
        self._client.result(number, value, error)

    def _undone(self, number: int, why: BaseException) -> BaseException:
        """Whatever a result's own code raises is no end of ours."""
        told = RuntimeError(f"the result of {self._client.name(number)} cannot be unpickled")
        told.__cause__ = why
        return told

    def _take_outcomes(self, worker: Worker, frame: wire.Frame) -> None:
        batch = worker.batches[0]
        assert batch.number == frame.number
        numbers = batch.numbers[batch.answered : batch.answered + frame.count]
        errors: dict[int, BaseException] = {}
        try:
            frame.copy()  # for what lives in them: the segment is wanted back
            values, packed, seconds, back = pickle.loads(frame.data, buffers=frame.buffers)
        except BaseException as error:
            values, packed, seconds, back = [None] * frame.count, None, 0.0, 0
            for place, number in enumerate(numbers):
                errors[place] = self._undone(number, error)
        worker.wire.done_with(frame)
        for place, one in (packed or {}).items():
            errors[place] = unpack_error(one, self._client.name(numbers[place]))
        batch.answered += frame.count
        if frame.kind == wire.DONE:
            worker.batches.popleft()
            self._sizing.ran(frame.count, seconds)
            if worker.batches:
                worker.batches[0].since = now = _clock()
                self._look_at(now + LATE)
        elif back:
            keep = len(batch.items) - back
            self._client.back(batch.numbers[keep:], batch.items[keep:])
            batch.numbers, batch.items = batch.numbers[:keep], batch.items[:keep]
            self._sizing.slow(_clock() - batch.since, frame.count + 1)
        if numbers:
            self._client.answer(numbers, values, errors)
