"""The exceptions of gorun.

    BaseException
      Cancelled                 you are being cancelled
    Exception
      GorunError
        ChannelClosed           send on a closed channel, or receive on a drained one
        WouldBlock              a try_... that would have to wait
        Deadlock                every goroutine is asleep
        GoroutineLeak           goroutines outlived a block
        GoroutineCancelled      the joined goroutine was cancelled
        ContextDone             the context has ended
        ThreadLimit             the last free thread would block
        WorkerDied              a worker process died

Nothing here imports anything of gorun.
"""

from __future__ import annotations


def _said(reason: object) -> str:
    """Say what the canceller said; a reason that cannot be printed must not take the error's place."""
    try:
        return str(reason)
    except Exception:
        return object.__repr__(reason)


class Cancelled(BaseException):
    """Raised in a goroutine that is being cancelled, and only there.

    ``reason`` is what the canceller said. It derives from BaseException so that ``except
    Exception`` does not swallow it; clean up and let it pass.
    """

    _origin = 0  # of the scope that asked for it; 0: from outside
    _goroutine = 0  # it was delivered to

    def __init__(self, reason: object = None) -> None:
        super().__init__(*(() if reason is None else (reason,)))
        self.reason = reason


class GorunError(Exception):
    """Base of gorun's own errors."""


class ChannelClosed(GorunError):
    """The channel is closed."""


class PartialSend(GorunError, TimeoutError):
    """A ``send_many`` ran out of time; ``sent`` says how many values were sent before."""

    sent = 0


class WouldBlock(GorunError):
    """The operation would have to wait."""


class Deadlock(GorunError):
    """Every goroutine is asleep, and nothing can wake one; raised in the threads that wait in gorun.

    The message says where each goroutine and each of these threads stands. The environment's
    ``GORUN_DEADLOCK=0`` turns it off. Go's "all goroutines are asleep".
    """


class GoroutineLeak(GorunError):
    """Goroutines outlived the block that was to contain them."""


class GoroutineCancelled(GorunError):
    """Raised by joining a goroutine that was cancelled; ``reason`` is what the canceller said."""

    def __init__(self, text: str = "the goroutine was cancelled", reason: object = None) -> None:
        super().__init__(text if reason is None else f"{text}: {_said(reason)}")
        self.reason = reason


class ContextDone(GorunError):
    """The context has ended."""


class ThreadLimit(GorunError):
    """The call would block the last free thread: see ``configure(max_threads=...)``."""


class WorkerDied(GorunError):
    """A worker process died; ``items`` is what it held, ``exitcode`` how it ended."""

    def __init__(
        self, text: str, items: tuple[object, ...] = (), exitcode: int | None = None
    ) -> None:
        super().__init__(text)
        self.items = items
        self.exitcode = exitcode
