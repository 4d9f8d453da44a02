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
from pathlib import Path
from typing import Any

import pytest

import gorun
from gorun._executor.future import Future
from gorun._executor.threads import ThreadTeam

sys.path.insert(0, str(Path(__file__).resolve().parent / "cpython"))
import suite

pytestmark = [pytest.mark.no_matrix, pytest.mark.slow]

MUST_HAVE = {(3, 13)}
"""Versions whose build here ships the suite (but for the free-threaded one, packed without tests)."""

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

EXCLUDED = {
    ("ThreadPoolShutdownTest", "test_thread_names_default"): (
        "wants the name ThreadPoolExecutor-N_M; ours are gorun.Executor-N_M (tests/test_executor.py)"
    ),
}


class Worker:
    """What the tests take from a `threading.Thread` of a pool."""

    def __init__(self, goroutine: gorun.Goroutine[Any]) -> None:
        self.name = goroutine.name
        self._goroutine = goroutine

    def join(self) -> None:
        self._goroutine.exception(60.0)


class ThreadPoolExecutor(gorun.Executor):
    """A gorun.Executor with the private names that the tests look at."""

    def __init__(self, max_workers: Any = None, thread_name_prefix: str = "", **rest: Any) -> None:
        super().__init__(max_workers, thread_name_prefix=thread_name_prefix, **rest)
        team, workers = self._team, dict[gorun.Goroutine[Any], Worker]()

        def start(call: Any) -> bool:
            started = ThreadTeam._start(team, call)
            for goroutine in list(team.members.values()):
                workers.setdefault(goroutine, Worker(goroutine))
            return started

        team._start = start
        self._threads = workers.values()


modules = suite.load()
if modules is not None:
    for title, case in suite.point(modules, ThreadPoolExecutor, modules["util"].ThreadPoolMixin):
        for (owner, name), why in EXCLUDED.items():
            if owner == title:
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
        assert hasattr(globals()[title], name), (title, name)
