"""`Context`: the tree, its ends, done channels, deadlines, values, after_func; who is held by whom; misuse."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as, until, waits

import gorun
from gorun import Context, background

every_caller = pytest.mark.parametrize("kind", KINDS)


class Ender:
    """Ends a child of its context when it dies. (A local class with closures is never freed by 3.13t under pytest.)"""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def __del__(self) -> None:
        self.ctx.with_cancel().cancel()


def parts(ctx: Context) -> int:
    """How many children it knows."""
    return sum(type(key) is int for key in ctx._state)


# ---- the tree ------------------------------------------------------------------------------------


def test_the_root() -> None:
    root = background()
    assert root is background()
    assert (root.err(), root.cause(), root.deadline, root.value("x")) == (None, None, None, None)
    assert not root.done.closed
    assert root.done == root.done
    with pytest.raises(RuntimeError, match="never ends"):
        root.cancel()
    with root:
        pass
    stop = root.after_func(print)
    assert (stop(), stop()) == (True, False)
    assert root.err() is None


def test_cancel_ends_what_is_below() -> None:
    """Not what is above or beside. Mutation: `_wind_up` ends the children only, not theirs."""
    a = background().with_cancel()
    b, c = a.with_cancel(), a.with_value("k", 1)
    d = b.with_cancel()
    b.cancel("why")
    assert [x.err() is None for x in (a, b, c, d)] == [True, False, True, False]
    assert d.err() is b.err()
    assert (b.cause(), d.cause()) == ("why", "why")
    a.cancel()
    assert c.err() is a.err()
    assert (b.cause(), c.cause()) == ("why", a.err())
    assert isinstance(a.err(), gorun.ContextDone)
    assert not isinstance(a.err(), TimeoutError)
    assert parts(a) == 0


def test_the_first_cancel_wins() -> None:
    """Mutation: the record is overwritten."""
    ctx = background().with_cancel()
    ctx.cancel()
    error = ctx.err()
    ctx.cancel("late")
    assert ctx.cause() is ctx.err() is error
    cause = LookupError("x")
    ctx = background().with_cancel()
    ctx.cancel(cause)
    assert ctx.cause() is cause
    assert isinstance(ctx.err(), gorun.ContextDone)


def test_children_of_an_ended_one() -> None:
    """Mutation: `_adopt` does not look at the end."""
    ctx = background().with_cancel()
    ctx.cancel("why")
    for child in (ctx.with_cancel(), ctx.with_value("k", 1), ctx.with_timeout(LONG)):
        assert child.err() is ctx.err()
        assert child.cause() == "why"
        assert child.done.closed
    assert parts(ctx) == 0
    assert gorun.stats().timers == 0


def test_with_ends_it() -> None:
    with background().with_cancel() as ctx:
        assert ctx.err() is None
    assert ctx.err() is not None
    with pytest.raises(LookupError), background().with_cancel() as ctx:
        raise LookupError
    assert ctx.err() is not None


def test_deep_and_wide() -> None:
    """A tree of 20 000 levels ends without recursion. Mutation: `_wind_up` calls itself."""
    at = root = background().with_cancel()
    for _ in range(20_000):
        at = at.with_cancel()
    kids = [root.with_cancel() for _ in range(1000)]
    root.cancel()
    assert at.err() is root.err()
    assert all(k.err() is root.err() for k in kids)
    while at._parent is not None:  # not by recursion either
        at = at._parent


def test_cancelled_while_children_are_made() -> None:
    """Many times: no child is missed. Mutation: `_adopt` looks at the end before it enters the child."""
    for _ in range(200):
        root = background().with_cancel()
        made: list[Context] = []

        def make(root: Context = root, made: list[Context] = made) -> None:
            for _ in range(20):
                made.append(root.with_cancel())

        gs = [gorun.go(make), gorun.go(root.cancel), gorun.go(make)]
        for g in gs:
            g.result(LIMIT)
        assert all(c.err() is not None for c in made)


def test_many_cancel_at_once() -> None:
    """One cause for all who look. Mutation: claim and record are two steps."""
    for _ in range(100):
        ctx = background().with_cancel()
        child = ctx.with_cancel()

        def end(n: int, ctx: Context = ctx, child: Context = child) -> Any:
            ctx.cancel(n)
            return ctx.cause()

        causes = {g.result(LIMIT) for g in [gorun.go(end, n) for n in range(1, 5)]}
        assert len(causes) == 1
        assert child.cause() == ctx.cause()


# ---- done ----------------------------------------------------------------------------------------


@every_caller
def test_done_wakes_whoever_waits(kind: str) -> None:
    """Mutation: `_wind_up` does not close the channel."""
    ctx = background().with_cancel()
    child = ctx.with_cancel()
    gorun.Timer(0.005, ctx.cancel)

    def plain() -> Any:
        return child.done.recv_ok(), gorun.select(ctx.done, child.done).ok

    async def twin() -> Any:
        first = await child.done.recv_ok_async()
        return first, (await gorun.select_async(ctx.done, child.done)).ok

    assert run_as(kind, plain, twin) == ((None, False), False)


def test_done_is_the_same_channel() -> None:
    ctx = background().with_cancel()
    assert ctx.done == ctx.done
    assert not ctx.done.closed
    assert type(ctx.done) is gorun.RecvChan
    ctx.cancel()
    assert ctx.done.closed


def test_done_made_while_it_ends() -> None:
    """Many times: never a channel that stays open. Mutation: `done` does not look at the end afterwards."""
    for _ in range(200):
        ctx = background().with_cancel()
        g = gorun.go(ctx.cancel)
        done = ctx.done
        g.result(LIMIT)
        assert done.closed
        assert ctx.done.closed


# ---- deadlines -----------------------------------------------------------------------------------


@every_caller
def test_timeout(kind: str) -> None:
    """Mutation: `_Expire` ends it as a cancel."""

    def plain() -> Context:
        ctx = background().with_timeout(0.01)
        ctx.with_cancel().done.recv_ok()
        return ctx

    async def twin() -> Context:
        ctx = background().with_timeout(0.01)
        await ctx.with_cancel().done.recv_ok_async()
        return ctx

    ctx = run_as(kind, plain, twin)
    assert isinstance(ctx.err(), gorun.ContextDone)
    assert isinstance(ctx.err(), TimeoutError)
    assert ctx.cause() is ctx.err()
    assert ctx.deadline is not None
    assert ctx.deadline <= time.monotonic()


def test_deadline() -> None:
    """The earlier one counts; children see it. Mutation: a child replaces the deadline of its parent."""
    at = time.monotonic() + LONG
    a = background().with_deadline(at)
    assert (a.deadline, a.with_cancel().deadline, a.with_value(1, 2).deadline) == (at, at, at)
    assert a.with_deadline(at + 1).deadline == at
    assert a.with_timeout(2 * LONG).deadline == at
    b = a.with_deadline(at - 1)
    assert b.deadline == at - 1
    assert gorun.stats().timers == 2
    a.cancel()
    assert b.err() is a.err()
    assert gorun.stats().timers == 0


@pytest.mark.parametrize("seconds", [0, -1, float("-inf")])
def test_deadlines_in_the_past(seconds: float) -> None:
    """Over at once. Mutation: a timer is set."""
    for ctx in (
        background().with_timeout(seconds),
        background().with_deadline(time.monotonic() + seconds),
    ):
        assert isinstance(ctx.err(), TimeoutError)
        assert ctx.done.closed


def test_cancel_before_the_deadline() -> None:
    """Mutation: the timer stays armed."""
    ctx = background().with_timeout(LONG)
    ctx.cancel()
    assert not isinstance(ctx.err(), TimeoutError)
    assert gorun.stats().timers == 0


def test_far_deadlines() -> None:
    for ctx in (background().with_timeout(1e300), background().with_timeout(float("inf"))):
        assert ctx.err() is None
        ctx.cancel()


# ---- values --------------------------------------------------------------------------------------


def test_values() -> None:
    """Found by equality, the nearest first. Mutation: by identity."""
    a = background().with_value((1, 2), "a").with_value("none", None)
    b = a.with_cancel().with_value((1, 2), "b")
    assert (a.value((1, 2)), b.value((1, 2))) == ("a", "b")
    assert b.value([1]) is None  # no hash needed
    assert b.value("none", "default") is None
    assert b.value("missing", "default") == "default"


def test_without_cancel() -> None:
    """Values, no end, no deadline; can be cancelled by itself. Mutation: the child is adopted."""
    parent = background().with_timeout(LONG).with_value("k", "v")
    free = parent.without_cancel()
    parent.cancel()
    assert (free.value("k"), free.err(), free.deadline, free.done.closed) == (
        "v",
        None,
        None,
        False,
    )
    free.cancel()
    assert free.done.closed


# ---- after_func ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "parent", "deadline", "before"])
def test_after_func(how: str) -> None:
    """Runs once, in a goroutine, in the context variables of its place. Mutation: it runs in the canceller."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    parent = background().with_cancel()
    ctx = parent.with_timeout(0.01) if how == "deadline" else parent.with_cancel()
    if how == "before":
        ctx.cancel()
    seen: list[Any] = []
    token = var.set("place")
    stop = ctx.after_func(lambda: seen.append((gorun.current() is not None, var.get())))
    var.reset(token)
    if how == "cancel":
        ctx.cancel()
        ctx.cancel()
    elif how == "parent":
        parent.cancel()
    until(lambda: seen)
    assert seen == [(True, "place")]
    assert stop() is False


