"""`gorun.map` on worker processes when things go wrong.

Whoever dies, raises, hangs or cannot be pickled is named, and costs what it held and nothing else.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests import _child
from tests._procs import HANG, alive, note, until

import gorun
from gorun._proc import warm

pmap = functools.partial(gorun.map, on="process")


# ---- errors of items ----------------------------------------------------------------------------


def inverse(n: int) -> float:
    return 1 / n


def test_an_error_keeps_its_type_and_the_workers_traceback() -> None:
    """Mutation: `unpack_error` sets no `__cause__`."""
    m = pmap(inverse, [2, 1, 0, 3])
    assert [next(m), next(m)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError) as caught:
        next(m)
    cause = caught.value.__cause__
    assert type(cause).__name__ == "RemoteTraceback"
    assert "in inverse" in cause.tb  # type: ignore[union-attr]
    assert "child.py" not in cause.tb  # type: ignore[union-attr]
    assert list(m) == []


def test_return_and_collect() -> None:
    """Mutation: the error stands at its place in the batch, not at the item's number."""
    found = list(pmap(inverse, [1, 0, 2, 0], errors="return", chunk=2))
    assert [type(f) for f in found] == [float, ZeroDivisionError, float, ZeroDivisionError]
    m = pmap(inverse, [1, 0, 2, 0], errors="collect")
    assert [next(m), next(m)] == [1.0, 0.5]
    with pytest.raises(ExceptionGroup, match="2 errors") as caught:
        next(m)
    assert len(caught.value.exceptions) == 2


@pytest.mark.parametrize("chunk", [None, 4])
def test_stop_iteration_of_an_item_is_not_the_end(chunk: int | None) -> None:
    """Mutation: `run` takes the end of `extend` for the end of the items."""

    def item(n: int) -> int:
        if n == 2:
            raise StopIteration
        return n

    found = list(pmap(item, range(5), errors="return", chunk=chunk))
    assert [f if isinstance(f, int) else type(f) for f in found] == [0, 1, StopIteration, 3, 4]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_ends_the_map(kind: type[BaseException]) -> None:
    """Mutation: the worker lets it pass, and dies."""

    def item(n: int) -> int:
        if n == 3:
            raise kind
        return n

    with pytest.raises(kind):
        list(pmap(item, range(100), errors="return"))


class Picky(Exception):
    """Cannot be made from its `args`."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first


class Locked(Exception):
    """Cannot be pickled at all."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())


def test_exceptions_that_cannot_be_pickled() -> None:
    """Type and attributes come through without the constructor, else a RuntimeError names it.

    Mutations: `pack_error` does not try its pickle; it has no "parts"; it has no "text".
    """

    def item(n: int) -> None:
        raise Picky(1, 2) if n == 0 else Locked

    picky, locked = pmap(item, range(2), errors="return")
    assert (type(picky), str(picky), picky.first) == (Picky, "1 and 2", 1)
    assert type(locked) is RuntimeError
    assert "item 1 of gorun.map raised" in str(locked)
    assert "Locked" in str(locked)


class Odd(Exception):
    def __init__(self, *, code: int, data: object = None) -> None:
        super().__init__(code)
        self.code, self.data = code, data


