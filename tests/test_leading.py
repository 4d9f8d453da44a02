"""A caller that waits for a result on a process sees to the workers itself: `gorun._proc.lead`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures._base import LOGGER
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests import _child

from gorun import Executor
from gorun._proc import lead, pool, wire
from gorun._proc.crew import Crew
from gorun._proc.pool import Pool, _Call

pytestmark = pytest.mark.no_matrix

LONG = 30.0
"""Seconds that nothing here takes."""


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(1, on="process") as executor:
        executor.submit(abs, 1).result(LONG)
        yield executor


def leader(executor: Any) -> Any:
    return executor._team.pool._calls.crew.lead


def until(what: Any) -> None:
    limit = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.001)


def waits_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def later(n: int) -> int:
    time.sleep(0.02)
    return abs(n)


def kill_later(pid: int) -> None:
    time.sleep(0.1)  # until it waits
    os.kill(pid, signal.SIGUSR1)


def in_thread(future: Future[Any]) -> Future[Any]:
    """Waits for `future` in a thread; a future of what came of that."""
    seen: Future[Any] = Future()

    def wait() -> None:
        try:
            seen.set_result(future.result(LONG))
        except BaseException as error:
            seen.set_exception(error)

    threading.Thread(target=wait).start()
    return seen


def test_who_waits_leads_and_the_thread_takes_over(executor: Executor, tmp_path: Path) -> None:
    """While nobody waits, callbacks are called all the same.

    Mutation: `park` that stays parked after the last leader.
    """
    future = executor.submit(waits_for, str(tmp_path / "go"))
    seen = in_thread(future)
    until(lambda: leader(executor).who is future)
    (tmp_path / "go").touch()
    assert seen.result(LONG) is None
    called = threading.Event()
    executor.submit(abs, 1).add_done_callback(lambda _: called.set())
    assert called.wait(LONG)
    until(lambda: leader(executor).who is None)


def test_the_others_are_told_too(executor: Executor, tmp_path: Path) -> None:
    """One leads; who waits for another call is woken by what the leader reads.

    Mutation: `set_result` of a future that has a condition tells nobody.
    """
    first = executor.submit(waits_for, str(tmp_path / "go"))
    more = [executor.submit(abs, -n) for n in range(20)]
    seen = [in_thread(future) for future in (first, *more)]
    until(lambda: leader(executor).who is not None)
    (tmp_path / "go").touch()
    assert [one.result(LONG) for one in seen] == [None, *range(20)]


def test_what_another_thread_settles(executor: Executor, tmp_path: Path) -> None:
    """A leader comes out when its future is cancelled.

    Mutation: `cancel` without `changed`.
    """
    held = executor.submit(waits_for, str(tmp_path / "go"))
    executor.submit(abs, 1)  # it may be with the worker
    pending = [executor.submit(abs, n) for n in range(4)]
    seen = in_thread(pending[-1])
    until(lambda: leader(executor).who is pending[-1])
    assert pending[-1].cancel()
    with pytest.raises(CancelledError):
        seen.result(LONG)
    (tmp_path / "go").touch()
    held.result(LONG)


def test_callbacks_are_the_threads(executor: Executor, tmp_path: Path) -> None:
    """A leader runs no callback: it may be what the callback waits for.

    Mutation: `_settle` of a future that is not plain.
    """
    first, second = executor.submit(waits_for, str(tmp_path / "go")), executor.submit(abs, -2)
    inside: list[str] = []
    over = threading.Event()

    def note(_: object) -> None:
        inside.append(threading.current_thread().name)
        over.wait(LONG)

    first.add_done_callback(note)
    seen = in_thread(second)
    until(lambda: leader(executor).who is second)
    (tmp_path / "go").touch()
    assert seen.result(LONG) == 2
    until(lambda: bool(inside))
    over.set()
    assert inside == [executor._team.pool._calls.crew._thread.name]  # type: ignore[attr-defined]


def test_a_callback_does_not_hold_up_what_nobody_has_one_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread may have read that too, before a leader could: a callback may wait for it.

    Mutations: `_tell_mine` does not settle first; or not between two callbacks.
    """
    pool = Pool(1)
    calls, order = pool._calls, list[str]()

    def call(name: str, plain: bool) -> _Call:
        def tell(*_: object) -> None:
            order.append(name)
            if name == "first":
                calls._told.append([(call("late", plain=True), 1, None)])

        def settle(*_: object) -> bool:
            if plain:
                order.append(name)
            return plain

        return _Call(abs, (1,), {}, lambda: True, tell, settle)

    calls._mine.append([(call("first", plain=False), 1, None)])
    calls._mine.append([(call("second", plain=False), 1, None)])
    calls._told.append([(call("plain", plain=True), 1, None)])
    monkeypatch.setattr(type(calls.crew), "is_mine", True)
    calls.wake()
    assert order == ["plain", "first", "late", "second"]
    monkeypatch.undo()
    pool.shutdown()


