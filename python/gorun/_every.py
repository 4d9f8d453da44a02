"""``every``: jobs that run again and again, ``Job``, ``jobs`` and ``heartbeat``.

Protocol. A job has one timer. When it fires, a goroutine *ticks*: it sets the timer to the next point of
the job's grid that is still to come (so nothing is caught up), and starts a run unless one is under way
and ``overlap`` says otherwise. A run is a goroutine of its own; its done callback keeps the error and
starts the run that was held back.

Ends: ``cancel`` marks the job as ended under its lock, stops the timer and cancels the runs; a tick or
callback that comes later finds the mark. ``shutdown`` cancels all jobs first. A run past its time-out is
cancelled by a timer of its own, and reported when as much time again has passed and it still runs. After
a fork the child has no jobs. At exit nothing is waited for. The lock is held around nothing that waits or
runs foreign code.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from gorun import _gorun, _hooks, _runtime
from gorun._gorun import Goroutine, Timer
from gorun._settings import check_seconds, check_timeout

_OVERLAP = ("skip", "queue", "parallel")

_jobs: dict[Hashable, Job] = {}
_numbers = itertools.count(1)
# Weak: contexts are kept longer than runs (by goroutines that a run started, by the threads that copy them).
_run_here: contextvars.ContextVar[weakref.ref[_Run] | None] = contextvars.ContextVar(
    "gorun_job", default=None
)


class _Run:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.goroutine: Goroutine[Any] | None = None
        self.timer: Timer | None = None
        self.late = False  # past its time-out: cancelled

    def body(self) -> Any:
        _run_here.set(weakref.ref(self))
        # If this gives a coroutine the goroutine goes on with it.
        return self.job._fn(*self.job._args)

    def renew(self) -> None:
        if self.timer is not None and not self.late:
            self.timer.reset(self.job._timeout or 0.0)

    def time_out(self) -> None:
        """The timer's call: first the cancel, then the report."""
        g, limit = self.goroutine, self.job._timeout
        if g is None or limit is None or g.done():
            return
        text = f"job {self.job.id!r}: a run is past its time-out of {limit} s"
        if not self.late:
            self.late = True
            g.cancel(text)
            if self.timer is not None:
                self.timer.reset(limit)
        else:
            error = TimeoutError(f"{text} and cannot be cut: it still runs")
            self.job._last_error = error
            _hooks.report(error, g, None)


