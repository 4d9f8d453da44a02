"""Runs a script in an interpreter of its own: what happens at exit, at a fork, under a signal.

`run` asserts the exit code (0), an empty stderr and promptness, and returns what was printed. The
script starts with `PRELUDE`; asserts in it make the child fail, and its stderr is in the message.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass

import pytest

PRELUDE = """
import gc, os, signal, sys, threading, time, warnings
import gorun
from gorun import go
async def nap(seconds=3600.0):
    await gorun.sleep_async(seconds)
"""

LIMIT = 40.0
"""Seconds until a child counts as hung: below the test's own limit, so that its stacks are shown."""

EXIT = "EXIT-AT "
"""Printed before `time.monotonic()` by a child that tells when its exit began."""


@dataclass
class Ended:
    """How a child ended: `exit_seconds` runs from the end of the script, if asked for."""

    out: str
    err: str
    code: int
    exit_seconds: float | None


def run(
    script: str,
    *,
    code: int = 0,
    err: str | None = "",
    flags: tuple[str, ...] = (),
    exit_clock: bool = False,
    before: str = "",
    **env: str,
) -> Ended:
    """Runs `script` and checks code and stderr; `err=None` checks no stderr. `before` comes first of all."""
    source = before + PRELUDE + textwrap.dedent(script)
    if exit_clock:
        # In one write, on a line of its own: other threads print too.
        source += f"\nprint(f'\\n{EXIT}{{time.monotonic()}}\\n', end='', flush=True)\n"
    return _run([*flags, "-c", source], code, err, env)


def run_file(path: str, *, code: int = 0, err: str | None = "", **env: str) -> Ended:
    """Runs a script from a file, for what pickles functions by name."""
    return _run([path], code, err, env)


def _run(args: list[str], code: int, err: str | None, env: dict[str, str]) -> Ended:
    child = subprocess.Popen(
        [sys.executable, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its children go with it
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **env},
    )
    try:
        out, errors = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGABRT)  # faulthandler shows the stacks
        time.sleep(1)
        os.killpg(child.pid, signal.SIGKILL)
        out, errors = child.communicate()
        pytest.fail(f"the child hung\n{out}\n{errors}")
    end = time.monotonic()
    took = None
    lines = out.splitlines()
    for line in lines:
        if line.startswith(EXIT):
            took = end - float(line.removeprefix(EXIT))
    out = "\n".join(line for line in lines if line and not line.startswith(EXIT))
    if child.returncode != code:
        pytest.fail(f"exit code {child.returncode}, not {code}\n{out}\n{errors}")
    if err is not None and errors != err:
        pytest.fail(f"stderr is not {err!r}:\n{errors}\n{out}")
    return Ended(out, errors, child.returncode, took)
