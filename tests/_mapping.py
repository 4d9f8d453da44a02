"""What the tests of `gorun.map` have in common: inputs that count; on threads also gates, and a look inside."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gorun
from gorun._map import threads, worker

tmap = functools.partial(gorun.map, on="thread")
tmap_async = functools.partial(gorun.map_async, on="thread")

HANG = 30.0  # seconds that only a broken run takes


class Counted:
    """An endless input that counts what was pulled, and by which threads."""

    def __init__(self, end: float = math.inf) -> None:
        self.pulled = 0
        self.by: set[int] = set()
        self.end = end

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> int:
        if self.pulled >= self.end:
            raise StopIteration
        self.by.add(threading.get_ident())
        self.pulled += 1
        return self.pulled - 1


class Gate:
    """What items wait at. Opened when the test ends, come what may."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self) -> None:
        assert self._event.wait(2 * HANG), "nobody opened the gate"  # the test gives up first

    def open(self) -> None:
        self._event.set()


def gates() -> Iterator[Gate]:
    """A fixture: a gate that opens when the test ends."""
    gate = Gate()
    yield gate
    gate.open()


def square(n: int) -> int:
    return n * n


def until(true: Callable[[], object]) -> None:
    """Waits for what another thread is about to do."""
    limit = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.001)


def at_rest(m: Any) -> bool:
    """Whether all that was taken from the input is through, and its workers are idle."""
    carrier = m._flow.carrier
    return not carrier.work and len(carrier._idle) + len(carrier._free) == carrier.job.workers


def waits(m: Any) -> bool:
    """Whether somebody waits in `next`."""
    return bool(m._flow.carrier.waiting)


async def asquare(n: int) -> int:
    await gorun.sleep_async(0)
    return n * n


def fails_at(*bad: int) -> Callable[[int], int]:
    def item(n: int) -> int:
        if n in bad:
            raise ValueError(n)
        return n

    return item


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A fixture: what `item_timeout` is measured with: it stands still but for what the test adds."""
    now = [0.0]
    for module in (threads, worker):
        monkeypatch.setattr(module, "_clock", lambda: now[0])
    return now


# ---- how a map can be ended ----


def close(m: Any) -> None:
    m.close()


def leave(m: Any) -> None:
    with m:
        pass


def drop(m: Any) -> None:
    m.__del__()  # what the last reference does
