"""Who waits for the answers of a pool: its own thread, or a caller that waits for one of them.

A pool needs a thread, as nobody may be waiting. But where the caller of `Future.result` is, the thread
costs two wake-ups more than the answer itself, and the interpreter has to change threads twice.

Protocol
- One caller at a time leads (`take`, `leave`): it waits for the workers itself (`Crew.serve`), until
  the answer that it wants is there. Others that wait do so on their future, as ever.
- Meanwhile, and until PARK seconds have passed without a leader, the thread is parked: it looks again
  every PARK seconds. A leader that leaves calls behind wakes it at once, and so does who has something
  for it.
- Thread and leader may both be in `serve` when that changes. Nothing depends on who gets an event.
- Somebody else may settle what the leader waits for. They look at `who` after they have changed the
  future, the leader looks at the future after it has set `who`, both under the future's lock: one of
  the two sees the other. Then they write into the crew's pipe, for the leader to come out. Who reads
  that pipe has emptied it: the thread writes it again when it finds a leader, and parks.
- A leader runs no code of users but that of unpickling: calls with callbacks are left to the thread.
- A signal handler in the middle of a leader's wait may wait for another answer: it leads in its stead,
  and has it look again afterwards. (Not so a handler that submits in the middle of a `submit`, other
  than SIGINT's: as in concurrent.futures, it may find a lock taken.)
- Fork: a leader's crew is another process's then, and `serve` says so. Exit: as at the end of the crew.

Ctrl-C. What a signal handler raises may come after any call, and half a message read is a broken crew.
So SIGINT is only noted (`hold`) while the main thread has the turn, and its handler is called after.
"""

from __future__ import annotations

import signal
import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

PARK = 5e-3  # seconds


class Lead:
    """Whose turn it is to wait."""

    def __init__(self) -> None:
        self.who: object = None  # the future that the leader waits for
        self._thread = 0  # the leader's
        self._free = threading.Lock()
        self._lately = False
        self._parked = threading.Lock()
        self._parked.acquire()

    @property
    def is_mine(self) -> bool:
        """Whether this thread leads."""
        return self._thread == get_ident()

    def take(self, who: object) -> bool:
        """Leads, if nobody does."""
        if not self._free.acquire(blocking=False):
            return False
        self._thread = get_ident()
        self._lately = True
        self.who = who
        return True

    def leave(self) -> None:
        """Leads no more, if it did."""
        if self._thread == get_ident():
            self.who = None
            self._thread = 0
            self._free.release()

    def park(self) -> bool:
        """For the thread: waits a moment if there is a leader, or was one lately."""
        if self.who is None and not self._lately:
            return False
        self._lately = False
        self._parked.acquire(timeout=PARK)
        return True

    def unpark(self) -> None:
        """Has the thread look at once."""
        with suppress(RuntimeError):  # it does
            self._parked.release()


# The C ones: they leave numbers alone, and this is done for every message.
_set: Callable[[int, Any], Any] = sys.modules["_signal"].signal
_get: Callable[[int], Any] = sys.modules["_signal"].getsignal
_SIGINT = int(signal.SIGINT)

_handler: Callable[[int, FrameType | None], Any] | None = None  # of SIGINT, while it is held
_noted = False


def hold() -> bool:
    """Has SIGINT wait for `let_go`; False where it need not, or cannot."""
    global _handler
    if get_ident() != threading.main_thread().ident or _handler is not None:
        return False
    handler = _get(_SIGINT)
    if not callable(handler):
        return False
    _handler = handler
    try:
        _set(_SIGINT, _note)
    except BaseException:  # of a handler: signals from before come first
        _handler = None
        raise
    return True


def let_go() -> None:
    """Ends what `hold` began; raises what the handler raises, if there was a SIGINT."""
    global _handler, _noted
    handler, _handler = _handler, None
    assert handler is not None
    _set(_SIGINT, handler)
    if _noted:
        _noted = False
        handler(_SIGINT, sys._getframe(1))


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    _noted = True
