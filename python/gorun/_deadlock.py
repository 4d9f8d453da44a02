"""What a deadlock needs of Python: what stands against one, and the text of its error.

When the main thread looks, and how: ``rust/py/src/deadlock.rs``. Why there is no false alarm:
``rust/core/src/sched/quiet.rs``. Both functions are called by the main thread, between two rounds of
its wait.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback

from gorun import _leaks
from gorun._runtime import goroutines

_MOST = 1000
"""So many goroutines are shown."""


def _is_handled(number: signal.Signals) -> bool:
    handler = signal.getsignal(number)
    if number == signal.SIGINT and handler is signal.default_int_handler:
        return False
    return callable(handler)


def possible() -> bool:
    """Whether nothing that only Python knows of could still wake somebody.

    That is a signal handler, other than the default one for SIGINT. Threads and timers (and with them
    jobs and time-outs) are the core's to see.
    """
    return not any(map(_is_handled, signal.valid_signals()))


def _of_threads(waits: list[tuple[int, str]]) -> str:
    """The stacks of threads that wait, by native number, as ``dump`` shows goroutines."""
    names = {t.native_id: (t.name, t.ident) for t in threading.enumerate()}
    frames = sys._current_frames()
    lines = []
    for number, reason in waits:
        name, ident = names.get(number, (f"thread {number}", None))
        lines.append(f"thread {name} [waiting: {reason}]:")
        frame = frames.get(ident or 0)
        if ident == threading.get_ident():
            frame = sys._getframe(2)  # who waits: above it are `describe` and this
        if frame is not None:
            lines += "".join(traceback.format_list(_leaks.of_thread(frame))).splitlines()
    return "\n".join(lines)


def describe(waits: list[tuple[int, str]]) -> str:
    """Make the text of a Deadlock: all goroutines, and the threads that wait (number and reason)."""
    infos = goroutines()
    parts = ["every goroutine is asleep, and nothing can wake one"]
    if infos:
        parts.append(_leaks.describe(infos[:_MOST]))
    if len(infos) > _MOST:
        parts.append(f"... and {len(infos) - _MOST} goroutines more")
    parts.append(_of_threads(waits))
    # Names of files and functions may hold what is no text.
    return "\n".join(parts).encode("utf-8", "backslashreplace").decode()
