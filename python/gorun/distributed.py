"""From one machine to many: `gorun.map(fn, items, on=...)` over a Dask or a Ray cluster.

    from distributed import Client
    with gorun.distributed.dask_executor(Client("tcp://scheduler:8786")) as executor:
        for row in gorun.map(parse, lines, on=executor, progress=True):
            ...

gorun sends chunks that size themselves to a fraction of a second, a bounded number at a time, and
hands results on in order, with the error of each item by itself. Where and when they run, and what
is run again when a worker is lost, is the engine's affair. gorun has to be installed on its workers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

__all__ = ["RayExecutor", "dask_executor"]

P = ParamSpec("P")
T = TypeVar("T")


def dask_executor(client: Any, **options: Any) -> Executor:
    """The executor of a `distributed.Client`, such that each call runs (`pure=False`).

    `options` are those of `client.get_executor`, such as `retries=3`. With Dask's own default,
    calls with equal arguments share one result, so two calls of `random()` give the same number.

    >>> from distributed import Client, LocalCluster
    >>> import gorun.distributed
    >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
    ...     with Client(cluster) as client:
    ...         on = gorun.distributed.dask_executor(client)
    ...         list(gorun.map(abs, [-1, -2], on=on))
    [1, 2]
    """
    if not hasattr(client, "get_executor"):
        raise TypeError(f"client must be a distributed.Client, not {client!r}")
    if options.setdefault("pure", False):
        raise ValueError("pure=True would give calls with equal arguments one and the same result")
    executor: Executor = client.get_executor(**options)
    return executor


class RayExecutor(Executor):
    """A `concurrent.futures.Executor` whose calls are Ray tasks.

    `options` are those of a Ray task: `num_cpus`, `max_retries` (how often Ray runs a task again
    whose worker was lost), `resources`. `ray.init` is called if nobody has. A future stays pending
    while its task runs; cancelling it cancels the task. `max_workers` is what `gorun.map` takes for
    the number of workers; None: the cluster's CPUs.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "gorun.distributed.RayExecutor needs Ray, which is not installed: pip install ray"
            ) from error
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init()
        self._ray = ray
        if max_workers is None:
            max_workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._max_workers = max_workers
        self._run = ray.remote(_run)
        if options:
            self._run = self._run.options(**options)
        self._lock = threading.RLock()
        self._shut = False
        self._out: dict[Future[Any], Any] = {}  # with the references of their tasks

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a Ray task call `fn(*args, **kwargs)`; RuntimeError after shutdown."""
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            ref = self._run.remote(fn, args, kwargs)
            future: Future[T] = ref.future()
            self._out[future] = ref
        future.add_done_callback(self._done)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls; `wait` waits for those that are out. Ray itself goes on."""
        with self._lock:
            self._shut = True
            out = list(self._out)
        if cancel_futures:
            for future in out:
                future.cancel()
        if wait:
            for future in out:
                if not future.cancelled():
                    future.exception()

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            ref = self._out.pop(future, None)
        if ref is not None and future.cancelled():
            self._ray.cancel(ref)


def _run(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """The body of a task. The arguments are in a tuple, so Ray does not look for references there."""
    return fn(*args, **kwargs)
