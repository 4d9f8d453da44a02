"""``Ticker``: a beat on a channel. What beats is the extension's ``Beat``; see ``rust/py/src/tick.rs``.

Iterating is a select of the beat and of the end: ``stop`` closes a channel that wakes those that
iterate. As in Go it does not close ``chan``.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from gorun import _gorun
from gorun._errors import ChannelClosed
from gorun._gorun import Beat, Chan, RecvChan


class Ticker:
    """Delivers the time (of ``time.monotonic``) on ``chan`` every ``seconds``; slow readers lose ticks.

    ``with`` stops it; iterating gives the ticks until it is stopped. Raises ValueError unless
    ``seconds`` is above 0. One that nobody can receive from is freed at once. Go's ``time.Ticker``.

    >>> import gorun
    >>> with gorun.Ticker(0.001) as ticker:
    ...     first, second = ticker.chan.recv(), next(ticker)
    >>> first < second
    True
    """

    __slots__ = ("__weakref__", "_beat", "_end")

    def __init__(self, seconds: float) -> None:
        self._beat = Beat(seconds)
        self._end: Chan[None] = Chan()

    @property
    def chan(self) -> RecvChan[float]:
        """Where the ticks are received."""
        return self._beat.chan

    def stop(self) -> None:
        """Stop it: nothing is delivered any more. ``chan`` stays open. Go's ``Ticker.Stop``.

        >>> import gorun
        >>> ticker = gorun.Ticker(3600)
        >>> ticker.stop(), list(ticker)
        (None, [])
        """
        self._beat.stop()
        with contextlib.suppress(ChannelClosed):  # stopped before, or by another caller just now
            self._end.close()

    def reset(self, seconds: float) -> None:
        """Stop it, and let it beat every ``seconds`` from now. Go's ``Ticker.Reset``.

        >>> import gorun
        >>> with gorun.Ticker(3600) as ticker:
        ...     ticker.reset(0.001)
        ...     next(ticker) > 0
        True
        """
        self._beat.reset(seconds)
        if self._end.closed:
            self._end = Chan()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> float:
        got = _gorun.select(self._beat.chan, self._end)
        if got.value is None:
            raise StopIteration
        return got.value

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> float:
        got = await _gorun.select_async(self._beat.chan, self._end)
        if got.value is None:
            raise StopAsyncIteration
        return got.value


Ticker.__module__ = "gorun"
