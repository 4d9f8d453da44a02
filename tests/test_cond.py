"""Cond and Barrier: what is their own, beside test_ends and CPython's tests.

"Mutation:" names the change to the code that makes the test fail.
"""

from __future__ import annotations

import asyncio
import threading
import time
from decimal import Decimal
from typing import Any

import pytest
from tests import _child
from tests.test_matrix import LIMIT, SHORT, until

import gorun

# ---- Cond ----------------------------------------------------------------------------------------


def test_notify_wakes_the_oldest_first() -> None:
    """Mutation: `pop_last` in `Calls::notify`."""
    cond, order = gorun.Cond(), []

    def body(n: int) -> None:
        with cond:
            cond.wait()
            order.append(n)

    gs = []
    for n in range(5):
        gs.append(gorun.go(body, n))
        until(lambda n=n: cond._calls.waiting() == n + 1)
    for n in range(3):
        with cond:
            cond.notify()
        until(lambda n=n: len(order) == n + 1)
    assert order == [0, 1, 2]
    with cond:
        cond.notify(0)
        cond.notify(-1)
        cond.notify(7)
    gorun.wait(gs)
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_a_call_is_passed_on_by_one_that_was_cancelled() -> None:
    """Many rounds of notify against cancel: a call is used or passed on. Mutation: no `_give_up`."""
    for n in range(40):
        cond, woken = gorun.Cond(), []

        async def body(cond: Any = cond, woken: Any = woken) -> None:
            async with cond:
                await cond.wait_async()
                woken.append(1)

        first = gorun.go(body)
        until(lambda cond=cond: cond._calls.waiting() == 1)
        second = gorun.go(body)
        until(lambda cond=cond: cond._calls.waiting() == 2)
        if n % 2:
            first.cancel()
        with cond:
            cond.notify()
        if not n % 2:
            first.cancel()
        gorun.wait([first])
        if first.cancelled() and not woken:
            second.result(LIMIT)
        else:
            second.cancel()
            gorun.wait([second])
        assert woken == [1]
        assert not cond.locked()


def test_cond_holds_its_lock_after_a_cancel() -> None:
    """Mutation: no shield around the re-acquire: the lock is released by one who has it not."""
    cond = gorun.Cond()
    held: list[bool] = []

    def body() -> None:
        with cond:
            try:
                cond.wait()
            finally:
                held.append(cond.locked())

    async def awaits() -> None:
        async with cond:
            try:
                await cond.wait_async()
            finally:
                held.append(cond.locked())

    for fn in (body, awaits):
        g = gorun.go(fn)
        until(lambda: cond._calls.waiting() == 1)
        cond.acquire()
        g.cancel()
        until(lambda: cond._calls.waiting() == 0)
        g.cancel("again")  # while it waits for the lock
        time.sleep(0.002)
        cond.release()
        gorun.wait([g])
        assert g.cancelled()
    assert held == [True, True]
    assert not cond.locked()


def test_a_task_cancelled_while_it_takes_the_lock_again() -> None:
    """It was notified: `wait_async` returns, and the cancel arrives at the next await (rule 3).

    Mutation: raise the cancel of the re-acquire: the call is lost.
    """
    out: list[Any] = []

    async def waiter(cond: gorun.Cond) -> None:
        async with cond:
            out.append(await cond.wait_async(LIMIT))
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError as e:
            out.append(e.args)
            raise

    async def main() -> None:
        cond = gorun.Cond()
        task = asyncio.create_task(waiter(cond))
        while not cond._calls.waiting():
            await asyncio.sleep(0.001)
        cond.acquire()
        cond.notify()
        await asyncio.sleep(SHORT)  # it wants the lock
        task.cancel("late")
        await asyncio.sleep(SHORT)
        cond.release()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not cond.locked()

    asyncio.run(main())
    assert out == [True, ("late",)]


def test_cond_over_other_locks() -> None:
    """A re-entrant lock of threading's, and an RWMutex's side. Mutation: no `_release_save`."""
    rlock = threading.RLock()
    cond = gorun.Cond(rlock)
    with cond, cond:
        assert cond.wait(0.001) is False
        threading.Timer(0.001, lambda: (cond.acquire(), cond.notify(), cond.release())).start()
        assert cond.wait(LIMIT) is True
    with pytest.raises(RuntimeError):
        cond.release()
    side = gorun.Cond(gorun.RWMutex().writer)
    with side:
        assert side.wait(0.001) is False


class Stubborn:
    """A lock that cannot be released."""

    def acquire(self) -> bool:
        return True

    def locked(self) -> bool:
        return True

    def release(self) -> None:
        raise LookupError("stuck")


