"""Interpreter exit: with goroutines of every kind alive, code 0, nothing on stderr, promptly.

Each script runs in an interpreter of its own. `_at_exit` cancels what lives and stops the threads,
both within `_EXIT_LIMIT`; what is left then (plain goroutines in C code or loops, daemon threads) is
left. On 3.11 and 3.12 those are unwound by force when they want the interpreter back.
"""

from __future__ import annotations

import os
import sys
import time

import pytest
from tests import _child

pytestmark = pytest.mark.no_matrix

BOUND = 0.5
"""`_EXIT_LIMIT`: how long exit may wait for goroutines that do not end."""

FIRST = """
import atexit
last = []
def finish():
    for f in last:
        f()
atexit.register(finish)
"""
"""Before gorun is imported: what is put into `last` is called after gorun's own exit hook."""

# What lives at exit. Each must end with code 0 and an empty stderr.
ALIVE = {
    "short sleeps": """
        async def naps(i):
            for _ in range(1000):
                await gorun.sleep_async(0.001 + i * 0.0005)
        gs = [go(naps, i) for i in range(100)]
        time.sleep(0.02)
        """,
    "short sleeps in plain goroutines": """
        def naps(i):
            for _ in range(1000):
                gorun.sleep(0.001 + i * 0.0005)
        gs = [go(naps, i) for i in range(100)]
        time.sleep(0.02)
        """,
    "short blocking sleeps": """
        def naps(i):
            while True:
                time.sleep(0.001 + i * 0.0005)
        gs = [go(naps, i) for i in range(100)]
        time.sleep(0.05)
        """,
    "not one step done": """
        gs = gorun.go_many(nap, [1.0] * 1000)
        """,
    "dropped handles": """
        for _ in range(1000):
            go(nap)
        time.sleep(0.01)
        """,
    "time.sleep": """
        gs = [go(time.sleep, 3600) for _ in range(20)]
        time.sleep(0.05)
        """,
    "lock": """
        lock = threading.Lock()
        lock.acquire()
        gs = [go(lock.acquire) for _ in range(10)]
        time.sleep(0.05)
        """,
    "socket read": """
        import socket
        a, b = socket.socketpair()
        gs = [go(a.recv, 1) for _ in range(5)]
        time.sleep(0.05)
        """,
    "endless loop": """
        def spin():
            while True:
                pass
        gs = [go(spin) for _ in range(3)]
        time.sleep(0.05)
        """,
    "endless loop in a coroutine": """
        async def spin():
            while True:
                pass
        gs = [go(spin) for _ in range(3)]
        time.sleep(0.05)
        """,
    "swallows every cancel": """
        async def stubborn():
            while True:
                try:
                    await gorun.sleep_async(0.001)
                except BaseException:
                    pass
        gs = [go(stubborn) for _ in range(20)]
        time.sleep(0.05)
        """,
    "swallows every cancel, plain": """
        def stubborn():
            while True:
                try:
                    gorun.sleep(0.001)
                except BaseException:
                    pass
        gs = [go(stubborn) for _ in range(5)]
        time.sleep(0.05)
        """,
    "native code": """
        import hashlib
        data = bytes(50_000_000)
        def work():
            while True:
                hashlib.sha256(data).digest()
        gs = [go(work) for _ in range(2)]
        time.sleep(0.05)
        """,
    "spawns at exit": """
        def spawn():
            while True:
                try:
                    go(nap)
                except RuntimeError:
                    return
                time.sleep(0.0001)
        gs = [go(spawn) for _ in range(3)]
        time.sleep(0.05)
        """,
    "a chain that spawns": """
        async def link():
            try:
                go(link)
            except RuntimeError:
                pass
        go(link)
        time.sleep(0.02)
        """,
    "cleanup that awaits": """
        ended = []
        async def work():
            try:
                await gorun.sleep_async(100)
            finally:
                await gorun.sleep_async(0.01)
                ended.append(1)
        gs = [go(work) for _ in range(50)]
        while gorun.stats().waiting < 50:
            time.sleep(0.001)
        last.append(lambda: print("cleaned", len(ended)))
        """,
    "cleanup that never ends": """
        async def work():
            try:
                await gorun.sleep_async(100)
            finally:
                while True:
                    try:
                        await gorun.sleep_async(100)
                    except gorun.Cancelled:
                        pass
        gs = [go(work) for _ in range(10)]
        time.sleep(0.02)
        """,
    "async generators half-way": """
        async def numbers():
            try:
                while True:
                    yield 1
                    await gorun.sleep_async(0.001)
            finally:
                await gorun.sleep_async(0.001)
        async def reads():
            async for _ in numbers():
                pass
        gs = [go(reads) for _ in range(10)]
        time.sleep(0.02)
        """,
    "daemon threads inside result": """
        g = go(nap)
        for _ in range(5):
            threading.Thread(target=g.result, daemon=True).start()
        time.sleep(0.05)
        """,
    "daemon threads that call go": """
        def loop():
            while True:
                try:
                    go(abs, -1).result()
                except RuntimeError:
                    return
                except BaseException:
                    return
        for _ in range(3):
            threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.05)
        """,
    "daemon threads inside sleep": """
        for _ in range(5):
            threading.Thread(target=gorun.sleep, args=(3600,), daemon=True).start()
        time.sleep(0.05)
        """,
    "timers pending": """
        ts = [gorun.Timer(0.001 * i, lambda: None) for i in range(2000)]
        dropped = [gorun.Timer(100, print) for i in range(100)].clear()
        time.sleep(0.05)
        """,
    "timer bodies that make timers": """
        def again():
            try:
                gorun.Timer(0.0005, again)
            except RuntimeError:
                pass
        for _ in range(20):
            again()
        time.sleep(0.05)
        """,
    "executor work pending": """
        import concurrent.futures.thread  # after gorun: its hooks run before ours
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        assert go(abs, -1).result() == 1  # from 3.12 on no thread starts any more when main has ended
        def job(i):
            return go(pow, i, 2).result() if i else time.sleep(0.05)
        fs = [pool.submit(job, i) for i in range(20)]
        fs[-1].add_done_callback(lambda f: print(f"last {f.result()}\\n", end=""))
        """,
    "executor imported first": """
        pool = ThreadPoolExecutor(2)
        assert go(abs, -1).result() == 1  # from 3.12 on no thread starts any more when main has ended
        def job(i):
            time.sleep(0.05)
            return go(pow, i, 2).result()
        fs = [pool.submit(job, i) for i in range(10)]
        fs[-1].add_done_callback(lambda f: print(f"last {f.result()}\\n", end=""))
        """,
    "asyncio.run returned": """
        import asyncio
        async def main():
            global g, gs
            gs = [go(nap) for _ in range(10)]
            assert await go(abs, -3) == 3
            asyncio.create_task(waits(gs[0]))
            await asyncio.sleep(0.01)
        async def waits(g):
            await g
        asyncio.run(main())
        """,
    "a loop that was never closed": """
        import asyncio
        loop = asyncio.new_event_loop()
        async def waits():
            await go(nap)
        task = loop.create_task(waits())
        loop.run_until_complete(asyncio.sleep(0.01))
        task._log_destroy_pending = False
        loop.close()
        """,
    "callbacks pending": """
        g = go(nap)
        g.add_done_callback(lambda g: go(print))
        g.add_done_callback(lambda g: None)
        gorun.excepthook = lambda args: print(args.exc_type.__name__)
        time.sleep(0.01)
        """,
    "joined goroutines": """
        g = go(nap)
        async def join():
            try:
                await g
            except gorun.GoroutineCancelled:
                pass
        gs = [go(join) for _ in range(10)]
        time.sleep(0.01)
        """,
    "blocking sections": """
        def work():
            with gorun.blocking():
                time.sleep(3600)
        gs = [go(work) for _ in range(10)]
        time.sleep(0.05)
        """,
    "shielded": """
        async def work():
            async with gorun.shield():
                await gorun.sleep_async(3600)
        gs = [go(work) for _ in range(10)]
        time.sleep(0.05)
        """,
    "garbage in cycles": """
        class Node: pass
        async def work():
            n = Node()
            n.self = n
            n.me = gorun.current()
            await gorun.sleep_async(100)
        gs = [go(work) for _ in range(100)]
        time.sleep(0.02)
        """,
    "a stopped runtime": """
        gs = [go(nap) for _ in range(10)]
        assert gorun.shutdown(10)
        """,
    "never started": "",
}


