"""`timeout` beside cancels from outside, in the same instant too, shields, and in threads of their own."""

# ruff: noqa: PT012 (what a `with` inside a `with` raises is the subject)

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as, until, waits

import gorun
from gorun import timeout

SHORT = 0.01

every_caller = pytest.mark.parametrize("kind", KINDS)


# ---- cancels from outside ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_cancel_from_outside_passes(kind: str) -> None:
    """Mutation: `deliver` gives every Cancelled the origin of the scope."""
    inside = threading.Event()

    def plain() -> None:
        with timeout(LONG) as scope:
            inside.set()
            try:
                gorun.sleep(LONG)
            finally:
                assert not scope.expired

    async def twin() -> None:
        async with timeout(LONG) as scope:
            inside.set()
            try:
                await gorun.sleep_async(LONG)
            finally:
                assert not scope.expired

    g = gorun.go(plain if kind == "plain" else twin)
    assert inside.wait(LIMIT)
    until(lambda: waits(g))
    g.cancel("outside")
    error = g.exception(LIMIT)
    assert isinstance(error, gorun.GoroutineCancelled)
    assert error.reason == "outside"


@pytest.mark.parametrize("order", ["scope first", "outside first"])
def test_both_pending(order: str) -> None:
    """The scope's and one from outside are pending: both are raised, each once.

    Mutation: a second cancel while one is pending changes nothing, whatever its origin.
    """

    def body() -> list[str]:
        me = gorun.current()
        assert me is not None
        seen = []
        if order == "outside first":
            me.cancel("outside")
        for _ in range(2):
            try:
                with timeout(0):
                    if order == "scope first" and not seen:
                        me.cancel("outside")
                        assert me.cancel("again")
                    gorun.sleep(LONG)
            except TimeoutError:
                seen.append("timeout")
            except gorun.Cancelled as error:
                seen.append(error.reason)
                break
            try:
                gorun.gosched()
            except gorun.Cancelled as error:
                seen.append(error.reason)
                break
        gorun.gosched()
        return seen

    assert gorun.go(body).result(LIMIT) == (
        ["timeout", "outside"] if order == "scope first" else ["outside"]
    )


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_cancel_in_the_same_instant_is_never_lost(kind: str) -> None:
    """Many times: the time is up while somebody cancels. The cancel is raised, once, in the block or after it.

    Mutation: `withdraw` takes the word's pending back whatever else is asked for.
    """
    rounds = 60

    def plain() -> list[Any]:
        seen: list[Any] = []
        for tail in (False, True):
            try:
                if not tail:
                    with timeout(0.002):
                        gorun.sleep(LONG)
                else:
                    gorun.sleep(LIMIT)
            except TimeoutError:
                continue
            except gorun.Cancelled as error:
                seen.append(error.reason)
                break
        gorun.gosched()
        return seen

    async def twin() -> list[Any]:
        seen: list[Any] = []
        for tail in (False, True):
            try:
                if not tail:
                    async with timeout(0.002):
                        await gorun.sleep_async(LONG)
                else:
                    await gorun.sleep_async(LIMIT)
            except TimeoutError:
                continue
            except gorun.Cancelled as error:
                seen.append(error.reason)
                break
        await gorun.gosched_async()
        return seen

    for i in range(rounds):
        g = gorun.go(plain if kind == "plain" else twin)
        until(lambda g=g: waits(g))
        # Around the moment when the time is up.
        end = time.monotonic() + 0.0015 + 0.001 * (i / rounds)
        while time.monotonic() < end:
            pass
        assert g.cancel(i)
        assert g.result(LIMIT) == [i]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_shield_and_scopes(kind: str) -> None:
    """A scope inside a shield works; one outside of it, and a cancel, wait until the shield has ended.

    Mutation: `ask` does not compare the origin with the mark of the shield.
    """

    def plain() -> list[str]:
        seen = []
        me = gorun.current()
        assert me is not None
        with pytest.raises(TimeoutError):
            with timeout(0):
                with gorun.shield():
                    gorun.sleep(0.001)
                    seen.append("outer held back")
                    with pytest.raises(TimeoutError), timeout(SHORT):
                        gorun.sleep(LONG)
                    seen.append("inner works")
                    me.cancel()
                    gorun.sleep(0.001)
                    seen.append("cancel held back")
                gorun.sleep(LONG)
        with pytest.raises(gorun.Cancelled):
            gorun.gosched()
        return seen

    async def twin() -> list[str]:
        seen = []
        me = gorun.current()
        assert me is not None
        with pytest.raises(TimeoutError):
            async with timeout(0):
                async with gorun.shield():
                    await gorun.sleep_async(0.001)
                    seen.append("outer held back")
                    with pytest.raises(TimeoutError):
                        async with timeout(SHORT):
                            await gorun.sleep_async(LONG)
                    seen.append("inner works")
                    me.cancel()
                    await gorun.sleep_async(0.001)
                    seen.append("cancel held back")
                await gorun.sleep_async(LONG)
        with pytest.raises(gorun.Cancelled):
            await gorun.gosched_async()
        return seen

    assert run_as(kind, plain, twin) == ["outer held back", "inner works", "cancel held back"]