def test_a_lock_that_cannot_be_released_swallows_no_call() -> None:
    """Mutation: the number is taken and not given up: the next notify goes to nobody."""
    cond = gorun.Cond(Stubborn())

    async def awaits() -> None:
        await cond.wait_async()

    with pytest.raises(LookupError):
        cond.wait()
    assert isinstance(gorun.go(awaits).exception(LIMIT), LookupError)
    number = cond._calls.number()
    cond.notify()
    assert cond._calls.try_enter(number)


@pytest.mark.no_matrix
def test_a_handlers_error_leaves_the_lock_held() -> None:
    """A signal handler's error, of any kind, in `wait` or in the re-acquire. Mutation: `except Exception: raise`."""
    ended = _child.run(
        """
        class Alarm(Exception): pass
        def alarm(*_): raise Alarm
        signal.signal(signal.SIGALRM, alarm)
        for inside in (False, True):
            cond = gorun.Cond()
            def other():
                with cond:
                    cond.notify()
                    if inside:
                        signal.setitimer(signal.ITIMER_REAL, 0.05)
                        gorun.sleep(0.3)  # the main thread wants the lock meanwhile
            try:
                with cond:
                    if inside:
                        g = go(other)
                    else:
                        signal.setitimer(signal.ITIMER_REAL, 0.05)
                    try:
                        cond.wait()
                    finally:
                        assert cond.locked()
            except Alarm:
                print('alarm')
            assert not cond.locked()
        """
    )
    assert ended.out == "alarm\nalarm"


# ---- Barrier -------------------------------------------------------------------------------------


def test_barrier_of_all_callers() -> None:
    """Each gets another number, round after round. Mutation: one `_Round` for all."""
    barrier = gorun.Barrier(3)
    got: list[int] = []

    def plain() -> None:
        for _ in range(10):
            got.append(barrier.wait())

    async def awaits() -> None:
        for _ in range(10):
            got.append(await barrier.wait_async())

    thread = threading.Thread(target=lambda: asyncio.run(awaits()))
    thread.start()
    gs = [gorun.go(plain), gorun.go(awaits)]
    for g in gs:
        g.result(LIMIT)
    thread.join(LIMIT)
    assert sorted(got) == [n for n in range(3) for _ in range(10)]
    assert not barrier.broken
    assert barrier.n_waiting == 0


def test_a_cancelled_party_can_be_replaced() -> None:
    """The barrier is whole, and each number is there once. Mutation: `index` is how many came."""
    barrier = gorun.Barrier(3)
    first = gorun.go(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    second = gorun.go(barrier.wait)
    until(lambda: barrier.n_waiting == 2)
    first.cancel()
    until(lambda: barrier.n_waiting == 1)
    third = gorun.go(barrier.wait_async)
    until(lambda: barrier.n_waiting == 2)
    numbers = [barrier.wait(LIMIT), second.result(LIMIT), third.result(LIMIT)]
    assert sorted(numbers) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["plain", "async", "task"])
