"""Shows how far a map has come: a tqdm bar, or a callable of the user's.

A meter is used by the front alone, on the thread or task that advances the map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

Progress: TypeAlias = bool | str | Callable[[int, int | None], object]


class Meter(Protocol):
    """Is told how many items are done; each call has a larger number than the one before."""

    def show(self, done: int) -> None:
        """Shows that `done` items are done, good and failed ones."""

    def close(self) -> None:
        """Leaves the screen in order; nothing is shown afterwards."""


def meter(progress: Progress | None, total: int | None) -> Meter | None:
    """Makes what `progress=` asks for, for `total` items (None: nobody knows).

    Raises TypeError for what is no progress, and ImportError where tqdm is wanted and missing.

    >>> seen = []
    >>> shown = meter(lambda done, total: seen.append((done, total)), 9)
    >>> shown.show(4)
    >>> seen
    [(4, 9)]
    """
    if progress is None or progress is False:
        return None
    if progress is True or isinstance(progress, str):
        return Bar(progress if isinstance(progress, str) else None, total)
    if callable(progress):
        return Caller(progress, total)
    raise TypeError(
        f"progress must be True, a label or a callable (done, total | None), not {progress!r}"
    )


class Bar:
    """A tqdm bar. Drawn from the first `show(0)` on, so that its clock starts with the work."""

    def __init__(self, label: str | None, total: int | None) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                f"progress={label or True!r} draws with tqdm, which is not installed: "
                "pip install 'gorun[progress]' (or give a callable (done, total | None))"
            ) from error
        self._make: Callable[[], Any] = lambda: tqdm(total=total, desc=label)
        self._bar: Any = None

    def show(self, done: int) -> None:
        if self._bar is None:
            self._bar = self._make()
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Caller:
    """The user's own callable, called with `(done, total)`."""

    def __init__(self, call: Callable[[int, int | None], object], total: int | None) -> None:
        self._call = call
        self._total = total

    def show(self, done: int) -> None:
        self._call(done, self._total)

    def close(self) -> None:
        pass
