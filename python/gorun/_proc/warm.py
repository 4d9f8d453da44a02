"""Idle workers between two maps, for KEEP seconds; and the end of all workers at exit and fork.

A worker that waits here has no job, and ends by itself when KEEP is over (child.py), so nobody has
to watch it. Who wants one gets it told anew what has changed meanwhile: `sys.path`, the folder, the
environment. Workers that have had an initializer, or whose function failed to load, do not come here.
At the interpreter's exit all are killed and reaped. A forked child forgets them: they are not its own.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from gorun._gorun import current
from gorun._proc.start import Share
from gorun._proc.worker import Worker

KEEP = 10.0  # seconds
MOST = 32

_over = False  # the interpreter ends: nobody answers for who is killed now

process = os.getpid()
"""This one. To ask the system costs more than much of what is done for a message."""

crews: WeakSet[Any] = WeakSet()
"""Those whose threads may wait for workers when the interpreter ends."""
_idle: deque[Worker] = deque()
_alive: set[Worker] = set()
_lock = threading.RLock()  # a collector that ends a map may come in between


def start(share: Share, name: str) -> Worker:
    """A worker that is idle, or a new one."""
    check()
    while True:
        try:
            worker = _idle.pop()
        except IndexError:
            break
        if worker.share == share and not (worker.closed or worker.dead()):
            worker.tell(name)
            return worker
        stop(worker, kill=True)
    worker = Worker(share, name)
    with _lock:
        _alive.add(worker)
    return worker


def prepare(share: Share, count: int, name: str) -> None:
    """Has so many idle workers, which get cloudpickle ready: by who is about to do so itself.

    That takes either as long as the start of an interpreter, and a worker's part of it goes on meanwhile.
    """
    check()
    with suppress(OSError):  # who wants one then will be told
        for _ in range(count - len(_idle)):
            worker = Worker(share, name, by_value=True)
            with _lock:
                _alive.add(worker)
            give(worker)


def give(worker: Worker) -> None:
    """Keeps an idle worker for the next map."""
    worker.rest(KEEP)
    try:
        sent = worker.wire.flush()
    except OSError:
        sent = False
    if not sent or len(_idle) >= MOST:
        stop(worker, kill=True)
    else:
        _idle.append(worker)


def stop(worker: Worker, kill: bool) -> None:
    """Ends a worker: at once, or by itself where it is idle."""
    worker.end(kill)
    with _lock:
        _alive.discard(worker)


def is_over() -> bool:
    """Whether the interpreter ends, and all workers with it."""
    return _over


def check() -> None:
    """Raises if the interpreter ends: in a daemon thread, which ends with it, what is not printed."""
    if _over:
        silent = threading.current_thread().daemon and current() is None
        kind = SystemExit if silent else RuntimeError
        raise kind("the interpreter is ending, and its worker processes have gone")


def idle_pids() -> list[int]:
    """The processes of the workers that wait for a map."""
    return [worker.pid for worker in _idle]


def pids() -> list[int]:
    """The processes of all workers."""
    return [worker.pid for worker in _alive.copy()]


def close() -> None:
    """Ends every worker of this process."""
    workers = _alive.copy()
    _idle.clear()
    for worker in workers:
        worker.kill()
    for worker in workers:
        stop(worker, kill=True)


def _at_exit() -> None:
    global _over
    _over = True
    idle = tuple(_idle)
    _idle.clear()
    for worker in _alive.copy():
        worker.kill()
    for worker in idle:
        stop(worker, kill=True)
    for worker in _alive.copy():
        worker.bury()
    for crew in tuple(crews):
        crew.wake()


def _forget() -> None:
    global _lock, process
    process = os.getpid()
    _lock = threading.RLock()
    _idle.clear()
    for worker in _alive:
        worker.forget()
    _alive.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_forget)
