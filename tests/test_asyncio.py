"""asyncio tasks as callers: gorun's operations in a loop, cancels and their races, closed loops.

"Mutation:" names the change to the runtime that makes a test fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import gorun
from gorun._gorun import Latch

LONG = 3600.0
LIMIT = 20.0


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def test_await_of_each_operation() -> None:
    async def main() -> list[Any]:
        g = gorun.go(abs, -1)
        out = [await g, await g, await gorun.sleep_async(0.001), await gorun.gosched_async()]
        latch = Latch()
        gorun.go(latch.set)
        out += [await latch.wait_async(), await Latch().wait_async(0.001)]
        out += [len((await gorun.wait_async([g])).done)]
        out += [[g.result() async for g in gorun.as_completed_async(gorun.go_many(abs, [-2]))]]
        return out

    assert asyncio.run(main()) == [1, 1, None, None, True, False, 1, [2]]


def test_trying_once_in_a_task() -> None:
    # Mutation: `conclude_foreign` takes "never waited" for "has happened".
    async def main() -> list[bool]:
        latch = Latch()
        got = [await latch.wait_async(t) for t in (0, -1, 1e-12, float("-inf"))]
        latch.set()
        return [*got, await latch.wait_async(0)]

    assert asyncio.run(main()) == [False] * 4 + [True]


def test_what_goes_on_at_once_makes_no_future() -> None:
    # Mutations: `start_in_task` does not try, or not to receive, to select, or to lock.
    async def main() -> int:
        loop = asyncio.get_running_loop()
        ch: gorun.Chan[int] = gorun.Chan(2)
        mu = gorun.Mutex()
        made: list[object] = []
        loop.create_future = lambda: made.append(0) or asyncio.Future(loop=loop)  # type: ignore
        await ch.send_many_async([1, 2])
        assert (await gorun.select_async(ch)).value == 1
        async with mu:
            assert await ch.recv_async() == 2
        with pytest.raises(TimeoutError):
            await ch.recv_async(0)
        n = len(made)
        with pytest.raises(TimeoutError):
            await ch.recv_async(0.001)
        assert len(made) > n
        return n

    assert asyncio.run(main()) == 0


def test_a_part_that_goes_at_once_stays_first() -> None:
    # Mutation: `arm` tries again before it registers (the value that waits is lost).
    async def main() -> list[int]:
        ch: gorun.Chan[int] = gorun.Chan(2)

        async def sender() -> int:
            return await ch.send_many_async(range(7))

        sending = asyncio.create_task(sender())
        await asyncio.sleep(0)
        got = [await ch.recv_async() for _ in range(7)]
        assert await sending == 7
        return got

    assert asyncio.run(main()) == list(range(7))


def test_the_loop_goes_on_meanwhile() -> None:
    # Mutation: block in `start_foreign`.
    async def main() -> int:
        ticks = 0
        gate = Latch()
        task = asyncio.create_task(gate.wait_async())
        for _ in range(10):
            await asyncio.sleep(0.001)
            ticks += 1
        assert not task.done()
        gate.set()
        assert await task is True
        return ticks

    assert asyncio.run(main()) == 10


def test_operations_are_coroutines_for_asyncio() -> None:
    async def main() -> list[Any]:
        op = gorun.sleep_async(0)
        assert asyncio.iscoroutine(op)
        await op
        out = [await asyncio.create_task(gorun.sleep_async(0.001))]
        out += [await asyncio.wait_for(gorun.sleep_async(0.001), LIMIT)]
        out += await asyncio.gather(gorun.go(abs, -3), gorun.go(abs, -4), gorun.gosched_async())
        out += [await asyncio.wait_for(gorun.go(abs, -5), LIMIT)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gorun.sleep_async(LONG), 0.01)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(gorun.sleep_async(0.001))
        return [*out, task.result()]

    assert asyncio.run(main()) == [None, None, 3, 4, None, 5, None]


def test_asyncio_timeout() -> None:
    async def main() -> str:
        gate = threading.Event()
        g = gorun.go(gate.wait)
        try:
            async with asyncio.timeout(0.01):
                await g
        except TimeoutError:
            assert not g.done()
            gate.set()
            assert await g is True
            await asyncio.sleep(0)
            return "timed out"
        return "not"

    assert asyncio.run(main()) == "timed out"


def test_many_tasks() -> None:
    async def one(i: int) -> int:
        await gorun.sleep_async(0.0001 * (i % 7))
        return await gorun.go(abs, -i)

    async def main() -> int:
        return sum(await asyncio.gather(*(one(i) for i in range(500))))

    assert asyncio.run(main()) == sum(range(500))


def test_several_loops_at_once() -> None:
    g = gorun.go(gorun.sleep, 0.02)

    async def main() -> int:
        await asyncio.gather(*(joined() for _ in range(10)))
        return 1

    async def joined() -> None:
        await g

    out: list[int] = []
    threads = [threading.Thread(target=lambda: out.append(asyncio.run(main()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out == [1] * 4


# ---- cancels -------------------------------------------------------------------------------------


def ended_seen(g: gorun.Goroutine[Any]) -> threading.Event:
    """Set once the end has been announced to all who wait: callbacks come after them."""
    event = threading.Event()
    g.add_done_callback(lambda _: event.set())
    return event


def test_cancel_that_comes_too_late_is_armed_again() -> None:
    # Mutation: raise in `asyncio_wait` whatever `_withdraw` says: the value is lost;
    # or do not cancel again: the cancel is lost.
    async def main() -> list[Any]:
        out: list[Any] = []
        gate = threading.Event()
        g = gorun.go(lambda: (gate.wait(), "value")[1])
        announced = ended_seen(g)

        async def waiter() -> None:
            out.append(await g)
            task = asyncio.current_task()
            assert task is not None
            out.append(task.cancelling())
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError as error:
                out.append(error.args)
                raise

        task = asyncio.create_task(waiter())
        await asyncio.sleep(0.01)
        gate.set()
        assert announced.wait(LIMIT)  # the loop stands still: the task has not run yet
        task.cancel("late")
        with pytest.raises(asyncio.CancelledError):
            await task
        return out

    assert asyncio.run(main()) == ["value", 1, ("late",)]


def test_cancel_in_time_leaves_the_target_alone() -> None:
    async def main() -> None:
        gate = Latch()
        g = gorun.go(gate.wait)
        for _ in range(10):
            task = asyncio.ensure_future(g)
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not g.done()
        gate.set()
        assert await g is True

    asyncio.run(main())


def test_cancel_before_the_first_step() -> None:
    async def main() -> None:
        g = gorun.go(abs, -1)
        task = asyncio.ensure_future(g)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await g == 1

    asyncio.run(main())


def test_cancel_races() -> None:
    # Mutation: `_withdraw` answers True always: a value that was delivered is dropped.
    async def main() -> None:
        kept = 0
        for i in range(200):
            latch = Latch()
            out: list[Any] = []

            async def waiter(latch: Any = latch, out: Any = out) -> None:
                out.append(await latch.wait_async())

            task = asyncio.create_task(waiter())
            await asyncio.sleep(0)
            g = gorun.go(latch.set)
            if i % 2:
                await g
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled() or out == [True]
            kept += len(out)
            await g
        assert kept >= 0

    asyncio.run(main())


def test_a_goroutines_cancel_is_not_for_the_loop_inside_it() -> None:
    # The loop that runs in a goroutine is asyncio's own world; the cancel waits outside.
    async def inner() -> str:
        gorun_me.cancel("outside")
        await gorun.sleep_async(0.001)
        await asyncio.sleep(0.001)
        return "through"

    gorun_me: Any = None

    def body() -> str:
        nonlocal gorun_me
        gorun_me = gorun.current()
        got = asyncio.run(inner())
        try:
            gorun.gosched()
        except gorun.Cancelled:
            return got
        return "not delivered"

    assert gorun.go(body).result(LIMIT) == "through"


# ---- loops that end ------------------------------------------------------------------------------


def test_a_loop_that_is_closed_while_a_task_waits() -> None:
    # Mutation: let the error of call_soon_threadsafe pass in `wake`: the M ends or prints it.
    gate = Latch()
    g = gorun.go(gate.wait)

    async def waits() -> None:
        await g

    loop = asyncio.new_event_loop()
    task = loop.create_task(waits())
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    gate.set()
    assert g.result(LIMIT) is True
    assert gorun.go(abs, -1).result(LIMIT) == 1
    assert not task.done()
    # asyncio would complain of a pending task that is destroyed; that is its business.
    task._log_destroy_pending = False
    del task


def test_a_task_that_is_destroyed_while_it_waits() -> None:
    # Mutation: dealloc of a waiting operation leaves its node in the list: `gate.set` crashes.
    gate = Latch()

    async def waits() -> None:
        await gate.wait_async()

    loop = asyncio.new_event_loop()
    for _ in range(20):
        coro = waits()
        task = loop.create_task(coro)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False
        coro.close()
        del task, coro
        gc.collect()
    loop.close()
    gate.set()
    gc.collect()


def test_close_ends_the_wait() -> None:
    async def main() -> None:
        latch = Latch()
        op = latch.wait_async(LONG)
        it = op.__await__()
        fut = next(it)
        assert asyncio.isfuture(fut)
        op.close()
        with pytest.raises(RuntimeError):
            await op
        latch.set()
        await asyncio.sleep(0.01)
        assert await latch.wait_async()

    asyncio.run(main())


def test_ended_tasks_are_collected() -> None:
    refs: list[Any] = []

    async def waits(g: Any) -> None:
        await gorun.sleep_async(0.001)
        await g

    async def main() -> None:
        for _ in range(5):
            task = asyncio.create_task(waits(gorun.go(abs, 1)))
            refs.append(weakref.ref(task))
            await task

    asyncio.run(main())
    gc.collect()
    assert [ref() for ref in refs] == [None] * 5


# ---- who runs it ---------------------------------------------------------------------------------


def test_a_running_loop_wins_over_a_goroutine() -> None:
    # Mutation: look for a goroutine first.
    async def in_loop() -> Any:
        op = Latch().wait_async(0.001)
        assert asyncio.isfuture(next(op.__await__()))
        op.close()
        return gorun.current()

    async def body() -> Any:
        return asyncio.run(in_loop())

    g = gorun.go(body)
    assert g.result(LIMIT) is g


@pytest.mark.parametrize("name", ["sleep_async", "gosched_async", "wait_async", "join"])
def test_nobody_drives(name: str) -> None:
    op: Any = {
        "sleep_async": lambda: gorun.sleep_async(1),
        "gosched_async": gorun.gosched_async,
        "wait_async": Latch().wait_async,
        "join": lambda: gorun.go(abs, 1).__await__(),
    }[name]()

    async def body() -> None:
        await op

    coro = body()
    with pytest.raises(RuntimeError, match=f"{name}.*goroutine.*asyncio"):
        coro.send(None)


def test_contexts_in_tasks() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    async def main() -> list[str]:
        var.set("task")
        out = [await gorun.go(var.get)]
        await gorun.sleep_async(0.001)
        out.append(var.get())
        return out

    assert asyncio.run(main()) == ["task", "task"]
    assert var.get() == "unset"


def test_errors_in_tasks() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await gorun.go(divmod, 1, 0)
        g = gorun.go(gorun.sleep, LONG)
        g.cancel("no")
        with pytest.raises(gorun.GoroutineCancelled, match="no"):
            await g

    asyncio.run(main())


def test_never_awaited_in_a_task() -> None:
    async def main() -> None:
        with pytest.warns(RuntimeWarning, match=r"sleep_async.*never awaited"):
            gorun.sleep_async(1)  # type: ignore[unused-coroutine]

    asyncio.run(main())


def test_debug_mode() -> None:
    async def main() -> int:
        await gorun.sleep_async(0.001)
        return await gorun.go(abs, -1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(main(), debug=True) == 1
