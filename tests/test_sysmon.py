"""The watcher and what it stands on: its self-test, its switch, its cost; threads that do not start.

`_gorun._probe()` says how sysmon tells a blocked M: "syscall" or "clock".
"""

from __future__ import annotations

import time

import pytest
from tests import _child

import gorun
from gorun import go

pytestmark = pytest.mark.no_matrix

# --- the self-test --------------------------------------------------------------------------------


def test_the_self_test_passes_here() -> None:
    """On an interpreter we know, system calls are read.

    Mutation: a wrong offset of `PyThreadState.state`, or a range beside `_PyRuntime`.
    """
    ended = _child.run(
        """
        before = gorun._gorun._probe()
        go(abs, -1).result(20)
        print(before, gorun._gorun._probe(), threading.active_count() <= 3)
        """,
        GORUN_SYSMON="auto",
    )
    assert ended.out == "untested syscall True"


def test_a_failed_self_test_falls_back_to_the_clock() -> None:
    """A self-test that looks in the wrong place fails; blocking is found by the clock then.

    Mutation: `self_test` returns True.
    """
    ended = _child.run(
        """
        g = go(time.sleep, 0.3)
        gs = [go(time.sleep, 0.3) for _ in range(gorun.gomaxprocs())]
        time.sleep(0.01)
        assert go(abs, -1).result(20) == 1
        print(gorun._gorun._probe(), g.done())
        """,
        GORUN_TEST_SELFTEST="fail",
    )
    assert ended.out == "clock False"


def test_the_self_test_beside_busy_threads() -> None:
    """Other threads that compute make it slower, not wrong.

    Mutation: one look instead of looks until a limit.
    """
    ended = _child.run(
        """
        stop = False
        def spin():
            while not stop:
                pass
        ts = [threading.Thread(target=spin) for _ in range(4)]
        for t in ts:
            t.start()
        try:
            go(abs, -1).result(20)
            print(gorun._gorun._probe())
        finally:
            stop = True
        """,
        GORUN_SYSMON="auto",
    )
    assert ended.out == "syscall"


def test_a_child_takes_the_result_over() -> None:
    """A forked child does not test again: it may have no time for it.

    Mutation: `set_up` forgets.
    """
    ended = _child.run(
        """
        warnings.simplefilter("ignore")
        go(abs, -1).result(20)
        pid = os.fork()
        if pid == 0:
            print(gorun._gorun._probe(), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """,
        GORUN_SYSMON="auto",
    )
    assert ended.out == "syscall"


@pytest.mark.parametrize("value", ["", "auto", "clock"])
def test_known_settings(value: str) -> None:
    """The switch knows these.

    Mutation: `check_sysmon` refuses one of them.
    """
    want = "clock" if value == "clock" else "syscall"
    ended = _child.run("go(abs, 1).result(20); print(gorun._gorun._probe())", GORUN_SYSMON=value)
    assert ended.out == want


def test_garbage_is_named() -> None:
    """GORUN_SYSMON=garbage: an error at import that says what it is and what may be.

    Mutation: `check_sysmon` not called.
    """
    ended = _child.run("", code=1, err=None, GORUN_SYSMON="cl0ck")
    last = ended.err.splitlines()[-1]
    assert last == "ValueError: GORUN_SYSMON must be 'auto' or 'clock', not 'cl0ck'"


# --- its cost -------------------------------------------------------------------------------------


def test_an_idle_runtime_burns_nothing() -> None:
    """10 000 parked goroutines, for two seconds: no CPU time to speak of, in no thread.

    Mutation: sysmon without its deep sleep, or an idle M that polls.
    """

    async def naps() -> None:
        await gorun.sleep_async(3600)

    gs = gorun.go_many(lambda _: naps(), range(10_000))
    while gorun.stats().waiting < 10_000:
        time.sleep(0.01)
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(2.0)
    used = time.process_time() - before
    for g in gs:
        g.cancel()
    gorun.wait(gs, 30)
    # 0.1 % of two seconds is 2 ms; polls each 10 ms would cost about 10.
    assert used < 0.02