@pytest.mark.parametrize("what", ALIVE)
def test_exit_is_quiet_and_prompt(what: str) -> None:
    """Exit code 0, nothing on stderr, within the limit, whatever lives.

    Mutation: `_at_exit` does nothing (then Ms that wait for the interpreter while it finalizes are
    unwound by force through Rust frames: abort on 3.11), or `_EXIT_LIMIT = 60`.
    """
    before = FIRST
    if what == "executor imported first":
        before += "from concurrent.futures import ThreadPoolExecutor"
    ended = _child.run(ALIVE[what], exit_clock=True, before=before)
    assert ended.exit_seconds is not None
    assert ended.exit_seconds < 10 * BOUND
    said = {
        "cleanup that awaits": "cleaned 50",
        "executor work pending": "last 361",
        "executor imported first": "last 81",
        "callbacks pending": "RuntimeError",
    }
    assert ended.out == said.get(what, "")


def test_exit_with_many_sleepers() -> None:
    """200 000 sleepers are cancelled at exit: code 0, no stderr.

    Mutation: as above; or `_live` called once per goroutine.
    """
    _child.run(
        """
        gs = gorun.go_many(nap, [3600.0] * 200_000)
        while gorun.stats().waiting < 200_000:
            time.sleep(0.1)
        """
    )


