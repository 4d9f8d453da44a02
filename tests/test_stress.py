"""The whole at once, for long: `make stress`. The repeats of single tests lie beside those tests."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

import pytest

import gorun
from gorun import go

SECONDS = float(os.environ.get("GORUN_STRESS_SECONDS", "20"))

FILES = ["exit", "fork", "signals", "handoff", "sysmon", "baddays"]


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.leaky_ok  # the threads of the load end with the test, its goroutines after a while
def test_everything_at_once() -> None:
    """Both kinds of goroutine, timers, joins, cancels, blocking of both sorts, changing limits.

    Every goroutine ends, none is lost: created == ended at the end. Mutation: a lost wake-up anywhere.
    """
    seed = random.randrange(2**32)
    print("seed", seed)
    stop = False

    async def leaf(rng: random.Random) -> int:
        for _ in range(rng.randrange(4)):
            match rng.randrange(5):
                case 0:
                    await gorun.sleep_async(rng.random() * 0.002)
                case 1:
                    await gorun.gosched_async()
                case 2:
                    time.sleep(rng.random() * 0.001)
                case 3:
                    await gorun.wait_async([go(abs, -1), go(abs, -2)], 0.001, "FIRST_COMPLETED")
                case 4:
                    sum(range(rng.randrange(20_000)))
        return 1

    def plain(rng: random.Random) -> int:
        match rng.randrange(5):
            case 0:
                gorun.sleep(rng.random() * 0.002)
            case 1:
                with gorun.blocking():
                    time.sleep(rng.random() * 0.001)
            case 2:
                time.sleep(rng.random() * 0.001)
            case 3:
                go(leaf, rng).exception(30)
            case 4:
                gorun.gosched()
        return 1

    errors: list[BaseException] = []

    def drive(n: int) -> None:
        rng = random.Random(seed + n)
        try:
            while not stop:
                rngs = [random.Random(rng.random()) for _ in range(rng.randrange(1, 60))]
                gs = [go(rng.choice((leaf, plain)), r) for r in rngs]
                for _ in range(rng.randrange(5)):
                    rng.choice(gs).cancel()
                fired = threading.Event()
                t = gorun.Timer(rng.random() * 0.002, fired.set)
                if not (rng.random() < 0.5 and t.stop()) and rng.random() < 0.5:
                    assert fired.wait(30)
                for g in gs:
                    e = g.exception(30)
                    assert e is None or isinstance(e, gorun.GoroutineCancelled), e
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=drive, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    drivers = [go(drive, n) for n in range(3, 5)]
    end = time.monotonic() + SECONDS
    rng = random.Random(seed)
    while time.monotonic() < end and not errors:
        gorun.gomaxprocs(rng.randrange(1, 5))
        gorun.goroutines()
        gorun.stats()
        time.sleep(rng.random() * 0.05)
    stop = True
    for t in threads:
        t.join(60)
    for g in drivers:
        g._wait(60)
    assert errors == []
    limit = time.monotonic() + 30
    while gorun.num_goroutine():
        assert time.monotonic() < limit, gorun.goroutines()
        time.sleep(0.01)
    s = gorun.stats()
    assert (s.created - s.ended, s.ms_blocked, s.ms_without_p, s.timers) == (0, 0, 0, 0)


@pytest.mark.stress
@pytest.mark.no_matrix
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("loaded", [False, True], ids=["quiet", "loaded"])
@pytest.mark.parametrize("name", FILES)
def test_a_hundred_times(name: str, loaded: bool) -> None:
    """The files of this kind, each repeatedly, also beside as many endless loops as there are CPUs.

    Mutation: none; a flaky test is a bug of ours until shown otherwise.
    """
    repeats = int(os.environ.get("GORUN_STRESS_REPEATS", "10"))
    spin = [sys.executable, "-c", "while True: pass"]
    load = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1) if loaded]
    try:
        for _ in range(repeats):
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", f"tests/test_{name}.py"], check=True
            )
    finally:
        for p in load:
            p.kill()
            p.wait()
