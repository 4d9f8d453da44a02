"""The text of a deadlock's error.

When the main thread looks, and how: ``rust/py/src/deadlock.rs``. Why there is no false alarm:
``rust/core/src/sched/quiet.rs``. ``describe`` is called by the main thread, when its wait is over.
"""

from __future__ import annotations

import sys
import threading
import traceback

from gorun import _leaks
from gorun._runtime import goroutines

_MOST = 1000
"""So many goroutines are shown."""


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