ENDS = {
    "sys.exit()": ("sys.exit()", 0),
    "sys.exit(3)": ("sys.exit(3)", 3),
    "SystemExit": ("raise SystemExit(4)", 4),
    "os._exit": ("os._exit(5)", 5),
    "exception": ("raise ValueError('the end')", 1),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", -2),
    "run, sys.exit": ("gorun.run(sys.exit, 6)", 6),
    "result, sys.exit": ("go(sys.exit, 7).result()", 7),
    "run, exception": ("gorun.run(int, 'x')", 1),
    "run, os._exit": ("gorun.run(os._exit, 8)", 8),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
}


@pytest.mark.parametrize("how", ENDS)
def test_ways_to_end(how: str) -> None:
    """Each way out of the main thread keeps its exit code while goroutines live.

    Mutation: `_at_exit` raises, or `run` swallows SystemExit.
    """
    last, code = ENDS[how]
    ended = _child.run(
        f"""
        gs = [go(nap) for _ in range(10)] + [go(time.sleep, 100)]
        time.sleep(0.02)
        {last}
        """,
        code=code,
        err=None,
    )
    if code == 1:
        assert ended.err.splitlines()[0] == "Traceback (most recent call last):"
        assert ended.err.splitlines()[-1].startswith("ValueError: ")
    elif code != -2:
        assert ended.err == ""


def test_errors_whose_handles_go_with_the_modules() -> None:
    """What `__main__` holds dies when modules are taken apart: its errors are still told as errors.

    Mutation: `report` imports gorun, and no `_report_unasked` at the exit.
    """
    ended = _child.run(
        """
        async def fails():
            raise ValueError("nobody asked")

        gs = [go(fails) for _ in range(3)]
        while not all(g.done() for g in gs):
            time.sleep(0.001)
        """,
        err=None,
    )
    for words in ("ValueError: nobody asked", "Exception in goroutine", "Traceback"):
        assert ended.err.count(words) == 3


