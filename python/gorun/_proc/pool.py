"""Single calls on worker processes: what an executor is built on.

    pool = Pool(max_workers, initializer=..., initargs=(), max_tasks_per_child=None, name="...")
    pool.submit(fn, args, kwargs, begin, done)

- `submit` pickles the call at once, and never waits for a worker. It may start one. What cannot be
  pickled is told to `done`, not raised. RuntimeError after `shutdown`; `pool.broken` (an exception)
  is raised once the pool is broken.
- `begin()` is called once, when the call is about to go to a worker; False drops the call, and
  `done` is not called then (`Future.set_running_or_notify_cancel` fits). So a call is cancelled by
  whoever made it, up to that moment. It is called again for no reason: a call that comes back from
  a worker unbegun is sent again without asking.
- `done(value, error)` is called once for each call that has begun, from the pool's thread (or from
  `submit`, for what cannot be pickled): `error` is None, or what `fn` raised with the worker's
  traceback as its `__cause__` (`RemoteTraceback`, whose `.tb` is the text), `WorkerDied`, or
  why a result could not be pickled. It must not raise and must not wait.
- A worker that dies fails the calls that it had begun, with `WorkerDied` whose `.items` are the
  `(fn, args, kwargs)` of those; the others are run by the next worker, which takes its place.
  The pool breaks (`pool.broken`, all calls fail with it) when the initializer raises, and when
  several workers in turn die before they were ready.
- `kill(signal)` sends the signal to every worker; calls not done fail with `WorkerDied`, and no
  worker is started for those that wait: they fail too.
- `shutdown(wait)` takes no more calls; those that are there run to their end, then the workers end.
  `wait=True` waits for that. `pool.pids` are the workers' process ids, `pool.idle` is how many wait
  for work.

`begin` and `done` are called without a lock of the pool held: they may submit.
One thread per pool, a daemon named after it, from the first `submit` to the end. A pool that nobody
holds ends as by `shutdown(wait=False)`. In a forked child a pool is empty and broken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Pool"]


class Pool:
    """At most `max_workers` processes that run calls; started as there are calls for them."""

    broken: BaseException | None

    def __init__(
        self,
        max_workers: int,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        name: str = "gorun-pool",
    ) -> None:
        raise NotImplementedError

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that live."""
        raise NotImplementedError

    @property
    def idle(self) -> int:
        """How many workers wait for work."""
        raise NotImplementedError

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        begin: Callable[[], bool],
        done: Callable[[Any, BaseException | None], object],
    ) -> None:
        """Has a worker call `fn(*args, **kwargs)`."""
        raise NotImplementedError

    def kill(self, signal: int) -> None:
        """Sends `signal` to all workers, and fails what is not done."""
        raise NotImplementedError

    def shutdown(self, wait: bool = True) -> None:
        """Takes no more calls; the workers end when all are done."""
        raise NotImplementedError
