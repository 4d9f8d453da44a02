"""Mutex, RWMutex, Semaphore, Event, WaitGroup: what is their own, beside test_ends and CPython's tests.

Cond and Barrier: test_cond.

"Mutation:" names the change to the code that makes the test fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pydoc
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests import _child
from tests.test_matrix import LIMIT, until

import gorun
from gorun._gorun import Gate

HUGE = 2**70


def waiting(n: int = 1) -> None:
    """Until `n` goroutines wait."""
    until(
        lambda: sum(i.state in ("waiting", "blocked") for i in gorun.goroutines()) >= n,
    )


# ---- arguments ---------------------------------------------------------------------------------

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: gorun.Mutex().acquire(False, 1), ValueError, "non-blocking call: 1"),
    (lambda: gorun.Mutex().acquire(timeout=-2), ValueError, "-2"),
    (lambda: gorun.Mutex().acquire(timeout=float("nan")), ValueError, "nan"),
    (lambda: gorun.Mutex().acquire(timeout=1e20), OverflowError, "1e\\+20"),
    (lambda: gorun.Mutex().acquire(timeout="x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: gorun.Mutex().acquire(wait=1), TypeError, "wait"),  # type: ignore[call-arg]
    (lambda: gorun.Mutex(1), TypeError, "no arguments"),  # type: ignore[call-arg]
    (lambda: gorun.Mutex().release(), RuntimeError, "unlocked"),
    (lambda: gorun.RWMutex().reader.release(), RuntimeError, "unlocked"),
    (lambda: gorun.RWMutex().writer.release(), RuntimeError, "unlocked"),
    (lambda: gorun.RWMutex().reader.acquire(False, 1), ValueError, "call: 1"),
    (lambda: gorun.RWMutex().writer.acquire(timeout=-0.5), ValueError, "-0.5"),
    (lambda: gorun.Semaphore(-1), ValueError, "-1"),
    (lambda: gorun.Semaphore(1.5), TypeError, "1.5"),  # type: ignore[arg-type]
    (lambda: gorun.Semaphore(True), TypeError, "True"),
    (lambda: gorun.Semaphore(HUGE), ValueError, str(HUGE)),
    (lambda: gorun.Semaphore(2).acquire(n=0), ValueError, "0"),
    (lambda: gorun.Semaphore(2).acquire(n=-1), ValueError, "-1"),
    (lambda: gorun.Semaphore(2).acquire(n=3), ValueError, "2 units: 3"),
    (lambda: gorun.Semaphore(2).acquire_async(n=3), ValueError, "2 units: 3"),
    (lambda: gorun.Semaphore(2).try_acquire(3), ValueError, "2 units: 3"),
    (lambda: gorun.Semaphore(2).try_acquire("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: gorun.Semaphore(2, bounded=False).acquire(n=HUGE), ValueError, str(HUGE)),
    (lambda: gorun.Semaphore(2).acquire(False, 1.0), ValueError, "1.0"),
    (lambda: gorun.Semaphore(2).acquire_async(False, 1.0), ValueError, "1.0"),
    (lambda: gorun.Semaphore(0).acquire(timeout=float("nan")), ValueError, "nan"),
    (lambda: gorun.Semaphore(2).release(5), ValueError, "too many times: 5 .* 2"),
    (lambda: gorun.Semaphore(2).release(0), ValueError, "0"),
    (lambda: gorun.Semaphore(2).release(-3), ValueError, "-3"),
    (lambda: gorun.Event().wait(float("nan")), ValueError, "nan"),
    (lambda: gorun.Event().wait("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: gorun.WaitGroup().done(), ValueError, "0 \\+ -1"),
    (lambda: gorun.WaitGroup().add("x"), TypeError, "'x'"),  # type: ignore[arg-type]
    (lambda: gorun.WaitGroup().add(-HUGE), ValueError, str(HUGE)),
    (lambda: gorun.WaitGroup().wait(float("nan")), ValueError, "nan"),
    (lambda: gorun.Cond(3), TypeError, "3"),
    (lambda: gorun.Cond().wait(), RuntimeError, "un-acquired"),
    (lambda: gorun.Cond().notify(), RuntimeError, "un-acquired"),
    (lambda: gorun.Cond().notify_all(), RuntimeError, "un-acquired"),
    (lambda: gorun.Cond().release(), RuntimeError, "unlocked"),
    (lambda: gorun.Barrier(0), ValueError, "0"),
    (lambda: gorun.Barrier("x"), TypeError, "'x'"),  # type: ignore[arg-type]
]


@pytest.mark.no_matrix
@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=range(len(BAD)))
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    """The error names the value, and nothing has changed. Mutation: any check left out."""
    with pytest.raises(error, match=text):
        call()


@pytest.mark.no_matrix
def test_nothing_changed_by_a_refusal() -> None:
    """Mutation: take the units before the check of the bound."""
    sem = gorun.Semaphore(2)
    for bad in (lambda: sem.acquire(n=3), sem.release, lambda: sem.release(-1)):
        with pytest.raises(ValueError, match=r"."):
            bad()
    assert sem.try_acquire(2)
    sem.release(2)
    wg = gorun.WaitGroup()
    wg.add(2**62)
    wg.add(2**62 - 1)
    with pytest.raises(ValueError, match="exceed"):
        wg.add(2**62)
    for n in (-(2**62), -(2**62) + 1):
        wg.add(n)
    wg.wait(0)


@pytest.mark.no_matrix
def test_a_semaphore_of_none() -> None:
    """As threading's it is waited for. Mutation: one unit counts as above the bound of 0."""
    sem = gorun.Semaphore(0)
    assert sem.acquire(False) is False
    assert sem.acquire(timeout=0.001) is False
    assert sem.acquire(timeout=-1) is False
    with pytest.raises(ValueError, match="too many"):
        sem.release()


