"""The ends of `gorun.Executor(on="thread")`: shutdown, drop, terminate, exit, fork."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent import futures
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from tests._gates import LONG, Gate, gate

import gorun
from gorun import Executor

__all__ = ["gate"]  # a fixture


# ---- the ends ------------------------------------------------------------------------------------


def test_cancel_futures_tells_who_waits(gate: Gate) -> None:
    """What waits is cancelled, and `wait` returns; what runs goes on.

    Mutation: `_cancel` without its notification.
    """
    executor = Executor(1)
    running = executor.submit(gate, 1)
    gate.entered()
    waiting = [executor.submit(abs, 1) for _ in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    done, rest = futures.wait(waiting, LONG)
    assert (len(done), len(rest)) == (3, 0)
    assert all(call.cancelled() for call in waiting)
    gate.open()
    executor.shutdown()
    assert running.result(0) == 1
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, 1)


def test_dropped_executor_runs_what_waits(gate: Gate) -> None:
    """Workers of an executor that nobody holds finish and leave (the leak check sees them).

    Mutation: `_orphaned` that does nothing.
    """
    import gc

    executor = Executor(2)
    calls = [executor.submit(gate, n) for n in range(6)]
    del executor
    gc.collect()
    gate.open()
    assert [call.result(LONG) for call in calls] == list(range(6))


@pytest.mark.parametrize("in_gorun", [True, False])
def test_terminate(gate: Gate, in_gorun: bool) -> None:
    """Cancels what waits and the workers: a call in a gorun operation is cut, another one ends itself.

    Mutation: `stop` that cancels nobody.
    """
    executor = Executor(1)
    entered = threading.Event()

    def work() -> int:
        entered.set()
        gorun.sleep(LONG) if in_gorun else gate()
        return 5

    running, waiting = executor.submit(work), executor.submit(abs, 1)
    assert entered.wait(LONG)
    executor.terminate_workers()
    assert waiting.cancelled()
    gate.open()
    if in_gorun:
        assert isinstance(running.exception(LONG), gorun.GoroutineCancelled)
    else:
        assert running.result(LONG) == 5
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_kill(gate: Gate) -> None:
    """The calls under way fail at once, and `shutdown` waits for nobody.

    Mutation: `stop` that keeps the members.
    """
    executor = Executor(2)
    calls = [executor.submit(gate) for _ in range(3)]
    gate.entered(2)
    executor.kill_workers()
    for call in calls[:2]:
        assert isinstance(call.exception(0), BrokenThreadPool)
    assert calls[2].cancelled()
    executor.shutdown()


@pytest.mark.no_matrix
def test_gorun_shutdown_cuts_and_it_can_be_used_again(gate: Gate) -> None:
    """`gorun.shutdown` cancels what waits and what runs; later calls get new workers.

    Mutation: `_at_shutdown` that drops nothing (it never ends then).
    """
    with Executor(1) as executor:
        entered = threading.Event()

        def work() -> None:
            entered.set()
            gorun.sleep(LONG)

        running = executor.submit(work)
        waiting = [executor.submit(time.sleep, 0.01) for _ in range(100)]
        assert entered.wait(LONG)
        assert gorun.shutdown(LONG)
        assert isinstance(running.exception(LONG), gorun.GoroutineCancelled)
        assert all(call.cancelled() for call in waiting)
        assert executor.submit(abs, -3).result(LONG) == 3


def test_submit_races_shutdown() -> None:
    """A call that was accepted is run; another one is refused.

    Mutation: `close` that wakes nobody.
    """
    for _ in range(30):
        executor = Executor(2)
        accepted: list[futures.Future[int]] = []
        start = threading.Barrier(3)

        def submit(
            executor: Executor = executor,
            accepted: list[futures.Future[int]] = accepted,
            start: threading.Barrier = start,
        ) -> None:
            start.wait()
            try:
                while True:
                    accepted.append(executor.submit(abs, -1))
            except RuntimeError:
                pass

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait()
        executor.shutdown()
        for thread in threads:
            thread.join()
        done, rest = futures.wait(accepted, LONG)
        assert not rest
        assert all(call.result() == 1 for call in done)


class Late(deque[Any]):
    """Shuts its executor down before a call comes in."""

    executor: Executor

    def append(self, call: Any) -> None:
        self.executor.shutdown()
        super().append(call)

    def remove(self, call: Any) -> None:
        time.sleep(0.05)  # for a worker to take it, if there were one
        super().remove(call)


def test_shutdown_in_the_middle_of_submit() -> None:
    """A call that comes into the queue after `shutdown` has returned is refused, and not run.

    Mutations: `put` without its second look at `refusal`; or it summons a worker all the same.
    """
    executor = Executor(1)
    executor.submit(abs, 1).result(LONG)
    while not executor._team._idle:
        time.sleep(0.001)

    late = Late()
    late.executor = executor
    executor._team._work = late
    ran: list[int] = []
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(ran.append, 1)
    executor.shutdown()
    assert ran == []


# ---- exit and fork -------------------------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize("first", ["import concurrent.futures.thread", "pass"])
@pytest.mark.parametrize("wait", ["pass", "executor.shutdown(wait=False)", "del executor"])
def test_exit_waits_for_what_is_pending(first: str, wait: str) -> None:
    """Pending calls are run, in gorun and outside, before gorun's own end.

    Mutation: join them from an atexit hook registered before gorun's.
    """
    from tests import _child

    script = f"""
        def say(n):
            gorun.sleep(0.02)
            # 3.12.0 and 3.12.1 start no thread any more once the exit begins (gh-113964).
            if not (3, 12) <= sys.version_info < (3, 12, 2):
                gorun.go(time.sleep, 0.01).result()
            print(n)
        executor = gorun.Executor(1)
        for n in range(5):
            executor.submit(say, n)
        {wait}
    """
    assert _child.run(script, before=first + "\n").out.split() == ["0", "1", "2", "3", "4"]


@pytest.mark.no_matrix
def test_no_calls_at_exit() -> None:
    """Late calls are refused in concurrent.futures' words, by old and new executors.

    Mutation: `_at_exit` without `leave`.
    """
    from tests import _child

    script = """
        import atexit
        old = gorun.Executor(1)
        old.submit(abs, 1).result()
        def late():
            for executor in (old, gorun.Executor(1)):
                try:
                    executor.submit(abs, 1)
                except RuntimeError as error:
                    print(error)
        atexit.register(late)
    """
    text = "cannot schedule new futures after interpreter shutdown"
    assert _child.run(script).out.splitlines() == [text, text]


@pytest.mark.no_matrix
def test_ctrl_c_at_exit() -> None:
    """It cuts the wait for pending calls; what had not begun is dropped.

    Mutation: `_at_exit` without `drop`.
    """
    from tests import _child

    script = """
        executor = gorun.Executor(1)
        from gorun._executor import exits
        def first():
            while not exits._exiting:
                time.sleep(0.001)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            gorun.sleep(30)
        for call in (first, *[lambda: time.sleep(1)] * 50):
            executor.submit(call)
    """
    ended = _child.run(script, err=None, exit_clock=True)
    assert "KeyboardInterrupt" in ended.err
    assert ended.exit_seconds is not None
    assert ended.exit_seconds < 10


@pytest.mark.no_matrix
def test_fork() -> None:
    """A child uses an inherited executor with workers of its own; a call may fork.

    Mutation: `after_fork` that does nothing (the child hangs).
    """
    from tests import _child

    script = """
        warnings.simplefilter("ignore", DeprecationWarning)
        executor = gorun.Executor(2)
        gate = threading.Event()
        calls = [executor.submit(gate.wait) for _ in range(4)]
        def child():
            code = 1
            try:
                assert executor.submit(pow, 2, 5).result(20) == 32
                executor.shutdown()
                code = 7
            finally:
                os._exit(code)
        if not (pid := os.fork()):
            child()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        gate.set()
        assert all(call.result(20) for call in calls)

        def forks():
            if not (pid := os.fork()):
                return None  # the child's worker ends, and the child with it
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert executor.submit(forks).result(20) == 0
        assert executor.submit(abs, -1).result(20) == 1
    """
    _child.run(script)
