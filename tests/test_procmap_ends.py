"""How a map on processes ends: closed, dropped, interrupted, with its parent; nothing is left. "Mutation:" names the
change that makes the test fail."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import _child
from tests._mapping import close, drop, leave
from tests._procs import HANG, alive, note, until

import gorun
from gorun._proc import crew, warm, worker

pmap = functools.partial(gorun.map, on="process")


# ---- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [close, leave, drop])
def test_the_rest_is_killed(way: Callable[[Any], None], tmp_path: Path) -> None:
    """Who is at work when the map ends is gone. Mutation: `_tidy` keeps the busy."""

    def item(n: int) -> int:
        if n:
            note(tmp_path, os.getpid())
            time.sleep(HANG * 10)
        return n

    m = pmap(item, range(10), workers=2)
    assert next(m) == 0
    until(lambda: list(tmp_path.glob("[0-9]*")))
    way(m)
    assert list(m) == []
    way(m)
    for path in tmp_path.glob("[0-9]*"):
        until(lambda pid=int(path.name): not alive(pid))  # type: ignore[misc]


def test_who_takes_long_to_die_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No zombie is left, though the end of the map does not wait for it. Mutation: no `_reap`."""

    def item(n: int) -> None:
        note(tmp_path, os.getpid())
        time.sleep(HANG * 10)

    m = pmap(item, range(2), workers=1)
    thread = threading.Thread(target=list, args=(m,))
    thread.start()
    until(lambda: list(tmp_path.glob("[0-9]*")))
    monkeypatch.setattr(worker, "REAP_SECONDS", 0)
    m.close()
    thread.join()
    (pid,) = tmp_path.glob("[0-9]*")
    until(lambda: not Path(f"/proc/{pid.name}").exists())


def test_close_from_another_thread_ends_a_wait() -> None:
    """Mutation: `end` does not wake who is in `serve`."""
    m = pmap(time.sleep, [HANG * 10] * 2)
    timer = threading.Timer(0.3, m.close)
    timer.start()
    assert list(m) == []
    timer.join()


class Interrupt(Exception):
    """What a signal handler raises."""


@pytest.mark.no_matrix
def test_a_wait_that_a_signal_cuts_has_changed_nothing(tmp_path: Path) -> None:
    """The exception comes out of `next`, and another `next` goes on.

    Mutation: `_advance` ends the map for every exception.
    """

    def handler(signum: int, frame: object) -> None:
        raise Interrupt

    def item(n: int) -> int:
        note(tmp_path, f"begun{n}")
        until((tmp_path / "go").exists)
        return n

    usual = signal.signal(signal.SIGUSR1, handler)
    try:
        m = pmap(item, range(4), workers=2)
        main = threading.get_ident()

        def interrupt() -> None:
            until(lambda: len(list(tmp_path.glob("begun*"))) == 2)
            time.sleep(0.2)  # by then it waits
            signal.pthread_kill(main, signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(Interrupt):
            next(m)
        thread.join()
        (tmp_path / "go").touch()
        assert list(m) == [0, 1, 2, 3]
    finally:
        signal.signal(signal.SIGUSR1, usual)


def test_one_that_comes_in_the_middle_of_our_work_ends_the_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes out of `next`; the next one says that the map is lost, and nothing hangs.

    Mutation: `_hurt` does nothing.
    """
    m = pmap(abs, itertools.count(), workers=2)  # never at its end: more is to be taken in
    assert next(m) == 0

    def cut(self: Any, *args: Any) -> None:
        monkeypatch.undo()
        raise Interrupt

    monkeypatch.setattr(crew.Crew, "_take_in", cut)
    with pytest.raises(Interrupt):
        list(m)
    with pytest.raises(RuntimeError, match=r"lost to Interrupt\(\)"):
        list(m)


@pytest.mark.no_matrix
def test_ctrl_c_stops_all(tmp_path: Path) -> None:
    """SIGINT for the whole group, as a terminal sends it: one KeyboardInterrupt, no worker left.

    Mutation: `_advance` has no `except KeyboardInterrupt`: a worker is left, with its item.
    """
    script = f"""
import gorun, os, pathlib, sys, time
def item(n):
    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(3600)
try:
    list(gorun.map(item, range(4), on="process", workers=2))
except KeyboardInterrupt:
    print("cut", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=HANG)
    assert (out, err) == ("cut\n", "")
    assert time.monotonic() - began < 5  # the bound is 0.5
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


@pytest.mark.no_matrix
@pytest.mark.parametrize("busy", ["time.sleep(3600)", "sum(range(10**12))", "None"])
def test_workers_end_with_a_parent_that_is_killed(busy: str, tmp_path: Path) -> None:
    """Idle, waiting, or stuck in native code: SIGKILL of the parent ends them.

    Mutation: `tie_to_parent` does nothing.
    """
    script = f"""
import gorun, os, pathlib, time
def item(n):
    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
    {busy}
for _ in gorun.map(item, range(2), on="process", workers=2): pass
time.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        until(lambda: list(tmp_path.iterdir()))
        time.sleep(0.1)
        process.kill()
    for path in tmp_path.iterdir():
        until(lambda pid=int(path.name): not alive(pid))  # type: ignore[misc]


@pytest.mark.no_matrix
def test_no_worker_outlives_the_interpreter() -> None:
    """Idle ones, and those of a map that is not through.

    Mutation: neither a handler at exit nor a lifeline; either of them does.
    """
    out = _child.run(
        """
        from gorun._proc import crew, warm, worker
        list(gorun.map(abs, range(3), on="process"))
        m = gorun.map(time.sleep, [0, 3600, 3600], on="process", workers=3)
        next(m)
        print(*warm.pids())
        """
    ).out
    assert out
    assert not any(alive(int(pid)) for pid in out.split())


@pytest.mark.no_matrix
def test_a_forked_child_starts_its_own() -> None:
    """A child has none of its parent's workers, and harms none. Mutation: `_forget` is not called."""
    out = _child.run(
        """
        from gorun._proc import crew, warm, worker
        m = gorun.map(abs, range(-100, 0), on="process", buffer=4)
        next(m)
        before = set(warm.pids())
        pid = os.fork()
        if not pid:
            assert warm.pids() == []
            try:
                list(m)
            except RuntimeError as error:
                assert "belong to the process" in str(error), error
            else:
                raise AssertionError("the parent's map went on")
            assert list(gorun.map(abs, [-1, -2], on="process")) == [1, 2]
            assert not before & set(warm.pids())
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(list(m) == list(range(99, 0, -1)))
        """,
        flags=("-W", "ignore::DeprecationWarning"),
    ).out
    assert out == "True"


def test_an_idle_worker_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: `rest` says nothing of `keep`."""
    monkeypatch.setattr(warm, "KEEP", 0.1)
    pids = set(pmap(lambda n: os.getpid(), range(5)))
    until(lambda: not any(alive(pid) for pid in pids))
    assert list(pmap(abs, [-1])) == [1]