def test_after_func_async() -> None:
    ran = gorun._gorun.Latch()

    async def fn() -> None:
        await gorun.sleep_async(0.001)
        ran.set()

    ctx = background().with_cancel()
    ctx.after_func(fn)
    ctx.cancel()
    assert ran.wait(LIMIT)


def test_stop() -> None:
    """Mutation: `stop` leaves the function in its place."""
    ctx = background().with_cancel()
    seen: list[int] = []
    stop = ctx.after_func(lambda: seen.append(1))
    ctx.after_func(lambda: seen.append(2))
    assert (stop(), stop()) == (True, False)
    ctx.cancel()
    until(lambda: seen)
    assert seen == [2]


def test_stop_against_cancel() -> None:
    """Many times: it runs, or `stop` says True, never both or neither. Mutation: `stop` does not claim."""
    for _ in range(200):
        ctx = background().with_cancel()
        ran = gorun._gorun.Latch()
        stop = ctx.after_func(ran.set)
        g = gorun.go(ctx.cancel)
        stopped = stop()
        g.result(LIMIT)
        if stopped:
            assert not ran.is_set()
        else:
            assert ran.wait(LIMIT)


def test_a_context_with_functions_is_held_by_what_can_end_it() -> None:
    """Mutation: `_pin` does not hold the chain: the function never runs."""
    root = background().with_cancel()
    seen: list[str] = []
    root.with_cancel().with_value("k", 1).with_cancel().after_func(lambda: seen.append("root"))
    background().with_timeout(0.02).with_cancel().after_func(lambda: seen.append("deadline"))
    gc.collect()
    until(lambda: "deadline" in seen)
    root.cancel()
    until(lambda: "root" in seen)
    assert parts(root) == 0


