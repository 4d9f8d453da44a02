"""The rows of benches/: that they run, and, for pytest-benchmark, those that race threads.

The latter are left out of a normal run by their marker:
`python -m pytest -m bench tests/test_benchmarks.py`. `make bench` measures the same functions
interleaved, in processes of their own, beside Go; these are for a quick look at one machine, and to
compare two commits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.model import Row, Sample

BENCHES = Path(__file__).resolve().parent.parent / "benches"
ROUNDS = 15

pytestmark = pytest.mark.no_matrix


@pytest.fixture
def find_row(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Finds a row by name; benches/ is not part of the project's path."""
    monkeypatch.syspath_prepend(str(BENCHES))
    from rows import find

    return find


SMALL = {
    "chan": 300,
    "chan128": 300,
    "chan128x4": 300,
    "ring": 1100,
    "select": 300,
    "fanout": 50,
    "mutex": 300,
    "mutex-held": 300,
    "mutex-thread": 300,
    "context": 100,
    "thread-chan": 100,
    "thread-chan128": 300,
    "bridge": 300,
    "timer-memory": 2000,
}
"""Rows that are quick to run at a size where each value still passes through."""


@pytest.mark.parametrize("name", SMALL)
def test_runs(name: str, find_row: Any) -> None:
    """Each Python variant of a row runs at a tiny size, and counts what it was asked to do.

    Mutation: let `in_order` (or the sender of a row) miss a value, or misspell a method.
    """
    row: Row = find_row(name)
    ours = [v for v in row.variants if v.run is not None]
    assert ours
    for variant in ours:
        assert variant.run is not None
        sample: Sample = variant.run(SMALL[name])
        assert sample.count == SMALL[name], variant.name
        assert sample.ns > 0, variant.name


def test_go_rows_are_named(find_row: Any) -> None:
    """Each row that has a Go side is in the table of the Go program, under its name.

    Mutation: rename a row in one of the two places.
    """
    find_row("chan")  # the path is set
    from rows import ROWS

    table = (BENCHES / "go" / "main.go").read_text()
    named = [v.go for row in ROWS for v in row.variants if v.runtime == "go"]
    assert named
    assert [name for name in named if f'"{name}":' not in table] == []


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("thread-chan", "gorun"),
        ("thread-chan", "queue"),
        ("thread-chan128", "gorun"),
        ("thread-chan128", "queue"),
        ("mutex-thread", "gorun"),
        ("mutex-thread", "threading"),
        ("functions", "gorun"),
        ("functions", "threadpool"),
        ("sleepers", "gorun"),
        ("sleepers", "threads"),
        ("executor-submit", "gorun"),
        ("executor-submit", "threadpool"),
        ("executor-bulk", "gorun"),
        ("executor-bulk", "threadpool"),
        ("executor-trip", "gorun"),
        ("executor-trip", "threadpool"),
        ("procexec-bulk", "gorun"),
        ("procexec-bulk", "processpool"),
        ("procexec-trip", "gorun"),
        ("procexec-trip", "processpool"),
        ("map", "gorun"),
        ("map", "threadpool"),
        ("map", "serial"),
        ("map", "two processes"),
    ],
)
def test_row(name: str, variant: str, find_row: Any, benchmark: Any) -> None:
    row: Row = find_row(name)
    run = row.variant(variant).run
    assert run is not None
    benchmark.group = f"{row.name}: {row.title}"
    sample: Sample = benchmark.pedantic(run, args=(row.n,), rounds=ROUNDS, warmup_rounds=1)
    assert sample.count == row.n
    benchmark.extra_info["unit"] = row.unit
    benchmark.extra_info["last"] = row.value(sample)
