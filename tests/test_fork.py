"""Fork: the child starts anew, with a runtime of its own; the parent does not notice.

Everything runs in interpreters of their own, because each fork beside threads warns (3.12+) and the
children would run pytest's hooks. `WORK` exercises a runtime; `fork` runs a function in a child and
asserts how that ended.
"""

from __future__ import annotations

import pytest
from tests import _child

pytestmark = pytest.mark.no_matrix

FORK = """
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12+: fork beside threads

def work():
    async def add(i):
        await gorun.sleep_async(0.001)
        return i + 1
    def plain(i):
        gorun.sleep(0.001)
        time.sleep(0.001)
        return i - 1
    gs = gorun.go_many(add, range(20)) + gorun.go_many(plain, range(20))
    assert sum(g.result(20) for g in gs) == 2 * sum(range(20))
    assert gorun.run(add, 1) == 2
    ran = threading.Event()
    t = gorun.Timer(0.002, ran.set)
    assert ran.wait(20)
    done, rest = gorun.wait(gorun.go_many(add, range(5)), 20)
    assert len(done) == 5
    try:
        go(nap).result(0.001)
    except TimeoutError:
        pass
    else:
        raise AssertionError("no TimeoutError")

def fork(f, code=0):
    '''Runs f in a child; the parent waits for it.'''
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        how = 99
        try:
            f()
            how = code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(how)
    for _ in range(3000):  # not os.waitpid alone: a child that hangs must be seen
        if (end := os.waitpid(pid, os.WNOHANG))[0]:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGABRT)
        os.waitpid(pid, 0)
        raise AssertionError("the child hung")
    assert os.waitstatus_to_exitcode(end[1]) == code, end
"""


def run(script: str, **kwargs: object) -> _child.Ended:
    import textwrap

    return _child.run(FORK + textwrap.dedent(script), **kwargs)  # type: ignore[arg-type]


def test_fork_from_main() -> None:
    """A child of the main thread has a fresh runtime: no goroutine of the parent, its own work runs.

    Mutation: `_after_fork` not registered (the child's `go` queues for threads that are not there).
    """
    run(
        """
        live = gorun.go_many(nap, [3600.0] * 100) + [go(time.sleep, 0.3)]
        work()
        def child():
            assert gorun.num_goroutine() == 0
            assert gorun.goroutines() == []
            assert gorun.stats().ms == 0
            work()
            assert gorun.shutdown(20)
        fork(child)
        work()
        assert not any(g.done() for g in live[:100])
        """
    )


def test_fork_before_the_runtime_started() -> None:
    """Both sides start their own.

    Mutation: `after_fork` starts threads.
    """
    run("fork(work); work()")


def test_fork_keeps_settings() -> None:
    """`gomaxprocs` and `max_threads` of the parent hold in the child.

    Mutation: `after_fork` takes the defaults.
    """
    run(
        """
        gorun.gomaxprocs(7)
        gorun.configure(max_threads=77)
        def child():
            assert gorun.gomaxprocs() == 7
            assert gorun._gorun._max_threads(0) == 77
            work()
        fork(child)
        """
    )


def test_fork_from_a_thread() -> None:
    """The forking thread becomes the child's main thread.

    Mutation: the main thread is remembered by its number at import.
    """
    run(
        """
        live = go(nap)
        failed = []
        def body():
            try:
                fork(work)
            except BaseException as e:
                failed.append(e)
        t = threading.Thread(target=body)
        t.start()
        t.join()
        assert not failed, failed
        work()
        """
    )


def test_fork_from_a_plain_goroutine() -> None:
    """`os.fork` in a body: in the child nothing is current and everything works; the parent goes on.

    Mutation: `after_fork` leaves the thread's M set.
    """
    run(
        """
        live = go(nap)
        def child():
            assert gorun.current() is None
            work()
        def body():
            me = gorun.current()
            fork(child)
            assert gorun.current() is me
            return 5
        assert [g.result(30) for g in [go(body) for _ in range(3)]] == [5, 5, 5]
        work()
        """
    )


