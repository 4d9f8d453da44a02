"""The parts below the map on processes: batch sizes, frames, the pool of single calls."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tests import _child
from tests._procs import HANG, alive, note, until
from tests.test_linked import ends

import gorun
from gorun._proc import start, warm, wire
from gorun._proc.codec import Codec
from gorun._proc.pool import Pool
from gorun._proc.sizing import LARGEST, Sizing

# ---- batch sizes --------------------------------------------------------------------------------


def settled(seconds: float, *, workers: int = 2, size: int = 8, left: int | None = None) -> int:
    """The size of a batch, after many items that took `seconds` each and had `size` bytes."""
    sizing = Sizing(workers)
    for _ in range(200):
        k = sizing.size(left)
        sizing.sent(k, k * size)
        sizing.ran(k, k * seconds)
    return sizing.size(left)


@pytest.mark.no_matrix
def test_a_batch_takes_two_milliseconds() -> None:
    """By what items took so far, within one item and LARGEST. Mutation: TARGET is 2 s."""
    assert settled(1.0) == 1
    assert settled(1e-3) == 2
    assert 190 <= settled(1e-5) <= 200
    assert settled(1e-9) == LARGEST


@pytest.mark.no_matrix
def test_a_batch_is_bounded_by_bytes_and_by_what_is_left() -> None:
    """Mutations: `bytes` is not asked; `left` is not asked; the last ones go one by one (LEAST is 0)."""
    assert settled(1e-9, size=1 << 20) == 1
    assert settled(1e-9, size=1 << 10) == 1 << 10
    assert settled(1e-4, left=60) == 15
    assert settled(1e-4, left=5) == 2
    assert settled(1e-9, left=100) == 100
    assert settled(1e-9, left=1) == 1


@pytest.mark.no_matrix
def test_the_first_items_go_alone() -> None:
    """No batch has more than an eighth of what was done before. Mutation: LEARN is 1."""
    sizing, done = Sizing(2), 0
    while done < 10_000:
        k = sizing.size(None)
        assert k <= 1 + done // 8
        sizing.ran(k, k * 1e-9)
        done += k


# ---- frames -------------------------------------------------------------------------------------


@pytest.fixture(params=["rings", "socket"])
def wires(request: pytest.FixtureRequest) -> Iterator[tuple[wire.Wire, wire.Wire]]:
    """Both sides: one that does not block, and one that does."""
    if request.param == "rings":
        pair: tuple[wire.Wire, wire.Wire] = ends()
    else:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        pair = wire.Wire(mine), wire.Wire(theirs)
    yield pair
    for side in pair:
        side.close()


def take(side: wire.Wire) -> wire.Frame:
    """The next frame of a side."""
    while (frame := side.get()) is None:
        try:
            assert side.fill()
        except BlockingIOError:
            time.sleep(0.001)
    return frame


def memories() -> int:
    """How many memfds are open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += "memfd:gorun" in os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return count


SIZES = [0, 1, 4000, 4096, 5000, 65_535, 65_536, 65_537, 300_000, 3_000_000]


