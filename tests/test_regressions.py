"""One test for each bug that was found and has no better home."""

from __future__ import annotations

import gc
import time
from typing import Any

import gorun

LIMIT = 20.0


def test_collected_handle_reports_a_whole_error(hook_errors: Any) -> None:
    # A handle in a cycle reported from its dealloc, after the collector had cleared the error.
    # Mutation: no tp_finalize on the handle.
    async def fails() -> None:
        raise RuntimeError("whole")

    def in_a_cycle() -> None:
        handles: list[Any] = []
        handles.append(handles)
        for _ in range(20):
            g = gorun.go(fails)
            while not g.done():
                time.sleep(0.0001)
            handles.append(g)

    gc.disable()
    try:
        in_a_cycle()
    finally:
        gc.enable()
    gc.collect()
    errors = hook_errors.take(20)
    assert [str(e.exc_value) for e in errors] == ["whole"] * 20
    assert all(e.exc_traceback is not None for e in errors)


def test_timers_fire_while_other_ms_block() -> None:
    # The only M that slept with a deadline was taken for a goroutine that blocked: nothing fired.
    # Mutation: `pop_idle_m` takes the timekeeper and leaves `keeper_deadline` as it was.
    async def sleeper() -> None:
        await gorun.sleep_async(0.1)

    for _ in range(5):
        g = gorun.go(sleeper)
        time.sleep(0.02)
        blocked = [gorun.go(gorun.sleep, 0.5) for _ in range(4)]
        g.result(LIMIT)
        for b in blocked:
            b.cancel()
            b.exception(LIMIT)


def test_restart_after_shutdown() -> None:
    # An M that ended stayed in the idle list, and was handed a P.
    # Mutation: `idle` returns for the stop without `unlist`.
    for n in range(10):
        assert gorun.go(abs, -n).result(LIMIT) == n
        assert gorun.shutdown(LIMIT)


def test_an_operation_shared_by_two_goroutines() -> None:
    # The second one parked without being armed, and slept for ever.
    # Mutation: `Op::step` does not compare goroutines, `StateWord::park` takes that for parked.
    op = gorun.sleep_async(0.01)

    async def body() -> None:
        await op

    gs = [gorun.go(body) for _ in range(2)]
    ends = [type(g.exception(LIMIT)) for g in gs]
    assert sorted(e.__name__ for e in ends) == ["NoneType", "RuntimeError"]
