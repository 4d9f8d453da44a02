"""What a crew and its client say to each other: a map's carrier, or a pool of single calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Client(Protocol):
    """Whose items they are. Called with the crew's turn; `wake` without it."""

    def left(self) -> int | None:
        """How many items there are still to take, where that is known."""

    def has_more(self) -> bool:
        """Whether `take` would give something."""

    def is_busy(self) -> bool:
        """Whether anything is still to be told."""

    def take(self, most: int) -> tuple[Sequence[int], list[Any]] | None:
        """The next items, in order, and their numbers; None: there are none for now."""

    def back(self, numbers: Sequence[int], items: list[Any]) -> None:
        """Takes items over that were not begun: they come before all others."""

    def answer(
        self, numbers: Sequence[int], values: list[Any], errors: dict[int, BaseException]
    ) -> None:
        """The outcomes: where `errors` has a place, the item there failed."""

    def died(self, numbers: Sequence[int], items: list[Any], exitcode: int | None) -> None:
        """A worker died with these items begun."""

    def result(self, number: int, value: Any, error: BaseException | None) -> None:
        """The outcome of an item that was sent alone."""

    def broke(self, error: BaseException) -> None:
        """Nothing will be answered any more."""

    def name(self, number: int) -> str:
        """What to call an item in messages."""

    def wake(self) -> None:
        """Something was answered since the last time, perhaps."""


class _Nobody:
    """The client of a crew that has ended."""

    def left(self) -> int | None:
        return 0

    def has_more(self) -> bool:
        return False

    def is_busy(self) -> bool:
        return False

    def take(self, most: int) -> None:
        return None

    def back(self, numbers: Sequence[int], items: list[Any]) -> None:
        pass

    def answer(
        self, numbers: Sequence[int], values: list[Any], errors: dict[int, BaseException]
    ) -> None:
        pass

    def died(self, numbers: Sequence[int], items: list[Any], exitcode: int | None) -> None:
        pass

    def result(self, number: int, value: Any, error: BaseException | None) -> None:
        pass

    def broke(self, error: BaseException) -> None:
        pass

    def name(self, number: int) -> str:
        return f"item {number}"

    def wake(self) -> None:
        pass


NOBODY = _Nobody()
