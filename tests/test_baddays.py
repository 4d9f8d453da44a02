"""Bad days: bodies that misbehave, destructors that call back, memory and recursion at their ends."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests import _child
from tests.conftest import HookErrors

import gorun
from gorun import go


def until(done: Callable[[], object], limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not done():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.0005)


async def nap(seconds: float = 3600.0) -> None:
    await gorun.sleep_async(seconds)


# --- bodies ---------------------------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [ValueError, Odd, GeneratorExit, StopIteration, StopAsyncIteration, MemoryError]
)
@pytest.mark.parametrize("kind", ["plain", "async", "async late"])
def test_a_body_that_raises(error: type[BaseException], kind: str) -> None:
    """Whatever it raises is the outcome; StopIteration from a coroutine is a RuntimeError, as ever.

    Mutation: `throw_in` or `end` take StopIteration for a return.
    """

    def plain() -> None:
        raise error("bad")

    async def quick() -> None:
        raise error("bad")

    async def late() -> None:
        await gorun.sleep_async(0.0001)
        raise error("bad")

    g = go({"plain": plain, "async": quick, "async late": late}[kind])
    got = g.exception(20)
    if kind != "plain" and error is StopIteration:
        assert isinstance(got, RuntimeError)
        assert isinstance(got.__cause__, StopIteration)
    else:
        assert type(got) is error
        assert got.args == ("bad",)


def test_a_huge_result() -> None:
    """The result is the object itself, and goes with the handle.

    Mutation: `end` copies, or the G keeps its outcome after the last handle.
    """

    class Huge(bytearray):
        pass

    g = go(lambda: Huge(200_000_000))
    ref = weakref.ref(g.result(20))
    assert g.result() is ref()
    del g
    until(lambda: gc.collect() is not None and ref() is None)


def test_bodies_that_never_await() -> None:
    """`async def` bodies without an await: 10 000 of them, all run.

    Mutation: none in particular; the shortest path of `drive`.
    """

    async def body(i: int) -> int:
        return i

    assert [g.result(20) for g in gorun.go_many(body, range(10_000))] == list(range(10_000))


def test_bodies_that_delete_their_own_handle() -> None:
    """The last handle dies inside the body; the goroutine goes on, its error is reported.

    Mutation: the handle's dealloc drops the goroutine.
    """
    handles: dict[int, Any] = {}
    ended = []

    async def body(i: int) -> None:
        while i not in handles:
            await gorun.gosched_async()
        del handles[i]
        gc.collect()
        me = gorun.current()
        await gorun.sleep_async(0.0001)
        assert gorun.current() is me
        ended.append(i)

    for i in range(20):
        handles[i] = go(body, i)
    until(lambda: len(ended) == 20)


def test_self_referring_results(hook_errors: HookErrors) -> None:
    """A result, an error and a coroutine's locals that refer to their own goroutine: all are collected.

    Mutation: the handle does not take part in collection.
    """

    class Mark:
        pass

    refs = []

    async def own_handle() -> object:
        mark = Mark()
        refs.append(weakref.ref(mark))
        await gorun.sleep_async(0.0001)
        return gorun.current(), mark

    def own_error() -> None:
        mark = Mark()
        refs.append(weakref.ref(mark))
        me = gorun.current()
        raise ValueError(me, mark)

    gs = [go(own_handle) for _ in range(5)] + [go(own_error) for _ in range(5)]
    for g in gs:
        g.exception(20)
    del gs, g

    def gone() -> bool:
        gc.collect()
        # On free-threaded builds what an idle thread released waits for its next work.
        gorun.run(nap, 0)
        return not any(r() for r in refs)

    until(gone)
    assert hook_errors.left() == []


def test_recursion_limit() -> None:
    """Endless recursion in a body: RecursionError, and the M goes on.

    Mutation: Ms with a small stack.
    """

    def deep(n: int = 0) -> int:
        return deep(n + 1) + 1

    async def deep_async() -> int:
        return await deep_async() + 1

    for f in (deep, deep_async) * 3:
        assert isinstance(go(f).exception(20), RecursionError)
    assert go(abs, -1).result(20) == 1


def test_a_deep_chain_of_awaits() -> None:
    """400 coroutines deep, parked at the bottom, resumed and cancelled there.

    Mutation: a resume that recurses on the M's stack per level in Rust.
    """

    async def chain(n: int) -> int:
        if n:
            return await chain(n - 1) + 1
        await gorun.sleep_async(0.0001)
        return 0

    assert go(chain, 400).result(20) == 400

    async def stuck(n: int) -> None:
        await (stuck(n - 1) if n else nap())

    g = go(stuck, 400)
    until(lambda: gorun.stats().waiting >= 1)
    g.cancel()
    assert isinstance(g.exception(20), gorun.GoroutineCancelled)


def test_goroutines_that_make_goroutines_to_the_end() -> None:
    """A tree of 2**12 goroutines that join their children.

    Mutation: `push_next` loses what it displaces.
    """

    async def tree(n: int) -> int:
        if n == 0:
            return 1
        a, b = go(tree, n - 1), go(tree, n - 1)
        return await a + await b

    assert go(tree, 12).result(30) == 4096


# --- cancels at every point -----------------------------------------------------------------------


class Oops(Exception):
    pass


def _steps(rng: random.Random) -> Callable[[list[str]], Any]:
    """A body of a few random steps; it notes its cleanup."""
    kinds = [rng.randrange(7) for _ in range(rng.randrange(1, 6))]
    sync = [rng.randrange(4) for _ in range(rng.randrange(1, 5))]
    if rng.random() < 0.3:

        def plain(log: list[str]) -> int:
            log.append("in")
            try:
                for k in sync:
                    if k == 0:
                        gorun.sleep(rng.random() * 0.001)
                    elif k == 1:
                        gorun.gosched()
                    elif k == 2:
                        go(abs, -1).result(20)
                    else:
                        with gorun.blocking():
                            time.sleep(0.0002)
                return 1
            finally:
                log.append("out")

        return plain

    async def numbers() -> Any:
        for i in range(3):
            await gorun.sleep_async(0.0001)
            yield i

    async def body(log: list[str]) -> int:
        log.append("in")
        try:
            for k in kinds:
                if k == 0:
                    await gorun.sleep_async(rng.random() * 0.001)
                elif k == 1:
                    await gorun.gosched_async()
                elif k == 2:
                    await go(nap, 0.0003)
                elif k == 3:
                    async with gorun.shield():
                        await gorun.sleep_async(0.0002)
                elif k == 4:
                    await gorun.wait_async([go(nap, 0.0002), go(abs, -1)])
                elif k == 5:
                    async for _ in numbers():
                        pass
                else:
                    time.sleep(0.0002)
            return 1
        finally:
            await gorun.sleep_async(0)
            log.append("out")

    return body


def _cancel_somewhere(seed: int) -> None:
    rng = random.Random(seed)
    runs = []
    for _ in range(rng.randrange(1, 30)):
        log: list[str] = []
        runs.append((go(_steps(rng), log), log))
    for _ in range(rng.randrange(1, 40)):
        g, _ = rng.choice(runs)
        g.cancel(seed)
        match rng.randrange(4):
            case 0:
                time.sleep(rng.random() * 0.0005)
            case 1:
                gorun.gosched()
    for g, log in runs:
        error = g.exception(20)
        if error is None:
            assert g.result() == 1
            assert log == ["in", "out"]
        else:
            assert isinstance(error, gorun.GoroutineCancelled), (seed, error)
            assert g.cancelled()
            # A cancel before the first step means that the body never ran; one that met the cleanup's
            # own await cut that short.
            assert log in ([], ["in"], ["in", "out"]), (seed, log)


@pytest.mark.parametrize("block", range(4))
def test_cancelled_at_each_point(block: int) -> None:
    """Random bodies, cancelled at random moments: each ends either with its value or cancelled.

    Mutation: `park` that loses a cancel between arm and park (hangs), or `finish` under a fired wait.
    """
    for seed in range(25 * block, 25 * (block + 1)):
        _cancel_somewhere(seed)
    until(lambda: gorun.num_goroutine() == 0)


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_cancelled_at_each_point_3000_seeds() -> None:
    """The same with 3000 seeds.

    Mutation: as above.
    """
    for seed in range(1000, 4000):
        _cancel_somewhere(seed)
    until(lambda: gorun.num_goroutine() == 0)


# --- destructors ----------------------------------------------------------------------------------


class Calls:
    """Calls gorun when it dies."""

    def __init__(self, f: Callable[[], object], ran: list[object]) -> None:
        self.f = f
        self.ran = ran
        self.me: object = None

    def __del__(self) -> None:
        try:
            self.ran.append(self.f())
        except BaseException as e:
            # Its frames would hold whoever was interrupted by this, another one's `__init__` perhaps.
            self.ran.append(e.with_traceback(None))


def _actions(g: gorun.Goroutine[Any]) -> list[Callable[[], object]]:
    return [
        lambda: go(abs, -7).result(20),
        lambda: go(nap, 0.0001) and None,
        lambda: g.cancel("x"),
        lambda: g.add_done_callback(lambda _: None),
        lambda: gorun.Timer(0.0001, lambda: None) and None,
        lambda: gorun.Timer(3600, lambda: None).stop(),
        lambda: gorun.sleep(0.0001),
        gorun.gosched,
        lambda: gorun.current() and None,
        lambda: len(gorun.goroutines()) >= 0,
        lambda: gorun.stats().gomaxprocs > 0,
        lambda: g.result(0.0001),
        lambda: gorun.wait([g], 0.0001) and None,
    ]


def _check(ran: list[object], n: int) -> None:
    until(lambda: len(ran) >= n)
    for r in ran:
        assert not isinstance(r, BaseException) or isinstance(
            r, TimeoutError | gorun.GoroutineCancelled
        ), r


@pytest.mark.parametrize("where", ["argument", "local", "result", "cycle", "timer"])
def test_destructors_that_call_gorun(where: str) -> None:
    """Objects that die on an M, at an end, in a step or in a collection, use gorun from there.

    Mutation: a drop under a core lock, in mode Sched, or between `finish` and the release of the P.
    """
    live = go(nap)
    ran: list[object] = []
    actions = _actions(live)
    gs: list[Any] = []
    for f in actions:
        x = Calls(f, ran)
        match where:
            case "argument":
                gs.append(go(lambda _: None, x))
            case "local":

                async def local(x: Calls) -> None:
                    await gorun.sleep_async(0.0001)
                    del x
                    await gorun.sleep_async(0.0001)

                gs.append(go(local, x))
            case "result":
                gs.append(go(lambda x: x, x))
            case "cycle":

                def cycle(x: Calls) -> None:
                    x.me = x
                    del x
                    gc.collect()

                gs.append(go(cycle, x))
            case "timer":
                gorun.Timer(0.0002, lambda x=x: None)  # type: ignore[misc]
        del x
    for g in gs:
        g._wait(20)
    g = None
    gs.clear()

    def all_ran() -> bool:
        gc.collect()
        gorun.run(nap, 0)
        return len(ran) == len(actions)

    until(all_ran)
    live.cancel()
    live._wait(20)
    _check(ran, len(actions))


def test_contexts_are_kept_by_threads_at_most() -> None:
    """What context variables hold goes with the goroutines, but for the last context of each thread.

    Mutation: a goroutine's context is not dropped at its end.
    """

    class Value:
        pass

    refs = []

    def make() -> gorun.Goroutine[None]:
        var: contextvars.ContextVar[object] = contextvars.ContextVar("var")
        context = contextvars.copy_context()
        value = Value()
        refs.append(weakref.ref(value))
        context.run(var.set, value)
        return context.run(go, nap, 0.0001)

    for g in [make() for _ in range(50)]:
        g.result(20)
    del g

    def gone() -> bool:
        gc.collect()
        gorun.run(nap, 0)
        return sum(r() is not None for r in refs) <= gorun.stats().ms + 1

    until(gone)


def test_weakref_callbacks_that_call_gorun() -> None:
    """The same for callbacks of weak references to handles, coroutines and arguments.

    Mutation: as above; or the handle's dealloc clears weak references after it gave up its G.
    """
    live = go(nap)
    ran: list[object] = []
    refs = []

    class Arg:
        pass

    for f in _actions(live):

        def callback(_: object, f: Callable[[], object] = f) -> None:
            try:
                ran.append(f())
            except BaseException as e:
                ran.append(e)

        arg = Arg()
        refs.append(weakref.ref(arg, callback))
        g = go(lambda a: None, arg)
        del arg
        g._wait(20)
        refs.append(weakref.ref(g, callback))
        del g

    def all_ran() -> bool:
        gc.collect()
        gorun.run(nap, 0)
        return len(ran) == len(refs)

    until(all_ran)
    live.cancel()
    live._wait(20)
    _check(ran, len(refs))


def test_a_destructor_that_raises_or_forgets_an_await() -> None:
    """Errors in destructors on an M go to `sys.unraisablehook`, and hurt nothing.

    Mutation: `aside` leaves the error set (SystemError at the next call).
    """
    seen = []
    old, sys.unraisablehook = sys.unraisablehook, lambda u: seen.append(u.exc_value)

    class Bad:
        def __del__(self) -> None:
            raise ValueError("in __del__")

    try:
        for _ in range(10):
            assert go(lambda _: 5, Bad()).result(20) == 5

        def all_seen() -> bool:
            gorun.run(nap, 0)
            return len(seen) == 10

        until(all_seen)
    finally:
        sys.unraisablehook = old
    assert all(isinstance(e, ValueError) for e in seen)


def test_collections_on_ms_while_goroutines_park_and_end() -> None:
    """A tiny GC threshold: collections happen in the middle of everything, on every M.

    Mutation: `traverse` that looks into a goroutine that runs, or takes a lock.
    """
    usual = gc.get_threshold()
    gc.set_threshold(5, 2, 2)
    try:

        async def body(i: int) -> list[object]:
            mine: list[object] = [[] for _ in range(20)]
            mine.append(mine)
            mine.append(gorun.current())
            await gorun.sleep_async(0.0002)
            child = go(nap, 0.0001)
            await child
            mine.append(child)
            return mine

        for _ in range(5):
            gs = gorun.go_many(body, range(100))
            for g in gs:
                assert len(g.result(30)) == 23
            del gs, g
    finally:
        gc.set_threshold(*usual)


# --- the process ----------------------------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_body_that_exits_the_process(kind: str) -> None:
    """`os._exit` in a body ends the process with that code, at once.

    Mutation: none; nothing may hold it up.
    """
    word = "async " if kind == "async" else ""
    _child.run(
        f"""
        {word}def body():
            os._exit(6)
        gs = [go(nap) for _ in range(10)]
        go(body).result(20)
        """,
        code=6,
    )


@pytest.mark.no_matrix
def test_killed_children() -> None:
    """Children killed by SIGKILL under goroutines that wait for them: codes come back, nothing hangs.

    Mutation: none in particular.
    """
    _child.run(
        """
        import subprocess
        def child():
            p = subprocess.Popen(["sleep", "100"])
            go(p.kill)
            return p.wait(30)
        assert [g.result(30) for g in [go(child) for _ in range(20)]] == [-9] * 20
        """
    )


@pytest.mark.no_matrix
def test_out_of_memory_in_bodies() -> None:
    """Bodies that meet the address space limit get MemoryError; afterwards all is well.

    Mutation: `fetch` without a look for null, or an error path that allocates and panics.
    """
    _child.run(
        """
        import resource
        warnings.simplefilter("ignore")
        event = threading.Event()
        gs = [go(event.wait, 100) for _ in range(4)]  # their threads are there
        go(abs, -1).result(20)
        event.set()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as f:
            pages = int(f.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 200_000_000, hard))
        def eat(n):  # more than free-threaded builds reserve ahead
            return len(bytes(n))
        async def eat_async(n):
            await gorun.sleep_async(0.001)
            return len(bytes(n))
        for f in [eat, eat_async] * 10:
            assert isinstance(go(f, 4_000_000_000).exception(20), MemoryError)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert go(eat, 400_000_000).result(20) == 400_000_000
        """
    )


@pytest.mark.no_matrix
def test_keyboard_interrupt_and_system_exit_from_bodies() -> None:
    """Both are outcomes, raised where they are asked for, and end nothing by themselves.

    Mutation: the M's loop lets them pass.
    """
    _child.run(
        """
        def body(e):
            raise e
        for e in (KeyboardInterrupt, SystemExit):
            g = go(body, e)
            try:
                g.result(20)
            except e:
                pass
            else:
                raise AssertionError(e)
            try:
                gorun.run(body, e)
            except e:
                pass
            else:
                raise AssertionError(e)
        assert go(abs, -1).result(20) == 1
        """
    )


def test_threads_that_end_while_they_hold_handles() -> None:
    """Handles, timers and latches made on threads that are gone work on.

    Mutation: a waker or a cache that belongs to a thread.
    """
    made: list[Any] = []

    def thread() -> None:
        made.append(go(nap, 0.01))
        made.append(gorun.Timer(0.01, lambda: None))
        with contextlib.suppress(TimeoutError):
            made[0].result(0.001)

    ts = []
    for _ in range(20):
        t = threading.Thread(target=thread)
        t.start()
        ts.append(t)
    for t in ts:
        t.join()
    for m in made:
        if isinstance(m, gorun.Goroutine):
            m.result(20)
    until(lambda: gorun.stats().timers == 0)
