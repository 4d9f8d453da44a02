"""Sleeps and yields that are awaited: they need no object while they last (`rust/py/src/ops/nap.rs`)."""

from __future__ import annotations

import sys
import sysconfig
from types import CoroutineType
from typing import Any

import pytest
from tests import _child

import gorun

LONG = 3600.0

needs_free_threads = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="with the GIL counting is cheap"
)


async def nap(seconds: float) -> str:
    await gorun.sleep_async(seconds)
    return "awake"


def asleep(coroutine: CoroutineType[Any, Any, Any]) -> object:
    """What the goroutine of this coroutine awaits, once it does."""
    g = gorun.go(coroutine)
    while not any(i.id == g.id and i.wait_reason == "sleep" for i in gorun.goroutines()):
        gorun.sleep(0.001)
    awaited = coroutine.cr_await
    g.cancel()
    with pytest.raises(gorun.GoroutineCancelled):
        g.result(20)
    return awaited


def test_sleepers_share_what_they_await() -> None:
    """A parked sleeper holds no object of its own. Mutation: `take_over` gives None."""
    first, second = asleep(nap(LONG)), asleep(nap(LONG))
    assert first is second


class Two:
    """Sends to the second of two operations first."""

    def __await__(self) -> Any:
        slow, quick = gorun.sleep_async(0.001).__await__(), gorun.gosched_async().__await__()
        yield from quick
        yield from slow
        return "both"


def test_what_await_gives_by_hand_is_the_operation_itself() -> None:
    """Two that were begun by hand do not meet. Mutation: without METH_COEXIST (RuntimeError, reused)."""

    async def main() -> Any:
        return await Two()

    assert gorun.run(main) == "both"


@pytest.mark.parametrize("end", ["close", "throw"])
def test_a_nap_that_is_cut_by_hand_leaves_nothing(end: str) -> None:
    """Its timer is gone, and the goroutine can wait for other things. Mutation: `withdraw` without `drop_timer`."""

    async def main() -> tuple[int, str]:
        inner: Any = nap(LONG)
        inner.send(None)
        if end == "close":
            inner.close()
        else:
            with pytest.raises(KeyError):
                inner.throw(KeyError())
        timers = gorun.stats().timers
        return timers, await nap(0.001)

    assert gorun.run(main) == (0, "awake")


def test_a_second_nap_in_one_goroutine_has_an_object() -> None:
    """A coroutine driven by hand naps, the goroutine meanwhile too. Mutation: `take_over` without a look at `nap`
    (the second takes the first's place, and is never woken)."""

    async def main() -> list[str]:
        inner: Any = nap(LONG)
        inner.send(None)
        got = [await nap(0.001), await nap(0)]
        inner.close()
        return got

    assert gorun.run(main) == ["awake", "awake"]


def test_a_cancel_cuts_a_nap_and_is_delivered_once() -> None:
    """Mutation: `wake_up` returns None whatever the verdict."""

    async def main() -> str:
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled:
            await gorun.gosched_async()
            return await nap(0.001)
        return "not cancelled"

    g = gorun.go(main)
    while not any(i.wait_reason == "sleep" for i in gorun.goroutines()):
        gorun.sleep(0.001)
    assert g.cancel()
    assert g.result(20) == "awake"


@needs_free_threads
def test_our_functions_are_not_counted() -> None:
    """Mutation: `settle_module` skips functions, or the methods of types."""
    uncounted = sys.getrefcount(None)
    assert sys.getrefcount(gorun.go) == uncounted
    assert sys.getrefcount(gorun.Chan.__dict__["send_async"]) == uncounted


@needs_free_threads
def test_they_are_where_that_is_switched_off() -> None:
    """GORUN_IMMORTAL=off leaves their counts alone. Mutation: the switch is not looked at."""
    code = """
        import sys
        assert sys.getrefcount(gorun.go) != sys.getrefcount(None)
        assert gorun.go(abs, -1).result(20) == 1
        print("counted")
    """
    assert "counted" in _child.run(code, GORUN_IMMORTAL="off").out
