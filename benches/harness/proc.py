"""Worker processes, seen from the harness: started, asked by lines, answered in JSON lines."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .machine import children_cpu, process_cpu
from .model import Row, Variant

BENCHES = Path(__file__).resolve().parent.parent
GO_BINARY = BENCHES / "go" / "bin" / "gobench"
TUNING = (
    *("GORUN_", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS"),
    *("PYTHONGIL", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONMALLOC", "PYTHONTRACEMALLOC"),
)
"""Settings of the user's shell that would change what is measured: defaults only."""


class WorkerFailed(Exception):
    """A worker answered with an error, died, or did not answer in time."""


class NotAvailable(Exception):
    """A worker lacks what its variant needs (gorun itself, or a part of it)."""


def build_go() -> None:
    """Build the Go rows; without Go they are reported as not available."""
    if shutil.which("go") is None:
        GO_BINARY.unlink(missing_ok=True)
        return
    GO_BINARY.parent.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(GO_BINARY), "."], cwd=BENCHES / "go", check=True)


def compile_package(python: str) -> None:
    """Compile gorun for `python`, as pip does; else each new interpreter of a row may pay for that."""
    code = "import compileall, gorun; compileall.compile_dir(gorun.__path__[0], quiet=1)"
    subprocess.run([python, "-c", code], check=False, cwd=BENCHES)


def command(row: Row, variant: Variant, python: str) -> list[str]:
    if variant.runtime == "go":
        return [str(GO_BINARY)]
    return [python, "-m", "harness.worker", row.name, variant.name]


class Worker:
    """One variant of one row in a process of its own; lives for the row's rounds."""

    def __init__(self, row: Row, variant: Variant, python: str, *, limit: float) -> None:
        if variant.runtime == "go" and not GO_BINARY.exists():
            raise NotAvailable("go is not installed")
        self._row, self._variant, self._limit = row, variant, limit
        env = {k: v for k, v in os.environ.items() if not k.startswith(TUNING)}
        self._process = subprocess.Popen(
            command(row, variant, python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=BENCHES,
            env=env | {"GOMAXPROCS": str(variant.procs)},
            start_new_session=True,
        )
        self._rest = b""
        self._cpu = 0.0
        try:
            self.about = self._ask("hello")
            if self.about["procs"] not in (None, variant.procs):
                raise WorkerFailed(f"runs at P = {self.about['procs']}, not {variant.procs}")
        except BaseException:
            self.kill()
            raise

    def run(self, n: int) -> dict[str, Any]:
        name = self._variant.go or self._row.name
        return self._ask(f"run {name} {n}")

    def alive(self) -> bool:
        return self._process.poll() is None

    def cpu(self) -> float:
        """CPU seconds so far; of one that has died, what was read last: its own turn tells."""
        with suppress(OSError):
            self._cpu = process_cpu(self._process.pid) + children_cpu(self._process.pid)
        return self._cpu

    def kill(self) -> None:
        """End the process as it stands: a fresh one may hold a hundred thousand goroutines."""
        self._process.kill()
        self._reap()

    def close(self) -> None:
        """End of input: the worker leaves by its own exit path."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            print(f"{self._row.name}/{self._variant.name}: did not exit in 10 s", file=sys.stderr)
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), line.encode() + b"\n")
        except BrokenPipeError:
            raise WorkerFailed(self._death()) from None
        answer: dict[str, Any] = json.loads(self._read_line())
        if "missing" in answer:
            raise NotAvailable(answer["missing"])
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        until = time.monotonic() + self._limit
        while b"\n" not in self._rest:
            if not select.select([out], [], [], max(0.0, until - time.monotonic()))[0]:
                self._process.kill()
                raise WorkerFailed(f"no answer in {self._limit:g} s")
            data = os.read(out, 65536)
            if not data:
                raise WorkerFailed(self._death())
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _death(self) -> str:
        return f"the worker ended with code {self._process.wait()}"
