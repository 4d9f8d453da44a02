"""Frames by rings: what the rings' own tests in Rust cannot see. Frames of any size and segments: test_proc."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests._procs import HANG, until

import gorun
from gorun._gorun import _Link, _look_out
from gorun._proc import linked, wire

Pair = tuple[linked.ParentEnd, linked.WorkerEnd]

pytestmark = pytest.mark.no_matrix


def memory(size: int = _Link.SIZE, *, sealed: bool = True) -> int:
    fd = os.memfd_create("gorun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def ends(tied: bool = True) -> Pair:
    """Both ends of a pair, in one process."""
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    fd = memory()
    links = _Link(fd, 0), _Link(fd, 0, theirs.fileno())
    os.close(fd)
    return linked.ParentEnd(mine, links[0]), linked.WorkerEnd(theirs, links[1], tied)


@pytest.fixture
def pair() -> Iterator[Pair]:
    both = ends()
    yield both
    for end in both:
        end.close()


def frames(end: wire.Wire) -> list[tuple[int, bytes]]:
    """All that is there, without waiting: number and body."""
    found = []
    with suppress(BlockingIOError):
        end.fill()
    while (frame := end.get()) is not None:
        found.append((frame.number, bytes(frame.data)))
        end.done_with(frame)
    return found


def rung(parent: linked.ParentEnd) -> int:
    """How many bytes lie in the bell."""
    try:
        return len(parent.sock.recv(100, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


def test_one_byte_for_each_time_that_it_was_asked_for(pair: Pair) -> None:
    """A parent that has not heard the bell is rung no second time; one that has heard it is.

    Mutations: `read_socket` does not arm; the worker always rings.
    """
    parent, worker = pair
    for n in range(3):
        worker.send(wire.RESULT, n, 1, b"x")
    assert rung(parent) == 1
    assert frames(parent) == [(n, b"x") for n in range(3)]
    worker.send(wire.RESULT, 3, 1, b"x")
    assert rung(parent) == 1
    assert parent.heard()
    assert parent.may_have_more
    assert frames(parent) == [(3, b"x")]
    assert not parent.may_have_more
    worker.send(wire.RESULT, 4, 1, b"x")
    assert rung(parent) == 1


def test_a_descriptor_that_comes_asks_for_the_bell_again(pair: Pair) -> None:
    """With it the byte of the bell was read. Mutation: `_next` reads the socket without arming."""
    parent, worker = pair
    worker.send(wire.RESULT, 1, 1, b"x")
    worker.put(wire.RESULT, 2, 1, b"y" * 100_000)
    worker.flush()
    assert [number for number, _ in frames(parent)] == [1, 2]
    assert parent.may_have_more
    assert frames(parent) == []
    before = rung(parent)
    worker.send(wire.RESULT, 3, 1, b"x")
    assert rung(parent) > before


def test_where_the_socket_is_full_a_new_segment_waits(pair: Pair) -> None:
    """And what is behind it, too. Mutations: `flush` passes descriptors late; `wants_socket` says False."""
    parent, worker = pair
    full = 0
    try:
        while True:
            full += parent.sock.send(bytes(4096))
    except BlockingIOError:
        pass
    parent.put(wire.BATCH, 1, 1, b"y" * 100_000)
    parent.put(wire.BATCH, 2, 1, b"small")
    assert not parent.flush()
    assert parent.unsent
    assert parent.wants_socket
    assert not parent.send(wire.CALL, 3, 1, b"behind")
    while full:
        full -= len(worker.sock.recv(full))
    assert parent.flush()
    assert not parent.wants_socket
    assert frames(worker) == [(1, b"y" * 100_000), (2, b"small"), (3, b"behind")]


def test_where_the_ring_is_full_nothing_is_lost(pair: Pair) -> None:
    """A parent is told of room by the bell, a worker waits. Mutations: `flush` forgets; nobody is called."""
    parent, worker = pair
    count = 0
    while parent.send(wire.CALL, count, 1, b"a" * 4000):
        count += 1
    assert parent.unsent
    assert not parent.wants_socket
    assert not parent.flush()
    before = rung(parent)
    assert len(frames(worker)) == count
    assert rung(parent) == before + 1
    assert parent.flush()
    assert frames(worker) == [(count, b"a" * 4000)]

    def send() -> None:
        for n in range(200):
            worker.send(wire.RESULT, n, 1, b"b" * 4000)

    sender = threading.Thread(target=send)
    sender.start()
    found: list[tuple[int, bytes]] = []
    while len(found) < 200:
        found += frames(parent)
    sender.join(HANG)
    assert [number for number, _ in found] == list(range(200))


def test_a_worker_waits_for_as_long_as_it_was_told(pair: Pair) -> None:
    """Mutation: `fill` ignores `keep`."""
    _, worker = pair
    worker.keep = 0.02
    assert not worker.fill()
    worker.look_out = HANG
    assert not worker.fill()
    assert worker.look_out == 0


@pytest.mark.parametrize("wait", ["frames", "room"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_worker_whose_parent_is_through_ends(tied: bool, wait: str) -> None:
    """Told by its parent, or (where nothing kills it) by the end of the socket: asleep for frames, or for room.

    Mutations: `close` of the link wakes nobody; `_is_orphan` says False.
    """
    parent, worker = ends(tied)
    ended = threading.Event()

    def work() -> None:
        try:
            while wait == "room" or worker.fill():
                worker.send(wire.RESULT, 1, 1, bytes(4000))
        except OSError:
            assert wait == "room"
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.01)
    assert not ended.is_set()
    if tied:
        parent.link.close()
    else:
        parent.sock.close()
    assert ended.wait(HANG)
    thread.join(HANG)
    parent.close()
    worker.close()


def test_look_out_sees_whichever_comes() -> None:
    """Mutation: it looks at the first one only."""
    pairs = [ends() for _ in range(3)]
    links = tuple(parent.link for parent, _ in pairs)
    assert not _look_out(links, 0.001)
    assert not _look_out((), 0.001)
    for parent, worker in pairs:
        worker.send(wire.RESULT, 1, 1, b"x")
        assert _look_out(links, HANG)
        assert frames(parent)
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_broken_bell_ends_a_worker() -> None:
    """Its descriptor may be a file of users by now. Mutations: errors of `ring` are ignored; `write` for `send`."""
    fd = memory()
    out, into = os.pipe()
    parent, link = _Link(fd, 0), _Link(fd, 0, into)
    os.close(fd)
    assert link.send(wire.RESULT, 0, 1, 1, 1, 0, 0, b"x")
    with pytest.raises(OSError, match="bell is gone"):
        link.send(wire.RESULT, 0, 1, 1, 1, 0, 0, b"x")
    os.set_blocking(out, False)
    with pytest.raises(BlockingIOError):
        os.read(out, 1)
    os.close(out)
    os.close(into)
    assert parent.has_some()


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="not negative"):
        _Link(-1, 0)
    fd = memory(_Link.SIZE - 1)
    with pytest.raises(OSError, match="too small"):
        _Link(fd, 0)
    os.close(fd)
    fd = memory(sealed=False)
    with pytest.raises(OSError, match="not sealed"):
        _Link(fd, 0)
    os.close(fd)
    fd = memory()
    link = _Link(fd, 0)
    with pytest.raises(ValueError, match="larger than the ring"):
        link.send(1, 0, 0, 0, 0, 0, 0, bytes(_Link.SIZE))
    link.desert()
    for call in (link.receive, link.has_some, link.arm, lambda: link.claim_back(1)):
        with pytest.raises(OSError, match="another process's"):
            call()
    link.close()
    os.close(fd)


def test_a_worker_that_writes_nonsense_costs_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent ends it. Mutation: `Crew._read` does not kill it."""

    def torn(end: linked.ParentEnd) -> bool:
        if end.link.has_some():
            raise OSError("nonsense")
        raise BlockingIOError

    with gorun.Executor(1, on="process") as executor:
        assert executor.submit(abs, -1).result(HANG) == 1
        with monkeypatch.context() as patch:
            patch.setattr(linked.ParentEnd, "fill", torn)
            with pytest.raises(gorun.WorkerDied):
                executor.submit(abs, -2).result(HANG)
        assert executor.submit(abs, -3).result(HANG) == 3


def close_all(_: object) -> int:
    os.closerange(3, 1 << 10)
    return os.getpid()


def test_an_item_that_closes_all_descriptors_harms_itself_only() -> None:
    """As programs that become daemons do. Mutation: see `test_a_broken_bell_ends_a_worker`."""
    with gorun.Executor(1, on="process") as executor:
        worker = executor.submit(os.getpid).result(HANG)
        future = executor.submit(close_all, None)
        error = future.exception(HANG)
        assert error is None or isinstance(error, gorun.WorkerDied)
        for n in range(3):
            other: Any = executor.submit(abs, n)
            assert other.exception(HANG) is None or isinstance(other.exception(), gorun.WorkerDied)
        until(lambda: executor.submit(os.getpid).result(HANG) != worker)


def test_large_results_while_nobody_reads() -> None:
    """Workers wait for room, and go on when there is some. Mutation: a worker that waits for room is not woken."""
    with gorun.map(bytes, [60_000] * 300, on="process", workers=2, chunk=10) as results:
        first = next(results)
        time.sleep(0.1)
        assert [len(first), *map(len, results)] == [60_000] * 300