def test_fork_from_an_async_goroutine() -> None:
    """The same from the code of an `async def` body.

    Mutation: as above.
    """
    run(
        """
        def child():
            assert gorun.current() is None
            work()
        async def body():
            await gorun.sleep_async(0.001)
            fork(child)
            await gorun.sleep_async(0.001)
            return 5
        assert [g.result(30) for g in [go(body) for _ in range(3)]] == [5, 5, 5]
        work()
        """
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [("return 3", 0), ("raise SystemExit(7)", 7), ("sys.exit()", 0), ("1 / 0", 1)],
)
def test_a_body_that_returns_in_the_child_ends_it(body: str, code: int) -> None:
    """A body that forked and then ends in the child ends the child: code 0, 1, or SystemExit's.

    Mutation: `drive.end` without its look at `forked` (the child's thread would run the parent's queue).
    """
    ended = run(
        f"""
        def body():
            pid = os.fork()
            if pid == 0:
                print("in the child")
                {body}
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert go(body).result(30) == {code}
        work()
        """,
        err=None,
    )
    assert ended.out == "in the child"
    if code == 1:
        assert ended.err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    else:
        assert ended.err == ""


def test_an_async_body_that_goes_on_in_the_child() -> None:
    """A forked `async def` body cannot await in the child: it is told so, and the child ends.

    Mutation: the await parks the goroutine in the child, whose thread then hangs.
    """
    ended = run(
        """
        async def body():
            pid = os.fork()
            if pid == 0:
                await gorun.sleep_async(0.001)
                print("on")
                os._exit(5)
            await gorun.sleep_async(0.001)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert go(body).result(30) == 1
        """,
        err=None,
    )
    assert ended.err.splitlines()[-1].startswith("RuntimeError: ")


def test_handles_of_the_parent() -> None:
    """In the child an ended goroutine gives its result; a live one raises RuntimeError, and is not cancelled.

    Mutation: `refuse_foreign` lets it pass (the child waits for ever).
    """
    run(
        """
        import asyncio
        ended = go(abs, -5)
        failed = go(int, "x")
        assert ended.result() == 5 and isinstance(failed.exception(), ValueError)
        live = go(nap)
        queued = gorun.go_many(nap, [3600.0] * 500)
        def child():
            assert ended.result() == 5 and ended.done()
            assert isinstance(failed.exception(), ValueError)
            assert go(lambda: ended.result()).result(20) == 5
            async def joins(g):
                return await g
            assert gorun.run(joins, ended) == 5
            for f in (live.result, live.exception, lambda: live.result(0.1), lambda: gorun.run(joins, live),
                      lambda: asyncio.run(joins(live)), lambda: go(live.result).result(20)):
                try:
                    f()
                except RuntimeError as e:
                    assert "forked" in str(e), e
                else:
                    raise AssertionError("no error")
            assert live.cancel() is False
            assert not live.done()
            repr(live), live.name, live.id
            live.add_done_callback(print)
        fork(child)
        def drops():
            global live, queued, ended, failed
            del live, queued, ended, failed
            gc.collect()
            work()
        fork(drops)
        assert not live.done()
        """
    )


def test_timers_of_the_parent() -> None:
    """In the child a Timer of the parent never fires, and stopping or resetting it harms nobody.

    Mutation: `stop` finds the timer's shard by number in the child's runtime.
    """
    run(
        """
        fired = []
        t = gorun.Timer(0.3, lambda: fired.append(os.getpid()))
        u = gorun.Timer(3600, print)
        parent = os.getpid()
        def child():
            work()
            mine = [gorun.Timer(0.05, lambda: fired.append(os.getpid())) for _ in range(10)]
            u.stop()
            del globals()["u"]
            end = time.monotonic() + 20
            while len(fired) < 10:
                assert time.monotonic() < end, fired
                time.sleep(0.01)
            time.sleep(0.4)
            assert fired == [os.getpid()] * 10, fired
        fork(child)
        assert u.stop()
        assert fired == [parent]
        """
    )


BUSY = """
gorun.gomaxprocs(2)
stop = False
fired = []
async def ticks():
    while not stop:
        await gorun.sleep_async(0.0005)
async def yields():
    while not stop:
        await gorun.gosched_async()
def spawns():
    while not stop:
        gorun.go_many(abs, [1] * 50)
        time.sleep(0.0005)
def again():
    fired.append(1)
    if not stop:
        gorun.Timer(0.0005, again)
again()
load = [go(ticks) for _ in range(50)] + [go(yields) for _ in range(2)] + [go(spawns)]
"""


@pytest.mark.parametrize("where", ["main", "thread", "plain", "async"])
def test_fork_under_load(where: str) -> None:
    """50 forks while both Ms run, timers fire and goroutines are made: each child works, so does the parent.

    Mutation: a core lock that is held across an attach (a child that inherits it hangs), or
    `after_fork` that uses the old pool.
    """
    _fork_under_load(where, 50)