class Large(bytearray):
    """As an array does, it offers its memory as a buffer."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return bytearray, (pickle.PickleBuffer(self),)


def groups(n: int) -> None:
    raise ExceptionGroup(
        "outer", [ExceptionGroup("inner", [Odd(code=n), ValueError(n)]), KeyError(n)]
    )


@pytest.mark.parametrize("where", ["process", "executor"])
def test_groups_of_exceptions_that_cannot_be_pickled(where: str) -> None:
    """Their members keep their types, too; an array inside of an exception goes along.

    Mutations: `pack` has no "group"; it has no "parts"; `whole` leaves large buffers out.
    """

    def large(n: int) -> None:
        raise Odd(code=n, data=Large(1 << 20))

    with gorun.Executor(1, on="process") as executor:
        on: Any = "process" if where == "process" else executor
        [group] = gorun.map(groups, [7], on=on, errors="return")
        [error] = gorun.map(large, [8], on=on, errors="return")
    assert type(group) is ExceptionGroup
    inner, last = group.exceptions
    assert (type(inner), type(last)) == (ExceptionGroup, KeyError)
    assert [type(one) for one in inner.exceptions] == [Odd, ValueError]
    assert inner.exceptions[0].code == 7  # type: ignore[attr-defined]
    assert "in groups" in str(group.__cause__)
    assert isinstance(error, Odd)
    assert (error.code, error.data) == (8, bytearray(1 << 20))


def test_retries_run_an_item_again(tmp_path: Path) -> None:
    """Mutation: `persistent` tries once more, or once less."""

    def item(n: int) -> int:
        tries = len(list(tmp_path.glob(f"{n}.*")))
        note(tmp_path, f"{n}.{tries}")
        if tries < n:
            raise ValueError(n)
        return n

    found = list(pmap(item, range(4), retries=2, errors="return"))
    assert [f if isinstance(f, int) else repr(f) for f in found] == [0, 1, 2, "ValueError(3)"]
    assert len(list(tmp_path.iterdir())) == 1 + 2 + 3 + 3


# ---- what cannot travel -------------------------------------------------------------------------


def test_each_culprit_is_named() -> None:
    """Function, item, result, initializer, initargs. Mutation: `_blame` raises what it got."""
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the function <function .*lambda.* cannot be sent"):
        list(pmap(lambda n: lock, range(3)))
    with pytest.raises(TypeError, match=r"the initializer .* cannot be sent"):
        list(pmap(abs, range(3), initializer=lambda: lock))
    with pytest.raises(TypeError, match=r"the initargs\[1\] .* cannot be sent"):
        list(pmap(abs, range(3), initializer=print, initargs=(1, lock)))
    found = list(pmap(str, [1, lock, 3], errors="return", chunk=3))
    assert [found[0], found[2]] == ["1", "3"]
    assert "item 1 of gorun.map cannot be sent to a worker process" in str(found[1])
    found = list(
        pmap(lambda n: n if n != 1 else threading.Lock(), range(3), errors="return", chunk=3)
    )
    assert [found[0], found[2]] == [0, 2]
    assert "the result of item 1 of gorun.map cannot be sent back" in str(found[1])


class Bomb:
    """What the worker cannot unpickle."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return (os._exit, (7,)) if self.how == "die" else (inverse, (0,))


def test_an_item_that_cannot_be_unpickled_fails_alone() -> None:
    """Mutation: a batch that cannot be loaded fails as a whole."""
    items = [1, Bomb("raise"), 3, 4]
    found = list(pmap(type, items, errors="return", chunk=4))
    assert [found[0], *found[2:]] == [int] * 3
    assert type(found[1]) is ZeroDivisionError
    assert "item 1 of gorun.map could not be unpickled" in found[1].__notes__[0]


# ---- deaths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_a_worker_that_dies_costs_the_item_it_had(ordered: bool) -> None:
    """Mutations: `_bury` fails the whole batch; it sends nothing back; nobody is started anew."""

    def item(n: int) -> int:
        if n == 5:
            os._exit(9)
        return n

    found = list(pmap(item, range(30), errors="return", ordered=ordered, workers=2))
    died = [f for f in found if not isinstance(f, int)]
    assert sorted(f for f in found if isinstance(f, int)) == [*range(5), *range(6, 30)]
    assert [(type(f), f.items, f.exitcode) for f in died] == [(gorun.WorkerDied, (5,), 9)]


def test_items_of_its_batch_that_were_not_begun_are_run() -> None:
    """Mutation: `begun` says the whole batch."""

    def item(n: int) -> int:
        if n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    found = list(pmap(item, range(8), errors="return", chunk=4))
    assert [f if isinstance(f, int) else (f.items, f.exitcode) for f in found] == [
        *range(2),
        ((2,), -9),
        *range(3, 8),
    ]


