"""Workers as code sees them that was written against the pools of `concurrent.futures`.

Such code, CPython's own tests among it, looks into `_threads` and `_processes`. Here are as much of a
`threading.Thread` and of a `multiprocessing.Process` as it takes from there.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

from gorun._gorun import Goroutine

LOOK_SECONDS = 0.01


class WorkerThread:
    """A worker that is a goroutine."""

    def __init__(self, goroutine: Goroutine[Any]) -> None:
        self.name = goroutine.name
        self._goroutine = goroutine

    def is_alive(self) -> bool:
        """Whether it has not left."""
        return not self._goroutine.done()

    def join(self, timeout: float | None = None) -> None:
        """Waits until it has left, or for `timeout` seconds."""
        self._goroutine._wait(timeout)


class WorkerProcess:
    """A worker that is a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        """Whether there is a process of that number."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def terminate(self) -> None:
        """Sends SIGTERM."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Waits until it has ended and was seen to it, or for `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.is_alive() and (end is None or time.monotonic() < end):
            time.sleep(LOOK_SECONDS)
