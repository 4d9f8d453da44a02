"""gorun behind joblib, and so behind scikit-learn: `gorun.joblib.register()`.

    import gorun.joblib, joblib
    gorun.joblib.register()
    with joblib.parallel_config(backend="gorun"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(f)(x) for x in data)

The backend is a `gorun.Executor` for each call of `Parallel`: processes where threads take turns,
threads on a free-threaded build; `parallel_config(backend="gorun", on="thread")` says which. joblib
makes its batches, as with its own backends; list, generator and unordered results, time-outs and
nested calls are joblib's. Arrays go through shared memory, without joblib's memmapping of files.
Inner threads of BLAS and OpenMP are limited in worker processes, to `inner_max_num_threads` each where
that is given, else to a fair share of the usable CPUs or to what the environment says.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

try:
    import joblib
    from joblib._parallel_backends import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
    )
except ImportError as error:
    raise ImportError(
        "gorun.joblib needs joblib 1.4 or newer, which is not installed: pip install joblib"
    ) from error

from gorun import Executor
from gorun._gil import gil_enabled
from gorun._settings import usable_cpus

__all__ = ["register"]


def register(name: str = "gorun", *, make_default: bool = False) -> None:
    """Makes `name` a backend of joblib, and with `make_default` the one it uses unasked.

    >>> import gorun.joblib, joblib
    >>> gorun.joblib.register()
    >>> with joblib.parallel_config(backend="gorun"):
    ...     joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(n) for n in [-1, -2])
    [1, 2]
    """
    joblib.register_parallel_backend(name, Backend, make_default=make_default)


class _Executor(Executor):
    """An executor whose worker processes may keep so many threads busy each."""

    def __init__(
        self, workers: int, on: Literal["thread", "process"], inner_threads: int | None
    ) -> None:
        self._inner_threads = inner_threads
        super().__init__(workers, on=on, thread_name_prefix="joblib")


class Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """One `Parallel`'s way to a `gorun.Executor`."""

    supports_retrieve_callback = True

    def __init__(
        self, *args: Any, on: Literal["thread", "process"] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if on is None:
            on = "process" if gil_enabled() else "thread"
        if on not in ("thread", "process"):
            raise ValueError(f'on must be None, "thread" or "process", not {on!r}')
        self.on = on
        self.supports_inner_max_num_threads = on == "process"
        self.uses_threads = self.supports_sharedmem = on == "thread"
        self._executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers `n_jobs` means: below 0 counts down from the usable CPUs."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, usable_cpus() + 1 + n_jobs)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **ignored: Any) -> int:
        """Makes the executor; where one job is asked for, joblib runs it in place."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._executor = _Executor(n_jobs, self.on, self.inner_max_num_threads)
        return n_jobs

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None
    ) -> Future[Any]:
        """Has a batch run."""
        assert self._executor is not None
        future = self._executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """The results of a batch."""
        return future.result()

    def terminate(self) -> None:
        """Ends the workers; what runs is let run."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Ends the workers at once, as the results are not wanted any more."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.kill_workers()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)