def test_a_stopped_function_holds_nothing() -> None:
    """Mutation: `stop` does not unpin."""
    root = background().with_cancel()
    child = root.with_cancel()
    ref = weakref.ref(child)
    stop = child.with_cancel().after_func(print)
    del child
    gc.collect()
    assert ref() is not None
    assert stop()
    del stop
    gc.collect()
    assert ref() is None
    assert parts(root) == 0


# ---- memory --------------------------------------------------------------------------------------


def test_dropped_children_are_freed() -> None:
    """At once, with their timers. Mutation: a parent holds its children; no `__del__`."""
    root = background().with_cancel()
    for make in (
        root.with_cancel,
        lambda: root.with_timeout(LONG),
        lambda: root.with_value("k", 1),
        lambda: root.with_timeout(LONG).with_cancel(),
    ):
        ref = weakref.ref(make())
        gc.collect()
        assert ref() is None
        assert parts(root) == 0
        assert gorun.stats().timers == 0


def test_the_done_channel_holds_its_context() -> None:
    """While somebody has it, it will be closed; then both are freed. Mutation: no `_keep`."""
    root = background().with_cancel()
    done = root.with_cancel().with_cancel().done
    gc.collect()
    assert parts(root) == 1
    root.cancel()
    assert done.closed
    root = background().with_cancel()
    ctx = root.with_timeout(LONG)
    done = ctx.done
    ref = weakref.ref(ctx)
    del ctx
    gc.collect()
    assert ref() is not None
    del done
    gc.collect()
    assert ref() is None
    assert parts(root) == 0
    assert gorun.stats().timers == 0


