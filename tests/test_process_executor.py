"""`gorun.Executor(on="process")`: what is its own, beside CPython's tests (test_cpython_executors.py)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from pathlib import Path
from typing import Any

import pytest
from tests import _child

from gorun import Executor, WorkerDied

pytestmark = pytest.mark.no_matrix

LONG = 30.0
"""Seconds that nothing here takes."""


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(2, on="process") as executor:
        yield executor


def lasting(path: str, seconds: float = 3600.0) -> None:
    """Says that it runs, and goes on."""
    Path(path).touch()
    time.sleep(seconds)


def wait_for(path: Path) -> None:
    limit = time.monotonic() + LONG
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_is_an_executor(executor: Executor) -> None:
    """Real futures, the number of workers, any function: a lambda and a closure too.

    Mutation: plain pickle for the call.
    """
    seven = 7
    assert isinstance(executor, futures.Executor)
    assert executor._max_workers == 2
    assert "2 processes" in repr(executor)
    future = executor.submit(lambda n: (n * seven, os.getpid()), 6)
    assert isinstance(future, futures.Future)
    value, pid = future.result(LONG)
    assert value == 42
    assert pid != os.getpid()


def test_any_context_is_taken() -> None:
    """`mp_context` changes nothing, so code written for ProcessPoolExecutor works.

    Mutation: refuse it.
    """
    with Executor(1, on="process", mp_context=multiprocessing.get_context("spawn")) as executor:
        assert executor.submit(abs, -1).result(LONG) == 1


@pytest.mark.parametrize("chunksize", [1, 3, 50])
def test_map(executor: Executor, chunksize: int) -> None:
    """Ordered, in chunks of any size; lazy with `buffersize`; a bad chunksize is named.

    Mutation: `chunked` that forgets the last, shorter chunk.
    """
    assert list(executor.map(pow, range(10), range(10), chunksize=chunksize)) == [
        n**n for n in range(10)
    ]
    source = itertools.count()
    results = executor.map(abs, source, chunksize=chunksize, buffersize=6)
    assert next(source) == max(6 // chunksize, 1) * chunksize
    assert next(results) == 0
    del results
    with pytest.raises(ValueError, match=r"chunksize.*-1"):
        executor.map(abs, [1], chunksize=-1)


def test_errors_keep_their_traceback(executor: Executor) -> None:
    """As concurrent.futures has it: the cause is a _RemoteTraceback with the worker's text.

    Mutation: `_told` that leaves the cause as it comes.
    """

    def fail() -> None:
        raise KeyError("this one")

    error = executor.submit(fail).exception(LONG)
    assert isinstance(error, KeyError)
    assert type(error.__cause__) is _RemoteTraceback
    assert 'raise KeyError("this one")' in error.__cause__.tb


def test_a_death_costs_only_what_it_had_begun(executor: Executor) -> None:
    """The call fails with what is a WorkerDied and a BrokenProcessPool; all others are run.

    Mutation: `_told` that passes the WorkerDied on.
    """
    before = [executor.submit(abs, -n) for n in range(20)]
    futures.wait(before, LONG)  # or the last ones may be in the same message to the worker
    dies = executor.submit(os._exit, 3)
    after = [executor.submit(abs, -n) for n in range(20)]
    with pytest.raises(WorkerDied, match=r"exit code 3.*_exit") as caught:
        dies.result(LONG)
    assert isinstance(caught.value, BrokenProcessPool)
    assert isinstance(caught.value, BrokenExecutor)
    assert caught.value.exitcode == 3
    assert caught.value.items == ((os._exit, (3,), {}),)
    assert [call.result(LONG) for call in before + after] == [*range(20), *range(20)]
    assert executor._broken is False
    assert executor.submit(abs, -5).result(LONG) == 5


def test_what_cannot_be_pickled_fails_alone(executor: Executor) -> None:
    """A call, a result, an error: each names the culprit, and the others are run.

    Mutation: raise it from `submit`.
    """
    import threading

    lock = threading.Lock()
    calls = [executor.submit(abs, lock), executor.submit(threading.Lock), executor.submit(abs, -3)]
    for call, words in zip(calls[:2], ("lock", "result of the call"), strict=True):
        error = call.exception(LONG)
        assert isinstance(error, (TypeError, pickle.PicklingError))
        assert words in str(error)
    assert calls[2].result(LONG) == 3


class Exits:
    """Ends whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (raises, (SystemExit,))


class Fails:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (raises, (pickle.UnpicklingError,))


