"""The check behind the rows that count down: released by exactly n calls, no fewer, no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gorun._gorun import CountDown


def counted(left: CountDown, n: int) -> int:
    """n, if `left` was released and has nothing left to count; it is used up then.

    One call too many raises ValueError, so a body that counted twice fails by itself, and a
    counter that opened early does not raise here.
    """
    if not left.wait(0):
        raise RuntimeError("woken before the last one was done")
    try:
        left.done()
    except ValueError:
        return n
    raise RuntimeError("released before all were counted")