def test_one_sleeper_in_c_code_costs_little() -> None:
    """A goroutine in `time.sleep` and no other work: sysmon backs off.

    Mutation: `NAP_MAX` of 50 us (then about half a second).
    """
    g = go(time.sleep, 1.5)
    time.sleep(0.3)
    before = time.process_time()
    time.sleep(1.0)
    used = time.process_time() - before
    g.result(20)
    assert used < 10 * 0.01


def test_a_busy_ticker_costs_little() -> None:
    """A goroutine that wakes each millisecond does not keep sysmon at its shortest naps.

    Mutation: each kick restarts the back-off.
    """
    stop = False

    async def ticks() -> None:
        while not stop:
            await gorun.sleep_async(0.001)

    g = go(ticks)
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(1.0)
    used = time.process_time() - before
    stop = True
    g.result(20)
    assert used < 10 * 0.06


# --- threads that do not start --------------------------------------------------------------------

NO_THREADS = """
class Threads:
    '''threading, but for Thread.start while `fail` is set.'''
    fail = True
    tries = 0
    def __getattr__(self, name):
        return getattr(threading, name)
    def Thread(self, *args, **kwargs):
        Threads.tries += 1
        if Threads.fail:
            raise RuntimeError("can't start new thread")
        return threading.Thread(*args, **kwargs)
gorun._hooks.threading = Threads()
"""


def test_go_without_any_thread() -> None:
    """The first M cannot be started: RuntimeError with the reason; nothing is left, later it works.

    Mutation: `started()` ignores the answer (the goroutine would wait for ever), or `live` not taken back.
    """
    _child.run(
        NO_THREADS
        + """
class Arg:
    pass
import weakref
async def work(arg):
    return 1
for f in (
    lambda a: go(work, a), lambda a: go(abs, a), lambda a: gorun.spawn(work, (a,)),
    lambda a: gorun.go_many(work, [a]), lambda a: gorun.run(work, a), lambda a: gorun.Timer(0.01, lambda: a),
):
    arg = Arg()
    ref = weakref.ref(arg)
    try:
        f(arg)
    except RuntimeError as e:
        assert "can't start new thread" in str(e), e
    else:
        raise AssertionError("no error")
    del arg
    gc.collect()
    assert ref() is None
c = nap(0)
try:
    go(c)
except RuntimeError:
    pass
assert gorun.num_goroutine() == 0
assert gorun.stats().ms == 0
Threads.fail = False
assert go(c).result(20) is None
assert go(work, 1).result(20) == 1
"""
    )


def test_no_more_threads_beside_some() -> None:
    """With an M alive `go` never fails: goroutines queue and run, one warning says why, then it recovers.

    Mutation: `start_m` without `starting -= 1` on failure (no thread is ever started again).
    """
    ended = _child.run(
        """
        gorun.gomaxprocs(1)
        """
        + NO_THREADS.replace("\n", "\n        ")
        + """
        Threads.fail = False
        go(abs, -1).result(20)
        Threads.fail = True
        gorun.gomaxprocs(2)
        most = gorun.stats().ms
        for i in range(3):
            event = threading.Event()
            gs = [go(event.wait, 100) for _ in range(4)]
            time.sleep(0.05)
            late = gorun.go_many(nap, [0.001] * 50)
            time.sleep(0.05)
            event.set()
            for g in gs + late:
                g.result(20)
        assert gorun.stats().ms <= most
        print(Threads.tries > 1)
        Threads.fail = False
        event = threading.Event()
        gs = [go(event.wait, 100) for _ in range(8)]
        for _ in range(10):
            assert go(abs, -2).result(20) == 2
        end = time.monotonic() + 20
        while gorun.stats().ms < 9:
            assert time.monotonic() < end, gorun.stats()
            go(abs, -2).result(20)
        event.set()
        """,
        err=None,
    )
    assert ended.out == "True"
    assert ended.err.count("RuntimeWarning") == 1, ended.err
    assert "can't start new thread" in ended.err


def test_rlimit_nproc() -> None:
    """The kernel refuses threads (RLIMIT_AS as a stand-in where root has no RLIMIT_NPROC): the same.

    Mutation: a panic when sysmon's or the self-test's thread cannot be made.
    """
    _child.run(
        """
        import resource
        warnings.simplefilter("ignore")
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as f:
            pages = int(f.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 4_000_000, hard))
        try:
            go(abs, -1).result(20)
        except RuntimeError as e:
            print("refused")
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert go(abs, -1).result(20) == 1
        """
    )