def test_a_shield_in_a_thread_holds_scopes_around_it_back() -> None:
    """Mutation: `_shield_enter` looks for goroutines only."""
    with pytest.raises(TimeoutError):
        with timeout(0):
            with gorun.shield():
                gorun.sleep(0.001)
            gorun.sleep(LONG)


def test_a_task_that_is_cancelled() -> None:
    """As with asyncio.timeout: the task's cancel passes, also when the time is up at once."""

    async def main() -> str:
        async def body() -> None:
            async with timeout(LONG):
                await gorun.sleep_async(LONG)

        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "cancelled"

    assert asyncio.run(main()) == "cancelled"


def test_a_tasks_operation_that_has_happened_when_the_time_is_up() -> None:
    """It returns and the cancel is asked for anew (rule 3), but not beyond the block.

    Mutation: no `drop_cancel` (fails up to 3.12).
    """

    async def main() -> None:
        for _ in range(3):
            ch: gorun.Chan[int] = gorun.Chan()

            def together(ch: gorun.Chan[int] = ch) -> None:
                assert ch.try_send(1)
                time.sleep(0.1)  # the loop is told of the value, and the time is up

            async with timeout(0.05) as scope:
                asyncio.get_running_loop().call_later(0.005, together)
                assert await ch.recv_async() == 1
            assert scope.expired
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    asyncio.run(main())


# ---- threads -------------------------------------------------------------------------------------


def test_threads_have_scopes_of_their_own() -> None:
    """Many threads in scopes at once, each cut by its own. Mutation: one target for all threads."""
    seen: list[int] = []

    def body(n: int) -> None:
        for _ in range(5):
            with pytest.raises(TimeoutError), timeout(SHORT):
                with timeout(LONG):
                    gorun.sleep(LONG)
        seen.append(n)

    threads = [threading.Thread(target=body, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(seen) == list(range(8))


def test_after_the_last_scope_a_thread_is_not_cut() -> None:
    """Mutation: `exit` leaves the waker pinned with what is pending."""
    with timeout(0):
        pass
    gorun.sleep(0.001)
    assert gorun._gorun._shield_enter() is None  # nothing here that could be cancelled


def test_a_wait_of_a_signal_handler_is_not_cut() -> None:
    """A handler that waits inside a wait of a scope is none of the scope's; its own scopes work.

    Mutation: `block_on` leaves the pin in its place during a wait.
    """
    import signal

    seen: list[str] = []

    def handler(*_: object) -> None:
        gorun.sleep(0.05)
        seen.append("slept")
        try:
            with timeout(SHORT):
                gorun.sleep(LONG)
        except TimeoutError:
            seen.append("own scope")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        timer = gorun.Timer(0.01, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        main = threading.main_thread().ident or 0
        with pytest.raises(TimeoutError):
            with timeout(0.03):
                gorun.sleep(LONG)
        timer.stop()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["slept", "own scope"]