@pytest.mark.no_matrix
@pytest.mark.parametrize("shared", ["1", "0"])
def test_frames_of_any_size_arrive_whole_and_in_order(
    wires: tuple[wire.Wire, wire.Wire], shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without buffers, with and without shared memory, however the socket cuts them.

    Mutations: `flush` forgets where it stood; `_next` takes a body that is not whole.
    """
    monkeypatch.setenv("GORUN_SHM", shared)
    mine, theirs = wires
    chance = random.Random(1)
    sent: list[tuple[bytes, list[bytes]]] = []
    for size in SIZES * 2:
        data = pickle.dumps(chance.randbytes(size))
        buffers = [chance.randbytes(n) for n in chance.sample(SIZES, chance.randrange(4))]
        sent.append((data, buffers))

    def send() -> None:
        for number, (data, buffers) in enumerate(sent):
            mine.put(wire.BATCH, number, 7, data, [memoryview(b) for b in buffers])
            while not mine.flush():
                time.sleep(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    for number, (data, buffers) in enumerate(sent):
        frame = take(theirs)
        assert (frame.kind, frame.number, frame.count) == (wire.BATCH, number, 7)
        assert bytes(frame.data) == data
        assert [bytes(b) for b in frame.buffers] == buffers
        theirs.done_with(frame)
        theirs.flush()
    sender.join()


def large_segments() -> int:
    """Has this worker make segments of 4 GiB, of which nearly nothing is ever touched."""
    sys.modules["_gorun_wire"].SMALLEST_SEGMENT = 1 << 32  # type: ignore[attr-defined]
    return os.getpid()


@pytest.mark.no_matrix
def test_segments_may_be_larger_than_4_gib(
    wires: tuple[wire.Wire, wire.Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame of 2 GiB and 5 bytes needs one of 4 GiB. Mutation: HEADER has 32 bits for that."""
    size = (1 << 31) + 5
    head = (wire.BATCH, 1, 2, 3, size, 4, 1 << 32)
    assert wire.HEADER.unpack(wire.HEADER.pack(*head)) == head
    monkeypatch.setattr(wire, "SMALLEST_SEGMENT", 1 << 32)
    mine, theirs = wires
    mine.put(wire.BATCH, 1, 1, b"x" * 100_000)
    mine.flush()
    frame = take(theirs)
    assert frame.segment
    assert bytes(frame.data) == b"x" * 100_000
    theirs.done_with(frame)
    with gorun.Executor(1, on="process") as executor:
        assert executor.submit(len, b"y" * 100_000).result(HANG) == 100_000
        executor.submit(large_segments).result(HANG)
        assert executor.submit(bytes, 100_000).result(HANG) == bytes(100_000)


def no_place(*_: object) -> Any:
    """In place of `Wire._place`, where there is no memory left."""
    raise MemoryError("none left")


def no_place_here() -> int:
    """Leaves this worker without memory for large results."""
    sys.modules["_gorun_wire"].Wire._place = no_place  # type: ignore[attr-defined]
    return os.getpid()


@pytest.mark.no_matrix
def test_what_cannot_be_packed_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On either side: not the pool, not its worker, not what was sent with it.

    Mutations: `Crew._send` looks after `dumps` alone; `Crew.call` sends by itself; `do_call` or `answer` do.
    """
    with gorun.Executor(1, on="process") as executor:
        worker = executor.submit(os.getpid).result(HANG)
        with monkeypatch.context() as patch:
            patch.setattr(wire.Wire, "_place", no_place)
            futures = [executor.submit(len, b"x" * size) for size in (1, 100_000, 2, 3)]
            with pytest.raises(pickle.PicklingError, match="none left"):
                futures[1].result(HANG)
            assert [futures[n].result(HANG) for n in (0, 2, 3)] == [1, 2, 3]
            # The worker is idle: that goes another way.
            with pytest.raises(pickle.PicklingError, match="none left"):
                executor.submit(len, b"x" * 100_000).result(HANG)
            assert executor.submit(len, b"x").result(HANG) == 1
        assert executor.submit(len, b"x" * 100_000).result(HANG) == 100_000
        assert executor.submit(no_place_here).result(HANG) == worker
        with pytest.raises(pickle.PicklingError, match="none left"):
            executor.submit(bytes, 100_000).result(HANG)
        assert executor.submit(os.getpid).result(HANG) == worker
        assert list(executor.map(abs, range(100), chunksize=10)) == list(range(100))

    def large(n: int) -> int | bytes:
        no_place_here()
        return bytes(100_000) if n == 7 else n

    with gorun.map(large, range(10), on="process", workers=1, chunk=5, errors="return") as results:
        got = list(results)
    assert [n for n in got if isinstance(n, int)] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert isinstance(got[7], pickle.PicklingError)


@pytest.mark.no_matrix
def test_a_segment_is_used_again_once_it_is_free(wires: tuple[wire.Wire, wire.Wire]) -> None:
    """Not while anything lives in it: then it is the receiver's, and gone with that.

    Mutations: `done_with` always says FREE; `_regain` forgets what is LOST, but keeps it mapped.
    """
    mine, theirs = wires
    before = memories()

    def send(byte: bytes) -> wire.Frame:
        mine.put(wire.BATCH, 1, 1, b"pickle", [memoryview(byte * 200_000)])
        mine.flush()
        return take(theirs)

    for _ in range(5):
        frame = send(b"a")
        theirs.done_with(frame)
        theirs.flush()
        mine.fill()
        assert mine.get() is None
    assert memories() - before == 2  # one segment, on both sides
    frame = send(b"b")
    part = frame.buffers[0][10:20]  # a view of a view
    theirs.done_with(frame)
    theirs.flush()
    mine.fill()
    mine.get()
    for _ in range(3):
        frame = send(b"c")
        theirs.done_with(frame)
        theirs.flush()
        mine.fill()
        mine.get()
    assert bytes(part) == b"b" * 10
    del frame, part
    assert not theirs.keeps_many
    mine.trim()
    theirs.trim()
    assert memories() == before


@pytest.mark.no_matrix
def test_batches_that_were_taken_back_are_not_run() -> None:
    """However many came to a worker that was held up, it runs the one that was left.

    Mutation: a token is the last byte of the number.
    """
    codec = Codec()
    warm.close()  # who has worked before counts on
    worker = warm.start((1, False), "test")
    try:
        worker.take_job(1, codec.job(ident, None, ()), 0)
        while not worker.wire.flush():
            time.sleep(0.001)
        frame = take(worker.wire)
        assert frame.kind == wire.READY
        worker.signal(signal.SIGSTOP)
        for n in range(300):
            worker.send([n], [n], codec.dumps([n]))
            worker.wire.flush()
            [batch] = worker.regain()
            assert batch.numbers == [n]
        worker.send([300], [300], codec.dumps([300]))
        worker.signal(signal.SIGCONT)
        while not worker.wire.flush():
            time.sleep(0.001)
        frame = take(worker.wire)
        assert (frame.kind, frame.number) == (wire.DONE, 301)
        assert pickle.loads(frame.data)[0] == [300]
    finally:
        warm.stop(worker, kill=True)


# ---- the start ----------------------------------------------------------------------------------


@pytest.mark.no_matrix
def test_an_editable_install_with_hooks_needs_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: `needs_site` says False always."""

    class Finder:
        def find_spec(self, *args: object) -> None:
            return None

    assert not start.needs_site()
    Finder.__module__ = "__editable___mine_finder"
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert start.needs_site()
    assert "-S" not in start._command()
    assert list(gorun.map(lambda n: "site" in sys.modules, [1], on="process"))


@pytest.mark.no_matrix
def test_a_worker_loads_little() -> None:
    """A lean start: nothing of gorun, and none of what `site` and `pickle` bring.

    Mutation: child.py imports contextlib.
    """
    # In a program of its own: here other tests have left workers behind, and imported what has a
    # worker import something in turn (the key of a manager of multiprocessing, say).
    script = """
        [loaded] = gorun.map(eval, ["sorted(__import__('sys').modules)"], on="process", workers=1)
        print(*loaded)
    """
    loaded = _child.run(script).out.split()
    assert not {"gorun", "site", "socket", "contextlib", "threading", "pickle"} & set(loaded)


# ---- the pool -----------------------------------------------------------------------------------


def ident(thing: Any) -> Any:
    return thing


def submit(pool: Pool, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """A future for a call."""
    future: Future[Any] = Future()

    def done(value: Any, error: BaseException | None) -> None:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    pool.submit(fn, args, kwargs, future.set_running_or_notify_cancel, done)
    return future


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.shutdown()


def test_calls_and_their_errors(pool: Pool) -> None:
    """Mutation: outcomes are told by their place in the batch, of which some were dropped."""
    futures = [submit(pool, divmod, n, 7) for n in range(500)]
    assert [f.result(HANG) for f in futures] == [divmod(n, 7) for n in range(500)]
    error = submit(pool, divmod, 1, 0).exception(HANG)
    assert type(error) is ZeroDivisionError
    assert "ZeroDivisionError" in error.__cause__.tb  # type: ignore[union-attr]
    assert submit(pool, lambda *, a: a, a=3).result(HANG) == 3
    blob = submit(pool, bytes.upper, b"a" * 1_000_000).result(HANG)
    assert blob == b"A" * 1_000_000


def test_what_cannot_travel_is_told(pool: Pool) -> None:
    """And the pool goes on. Mutation: `submit` raises."""
    lock = threading.Lock()
    assert "the call of <function ident" in str(submit(pool, ident, lock).exception(HANG))
    assert "the result of the call" in str(submit(pool, threading.Lock).exception(HANG))
    assert submit(pool, ident, 1).result(HANG) == 1


def test_calls_that_have_not_begun_can_be_dropped(pool: Pool, tmp_path: Path) -> None:
    """`begin` is asked once, and its False is the end of the call.

    Mutation: `take` does not look at what `begin` says.
    """

    def item(n: int) -> int:
        note(tmp_path, n)
        until((tmp_path / "go").exists)
        return n

    futures = [submit(pool, item, n) for n in range(20)]
    until(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2)
    dropped = [n for n, future in enumerate(futures) if future.cancel()]
    assert len(dropped) >= 16
    (tmp_path / "go").touch()
    for n, future in enumerate(futures):
        assert n in dropped or future.result(HANG) == n
    pool.shutdown()
    assert not any((tmp_path / str(n)).exists() for n in dropped)


def test_a_worker_that_dies_fails_its_call_and_is_replaced(pool: Pool) -> None:
    """Mutation: the pool breaks."""
    futures = [submit(pool, os._exit if n == 3 else ident, n) for n in range(8)]
    assert [f.result(HANG) for n, f in enumerate(futures) if n != 3] == [0, 1, 2, 4, 5, 6, 7]
    error = futures[3].exception(HANG)
    assert isinstance(error, gorun.WorkerDied)
    assert (error.items, error.exitcode) == (((os._exit, (3,), {}),), 3)


def test_an_initializer_that_fails_breaks_the_pool() -> None:
    """All calls fail with it, the later ones at `submit`. Mutation: `broke` keeps the pending."""

    def begin() -> None:
        raise OSError("no device")

    pool = Pool(2, initializer=begin)
    first = submit(pool, ident, 1)
    assert "no device" in str(first.exception(HANG))
    assert isinstance(pool.broken, OSError)
    with pytest.raises(OSError, match="no device"):
        submit(pool, ident, 2)
    pool.shutdown()


def test_recycling() -> None:
    """One worker at a time, each for two calls: nobody waits for ever. Mutation: `leave` is late."""
    pool = Pool(1, max_tasks_per_child=2)
    pids = [f.result(HANG) for f in [submit(pool, os.getpid) for _ in range(10)]]
    assert len(set(pids)) == 5
    pool.shutdown()
    assert not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_kill(number: int) -> None:
    """What is not done fails, and nobody is started for it. Mutation: `take` goes on."""
    pool = Pool(2)
    futures = [submit(pool, time.sleep, HANG * 10) for _ in range(6)]
    until(lambda: len(pool.pids) == 2)
    pids = pool.pids
    pool.kill(number)
    assert {type(f.exception(HANG)) for f in futures} == {gorun.WorkerDied}
    pool.shutdown()
    assert not any(map(alive, pids))


def test_shutdown_runs_what_is_there() -> None:
    """Mutation: `shutdown` ends the crew at once."""
    pool = Pool(2)
    futures = [submit(pool, ident, n) for n in range(50)]
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        submit(pool, ident, 1)
    assert [f.result(HANG) for f in futures] == list(range(50))
    pool.shutdown()
    assert pool.pids == []


def test_a_pool_that_nobody_holds_ends() -> None:
    """Mutation: its thread refers to it."""
    pool = Pool(1)
    pid = submit(pool, os.getpid).result(HANG)
    del pool
    until(lambda: not alive(pid))


def test_a_call_may_submit_when_it_is_done(pool: Pool) -> None:
    """Callbacks run without the pool's lock. Mutation: `answer` calls `done`."""
    last: Future[int] = Future()

    def more(value: int, error: BaseException | None) -> None:
        if value == 20:
            last.set_result(value)
        else:
            pool.submit(ident, (value + 1,), {}, lambda: True, more)

    pool.submit(ident, (0,), {}, lambda: True, more)
    assert last.result(HANG) == 20


@pytest.mark.no_matrix
def test_a_pools_program_ends(tmp_path: Path) -> None:
    """With a pool that is neither shut down nor through. Mutation: the thread is no daemon."""
    script = """
import time
from gorun._proc.pool import Pool
pool = Pool(2)
for _ in range(3):
    pool.submit(time.sleep, (3600,), {}, lambda: True, print)
time.sleep(0.2)
print(*pool.pids)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()
    assert not any(alive(int(pid)) for pid in ended.stdout.split())


@pytest.mark.no_matrix
def test_a_daemon_thread_in_a_map_ends_silently() -> None:
    """Its workers go before it does, and nobody reads what it says of that.

    Mutation: `check` raises RuntimeError for all.
    """
    before = """
import atexit
@atexit.register  # before gorun's: called after those
def last():
    thread.join(20)
    print(thread.is_alive())
"""
    script = """
        import itertools
        begun = threading.Event()
        def endless():
            for _ in gorun.map(abs, itertools.count(), on="process", workers=1):
                begun.set()
        thread = threading.Thread(target=endless, daemon=True)
        thread.start()
        assert begun.wait(20)
    """
    assert _child.run(script, before=before).out == "False"


@pytest.mark.no_matrix
def test_the_main_thread_is_told_that_it_is_over() -> None:
    """Not SystemExit, which would be none of its own. Mutation: `check` raises that for all."""
    before = """
import atexit
@atexit.register
def last():
    try:
        next(gorun.map(abs, range(3), on="process"))
    except RuntimeError as error:
        print(error)
"""
    script = 'next(gorun.map(abs, range(3), on="process"))'
    assert "interpreter is ending" in _child.run(script, before=before).out


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    "made",
    [
        'gorun.map(abs, itertools.count(), on="process")',
        'gorun.Executor(1, on="process").map(abs, itertools.count(), buffersize=3)',
    ],
)
def test_what_is_collected_last_needs_no_globals(made: str) -> None:
    """The interpreter has cleared them, on some builds. Mutation: `Crew.__del__` asks for its pid."""
    before = """
import atexit
@atexit.register
def last():
    module = sys.modules["gorun._proc.crew"]
    for name in list(vars(module)):
        setattr(module, name, None)
"""
    script = f"""
        import itertools
        kept = {made}
        print(next(kept))
    """
    assert _child.run(script, before=before).out == "0"


@pytest.mark.no_matrix
def test_failed_starts_leave_no_descriptor() -> None:
    """Wherever a start runs out of them; nor a process.

    Mutations: in `start`, a pipe is not given to its stack; `Worker` does not `end` what it started.
    """
    script = """
        import mmap, resource, select, cloudpickle
        from gorun._proc import warm
        def attempt():
            try:
                return list(gorun.map(abs, range(4), on="process", workers=1))
            except (OSError, RuntimeError) as error:
                assert "Too many open files" in str(error), error
        sys.executable, good = "/nowhere", sys.executable
        try:
            list(gorun.map(abs, range(4), on="process", workers=1))
        except RuntimeError as error:
            assert "could be started" in str(error), error
        sys.executable = good
        def open_ones():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))
        before, (soft, hard) = open_ones(), resource.getrlimit(resource.RLIMIT_NOFILE)
        failed = 0
        for more in range(1, 20):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, hard))
            found = attempt()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            failed += found is None
            warm.close()
            assert open_ones() == before, (more, open_ones(), before)
        def none_left(*args):
            raise OSError(24, "Too many open files")
        mmap.mmap, good = none_left, mmap.mmap
        assert attempt() is None
        mmap.mmap = good
        assert open_ones() == before
        assert failed > 6 and found == [0, 1, 2, 3], (failed, found)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("nobody is left")
    """
    assert _child.run(script).out == "nobody is left"


@pytest.mark.no_matrix
def test_workers_start_while_their_parent_loads_cloudpickle() -> None:
    """And load it, too: as many as there is work for, for the first function that goes by value only.

    Mutations: `_hire` prepares nothing, or always; `set_up` loads nothing.
    """
    script = """
        import os, sys
        from gorun._proc import start, warm

        seen = []

        class Finder:
            def find_spec(self, name, *_):
                if name == "cloudpickle":
                    seen.append(len(warm.idle_pids()))

        sys.meta_path.insert(0, Finder())
        assert list(gorun.map(abs, [-1], on="process", workers=2)) == [1]
        assert not seen
        warm.close()
        assert list(gorun.map(lambda n: -n, [1, 2, 3], on="process", workers=2)) == [-1, -2, -3]
        assert seen == [2], seen
        was = set(warm.idle_pids())
        with gorun.map(lambda _: os.getpid(), [1], on="process", workers=2) as pids:
            assert set(pids) <= was
        for total, expected in ((3, 3), (100, 5), (None, 4)):
            warm.close()
            for name in [name for name in sys.modules if "cloudpickle" in name or "byvalue" in name]:
                del sys.modules[name]
            items = iter(range(9)) if total is None else range(total)
            list(gorun.map(lambda n: n, items, on="process", workers=5))
            assert seen.pop() == expected
        warm.close()
        loaded = ["'cloudpickle' in __import__('sys').modules"]
        assert list(gorun.map(eval, loaded, on="process", workers=1)) == [False]
        warm.close()
        warm.prepare(start.share_of(1, None), 1, "ready")
        assert list(gorun.map(eval, loaded, on="process", workers=1)) == [True]
        print("done")
    """
    assert _child.run(script).out.split() == ["done"]
