"""The types that users see, checked by mypy: tests/typing/uses*.py and errors*.py."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.no_matrix,
    pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is among the tools of .venv only"),
]

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "tests/typing"


def mypy(name: str) -> str:
    options = ["--strict", "--no-pretty", "--enable-error-code", "unused-coroutine"]
    config = ["--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, *config, str(FILES / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    ).stdout


def errors(output: str, name: str) -> dict[int, str]:
    found = re.findall(rf"{name}:(\d+): error: .*\[([\w-]+)\]", output)
    return {int(line): code for line, code in found}


@pytest.mark.parametrize("name", ["uses.py", "uses_groups.py", "uses_chan.py", "uses_sync.py"])
def test_typical_uses(name: str) -> None:
    # Mutation: drop the first overload of `go`: Goroutine[Coroutine[...]]. Or the overload of
    # `select` for two cases: `Selected[object]`.
    output = mypy(name)
    assert errors(output, name) == {}, output
    assert "Success" in output


@pytest.mark.parametrize("name", ["errors.py", "errors_groups.py", "errors_chan.py"])
def test_errors_are_reported(name: str) -> None:
    # Mutation: `fn: Any` in an overload. Or a last overload of `select` that answers
    # `Selected[Any]`: it takes what a wrong `Selected[str]` refused.
    lines = (FILES / name).read_text().splitlines()
    wanted = {n: line.split("# E: ")[1] for n, line in enumerate(lines, 1) if "  # E: " in line}
    assert wanted
    output = mypy(name)
    assert errors(output, name) == wanted, output
