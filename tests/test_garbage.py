"""What is freed when: handles, arguments, results, cycles, `__del__`.

"Mutation:" names the change to the runtime that makes the test fail.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import gorun

LONG = 3600.0
LIMIT = 20.0
"""Seconds that nothing here comes near: only a failure waits for it."""


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


# ---- garbage -------------------------------------------------------------------------------------


class Thing:
    pass


def collected(ref: weakref.ref[Any]) -> bool:
    gc.collect()
    return ref() is None


def test_arguments_and_function_go_with_the_end() -> None:
    # Mutation: no `clear_call` in `end`: joiners find the arguments alive.
    thing = Thing()
    ref = weakref.ref(thing)
    g = gorun.go(lambda _: None, thing)
    h = gorun.spawn(lambda _, k: None, (thing,), {"k": thing})
    del thing
    gorun.wait([g, h])
    until(lambda: collected(ref))
    assert g.result() is None
    assert h.result() is None


def test_results_go_with_the_handle() -> None:
    # Mutation: `clear_all` keeps `outcome`.
    g = gorun.go(Thing)
    ref = weakref.ref(g.result(LIMIT))
    assert ref() is not None
    del g
    until(lambda: collected(ref))


def test_ended_goroutines_in_cycles_are_collected() -> None:
    # Mutation: `traverse` visits nothing.
    thing = Thing()
    thing.g = gorun.go(lambda x: x, thing)  # type: ignore[attr-defined]
    until(thing.g.done)  # type: ignore[attr-defined]
    ref = weakref.ref(thing)
    del thing
    until(lambda: collected(ref))


def test_errors_in_cycles_are_collected() -> None:
    refs = []

    def body(thing: Thing) -> None:
        error = LookupError("cycle")
        error.thing = thing  # type: ignore[attr-defined]
        raise error

    thing = Thing()
    thing.g = gorun.go(body, thing)  # type: ignore[attr-defined]
    refs.append(weakref.ref(thing))
    assert isinstance(thing.g.exception(LIMIT), LookupError)  # type: ignore[attr-defined]
    del thing
    until(lambda: collected(refs[0]))


def test_live_goroutines_are_held_without_a_handle() -> None:
    # Mutation: the queue holds no reference.
    out: list[int] = []

    async def body() -> None:
        for _ in range(10):
            await gorun.sleep_async(0.001)
            gc.collect()
        out.append(1)

    gorun.go(body)
    until(lambda: out)


def test_weakrefs_to_handles() -> None:
    # Mutation: no PyObject_ClearWeakRefs in `dealloc`.
    gate = threading.Event()
    called: list[Any] = []
    g = gorun.go(gate.wait)
    ref = weakref.ref(g, lambda _: called.append(gorun.go(abs, -2).result(LIMIT)))
    assert ref() is g
    del g
    gc.collect()
    assert ref() is None
    assert called == [2]
    gate.set()


def test_del_may_use_gorun() -> None:
    # The collector is asked because on free-threaded builds an object that is dropped away from the
    # thread that made it is freed when that thread next runs Python code: an idle M does not.
    out: list[Any] = []

    class Last:
        def __del__(self) -> None:
            out.append(gorun.go(abs, -6).result(LIMIT))
            gorun.sleep(0.001)
            out.append(gorun.current() is None)

    gorun.go(lambda _: None, Last()).result(LIMIT)
    until(lambda: gc.collect() >= 0 and len(out) == 2)
    assert out[0] == 6
    out.clear()
    g = gorun.go(Last)
    gorun.wait([g])
    del g
    until(lambda: gc.collect() >= 0 and len(out) == 2)
    assert out[0] == 6


def test_del_in_an_async_body_at_its_end() -> None:
    out: list[Any] = []

    class Last:
        def __del__(self) -> None:
            out.append(gorun.go(abs, -6).result(LIMIT))

    async def body() -> None:
        last = Last()
        await gorun.gosched_async()
        del last
        keep = Last()
        await gorun.gosched_async()
        assert keep

    gorun.go(body).result(LIMIT)
    until(lambda: gc.collect() >= 0 and len(out) == 2)
    assert out == [6, 6]


def test_handles_made_and_dropped_from_many_threads() -> None:
    # Mutation: `try_incref` without UPGRADING: a dying handle is handed out (crashes on 3.13t).
    stop = time.monotonic() + 0.5

    def body() -> None:
        while time.monotonic() < stop:
            g = gorun.current()
            assert g is not None
            del g

    gs = [gorun.go(body) for _ in range(3)]
    while time.monotonic() < stop:
        for h in gorun._gorun._live():
            assert h.id > 0
    for g in gs:
        g.result(LIMIT)
