"""Every public docstring: it is there, begins with one sentence, and its example runs.

The finder of doctest leaves out what is not written in Python: the extension's functions, methods
and properties are looked up by name.
"""

from __future__ import annotations

import doctest
import inspect
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest

import gorun

pytestmark = pytest.mark.no_matrix

NO_EXAMPLE = {
    *("Cancelled", "GorunError", *(e.__name__ for e in gorun.GorunError.__subclasses__())),
    *("ExceptHookArgs", "GoroutineInfo", "PStats", "Stats", "__version__"),
}
"""Plain data and errors: shown where they are used."""

OTHERS = {"map", "map_async"}
"""Written and tested elsewhere."""


def public() -> Iterator[tuple[str, Any]]:
    for name in gorun.__all__:
        thing = getattr(gorun, name)
        if name in OTHERS:
            continue
        yield name, thing
        if inspect.isclass(thing) and name not in NO_EXAMPLE:
            for attribute, value in vars(thing).items():
                if attribute in getattr(thing, "_fields", ()):
                    continue  # told in the class's docstring
                if not attribute.startswith("_") and getattr(value, "__doc__", None):
                    yield f"{name}.{attribute}", value


THINGS = dict(public())
EXAMPLES = {
    name: text
    for name, thing in THINGS.items()
    if name != "__version__" and ">>>" in (text := inspect.getdoc(thing) or "")
}


def test_the_extension_is_looked_at() -> None:
    for name in ("go", "sleep", "Goroutine.result", "Goroutine.cancel", "Timer.stop", "current"):
        assert name in EXAMPLES


@pytest.mark.parametrize("name", [n for n in THINGS if n != "__version__"])
def test_docstrings(name: str) -> None:
    text = inspect.getdoc(THINGS[name])
    assert text, f"{name} has no docstring"
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), first
    plain = callable(THINGS[name]) and name not in NO_EXAMPLE
    if re.fullmatch(r"As `*\w+`*, awaited\.", text):
        # A twin does the same: its example is the other's, which there must be.
        name = name.removesuffix("_async")
    assert not plain or name in EXAMPLES, f"{name} has no example"


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], {}, name, None, None)
    # `excepthook` is the tests' own during a test.
    usual, gorun.excepthook = gorun.excepthook, gorun._hooks.excepthook
    out = io.StringIO()
    try:
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
        result = runner.run(test, out=out.write)
    finally:
        gorun.excepthook = usual
    assert result.attempted > 0
    assert result.failed == 0, out.getvalue()