@pytest.mark.no_matrix
def test_acquire_that_does_not_wait_is_no_cancel_point() -> None:
    """Rule 5. Mutation: `cancel_point` before `try_lock`."""
    locks = [gorun.Mutex(), gorun.RWMutex().reader, gorun.RWMutex().writer, gorun.Semaphore()]

    def body() -> list[Any]:
        gorun.current().cancel("late")  # type: ignore[union-attr]
        out = [lock.acquire(False) for lock in locks]
        out.append(gorun.Semaphore(3).try_acquire(2))
        for lock in locks:
            lock.release()
        wg = gorun.WaitGroup()
        wg.add()
        wg.done()
        event = gorun.Event()
        event.set()
        event.clear()
        try:
            gorun.Mutex().acquire()
        except gorun.Cancelled as c:
            out.append(c.reason)
        return out

    assert gorun.go(body).result(LIMIT) == [True] * 5 + ["late"]


@pytest.mark.no_matrix
def test_awaited_tries_are_no_cancel_points() -> None:
    """The same awaited, and a select with a default. Mutation: `take_cancel` for each operation."""
    locks = [gorun.Mutex(), gorun.RWMutex().reader, gorun.RWMutex().writer, gorun.Semaphore()]

    async def body() -> list[Any]:
        gorun.current().cancel("late")  # type: ignore[union-attr]
        out = [await lock.acquire_async(False) for lock in locks]
        out += [await lock.acquire_async(blocking=False) for lock in locks[2:]]
        out.append((await gorun.select_async(default=True)).index)
        try:
            await gorun.Mutex().acquire_async(timeout=0)
        except gorun.Cancelled as c:
            out.append(c.reason)
        return out

    assert gorun.go(body).result(LIMIT) == [True] * 4 + [False] * 2 + [-1, "late"]


# ---- Mutex ---------------------------------------------------------------------------------------


def test_mutual_exclusion_of_all_callers() -> None:
    """Threads, plain and async goroutines and tasks exclude each other. Mutation: `confirm` says true always."""
    mu = gorun.Mutex()
    inside: list[int] = []
    seen = [0]

    def enter() -> None:
        inside.append(1)
        assert len(inside) == 1
        seen[0] += 1

    def plain() -> None:
        for _ in range(30):
            with mu:
                enter()
                gorun.gosched()
                inside.pop()

    async def awaits() -> None:
        for _ in range(30):
            async with mu:
                enter()
                await gorun.gosched_async()
                inside.pop()

    async def tasks() -> None:
        await asyncio.gather(awaits(), awaits())

    threads = [
        threading.Thread(target=plain),
        threading.Thread(target=plain),
        threading.Thread(target=lambda: asyncio.run(tasks())),
    ]
    for t in threads:
        t.start()
    gs = [gorun.go(f) for f in (plain, plain, awaits, awaits, awaits)]
    for g in gs:
        g.result(LIMIT)
    for t in threads:
        t.join(LIMIT)
    assert seen == [30 * 9]
    assert not mu.locked()