def test_timeout(executor: Executor, tmp_path: Path) -> None:
    """A leader waits as long as it was told. Mutation: `help` without its limit."""
    future = executor.submit(waits_for, str(tmp_path / "go"))
    with pytest.raises(FutureTimeout):
        future.result(0.02)
    with pytest.raises(FutureTimeout):
        future.exception(0)
    (tmp_path / "go").touch()
    assert future.exception(LONG) is None


def test_an_idle_worker_that_died_costs_nothing() -> None:
    """A call that went to it is run by the next: it had not begun.

    Mutation: a call that was sent alone counts as being unpickled.
    """
    with Executor(1, on="process") as executor:
        pid = executor.submit(os.getpid).result(LONG)
        for _ in range(10):
            os.kill(pid, signal.SIGKILL)
            pid, last = executor.submit(os.getpid).result(LONG), pid
            assert pid != last


def test_death_in_a_call_is_told_to_a_leader() -> None:
    """Mutation: `_settle` leaves errors behind."""
    with Executor(1, on="process") as executor:
        for code in (3, 4):
            error = executor.submit(os._exit, code).exception(LONG)
            assert getattr(error, "exitcode", None) == code
        assert executor.submit(abs, -1).result(LONG) == 1


def test_shutdown_meanwhile(tmp_path: Path) -> None:
    """What is pending is run though the leader's crew ends. Mutation: `help` that gives up early."""
    executor = Executor(1, on="process")
    seen = in_thread(executor.submit(waits_for, str(tmp_path / "go")))
    until(lambda: leader(executor).who is not None)
    executor.shutdown(wait=False)
    (tmp_path / "go").touch()
    assert seen.result(LONG) is None
    executor.shutdown()


def test_who_leads_while_an_executor_ends_sleeps(tmp_path: Path) -> None:
    """The last calls may take long. Mutation: `_is_over` where calls are known."""
    executor = Executor(1, on="process")
    seen = in_thread(executor.submit(waits_for, str(tmp_path / "go")))
    until(lambda: leader(executor).who is not None)
    executor.shutdown(wait=False)
    assert turns(executor, tmp_path) < 20
    assert seen.result(LONG) is None
    executor.shutdown()


def test_who_leads_beside_a_slow_callback_sleeps(executor: Executor, tmp_path: Path) -> None:
    """Another one waits for the thread, which will come to it by itself.

    Mutation: `rouse` writes into the pipe always.
    """
    entered, go = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        entered.set()
        go.wait(LONG)

    called = threading.Event()
    executor.submit(abs, 1).add_done_callback(slow)
    assert entered.wait(LONG)
    executor.submit(abs, -3).add_done_callback(lambda _: called.set())
    seen = in_thread(executor.submit(waits_for, str(tmp_path / "go")))
    until(lambda: executor._team.pool._calls._mine)  # type: ignore[union-attr]
    assert turns(executor, tmp_path) < 20
    assert not called.is_set()
    go.set()
    assert called.wait(LONG)
    assert seen.result(LONG) is None


