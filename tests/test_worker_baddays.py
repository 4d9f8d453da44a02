"""What items may do to the process that they run in: close what is not theirs, fork, leak, write where they may not.

Each of these once hung a map, broke a pool, or gave a wrong result.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
from typing import Any

import pytest
from tests import _child
from tests._procs import HANG, alive, until

import gorun

pytestmark = pytest.mark.no_matrix


def close_all() -> None:
    """As programs that become daemons do."""
    os.closerange(3, 300)


def replace_all() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3, 60):
        if fd != null:
            os.dup2(null, fd)


def closes(item: Any, how: Any) -> int:
    if item == 0:
        how()
        return 0
    return len(item)


@pytest.mark.parametrize("how", [close_all, replace_all])
def test_an_item_that_closes_all_descriptors(how: Any) -> None:
    """Its worker cannot be reached any more: what it has not begun is run by another, and it ends.

    Mutations: `_at_end` closes no link, and `_flush` forsakes nobody.
    """
    for _ in range(8):
        items: list[Any] = [0, *[bytearray(100_000)] * 4]
        with gorun.map(
            closes, items, [how] * 5, on="process", workers=1, chunk=1, errors="return"
        ) as results:
            found = list(results)
        assert all(n in (0, 100_000) or isinstance(n, gorun.WorkerDied) for n in found)


def test_a_worker_that_closed_all_ends_with_its_parent() -> None:
    """Its lifeline is closed, too. Mutation: a worker that is tied never looks at its socket."""
    script = """
        from gorun._proc import start
        # Else it would look after half a minute only.
        start.BOOT = start.BOOT.replace(
            'load("_gorun_child"',
            'find = sys.modules["_gorun_wire"].sibling\\n'
            'def sibling(name):\\n'
            '    module = find(name)\\n'
            '    module.WATCH_TIED = 0.2\\n'
            '    return module\\n'
            'sys.modules["_gorun_wire"].sibling = sibling\\n'
            'load("_gorun_child"',
        )
        def closes():
            os.closerange(3, 300)
            return os.getpid()
        executor = gorun.Executor(1, on="process")
        executor.submit(abs, -1).result()
        print(executor.submit(closes).result(), flush=True)
        os.kill(os.getpid(), 9)
    """
    pid = int(_child.run(script, code=-9).out)
    until(lambda: not alive(pid))


def forks(closing: bool) -> int:
    if closing:
        os.closerange(3, 300)
    if os.fork():
        time.sleep(0.3)  # the child is faster
    return os.getpid()


@pytest.mark.parametrize("closing", [False, True])
def test_a_child_of_an_item_answers_nothing(closing: bool) -> None:
    """Nor does it run what comes next. Mutations: `forked` leaves the wire; closes the socket first."""
    with gorun.Executor(1, on="process") as executor:
        worker = executor.submit(os.getpid).result(HANG)
        future = executor.submit(forks, closing)
        error = future.exception(HANG)
        if error is None:
            assert future.result() == worker
        else:
            assert closing
            assert isinstance(error, gorun.WorkerDied)
        assert [executor.submit(abs, -n).result(HANG) for n in range(5)] == list(range(5))


def forks_twice(path: str) -> int:
    """As programs that become daemons do: the child's child goes on."""
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
            with open(path, "w") as file:
                file.write("done")
        return 0
    return os.getpid()


def test_a_childs_child_of_an_item_runs_to_its_end(tmp_path: Any) -> None:
    """Mutation: `forked` asks a wire that is gone for its socket."""
    note = tmp_path / "note"
    with gorun.Executor(1, on="process") as executor:
        worker = executor.submit(os.getpid).result(HANG)
        assert executor.submit(forks_twice, str(note)).result(HANG) == worker
        until(lambda: note.exists() and note.read_text() == "done")


def late(n: int) -> bytes:
    if n < 4:
        return bytes(200_000)  # so that there is a free segment
    if os.fork() == 0:
        time.sleep(0.1)
        return b"C" * 200_000
    return b"P" * 200_000


