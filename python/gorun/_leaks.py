"""What lives: ``dump`` prints every goroutine with its stack, ``check_leaks`` finds those that outlive a block."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Self, TextIO

from gorun import _gorun
from gorun._errors import GoroutineLeak
from gorun._runtime import GoroutineInfo, goroutines

_SETTLE = 0.5
"""Seconds that those who are about to end are given. On a busy machine one may stand still for tens of milliseconds
in the middle of its end; who waits in vain has leaked."""

_BOTTOM = ("_bootstrap", "_bootstrap_inner", "run")
"""The frames of ``threading`` that every M stands on."""


def of_thread(frame: FrameType) -> list[traceback.FrameSummary]:
    """The frames of a thread, outermost first, without those of ``threading`` at its bottom."""
    stack = list(traceback.extract_stack(frame))
    for name in _BOTTOM:
        if stack and stack[0].name == name and stack[0].filename == threading.__file__:
            del stack[0]
    return stack


def _stacks() -> dict[int, list[traceback.FrameSummary]]:
    """Number of a goroutine to its frames; those that run may have gone on meanwhile."""
    rows = _gorun._stacks()
    ident = {t.native_id: t.ident for t in threading.enumerate()}
    frames = sys._current_frames()
    stacks = {}
    for number, parked, tid in rows:
        frame = frames.get(ident.get(tid) or 0)
        if parked:
            stacks[number] = [traceback.FrameSummary(f, line, name) for f, line, name in parked]
        elif frame is not None:
            stacks[number] = of_thread(frame)
    return stacks


def describe(infos: Iterable[GoroutineInfo]) -> str:
    stacks = _stacks()
    lines = []
    for info in infos:
        why = f": {info.wait_reason}" if info.wait_reason else ""
        since = f", {info.waiting:.3g} s" if info.waiting else ""
        name = "" if info.name == f"goroutine-{info.id}" else f" ({info.name})"
        tags = f" {', '.join(info.tags)}" if info.tags else ""
        lines.append(f"goroutine {info.id}{name} [{info.state}{why}{since}]{tags}:")
        if info.id in stacks:
            lines += "".join(traceback.format_list(stacks[info.id])).splitlines()
        elif info.at:
            lines.append(f"  at {info.at}")
        if info.created_at:
            lines.append(f"  created at {info.created_at}")
    return "\n".join(lines)


def dump(file: TextIO | None = None) -> None:
    """Print every goroutine with its state and stack to ``file`` (None: ``sys.stderr``).

    Nothing is stopped for it, so those that run may have gone on meanwhile. A goroutine that has not
    begun has no stack, only the place where it was created. Go's ``SIGQUIT`` dump.

    >>> import gorun, sys
    >>> gorun.dump(sys.stdout)
    no goroutines
    """
    infos = goroutines()
    print(describe(infos) if infos else "no goroutines", file=file or sys.stderr)


class check_leaks(AbstractContextManager["check_leaks"]):  # noqa: N801  (reads as a statement)
    """``with check_leaks():`` raises GoroutineLeak for goroutines that outlive the block.

    Its message lists them with their stacks. Those that lived before the block are left out, as is
    everything if the block raises; those that are about to end are given a moment. In tests there is
    the pytest fixture ``gorun_no_leaks``. As ``go.uber.org/goleak``.

    >>> import gorun
    >>> with gorun.check_leaks():
    ...     gorun.go(abs, -1).result()
    1
    """

    def __enter__(self) -> Self:
        self._before = {g.id for g in goroutines()}
        return self

    def _left(self) -> list[GoroutineInfo]:
        return [g for g in goroutines() if g.id not in self._before]

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if exc is not None:
            return
        me: Any = _gorun.current()
        if me is not None:
            self._before.add(me.id)  # the block was entered elsewhere
        end = time.monotonic() + _SETTLE
        while self._left():
            if time.monotonic() > end:
                break
            time.sleep(0.001)
        if left := self._left():
            count = f"{len(left)} goroutine{'s' if len(left) > 1 else ''}"
            raise GoroutineLeak(f"{count} outlived the block:\n{describe(left)}")
