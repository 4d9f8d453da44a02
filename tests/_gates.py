"""What holds the calls of an executor until a test lets them go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

LONG = 30.0
"""Seconds that nothing here takes."""


class Gate:
    """Holds calls until it is opened; knows how many are in."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._in = threading.Semaphore(0)

    def __call__(self, value: Any = None) -> Any:
        self._in.release()
        assert self._open.wait(LONG)
        return value

    def entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._in.acquire(timeout=LONG)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()
