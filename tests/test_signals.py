"""Signals: Ctrl-C is noticed wherever the main thread waits in gorun, and a wait outlives a handler.

The main thread waits on a raw futex, for 50 ms at a time at most, and looks at signals when one
interrupts it: so the median is far below a slice, and the worst case is one. Tests that need a main
thread of their own run in a child interpreter.
"""

from __future__ import annotations

import statistics
import sys

import pytest
from tests import _child

pytestmark = pytest.mark.no_matrix

SLICE = 0.05
"""The longest that the main thread sleeps without a look at signals (`door.rs`)."""

AT_ONCE = 0.001
"""What an interrupted futex wait needs until the handler runs, generously (0.2 ms measured)."""

WAITS = {
    "run": "gorun.run(nap)",
    "run plain": "gorun.run(gorun.sleep, 3600)",
    "result": "g.result()",
    "result with a limit": "g.result(3600)",
    "exception": "g.exception()",
    "sleep": "gorun.sleep(3600)",
    "wait": "gorun.wait([g])",
    "wait first": "gorun.wait([g, h], 3600, 'FIRST_COMPLETED')",
    "as_completed": "list(gorun.as_completed([g, h]))",
    "as_completed with a limit": "list(gorun.as_completed([g, h], 3600))",
    "latch": "latch.wait()",
    "latch with a limit": "latch.wait(3600)",
    "shutdown": "gorun.shutdown()",
}


def _latencies(what: str, n: int) -> list[float]:
    """Seconds from `kill` to KeyboardInterrupt, sorted."""
    ended = _child.run(
        f"""
        import random
        rng = random.Random(1)
        async def stubborn():
            while True:
                try:
                    await gorun.sleep_async(3600)
                except gorun.Cancelled:
                    if done:
                        raise
        done = False
        g, h = go(stubborn), go(nap)
        latch = gorun._gorun.Latch()
        while gorun.stats().waiting < 2:
            time.sleep(0.001)
        main = threading.get_ident()
        sent = []
        turn = threading.Semaphore(0)
        def sender():
            while True:
                turn.acquire()
                time.sleep(0.002 + rng.random() * 0.05)
                sent.append(time.monotonic())
                signal.pthread_kill(main, signal.SIGINT)
        threading.Thread(target=sender, daemon=True).start()
        took = []
        for _ in range({n}):
            turn.release()
            try:
                {WAITS[what]}
            except KeyboardInterrupt:
                took.append(time.monotonic() - sent[-1])
        done = True
        assert len(took) == {n}, len(took)
        print(*took)
        """
    )
    return sorted(float(t) for t in ended.out.split())


@pytest.mark.parametrize("what", WAITS)
def test_ctrl_c_is_noticed_at_once(what: str) -> None:
    """The median is far below a slice, the worst is a slice at most; ten times the bound is allowed.

    Mutation: `futex_wait` that goes on after EINTR (std's park): the median becomes half a slice. Or
    `slice` None and no check: it hangs.
    """
    took = _latencies(what, 20)
    assert statistics.median(took) < 10 * AT_ONCE
    assert took[-1] < 10 * SLICE


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", WAITS)
def test_ctrl_c_latency(what: str) -> None:
    """The same over 100 signals; prints median and worst.

    Mutation: as above.
    """
    took = _latencies(what, 100)
    median = statistics.median(took)
    version = sys.version.split()[0] + sys.abiflags
    print(f"{version} {what}: median {1e3 * median:.2f} ms, worst {1e3 * took[-1]:.2f} ms")
    assert median < 10 * AT_ONCE
    assert took[-1] < 10 * SLICE


def test_ctrl_c_while_goroutines_compute() -> None:
    """Ctrl-C is noticed while both Ms compute and on a GIL build hold the interpreter.

    Mutation: as above.
    """
    ended = _child.run(
        """
        def spin():
            while not stop:
                pass
        stop = False
        gs = [go(spin) for _ in range(3)]
        main = threading.get_ident()
        turn = threading.Semaphore(0)
        def sender():
            while True:
                turn.acquire()
                time.sleep(0.05)
                global sent
                sent = time.monotonic()
                signal.pthread_kill(main, signal.SIGINT)
        threading.Thread(target=sender, daemon=True).start()
        took = []
        g = go(nap)
        for _ in range(5):
            try:
                turn.release()
                g.result()
            except KeyboardInterrupt:
                took.append(time.monotonic() - sent)
        stop = True
        print(max(took))
        """
    )
    assert float(ended.out) < 10 * (SLICE + 0.05)


