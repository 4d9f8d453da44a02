"""What a worker process may take: memory, and the threads of the libraries inside."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests import _child
from tests._procs import HANG, alive, until

import gorun
from gorun import _settings
from gorun._proc import start, warm

pytestmark = pytest.mark.no_matrix

MEGABYTES = 1_000_000


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As they were."""
    monkeypatch.setattr(_settings, "_growth", None)
    warm.close()  # their memory is what other tests made of it
    yield
    warm.close()


def grow(megabytes: int) -> int:
    """Keeps so much; longer than a worker takes to look at its memory again."""
    kept: Any = __import__("builtins").__dict__.setdefault("kept_by_a_test", [])
    kept.append(bytearray(b"x") * (megabytes * MEGABYTES))
    time.sleep(0.11)
    return os.getpid()


def shrink(megabytes: int) -> int:
    """Takes as much, and keeps none of it but in a cycle."""
    cycle: list[Any] = [bytearray(b"x") * (megabytes * MEGABYTES)]
    cycle.append(cycle)
    time.sleep(0.11)
    return os.getpid()


def test_a_worker_that_grows_is_replaced() -> None:
    """And all calls are run; the first one's memory is not counted.

    Mutation: `look_at_memory` that does not ask.
    """
    gorun.configure(worker_growth=50 * MEGABYTES)
    with gorun.Executor(1, on="process") as executor:
        pids = [executor.submit(grow, n).result(HANG) for n in (90, 20, 20, 20, 0, 0)]
        assert pids[0] == pids[3]
        until(lambda: not alive(pids[0]))
        assert executor.submit(os.getpid).result(HANG) not in pids[:4]


def test_a_maps_worker_that_grows_is_replaced() -> None:
    """Nothing is lost. Mutation: a worker that leaves gets the next batch."""
    gorun.configure(worker_growth=30 * MEGABYTES)
    pids = list(gorun.map(grow, [20] * 12, on="process", workers=2))
    assert len(pids) == 12
    assert len(set(pids)) > 2


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="the allocator of free-threaded builds keeps what was freed: a worker more is replaced",
)
def test_garbage_is_no_growth() -> None:
    """What the collector takes does not count. Mutation: no `gc.collect`."""
    gorun.configure(worker_growth=50 * MEGABYTES)
    with gorun.Executor(1, on="process") as executor:
        executor.submit(__import__("gc").disable).result(HANG)
        assert len({executor.submit(shrink, 30).result(HANG) for _ in range(4)}) == 1


def test_growth_may_be_unlimited() -> None:
    """Mutation: 0 is the smallest bound."""
    gorun.configure(worker_growth=0)
    with gorun.Executor(1, on="process") as executor:
        assert len({executor.submit(grow, 30).result(HANG) for _ in range(4)}) == 1


def test_bad_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors name the value, and change nothing. Mutation: `configure` sets before it checks."""
    bad: Any
    for bad, kind in ((-1, ValueError), ("1", TypeError), (True, TypeError), (1.5, TypeError)):
        with pytest.raises(kind, match=f"worker_growth.* not {bad!r}"):
            gorun.configure(worker_growth=bad)
    assert _settings.worker_growth() == 300 * MEGABYTES
    monkeypatch.setenv("GORUN_WORKER_GROWTH", "77")
    assert _settings.worker_growth() == 77
    monkeypatch.setenv("GORUN_WORKER_GROWTH", "much")
    with pytest.raises(ValueError, match=r"GORUN_WORKER_GROWTH .* not 'much'"):
        _settings.worker_growth()


def threads_inside(_: int = 0) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in start.INNER_THREADS}


def test_inner_threads_are_a_fair_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the CPUs that may be used; the environment knows better.

    Mutation: `os.cpu_count()`.
    """
    monkeypatch.setattr(start, "usable_cpus", lambda: 12)
    for name in start.INNER_THREADS:
        monkeypatch.delenv(name, raising=False)
    [found] = gorun.map(threads_inside, [0], on="process", workers=4)
    assert set(found.values()) == {"3"}
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    [found] = gorun.map(threads_inside, [0], on="process", workers=4)
    assert found["MKL_NUM_THREADS"] == "7"
    assert found["OMP_NUM_THREADS"] == "3"


def test_blas_keeps_to_its_share() -> None:
    """OpenBLAS starts no thread beyond it. Mutation: `setup` without the variables."""
    if importlib.util.find_spec("numpy") is None:  # importing it here would leave threads of BLAS
        pytest.skip("needs numpy, which requirements/dev.txt has")
    script = """
        def threads(n):
            import numpy as np
            a = np.ones((600, 600))
            a @ a
            return len(os.listdir("/proc/self/task"))
        from gorun._proc import start
        for name in start.INNER_THREADS:
            os.environ.pop(name, None)
        start.usable_cpus = lambda: workers
        for workers in (1, 2):
            print(*gorun.map(threads, [0], on="process", workers=1))
    """
    if (os.cpu_count() or 1) < 2:
        pytest.skip("OpenBLAS starts no threads where there is one CPU")
    one, two = map(int, _child.run(script).out.split())
    assert two == one + 1
