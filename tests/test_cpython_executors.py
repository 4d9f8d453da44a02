"""CPython's own tests of concurrent.futures, run against `gorun.Executor`.

They must be there for the interpreters in MUST_HAVE, else this fails; where neither the interpreter
nor a neighbour has them, it is skipped and says so. EXCLUDED names each test that is left out, and
why. tests/cpython/suite.py finds them and points them at us.

Mutation of the whole: make `Executor.submit` give the future of another call.
"""

from __future__ import annotations

import sys
import sysconfig
import unittest
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gorun
from gorun._executor.future import Future

sys.path.insert(0, str(Path(__file__).resolve().parent / "cpython"))
import suite

pytestmark = [pytest.mark.no_matrix, pytest.mark.slow]

MUST_HAVE = {(3, 13)}
"""Versions whose build here ships the suite (but for the free-threaded one, packed without tests)."""

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

DEADLOCK = "ProcessPoolSpawnExecutorDeadlockTest"
PROCESSES = "ProcessPoolSpawnProcessPoolExecutorTest"
ITS_OWN = "looks at ProcessPoolExecutor's own machinery, of which we have none"
FAILS_ALONE = "wants a broken pool: ours fails the call with what was raised, and goes on"
INHERITED = (
    "hands a multiprocessing lock or queue to its own kind of child; ours is started otherwise"
)

EXCLUDED = {
    ("ThreadPoolShutdownTest", "test_thread_names_default"): (
        "wants the name ThreadPoolExecutor-N_M; ours are gorun.Executor-N_M (tests/test_executor.py)"
    ),
    (DEADLOCK, "test_error_at_task_unpickle"): FAILS_ALONE,
    (DEADLOCK, "test_exit_at_task_unpickle"): FAILS_ALONE,
    (DEADLOCK, "test_error_during_result_unpickle_in_result_handler"): FAILS_ALONE,
    (DEADLOCK, "test_exit_during_result_unpickle_in_result_handler"): FAILS_ALONE,
    (DEADLOCK, "test_gh105829_should_not_deadlock_if_wakeup_pipe_full"): ITS_OWN,
    (PROCESSES, "test_killed_child"): (
        "wants the pool broken by a death: ours replaces the worker (tests/test_process_executor.py)"
    ),
    (PROCESSES, "test_max_tasks_per_child_defaults_to_spawn_context"): ITS_OWN,
    (PROCESSES, "test_python_finalization_error"): ITS_OWN,
    (PROCESSES, "test_saturation"): INHERITED,
    ("ProcessPoolSpawnFailingInitializerTest", "test_initializer"): INHERITED,
    ("ProcessPoolSpawnProcessPoolShutdownTest", "test_processes_terminate"): INHERITED,
}

COLLECTED = "wants the calls of a collected executor to fail; ours are run"
LATER = {
    (PROCESSES, "test_broken_process_pool_traceback"): INHERITED,
    (PROCESSES, "test_failed_worker_replacement_breaks_pool"): ITS_OWN,
    (PROCESSES, "test_force_shutdown_during_max_tasks_worker_exit"): ITS_OWN,
    (PROCESSES, "test_force_shutdown_workers"): ITS_OWN,
    (PROCESSES, "test_force_shutdown_workers_invalid_op"): ITS_OWN,
    (PROCESSES, "test_gc_during_max_tasks_worker_exit_gh152967"): COLLECTED,
    (PROCESSES, "test_kill_workers"): ITS_OWN,
    (PROCESSES, "test_shutdown_no_wait_max_tasks_gh119592"): COLLECTED,
    (PROCESSES, "test_terminate_workers"): ITS_OWN,
}
"""The same for tests that came in the course of 3.14, so that not each suite has them."""


class ThreadPoolExecutor(gorun.Executor):
    """A gorun.Executor under the name that the tests' scripts import."""


class ProcessPoolExecutor(gorun.Executor):
    """A gorun.Executor with some private names more that the tests look at."""

    def __init__(self, max_workers: Any = None, mp_context: Any = None, **rest: Any) -> None:
        super().__init__(max_workers, on="process", mp_context=mp_context, **rest)
        pool = self._team.pool
        self._executor_manager_thread = SimpleNamespace(
            join=lambda timeout=None: pool.shutdown(wait=True)
        )
        self._call_queue = SimpleNamespace(join_thread=lambda: None)


EXECUTORS: dict[str, type] = {"ThreadPoolMixin": ThreadPoolExecutor}
if suite.ships():  # workers load the tests by name, and a neighbour's are not where they look
    EXECUTORS["ProcessPoolSpawnMixin"] = ProcessPoolExecutor
    resource_tracker.ensure_running()  # some tests would leave it behind

modules = suite.load()
if modules is not None:
    for title, case in suite.point(modules, EXECUTORS).items():
        for (owner, name), why in (EXCLUDED | LATER).items():
            if owner == title and (hasattr(case, name) or (owner, name) in EXCLUDED):
                setattr(case, name, pytest.mark.skip(reason=why)(getattr(case, name)))
        globals()[title] = case
    del title, case
    FutureTests = suite.point_futures(modules, Future)


@pytest.mark.no_matrix
def test_the_suite_is_there() -> None:
    """Where it must not be missing, it is not.

    Mutation: look for it under another name.
    """
    if modules is None:
        if sys.version_info[:2] in MUST_HAVE and not FREE_THREADED:
            pytest.fail("this interpreter ships CPython's tests, but they are not there")
        pytest.skip("neither this interpreter nor a neighbour ships CPython's tests of executors")
    titles = {
        title
        for title, case in globals().items()
        if isinstance(case, type) and issubclass(case, unittest.TestCase)
    }
    assert titles >= {
        "FutureTests",
        "ThreadPoolExecutorTest",
        "ThreadPoolShutdownTest",
        "ThreadPoolWaitTests",
        "ThreadPoolAsCompletedTest",
        "ThreadPoolInitializerTest",
        "ThreadPoolFailingInitializerTest",
    }


@pytest.mark.no_matrix
def test_exclusions_name_tests() -> None:
    """An exclusion of a test that does not exist any more is taken out.

    Mutation: misspell one.
    """
    if modules is None:
        pytest.skip("no suite")
    for title, name in EXCLUDED:
        if title.startswith("Process") and not suite.ships():
            continue
        assert hasattr(globals()[title], name), (title, name)
