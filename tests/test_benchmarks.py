"""The rows of benches/ that race `concurrent.futures` and threads, for pytest-benchmark.

Left out of a normal run by the marker: `python -m pytest -m bench tests/test_benchmarks.py`.
`make bench` measures the same functions interleaved, in processes of their own, beside Go;
these are for a quick look at one machine, and to compare two commits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.model import Row, Sample

BENCHES = Path(__file__).resolve().parent.parent / "benches"
ROUNDS = 15

pytestmark = [pytest.mark.bench, pytest.mark.no_matrix, pytest.mark.timeout(600)]


@pytest.fixture
def find_row(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Finds a row by name; benches/ is not part of the project's path."""
    monkeypatch.syspath_prepend(str(BENCHES))
    from rows import find

    return find


@pytest.mark.parametrize(
    ("name", "variant"),
    [
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
    try:
        sample: Sample = benchmark.pedantic(run, args=(row.n,), rounds=ROUNDS, warmup_rounds=1)
    except NotImplementedError as missing:
        pytest.skip(str(missing))
    assert sample.count == row.n
    benchmark.extra_info["unit"] = row.unit
    benchmark.extra_info["last"] = row.value(sample)