def _fork_under_load(where: str, n: int) -> None:
    run(
        BUSY
        + f"""
def forks():
    for _ in range({n}):
        fork(work)
async def forks_async():
    for _ in range({n}):
        fork(work)
        await gorun.sleep_async(0)
match "{where}":
    case "main": forks()
    case "thread":
        t = threading.Thread(target=forks)
        t.start()
        t.join()
    case "plain": gorun.run(forks)
    case "async": gorun.run(forks_async)
assert not any(g.done() for g in load)
n = len(fired)
work()
stop = True
for g in load:
    g.result(30)
"""
    )


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", ["main", "thread", "plain", "async"])
def test_fork_under_load_many_times(where: str) -> None:
    """The same, 20 times.

    Mutation: as above.
    """
    for _ in range(20):
        _fork_under_load(where, 50)


def test_grandchildren() -> None:
    """A child forks again, three deep, from goroutines.

    Mutation: the epoch is a flag.
    """
    run(
        """
        def deeper(n):
            work()
            if n:
                go(fork, lambda: deeper(n - 1)).result(30)
        deeper(3)
        """
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: object) -> None:
    """Workers of multiprocessing use gorun, and a pool is used from goroutines.

    Mutation: `_at_exit` or `after_fork` break the child's own shutdown (exit code, hang).
    """
    file = f"{tmp_path}/job.py"
    with open(file, "w") as f:
        f.write(
            _child.PRELUDE
            + FORK
            + f"""
import multiprocessing

def job(i):
    work()
    return i * go(abs, -2).result(20)

def child():
    work()
    sys.exit(3)

def main():
    context = multiprocessing.get_context("{method}")
    live = gorun.go_many(nap, [3600.0] * 10)
    with context.Pool(2) as pool:
        assert pool.map(job, range(6)) == [0, 2, 4, 6, 8, 10]
        gs = [go(pool.apply, job, (i,)) for i in range(4)]
        assert [g.result(30) for g in gs] == [0, 2, 4, 6]
        pool.close()
        pool.join()
    p = context.Process(target=child)
    go(p.start).result(30)
    p.join(30)
    assert p.exitcode == 3, p.exitcode
    work()

if __name__ == "__main__":
    main()
"""
        )
    _child.run_file(file)


def test_subprocess_from_goroutines() -> None:
    """`subprocess` from many goroutines, with pipes, codes and a preexec function.

    Mutation: Ms that block signals (a child inherits the mask: SIGTERM would not end it).
    """
    run(
        """
        import subprocess
        def call(i):
            r = subprocess.run(["sh", "-c", f"cat; exit {i}"], input=b"x" * i, capture_output=True)
            assert r.stdout == b"x" * i and r.stderr == b""
            return r.returncode
        assert [g.result(30) for g in gorun.go_many(call, range(20))] == list(range(20))
        p = go(subprocess.Popen, ["sleep", "100"]).result()
        p.terminate()
        assert p.wait(20) == -signal.SIGTERM
        def masked():
            lines = open("/proc/self/status").read().splitlines()
            return [l for l in lines if l.startswith("SigBlk")]
        mine = masked()
        r = go(subprocess.run, ["grep", "SigBlk", "/proc/self/status"], stdout=subprocess.PIPE, text=True).result()
        assert r.stdout.splitlines() == mine, (r.stdout, mine)
        q = go(subprocess.Popen, ["true"], preexec_fn=lambda: go(abs, 1).result(5)).result(20)
        assert q.wait(20) == 0
        """
    )


def test_exit_code_of_the_child() -> None:
    """A child that leaves through the interpreter's own exit keeps its code, with goroutines alive.

    Mutation: `_at_exit` waits for the parent's Ms.
    """
    run(
        """
        live = gorun.go_many(nap, [3600.0] * 10)
        time.sleep(0.02)
        pid = os.fork()
        if pid == 0:
            mine = gorun.go_many(nap, [3600.0] * 10) + [go(time.sleep, 3600)]
            work()
            sys.exit(42)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        """
    )


def test_fork_while_shutting_down() -> None:
    """A fork in the middle of `shutdown`: the child's runtime is not stopping.

    Mutation: `stopping` is process-wide.
    """
    run(
        """
        stuck = go(time.sleep, 0.5)
        time.sleep(0.05)
        t = threading.Thread(target=gorun.shutdown, args=(20,))
        t.start()
        time.sleep(0.05)
        fork(work)
        t.join()
        work()
        """
    )
