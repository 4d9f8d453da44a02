"""stats, goroutines, num_goroutine: what they say. "Mutation:" names what makes a test fail."""

from __future__ import annotations

import os
import threading
import time
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


def info(g: gorun.Goroutine[Any]) -> gorun.GoroutineInfo:
    [found] = [i for i in gorun.goroutines() if i.id == g.id]
    return found


def line_of(fn: Any, text: str) -> str:
    """Where `text` stands in `fn`, as the runtime writes places."""
    import inspect

    lines, first = inspect.getsourcelines(fn)
    [n] = [first + i for i, line in enumerate(lines) if text in line and "line_of" not in line]
    return f"{__file__}:{n} in {fn.__qualname__}"


async def innermost(latch: Latch) -> None:
    await latch.wait_async()  # here it waits


async def middle(latch: Latch) -> None:
    await innermost(latch)


async def outer(latch: Latch) -> None:
    await middle(latch)


def test_a_waiting_goroutine() -> None:
    # Mutation: `at` from the outermost frame; or the site of `spawn` itself for `created_at`.
    latch = Latch()
    g = gorun.spawn(outer, (latch,), name="deep", tags=["a", "b"])  # made here
    until(lambda: info(g).state == "waiting")
    i = info(g)
    assert isinstance(i, gorun.GoroutineInfo)
    assert (i.id, i.name, i.state, i.tags) == (g.id, "deep", "waiting", ("a", "b"))
    assert i.at == line_of(innermost, "# here it waits")
    assert i.created_at == line_of(test_a_waiting_goroutine, "# made here")
    assert i.wait_reason
    assert 0 <= i.waiting < LIMIT
    until(lambda: info(g).waiting > 0)
    latch.set()
    g.result(LIMIT)
    assert g.id not in [i.id for i in gorun.goroutines()]


@pytest.mark.parametrize("way", ["go", "go_many", "spawn", "run", "timer", "coroutine"])
def test_where_goroutines_are_created(way: str) -> None:
    # Mutation: as above, for each way.
    latch = Latch()
    if way == "run":
        thread = threading.Thread(target=lambda: gorun.run(outer, latch))  # run's place
        thread.start()
    elif way == "go":
        g = gorun.go(outer, latch)  # go's place
    elif way == "go_many":
        [g] = gorun.go_many(outer, [latch])  # go_many's place
    elif way == "spawn":
        g = gorun.spawn(outer, (latch,))  # spawn's place
    elif way == "coroutine":
        g = gorun.go(outer(latch))  # coroutine's place
    else:
        timer = gorun.Timer(0, lambda: outer(latch))  # timer's place
        assert timer
    until(lambda: [i.state for i in gorun.goroutines()] == ["waiting"])
    [i] = gorun.goroutines()
    place = line_of(test_where_goroutines_are_created, f"# {way}'s place").split(" in ")[0]
    assert i.created_at is not None
    assert i.created_at.startswith(place)
    latch.set()
    if way == "run":
        thread.join()
    elif way != "timer":
        g.result(LIMIT)


def test_states_and_reasons() -> None:
    # Mutation: `state_name` ignores BLOCKED.
    latch, stop = Latch(), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            pass

    async def joins(g: Any) -> None:
        await g

    async def sleeps() -> None:
        await gorun.sleep_async(LONG)

    def blocks() -> None:
        with gorun.blocking():
            stop.wait()

    gorun.gomaxprocs(2)
    s, e = gorun.go(sleeps), gorun.go(outer, latch)
    j, p, b = gorun.go(joins, s), gorun.go(gorun.sleep, LONG), gorun.go(blocks)
    for g, state, reason in (
        (s, "waiting", "sleep"),
        (e, "waiting", "event"),
        (j, "waiting", "join"),
        (p, "blocked", "sleep"),
        (b, "blocked", ""),
    ):
        until(lambda g=g, state=state: info(g).state == state)
        assert reason in info(g).wait_reason.lower()
    r = gorun.go(busy)
    until(lambda: info(r).state == "running")
    assert (info(r).wait_reason, info(r).waiting, info(r).at) == ("", 0.0, None)
    stop.set()
    latch.set()
    s.cancel()
    p.cancel()
    assert isinstance(j.exception(LIMIT), gorun.GoroutineCancelled)
    gorun.wait([s, e, p, b, r])


def test_runnable(maxprocs: int) -> None:
    gorun.gomaxprocs(1)

    def main() -> tuple[str, float]:
        g = gorun.go(abs, 1)
        i = info(g)
        return i.state, i.waiting

    assert gorun.go(main).result(LIMIT) == ("runnable", 0.0)


def test_goroutines_are_in_order_and_counted() -> None:
    latch = Latch()
    gs = [gorun.go(outer, latch) for _ in range(50)]
    until(lambda: gorun.stats().waiting == 50)
    assert gorun.num_goroutine() == 50
    listed = gorun.goroutines()
    assert [i.id for i in listed] == sorted(g.id for g in gs)
    assert [i.name for i in listed] == [f"goroutine-{i.id}" for i in listed]
    assert all(i.tags == () for i in listed)
    latch.set()
    gorun.wait(gs)
    assert gorun.num_goroutine() == 0
    assert gorun.goroutines() == []