class Job:
    """What ``every`` gives: a function that runs again and again until ``cancel``.

    >>> import gorun
    >>> job = gorun.every(60, print, id="minute")
    >>> job.id, job.runs, job.cancel()
    ('minute', 0, True)
    """

    def __init__(
        self,
        seconds: float,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        id: Hashable,
        overlap: str,
        timeout: float | None,
        jitter: float,
    ) -> None:
        self._period = seconds
        self._fn = fn
        self._args = args
        self._id = id
        self._overlap = overlap
        self._timeout = timeout
        self._jitter = jitter
        self._lock = threading.RLock()
        self._current: set[_Run] = set()
        self._held = False
        self._ended = False
        self._runs = 0
        self._skipped = 0
        self._last_error: BaseException | None = None
        self._last_heartbeat: float | None = None
        self._grid = time.monotonic() + seconds
        self._timer: Timer | None = None

    @property
    def id(self) -> Hashable:
        """The name that was given, else ``job-N``.

        >>> import gorun
        >>> job = gorun.every(60, print, id="a")
        >>> job.id, job.cancel()
        ('a', True)
        """
        return self._id

    @property
    def runs(self) -> int:
        """How many runs were started."""
        return self._runs

    @property
    def skipped(self) -> int:
        """How many runs were left out because one was under way (and, with "queue", one was held)."""
        return self._skipped

    @property
    def last_error(self) -> BaseException | None:
        """The error of the run that failed last; a TimeoutError for one past its time-out."""
        return self._last_error

    @property
    def last_heartbeat(self) -> float | None:
        """When a run last called ``heartbeat`` or began, in seconds of ``time.monotonic``; None at first."""
        return self._last_heartbeat

    def cancel(self) -> bool:
        """End the job, and the run that is under way; False if it has ended already.

        Never waits: the run ends at its next cancel point.

        >>> import gorun
        >>> job = gorun.every(60, print)
        >>> job.cancel(), job.cancel()
        (True, False)
        """
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self._held = False
            timer, runs = self._timer, list(self._current)
        if _jobs.get(self._id) is self:
            _jobs.pop(self._id, None)
        if timer is not None:
            timer.stop()
        for run in runs:
            if run.goroutine is not None:
                run.goroutine.cancel(f"job {self._id!r} was cancelled")
        return True

    def __repr__(self) -> str:
        state = "ended" if self._ended else "running" if self._current else "waiting"
        return f"<Job {self._id!r} {state}: {self._runs} runs, {self._skipped} skipped>"

    # ---- by the timer

    def _wait_for_next(self) -> float:
        # To the first point of the grid that is still to come; by one at least, also if the timer's clock and this one
        # differ by a rounding.
        late = time.monotonic() - self._grid
        self._grid += self._period * max(1, late // self._period + 1)
        pause = max(0.0, self._grid - time.monotonic())
        return pause + random.uniform(0.0, self._jitter) if self._jitter else pause

    def _begin(self) -> None:
        with self._lock:
            self._timer = Timer(self._period + random.uniform(0.0, self._jitter), self._tick)

    def _tick(self) -> None:
        with self._lock:
            if self._ended or self._timer is None:
                return
            self._timer.reset(self._wait_for_next())
            if self._current and self._overlap != "parallel":
                if self._overlap == "queue" and not self._held:
                    self._held = True
                else:
                    self._skipped += 1
                return
            run = self._add()
        self._start(run)

    def _add(self) -> _Run:
        """Under the lock."""
        run = _Run(self)
        self._current.add(run)
        self._runs += 1
        self._last_heartbeat = time.monotonic()
        return run

    def _start(self, run: _Run) -> None:
        try:
            g = _gorun._spawn(run.body, (), {}, f"job {self._id}", None)
        except RuntimeError:  # the interpreter goes down
            with self._lock:
                self._current.discard(run)
            return
        run.goroutine = g
        if self._timeout is not None:
            run.timer = Timer(max(self._timeout, 0.0), run.time_out)
        with self._lock:
            ended = self._ended
        if ended:
            g.cancel(f"job {self._id!r} was cancelled")
        g.add_done_callback(lambda g: self._run_ended(run, g))

    def _run_ended(self, run: _Run, g: Goroutine[Any]) -> None:
        if run.timer is not None:
            run.timer.stop()
        run.timer = run.goroutine = None
        error = g._error()
        with self._lock:
            self._current.discard(run)
            if run.late and g.cancelled():
                self._last_error = TimeoutError(
                    f"a run of job {self._id!r} was cancelled after {self._timeout} s"
                )
            elif error is not None and not (self._ended and g.cancelled()):
                self._last_error = error
            again = None
            if self._held and not self._ended and not self._current:
                self._held = False
                again = self._add()
        if again is not None:
            self._start(again)


def every(
    seconds: float,
    fn: Callable[..., object],
    /,
    *args: Any,
    id: Hashable = None,
    overlap: str = "skip",
    timeout: float | None = None,
    jitter: float = 0.0,
) -> Job:
    """Run ``fn(*args)`` every so many ``seconds``, in a goroutine of its own, until ``Job.cancel``.

    The first run comes after one period; runs that were missed are not caught up. ``overlap`` says what
    happens while a run is under way: "skip" leaves the next one out, "queue" holds one, "parallel"
    starts it. A run longer than ``timeout`` seconds (None: no limit) is cancelled; one that cannot be
    cut counts as running and is reported to ``excepthook``. Each run comes up to ``jitter`` seconds
    later, at random. An error does not end the job: see ``Job.last_error``. ``fn`` sees a copy of the
    context variables of this call. Raises ValueError at or below 0 and for NaN, for an unknown
    ``overlap`` and for the ``id`` of a living job; TypeError unless ``fn`` is callable. Where Go has a
    loop over ``time.Tick``.

    >>> import gorun
    >>> ran = gorun._gorun.Latch(2)
    >>> job = gorun.every(0.001, ran.done, id="twice")
    >>> ran.wait(10.0), job.cancel()
    (True, True)
    """
    period = check_seconds(seconds, "seconds")
    if period <= 0:
        raise ValueError(f"seconds must be more than 0, not {seconds!r}")
    if not callable(fn):
        raise TypeError(f"every takes a callable, not {fn!r}")
    if overlap not in _OVERLAP:
        raise ValueError(f"overlap must be one of {', '.join(_OVERLAP)}, not {overlap!r}")
    limit = check_timeout(timeout)
    if limit is not None and limit <= 0:
        raise ValueError(f"timeout must be more than 0 or None, not {timeout!r}")
    spread = check_seconds(jitter, "jitter")
    if spread < 0:
        raise ValueError(f"jitter must not be negative: {jitter!r}")
    if id is None:
        id = f"job-{next(_numbers)}"
    job = Job(period, fn, args, id, overlap, limit, spread)
    if _jobs.setdefault(id, job) is not job:
        raise ValueError(f"there is a living job with the id {id!r}")
    try:
        job._begin()
    except BaseException:
        _jobs.pop(id, None)
        raise
    return job


def jobs() -> list[Job]:
    """The jobs that were not cancelled, in order of their making.

    >>> import gorun
    >>> gorun.jobs()
    []
    """
    return list(_jobs.values())


def heartbeat() -> None:
    """Inside a run of a job: note that it is alive, and let its time-out begin anew.

    It works in goroutines that the run started too. Raises RuntimeError outside a job.

    >>> import gorun
    >>> def work() -> None:
    ...     gorun.heartbeat()
    ...     ran.set()
    >>> ran = gorun._gorun.Latch()
    >>> job = gorun.every(0.001, work, timeout=60)
    >>> ran.wait(10.0), job.last_heartbeat is not None, job.cancel()
    (True, True, True)
    """
    ref = _run_here.get()
    if ref is None:
        raise RuntimeError("heartbeat() belongs into a function that gorun.every() runs")
    run = ref()
    if run is None:
        return  # the run has ended; this goroutine of it has not
    run.job._last_heartbeat = time.monotonic()
    run.renew()


def _cancel_all() -> None:
    for job in jobs():
        job.cancel()


_runtime.at_shutdown.append(_cancel_all)
os.register_at_fork(after_in_child=_jobs.clear)
