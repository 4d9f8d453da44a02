"""Finds CPython's own tests of concurrent.futures, and points them at another executor.

They are the package `test.test_concurrent_futures`, which 3.12 and later ship. An interpreter that
was built or packed without its tests may borrow those of a neighbour (3.11 and 3.12: pyenv's 3.13):
what they check is the same contract, and the few names that such a `test.support` lacks are given
to it here. tests/test_cpython_executors.py says who must not be without.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import unittest
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PACKAGE = "test.test_concurrent_futures"
MODULES = (
    *("util", "executor", "test_future", "test_init", "test_shutdown", "test_thread_pool"),
    *("test_as_completed", "test_deadlock", "test_process_pool", "test_wait"),
)


IN_A_SCRIPT = "import gorun, functools; {name} = functools.partial(gorun.Executor, on={on!r})"


def ships() -> bool:
    """Whether this interpreter has the suite itself."""
    return (Path(os.__file__).parent / "test/test_concurrent_futures/executor.py").exists()


def neighbours() -> Iterator[Path]:
    """Library folders of other interpreters that have the suite, in the order of preference."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in ("3.12", "3.13"):
        for folder in sorted(root.glob(f"versions/{version}.*/lib/python{version}")):
            if (folder / "test/test_concurrent_futures/executor.py").exists():
                yield folder


def load() -> dict[str, ModuleType] | None:
    """The modules of the suite by name; None if there is none to be found."""
    if not ships():
        folder = next(neighbours(), None)
        if folder is None:
            return None
        try:
            import test.support as support
        except ImportError:  # no test package at all: the neighbour's as a whole
            sys.modules.pop("test", None)
            package = ModuleType("test")
            package.__path__ = [str(folder / "test")]
            sys.modules["test"] = package
        else:
            import test

            test.__path__.append(str(folder / "test"))
            _complete(support)
    return {name: importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES}


def _complete(support: Any) -> None:
    """Gives an older `test.support` what the borrowed tests take from it."""
    if not hasattr(support, "Py_GIL_DISABLED"):
        support.Py_GIL_DISABLED = False
    if not hasattr(support, "requires_gil_enabled"):
        support.requires_gil_enabled = lambda why: lambda test: test
    usual = support.check_sanitizer
    support.check_sanitizer = lambda **kinds: any(
        usual(**{kind: on}) for kind, on in kinds.items() if kind != "thread"
    )
    support.skip_if_sanitizer = lambda *why, **kinds: lambda test: test
    if not hasattr(os, "process_cpu_count"):
        os.process_cpu_count = os.cpu_count  # type: ignore[attr-defined]


def point(modules: dict[str, ModuleType], executors: dict[str, type]) -> dict[str, Any]:
    """The test classes of each mixin, by name, run against the executor given for it.

    `executors` is by the mixin's name; an executor stands for its namesake in the tests' sources.
    """
    namespace = SimpleNamespace(**vars(futures))
    for executor in executors.values():
        setattr(namespace, executor.__name__, executor)
    # conftest.py checks for threads and children; theirs counts gorun's own as leaks.
    base = modules["util"].BaseTestCase
    base.setUp = base.tearDown = lambda self: None
    found: dict[str, Any] = {}
    for module in modules.values():
        if getattr(module, "futures", None) is futures:
            module.futures = namespace  # type: ignore[attr-defined]
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = _elsewhere(module.assert_python_ok)  # type: ignore[attr-defined]
        for mixin, executor in executors.items():
            kind = getattr(modules["util"], mixin)
            kind.executor_type = executor
            for title, thing in vars(module).items():
                if (
                    isinstance(thing, type)
                    and issubclass(thing, kind)
                    and issubclass(thing, unittest.TestCase)
                ):
                    found[title] = thing
    return dict(sorted(found.items()))


def point_futures(modules: dict[str, ModuleType], future: type) -> Any:
    """The tests of futures, run against `future`."""
    util, tests = modules["util"], modules["test_future"]
    util.Future = tests.Future = future  # type: ignore[attr-defined]
    for name, usual in list(vars(util).items()):
        if name.endswith("_FUTURE"):
            made = util.create_future(usual._state, usual._exception, usual._result)
            setattr(tests, name, made)
    # They read what logging prints where nobody has installed a handler; pytest has.
    logger = logging.getLogger("concurrent.futures")

    def set_up(self: unittest.TestCase) -> None:
        logger.propagate = False
        self.addCleanup(setattr, logger, "propagate", True)
        logger.addHandler(logging.lastResort)
        self.addCleanup(logger.removeHandler, logging.lastResort)

    tests.FutureTests.setUp = set_up
    return tests.FutureTests


def _elsewhere(assert_python_ok: Callable[..., Any]) -> Callable[..., Any]:
    """As it is, with the script's executor replaced and its helper written out."""

    def run(flag: str, script: str, **env: str) -> Any:
        script, count = re.subn(
            r"from concurrent\.futures import (\w+)",
            lambda found: IN_A_SCRIPT.format(
                on="process" if "Process" in found[1] else "thread", name=found[1]
            ),
            script,
        )
        assert count == 1, script
        script = re.sub(
            r"from test\.test_concurrent_futures\.test_shutdown import sleep_and_print",
            "sleep_and_print = lambda t, text: (sleep_(t), print(text, flush=True))",
            script,
        )
        script = script.replace(
            "if 1:\n", "if 1:\n            from time import sleep as sleep_\n", 1
        )
        script = script.replace(
            "if True:\n", "if True:\n            from time import sleep as sleep_\n", 1
        )
        return assert_python_ok(flag, script, **env)

    return run
