"""The ends that all executors have in common: interpreter exit, `gorun.shutdown`, fork.

At exit, before threads are joined and long before gorun's own shutdown (`atexit`), every team is
closed and joined: pending calls are run, as `concurrent.futures` does. Ctrl-C while that lasts drops
what waits; and a Ctrl-C that ended the program ends worker processes too, which ignore it themselves:
nobody who pressed it waits for their calls. `gorun.shutdown` drops what waits too, before it cancels
the workers (at the exit nothing is left by then); the executors can be used again afterwards.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from typing import Protocol

from gorun import _runtime
from gorun._errors import Cancelled


class Team(Protocol):
    """The workers of one executor."""

    def leave(self) -> None:
        """Accepts nothing more because the interpreter ends; what waits is run."""

    def join(self) -> None:
        """Waits until every worker has left."""

    def drop(self) -> None:
        """Cancels what waits."""

    def interrupted(self) -> None:
        """Ctrl-C came, and would have to wait for the calls: cuts them where it can."""

    def after_fork(self) -> None:
        """In the child: forgets the parent's workers and calls."""


_teams: weakref.WeakSet[Team] = weakref.WeakSet()
# Re-entrant: a destructor may make an executor in the middle of it.
_lock = threading.RLock()
_exiting = False


def enlist(team: Team) -> None:
    """Has `team` take part in the ends."""
    with _lock:
        _teams.add(team)
        late = _exiting
    if late:
        team.leave()


def too_late() -> Exception:
    """Why nothing is accepted while the interpreter ends."""
    return RuntimeError("cannot schedule new futures after interpreter shutdown")


def interrupted() -> Exception:
    """Why nothing is accepted after a Ctrl-C."""
    return RuntimeError("cannot schedule new futures after an interrupt")


def _living() -> list[Team]:
    with _lock:
        return list(_teams)


def _at_exit() -> None:
    global _exiting
    try:
        with _lock:
            _exiting = True
        for team in _living():
            team.leave()
        if _runtime.is_interrupted():
            for team in _living():
                team.interrupted()
        for team in _living():
            team.join()
    except BaseException:
        for team in _living():
            team.drop()
        raise


def is_interrupt(error: BaseException | None) -> bool:
    """Whether `error` came of a Ctrl-C: itself, or as the cancel that `gorun.run` or asyncio made of it."""
    if isinstance(error, Cancelled):
        return error.reason is _runtime.INTERRUPTED
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        # asyncio.Runner says it nowhere but in its own count; where that is not, it is a cancel.
        runner = getattr(getattr(signal.getsignal(signal.SIGINT), "func", None), "__self__", None)
        return getattr(runner, "_interrupt_count", 0) > 0
    return isinstance(error, KeyboardInterrupt)


def _at_shutdown() -> None:
    for team in _living():
        team.drop()


def _after_fork() -> None:
    _lock._at_fork_reinit()  # type: ignore[attr-defined]
    for team in _living():
        team.after_fork()


try:
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
except RuntimeError:  # imported at the very end: no executor will take a call
    _exiting = True
_runtime.at_shutdown.append(_at_shutdown)
os.register_at_fork(after_in_child=_after_fork)
