"""CPython's own tests of locks, run against gorun's.

`test.lock_tests` is what the interpreter tests `threading` with. Each of its classes is taken with gorun's type in
place of threading's; what cannot hold is in `EXCLUDED`, with the reason. An interpreter that ships its tests must
have this module; one that ships none at all (a stripped build) is reported as skipped, once.

Mutation: any method of Mutex, Cond, Event, Semaphore or Barrier with another name, default, error or order.
"""

from __future__ import annotations

import importlib.machinery
import io
import unittest
from typing import Any

import pytest

import gorun

lock_tests: Any = None
# Not what is imported already: the tests of executors put a package of this name together.
SHIPPED = importlib.machinery.PathFinder.find_spec("test") is not None
if SHIPPED:
    from test import lock_tests  # an ImportError is a failure

PRIVATE = "a private method of threading's, for its own fork hook"
REENTRANT = "threading's Condition makes an RLock; gorun has no re-entrant lock, goroutines move"
EXCLUDED = {
    ("ConditionTests", "test_acquire"): REENTRANT,
    ("LockTests", "test_at_fork_reinit"): PRIVATE,
    ("EventTests", "test_at_fork_reinit"): PRIVATE,
    ("ConditionTests", "test_at_fork_reinit"): PRIVATE,
    ("EventTests", "test_reset_internal_locks"): PRIVATE,
    ("EventTests", "test_repr"): "the text of a repr is gorun's own",
    ("LockTests", "test_repr"): "the text of a repr is gorun's own",
    ("LockTests", "test_locked_repr"): "the text of a repr is gorun's own",
    ("SemaphoreTests", "test_repr"): "the text of a repr is gorun's own",
    ("BoundedSemaphoreTests", "test_repr"): "the text of a repr is gorun's own",
    ("BarrierTests", "test_repr"): "the text of a repr is gorun's own",
    ("ConditionTests", "test_repr"): "the text of a repr is gorun's own",
}
LATER = {("ConditionTests", "test_nan_timeout"): "looks at a private list of threading's"}
"""The same for tests that not each version has."""


def unbounded(value: int = 1) -> gorun.Semaphore:
    return gorun.Semaphore(value, bounded=False)


SUBJECTS: dict[str, dict[str, Any]] = {
    "LockTests": {"locktype": gorun.Mutex},
    "EventTests": {"eventtype": gorun.Event},
    "ConditionTests": {"condtype": gorun.Cond},
    "SemaphoreTests": {"semtype": unbounded},
    "BoundedSemaphoreTests": {"semtype": gorun.Semaphore},
    "BarrierTests": {"barriertype": gorun.Barrier},
}


def cases() -> list[tuple[str, str]]:
    if lock_tests is None:
        return []
    loader = unittest.TestLoader()
    return [
        (name, test)
        for name in SUBJECTS
        for test in loader.getTestCaseNames(getattr(lock_tests, name))
        if (name, test) not in EXCLUDED | LATER
    ]


@pytest.mark.no_matrix
def test_they_are_there() -> None:
    """Mutation: an exclusion by class instead of by test."""
    if not SHIPPED:
        pytest.skip("this interpreter was installed without its own tests")
    assert len(cases()) > 50


@pytest.mark.no_matrix
def test_exclusions_name_tests() -> None:
    """Each names a test of some supported version, and says why. Mutation: a slip in a name."""
    known = {
        *("test_acquire", "test_at_fork_reinit", "test_reset_internal_locks"),
        *("test_repr", "test_locked_repr"),
    }
    assert {test for _, test in EXCLUDED} <= known
    assert all(EXCLUDED.values())


@pytest.mark.parametrize(("name", "test"), cases(), ids=lambda x: x)
def test_lock(name: str, test: str) -> None:
    members = {k: staticmethod(v) for k, v in SUBJECTS[name].items()}
    case = type(name, (getattr(lock_tests, name),), members)(test)
    out = io.StringIO()
    result = unittest.TextTestRunner(stream=out).run(unittest.TestSuite([case]))
    assert result.testsRun == 1
    assert result.wasSuccessful(), out.getvalue()
    assert not result.skipped, out.getvalue()