def raises(kind: type[BaseException]) -> None:
    raise kind("by itself")


@pytest.mark.parametrize(("thing", "kind"), [(Exits, SystemExit), (Fails, pickle.UnpicklingError)])
def test_what_cannot_be_unpickled_fails_alone(
    executor: Executor, thing: type, kind: type[BaseException]
) -> None:
    """There or here: the call has an error, and neither side of the pool ends by it.

    Mutation: `except Exception` in `Crew._take_outcomes` (the SystemExit ends the pool's thread).
    """
    there = executor.submit(id, thing()).exception(LONG)
    assert isinstance(there, kind)
    here = executor.submit(thing).exception(LONG)
    assert isinstance(here, RuntimeError)
    assert isinstance(here.__cause__, kind)
    assert executor.submit(abs, -3).result(LONG) == 3


def test_initializer() -> None:
    """Runs in each worker; where it fails, the pool is broken, with its error as the cause.

    Mutation: `_told` that knows no broken pool.
    """
    with Executor(2, on="process", initializer=os.putenv, initargs=("GORUN_X", "5")) as executor:
        command = "import os; print(os.environ['GORUN_X'])"
        code = f"__import__('subprocess').check_output([{os.sys.executable!r}, '-c', {command!r}])"  # type: ignore[attr-defined]
        assert executor.submit(eval, code).result(LONG) == b"5\n"
    with Executor(2, on="process", initializer=raises, initargs=(KeyError,)) as executor:
        error = executor.submit(abs, 1).exception(LONG)
        assert isinstance(error, BrokenProcessPool)
        assert isinstance(error.__cause__, KeyError)
        assert executor._broken
        with pytest.raises(BrokenProcessPool, match="by itself"):
            executor.submit(abs, 1)


def test_max_tasks_per_child() -> None:
    """Workers are replaced, and all calls are run (gh-115634).

    Mutation: do not hand `max_tasks_per_child` on.
    """
    with Executor(1, on="process", max_tasks_per_child=2) as executor:
        pids = [call.result(LONG) for call in [executor.submit(os.getpid) for _ in range(10)]]
    assert len(set(pids)) >= 5
    assert max(pids.count(pid) for pid in pids) <= 2


def test_shutdown(tmp_path: Path) -> None:
    """`cancel_futures` cancels what waits, waits for what runs; late calls are refused.

    Mutation: `drop` that does nothing.
    """
    executor = Executor(1, on="process")
    running = executor.submit(lasting, str(tmp_path / "a"), 0.2)
    wait_for(tmp_path / "a")
    waiting = [executor.submit(lasting, str(tmp_path / "b")) for _ in range(20)]
    executor.shutdown(cancel_futures=True)
    assert running.result(0) is None
    # One or two may have been on their way to the worker: then it would not have come to an end.
    assert all(call.cancelled() for call in waiting)
    assert futures.wait(waiting, LONG).not_done == set()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, 1)


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_kill(tmp_path: Path, how: str) -> None:
    """What runs fails as by a death, what waits is cancelled, nobody is left.

    Mutation: `stop` without the signal.
    """
    executor = Executor(1, on="process")
    pid = executor.submit(os.getpid).result(LONG)
    running = executor.submit(lasting, str(tmp_path / "a"))
    wait_for(tmp_path / "a")
    waiting = executor.submit(abs, 1)
    getattr(executor, how)()
    assert isinstance(running.exception(LONG), BrokenProcessPool)
    assert isinstance(running.exception(0), WorkerDied)
    with pytest.raises((futures.CancelledError, BrokenProcessPool)):
        waiting.result(LONG)
    executor.shutdown()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_dropped_executor_runs_what_waits() -> None:
    """As with the standard library's: calls are run, then the workers leave.

    Mutation: `_orphaned` that does nothing (the leak check sees the thread).
    """
    executor = Executor(2, on="process")
    calls = [executor.submit(abs, -n) for n in range(50)]
    del executor
    assert [call.result(LONG) for call in calls] == list(range(50))


def test_with_others(executor: Executor) -> None:
    """`wait`, `as_completed` and asyncio take its futures, together with others'.

    Mutation: a `_done` that sets results without telling who waits.
    """
    with ThreadPoolExecutor(1) as theirs, Executor(1) as threads:
        calls = [pool.submit(abs, -n) for n in range(20) for pool in (executor, theirs, threads)]
        assert sorted(call.result() for call in futures.as_completed(calls, LONG)) == sorted(
            3 * [*range(20)]
        )

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, abs, -n) for n in range(20)))

    assert asyncio.run(main()) == list(range(20))