def turns(executor: Executor, folder: Path) -> int:
    """How often the workers are seen to in 0.2 seconds of a call; then it ends."""
    crew: Any = executor._team.pool._calls.crew  # type: ignore[union-attr]
    see, seen = crew._see, []

    def watch(events: Any) -> None:
        seen.append(events)
        see(events)

    crew._see = watch
    try:
        time.sleep(0.2)
        return len(seen)
    finally:
        (folder / "go").touch()
        del crew._see


def test_ctrl_c_loses_nothing() -> None:
    """At any moment of a wait: the executor and all its calls go on.

    Mutation: `hold` that gives False.
    """
    script = """
        import random
        hits = n = 0
        def interrupt(number, frame):
            global hits
            if hits < 300 and "gorun" in frame.f_code.co_filename:  # else it could not be caught below
                hits += 1
                raise KeyboardInterrupt
        signal.signal(signal.SIGINT, interrupt)
        def annoy():
            while hits < 300:
                time.sleep(random.random() * 0.004)
                os.kill(os.getpid(), signal.SIGINT)
        with gorun.Executor(2, on="process") as executor:
            executor.submit(abs, 1).result()
            thread = threading.Thread(target=annoy)
            thread.start()
            while thread.is_alive():
                try:
                    future = executor.submit(abs, -n)
                except KeyboardInterrupt:
                    continue
                while True:
                    try:
                        assert future.result(30) == n
                        break
                    except KeyboardInterrupt:
                        pass
                n += 1
            assert executor.submit(abs, -5).result(30) == 5
        print("good", n > 0, hits)
    """
    assert _child.run(script).out.split() == ["good", "True", "300"]