def test_a_cancel_that_comes_when_all_have_gone_on(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The party was counted: it goes on too, and the cancel comes at its next cancel point (rule 3).

    Mutation: `_cut` gives False.
    """
    barrier, real = gorun.Barrier(2), gorun.Barrier._cut
    cut, go_on = threading.Event(), threading.Event()
    numbers: list[int] = []

    def held_up(*args: Any) -> bool:
        cut.set()
        assert go_on.wait(LIMIT)
        return real(*args)

    monkeypatch.setattr(gorun.Barrier, "_cut", held_up)

    def plain() -> None:
        numbers.append(barrier.wait())
        gorun.sleep(LIMIT)

    async def twin() -> None:
        numbers.append(await barrier.wait_async())
        await gorun.sleep_async(LIMIT)

    async def task() -> bool:
        one = asyncio.create_task(twin())
        while not barrier.n_waiting:
            await asyncio.sleep(0.001)
        one.cancel()
        await asyncio.wait([one])
        return one.cancelled()

    g: gorun.Goroutine[Any]
    if kind == "task":
        g = gorun.go(lambda: asyncio.run(task()))
    else:
        g = gorun.go(plain if kind == "plain" else twin)
        until(lambda: barrier.n_waiting)
        g.cancel()
    assert cut.wait(LIMIT)
    assert barrier.wait(LIMIT) == 1
    go_on.set()
    if kind == "task":
        assert g.result(LIMIT)
    else:
        assert isinstance(g.exception(LIMIT), gorun.GoroutineCancelled)
    assert numbers == [0]


def test_barrier_breaks_by_time_out() -> None:
    barrier = gorun.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()

    async def awaits() -> None:
        await barrier.wait_async()

    assert isinstance(gorun.go(awaits).exception(LIMIT), threading.BrokenBarrierError)
    barrier.reset()
    assert isinstance(gorun.go(awaits).exception(LIMIT), threading.BrokenBarrierError)


class Slow:
    """A barrier's action that is told when to end."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.end.wait(LIMIT)


def test_a_slow_action_blocks_no_loop() -> None:
    """Tasks that come during the action of another thread wait for the next round, and their loop goes on.

    Mutation: the action under the mutex (the loop, which is to end it, would wait for it).
    """
    slow = Slow()
    barrier = gorun.Barrier(2, slow)
    got = [gorun.go(barrier.wait) for _ in range(2)]
    assert slow.begun.wait(LIMIT)

    async def main() -> list[int]:
        tasks = [asyncio.create_task(barrier.wait_async()) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert not any(t.done() for t in tasks)
        slow.end.set()
        return list(await asyncio.gather(*tasks))

    assert sorted(asyncio.run(main())) == [0, 1]
    assert sorted(g.result(LIMIT) for g in got) == [0, 1]


def test_what_happens_during_the_action() -> None:
    """Who runs out of time then goes on with the others; who is cut is missed by nobody; an abort breaks it for all.

    Mutations: `_late` breaks a complete round; `_cut` counts down; `_complete` does not look whether it is broken.
    """
    slow = Slow()
    barrier = gorun.Barrier(3, slow)
    late, over = gorun.go(barrier.wait, 1.0), time.monotonic() + 1.2
    cut = gorun.go(barrier.wait)
    until(lambda: barrier.n_waiting == 2)
    last = gorun.go(barrier.wait)
    assert slow.begun.wait(LIMIT)
    cut.cancel()
    assert isinstance(cut.exception(LIMIT), gorun.GoroutineCancelled)
    assert barrier.n_waiting == 3
    until(lambda: time.monotonic() > over)
    assert not late.done()
    assert not barrier.broken
    slow.end.set()
    assert late.result(LIMIT) != last.result(LIMIT) == 2
    assert (barrier.n_waiting, barrier.broken) == (0, False)

    slow = Slow()
    barrier = gorun.Barrier(2, slow)
    two = [gorun.go(barrier.wait) for _ in range(2)]
    assert slow.begun.wait(LIMIT)
    barrier.abort()
    slow.end.set()
    for g in two:
        assert isinstance(g.exception(LIMIT), threading.BrokenBarrierError)
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_what_need_not_wait_delivers_a_cancel_too(kind: str) -> None:
    """`wait_for` of what is true already is a cancel point on entry. Mutation: no `_cancel_point`."""
    cond = gorun.Cond()
    seen: list[str] = []

    def plain() -> None:
        g = gorun.current()
        assert g is not None
        with cond:
            g.cancel()
            seen.append("before")
            cond.wait_for(lambda: True)
            seen.append("after")

    async def twin() -> None:
        g = gorun.current()
        assert g is not None
        async with cond:
            g.cancel()
            seen.append("before")
            await cond.wait_for_async(lambda: True)
            seen.append("after")

    g = gorun.go(plain if kind == "plain" else twin)
    assert isinstance(g.exception(LIMIT), gorun.GoroutineCancelled)
    assert seen == ["before"]
    assert not cond.locked()


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    ("bad", "error"), [(float("nan"), ValueError), (10**400, ValueError), ("x", TypeError)]
)
def test_time_outs_are_checked_though_nobody_waits(bad: Any, error: type[Exception]) -> None:
    """Mutation: `check_timeout` left out at any of the places."""
    with pytest.raises(error, match=str(bad)):
        gorun.Barrier(1, timeout=bad)
    with pytest.raises(error, match=str(bad)):
        gorun.Barrier(1).wait(bad)
    cond = gorun.Cond()
    with cond, pytest.raises(error, match=str(bad)):
        cond.wait_for(lambda: True, bad)

    async def body() -> None:
        with pytest.raises(error, match=str(bad)):
            await gorun.Barrier(1).wait_async(bad)
        async with cond:
            with pytest.raises(error, match=str(bad)):
                await cond.wait_for_async(lambda: True, bad)

    gorun.run(body)


@pytest.mark.no_matrix
def test_time_outs_of_other_kinds() -> None:
    """What else is a number of seconds is taken here, too. Mutation: no `float` at either place."""
    short: Any = Decimal("0.001")
    cond = gorun.Cond()
    with cond:
        assert cond.wait_for(lambda: 0, short) == 0

    async def body() -> None:
        async with cond:
            assert await cond.wait_for_async(lambda: 0, short) == 0

    gorun.run(body)


@pytest.mark.no_matrix
def test_awaited_by_nobody_known() -> None:
    """Driven outside of goroutines and tasks. Mutation: no `check_async`, at any place."""
    cond = gorun.Cond()
    cond.acquire()
    for make in (
        lambda: gorun.Barrier(1).wait_async(),
        lambda: cond.wait_async(),
        lambda: cond.wait_for_async(lambda: True),
    ):
        with pytest.raises(RuntimeError, match=r"wait.* goroutine .* asyncio task"):
            make().send(None)
    assert cond.locked()