def test_manager_proxies(executor: Executor) -> None:
    """A queue of a multiprocessing manager works in a worker, as with ProcessPoolExecutor.

    Mutation: `setup` without the key.
    """
    script = """
        import multiprocessing
        manager = multiprocessing.get_context("spawn").Manager()
        queue = manager.Queue()
        with gorun.Executor(1, on="process") as executor:
            executor.submit(queue.put, 5).result(20)
        print(queue.get(timeout=20))
        manager.shutdown()
    """
    assert _child.run(script).out == "5"


@pytest.mark.parametrize("wait", ["pass", "executor.shutdown(wait=False)", "del executor"])
def test_exit_waits_for_what_is_pending(wait: str) -> None:
    """Pending calls are run before the interpreter ends, and what they print is seen.

    Mutation: `leave` that kills.
    """
    script = f"""
        executor = gorun.Executor(1, on="process")
        for n in range(3):
            executor.submit(lambda n: (time.sleep(0.05), print(n, flush=True)), n)
        {wait}
    """
    assert _child.run(script).out.split() == ["0", "1", "2"]


def test_fork() -> None:
    """A forked child uses an inherited executor with workers of its own.

    Mutation: `after_fork` that keeps the parent's pool.
    """
    script = """
        warnings.simplefilter("ignore", DeprecationWarning)
        executor = gorun.Executor(1, on="process")
        assert executor.submit(pow, 2, 5).result(20) == 32
        pid = os.fork()
        if not pid:
            code = 1
            try:
                assert executor.submit(pow, 2, 6).result(20) == 64
                executor.shutdown()
                code = 7
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert executor.submit(pow, 2, 7).result(20) == 128
    """
    _child.run(script)


def test_ctrl_c_at_exit() -> None:
    """It cuts the wait for pending calls.

    Mutation: a join that goes on waiting.
    """
    script = """
        from gorun._executor import exits
        executor = gorun.Executor(1, on="process")
        for _ in range(20):
            executor.submit(time.sleep, 2)
        def interrupt():
            while not exits._exiting:
                time.sleep(0.001)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
    """
    ended = _child.run(script, err=None, exit_clock=True)
    assert "KeyboardInterrupt" in ended.err
    assert ended.exit_seconds is not None
    assert ended.exit_seconds < 15


