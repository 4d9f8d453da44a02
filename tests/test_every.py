"""`every`, `Job`, `jobs`, `heartbeat`: periods, overlap, time-outs, errors, ends, misuse."""

from __future__ import annotations

import contextvars
import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from tests._callers import LIMIT, LONG, until

import gorun
from gorun import every

PERIOD = 0.005


@pytest.fixture(autouse=True)
def no_jobs() -> Iterator[None]:
    yield
    for job in gorun.jobs():
        job.cancel()


@pytest.mark.parametrize("kind", ["plain", "async", "builtin"])
def test_runs_again_and_again(kind: str) -> None:
    """Mutation: `_tick` does not set the timer again."""
    calls: list[int] = []

    def plain(n: int) -> None:
        gorun.sleep(0)
        calls.append(n)

    async def coro(n: int) -> None:
        await gorun.sleep_async(0)
        calls.append(n)

    fn: Any = {"plain": plain, "async": coro, "builtin": calls.append}[kind]
    job = every(PERIOD, fn, 7)
    until(lambda: len(calls) >= 4)
    assert job.cancel()
    assert set(calls) == {7}
    assert job.runs >= 4
    assert job.last_error is None


def test_the_first_run_comes_after_one_period() -> None:
    """Mutation: `_begin` ticks at once."""
    began = time.monotonic()
    at: list[float] = []
    job = every(0.05, lambda: at.append(time.monotonic()))
    until(lambda: at)
    assert at[0] - began >= 0.05
    job.cancel()


def test_the_end() -> None:
    """After `cancel` nothing runs any more; the run under way is cancelled. Mutation: `_tick` ignores the end."""
    inside = threading.Event()
    cut: list[str] = []

    async def body() -> None:
        inside.set()
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled as error:
            cut.append(str(error.reason))
            raise

    job = every(PERIOD, body, id="x")
    assert inside.wait(LIMIT)
    assert job.cancel() is True
    assert job.cancel() is False
    until(lambda: gorun.num_goroutine() == 0)
    assert cut == ["job 'x' was cancelled"]
    runs = job.runs
    time.sleep(4 * PERIOD)
    assert job.runs == runs
    assert job.last_error is None
    assert gorun.jobs() == []
    assert gorun.stats().timers == 0


def test_a_job_that_cancels_itself() -> None:
    def body() -> None:
        [mine] = gorun.jobs()  # `job` may not be there yet
        mine.cancel()
        gorun.gosched()
        pytest.fail("a cancel point")

    job = every(PERIOD, body)
    until(lambda: not gorun.jobs())
    until(lambda: gorun.num_goroutine() == 0)
    assert job.runs == 1


def test_skip() -> None:
    """A slow run is not overlapped; what comes meanwhile is left out. Mutation: "skip" starts it."""
    now, most = 0, 0

    def body() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        gorun.sleep(4 * PERIOD)
        now -= 1

    job = every(PERIOD, body)
    until(lambda: job.runs >= 3)
    job.cancel()
    assert most == 1
    assert job.skipped >= 2


def test_queue_holds_one() -> None:
    """One run is held, and starts when the current one ends. Mutation: hold any number, or none."""
    gate = gorun._gorun.Latch()
    starts: list[int] = []

    def body() -> None:
        starts.append(1)
        if len(starts) == 1:
            gate.wait()

    job = every(PERIOD, body, overlap="queue")
    until(lambda: job.skipped >= 3)
    assert job.runs == 1
    with job._lock:  # no tick meanwhile
        gate.set()
        until(lambda: len(starts) >= 1)
    until(lambda: job.runs >= 2)
    job.cancel()


def test_parallel() -> None:
    """Mutation: "parallel" skips."""
    gate = gorun._gorun.Latch()
    job = every(PERIOD, gate.wait, overlap="parallel")
    until(lambda: len(job._current) >= 3)
    gate.set()
    job.cancel()
    assert job.skipped == 0


def test_nothing_is_caught_up() -> None:
    """Mutation: `_wait_for_next` goes on by one period only."""
    job = gorun._every.Job(1.0, print, (), "x", "skip", None, 0.0)
    job._grid = time.monotonic() - 10.5
    assert 0.4 < job._wait_for_next() < 0.6
    job._grid = time.monotonic() + 1e-9  # fired early, by a rounding
    assert job._wait_for_next() > 0.9


def test_jitter() -> None:
    """Mutation: `jitter` is added to the grid, so that it adds up; or not at all."""
    job = gorun._every.Job(1.0, print, (), "x", "skip", None, 0.5)
    pauses = []
    for _ in range(50):
        job._grid = time.monotonic() - 0.1
        pauses.append(job._wait_for_next())
    assert all(0.89 < p < 1.41 for p in pauses)
    assert max(pauses) - min(pauses) > 0.05
    ran = gorun._gorun.Latch(2)
    real = every(PERIOD, lambda: ran.is_set() or ran.done(), jitter=PERIOD)
    assert ran.wait(LIMIT)
    real.cancel()


def test_an_error_does_not_end_the_job() -> None:
    """It is `last_error`, and does not reach excepthook. Mutation: `_run_ended` cancels the job."""
    n = 0

    def body() -> None:
        nonlocal n
        n += 1
        raise LookupError(n)

    job = every(PERIOD, body)
    until(lambda: job.runs >= 3 and job.last_error is not None)
    job.cancel()
    until(lambda: gorun.num_goroutine() == 0)
    assert isinstance(job.last_error, LookupError)
    gc.collect()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_run_past_its_timeout_is_cancelled(kind: str) -> None:
    """Mutation: no timer for the run."""

    async def coro() -> None:
        await gorun.sleep_async(LONG)

    job = every(PERIOD, coro if kind == "async" else lambda: gorun.sleep(LONG), timeout=0.01)
    until(lambda: job.runs >= 3)
    job.cancel()
    assert isinstance(job.last_error, TimeoutError)
    assert "0.01" in str(job.last_error)


