"""coverage.py counts the lines of goroutines, of both kinds, on whatever thread they run.

It hooks threads as a debugger does (`threading.settrace`), or, as from 3.14 on by itself, through
`sys.monitoring`: both are asked here, each in an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_matrix

PROGRAM = """\
import gorun

async def inner(n):
    await gorun.gosched_async()
    doubled = 2 * n  # after a switch
    return doubled

async def body(n):
    got = await inner(n)
    await gorun.sleep_async(0.001)
    if n < 0:
        return -1  # never
    return got

def plain(n):
    more = n + 1
    gorun.sleep(0.001)
    return more

def late(done):
    got = done.result()
    return got

async def first():
    return 0

def main():
    {before}
    both = [gorun.go(body, i) for i in range(4)] + [gorun.go(plain, i) for i in range(4)]
    print([g.result(20) for g in both])
    timer_ran = gorun._gorun.Latch()
    gorun.Timer(0, timer_ran.set)
    timer_ran.wait(20)
    print(gorun.go(late, both[0]).result(20))

main()
"""

CORES = ["pytrace", "sysmon"] if sys.version_info >= (3, 12) else ["pytrace", "ctrace"]


@pytest.mark.parametrize("core", ["", *CORES])
@pytest.mark.parametrize("before", ["pass", "gorun.run(first)"], ids=["no-m-yet", "ms-run"])
def test_lines_of_goroutines_are_counted(tmp_path: Path, core: str, before: str) -> None:
    """Every line that ran is counted, the one that did not is missing; also after the Ms have started.

    Mutation: Ms that are no threads of `threading`, started by `_thread.start_new_thread` in
    `_hooks.start_thread`, and `errands` without its look at the hooks: nothing but `main` is counted.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(before=before))
    environ = {**os.environ, "COVERAGE_FILE": str(tmp_path / "data"), "COVERAGE_CORE": core}

    def coverage(*args: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "coverage", *args],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    out = coverage("run", "--include=program.py", "program.py")
    assert out == "[0, 2, 4, 6, 1, 2, 3, 4]\n0\n"
    coverage("json", "-q", "-o", "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    lines = program.read_text().splitlines()
    missing = {lines[n - 1].strip() for n in report["files"]["program.py"]["missing_lines"]}
    never = {"return -1  # never"} | ({"return 0"} if before == "pass" else set())
    assert missing == never
