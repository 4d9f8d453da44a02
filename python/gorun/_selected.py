"""What ``select`` answers. The extension makes these; nothing here imports anything of gorun."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Selected(NamedTuple, Generic[T_co]):
    """The case that happened: ``index`` in the order of the arguments, ``value``, ``ok``.

    A receive gives ``(i, value, True)``, on a closed channel ``(i, None, False)``; a send and a
    goroutine's end ``(i, None, True)``; with ``default=True`` and nothing ready the index is -1.

    >>> import gorun
    >>> gorun.select(default=True)
    Selected(index=-1, value=None, ok=False)
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, as the contract has it
    value: T_co
    ok: bool


Selected.__module__ = "gorun"