def test_outcomes_of_its_batch_that_were_not_sent_are_told() -> None:
    """Results and errors of the items before; those that had no room there died with it.

    Mutations: `log` notes nothing; it notes what the helper has sent; it has room for all.
    """

    def item(n: int) -> bytes:
        if n == 6:
            os._exit(1)
        if n == 3:
            raise ValueError(n)
        return bytes(100_000 if n == 4 else 10)

    found = list(pmap(item, range(10), errors="return", chunk=10, workers=1))
    assert [len(f) if isinstance(f, bytes) else type(f) for f in found] == [
        *[10] * 3,
        ValueError,
        gorun.WorkerDied,
        10,
        gorun.WorkerDied,
        *[10] * 3,
    ]
    assert found[6].items == (4, 6)
    assert found[3].__cause__ is not None


def test_raise_says_that_a_worker_died() -> None:
    """Mutation: WorkerDied is not fatal."""
    with pytest.raises(gorun.WorkerDied, match=r"exit code 3\) with item 0 begun"):
        list(pmap(lambda n: os._exit(3), range(3)))


def test_retries_are_for_the_dead_too(tmp_path: Path) -> None:
    """Mutation: `died` does not look at `retries`."""

    def item(n: int) -> int:
        if n == 1 and not (tmp_path / "1").exists():
            note(tmp_path, 1)
            os._exit(1)
        return n

    assert list(pmap(item, range(4), retries=1)) == [0, 1, 2, 3]


def test_items_that_died_with_others_are_retried_alone(tmp_path: Path) -> None:
    """The next death in what was one batch costs none of them a second try.

    Mutation: `take` puts them into a batch with others.
    """

    def item(n: int) -> int:
        if n in (50, 120, 199, 300) and not (tmp_path / str(n)).exists():
            (tmp_path / str(n)).touch()
            os._exit(1)
        return n

    # Longer batches than those whose outcomes are noted one by one.
    assert list(pmap(item, range(600), chunk=300, workers=2, retries=1)) == [*range(600)]


def test_a_worker_that_dies_unpickling() -> None:
    """The item that does it fails, and the map does not go round in circles.

    Mutation: what was not begun goes back, always.
    """
    found = list(pmap(type, [1, Bomb("die"), 3], errors="return", chunk=3))
    assert [found[0], found[2]] == [int, int]
    assert (type(found[1]), found[1].exitcode) == (gorun.WorkerDied, 7)


@pytest.mark.parametrize("errors", ["raise", "return", "collect"])
def test_an_error_of_the_initializer_ends_the_map(errors: Any) -> None:
    """Mutation: a BAD job is passed over."""

    def begin() -> None:
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        list(pmap(abs, range(5), initializer=begin, errors=errors))


