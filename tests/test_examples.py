"""Every example runs as a program of its own, and says by its exit code that it went well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {"sleepers": ["20000"]}
TOLD = {
    "hello": "hello, world",
    "sleepers": "20,000 goroutines",
    "blocking_ticker": "ticks beside them",
    "parallel_map": "64 results in order",
    "prime_sieve": "30 primes, the last is 113",
    "pipeline": "CHANNEL ENDS GOROUTINE EACH THEM",
    "fan_in": "10 messages from 4 producers: a0 a1 a2 b0 c0 c1 c2 c3 d0 d1",
    "fan_out": "40 squares, the last is 1521",
    "worker_pool": "90 results, 10 errors",
    "rate_limiter": "25 requests: 5 at once, 20 more in",
    "pub_sub": "task: two",
    "dining_philosophers": "Russell ate 20 times",
    "deadline": "archive was cut: the client has gone",
    "heartbeat": "first, stuck no more, last: ",
}

pytestmark = pytest.mark.no_matrix


def test_each_example_is_run_below() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(TOLD)


@pytest.mark.parametrize("name", sorted(TOLD))
def test_example(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *ARGUMENTS.get(name, [])],
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert TOLD[name] in result.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
