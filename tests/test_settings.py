"""gomaxprocs, configure, the environment, ThreadLimit. "Mutation:" names what fails a test."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gorun
from gorun import _settings

LIMIT = 20.0


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# ---- gomaxprocs ----------------------------------------------------------------------------------


def test_gomaxprocs_gives_the_previous_value(maxprocs: int) -> None:
    # Mutation: return the new one.
    assert gorun.gomaxprocs() == maxprocs
    assert gorun.gomaxprocs(3) == maxprocs
    assert gorun.gomaxprocs(None) == 3
    assert gorun.gomaxprocs(512) == 3
    assert len(gorun.stats().ps) >= 3
    assert gorun.gomaxprocs(1) == 512


@pytest.mark.parametrize("bad", [0, -1, 513, 10**30])
def test_bad_numbers_of_ps(bad: int) -> None:
    with pytest.raises(ValueError, match=rf"gomaxprocs must be from 1 to 512, not {bad}"):
        gorun.gomaxprocs(bad)
    bad = 10**9 if bad == 513 else bad
    with pytest.raises(ValueError, match=rf"max_threads must be .*, not {bad}"):
        gorun.configure(max_threads=bad)


@pytest.mark.parametrize("bad", [1.0, "2", True, False, [1], 1j])
def test_no_numbers_of_ps(bad: Any) -> None:
    # Mutation: `int(n)`: True is 1, "2" is 2.
    with pytest.raises(TypeError, match="whole number") as caught:
        gorun.gomaxprocs(bad)
    assert repr(bad) in str(caught.value)
    with pytest.raises(TypeError, match="whole number") as caught:
        gorun.configure(max_threads=bad)
    assert repr(bad) in str(caught.value)


def test_gomaxprocs_while_running() -> None:
    # Mutation: a P that goes away keeps its queue.
    stop = threading.Event()

    async def body() -> int:
        n = 0
        while not stop.is_set():
            n += 1
            await gorun.gosched_async()
        return n

    gs = [gorun.go(body) for _ in range(50)]
    for n in [1, 4, 2, 7, 1, 3] * 5:
        gorun.gomaxprocs(n)
        assert gorun.go(abs, -n).result(LIMIT) == n
    stop.set()
    assert all(g.result(LIMIT) >= 0 for g in gs)


def test_no_more_run_at_once_than_there_are_ps(maxprocs: int) -> None:
    # Mutation: `acquire_p` never waits.
    running = 0
    most = 0
    lock = threading.Lock()

    def body() -> None:
        nonlocal running, most
        for _ in range(20):
            with lock:
                running += 1
                most = max(most, running)
            with lock:
                running -= 1
            gorun.sleep(0.0002)

    for g in [gorun.go(body) for _ in range(10)]:
        g.result(LIMIT)
    # Held in `with lock` a goroutine may be taken for blocked, once for each M.
    assert most <= 10


# ---- configure and ThreadLimit -------------------------------------------------------------------


def test_configure_takes_names_only() -> None:
    with pytest.raises(TypeError):
        gorun.configure(5)  # type: ignore[misc]
    with pytest.raises(TypeError):
        gorun.configure(threads=5)  # type: ignore[call-arg]
    gorun.configure()
    gorun.configure(max_threads=None)


def test_a_thousand_blocking_calls_on_64_threads() -> None:
    # Mutation: no limit in `start_m`, or plain goroutines fail instead of queueing.
    got = python(
        """
import gorun, threading, time
gorun.configure(max_threads=64)
gs = [gorun.go(time.sleep, 0.002) for _ in range(1000)]
most = 0
while not all(g.done() for g in gs):
    most = max(most, sum(t.name.startswith("gorun-m") for t in threading.enumerate()))
    time.sleep(0.001)
assert all(g.result() is None for g in gs)
assert gorun.stats().ms <= 64, gorun.stats()
print(most)
""",
    )
    assert got.returncode == 0, got.stderr
    assert 2 <= int(got.stdout) <= 64


def test_the_last_free_thread_does_not_block() -> None:
    # Mutation: `may_block` answers True always: a deadlock.
    got = python(
        """
import gorun
gorun.configure(max_threads=4)
gate = gorun._gorun.Latch()
def body():
    try:
        gate.wait()
    except gorun.ThreadLimit as error:
        gate.set()
        return str(error)
texts = [g.result(30) for g in [gorun.go(body) for _ in range(20)]]
texts = [t for t in texts if t]
assert texts
print(texts[0])
async def coro():
    await gorun.sleep_async(0.001)
    return 1
assert gorun.go(coro).result(30) == 1
""",
    )
    assert got.returncode == 0, got.stderr
    for part in ("max_threads is 4", "all 4 are in use", "gorun.configure", "GORUN_MAX_THREADS"):
        assert part in got.stdout


def test_detected_blocking_at_the_limit_warns_once() -> None:
    got = python(
        """
