"""What `gorun` exports: names, modules, signatures."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest

import gorun

pytestmark = pytest.mark.no_matrix

ERRORS = [
    *("ChannelClosed", "WouldBlock", "Deadlock", "GoroutineLeak", "GoroutineCancelled"),
    *("ContextDone", "ThreadLimit", "WorkerDied"),
]


def test_all_is_sorted_and_there() -> None:
    assert list(gorun.__all__) == sorted(gorun.__all__)
    assert len(set(gorun.__all__)) == len(gorun.__all__)
    for name in gorun.__all__:
        assert hasattr(gorun, name)


def test_star_import_leaves_the_builtins_alone() -> None:
    # Mutation: put "map" into __all__.
    space: dict[str, Any] = {}
    exec("from gorun import *", space)
    assert "map" not in space
    assert "go" in space
    assert callable(gorun.map)


def test_import_loads_little() -> None:
    """What few programs need, and is slow to load, is not loaded: it would double the time.

    Mutation: `import inspect` at the top of _map/carrier.py.
    """
    heavy = ["asyncio", "cloudpickle", "inspect", "multiprocessing", "pathlib", "platform", "uuid"]
    code = (
        "import sys; before = set(sys.modules); import gorun;"
        f"print(*sorted(set({heavy}) & (set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_errors() -> None:
    for name in ERRORS:
        cls = getattr(gorun, name)
        assert issubclass(cls, gorun.GorunError)
        assert cls.__module__ == "gorun"
    assert issubclass(gorun.GorunError, Exception)
    assert issubclass(gorun.Cancelled, BaseException)
    assert not issubclass(gorun.Cancelled, Exception)


def test_reasons() -> None:
    assert gorun.Cancelled().reason is None
    assert gorun.Cancelled().args == ()
    assert gorun.Cancelled("why").reason == "why"
    assert str(gorun.Cancelled("why")) == "why"
    assert str(gorun.GoroutineCancelled()) == "the goroutine was cancelled"
    assert str(gorun.GoroutineCancelled("x was cancelled", 5)) == "x was cancelled: 5"
    error = gorun.WorkerDied("died", (1, 2), -9)
    assert (error.items, error.exitcode, str(error)) == ((1, 2), -9, "died")


@pytest.mark.parametrize(
    "error",
    [
        gorun.Cancelled("why"),
        gorun.GoroutineCancelled("text", "why"),
        gorun.ThreadLimit("x"),
        gorun.WorkerDied("died", (1,), 2),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_can_be_pickled(error: BaseException) -> None:
    # Executors send them between processes.
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_public_things_say_that_they_are_gorun() -> None:
    for name in gorun.__all__:
        thing = getattr(gorun, name)
        if inspect.isclass(thing):
            assert thing.__module__ == "gorun", name
            assert thing.__name__ == name


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gorun.__version__)


@pytest.mark.parametrize("name", [n for n in gorun.__all__ if n != "__version__"])
def test_signatures_and_docstrings(name: str) -> None:
    thing = getattr(gorun, name)
    assert inspect.getdoc(thing), name
    if inspect.isroutine(thing):
        inspect.signature(thing)  # does not raise


def test_signatures() -> None:
    def parameters(fn: Any) -> str:
        # Without annotations, and without the name of the first.
        p = inspect.signature(fn).parameters.values()
        return ", ".join(str(x.replace(annotation=inspect.Parameter.empty)) for x in p)

    assert parameters(gorun.go) == "fn, *args, **kwargs"
    assert parameters(gorun.run) == "main, *args, **kwargs"
    assert parameters(gorun.go_many) == "fn, iterable"
    assert parameters(gorun.spawn) == "fn, args=(), kwargs=None, name=None, priority=None, tags=()"
    assert parameters(gorun.wait) == "fs, timeout=None, return_when='ALL_COMPLETED'"
    assert parameters(gorun.wait_async) == parameters(gorun.wait)
    assert parameters(gorun.as_completed) == "fs, timeout=None"
    assert parameters(gorun.gomaxprocs) == "n=None"
    assert parameters(gorun.shutdown) == "timeout=None"
    assert parameters(gorun.Timer) == "seconds, fn=None"
    for name in ("result", "exception"):
        assert parameters(getattr(gorun.Goroutine, name)) == "self, timeout=None"
    assert parameters(gorun.Goroutine.cancel) == "self, reason=None"
    kinds = [p.kind for p in inspect.signature(gorun.spawn).parameters.values()]
    assert kinds[0] is inspect.Parameter.POSITIONAL_ONLY
    assert set(kinds[3:]) == {inspect.Parameter.KEYWORD_ONLY}


def test_async_twins_take_the_same_arguments() -> None:
    for name in gorun.__all__:
        if name.endswith("_async"):
            one = inspect.signature(getattr(gorun, name.removesuffix("_async")))
            two = inspect.signature(getattr(gorun, name))
            assert list(one.parameters) == list(two.parameters), name