@pytest.mark.parametrize("refers", [False, True])
def test_the_users_hook_gets_errors_whose_handles_live_to_the_end(refers: bool) -> None:
    """Once each; also if the hook itself, by its globals, is what keeps the handle. Those that were asked for: not.

    Mutation: no `_report_unasked` at the exit.
    """
    ended = _child.run(
        f"""
        space = globals() if {refers} else {{}}
        exec("def hook(args): print('mine', args.goroutine.name, args.exc_value, flush=True)", space)
        gorun.excepthook = space.pop("hook")
        del space
        g = gorun.spawn({{}}.pop, ("nobody asked",), name="lonely")
        h = gorun.spawn({{}}.pop, ("asked",), name="asked")
        h.exception()
        while not g.done():
            time.sleep(0.001)
        """
    )
    assert ended.out == "mine lonely 'nobody asked'"


def test_exit_asked_for_in_a_body_nobody_joins() -> None:
    """SystemExit in a goroutine ends that goroutine only, and is not reported.

    Mutation: `report_unasked` without its test for SystemExit.
    """
    ended = _child.run(
        """
        go(sys.exit, 3)
        end = time.monotonic() + 20
        while gorun.num_goroutine() and time.monotonic() < end:
            time.sleep(0.001)
        print(gorun.num_goroutine())
        """
    )
    assert ended.out == "0"


def test_go_during_finalization() -> None:
    """`go` and its kin raise RuntimeError once the interpreter goes down, from any place.

    Mutation: `_set_finalizing` not called, or `started()` without its look at it.
    """
    ended = _child.run(
        """
        fs = [
            lambda go=go: go(abs, 1),
            lambda spawn=gorun._gorun._spawn: spawn(abs, (1,), {}, None, None),
            lambda go_many=gorun.go_many: go_many(abs, [1]),
            lambda Timer=gorun.Timer: Timer(0.1, abs),
        ]
        def tries(where, fs=fs, print=print):
            for f in fs:
                try:
                    f()
                except RuntimeError as e:
                    assert "goes down" in str(e), e
                else:
                    print("no error", where)
            print(where)
        class Late:
            def __del__(self, tries=tries):
                tries("del")
        last.append(lambda: tries("atexit"))
        late = Late()
        g = go(abs, -1)
        assert g.result() == 1
        """,
        before=FIRST,
    )
    assert ended.out.split() == ["atexit", "del"]


def test_destructors_that_use_gorun() -> None:
    """Objects of modules whose `__del__` calls anything of gorun at exit: no crash, no hang.

    Mutation: `rt()` reading a runtime that `_at_exit` freed.
    """
    ended = _child.run(
        """
        class Late:
            def __init__(self, name, f):
                self.name, self.f = name, f
            def __del__(self, print=print):
                try:
                    r = self.f()
                except BaseException as e:
                    r = type(e).__name__
                print(self.name, r)
        ended = go(abs, -5)
        live = go(time.sleep, 3600)
        parked = go(nap)
        timer = gorun.Timer(3600, abs)
        latch = gorun._gorun.Latch()
        time.sleep(0.05)
        keep = [
            Late("go", lambda go=go: go(abs, 1)),
            Late("result", lambda g=ended: g.result()),
            Late("cancel", lambda g=live: g.cancel()),
            Late("timeout", lambda g=live: g.result(0.01)),
            Late("parked", lambda g=parked: g.exception(1)),
            Late("sleep", lambda f=gorun.sleep: f(0.001)),
            Late("gosched", lambda f=gorun.gosched: f()),
            Late("stop", lambda t=timer: t.stop()),
            Late("stats", lambda f=gorun._gorun._stats: len(f()) > 0),
            Late("list", lambda f=gorun._gorun._goroutines: len(f()) > 0),
            Late("current", lambda f=gorun.current: f()),
            Late("procs", lambda f=gorun._gorun._gomaxprocs: f(1) > 0),
            Late("latch", lambda l=latch: l.wait(0.001)),
            Late("callback", lambda g=live: g.add_done_callback(print)),
        ]
        """
    )
    assert dict(line.split(maxsplit=1) for line in ended.out.splitlines()) == {
        "go": "RuntimeError",
        "result": "5",
        "cancel": "True",
        "timeout": "TimeoutError",
        "parked": "goroutine 3 was cancelled: shutdown",
        "sleep": "None",
        "gosched": "None",
        "stop": "True",
        "stats": "True",
        "list": "True",
        "current": "None",
        "latch": "False",
        "callback": "None",
        "procs": "True",
    }