def test_who_is_interrupted_in_submit_leaves_a_whole_call(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a handler raises behind the hand-over: the call is the pool's, which may have to name it.

    Mutation: `put` lets go of `_what` when anything is raised.
    """

    def let_go() -> None:
        lead.let_go()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pool, "let_go", let_go)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(os._exit, 3)
    assert executor.submit(abs, -1).result(LONG) == 1


def test_a_signal_handler_may_wait() -> None:
    """In the middle of a leader's wait, for another call.

    Mutation: `help` does not lead where it does already.
    """
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(executor.submit(abs, -7).result(LONG))

    with Executor(2, on="process") as executor:
        executor.submit(abs, 1).result(LONG)
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            executor.submit(kill_later, os.getpid()).result(LONG)
            until(lambda: seen)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert seen == [7]


def test_sigint_is_held_and_given_back() -> None:
    """Its handler is called once, after; other handlers stay. Mutation: `let_go` forgets it."""
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        assert lead.hold()
        assert not lead.hold()
        signal.raise_signal(signal.SIGINT)
        assert calls == []
        lead.let_go()
        assert calls == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)
        assert len(calls) == 2
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert not lead.hold()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_signals_are_held_too() -> None:
    """Every handler is called after, whatever the others raise. Mutation: `_call` without `finally`."""
    calls: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)

    def note(number: int, frame: object) -> None:
        calls.append(number)
        raise LookupError(number)

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        assert lead.hold()
        for number in (*numbers, *numbers):
            signal.raise_signal(number)
        assert calls == []
        with pytest.raises(LookupError):
            lead.let_go()
        assert sorted(calls) == sorted(numbers)
        assert all(signal.getsignal(number) is note for number in numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("what", ["other.result(30)", "1 / 0"], ids=["waits", "raises"])
def test_handlers_at_any_moment_of_a_wait(what: str) -> None:
    """One that waits for an answer gets it; what one raises breaks nothing.

    Mutation: `hold` of SIGINT only.
    """
    script = f"""
        import random
        hits = n = 0
        def handler(number, frame):
            global hits
            hits += 1
            {what}
        signal.signal(signal.SIGALRM, handler)
        with gorun.Executor(1, on="process") as executor:
            executor.submit(abs, 1).result()
            while hits < 500:
                other = executor.submit(abs, -1)
                future = executor.submit(abs, -n)
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
                    assert future.result(30) == n
                    time.sleep(0.001)
                except ZeroDivisionError:
                    pass
                assert future.result(30) == n
                n += 1
        print("good")
    """
    assert _child.run(script).out.split() == ["good"]


def test_who_is_thrown_out_leads_no_more(executor: Executor) -> None:
    """An exception of a signal handler, after whatever call of `help`, leaves nobody leading.

    Mutation: the end of `help` in a function.
    """
    lead, code = leader(executor), Crew.help.__code__
    thrown, at = True, 0
    while thrown:
        thrown, left = False, at
        future = executor.submit(later, -at)  # or the pool's thread may have read the answer first

        def throw(frame: FrameType, event: str, _: object) -> None:
            nonlocal thrown, left
            caller = frame.f_back if event == "call" else frame
            if event in ("call", "c_return") and caller and caller.f_code is code:
                left -= 1
                if left < 0 and not thrown:
                    thrown = True
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        try:
            sys.setprofile(throw)
            future.result(LONG)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert lead.who is None
        free: list[bool] = []

        def look(free: list[bool] = free) -> None:
            if lead.free.acquire(blocking=False):
                lead.free.release()
                free.append(True)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert free
        assert future.result(LONG) == at
        at += 1
    assert at > 3


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), 1e-300 - 1])
def test_who_only_looks_does_not_lead(
    executor: Executor, tmp_path: Path, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the thread would park, and who looks again and again would see nothing.

    Mutation: `_wait` calls `help` all the same.
    """
    with pytest.raises((FutureTimeout, ValueError)) as usual:  # of NaN, from 3.14 on: ValueError
        Future[None]().result(timeout)
    future = executor.submit(waits_for, str(tmp_path / "go"))
    with monkeypatch.context() as patch:
        patch.setattr(leader(executor), "free", None)
        with pytest.raises(usual.type):
            future.result(timeout)
        with pytest.raises(usual.type):
            future.exception(timeout)
    (tmp_path / "go").touch()
    assert future.result(LONG) is None


def test_as_long_as_a_lock_can_wait(executor: Executor) -> None:
    """And no longer: as in the standard library. Mutation: `serve` without its `min`."""
    assert executor.submit(time.sleep, 0.01).result(threading.TIMEOUT_MAX) is None
    future = executor.submit(time.sleep, 0.5)
    with pytest.raises(OverflowError):
        future.result(float("inf"))
    assert future.result(1e7) is None


def test_a_leader_whose_signal_handler_cancels(executor: Executor, tmp_path: Path) -> None:
    """It comes out at once, and not with the next answer.

    Mutation: `changed` is nothing to the leader's own thread.
    """
    held = executor.submit(waits_for, str(tmp_path / "go"))
    executor.submit(abs, 1)
    future = executor.submit(abs, 2)
    over, seen = threading.Event(), []

    def interrupt() -> None:
        until(lambda: leader(executor).who is future)
        time.sleep(0.05)  # until it waits
        os.kill(os.getpid(), signal.SIGUSR1)
        seen.append(over.wait(LONG / 2))
        (tmp_path / "go").touch()

    before = signal.signal(signal.SIGUSR1, lambda *_: future.cancel())
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(CancelledError):
            future.result(LONG)
        over.set()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [True]
    held.result(LONG)


def test_a_callback_that_exits_ends_nothing(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, as other errors of callbacks are; the calls go on.

    Mutation: `_tell` lets it pass.
    """

    logged: list[str] = []
    monkeypatch.setattr(LOGGER, "exception", lambda text, *_: logged.append(text))

    def leave(_: object) -> None:
        raise SystemExit(3)

    future = executor.submit(waits_for, str(tmp_path / "go"))
    future.add_done_callback(leave)
    seen = in_thread(future)
    until(lambda: leader(executor).who is future)
    (tmp_path / "go").touch()
    assert seen.result(LONG) is None
    called = threading.Event()
    executor.submit(abs, 1).add_done_callback(lambda _: called.set())
    assert called.wait(LONG)
    assert logged == ["exception calling callback for %r"]


def test_first_calls_of_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """They start one thread of the pool. Mutation: `background` without `submit`'s lock."""
    made: list[object] = []

    class Slow(threading.Thread):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)
            time.sleep(0.05)  # the others come meanwhile

    with Executor(1, on="process") as executor:
        futures: list[Future[int]] = []
        threads = [
            threading.Thread(target=lambda: futures.append(executor.submit(abs, -3)))
            for _ in range(4)
        ]
        monkeypatch.setattr(threading, "Thread", Slow)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [future.result(LONG) for future in futures] == [3] * 4
    assert len(made) == 1


def test_answers_that_come_while_a_pool_fails() -> None:
    """A leader may take a call away between two steps of `_fail_all`.

    Mutation: `_known[number]` there.
    """
    pool = Pool(1)
    calls = pool._calls

    def begin() -> bool:
        calls._known.pop(2)
        return True

    for number in (1, 2):
        calls._known[number] = _Call(abs, (1,), {}, begin, lambda *_: None, None)
    calls._fail_all(RuntimeError("broken"))
    assert len(calls._told) == 1
    assert not calls._known
    pool.shutdown()


def test_who_looks_out_in_vain_sleeps() -> None:
    """Longer each time, and tries again when answers come at once.

    Mutations: `took` leaves `_skips` as it is; it never makes it less; what was slept through has to be as quick.
    """
    look = wire.Lookout()
    assert not look.worth()  # nothing is known
    look.took(wire.SLEPT * 0.9)
    assert look.worth()
    look.took(wire.SLEPT * 0.9)  # awake, that is long
    assert not look.worth()
    look = wire.Lookout()
    look.took(0)
    tries = 0
    for _ in range(5000):
        tried = look.worth()
        tries += tried
        look.took(LONG if tried else 0)
    assert 0 < tries < 20
    found = []
    for _ in range(3000):
        found.append(look.worth())
        look.took(0)
    assert all(found[-1000:])
    look.took(LONG)
    assert not look.worth()  # the last one took long
    look.took(0)
    assert look.worth()
    look.took(LONG)  # in vain, for once
    found = []
    for _ in range(10):
        found.append(look.worth())
        look.took(0)
    assert all(found[-5:])


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_nobody_looks_out_where_every_cpu_is_needed(tmp_path: Path, cpus: int) -> None:
    """With two workers at work, and with one.

    Mutations: `_spare` is true, or `call` does not ask how many are busy.
    """
    seen: list[bool] = []
    with Executor(2, on="process") as executor:
        crew: Any = executor._team.pool._calls.crew  # type: ignore[union-attr]
        go = tmp_path / "go"
        for future in [executor.submit(waits_for, str(go)) for _ in range(2)]:
            go.touch()
            future.result(LONG)
        until(lambda: executor._team.pool.idle == 2)  # type: ignore[union-attr]
        crew._cpus = cpus
        go.unlink()
        for worker in crew._team:
            worker.call = watched(worker.call, seen)
        held = [executor.submit(waits_for, str(go)), executor.submit(waits_for, str(go))]
        spare = crew._spare
        go.touch()
        told = [future.result(LONG) for future in held]
    assert told == [None, None]
    assert seen == [cpus > 1, cpus > 2]
    assert spare == (cpus > 2)


def watched(call: Any, seen: list[bool]) -> Any:
    def watch(number: int, item: bytes, look_out: bool) -> Any:
        seen.append(look_out)
        return call(number, item, look_out)

    return watch
