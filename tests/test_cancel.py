"""Cancel: what it cuts, when it is delivered, how often, with which reason; shield.

"Mutation:" names the change to the runtime that makes a test fail.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import gorun

LONG = 3600.0
LIMIT = 20.0


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def state_of(g: gorun.Goroutine[Any]) -> str | None:
    return next((i.state for i in gorun.goroutines() if i.id == g.id), None)


def waits(g: gorun.Goroutine[Any]) -> bool:
    return state_of(g) in ("waiting", "blocked")


async def sleeper() -> None:
    await gorun.sleep_async(LONG)


def plain_sleeper() -> None:
    gorun.sleep(LONG)


both = pytest.mark.parametrize("body", [sleeper, plain_sleeper])


@both
def test_cancel_ends_a_wait(body: Any) -> None:
    g = gorun.go(body)
    until(lambda: waits(g))
    assert g.cancel("reason") is True
    with pytest.raises(gorun.GoroutineCancelled, match="reason") as caught:
        g.result(LIMIT)
    assert caught.value.reason == "reason"
    assert g.cancelled()
    assert g.done()
    assert g.exception() is caught.value
    assert isinstance(caught.value.__cause__, gorun.Cancelled)
    assert g.cancel() is False


def test_cancelled_is_what_the_body_sees() -> None:
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            await gorun.sleep_async(LONG)
        except Exception:
            pytest.fail("Cancelled is no Exception")
        except BaseException as error:
            seen.append(error)
            raise

    g = gorun.go(body)
    until(lambda: waits(g))
    g.cancel(("any", "object"))
    until(g.done)
    assert g.cancelled()
    assert type(seen[0]) is gorun.Cancelled
    assert seen[0].reason == ("any", "object")
    error = g.exception()
    assert isinstance(error, gorun.GoroutineCancelled)
    assert error.reason == ("any", "object")
    seen.clear()


@pytest.mark.parametrize("kind", ["call", "coro", "object", "many"])
def test_cancel_before_the_first_step_never_runs_the_body(kind: str, maxprocs: int) -> None:
    # Mutation: `first` ignores `cancelled`.
    ran: list[int] = []

    async def coro() -> None:
        ran.append(1)

    def plain(_: Any = None) -> None:
        ran.append(1)

    def main() -> list[gorun.Goroutine[Any]]:
        # With one P nothing else runs until this goroutine lets go.
        if kind == "many":
            gs: list[gorun.Goroutine[Any]] = gorun.go_many(plain, range(3))
        else:
            gs = [gorun.go({"call": plain, "coro": coro}.get(kind) or coro())]
        for g in gs:
            assert g.cancel("early")
            assert g.cancel("again")
        return gs

    gorun.gomaxprocs(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "never awaited" would be one
        gs = gorun.go(main).result(LIMIT)
        gorun.wait(gs)
        gc.collect()
    assert ran == []
    for g in gs:
        assert g.cancelled()
        error = g.exception()
        assert isinstance(error, gorun.GoroutineCancelled)
        assert error.reason == "early"


def test_a_reason_that_cannot_be_printed() -> None:
    """It is still the reason. Mutation: `str(reason)` unguarded: its error comes in place of ours."""

    class Odd:
        def __repr__(self) -> str:
            raise LookupError

    odd = Odd()
    g = gorun.go(gorun.sleep, LONG)
    g.cancel(odd)
    error = g.exception(LIMIT)
    assert isinstance(error, gorun.GoroutineCancelled)
    assert error.reason is odd
    assert "Odd object at" in str(error)
    assert g.cancelled()


def test_second_cancel_before_delivery_changes_nothing(maxprocs: int) -> None:
    # Mutation: `cancel_asked` looks at PENDING only: the second reason replaces the first.
    g = gorun.go(sleeper)
    until(lambda: waits(g))

    def main() -> None:
        assert g.cancel("first")
        assert g.cancel("second")
        assert g.cancel()

    gorun.gomaxprocs(1)
    gorun.go(main).result(LIMIT)
    error = g.exception(LIMIT)
    assert isinstance(error, gorun.GoroutineCancelled)
    assert error.reason == "first"


def test_second_cancel_while_pending_changes_nothing() -> None:
    gate, started = threading.Event(), threading.Event()

    def body() -> Any:
        started.set()
        gate.wait()
        with pytest.raises(gorun.Cancelled) as caught:
            gorun.gosched()
        gorun.gosched()  # delivered once
        return caught.value.reason

    g = gorun.go(body)
    assert started.wait(LIMIT)
    assert g.cancel("first")
    assert g.cancel("second")
    assert g.cancel()
    gate.set()
    assert g.result(LIMIT) == "first"


def test_after_delivery_it_delivers_again() -> None:
    # Mutation: `delivered` leaves the verdict, so that the second cancel is `Already`;
    # or the reason of an earlier cancel stays when a later one brings none.
    seen: list[Any] = []

    async def coro() -> None:
        while len(seen) < 4:
            try:
                await gorun.sleep_async(LONG)
            except gorun.Cancelled as error:
                seen.append(error.reason)

    def plain() -> None:
        while len(seen) < 4:
            try:
                gorun.sleep(LONG)
            except gorun.Cancelled as error:
                seen.append(error.reason)

    for fn in (coro, plain):
        seen.clear()
        g = gorun.go(fn)
        until(lambda g=g: waits(g))
        for n, reason in enumerate(["a", None, "c", "d"]):
            assert g.cancel(reason) if reason else g.cancel()
            until(lambda n=n: len(seen) > n)
        g.result(LIMIT)
        assert seen == ["a", None, "c", "d"]
        assert not g.cancelled()


def test_a_body_that_cancels_itself_again_and_again() -> None:
    def plain() -> list[Any]:
        me = gorun.current()
        assert me is not None
        seen = []
        for i in range(5):
            assert me.cancel(i)
            with pytest.raises(gorun.Cancelled) as caught:
                gorun.sleep(LONG)
            seen.append(caught.value.reason)
            gorun.gosched()
        return seen

    assert gorun.go(plain).result(LIMIT) == [0, 1, 2, 3, 4]


def test_a_goroutine_that_ends_in_spite_reports_its_result() -> None:
    async def body() -> str:
        with contextlib.suppress(gorun.Cancelled):
            await gorun.sleep_async(LONG)
        return "in spite"

    async def fails() -> None:
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled:
            raise LookupError("instead") from None

    g, h = gorun.go(body), gorun.go(fails)
    until(lambda: waits(g) and waits(h))
    g.cancel()
    h.cancel()
    assert g.result(LIMIT) == "in spite"
    assert str(h.exception(LIMIT)) == "instead"
    assert not g.cancelled()
    assert not h.cancelled()


def test_cancel_that_nothing_delivered() -> None:
    # Mutation: `end` turns a pending cancel into the outcome.
    gate, started = threading.Event(), threading.Event()
    g = gorun.go(lambda: (started.set(), gate.wait())[1])
    assert started.wait(LIMIT)
    assert g.cancel()
    gate.set()
    assert g.result(LIMIT) is True
    assert not g.cancelled()


def test_cleanup_may_await() -> None:
    out: list[Any] = []

    async def body() -> None:
        try:
            await gorun.sleep_async(LONG)
        finally:
            await gorun.sleep_async(0.001)
            await gorun.gosched_async()
            out.append(await gorun.go(abs, -1))
            gorun.sleep(0.001)
            out.append(gorun.go(abs, -2).result())

    g = gorun.go(body)
    until(lambda: waits(g))
    g.cancel()
    until(g.done)
    assert out == [1, 2]
    assert g.cancelled()


def test_what_never_delivers() -> None:
    # Mutation: a `cancel_point` in any of these.
    def body() -> str:
        me = gorun.current()
        assert me is not None
        me.cancel("pending")
        g = gorun.go(abs, -1)
        [h] = gorun.go_many(abs, [1])
        s = gorun.spawn(abs, (1,), name="x")
        me.add_done_callback(lambda _: None)
        assert (g.done(), g.cancelled()) is not None
        assert gorun.current() is me
        gorun.stats()
        gorun.goroutines()
        gorun.num_goroutine()
        gorun.gomaxprocs()
        t = gorun.Timer(LONG, print)
        assert t.reset(LONG)
        assert t.stop()
        latch = gorun._gorun.Latch(2)
        latch.done()
        latch.set()
        assert latch.is_set()
        h.cancel()
        with gorun.shield():
            gorun.sleep(0)
            g.result()
            gorun.wait([s])
        with pytest.raises(gorun.Cancelled, match="pending"):
            gorun.gosched()
        return "only now"

    assert gorun.go(body).result(LIMIT) == "only now"


def test_building_an_operation_delivers_nothing() -> None:
    async def body() -> str:
        gorun.current().cancel()  # type: ignore[union-attr]
        op = gorun.sleep_async(0)
        wait = gorun.wait_async([])
        stream = gorun.as_completed_async([])
        try:
            await op
        except gorun.Cancelled:
            await wait
            assert [g async for g in stream] == []
            return "at the await"
        return "never"

    assert gorun.go(body).result(LIMIT) == "at the await"


def test_joining_passes_no_cancel_on() -> None:
    # Mutation: cancel the target when its joiner is cancelled.
    gate = threading.Event()
    target = gorun.go(gate.wait)

    async def joiner() -> Any:
        return await target

    gs = [gorun.go(joiner), gorun.go(target.result)]
    until(lambda: all(waits(g) for g in gs))
    for g in gs:
        g.cancel()
    gorun.wait(gs)
    assert not target.done()
    gate.set()
    assert target.result(LIMIT) is True


def test_joining_a_cancelled_one_does_not_cancel_the_joiner() -> None:
    # Mutation: raise the Cancelled itself in the joiner.
    async def joiner(g: gorun.Goroutine[Any]) -> str:
        with pytest.raises(gorun.GorunError) as caught:
            await g
        assert type(caught.value) is gorun.GoroutineCancelled
        await gorun.gosched_async()
        return "told"

    g = gorun.go(sleeper)
    h = gorun.go(joiner, g)
    g.cancel()
    assert h.result(LIMIT) == "told"


@pytest.mark.parametrize("end", ["result", "exception", "_wait"])
def test_joining_oneself(end: str) -> None:
    def plain() -> None:
        getattr(gorun.current(), end)()

    with pytest.raises(RuntimeError, match="itself"):
        gorun.go(plain).result(LIMIT)

    async def coro() -> str:
        me = gorun.current()
        assert me is not None
        for _ in range(2):
            with pytest.raises(RuntimeError, match="itself"):
                await me
        return "went on"

    with warnings.catch_warnings():
        # Mutation: `start` leaves the state New when it refuses: "never awaited".
        warnings.simplefilter("error")
        assert gorun.go(coro).result(LIMIT) == "went on"


def test_cancel_from_every_place() -> None:
    async def canceller(g: gorun.Goroutine[Any]) -> bool:
        return g.cancel()

    import asyncio

    gs = [gorun.go(sleeper) for _ in range(6)]
    until(lambda: all(waits(g) for g in gs))
    assert gs[0].cancel()
    thread = threading.Thread(target=gs[1].cancel)
    thread.start()
    thread.join()
    assert gorun.go(gs[2].cancel).result(LIMIT)
    assert gorun.go(canceller, gs[3]).result(LIMIT)
    assert asyncio.run(canceller(gs[4]))
    gorun.go(abs, 1).add_done_callback(lambda _: gs[5].cancel())
    assert len(gorun.wait(gs, LIMIT).done) == 6
    assert all(g.cancelled() for g in gs)


def test_cancel_and_end_race() -> None:
    # Mutation: `cancel` answers True after the end, or `Ready` loses against a later cancel.
    async def body(latch: Any) -> bool:
        return bool(await latch.wait_async())

    for i in range(300):
        latch = gorun._gorun.Latch()
        g = gorun.go(body, latch)
        if i % 3:
            until(lambda g=g: waits(g))
        other = gorun.go(latch.set)
        asked = g.cancel()
        other.result(LIMIT)
        error = g.exception(LIMIT)
        if error is None:
            assert g.result() is True
        else:
            assert asked
            assert g.cancelled()


def test_many_cancels_from_many_threads() -> None:
    # Mutation: reason and word changed apart from each other: a reason nobody gave, or None.
    async def body() -> list[Any]:
        reasons = []
        while len(reasons) < 50:
            try:
                await gorun.sleep_async(LONG)
            except gorun.Cancelled as error:
                reasons.append(error.reason)
        return reasons

    g = gorun.go(body)
    until(lambda: waits(g))

    def canceller(name: str) -> None:
        i = 0
        while g.cancel((name, i)):
            i += 1

    threads = [threading.Thread(target=canceller, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    reasons = g.result(LIMIT)
    for thread in threads:
        thread.join()
    assert all(isinstance(r, tuple) and r[0] in "abc" for r in reasons)


@pytest.mark.parametrize("end", ["close", "throw"])
def test_an_operation_that_is_taken_back_after_it_was_cut(end: str) -> None:
    # Mutation: `withdraw` leaves the verdict, and the next `arm` forgets it.
    async def body() -> str:
        wait = gorun.sleep_async(LONG).__await__()
        wait.send(None)
        gorun.current().cancel("kept")  # type: ignore[union-attr]
        if end == "close":
            wait.close()
        else:
            with pytest.raises(LookupError):
                wait.throw(LookupError)
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled as error:
            return str(error.reason)
        return "lost"

    assert gorun.go(body).result(LIMIT) == "kept"


# ---- shield --------------------------------------------------------------------------------------


def test_shield_holds_a_cancel_back() -> None:
    # Mutation: `cancel` or `take_cancel` ignores SHIELD.
    out: list[Any] = []
    inside = threading.Event()
    gate = gorun._gorun.Latch()

    async def coro() -> None:
        async with gorun.shield():
            inside.set()
            await gate.wait_async()
            await gorun.gosched_async()
            out.append("through")
        out.append("after")
        await gorun.gosched_async()
        out.append("never")

    async def coro_with() -> None:
        with gorun.shield():
            inside.set()
            await gate.wait_async()
            out.append("through")
        out.append("after")
        await gorun.gosched_async()
        out.append("never")

    def plain() -> None:
        with gorun.shield():
            inside.set()
            gate.wait()
            gorun.gosched()
            out.append("through")
        out.append("after")
        gorun.gosched()
        out.append("never")

    for fn in (coro, coro_with, plain):
        out.clear()
        inside.clear()
        gate = gorun._gorun.Latch()
        g = gorun.go(fn)
        assert inside.wait(LIMIT)
        assert g.cancel("late")
        assert g.cancel("later")
        gate.set()
        error = g.exception(LIMIT)
        assert isinstance(error, gorun.GoroutineCancelled)
        assert error.reason == "late"
        assert out == ["through", "after"]


def test_shields_nest() -> None:
    # Mutation: the inner shield's end turns it off.
    def body() -> str:
        gorun.current().cancel()  # type: ignore[union-attr]
        with gorun.shield():
            with gorun.shield():
                gorun.gosched()
            gorun.gosched()
        try:
            gorun.gosched()
        except gorun.Cancelled:
            return "outside"
        return "never"

    # A cancel point in front of the shield would deliver it; entering is none.
    assert gorun.go(body).result(LIMIT) == "outside"


def test_one_shield_is_no_nest() -> None:
    """Entered while it is open it says so, and the cancel still arrives after it; later it can be used again.

    Mutation: no `_free`: the second `_before` takes the first one's place, and the goroutine is shielded for ever.
    """

    def body() -> str:
        gorun.current().cancel()  # type: ignore[union-attr]
        shield = gorun.shield()
        for _ in range(2):
            with shield:
                with pytest.raises(RuntimeError, match="open already"), shield:
                    raise AssertionError("entered twice")
                gorun.gosched()
        try:
            gorun.gosched()
        except gorun.Cancelled:
            return "outside"
        return "never"

    assert gorun.go(body).result(LIMIT) == "outside"


def test_shield_with_an_error_inside() -> None:
    def body() -> str:
        try:
            with gorun.shield():
                raise LookupError
        except LookupError:
            gorun.current().cancel()  # type: ignore[union-attr]
        try:
            gorun.gosched()
        except gorun.Cancelled:
            return "shield is off"
        return "shield is on"

    assert gorun.go(body).result(LIMIT) == "shield is off"


def test_shield_is_one_goroutines_own() -> None:
    gate = threading.Event()

    def shielded() -> None:
        with gorun.shield():
            gate.wait()

    g = gorun.go(shielded)
    h = gorun.go(sleeper)
    until(lambda: waits(h))
    h.cancel()
    assert isinstance(h.exception(LIMIT), gorun.GoroutineCancelled)
    gate.set()
    g.result(LIMIT)


def test_shield_outside_a_goroutine_does_nothing() -> None:
    with gorun.shield() as s:
        assert isinstance(s, gorun.shield)
        assert gorun.go(abs, -1).result() == 1


def test_shield_against_shutdown_like_cancels_in_cleanup() -> None:
    out: list[str] = []

    async def body() -> None:
        try:
            await gorun.sleep_async(LONG)
        finally:
            with gorun.shield():
                await gorun.sleep_async(0.02)
                out.append("cleaned")

    g = gorun.go(body)
    until(lambda: waits(g))
    g.cancel()
    time.sleep(0.005)
    g.cancel()
    until(g.done)
    assert out == ["cleaned"]
    assert g.cancelled()


# ---- Cancelled that gorun did not deliver --------------------------------------------------------


def test_a_cancelled_of_ones_own_making_is_a_failure() -> None:
    # Mutation: `classify` looks at the type only.
    async def body() -> None:
        raise gorun.Cancelled("mine")

    def plain() -> None:
        raise gorun.Cancelled

    for fn in (body, plain):
        g = gorun.go(fn)
        error = g.exception(LIMIT)
        assert isinstance(error, RuntimeError)
        assert isinstance(error.__cause__, gorun.Cancelled)
        assert not g.cancelled()


def test_a_cancelled_of_another_goroutine_is_a_failure() -> None:
    # Mutation: `classify` looks whether `_origin` is set, not whose it is.
    caught: list[BaseException] = []

    async def victim() -> None:
        try:
            await gorun.sleep_async(LONG)
        except gorun.Cancelled as error:
            caught.append(error)

    g = gorun.go(victim)
    until(lambda: gorun.stats().waiting)
    g.cancel("stop")
    g.result(LIMIT)

    async def thief() -> None:
        raise caught.pop()

    h = gorun.go(thief)
    error = h.exception(LIMIT)
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, gorun.Cancelled)
    assert error.__cause__.reason == "stop"