# --- tracing --------------------------------------------------------------------------------------


def test_settrace_after_ms_started() -> None:
    """`threading.settrace` reaches Ms that run already, when they next come out of idleness.

    Mutation: `errands` without its look at the hooks.
    """
    ended = _child.run(
        """
        go(abs, -1).result(20)
        time.sleep(0.05)
        seen = set()
        def trace(frame, event, arg):
            seen.add(frame.f_code.co_name)
            return None
        threading.settrace(trace)
        def traced():
            return 1
        async def traced_async():
            return 1
        end = time.monotonic() + 20
        while not {"traced", "traced_async"} <= seen:
            assert time.monotonic() < end, seen
            go(traced).result(20)
            go(traced_async).result(20)
            time.sleep(0.01)
        threading.settrace(None)
        threading.setprofile(None)
        print("seen")
        """
    )
    assert ended.out == "seen"


def test_setprofile_after_ms_started() -> None:
    """The same for `threading.setprofile`.

    Mutation: only the trace hook is looked at.
    """
    ended = _child.run(
        """
        go(abs, -1).result(20)
        time.sleep(0.05)
        seen = set()
        threading.setprofile(lambda frame, event, arg: seen.add(frame.f_code.co_name))
        def profiled():
            return 1
        end = time.monotonic() + 20
        while "profiled" not in seen:
            assert time.monotonic() < end, seen
            go(profiled).result(20)
            time.sleep(0.01)
        threading.setprofile(None)
        print("seen")
        """
    )
    assert ended.out == "seen"


def test_ms_started_under_a_trace_have_it() -> None:
    """Ms that start while `threading.settrace` is in force are traced from the first goroutine on.

    Mutation: `m_started` without `sync_trace`, and threads not made by `threading`.
    """
    ended = _child.run(
        """
        seen = set()
        threading.settrace(lambda frame, event, arg: seen.add(frame.f_code.co_name))
        def traced():
            return 1
        go(traced).result(20)
        threading.settrace(None)
        print("traced" in seen)
        """
    )
    assert ended.out == "True"


# --- small limits ---------------------------------------------------------------------------------


def test_few_descriptors() -> None:
    """RLIMIT_NOFILE is met by probes: Ms without one go by the clock; sockets of the user still open.

    Mutation: `Probe::open_current` panics without a descriptor.
    """
    _child.run(
        """
        import resource
        go(abs, -1).result(20)
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, 4096))
        event = threading.Event()
        gs = [go(event.wait, 100) for _ in range(30)]
        for _ in range(10):
            assert go(abs, -2).result(20) == 2
        event.set()
        for g in gs:
            g.result(20)
        async def work(i):
            await gorun.sleep_async(0.001)
            return i
        assert [g.result(20) for g in gorun.go_many(work, range(100))] == list(range(100))
        """
    )


def test_probes_close_their_descriptors() -> None:
    """Ms that ended hold none.

    Mutation: the probe is not dropped at an M's end.
    """
    _child.run(
        """
        def fds():
            return len(os.listdir("/proc/self/fd"))
        before = fds()
        for _ in range(3):
            event = threading.Event()
            gs = [go(event.wait, 100) for _ in range(10)]
            for _ in range(10):
                go(abs, -2).result(20)
            event.set()
            for g in gs:
                g.result(20)
            assert gorun.shutdown(20)
        assert fds() <= before, (before, fds())
        """
    )


def test_a_tiny_switch_interval() -> None:
    """`sys.setswitchinterval(1e-6)` shakes a GIL build: everything still holds.

    Mutation: none in particular; a race finder.
    """
    _child.run(
        """
        sys.setswitchinterval(1e-6)
        async def work(i):
            await gorun.sleep_async(0.0005)
            await gorun.gosched_async()
            return i
        def plain(i):
            time.sleep(0.0005)
            return i
        for _ in range(5):
            gs = gorun.go_many(work, range(100)) + gorun.go_many(plain, range(20))
            assert [g.result(30) for g in gs] == [*range(100), *range(20)]
        """
    )
