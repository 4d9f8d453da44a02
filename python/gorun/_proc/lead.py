"""Who waits for the answers of a pool: its own thread, or a caller that waits for one of them.

A pool needs a thread, as nobody may be waiting. But where the caller of `Future.result` is, the thread
costs two wake-ups more than the answer itself, and the interpreter has to change threads twice.

Protocol
- One caller at a time leads (`Crew.help`; it holds `free`): it waits for the workers itself
  (`Crew.serve`), until the answer that it wants is there. Others that wait do so on their future, as
  ever, and so do those that only look (no time to wait): the thread would park for nothing.
- Meanwhile, and until PARK seconds have passed without a leader, the thread is parked: it looks again
  every PARK seconds. A leader that leaves calls behind wakes it at once, and so does who has something
  for it.
- Thread and leader may both be in `serve` when that changes. Nothing depends on who gets an event.
- Who has something for the thread (`Crew.rouse`) writes into the pipe only if it waits for workers: what
  it is to do lasts, and it looks before it waits. A leader would read the pipe instead, see that the thread
  is still at it (a slow callback), write again, and so on.
- Somebody else may settle what the leader waits for. They look at `who` after they have changed the
  future, the leader looks at the future after it has set `who`, both under the future's lock: one of
  the two sees the other. Then they write into the crew's pipe, for the leader to come out. Who reads
  that pipe has emptied it: the thread writes it again when it finds a leader, and parks.
- A leader runs no code of users but that of unpickling: calls with callbacks are left to the thread.
- A signal handler in the middle of a leader's wait may wait for another answer: it leads in its stead,
  and has it look again afterwards.
- Fork: a leader's crew is another process's then, and `serve` says so. Exit: as at the end of the crew.

Signals. What a handler raises may come after any call, and half a message read is a broken crew; one
that waits for an answer would wait for the turn that its own thread has. So signals are only noted
(`hold`) while the main thread has the turn, and their handlers are called after. Outside of that, what
has to be undone is undone by single calls of C, as handlers come after those, not before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TypeAlias

PARK = 5e-3  # seconds


class Lead:
    """Whose turn it is to wait."""

    def __init__(self) -> None:
        self.who: object = None  # the future that the leader waits for
        self.thread = 0  # the leader's, or the last one's; set before `who`
        self.free = threading.RLock()  # signal handlers lead in their thread's stead
        self.lately = False
        self._parked = threading.Lock()
        self._parked.acquire()

    @property
    def is_mine(self) -> bool:
        """Whether this thread leads."""
        return self.who is not None and self.thread == get_ident()

    def park(self) -> bool:
        """For the thread: waits a moment if there is a leader, or was one lately."""
        if self.who is None and not self.lately:
            return False
        self.lately = False
        self._parked.acquire(timeout=PARK)
        return True

    def unpark(self) -> None:
        """Has the thread look at once."""
        with suppress(RuntimeError):  # it does
            self._parked.release()


# The C ones: they leave numbers alone, and this is done for every message.
_set: Callable[[int, Any], Any] = sys.modules["_signal"].signal
_get: Callable[[int], Any] = sys.modules["_signal"].getsignal
# Those that programs have handlers of. To look at all there are would cost more than the message.
_NAMES = ["INT", "TERM", "HUP", "QUIT", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "CHLD", "WINCH"]
_SIGNALS = [int(getattr(signal, "SIG" + name)) for name in _NAMES if hasattr(signal, "SIG" + name)]

_Handlers: TypeAlias = list[tuple[int, Callable[[int, FrameType | None], Any]]]

_held: _Handlers | None = None
_noted: list[int] = []
# What most programs have: then nothing has to be looked for. Other handlers are nobody's to keep.
_USUAL = [signal.default_int_handler, *[int(signal.SIG_DFL)] * (len(_SIGNALS) - 1)]
_USUAL_ONES: _Handlers = [(int(signal.SIGINT), signal.default_int_handler)]
_main = threading.main_thread().ident


def _after_fork() -> None:
    global _main
    _main = threading.main_thread().ident


os.register_at_fork(after_in_child=_after_fork)


def hold() -> bool:
    """Has signals wait for `let_go`; False where they need not, or cannot."""
    global _held
    if _held is not None or get_ident() != _main:
        return False
    if (handlers := list(map(_get, _SIGNALS))) == _USUAL:
        found = _USUAL_ONES
    else:
        pairs = zip(_SIGNALS, handlers, strict=True)
        found = [(number, handler) for number, handler in pairs if callable(handler)]
    if not found:
        return False
    try:
        for number, _ in found:
            _set(number, _note)
    except BaseException:  # of a handler: signals from before come first
        _give_back(found)
        raise
    _held = found
    return True


def let_go() -> None:
    """Ends what `hold` began, and calls the handlers of what came; raises what they raise."""
    global _held
    held, _held = _held, None
    assert held is not None
    try:
        _give_back(held)
    finally:
        if _noted:
            noted = _noted.copy()
            _noted.clear()
            _call([(number, handler) for number, handler in held if number in noted])


def _give_back(held: _Handlers) -> None:
    try:
        for number, handler in held:
            _set(number, handler)
    except BaseException:  # of a handler that is back already
        _give_back(held)
        raise


def _call(handlers: _Handlers) -> None:
    """Calls them all, whatever they raise."""
    (number, handler), *more = handlers
    try:
        handler(number, sys._getframe(2))
    finally:
        if more:
            _call(more)


def _note(number: int, frame: FrameType | None) -> None:
    if number not in _noted:
        _noted.append(number)
