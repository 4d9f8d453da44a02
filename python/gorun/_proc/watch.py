"""The waking half of a crew: its workers' sockets and deaths, the pipe by which it is called. With the crew's turn.

An event says that something is there, and no more: whoever has the turn takes it, and finds nothing where somebody
else was faster. What workers send by rings is looked for without an event, too (linked.py has the bell).
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import Any

from gorun._proc import warm
from gorun._proc.codec import unpack_error
from gorun._proc.inbox import Inbox
from gorun._proc.linked import ParentEnd
from gorun._proc.will import Will
from gorun._proc.wire import Frame
from gorun._proc.worker import Worker

START_TRIES = 3


class Watch(Inbox):
    """Those who work, and what comes from them."""

    _alone: int

    def __init__(self) -> None:
        self.ended = False
        self.broken: BaseException | None = None
        self._failed_starts = 0
        self._team: list[Worker] = []
        self._poll = select.epoll()
        self._watched: dict[int, Worker] = {}  # sockets and pidfds
        self._writing: set[int] = set()
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake_out, select.EPOLLIN)

    def _watch(self, worker: Worker) -> None:
        """Has a worker of the team looked after."""
        for fd in (worker.fd, worker.pidfd):
            if fd is not None:
                self._watched[fd] = worker
                self._poll.register(fd, select.EPOLLIN)

    def _flush(self, worker: Worker) -> None:
        try:
            sent = worker.wire.flush()
        except OSError:  # it is dead: its pidfd says so, or its socket
            worker.forsake()
            return
        if worker.fd not in self._watched:  # its socket is at the end
            return
        waits = not sent and worker.wire.wants_socket
        if waits and worker.fd not in self._writing:
            self._writing.add(worker.fd)
            self._poll.modify(worker.fd, select.EPOLLIN | select.EPOLLOUT)
        elif not waits and worker.fd in self._writing:
            self._writing.discard(worker.fd)
            self._poll.modify(worker.fd, select.EPOLLIN)

    def _look(self, events: list[tuple[int, int]]) -> None:
        """Takes what came with the events; what came without, where there are none."""
        if not events:  # time is up, or somebody looked out
            for one in self._team.copy():
                if one.link is not None and one.link.has_some():
                    self._read(one)
        for fd, what in events:
            if fd == self._wake_out:
                with suppress(BlockingIOError):
                    os.read(self._wake_out, 4096)
                continue
            worker = self._watched.get(fd)
            if worker is None:
                continue
            if fd == worker.pidfd:
                self._read(worker, everything=True)
                if worker in self._team and worker.dead():
                    self._bury(worker)
                continue
            alive = True
            if isinstance(worker.wire, ParentEnd):
                alive = worker.wire.heard()
                self._flush(worker)
            elif what & select.EPOLLOUT:
                self._flush(worker)
            if what & ~select.EPOLLOUT or worker.wire.may_have_more:
                alive = self._read(worker) and alive
            if not alive and worker in self._team:
                self._at_end(worker)

    def _read(self, worker: Worker, everything: bool = False) -> bool:
        """Takes what a worker has sent; False at the end of its stream."""
        alive = True
        while alive:
            try:
                alive = worker.wire.fill()
            except BlockingIOError:
                break
            except OSError:
                alive = False
                worker.forsake()
            while (frame := self._next(worker)) is not None:
                self._take_in(worker, frame)
                if worker not in self._team:
                    return True
            if not (everything or worker.wire.may_have_more):
                break  # what comes now will be told
        return alive

    def _next(self, worker: Worker) -> Frame | None:
        """The next frame that has been read."""
        try:
            return worker.wire.get()
        except OSError:  # its memory is not there
            worker.forsake()
            return None

    def _at_end(self, worker: Worker) -> None:
        """The stream of a worker is at its end: it is dead, or will be."""
        if worker.pidfd is not None:  # which says so when it is
            if worker.link is not None:
                worker.link.close()  # an item may have closed the socket: then it ends when it is idle
            if worker.fd in self._watched:
                del self._watched[worker.fd]
                self._poll.unregister(worker.fd)
            return
        self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Answers for a dead worker."""
        will = Will(worker)
        ready, leaving = worker.ready, worker.leaving
        for number, outcome in will.logged:
            self._answer_logged(number, *outcome)
        self._alone += will.alone
        self._drop(worker, kill=False)
        for batch in reversed(will.back):
            self._client.back(batch.numbers, batch.items)
        for numbers, items in will.fallen:
            self._client.died(numbers, items, worker.exitcode)
        if not (ready or will.lost or leaving):
            self._failed_starts += 1
            if self._failed_starts >= START_TRIES:
                self._break(
                    RuntimeError(
                        f"worker processes end before they are ready: {START_TRIES} in a row, the "
                        f"last with exit code {worker.exitcode}; is {sys.executable!r} a Python that "
                        "can import what the parent's sys.path offers, and does the initializer "
                        "return?"
                    )
                )

    def _answer_logged(self, number: int, good: bool, value: Any) -> None:
        """Tells an outcome that a dead worker had noted."""
        if good:
            self._client.answer([number], [value], {})
        else:
            error = unpack_error(value, self._client.name(number))
            self._client.answer([number], [None], {0: error})

    def _drop(self, worker: Worker, kill: bool) -> None:
        """Lets go of a worker."""
        self._team.remove(worker)
        for fd in (worker.fd, worker.pidfd):
            if fd is not None and self._watched.pop(fd, None) is not None:
                self._poll.unregister(fd)
        self._writing.discard(worker.fd)
        warm.stop(worker, kill)