def test_ctrl_c_in_run_cancels_main_and_waits_for_its_cleanup() -> None:
    """The order: cancel, cleanup to its end, KeyboardInterrupt; others go on.

    Mutation: `run` raises without waiting, or cancels everybody.
    """
    ended = _child.run(
        """
        async def main():
            global child
            child = go(ticks)
            try:
                threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
                await gorun.sleep_async(3600)
            except gorun.Cancelled:
                print("cancelled")
                await gorun.sleep_async(0.1)
                print("cleaned")
                raise
        async def ticks():
            global n
            for n in range(10**9):
                await gorun.sleep_async(0.001)
        try:
            gorun.run(main)
        except KeyboardInterrupt:
            print("interrupted")
        before = n
        time.sleep(0.1)
        assert n > before and not child.done()
        """
    )
    assert ended.out.split() == ["cancelled", "cleaned", "interrupted"]


def test_a_second_ctrl_c_is_raised_at_once() -> None:
    """While `run` waits for the cleanup another one does not wait.

    Mutation: `run` loops until main has ended.
    """
    ended = _child.run(
        """
        async def main():
            go(kill)
            try:
                await gorun.sleep_async(3600)
            finally:
                go(kill)
                await gorun.sleep_async(1000)
        def kill():
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        start = time.monotonic()
        try:
            gorun.run(main)
        except KeyboardInterrupt as e:
            print("interrupted", isinstance(e.__context__, KeyboardInterrupt))
        assert time.monotonic() - start < 20
        """
    )
    assert ended.out == "interrupted True"


@pytest.mark.parametrize(
    "what", ["run", "run plain", "result", "sleep", "wait", "as_completed", "latch"]
)
def test_any_error_of_any_handler_ends_the_wait(what: str) -> None:
    """An exception from the handler of another signal is raised from the wait.

    Mutation: only KeyboardInterrupt is looked for.
    """
    ended = _child.run(
        f"""
        class Stop(Exception):
            pass
        def handler(*_):
            raise Stop
        signal.signal(signal.SIGALRM, handler)
        g, h = go(nap), go(nap)
        latch = gorun._gorun.Latch()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            {WAITS[what]}
        except Stop:
            print("stopped", g.done())
        """
    )
    assert ended.out == "stopped False"