def test_a_start_that_cannot_succeed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that end before they are ready, and an interpreter that is none.

    Mutation: `_failed_starts` is not counted.
    """
    with pytest.raises(RuntimeError, match=r"end before they are ready: 3 in a row.* exit code 4"):
        list(pmap(abs, range(5), initializer=os._exit, initargs=(4,)))
    warm.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RuntimeError, match="no worker process could be started"):
        list(pmap(abs, range(5)))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RuntimeError, match=r"sys\.executable is not set"):
        list(pmap(abs, range(5)))


# ---- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_item_timeout_kills_the_worker(ordered: bool, tmp_path: Path) -> None:
    """The item fails, its process is gone, the others are run. Mutation: `expire` kills nobody."""

    def item(n: int) -> int:
        if n == 1:
            note(tmp_path, os.getpid())
            time.sleep(HANG * 10)
        return n

    found = list(pmap(item, range(6), item_timeout=0.3, errors="return", ordered=ordered))
    late = [f for f in found if not isinstance(f, int)]
    assert sorted(f for f in found if isinstance(f, int)) == [0, 2, 3, 4, 5]
    assert [str(f) for f in late] == ["item 1 of gorun.map took longer than 0.3 s"]
    [pid] = [int(p.name) for p in tmp_path.iterdir()]
    assert not alive(pid)


@pytest.mark.parametrize("scope", ["timeout", "Group"])
def test_a_scope_cuts_the_wait_of_a_plain_thread(scope: str) -> None:
    """As it cuts any wait in gorun; the map can be advanced again.

    Mutation: `wait` does not ask whether it can be cut.
    """

    def fail() -> None:
        raise ValueError

    cut = False
    with pmap(time.sleep, [0.5, HANG], workers=2) as m:
        with pytest.raises(TimeoutError if scope == "timeout" else ExceptionGroup):  # noqa: PT012
            with gorun.Group() if scope == "Group" else gorun.timeout(0.1) as inside:
                if isinstance(inside, gorun.Group):
                    inside.go(fail)
                try:
                    next(m)
                except gorun.Cancelled:
                    cut = True
                    raise
                next(m)
        assert cut
        assert next(m) is None


def test_timeout_is_for_the_whole() -> None:
    """Mutation: `wait` has no end."""
    with pytest.raises(TimeoutError, match=r"0\.2 s: 0 of 3"):
        list(pmap(time.sleep, [HANG * 10] * 3, timeout=0.2))


def test_one_long_item_holds_nobody_up(tmp_path: Path) -> None:
    """Those before it in its batch are given, those behind it are run by others.

    Mutations: `_balance` asks for nothing back; `help` sends no outcomes.
    """

    def item(n: int) -> int:
        if n == 50:
            until((tmp_path / "go").exists)
        return n

    found = []
    for n in pmap(item, range(200), ordered=False, workers=2, chunk=20):
        found.append(n)
        if len(found) == 199:
            (tmp_path / "go").touch()
    assert found[-1] == 50
    assert sorted(found) == list(range(200))


def test_what_was_not_begun_is_taken_back_from_who_cannot_answer(tmp_path: Path) -> None:
    """A batch behind an item that keeps its interpreter busy is run by another worker.

    Mutation: `regain` gives nothing.
    """
    import ctypes

    def item(n: int) -> int:
        if n == 30:
            libc = ctypes.PyDLL(None)  # keeps the lock while it sleeps
            while not (tmp_path / "go").exists():
                libc.usleep(500_000)
        return n

    found = []
    for n in pmap(item, range(34), ordered=False, workers=2):
        found.append(n)
        if len(found) == 33:
            (tmp_path / "go").touch()
    assert found[-1] == 30
    assert sorted(found) == list(range(34))


# ---- without what newer systems have ------------------------------------------------------------


@pytest.mark.no_matrix
@pytest.mark.parametrize("missing", ["GORUN_SHM", "GORUN_PIDFD"])
def test_without_shared_memory_or_pidfds(missing: str) -> None:
    """The same results, errors and deaths by the socket alone. Mutation: `_place` needs a segment."""
    out = _child.run(
        """
        def item(n):
            if n == 3: os._exit(5)
            return bytes([n]) * 3_000_000
        found = list(gorun.map(item, range(6), on="process", errors="return"))
        for n, f in enumerate(found):
            if n == 3:
                assert type(f) is gorun.WorkerDied and f.exitcode == 5, f
            else:
                assert f == bytes([n]) * 3_000_000
        assert list(gorun.map(len, found[:3], on="process")) == [3_000_000] * 3
        assert list(gorun.map(abs, range(-5000, 0), on="process")) == list(range(5000, 0, -1))
        with gorun.Executor(1, on="process") as executor:
            assert [executor.submit(abs, -n).result() for n in range(9)] == list(range(9))
            assert executor.submit(os._exit, 4).exception().exitcode == 4
            assert executor.submit(abs, -3).result() == 3
        print("good")
        """,
        **{missing: "0"},
    ).out
    assert out == "good"


@pytest.mark.no_matrix
@pytest.mark.parametrize("chunk", [20, 200])
def test_an_error_between_items_is_nobodys(chunk: int) -> None:
    """As of a signal's handler that an item has left armed. Each item has its own outcome all the same.

    Mutation: `_fail` adds a Failed whatever was begun; or `run` goes on with the generator that it ended.
    """
    code = f"""
        import sys

        def hook(frame, event, _):
            if event == "call" and frame.f_code.co_name in ("taken", "steps"):
                sys.setprofile(None)
                raise TimeoutError("came between")

        def item(n):
            if n % 10 == 0:
                sys.setprofile(hook)
            return n

        n, kind = {2 * chunk}, dict(on="process", workers=1, chunk={chunk}, errors="return")
        assert list(gorun.map(item, range(n), **kind, timeout=50)) == list(range(n))
    """
    assert "came between" in _child.run(code, err=None).err