INTERRUPTED = """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        folder = {folder!r}
        def lasting(n):
            open(folder + "/" + str(n), "w").close()
            time.sleep(3600)
        def interrupt():
            while len(os.listdir(folder)) < 2:
                time.sleep(0.01)
            os.killpg(0, signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.parametrize(
    "wait",
    [
        "with executor: [call.result() for call in calls]",
        "with executor: pass",
        "[call.result() for call in calls]",
        "futures.wait(calls)",
    ],
)
def test_ctrl_c_ends_the_calls(tmp_path: Path, wait: str) -> None:
    """A program that waits for its workers ends by a Ctrl-C, however long they would take.

    Mutations: `__exit__` is the base's; `_at_exit` does not ask `is_interrupted`.
    """
    script = f"""{INTERRUPTED.format(folder=str(tmp_path))}
        from concurrent import futures
        executor = gorun.Executor(2, on="process")
        calls = [executor.submit(lasting, n) for n in range(3)]
        {wait}
    """
    ended = _child.run(script, err=None, code=-signal.SIGINT)
    assert ended.err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "body",
    [
        "asyncio.run(task())",
        "gorun.run(goroutine)",
        "gorun.run(plain)",
    ],
)
def test_ctrl_c_that_comes_as_a_cancel_ends_the_calls(tmp_path: Path, body: str) -> None:
    """asyncio and `gorun.run` make a cancel of it: that is what leaves the block.

    Mutations: `is_interrupt` knows no `Cancelled`; it knows no CancelledError.
    """
    script = f"""{INTERRUPTED.format(folder=str(tmp_path))}
        import asyncio
        async def task():
            loop = asyncio.get_running_loop()
            with gorun.Executor(2, on="process") as executor:
                calls = [loop.run_in_executor(executor, lasting, n) for n in range(3)]
                await calls[0]
        async def goroutine():
            with gorun.Executor(2, on="process") as executor:
                calls = [executor.submit(lasting, n) for n in range(3)]
                await gorun.sleep_async(3600)
        def plain():
            with gorun.Executor(2, on="process") as executor:
                calls = [executor.submit(lasting, n) for n in range(3)]
                gorun.sleep(3600)
        {body}
    """
    ended = _child.run(script, err=None, code=-signal.SIGINT)
    # asyncio may tell of the failed calls that nobody awaited, before it or after.
    assert "KeyboardInterrupt" in ended.err.splitlines()


def test_ctrl_c_ends_the_maps_of_other_threads(tmp_path: Path) -> None:
    """The exit waits for those threads, which get a KeyboardInterrupt, too.

    Mutation: `_at_exit` of `_map/processes.py` does nothing.
    """
    script = f"""{INTERRUPTED.format(folder=str(tmp_path))}
        def work():
            try:
                list(gorun.map(lasting, range(4), on="process", workers=2))
            except KeyboardInterrupt:
                print("cut", flush=True)
        threading.Thread(target=work).start()
        time.sleep(3600)
    """
    ended = _child.run(script, err=None, code=-signal.SIGINT)
    assert ended.out == "cut"


def test_a_cancel_of_another_kind_waits(tmp_path: Path) -> None:
    """Mutation: `is_interrupt` is True for every cancel."""

    async def main() -> None:
        with Executor(1, on="process") as executor:
            call = executor.submit(lasting, str(tmp_path / "begun"), 1.0)
            calls.append(call)
            wait_for(tmp_path / "begun")
            await asyncio.sleep(3600)

    calls: list[Future[None]] = []

    async def outer() -> None:
        task = asyncio.ensure_future(main())
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(outer())
    assert calls[0].result() is None


@pytest.mark.parametrize("wait", ["calls[0].result()", "pass"])
def test_ctrl_c_that_is_caught_outside_leaves_nobody(tmp_path: Path, wait: str) -> None:
    """What was under way fails, what waited is cancelled, and the program goes on.

    Mutations: `interrupted` without `stop`; `__exit__` looks only at what leaves the block.
    """
    script = f"""{INTERRUPTED.format(folder=str(tmp_path))}
        from tests._procs import alive, until
        try:
            with gorun.Executor(2, on="process") as executor:
                calls = [executor.submit(lasting, n) for n in range(3)]
                pids = list(executor._processes)
                {wait}
        except KeyboardInterrupt:
            pass
        assert len(pids) == 2
        until(lambda: not any(map(alive, pids)))
        assert isinstance(calls[0].exception(20), gorun.WorkerDied)
        assert isinstance(calls[1].exception(20), gorun.WorkerDied)
        assert calls[2].cancelled() or isinstance(calls[2].exception(20), gorun.WorkerDied)
        try:
            executor.submit(abs, 1)
        except RuntimeError as error:
            print(error)
    """
    ended = _child.run(script, PYTHONPATH=str(Path(__file__).parent.parent))
    assert "cannot schedule new futures" in ended.out


@pytest.mark.parametrize("seen", ["KeyboardInterrupt; sys.ps1 = '>>> '", "ValueError"])
def test_exits_by_other_means_wait(seen: str) -> None:
    """One that was printed at a prompt, some time ago, does not count.

    Mutations: `is_interrupted` does not look at `ps1`; it takes any exception.
    """
    script = f"""
        executor = gorun.Executor(1, on="process")
        for n in range(3):
            executor.submit(lambda n: (time.sleep(0.05), print(n, flush=True)), n)
        sys.last_type = {seen}
    """
    assert _child.run(script).out.split() == ["0", "1", "2"]


def test_private_names(executor: Executor, tmp_path: Path) -> None:
    """What others reach for in a ProcessPoolExecutor: its processes, by id, to look at and to end.

    Mutation: `_processes` of dead ids.
    """
    pid = executor.submit(os.getpid).result(LONG)
    worker = executor._processes[pid]
    assert (worker.pid, worker.is_alive()) == (pid, True)
    call = executor.submit(lasting, str(tmp_path / "a"))
    wait_for(tmp_path / "a")
    for worker in executor._processes.values():
        worker.kill()
        worker.join(LONG)
        assert not worker.is_alive()
    assert isinstance(call.exception(LONG), WorkerDied)
    assert executor._threads == set()


def test_cancelling_all_while_others_submit() -> None:
    """What is out is copied while it changes. Mutation: `pending` is copied once."""
    with Executor(1, on="process") as executor:
        over = threading.Event()

        def submit() -> None:
            while not over.is_set():
                executor.submit(abs, -1)

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            executor._team.drop()
            time.sleep(0.002)
        over.set()
        for thread in threads:
            thread.join()