def test_exit_waits_for_threads_first() -> None:
    """Threads that are no daemons, and exit hooks registered after the import, still use gorun.

    Mutation: `_at_exit` registered by `threading._register_atexit`.
    """
    ended = _child.run(
        """
        import atexit
        atexit.register(lambda: print(go(abs, -2).result()))
        assert go(abs, 0).result() == 0
        def work():
            time.sleep(0.1)
            print(go(abs, -1).result())
        threading.Thread(target=work).start()
        """
    )
    assert ended.out.split() == ["1", "2"]


def test_multiprocessing_child_exits() -> None:
    """A child of multiprocessing, which runs no `atexit` hook of the parent, ends with goroutines alive.

    Mutation: an exit hook that waits for threads of the parent.
    """
    _child.run(
        """
        import multiprocessing
        def child():
            gs = gorun.go_many(nap, [100.0] * 10) + [go(time.sleep, 100)]
            assert go(abs, -1).result() == 1
        go(nap)
        warnings.simplefilter("ignore", DeprecationWarning)
        p = multiprocessing.get_context("fork").Process(target=child)
        p.start()
        p.join()
        assert p.exitcode == 0
        """
    )


def _exits(n: int) -> list[float]:
    """Exits of a runtime with a bit of everything alive, in milliseconds."""
    took = []
    for _ in range(n):
        ended = _child.run(
            """
            def spin():
                while True:
                    pass
            gs = gorun.go_many(nap, [0.001 * i for i in range(100)])
            gs += [go(time.sleep, 0.001 * i) for i in range(10)]
            gs += [go(time.sleep, 100), go(spin)]
            time.sleep(0.002 * (time.time_ns() // 1000 % 10))
            """,
            exit_clock=True,
        )
        assert ended.exit_seconds is not None
        took.append(1000 * ended.exit_seconds)
    return sorted(took)


def test_exits_in_a_row() -> None:
    """A bit of everything, five times; `make stress` does it 500 times.

    Mutation: as `test_exit_is_quiet_and_prompt`.
    """
    assert _exits(5)[-1] < 10_000 * BOUND


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_500_exits() -> None:
    """The same, 500 times; prints median and worst.

    Mutation: as above.
    """
    n = int(os.environ.get("GORUN_TEST_EXITS", "500"))
    start = time.monotonic()
    took = _exits(n)
    print(
        f"{sys.version.split()[0]}: {n} exits in {time.monotonic() - start:.0f} s; "
        f"median {took[n // 2]:.0f} ms, worst {took[-1]:.0f} ms"
    )
    assert took[-1] < 10_000 * BOUND


@pytest.mark.parametrize("what", ["map", "send_many"])
def test_daemon_threads_that_come_back_from_user_code(what: str) -> None:
    """Inside a call of ours that called Python: on 3.11 and 3.12 they are unwound by force, and that is no error.

    Five times in a row, as it went wrong in one of four. Mutation: `unwind.rs` calls without its guard.
    """
    script = """
    ch = gorun.Chan(1 << 20)
    def slow():
        for n in range(1 << 20):
            if n % 50 == 0:
                time.sleep(0.0005)
            yield n
    def body(what):
        try:
            while True:
                if what == "map":
                    list(gorun.map(abs, range(50), on="process", workers=2))
                else:
                    ch.send_many(slow())
        except RuntimeError:
            pass
    for _ in range(2):
        threading.Thread(target=body, args=(sys.argv[1],), daemon=True).start()
    time.sleep(0.15)
    """
    for _ in range(5):
        _child.run(script.replace("sys.argv[1]", repr(what)))
