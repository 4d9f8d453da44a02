"""go, spawn, go_many, run, current, and the ends of a goroutine.

"Mutation:" names the change to the runtime that makes the test fail.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

import pytest

import gorun

LONG = 3600.0
LIMIT = 20.0
"""Seconds that nothing here comes near: only a failure waits for it."""


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def in_thread(fn: Callable[[], Any]) -> Any:
    out: list[Any] = []

    def body() -> None:
        try:
            out.append((True, fn()))
        except BaseException as error:
            out.append((False, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    ok, value = out.pop()
    if not ok:
        raise value
    return value


async def _call(fn: Callable[[], Any]) -> Any:
    return fn()


CALLERS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "main": lambda fn: fn(),
    "thread": in_thread,
    "plain": lambda fn: gorun.go(fn).result(),
    "async": lambda fn: gorun.go(_call, fn).result(),
    "task": lambda fn: asyncio.run(_call(fn)),
}

every_caller = pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)


# ---- go ------------------------------------------------------------------------------------------


@every_caller
def test_go_from_every_caller(caller: Callable[[Callable[[], Any]], Any]) -> None:
    async def body(n: int) -> int:
        await gorun.sleep_async(0.001)
        return n + 1

    g = caller(lambda: gorun.go(body, 1))
    assert g.result(LIMIT) == 2
    assert g.done()
    assert not g.cancelled()
    assert g.exception() is None


@every_caller
def test_go_runs_nothing_itself(caller: Callable[[Callable[[], Any]], Any]) -> None:
    # Mutation: call the function in `go` (launch) instead of in the first step.
    here: list[int] = []
    gate = threading.Event()

    class Body:
        def __call__(self, *args: Any) -> int:
            gate.wait()
            here.append(threading.get_ident())
            return len(args)

        def __getattr__(self, name: str) -> Any:
            here.append(-1)
            raise AttributeError(name)

        def __eq__(self, other: object) -> bool:
            here.append(-2)
            return False

        def __hash__(self) -> int:
            here.append(-3)
            return 0

        def __bool__(self) -> bool:
            here.append(-4)
            return True

    def make() -> gorun.Goroutine[int]:
        g = gorun.go(Body(), Body(), Body())
        assert here == []
        return g

    g = caller(make)
    gate.set()
    assert g.result(LIMIT) == 2
    assert len(here) == 1
    assert here[0] not in (-1, -2, -3, -4, threading.get_ident())


def test_the_coroutine_is_made_in_the_goroutine() -> None:
    # Mutation: make the coroutine in `go`.
    made: list[object] = []

    def factory() -> Any:
        made.append(gorun.current())
        return _call(lambda: 5)

    g = gorun.go(factory)
    assert g.result(LIMIT) == 5
    assert made == [g]


def test_plain_callable_that_returns_a_coroutine_goes_on_with_it() -> None:
    # Mutation: drop the PyCoro_CheckExact branch in `first`: the result is the coroutine.
    async def body(a: int) -> tuple[int, object]:
        await gorun.gosched_async()
        return a, gorun.current()

    g = gorun.go(functools.partial(body, 3))
    assert g.result(LIMIT) == (3, g)
    g = gorun.go(lambda: body(4))
    assert g.result(LIMIT) == (4, g)


def test_what_looks_like_a_coroutine_is_a_value() -> None:
    def generator() -> Any:
        yield 1

    async def agen() -> Any:
        yield 1

    g = gorun.go(generator)
    assert isinstance(g.result(LIMIT), types.GeneratorType)
    assert isinstance(gorun.go(agen).result(LIMIT), types.AsyncGeneratorType)


def test_coroutine_object() -> None:
    async def body() -> int:
        await gorun.gosched_async()
        return 7

    assert gorun.go(body()).result(LIMIT) == 7


def test_coroutine_objects_at_the_same_address() -> None:
    # Mutation: leave `unclaim` out of `clear_call`: the second that gets the address is refused.
    async def body() -> int:
        return 7

    for _ in range(100):
        assert gorun.go(body()).result(LIMIT) == 7
    gs = [gorun.go(body()) for _ in range(100)]
    for g in gs:
        g.cancel()
    gorun.wait(gs)
    del gs, g
    for _ in range(100):
        assert gorun.go(body()).result(LIMIT) == 7


def test_one_coroutine_is_one_goroutine() -> None:
    # Mutation: `claim` answers true always.
    async def body() -> int:
        await gorun.sleep_async(0.01)
        return 7

    c = body()
    g = gorun.go(c)
    with pytest.raises(RuntimeError, match=r"already|started|ended"):
        gorun.go(c)
    assert g.result(LIMIT) == 7
    with pytest.raises(RuntimeError, match="started"):
        gorun.go(c)


def test_one_coroutine_returned_twice() -> None:
    # Mutation: no `claim` of a shared coroutine in `first`: two Ms drive it, and hang.
    async def body() -> int:
        await gorun.sleep_async(0.01)
        return 7

    for _ in range(20):
        c = body()
        gs = [gorun.go(lambda c=c: c) for _ in range(4)]
        ends = [(type(g.exception(LIMIT)), g.done()) for g in gs]
        assert sorted(t.__name__ for t, _ in ends) == ["NoneType", *["RuntimeError"] * 3]


def test_coroutine_object_takes_no_arguments() -> None:
    async def body() -> None: ...

    for extra in ((1,), {"a": 1}):
        c = body()
        args, kwargs = ((), extra) if isinstance(extra, dict) else (extra, {})
        with pytest.raises(TypeError, match="no arguments"):
            gorun.go(c, *args, **kwargs)  # type: ignore[call-overload]
        # It was not claimed: it still can become one.
        assert gorun.go(c).result(LIMIT) is None
    c = body()
    with pytest.raises(TypeError, match="no arguments"):
        gorun.spawn(c, kwargs={"a": 1})  # type: ignore[call-overload]
    assert gorun.spawn(c).result(LIMIT) is None


@pytest.mark.parametrize("what", [None, 5, "text", [], object()])
def test_go_refuses_what_cannot_run(what: Any) -> None:
    with pytest.raises(TypeError, match="needs a callable or a coroutine, not"):
        gorun.go(what)
    with pytest.raises(TypeError):
        gorun.go_many(what, [1])


def test_go_needs_a_function() -> None:
    with pytest.raises(TypeError):
        gorun.go()  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        gorun.go(fn=abs)  # type: ignore[call-overload]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("names", [(), ("a",), ("fn", "args", "self")])
def test_arguments_of_any_number(n: int, names: tuple[str, ...]) -> None:
    # Mutation: INLINE + 1 arguments copied, or the order of args in `first`.
    def plain(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def coro(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    args = tuple(range(n))
    kwargs = dict.fromkeys(names, 1)
    for fn in (plain, coro):
        assert gorun.go(fn, *args, **kwargs).result(LIMIT) == (args, kwargs)
        assert gorun.spawn(fn, args, kwargs).result(LIMIT) == (args, kwargs)
        assert gorun.spawn(fn, list(args), kwargs).result(LIMIT) == (args, kwargs)


def test_spawn_copies_kwargs() -> None:
    # Mutation: no PyDict_Copy and no dict() in spawn.
    gate = threading.Event()
    kwargs = {"a": 1}
    blocker = [gorun.go(gate.wait) for _ in range(4)]
    g = gorun.spawn(dict, kwargs=kwargs)
    kwargs["a"] = 2
    gate.set()
    assert g.result(LIMIT) == {"a": 1}
    gorun.wait(blocker)


def test_spawn_checks() -> None:
    with pytest.raises(TypeError, match="name must be a str or None, not 5"):
        gorun.spawn(abs, (1,), name=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="tags must be an iterable of str, not 'ab'"):
        gorun.spawn(abs, (1,), tags="ab")
    with pytest.raises(TypeError, match="tags"):
        gorun.spawn(abs, (1,), tags=[1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="priority must be None, not 3"):
        gorun.spawn(abs, (1,), priority=3)
    with pytest.raises(TypeError):
        gorun.spawn(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        gorun.spawn(abs, 5)  # type: ignore[call-overload]


def test_unhashable_arguments_and_results() -> None:
    assert gorun.go(list, [1, {}]).result(LIMIT) == [1, {}]
    gs = gorun.go_many(lambda x: x, [[1], {}, {2: []}])
    assert [g.result(LIMIT) for g in gs] == [[1], {}, {2: []}]


def test_huge_result() -> None:
    size = 64 << 20
    assert len(gorun.go(bytes, size).result(LIMIT)) == size


@pytest.mark.parametrize("value", [(), (1, 2), None, StopIteration(3), Exception("value")])
def test_results_come_as_they_are(value: Any) -> None:
    # Mutation: `stop` sets StopIteration with the bare value: tuples are splatted.
    async def body() -> Any:
        await gorun.gosched_async()
        return value

    async def outer(g: Any) -> Any:
        return await g

    for fn in (body, lambda: value):
        g = gorun.go(fn)
        assert g.result(LIMIT) is value
        assert gorun.go(outer, g).result(LIMIT) is value
        assert asyncio.run(outer(g)) is value
        assert asyncio.run(outer(gorun.go(fn))) is value


def test_go_many() -> None:
    async def double(n: int) -> int:
        await gorun.gosched_async()
        return 2 * n

    gs = gorun.go_many(double, range(1000))
    assert [g.result(LIMIT) for g in gs] == list(range(0, 2000, 2))
    assert [b.id - a.id for a, b in itertools.pairwise(gs)] == [1] * 999
    assert gorun.go_many(double, []) == []
    assert [g.result(LIMIT) for g in gorun.go_many(double, iter([4]))] == [8]


def test_go_many_starts_nothing_when_its_input_fails() -> None:
    # Mutation: submit while iterating.
    ran: list[int] = []

    def items() -> Any:
        yield 1
        yield 2
        raise LookupError("input")

    before = gorun.stats().created
    with pytest.raises(LookupError, match="input"):
        gorun.go_many(ran.append, items())
    assert gorun.stats().created == before
    assert ran == []


def test_go_many_takes_two_arguments() -> None:
    for args, kwargs in (((abs,), {}), ((abs, [], 1), {}), ((abs, []), {"a": 1})):
        with pytest.raises(TypeError):
            gorun.go_many(*args, **kwargs)
    with pytest.raises(TypeError):
        gorun.go_many(abs, 5)  # type: ignore[call-overload]


def test_ids_grow_from_one_and_are_never_used_again() -> None:
    # Mutation: `next_id` hands a block out twice.
    seen: set[int] = set()
    for _ in range(20):
        gs = [gorun.go(lambda: [gorun.go(abs, 1) for _ in range(20)]) for _ in range(5)]
        ids = [g.id for g in gs] + [h.id for g in gs for h in g.result(LIMIT)]
        assert all(n >= 1 for n in ids)
        assert len(set(ids)) == len(ids)
        assert seen.isdisjoint(ids)
        seen.update(ids)


def test_names() -> None:
    g = gorun.go(abs, 1)
    assert g.name == f"goroutine-{g.id}"
    h = gorun.spawn(abs, (1,), name="number one")
    assert h.name == "number one"
    gorun.wait([g, h])
    assert (g.name, h.name) == (f"goroutine-{g.id}", "number one")
    assert repr(g) == f"<Goroutine {g.id} done>"
    assert repr(h) == f"<Goroutine {h.id} 'number one' done>"


def test_repr_of_states() -> None:
    async def waits() -> None:
        await gorun.sleep_async(LONG)

    g = gorun.go(waits)
    until(lambda: "waiting" in repr(g))
    g.cancel()
    assert isinstance(g.exception(LIMIT), gorun.GoroutineCancelled)
    assert repr(g) == f"<Goroutine {g.id} cancelled>"
    f = gorun.go(divmod, 1, 0)
    assert isinstance(f.exception(LIMIT), ZeroDivisionError)
    assert repr(f) == f"<Goroutine {f.id} failed>"


def test_the_type() -> None:
    with pytest.raises(TypeError, match="go"):
        gorun.Goroutine()
    with pytest.raises(TypeError):
        type("Sub", (gorun.Goroutine,), {})
    assert gorun.Goroutine.__module__ == "gorun"
    assert gorun.Goroutine[int].__origin__ is gorun.Goroutine  # type: ignore[attr-defined]
    g = gorun.go(abs, 1)
    with pytest.raises(AttributeError):
        g.anything = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        g.id = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        __import__("pickle").dumps(g)
    with pytest.raises(TypeError):
        __import__("copy").copy(g)
    assert g.result() == 1


# ---- current -------------------------------------------------------------------------------------


def test_current() -> None:
    # Mutation: `handle` makes a second handle while one exists.
    async def body() -> list[Any]:
        seen = [gorun.current()]
        for _ in range(3):
            await gorun.gosched_async()
            seen.append(gorun.current())
        return seen

    assert gorun.current() is None
    g = gorun.go(body)
    assert all(h is g for h in g.result(LIMIT))
    p = gorun.go(gorun.current)
    assert p.result(LIMIT) is p
    assert gorun.current() is None


def test_current_without_a_handle() -> None:
    # Mutation: `handle` does not retain.
    out: list[Any] = []

    def body() -> None:
        g = gorun.current()
        assert g is not None
        out.append(g.id)
        del g
        gc.collect()
        out.append(gorun.current())

    gorun.go(body)
    until(lambda: len(out) == 2)
    assert out[1].id == out[0]
    assert out[1].result(LIMIT) is None


def test_a_body_may_delete_its_own_handle() -> None:
    box: list[Any] = []
    gate = threading.Event()

    def body() -> int:
        gate.wait()
        box.clear()
        gc.collect()
        g = gorun.current()
        assert g is not None
        return g.id

    done: list[int] = []
    box.append(gorun.go(body))
    box[0].add_done_callback(lambda g: done.append(g.result()))
    n = box[0].id
    gate.set()
    until(lambda: done)
    assert done == [n]


def test_current_is_not_seen_by_threads_that_a_body_starts() -> None:
    def body() -> Any:
        return in_thread(gorun.current)

    assert gorun.go(body).result(LIMIT) is None


def fails(text: str) -> None:
    raise LookupError(text)


# ---- errors --------------------------------------------------------------------------------------


class Custom(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)
        self.b = b


@every_caller
def test_errors_reach_the_joiner(caller: Callable[[Callable[[], Any]], Any]) -> None:
    error = Custom(1, 2)

    async def fails() -> None:
        await gorun.gosched_async()
        raise error

    def fails_plainly() -> None:
        raise error

    for fn in (fails, fails_plainly):
        g = gorun.go(fn)
        with pytest.raises(Custom) as caught:
            caller(lambda g=g: g.result(LIMIT))
        assert caught.value is error
        assert caller(lambda g=g: g.exception(LIMIT)) is error
        error.__traceback__ = None


def names(trace: types.TracebackType | None) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(trace)]


def test_the_first_traceback_each_time() -> None:
    # Mutation: `restore` keeps what the last raise added: the joiners' frames pile up.
    def fails_deep_inside() -> None:
        raise KeyError("here")

    async def fails() -> None:
        await gorun.gosched_async()
        fails_deep_inside()

    g = gorun.go(fails)

    def joiner() -> None:
        g.result(LIMIT)

    for _ in range(5):
        with pytest.raises(KeyError) as caught:
            joiner()
        assert names(caught.value.__traceback__)[-3:] == ["joiner", "fails", "fails_deep_inside"]
        assert names(caught.value.__traceback__).count("joiner") == 1

    async def awaiter() -> None:
        await g

    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            gorun.go(awaiter).result(LIMIT)
        got = names(caught.value.__traceback__)
        assert got[-3:] == ["awaiter", "fails", "fails_deep_inside"]
        assert got.count("awaiter") == 1


def test_a_raised_outcome_has_no_context_of_the_joiner() -> None:
    g = gorun.go(divmod, 1, 0)
    try:
        raise LookupError
    except LookupError:
        error = g.exception(LIMIT)
    assert error is not None
    assert error.__context__ is None


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_base_exceptions_are_outcomes(kind: type[BaseException], hook_errors: Any) -> None:
    # Mutation: let SystemExit end the M's thread.
    async def fails() -> None:
        await gorun.gosched_async()
        raise kind("out")

    def fails_plainly() -> None:
        raise kind("out")

    for fn in (fails, fails_plainly):
        g = gorun.go(fn)
        with pytest.raises(kind, match="out"):
            g.result(LIMIT)
        with pytest.raises(kind, match="out"):
            gorun.run(fn)
        assert isinstance(g.exception(), kind)
        assert not g.cancelled()
    if kind is not SystemExit:
        gorun.go(fails_plainly)
        [args] = hook_errors.take()
        assert args.exc_type is kind
    else:
        gorun.go(fails_plainly)
        gorun.go(fails)
        until(lambda: gorun.num_goroutine() == 0)
        gc.collect()
        time.sleep(0.02)
        assert hook_errors.left() == []


def test_stop_iteration_in_bodies() -> None:
    async def coro() -> None:
        raise StopIteration(5)

    def plain() -> None:
        raise StopIteration(5)

    assert isinstance(gorun.go(plain).exception(LIMIT), StopIteration)
    # As for every coroutine (PEP 479).
    error = gorun.go(coro).exception(LIMIT)
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


def test_memory_error_from_a_body() -> None:
    def body() -> None:
        bytearray(1 << 62)

    assert isinstance(gorun.go(body).exception(LIMIT), MemoryError)
    assert gorun.go(abs, -1).result(LIMIT) == 1


def test_recursion_error_from_a_body() -> None:
    def body(n: int) -> int:
        return body(n + 1)

    async def coro(n: int) -> int:
        return await coro(n + 1)

    for fn in (body, coro):
        assert isinstance(gorun.go(fn, 0).exception(LIMIT), RecursionError)
    assert gorun.go(abs, -1).result(LIMIT) == 1


def test_deep_recursion_has_the_default_stack() -> None:
    # Mutation: start Ms with a small stack (threading.stack_size).
    def body(n: int) -> int:
        return 0 if n == 0 else 1 + max([n], key=lambda _: body(n - 1))  # through C each time

    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    depth = sys.getrecursionlimit() // 2
    assert gorun.go(down, depth).result(LIMIT) == depth


def test_arguments_that_do_not_fit() -> None:
    def none() -> None: ...

    with pytest.raises(TypeError, match="positional"):
        gorun.go(none, 1).result(LIMIT)  # type: ignore[call-overload]


# ---- run -----------------------------------------------------------------------------------------


def test_run() -> None:
    async def main(a: int, *, b: int) -> int:
        await gorun.gosched_async()
        return a + b

    assert gorun.run(main, 1, b=2) == 3
    assert gorun.run(lambda: threading.current_thread().name).startswith("gorun-m")
    assert gorun.run(main(3, b=4)) == 7
    assert in_thread(lambda: gorun.run(main, 1, b=1)) == 2
    with pytest.raises(LookupError, match="mine"):
        gorun.run(fails, "mine")
    with pytest.raises(TypeError):
        gorun.run(None)  # type: ignore[call-overload]


def test_run_leaves_other_goroutines_alone() -> None:
    gate = threading.Event()
    other: list[gorun.Goroutine[bool]] = []

    def main() -> None:
        other.append(gorun.go(gate.wait))

    gorun.run(main)
    assert not other[0].done()
    gate.set()
    assert other[0].result(LIMIT) is True


def test_run_where_it_must_not() -> None:
    # Mutation: drop either check in `run`.
    async def coro() -> None:
        gorun.run(abs, 1)

    def plain() -> None:
        gorun.run(abs, 1)

    for fn in (coro, plain):
        with pytest.raises(RuntimeError, match="inside a goroutine"):
            gorun.go(fn).result(LIMIT)
    with pytest.raises(RuntimeError, match="running asyncio loop"):
        asyncio.run(coro())


def test_run_raises_what_a_cancelled_main_means() -> None:
    async def main() -> None:
        me = gorun.current()
        assert me is not None
        me.cancel("self")
        await gorun.sleep_async(LONG)

    with pytest.raises(gorun.GoroutineCancelled, match="self"):
        gorun.run(main)
