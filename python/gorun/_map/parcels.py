"""What travels to a foreign executor and back: the function, the items of a chunk, their outcomes.

Whether any of it is pickled is the executor's affair: each part pickles itself if asked to, as worker
processes get theirs (gorun._proc.codec), and is handed over as it is by an executor of threads. What
cannot be pickled costs its own item: it is replaced by the error that says so, on either side.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

from gorun._proc.codec import Codec, unpack_error, unsendable
from gorun._proc.errors import pack, shown


class Portable:
    """A function; pickled once, however many chunks it goes with."""

    def __init__(self, fn: Callable[..., Any], codec: Codec | None = None) -> None:
        self.fn = fn
        self.codec = codec or Codec(fn)
        self._packed: tuple[Any, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._packed is None:
            try:
                data, buffers = self.codec.dumps(self.fn)
            except Exception as error:
                raise unsendable(f"the function {shown(self.fn)}", error) from error
            self._packed = _open_function, (data, [bytes(buffer) for buffer in buffers])
        return self._packed


def _open_function(data: bytes, buffers: list[bytes]) -> Portable:
    fn = pickle.loads(data, buffers=buffers)
    return Portable(fn, Codec(None))


class Parcel:
    """Values by their places in a chunk, and errors in place of some."""

    def __init__(
        self,
        values: list[Any],
        errors: dict[int, BaseException],
        codec: Codec,
        first: int,
        seconds: float = 0.0,
    ) -> None:
        self.values = values
        self.errors = errors
        self.first = first  # the number of its first item
        self.seconds = seconds  # that it took
        self._codec = codec

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        values, errors = self.values, dict(self.errors)
        try:
            data, buffers = self._codec.dumps(values)
        except Exception:
            values = list(values)
            for place, value in enumerate(values):
                try:
                    self._codec.dumps(value)
                except Exception as error:
                    text = f"item {self.first + place} of gorun.map cannot be sent: {shown(value)}"
                    values[place] = None
                    errors[place] = pickle.PicklingError(f"{text}: {error}")
            data, buffers = self._codec.dumps(values)
        views = [pickle.PickleBuffer(buffer) for buffer in buffers]
        if protocol < 5:
            views = [bytes(view) for view in views]  # type: ignore[misc]
        packed = {place: _pack_error(error, self._codec) for place, error in errors.items()}
        return _open, (data, views, packed, self.first, self.seconds)


def _pack_error(error: BaseException, codec: Codec) -> tuple[str, Any, Any, str]:
    """An exception as `unpack_error` wants it."""
    bare = error.__traceback__ is None  # it was raised by nobody: there is no traceback to show
    text = "" if bare else "".join(traceback.format_exception(error))
    return pack(error, text, codec.whole)


def _open(
    data: bytes, buffers: list[Any], packed: dict[int, Any], first: int, seconds: float
) -> Parcel:
    values = pickle.loads(data, buffers=buffers)
    errors = {
        place: unpack_error(error, f"item {first + place} of gorun.map")
        for place, error in packed.items()
    }
    return Parcel(values, errors, Codec(None), first, seconds)


def run_chunk(
    portable: Portable, parcel: Parcel, star: bool, retries: int, token: object
) -> Parcel:
    """Runs the items of a chunk where the executor has put it.

    `token` makes each chunk another one for executors that give equal calls one result (Dask).
    """
    fn, values, errors = portable.fn, [], dict(parcel.errors)
    began = time.perf_counter()
    for place, item in enumerate(parcel.values):
        value = None
        if place not in errors:
            left = retries
            while True:
                try:
                    value = fn(*item) if star else fn(item)
                except BaseException as error:
                    if left and isinstance(error, Exception):
                        left -= 1
                        continue
                    trace = error.__traceback__  # its first entry is ours
                    errors[place] = error.with_traceback(trace and trace.tb_next)
                break
        values.append(value)
    seconds = time.perf_counter() - began
    return Parcel(values, errors, portable.codec, parcel.first, seconds)