def test_a_patient_waiter_is_handed_the_mutex() -> None:
    """Newcomers pass for a millisecond only. Mutation: never hand over: the waiter starves."""
    mu = gorun.Mutex()
    mu.acquire()
    g = gorun.go(mu.acquire)
    waiting()
    time.sleep(0.005)
    mu.release()
    # It was handed over in `release`: it is locked without a moment in between.
    assert mu.acquire(False) is False
    assert g.result(LIMIT) is True
    mu.release()
    assert not mu.locked()


def test_waiters_come_in_order() -> None:
    """Mutation: `push` at the head."""
    mu, order = gorun.Mutex(), []

    async def body(n: int) -> None:
        async with mu:
            order.append(n)
            await gorun.sleep_async(0.002)

    mu.acquire()
    gs = []
    for n in range(8):
        gs.append(gorun.go(body, n))
        waiting(n + 1)
    time.sleep(0.003)
    mu.release()
    gorun.wait(gs)
    assert order == list(range(8))


def test_released_by_another_caller() -> None:
    """Ownership has no meaning. Mutation: a check of the thread in `unlock`."""
    mu = gorun.Mutex()
    gorun.go(mu.acquire).result(LIMIT)
    assert mu.locked()
    gorun.go(mu.release).result(LIMIT)
    assert not mu.locked()


def test_async_with_releases_on_errors() -> None:
    """Mutation: `__aexit__` of Semaphore without `release`."""
    rw = gorun.RWMutex()
    locks = [gorun.Mutex(), gorun.Semaphore(), rw.reader, rw.writer, gorun.Cond()]

    async def body() -> None:
        for lock in locks:
            with pytest.raises(LookupError):
                async with lock:
                    raise LookupError

    def plain() -> None:
        for lock in locks:
            with pytest.raises(LookupError), lock:
                raise LookupError

    gorun.go(body).result(LIMIT)
    asyncio.run(body())
    plain()
    for lock in locks:
        assert lock.acquire(False)
        lock.release()