def test_a_run_that_cannot_be_cut_is_reported(hook_errors: Any) -> None:
    """It counts as running until it ends, and is reported once.

    Mutations: no report, or one each period; no `_last_error`.
    """
    gate = threading.Event()
    job = every(PERIOD, gate.wait, timeout=0.01, id="stuck")
    [error] = hook_errors.take()
    assert isinstance(error.exc_value, TimeoutError)
    assert "stuck" in str(error.exc_value)
    assert "cannot be cut" in str(error.exc_value)
    assert error.goroutine is not None
    assert job.last_error is error.exc_value
    assert job.runs == 1
    until(lambda: job.skipped >= 3)
    job.cancel()
    gate.set()


def test_heartbeat() -> None:
    """Renews the time-out of its run. Mutation: `renew` does nothing."""
    done = gorun._gorun.Latch()

    async def body() -> None:
        for _ in range(10):
            await gorun.sleep_async(0.06)
            gorun.heartbeat()
        done.set()

    before = time.monotonic()
    job = every(PERIOD, body, timeout=0.5)
    assert done.wait(LIMIT)
    job.cancel()
    assert job.last_error is None
    assert job.last_heartbeat is not None
    assert before < job.last_heartbeat <= time.monotonic()


def test_heartbeat_of_a_goroutine_of_the_run() -> None:
    beats: list[float | None] = []

    def body() -> None:
        gorun.go(gorun.heartbeat).result()
        beats.append(job.last_heartbeat)

    job = every(PERIOD, body)
    until(lambda: beats)
    job.cancel()
    assert beats[0] is not None


def test_heartbeat_outside_of_a_job() -> None:
    with pytest.raises(RuntimeError, match="every"):
        gorun.heartbeat()


def test_ids() -> None:
    """A living id is refused, an ended one free again. Mutation: `cancel` leaves the id taken."""
    a = every(LONG, print, id="a")
    b = every(LONG, print)
    assert gorun.jobs() == [a, b]
    assert str(b.id).startswith("job-")
    with pytest.raises(ValueError, match="'a'"):
        every(LONG, print, id="a")
    assert gorun.jobs() == [a, b]
    a.cancel()
    c = every(LONG, print, id="a")
    assert gorun.jobs() == [b, c]


def test_context_variables() -> None:
    """Runs see a copy of those of the place where the job was made. Mutation: those of the last run."""
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    seen: list[int] = []

    def body() -> None:
        seen.append(var.get())
        var.set(99)

    token = var.set(5)
    job = every(PERIOD, body)
    var.reset(token)
    until(lambda: len(seen) >= 3)
    job.cancel()
    assert set(seen) == {5}


def test_numbers_of_other_kinds() -> None:
    """Mutation: the period or the jitter is kept as it came."""
    short: Any = Decimal("0.001")
    ran = gorun._gorun.Latch(3)
    job = every(short, ran.done, jitter=short, timeout=Decimal(60))  # type: ignore[arg-type]
    assert ran.wait(LIMIT)
    job.cancel()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("-inf")])
def test_bad_periods(seconds: float) -> None:
    with pytest.raises(ValueError, match=str(seconds)):
        every(seconds, print)


def test_misuse() -> None:
    with pytest.raises(TypeError, match="3"):
        every(1, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'1'"):
        every("1", print)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twice"):
        every(1, print, overlap="twice")
    for bad in (float("nan"), -1.0, 0.0):
        with pytest.raises(ValueError, match="timeout"):
            every(1, print, timeout=bad)
    for bad in (float("nan"), -1.0):
        with pytest.raises(ValueError, match="jitter"):
            every(1, print, jitter=bad)
    assert gorun.jobs() == []


def test_a_microsecond() -> None:
    """A period that no machine can keep: it neither spins for ever nor piles up."""
    calls: list[int] = []
    job = every(1e-6, calls.append, 1)
    until(lambda: len(calls) >= 50)
    job.cancel()
    until(lambda: gorun.num_goroutine() == 0)


def test_ended_jobs_are_freed() -> None:
    """Mutation: `cancel` leaves the job in `jobs`."""
    ran = gorun._gorun.Latch()
    job = every(PERIOD, ran.set)
    assert ran.wait(LIMIT)
    job.cancel()
    ref = weakref.ref(job)
    del job
    until(lambda: gc.collect() is not None and ref() is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_no_jobs() -> None:
    """Mutation: no `register_at_fork`."""
    from tests import _child

    out = _child.run(
        """
        job = gorun.every(3600, print)
        pid = os.fork()
        if pid == 0:
            os._exit(len(gorun.jobs()))
        print(os.waitpid(pid, 0)[1], len(gorun.jobs()))
        """,
        flags=("-W", "ignore"),
    ).out
    assert out == "0 1"


def test_shutdown_ends_jobs() -> None:
    """Also fast ones: their ticks do not hold it up. Mutation: `_cancel_all` leaves jobs alone."""
    ran = gorun._gorun.Latch()
    job = every(1e-4, ran.set)
    assert ran.wait(LIMIT)
    assert gorun.shutdown(LIMIT) is True
    assert gorun.jobs() == []
    assert job.cancel() is False