def test_a_waiter_holds_what_it_waits_for() -> None:
    """A goroutine that waits for a deadline nobody else knows. Mutation: the timer dies with the context."""

    async def body() -> bool:
        _, ok = await background().with_timeout(0.02).with_cancel().done.recv_ok_async()
        return ok

    g = gorun.go(body)
    until(lambda: waits(g))
    gc.collect()
    assert g.result(LIMIT) is False


def test_ended_contexts_leave_their_parent() -> None:
    """Mutation: `_wind_up` does not take itself out."""
    root = background().with_cancel()
    kids = [root.with_cancel() for _ in range(10)]
    for kid in kids:
        kid.cancel()
    assert parts(root) == 0


def test_cycles() -> None:
    """A context that refers to itself by its values and functions. Mutation: Chan does not show what it keeps."""

    class Holder:
        pass

    for with_done in (False, True):
        holder = Holder()
        ctx = background().with_cancel().with_value("h", holder)
        holder.ctx = ctx  # type: ignore[attr-defined]
        if with_done:
            holder.done = ctx.done  # type: ignore[attr-defined]
        ref = weakref.ref(holder)
        del holder, ctx
        gc.collect()
        assert ref() is None


# ---- misuse --------------------------------------------------------------------------------------


def test_misuse() -> None:
    root = background()
    for call in (root.with_timeout, root.with_deadline):
        with pytest.raises(ValueError, match="nan"):
            call(float("nan"))
        with pytest.raises(TypeError, match="'1'"):
            call("1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="None"):
            call(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="float"):
            call(10**400)
    with pytest.raises(TypeError, match="background"):
        Context()
    with pytest.raises(TypeError, match="3"):
        root.after_func(3)  # type: ignore[arg-type]


def test_repr() -> None:
    ctx = background().with_cancel()
    assert (repr(background()), repr(ctx)) == ("<Context background>", "<Context open>")
    ctx.cancel()
    assert repr(ctx) == "<Context ended: the context was cancelled>"


def test_cancel_in_finalizers_and_tasks() -> None:
    """No lock is held by anything that could run one. Mutation: a plain lock around the tree: a hang."""
    root = background().with_cancel()
    root.with_value("ender", Ender(root))
    root._state["spare"] = Ender(root)
    root.cancel()
    root._state.pop("spare")

    async def main() -> bool:
        ctx = background().with_timeout(0.01)
        threading.Timer(0.002, ctx.cancel).start()
        return (await ctx.done.recv_ok_async())[1]

    assert asyncio.run(main()) is False