@pytest.mark.no_matrix
def test_what_async_with_calls_can_be_called_by_hand() -> None:
    """It is bound, awaited and dropped as other methods and operations are.

    Mutations: a second call of a bound `__aenter__` gives the first one's awaitable; `call_enter` or
    `call_exit` does not look at what it is given; `dealloc` does not warn, or warns of one that was
    closed; `is_operation` does not know it.
    """
    mu = gorun.Mutex()
    enter, leave = mu.__aenter__, mu.__aexit__

    async def main() -> None:
        first, second = enter(), enter()
        await first
        assert mu.locked()
        with pytest.raises(RuntimeError, match="cannot reuse already awaited acquire_async"):
            await first
        await leave(None, None, None)
        await second
        await gorun.Mutex.__aexit__(mu, None, None, None)
        await gorun.Mutex.__aenter__(mu)
        mu.release()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(mu)
            assert mu.locked()
        assert not mu.locked()
        with pytest.raises(TypeError, match="call it"):
            await mu.__aenter__
        with pytest.raises(RuntimeError, match="release unlocked lock"):
            await leave(None, None, None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gorun.run(main)
        asyncio.run(main())
        enter().close()
        with pytest.raises(ZeroDivisionError):
            enter().throw(ZeroDivisionError())
    assert not mu.locked()
    op = enter()
    assert gorun.go(op).result(LIMIT) is None
    with pytest.raises(RuntimeError, match="awaited already"):
        gorun.go(op)
    mu.release()
    assert gorun.go(enter).result(LIMIT) is None
    mu.release()
    with pytest.warns(RuntimeWarning, match="'acquire_async' was never awaited"):
        mu.__aenter__()
    for wrong in (gorun.Mutex.__aenter__, gorun.Mutex.__aexit__):
        with pytest.raises(TypeError, match="not 7"):
            wrong(7)
    for call in (enter, mu.__aenter__, lambda x: gorun.Mutex.__aenter__(mu, x)):
        with pytest.raises(TypeError, match="takes no arguments"):
            call(1)


@pytest.mark.no_matrix
def test_the_short_way_of_async_with_knows_when_it_may_not_be_taken() -> None:
    """It is taken where asyncio was never imported.

    Mutations: `quick` does not look for a cancel, or at the form; `step` tries again what has
    ended; `am_await` takes it.
    """
    code = """
        mu = gorun.Mutex()

        def refused(call, error, text=""):
            try:
                call()
            except error as e:
                assert text in str(e), e
            else:
                raise AssertionError("it went on")

        async def enter():
            async with mu:
                assert mu.locked()

        async def main():
            await enter()
            op = mu.__aenter__()
            await op
            assert mu.locked()
            mu.release()
            refused(op.__await__, RuntimeError, "cannot reuse already awaited acquire_async")
            refused(lambda: op.send(None), RuntimeError, "cannot reuse already awaited acquire_async")
            refused(lambda: next(op), RuntimeError, "cannot reuse already awaited acquire_async")
            refused(lambda: op.throw(KeyError()), KeyError)
            op.close()
            assert not mu.locked()
            with gorun.blocking():
                for _ in range(2):
                    refused(lambda: enter().send(None), RuntimeError, "await inside")
            gorun.current().cancel()
            refused(lambda: enter().send(None), gorun.Cancelled)
            assert not mu.locked()
            await enter()

        def plain():
            for _ in range(2):  # the first one looks for a loop
                refused(lambda: enter().send(None), RuntimeError, "plain-function goroutine")

        go(main).result(20)
        go(plain).result(20)
        assert not mu.locked()
        assert "asyncio.events" not in sys.modules
        print("short")
    """
    assert "short" in _child.run(code).out


@pytest.mark.no_matrix
def test_what_async_with_calls_tells_of_itself_as_a_method_does() -> None:
    """Mutations: without `__text_signature__`, `__signature__`, `__doc__` or `__self__`; `__aexit__` tells what
    `__aenter__` does."""
    mu = gorun.Mutex()
    for name, doc, plain in (
        ("__aenter__", "acquire_async()", "__enter__"),
        ("__aexit__", "release()", "__exit__"),
    ):
        for owner in (gorun.Mutex, mu):
            method = getattr(owner, name)
            assert inspect.getdoc(method) == doc
            assert (method.__name__, method.__qualname__) == (name, f"Mutex.{name}")
            assert inspect.signature(method) == inspect.signature(getattr(owner, plain))
        assert method.__self__ is mu
        assert repr(method) == f"<bound method Mutex.{name} of {mu!r}>"
        assert repr(gorun.Mutex.__dict__[name]) == f"<method '{name}' of 'gorun.Mutex' objects>"
        assert f"{name}(" in pydoc.plain(pydoc.render_doc(gorun.Mutex))
        assert inspect.getattr_static(gorun.Mutex, name).__objclass__ is gorun.Mutex
    op = mu.__aenter__()
    assert repr(op) == f"<gorun.Operation acquire_async of {mu!r}>"
    op.close()


def test_weakrefs() -> None:
    """Mutation: no `__weakref__` slot."""
    makes = [gorun.Mutex, gorun.RWMutex, gorun.Semaphore, gorun.Event, gorun.WaitGroup, gorun.Cond]
    for make in [*makes, gorun.Chan, lambda: gorun.Barrier(2), lambda: gorun.RWMutex().reader]:
        thing = make()
        ref = weakref.ref(thing)
        assert ref() is thing
        del thing
        assert ref() is None


# ---- RWMutex -------------------------------------------------------------------------------------


def test_a_waiting_writer_holds_new_readers_off() -> None:
    """Mutation: `Readers::enter` does not look whether others wait: a writer starves."""
    rw = gorun.RWMutex()
    rw.reader.acquire()
    w = gorun.go(rw.writer.acquire)
    waiting(1)
    assert rw.reader.acquire(False) is False
    r = gorun.go(rw.reader.acquire)
    waiting(2)
    rw.reader.release()
    assert w.result(LIMIT)
    assert not r.done()
    rw.writer.release()
    assert r.result(LIMIT)
    assert rw.reader.locked()
    assert not rw.writer.locked()


def test_a_writer_that_gives_up_lets_readers_in() -> None:
    """Mutation: `delist` does not look at the head again: the readers hang."""
    rw = gorun.RWMutex()
    rw.reader.acquire()
    w = gorun.go(rw.writer.acquire, True, 0.05)
    waiting(1)
    rs = [gorun.go(rw.reader.acquire) for _ in range(3)]
    waiting(4)
    assert w.result(LIMIT) is False
    assert [r.result(LIMIT) for r in rs] == [True] * 3
    w2 = gorun.go(rw.writer.acquire)
    waiting(1)
    r2 = gorun.go(rw.reader.acquire)
    waiting(2)
    w2.cancel()
    assert r2.result(LIMIT)


# ---- Semaphore -----------------------------------------------------------------------------------


def test_a_large_request_is_not_starved() -> None:
    """First come, first served. Mutation: `Units::enter` does not look whether others wait."""
    sem = gorun.Semaphore(3)
    sem.acquire()
    large = gorun.go(lambda: sem.acquire(n=3))
    waiting(1)
    assert not sem.try_acquire()
    assert sem.acquire(timeout=0.001) is False
    small = gorun.go(sem.acquire)
    waiting(2)
    sem.release()
    assert large.result(LIMIT)
    assert not small.done()
    sem.release(3)
    assert small.result(LIMIT)


def test_a_large_request_that_gives_up_lets_the_small_ones_in() -> None:
    """Mutation: no `admit` in `delist`."""
    sem = gorun.Semaphore(3)
    sem.acquire()
    large = gorun.go(lambda: sem.acquire(n=3))
    waiting(1)
    small = [gorun.go(sem.acquire) for _ in range(2)]
    waiting(3)
    large.cancel()
    assert [g.result(LIMIT) for g in small] == [True, True]
    assert not sem.try_acquire()


def test_an_unbounded_one_grows() -> None:
    sem = gorun.Semaphore(0, bounded=False)
    sem.release(5)
    assert sem.acquire(n=5)
    assert not sem.try_acquire()


# ---- Event, WaitGroup ----------------------------------------------------------------------------


def test_set_wakes_all_and_clear_shuts() -> None:
    """Mutation: `admit` stops after the first."""
    event = gorun.Event()
    gs = [gorun.go(event.wait) for _ in range(5)]
    gs += [gorun.go(event.wait, LIMIT) for _ in range(5)]
    waiting(10)
    event.set()
    event.clear()  # those that waited have been let in
    assert [g.result(LIMIT) for g in gs] == [True] * 10
    assert event.wait(0.001) is False


def test_wait_group_counts_goroutines() -> None:
    """`go` counts one up now, one down at each kind of end. Mutation: no `done` for a failed one."""
    wg = gorun.WaitGroup()

    async def coro(n: int) -> int:
        await gorun.sleep_async(0.001)
        return n

    def fails() -> None:
        raise LookupError("meant")

    gs = [wg.go(coro, 1), wg.go(abs, -2), wg.go(fails), wg.go(gorun.sleep, 3600)]
    waiting(1)
    gs[3].cancel()
    wg.wait(LIMIT)
    assert gs[0].result() == 1
    assert isinstance(gs[2].exception(), LookupError)
    until(gs[3].done)

    async def awaits() -> str:
        await wg
        wg.add()
        with pytest.raises(TimeoutError):
            await wg.wait_async(0.001)
        gorun.Timer(0.001, wg.done)
        await wg
        return "done"

    assert gorun.run(awaits) == "done"
    assert asyncio.run(awaits()) == "done"
    with pytest.raises(TypeError):
        wg.go(3)  # type: ignore[call-overload]
    wg.wait(0)


# ---- fork ----------------------------------------------------------------------------------------


@pytest.mark.no_matrix
def test_a_child_does_not_wait_for_one_that_was_told_in_the_parent() -> None:
    """The mutex works in the child. Mutation: `told` outlives the fork: nobody is ever told again."""
    _child.run(
        """
        import asyncio
        warnings.simplefilter("ignore")
        mu = gorun.Mutex()
        async def waiter():
            async with mu:
                pass
        async def main():
            mu.acquire()
            task = asyncio.create_task(waiter())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            mu.release()  # tells the task, which gets no turn before the fork
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    assert mu.acquire(False)
                    t = threading.Thread(target=mu.acquire, daemon=True)
                    t.start()
                    time.sleep(0.2)
                    mu.release()
                    t.join(10)
                    code = 2 if t.is_alive() else 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            await task
        asyncio.run(main())
        """
    )


@pytest.mark.no_matrix
def test_a_child_finds_states_and_no_waiters() -> None:
    """As threading's: what was locked is locked, and the parent's waiters are not there."""
    _child.run(
        """
        warnings.simplefilter("ignore")
        mu, sem, event, wg = gorun.Mutex(), gorun.Semaphore(2), gorun.Event(), gorun.WaitGroup()
        cond, rw = gorun.Cond(), gorun.RWMutex()
        mu.acquire(); sem.acquire(n=2); wg.add(); rw.writer.acquire()
        def hold():
            with cond:
                cond.wait()
        waits = [mu.acquire, sem.acquire, event.wait, wg.wait, rw.reader.acquire, hold]
        gs = [go(f) for f in waits]
        while sum(i.state == 'blocked' for i in gorun.goroutines()) < len(gs):
            time.sleep(0.001)
        def child():
            assert cond._calls.waiting() == 0
            mu.release(); assert mu.acquire(False) and not mu.acquire(False)
            sem.release(); assert sem.try_acquire() and not sem.try_acquire()
            assert not event.wait(0.01); event.set(); assert event.wait()
            wg.done(); wg.wait()
            rw.writer.release(); assert rw.reader.acquire(False)
            g = go(lambda: mu.acquire(timeout=20))
            time.sleep(0.05)
            mu.release()
            assert g.result(20)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                child()
                code = 0
            except BaseException:
                import traceback; traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        mu.release(); sem.release(2); event.set(); wg.done(); rw.writer.release()
        with cond:
            cond.notify()
        for g in gs:
            g.result(20)
        """
    )


# ---- crowds --------------------------------------------------------------------------------------


def test_thousands_wait_and_all_are_woken() -> None:
    """Mutation: `Wakeups` holds so many and drops the rest."""
    n = 3000
    event, wg, cond = gorun.Event(), gorun.WaitGroup(), gorun.Cond()
    wg.add()

    async def on_event() -> bool:
        return await event.wait_async()

    async def on_group() -> bool:
        await wg
        return True

    async def on_cond() -> bool:
        async with cond:
            return await cond.wait_async()

    gs = [gorun.go(fn) for fn in (on_event, on_group, on_cond) for _ in range(n)]
    until(lambda: gorun.stats().waiting >= 3 * n)
    event.set()
    wg.done()
    with cond:
        cond.notify_all()
    assert all(g.result(LIMIT) for g in gs)


def test_gates_are_not_for_users() -> None:
    """What stands behind; it refuses what is not its own. Mutation: `leave` of a flag changes it."""
    with pytest.raises(RuntimeError, match="nothing to leave"):
        Gate.flag().leave()


@pytest.mark.no_matrix
def test_a_signal_handler_may_wait_for_those_behind() -> None:
    """A writer's handler waits for a reader that stands behind it. Mutation: `GateWork.away` does nothing.

    A signal in the moment at the end of a slice does not count: then once more.
    """
    ended = _child.run(
        """
        mu, there = gorun.RWMutex(), []
        def reader(got):
            with mu.reader: got.set()
        def handler(*_):
            got = gorun.Event()
            g = go(reader, got)
            there.append(got.wait(5))
        signal.signal(signal.SIGUSR1, handler)
        for _ in range(5):
            mu.reader.acquire()
            behind = gorun.Event()
            def act():
                time.sleep(0.02)  # the main thread waits by then
                g = go(reader, behind)
                time.sleep(0.005)  # and this one behind it
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                passed = behind.wait(5)
                mu.reader.release()
                return passed
            g = go(act)
            mu.writer.acquire()
            mu.writer.release()
            if g.result():
                break
        print(g.result())
        """
    )
    assert ended.out == "True"
