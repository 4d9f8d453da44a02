"""Many maps on worker processes, with deaths, errors and early ends at random: nothing is lost."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent import futures
from contextlib import suppress
from typing import Any

import pytest
from tests._procs import act

import gorun

pytestmark = [pytest.mark.stress, pytest.mark.timeout(300)]

LONG = 60.0
"""Seconds that no call takes."""


def plans(chance: random.Random) -> list[tuple[int, str, float]]:
    count = chance.choice([1, 10, 100, 1000])
    odd = chance.choice([0.0, 0.01, 0.1 if count <= 100 else 0.005])
    made = []
    for n in range(count):
        what = chance.choice(["sleep", "spin", "raise", "die"]) if chance.random() < odd else ""
        made.append((n, what, chance.choice([1e-5, 1e-3, 1e-2])))
    return made


def one_map(chance: random.Random) -> None:
    plan = plans(chance)
    options: dict[str, Any] = {
        "workers": chance.choice([1, 2, 3]),
        "ordered": chance.random() < 0.7,
        "chunk": chance.choice([None, None, 1, 7]),
        "buffer": chance.choice([None, None, 7, 50]),
        # A start costs some 20 ms, or ten times as much on a machine that is busy.
        "max_tasks_per_child": chance.choice([None, None, max(20, len(plan) // 10)]),
    }
    with gorun.map(act, plan, on="process", errors="return", timeout=120, **options) as m:
        if chance.random() < 0.2:
            for _ in range(chance.randrange(len(plan))):
                next(m)
            return
        found = list(m)
    assert len(found) == len(plan)
    lost = sum(isinstance(f, gorun.WorkerDied) for f in found)
    dead = sum(what == "die" for _, what, _ in plan)
    assert lost >= dead
    values = [f for f in found if isinstance(f, int)]
    failed = [f.args[0] for f in found if isinstance(f, ValueError)]
    assert len(values) + len(failed) + lost == len(plan)
    assert len(set(values) | set(failed)) == len(values) + len(failed)
    if options["ordered"]:
        assert values == sorted(values)
        for n, f in enumerate(found):
            assert not isinstance(f, int) or f == n
    for f in found:
        if isinstance(f, gorun.WorkerDied):
            assert any(what == "die" for _, what, _ in f.items)


@pytest.mark.parametrize("seed", range(4))
def test_random_maps(seed: int) -> None:
    """Mutations: any of those in test_procmap_failures.py."""
    chance = random.Random(seed)
    for _ in range(6):
        one_map(chance)


def test_random_maps_in_threads() -> None:
    """Several at a time, that take each other's workers. Mutation: `warm.start` is no single pop."""
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            chance = random.Random(seed)
            for _ in range(3):
                one_map(chance)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(100, 104)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def some_calls(executor: gorun.Executor, chance: random.Random) -> None:
    """One of the ways to wait for calls; each call is told once, and rightly."""
    kind = chance.randrange(6)
    if kind == 0:
        assert executor.submit(abs, -7).result(LONG) == 7
    elif kind == 1:
        calls = [executor.submit(abs, -n) for n in range(chance.randrange(60))]
        chance.shuffle(calls)
        assert sorted(call.result(LONG) for call in calls) == list(range(len(calls)))
    elif kind == 2:
        call = executor.submit(time.sleep, 0.003)
        with suppress(TimeoutError):
            call.result(0.001)
        call.result(LONG)
    elif kind == 3:
        naps = [executor.submit(time.sleep, 0.0005) for _ in range(8)]
        cancelled = [nap for nap in naps[3:] if nap.cancel()]
        for nap in naps:
            if nap not in cancelled:
                nap.result(LONG)
    elif kind == 4:
        told = threading.Event()
        call = executor.submit(abs, -1)
        call.add_done_callback(lambda _: told.set())
        if chance.random() < 0.5:
            call.result(LONG)
        assert told.wait(LONG)
    elif chance.random() < 0.05:
        executor.submit(os._exit, 3).exception(LONG)
    else:
        assert not futures.wait([executor.submit(abs, 1) for _ in range(5)], LONG).not_done


@pytest.mark.parametrize("many", [1, 2, 6])
def test_who_waits_for_calls(many: int) -> None:
    """Callers that lead, follow, cancel, give up, and the pool's thread. Mutations: test_leading.py."""
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            try:
                some_calls(executor, chance)
            except gorun.WorkerDied:  # of another one's worker
                pass
            except BaseException as error:
                errors.append(error)
                return

    with gorun.Executor(2, on="process") as executor:
        callers = [threading.Thread(target=run, args=(seed,)) for seed in range(many)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert errors == []