import gorun, time
gorun.configure(max_threads=2)
gs = [gorun.go(time.sleep, 0.05) for _ in range(8)]
assert [g.result(30) for g in gs] == [None] * 8
""",
    )
    assert got.returncode == 0, got.stderr
    assert got.stderr.count("RuntimeWarning") <= 1


# ---- the environment -----------------------------------------------------------------------------

garbage = pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1e3", "99999999999", "3,4"])


@pytest.mark.no_matrix
@garbage
@pytest.mark.parametrize("name", ["GOMAXPROCS", "GORUN_MAX_THREADS"])
def test_garbage_in_the_environment(name: str, text: str) -> None:
    # Mutation: fall back to the default without a word.
    got = python("import gorun", **{name: text})
    assert got.returncode != 0
    assert f"ValueError: {name} must be a whole number" in got.stderr
    assert repr(text) in got.stderr


@pytest.mark.no_matrix
def test_the_environment() -> None:
    code = "import gorun; print(gorun.gomaxprocs(), gorun._gorun._max_threads(0))"
    got = python(code, GOMAXPROCS=" 3 ", GORUN_MAX_THREADS="77")
    assert got.stdout.split() == ["3", "77"], got.stderr
    got = python(code, GOMAXPROCS="", GORUN_MAX_THREADS="")
    assert got.stdout.split() == [str(_settings.usable_cpus()), "10000"], got.stderr
    got = python("import gorun", GORUN_SYSMON="garbage")
    assert "GORUN_SYSMON must be 'auto' or 'clock', not 'garbage'" in got.stderr
    assert python("import gorun; gorun.run(abs, 1)", GORUN_SYSMON="clock").returncode == 0


@pytest.mark.no_matrix
def test_affinity_counts() -> None:
    # Mutation: os.cpu_count() instead.
    cpus = os.sched_getaffinity(0)
    code = f"import os; os.sched_setaffinity(0, {{{min(cpus)}}}); import gorun; " + (
        "print(gorun.gomaxprocs())"
    )
    got = python(code, GOMAXPROCS="")
    assert got.stdout.split() == ["1"], got.stderr


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    ("files", "own", "cpus"),
    [
        ({"cpu.max": "max 100000"}, "0::/", math.inf),
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, "0::/a/b", 0.5),
        ({"a/cpu.max": "200000 100000", "cpu.max": "max 1"}, "0::/a", 2.0),
        ({"cpu.max": "200000 100000"}, "0::/..", 2.0),
        ({"cpu.max": "200000 100000"}, "0::/../../x/y", 2.0),
        ({"a\x1cb/cpu.max": "200000 100000"}, "0::/a\x1cb\n\nodd", 2.0),
        ({"cpu.max": "garbage"}, "0::/", math.inf),
        ({}, "0::/gone", math.inf),
        ({"cpu/x/cpu.cfs_quota_us": "30000", "cpu/x/cpu.cfs_period_us": "10000"}, "3:cpu:/x", 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "10000"}, "3:cpu:/", math.inf),
        ({"cpu/cpu.cfs_quota_us": "5", "cpu/cpu.cfs_period_us": "0"}, "3:cpu:/", math.inf),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], own: str, cpus: float) -> None:
    # Mutation: look at the own group only, not at its ancestors.
    for name, text in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    listing = tmp_path / "cgroup"
    listing.write_text(own + "\n")
    assert _settings._quota(str(tmp_path / "root"), str(listing)) == cpus
    assert _settings._quota(str(tmp_path / "root"), str(tmp_path / "none")) == math.inf


@pytest.mark.no_matrix
def test_usable_cpus_rounds_the_quota_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation: floor.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for quota, cpus in ((0.1, 1), (1.0, 1), (1.2, 2), (7.5, 8), (100.0, 8), (math.inf, 8)):
        monkeypatch.setattr(_settings, "_quota", lambda quota=quota: quota)
        assert _settings.usable_cpus() == cpus


@pytest.mark.no_matrix
@pytest.mark.parametrize("again", ["keep", "forget"])
def test_a_failed_import_can_be_tried_again(again: str) -> None:
    """The extension is there, not set up: what is called answers or raises. The next import works, whatever is left.

    Mutations: `rt::make` by `_init` only; the same for the names in `errors::init`.
    """
    script = f"""
import os, sys
os.environ['GOMAXPROCS'] = 'many'
try:
    import gorun
except ValueError as e:
    assert 'many' in str(e)
core = sys.modules['gorun._gorun']
ch = core.Chan(1)
ch.send('value')
assert ch.recv() == 'value' and core.num_goroutine() == 0 and core.current() is None
try:
    core.go(abs, -1)
except RuntimeError as e:
    assert 'cannot start a thread' in str(e)
if {again == "forget"}:
    for name in [m for m in sys.modules if m.startswith('gorun')]: del sys.modules[name]
os.environ['GOMAXPROCS'] = '2'
import gorun
assert gorun.gomaxprocs() == 2 and gorun.go(abs, -1).result() == 1
try:
    gorun.Chan().close() or gorun.Chan().recv(timeout=0.001)
except TimeoutError:
    print('well')
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=40
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("well\n", "", 0)
