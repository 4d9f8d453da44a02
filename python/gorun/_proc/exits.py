"""When worker processes end: exit and fork, told to modules that may not be loaded yet.

`import gorun` loads this file, and not what has the workers: most programs never want one. But the
order of what is registered for exit and fork is part of how they go: whoever registered later ends
earlier, and a program's own hooks, registered after its imports, may still map. So the hooks are
registered here, when gorun is imported, and call what has put itself into the lists by then.

A module that is half loaded when another thread forks would stay so in the child, its lock held by a
thread that is not there: who loads the rest holds `loading`, and a fork waits for that.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress

before_joins: list[Callable[[], None]] = []
"""At exit, before threads are waited for."""
at_exit: list[Callable[[], None]] = []
"""At exit, after gorun's own end."""
after_fork: list[Callable[[], None]] = []
"""In the child of a fork, before the runtime starts anew."""
over = False
"""Whether the interpreter ends: whoever is loaded now never has a worker."""


def _call(those: list[Callable[[], None]]) -> None:
    for one in those:
        one()


def _at_exit() -> None:
    global over
    over = True
    _call(at_exit)


with suppress(RuntimeError):  # of an import at the very end
    threading._register_atexit(_call, before_joins)  # type: ignore[attr-defined]
atexit.register(_at_exit)
os.register_at_fork(after_in_child=lambda: _call(after_fork))
# Re-entrant: a module's code, or a signal handler in the middle of it, may fork itself.
loading = threading.RLock()
os.register_at_fork(
    before=loading.acquire, after_in_parent=loading.release, after_in_child=loading.release
)