def test_a_child_of_an_item_writes_into_no_memory_of_its_parent() -> None:
    """It has the same segments. Mutation: `forked` leaves the wire."""
    with gorun.map(late, range(5), on="process", workers=1, chunk=1, buffer=2) as results:
        for _ in range(4):
            next(results)
        time.sleep(0.4)  # item 4 runs meanwhile, and its child
        assert next(results) == b"P" * 200_000


def use_up() -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    kept = 0
    try:
        while True:
            os.open(os.devnull, os.O_RDONLY)
            kept += 1
    except OSError:
        return kept


def test_a_worker_without_descriptors_is_replaced() -> None:
    """The memory of a large call cannot come. Mutations: MSG_CTRUNC is not looked at; `_descriptor` waits."""
    with gorun.Executor(1, on="process") as executor:
        assert executor.submit(use_up).result(HANG)
        future = executor.submit(len, bytes(1 << 20))
        error = future.exception(HANG)
        assert error is None or isinstance(error, gorun.WorkerDied)
        assert executor.submit(len, bytes(1 << 20)).result(HANG) == 1 << 20


def open_ones(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_large_calls_give_their_memory_back() -> None:
    """Mutations: `do_call` keeps the frame; or where the parent has taken it back."""
    with gorun.Executor(1, on="process") as executor:
        worker = executor.submit(os.getpid).result(HANG)
        before = 0
        for n in range(40):
            assert executor.submit(len, bytes(300_000)).result(HANG) == 300_000
            if n == 9:
                before = open_ones(worker) + open_ones(os.getpid())
        assert open_ones(worker) + open_ones(os.getpid()) <= before + 2


def spoil(word: int) -> int:
    """Writes nonsense over a word of this worker's rings."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(n, 16) for n in line.split()[0].split("-"))
            if "memfd:gorun" in line and last - first > 1 << 18:
                ctypes.c_uint64.from_address(first + word).value = 0xDEADBEEFDEADBEEF
    return 1


# Tail and head of either way. (The word of claims is believed: who changes it keeps its calls for ever.)
@pytest.mark.parametrize("word", [0, 64, 256, 320])
def test_an_item_that_writes_over_the_rings(word: int) -> None:
    """It costs the calls that its worker had. Mutation: `forsake` kills nobody."""
    with gorun.Executor(1, on="process") as executor:
        for _ in range(50):
            executor.submit(abs, -1).result(HANG)
        future = executor.submit(spoil, word)
        error = future.exception(HANG)
        assert error is None or isinstance(error, gorun.WorkerDied)
        for _ in range(3):
            other = executor.submit(abs, -3)
            error = other.exception(HANG)
            assert error is None or isinstance(error, gorun.WorkerDied)
        assert executor.submit(abs, -3).result(HANG) == 3


def test_workers_that_nothing_ties_to_their_parent() -> None:
    """They look at their socket, and wait for frames no longer for it. Mutation: `recv` waits for `keep`."""
    script = """
        import time
        from gorun._proc import start
        start.BOOT = start.BOOT.replace(
            'load("_gorun_child", sys.argv[2]).main(',
            'child = load("_gorun_child", sys.argv[2])\\n'
            'child.tie_to_parent = lambda fd: False\\nchild.main('
        )
        began = time.monotonic()
        for _ in range(3):
            assert list(gorun.map(abs, range(10), on="process", workers=4)) == list(range(10))
            time.sleep(1.3)
        assert time.monotonic() - began < 8
        print("done")
    """
    assert _child.run(script).out.split() == ["done"]


def test_gorun_in_a_worker_is_whole() -> None:
    """The extension is there before the package. Mutation: `gorun/__init__` does not name it."""
    found = list(gorun.map(eval, ["__import__('gorun')._gorun.__file__"], on="process"))
    assert found == [gorun._gorun.__file__]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk", [1, 8, 9, 50])
@pytest.mark.parametrize("on", ["process", "thread"])
def test_a_limit_for_items_and_chunks_of_many(on: Any, chunk: int, workers: int) -> None:
    """Each item is a message of its own then. Mutation: the input is pulled by `chunk`."""
    results = gorun.map(abs, range(30), on=on, workers=workers, chunk=chunk, item_timeout=HANG)
    assert list(results) == list(range(30))
