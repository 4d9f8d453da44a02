"""Sleeps and yields that are awaited: they need no object while they last (`rust/py/src/ops/nap.rs`)."""

from __future__ import annotations

import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
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
    assert gorun.stats().timers == 0


@pytest.mark.parametrize("waits", [False, True])
def test_a_nap_by_hand_that_its_goroutine_leaves(waits: bool) -> None:
    """Its timer is gone when the goroutine waits again, or ends.

    Mutation: `add_timer` over an entry that is there; `end` without its look for a timer.
    """
    kept: list[Any] = []

    async def main() -> None:
        inner: Any = nap(LONG)
        inner.send(None)
        kept.append(inner)
        if waits:
            await nap(0.001)

    gorun.run(main)
    assert gorun.stats().timers == 0
    kept.pop().close()


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
@pytest.mark.skipif(os.environ.get("GORUN_IMMORTAL") == "off", reason="switched off")
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


class Between:
    """Awaits, and runs code after each step, before its goroutine is told what was yielded."""

    def __init__(self, coroutine: Any, code: Callable[[], object]) -> None:
        self.coroutine, self.code = coroutine, code

    def __await__(self) -> Any:
        while True:
            try:
                step = self.coroutine.send(None)
            except StopIteration as end:
                return end.value
            self.code()
            yield step


def test_a_nap_that_was_overtaken_leaves_the_later_wait_alone() -> None:
    """It is closed when the goroutine has begun to wait for something else, and has not parked yet.

    Mutation: `withdraw` without a look at `overtaken` (the goroutine runs in circles for ever).
    """

    async def main() -> tuple[str, str]:
        ch: gorun.Chan[str] = gorun.Chan()
        left = [nap(LONG), nap(LONG)]
        left[0].send(None)
        gorun.go(lambda: (gorun.sleep(0.01), ch.send("received")))

        async def receive() -> str:
            return await ch.recv_async()

        got = await Between(receive(), lambda: left and left.pop(0).close())
        return got, await Between(nap(0.001), lambda: left and left.pop(0).close())

    g = gorun.go(main)
    assert g.result(20) == ("received", "awake")


@pytest.mark.parametrize("seconds", [None, 0.001])
def test_the_timer_of_a_wait_that_was_left_goes(seconds: float | None) -> None:
    """By the next that has one, or at the goroutine's end.

    Mutations: `add_timer` without `drop_timer`; `end` without.
    """
    kept: list[Any] = []

    async def main() -> int:
        kept.append(nap(LONG))
        kept[0].send(None)
        if seconds is not None:
            await nap(seconds)
        return gorun.stats().timers

    assert gorun.run(main) == (seconds is None)
    assert gorun.stats().timers == 0
    kept.pop().close()


@pytest.mark.parametrize("inner", [0, 0.001])
def test_code_between_a_step_and_its_yield_may_drive_others(inner: float) -> None:
    """Mutation: `meant` gives None (TypeError: a goroutine cannot await gorun.Nap)."""
    kept: list[Any] = []

    def drive() -> None:
        kept.append(nap(0))
        kept[-1].send(None)

    async def main() -> str:
        return await Between(nap(inner), drive)

    assert gorun.run(main) == "awake"
    for coroutine in kept:
        coroutine.close()


def test_an_operation_whose_goroutine_has_ended_leaves_the_next_alone() -> None:
    """It was driven by hand and left; the memory of its goroutine is another's, which sleeps.

    Mutation: `Op::withdraw` takes the timer out whosever it is (a sleeper hangs).
    """
    ch: gorun.Chan[None] = gorun.Chan()
    left: list[Any] = []

    async def receive() -> None:
        await ch.recv_async(LONG)

    async def leave() -> None:
        left.append(receive())
        left[0].send(None)

    gorun.run(leave)
    sleepers = [gorun.go(nap, 0.3) for _ in range(8)]
    while sum(i.wait_reason == "sleep" for i in gorun.goroutines()) < len(sleepers):
        assert not any(g.done() for g in sleepers)
        gorun.sleep(0.001)
    left.pop().close()
    assert [g.result(20) for g in sleepers] == ["awake"] * len(sleepers)


def test_a_value_that_was_delivered_and_left_goes_back() -> None:
    """To a receive that was driven by hand, when the goroutine has waited for something else.

    Mutation: `Op::withdraw` asks the last wait's verdict, a time-out, also where it is another's.
    """
    ch: gorun.Chan[str] = gorun.Chan(1)

    async def receive() -> str:
        return await ch.recv_async()

    async def main() -> str:
        inner: Any = receive()
        inner.send(None)
        ch.send("v")
        assert len(ch) == 0
        with pytest.raises(TimeoutError):
            await gorun.Chan[None]().recv_async(0.001)
        inner.close()
        return ch.try_recv()

    assert gorun.run(main) == "v"


def test_a_wait_that_began_before_a_blocking_section_cannot_go_on_in_it() -> None:
    """Mutation: `resume` looks at `blocking` for a bare yield only (it parks)."""
    ch: gorun.Chan[int] = gorun.Chan()

    @types.coroutine
    def rest() -> Iterator[object]:
        begun = next(ch.recv_async().__await__())
        with gorun.blocking():
            yield begun

    async def main() -> None:
        with pytest.raises(RuntimeError, match="blocking"):
            await rest()

    gorun.run(main)
    ch.close()