def test_main_that_ends_by_itself_after_ctrl_c() -> None:
    """A main that swallows the cancel and returns does not hide the KeyboardInterrupt.

    Mutation: `run` returns the value.
    """
    ended = _child.run(
        """
        async def main():
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
            try:
                await gorun.sleep_async(3600)
            except gorun.Cancelled:
                return 5
        try:
            gorun.run(main)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert ended.out == "interrupted"


def test_a_result_that_is_there_wins() -> None:
    """A signal that comes with the result: the value is returned, the signal left to the interpreter.

    Mutation: `block` checks signals after the wait was won and throws the value away.
    """
    ended = _child.run(
        """
        hits = []
        signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
        def both():
            os.kill(os.getpid(), signal.SIGUSR1)
            return 7
        for i in range(200):
            assert go(both).result() == 7
        end = time.monotonic() + 10
        while not hits:
            assert time.monotonic() < end
        print(len(hits) > 0)
        """
    )
    assert ended.out == "True"


def test_handlers_that_use_gorun() -> None:
    """A handler may do all that the main thread may, also wait, while the main thread waits.

    Mutation: one waker per thread (the inner wait ends the outer one).
    """
    ended = _child.run(
        """
        hits = []
        def handler(*_):
            n = len(hits)
            hits.append(0)
            hits[n] = (
                go(nap, 0.01).result(20), gorun.run(nap, 0.001), gorun.sleep(0.001), gorun.gosched(),
                gorun.current(), gorun.stats().gomaxprocs > 0, len(gorun.goroutines()) > 0,
                g.cancel("x") if n == 2 else None,
            )
        signal.signal(signal.SIGUSR1, handler)
        async def work():
            try:
                await gorun.sleep_async(3600)
            except gorun.Cancelled as e:
                return e.reason
        g = go(work)
        def send():
            for _ in range(3):
                time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGUSR1)
        go(send)
        assert g.result(20) == "x"
        assert len(hits) == 3, hits
        for h in hits:
            assert h[1:7] == (None, None, None, None, True, True), h
        """
    )
    assert ended.out == ""


def test_nested_handlers() -> None:
    """Signals that arrive while a handler waits in gorun are handled inside that wait.

    Mutation: as above.
    """
    _child.run(
        """
        depth = most = 0
        def handler(*_):
            global depth, most
            depth += 1
            most = max(most, depth)
            go(nap, 0.03).result(20)
            depth -= 1
        signal.signal(signal.SIGUSR1, handler)
        signal.signal(signal.SIGUSR2, handler)
        def send():
            for _ in range(5):
                time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGUSR2)
        go(send)
        gorun.run(nap, 0.5)
        assert most >= 2 and depth == 0, (most, depth)
        """
    )


def test_signals_during_go() -> None:
    """A storm of signals over `go`, `spawn` and `go_many` loses no goroutine and makes none twice.

    Mutation: `go` checks signals between making the goroutine and returning its handle.
    """
    _child.run(
        """
        hits = 0
        def handler(*_):
            global hits
            hits += 1
            go(bump)
        signal.signal(signal.SIGALRM, handler)
        ran = []
        def bump():
            ran.append(1)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        n = 0
        gs = []
        end = time.monotonic() + 1
        while time.monotonic() < end:
            gs += [go(bump), gorun.spawn(bump, name="x"), *gorun.go_many(lambda _: bump(), range(3))]
            n += 5
            if len(gs) > 1000:
                for g in gs:
                    g.result(20)
                gs.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for g in gs:
            g.result(20)
        end = time.monotonic() + 20
        while gorun.num_goroutine():
            assert time.monotonic() < end
            time.sleep(0.001)
        assert hits > 10
        assert len(ran) == n + hits, (len(ran), n, hits)
        """
    )


def test_a_storm_of_signals_loses_no_time_out() -> None:
    """SIGCHLD and timer signals all the time: waits end when they should, neither early nor never.

    Mutation: the time-out starts anew after each EINTR.
    """
    ended = _child.run(
        """
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        stop = False
        def children():
            import subprocess
            while not stop:
                subprocess.run(["true"])
        c = go(children)
        g = go(nap)
        latch = gorun._gorun.Latch()
        took = []
        def timed(f, seconds):
            start = time.monotonic()
            try:
                f()
            except TimeoutError:
                pass
            took.append((time.monotonic() - start) / seconds)
        for _ in range(3):
            timed(lambda: gorun.sleep(0.2), 0.2)
            timed(lambda: g.result(0.2), 0.2)
            timed(lambda: latch.wait(0.2), 0.2)
            timed(lambda: gorun.wait([g], 0.2), 0.2)
            timed(lambda: list(gorun.as_completed([g], 0.2)), 0.2)
            timed(lambda: gorun.run(nap, 0.2), 0.2)
        stop = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        c.result(20)
        print(min(took), max(took))
        """
    )
    low, high = map(float, ended.out.split())
    assert low >= 0.999
    assert high < 10


def test_wakeup_fd_is_untouched() -> None:
    """gorun takes no wake-up descriptor and installs no handler.

    Mutation: `signal.set_wakeup_fd` anywhere.
    """
    _child.run(
        """
        r, w = os.pipe()
        os.set_blocking(w, False)
        signal.set_wakeup_fd(w)
        handlers = [signal.getsignal(s) for s in signal.valid_signals()]
        signal.signal(signal.SIGUSR1, lambda *_: None)
        def send():
            time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGUSR1)
        g = go(send)
        gorun.run(nap, 0.1)
        g.result(20)
        assert os.read(r, 10) == bytes([signal.SIGUSR1])
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        assert handlers == [signal.getsignal(s) for s in signal.valid_signals()]
        assert gorun.shutdown(20)
        assert signal.set_wakeup_fd(-1) == w
        """
    )


def test_threads_beside_main_do_not_run_handlers() -> None:
    """A wait of another thread is not cut by a signal; the handler runs on the main thread.

    Mutation: every thread waits in slices and raises what `PyErr_CheckSignals` leaves.
    """
    _child.run(
        """
        where = []
        signal.signal(signal.SIGUSR1, lambda *_: where.append(threading.current_thread()))
        t = threading.Thread(target=gorun.run, args=(nap, 0.3))
        t.start()
        for _ in range(5):
            time.sleep(0.02)
            signal.pthread_kill(t.ident, signal.SIGUSR1)
        t.join()
        assert len(where) == 5 and set(where) == {threading.main_thread()}, where
        """
    )


def test_faulthandler_shows_goroutines() -> None:
    """`faulthandler.dump_traceback(all_threads=True)` shows what plain and async bodies are doing now.

    Mutation: Ms that are no threads of the interpreter's, or that lie about their thread state.
    """
    ended = _child.run(
        """
        import faulthandler
        def plain_body():
            ready.append(1)
            while not stop:
                time.sleep(0.001)
        async def async_body():
            await gorun.sleep_async(0.001)
            ready.append(1)
            while not stop:
                time.sleep(0.001)
        ready, stop = [], False
        gs = [go(plain_body), go(async_body)]
        end = time.monotonic() + 20
        while len(ready) < 2:
            assert time.monotonic() < end
            time.sleep(0.001)
        faulthandler.dump_traceback(file=sys.stdout, all_threads=True)
        stop = True
        """
    )
    assert " in plain_body\n" in ended.out
    assert " in async_body\n" in ended.out


def test_sigterm_default_ends_the_process() -> None:
    """Without a handler SIGTERM kills, whatever runs.

    Mutation: signals blocked in the main thread.
    """
    _child.run(
        """
        gs = [go(nap) for _ in range(10)] + [go(time.sleep, 100)]
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM]).start()
        gorun.run(nap)
        """,
        code=-15,
        err=None,
    )