def test_listing_while_they_run() -> None:
    # Mutation: `standing` does not give a wake-up back that came meanwhile: one waits for ever.
    async def body(n: int) -> int:
        for i in range(200):
            await (gorun.sleep_async(0.0001) if i % 10 == 0 else gorun.gosched_async())
            await gorun.go(abs, -i)
        return n

    gs = gorun.go_many(body, range(20))
    while not all(g.done() for g in gs):
        for i in gorun.goroutines():
            assert i.state in ("runnable", "running", "waiting", "blocked")
        gorun.stats()
    assert [g.result() for g in gs] == list(range(20))


def test_stats(maxprocs: int) -> None:
    before = gorun.stats()
    latch = Latch()
    gs = [gorun.go(outer, latch) for _ in range(10)]
    timer = gorun.Timer(LONG, print)
    until(lambda: gorun.stats().waiting == 10)
    s = gorun.stats()
    assert isinstance(s, gorun.Stats)
    assert s.gomaxprocs == maxprocs
    assert s.goroutines == 10
    assert s.created - before.created == 10
    assert s.ended == before.ended
    assert (s.runnable, s.running, s.global_queue) == (0, 0, 0)
    assert s.timers == 1
    assert s.ms >= 1
    assert 0 <= s.ms_idle <= s.ms
    assert (s.ms_blocked, s.ms_without_p) == (0, 0)
    assert 0 <= s.ready_mean <= s.ready_max < LIMIT
    assert all(isinstance(p, gorun.PStats) for p in s.ps)
    assert [p.id for p in s.ps][:maxprocs] == list(range(maxprocs))
    assert sum(p.timers for p in s.ps) <= 1
    # Totals count Ps too that were lent, or lie above a lowered gomaxprocs.
    assert sum(p.steals for p in s.ps) <= s.steals
    assert sum(p.handoffs for p in s.ps) <= s.handoffs
    assert sum(p.runs for p in s.ps) >= 10
    latch.set()
    gorun.wait(gs)
    assert timer.stop()
    s = gorun.stats()
    assert (s.goroutines, s.ended - before.ended, s.timers) == (0, 10, 0)


def test_stats_is_frozen() -> None:
    s = gorun.stats()
    with pytest.raises(AttributeError):
        s.ms = 1  # type: ignore[misc]
    assert s._fields == (
        *("gomaxprocs", "goroutines", "runnable", "running", "waiting", "created", "ended"),
        *("ms", "ms_idle", "ms_blocked", "ms_without_p", "global_queue", "timers", "handoffs"),
        *("steals", "ready_mean", "ready_max", "ps"),
    )
    assert gorun.PStats._fields == ("id", "queue", "runs", "steals", "handoffs", "parks", "timers")


def test_handoffs_are_counted() -> None:
    before = gorun.stats().handoffs
    gorun.go(gorun.sleep, 0.001).result(LIMIT)
    assert gorun.stats().handoffs > before


def test_blocked_goroutines_are_counted() -> None:
    gs = [gorun.go(gorun.sleep, LONG) for _ in range(5)]
    until(lambda: gorun.stats().ms_blocked == 5)
    for g in gs:
        g.cancel()
    gorun.wait(gs)
    until(lambda: gorun.stats().ms_blocked == 0)


def test_the_kernel_knows_the_names_that_python_knows() -> None:
    def body() -> tuple[str, int]:
        return threading.current_thread().name, threading.get_native_id()

    name, number = gorun.go(body).result(LIMIT)
    assert name.startswith("gorun-m")
    assert os.path.exists(f"/proc/self/task/{number}")


@pytest.mark.skipif(
    os.environ.get("GORUN_SYSMON") == "clock", reason="a CPU clock tells too little"
)
def test_what_sysmon_found_blocked_is_blocked(maxprocs: int) -> None:
    """A goroutine whose P was taken away while it waits in a call of the system; and running again once it computes.

    Mutation: `state_name` does not ask `is_blocked_unseen`; that one does not look at the thread.
    """
    (r, w), stop = os.pipe(), threading.Event()

    def body() -> None:
        os.read(r, 1)
        while not stop.is_set():
            pass

    gs = [gorun.go(body) for _ in range(maxprocs + 2)]
    # All but those that keep their P because nobody waits for it.
    until(lambda: [info(g).state for g in gs].count("blocked") >= 2)
    found = next(info(g) for g in gs if info(g).state == "blocked")
    assert (found.wait_reason, found.waiting) == ("", 0.0)
    assert gorun.stats().waiting >= 2
    assert gorun.stats().ms_blocked == 0 < gorun.stats().ms_without_p
    os.write(w, b"x" * len(gs))
    until(lambda: {info(g).state for g in gs} == {"running"})
    stop.set()
    for g in gs:
        g.result(LIMIT)
    os.close(r)
    os.close(w)
