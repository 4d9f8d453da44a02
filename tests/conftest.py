"""What every test gets: a number of Ps, a leak check, a watched excepthook, a hang limit.

Each test runs with 1 and with 2 Ps (GORUN_TEST_MATRIX=full, the default) or with 2 only ("one").
After it, within SETTLE seconds, there must be no more goroutines, threads or gorun objects than
before it, and no error may have reached `gorun.excepthook` that the test did not take. What is
found is reported as an error of the test's teardown.

Marks: `no_matrix` for tests that do not depend on Ps, `leaky_ok` for those that leave things behind
on purpose.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import itertools
import os
import signal
import sys
import sysconfig
import threading
import time
import types
from collections import Counter, deque
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_timeout

import gorun
from gorun._proc import warm

SETTLE = 5.0
"""How long what a test started may take to end. Generous: only tests that leak wait for it."""

OWN_THREADS = ("gorun-m", "gorun-sysmon")
"""Threads that the runtime keeps between tests: idle Ms and the monitor."""

CACHED = frozenset(
    {
        "gorun._hooks._NoWait",  # one per M, as long as its thread lives
        "gorun._proc.worker.Worker",  # idle, for the next map, with what it consists of
        "gorun._proc.wire.Wire",
        "gorun._proc.linked.ParentEnd",
        "gorun._gorun._Link",
        "gorun._proc.start.Ends",
    }
)
"""Types whose instances the runtime keeps for later use. Say why beside each."""

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""There a collection walks the whole heap, frozen or not: one for each test only if it is needed."""

WATCHDOG_GRACE = 15.0
"""Seconds from the hang limit to the end of the process without the interpreter's help."""

MATRIX = {"full": (1, 2), "one": (2,)}

TASKS = Path("/proc/self/task")

FAILED = pytest.StashKey[bool]()
STDERR = pytest.StashKey[int]()
TESTS = pytest.StashKey[Iterator[int]]()

hypothesis.settings.register_profile("gorun", deadline=None, print_blob=True)
hypothesis.settings.load_profile("gorun")


# --- The number of Ps -----------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the test once for each number of Ps."""
    once = metafunc.definition.get_closest_marker("no_matrix")
    if "maxprocs" in metafunc.fixturenames and not once:
        name = os.environ.get("GORUN_TEST_MATRIX", "full")
        if name not in MATRIX:
            raise pytest.UsageError(f"GORUN_TEST_MATRIX={name}; known are {', '.join(MATRIX)}")
        counts = MATRIX[name]
        metafunc.parametrize("maxprocs", counts, indirect=True, ids=[f"P{n}" for n in counts])


@pytest.fixture(autouse=True)
def maxprocs(request: pytest.FixtureRequest, hook_errors: HookErrors) -> Iterator[int]:
    """The number of Ps that this test runs with; what it leaves behind is checked when it ends."""
    count = getattr(request, "param", max(MATRIX["one"]))
    usual = gorun.gomaxprocs(count)
    before = Snapshot()
    yield count
    gorun.gomaxprocs(usual)
    # Other fixtures' values would live here until after this; they have been torn down by now.
    if request.node.funcargs is not None:  # None after a Ctrl-C
        request.node.funcargs.clear()
    problems = []
    if not request.node.get_closest_marker("leaky_ok"):
        # The traceback of a failed test holds its frame, and so everything the test made.
        failed = request.node.stash.get(FAILED, False)
        problems = before.leaks(compare_objects=not failed)
    if left := hook_errors.left():
        problems.append("errors that reached gorun.excepthook and that the test did not take:")
        problems += [f"  {e.exc_type.__name__}: {e.exc_value}" for e in left]
        left.clear()
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
    _settle(request.config.stash[TESTS])


def _settle(tests: Iterator[int]) -> None:
    """What pytest keeps of each test would make every collection a little slower than the last."""
    if next(tests) % 32 == 0:
        gc.freeze()


# --- Errors that nobody took ----------------------------------------------------------------------


class HookErrors:
    """The errors that reached `gorun.excepthook` during this test, in order of arrival.

    A destructor may call the hook, on any thread and at any allocation: it takes no lock.
    """

    def __init__(self) -> None:
        self._errors: deque[Any] = deque()

    def __call__(self, args: Any, /) -> None:
        self._errors.append(args)

    def take(self, n: int = 1, timeout: float = 10.0) -> list[Any]:
        """Waits for `n` errors and takes them; each has the fields of the hook's argument."""
        limit = time.monotonic() + timeout
        while len(self._errors) < n:
            if time.monotonic() > limit:
                pytest.fail(f"{len(self._errors)} of {n} errors came to excepthook in {timeout} s")
            time.sleep(0.001)
        return [self._errors.popleft() for _ in range(n)]

    def left(self) -> list[Any]:
        """Takes whatever is there."""
        return [self._errors.popleft() for _ in range(len(self._errors))]


@pytest.fixture
def hook_errors() -> Iterator[HookErrors]:
    """Takes the errors that the test expects: `[error] = hook_errors.take()`. Others fail it."""
    errors = HookErrors()
    usual = gorun.excepthook
    gorun.excepthook = errors
    yield errors
    gorun.excepthook = usual


# --- Leaks ----------------------------------------------------------------------------------------


class Snapshot:
    """What is alive at one moment: goroutines, threads, processes, gorun's objects, coroutines."""

    def __init__(self) -> None:
        self.goroutines = gorun.num_goroutine()
        self.threads = set(threading.enumerate())
        self.tasks = _tasks()
        self.children = _children()
        self.memories = _memories() - len(warm.idle_pids())  # each has one page
        self.objects = _objects()

    def leaks(self, *, compare_objects: bool) -> list[str]:
        """What is alive now and was not then, in words. Waits up to SETTLE for there to be none."""
        limit = time.monotonic() + SETTLE
        collect = not FREE_THREADED
        while True:
            if collect:
                gc.collect()
            collect = True
            found = [*self._goroutines(), *self._threads(), *self._processes()]
            if compare_objects:
                found += self._objects()
            if not found or time.monotonic() > limit:
                return found
            time.sleep(0.01)

    def _goroutines(self) -> Iterator[str]:
        extra = gorun.num_goroutine() - self.goroutines
        if extra > 0:
            yield f"{extra} goroutines more than before the test; alive are:"
            yield from (f"  {info}" for info in gorun.goroutines())

    def _threads(self) -> Iterator[str]:
        alive = threading.enumerate()
        for thread in alive:
            if thread not in self.threads and not thread.name.startswith(OWN_THREADS):
                yield f"a thread is left: {thread!r}"
        known = {thread.native_id for thread in alive}
        for task, name in _tasks().items():
            if task not in self.tasks and task not in known and not name.startswith(OWN_THREADS):
                yield f"a thread is left that Python does not know: {name!r} ({task})"

    def _processes(self) -> Iterator[str]:
        # multiprocessing's tracker stays, once it was needed.
        kept = {*warm.idle_pids(), resource_tracker._resource_tracker._pid}
        for child in _children() - self.children - kept:
            yield f"a process is left: {child}"
        if (extra := _memories() - len(warm.idle_pids()) - self.memories) > 0:
            yield f"{extra} pieces of shared memory more than before the test"

    def _objects(self) -> Iterator[str]:
        for name, count in (_objects() - self.objects).items():
            if name not in CACHED:
                yield f"{count} {name} more than before the test"


def _tasks() -> dict[int, str]:
    """The kernel's threads of this process, where it lists them: identity to name."""
    tasks = {}
    for task in TASKS.iterdir() if TASKS.is_dir() else ():
        try:
            tasks[int(task.name)] = (task / "comm").read_text().strip()
        except OSError:  # it has ended
            continue
    return tasks


def _children() -> set[int]:
    """The processes that this one has started, the ended that nobody waited for included."""
    children: set[int] = set()
    for task in TASKS.iterdir() if TASKS.is_dir() else ():
        try:
            children.update(map(int, (task / "children").read_text().split()))
        except OSError:  # it has ended
            continue
    return children


def _memories() -> int:
    """How many pieces of memory this process shares with workers."""
    count = 0
    for name in os.listdir("/proc/self/fd") if TASKS.is_dir() else ():
        with contextlib.suppress(OSError):  # it was the listing's own
            count += os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:gorun")
    return count


def _objects() -> Counter[str]:
    """How many of gorun's objects, coroutines and asynchronous generators the collector sees."""
    count: Counter[str] = Counter()
    for kind, number in Counter(map(type, gc.get_objects())).items():
        if kind in (types.CoroutineType, types.AsyncGeneratorType):
            count[kind.__name__] += number
        elif str(kind.__module__).partition(".")[0] == "gorun":
            count[f"{kind.__module__}.{kind.__qualname__}"] += number
    return count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers that the test failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


def pytest_sessionstart() -> None:
    """Refuses a free-threaded interpreter whose lock was switched on by an import."""
    if FREE_THREADED and sys._is_gil_enabled():
        raise pytest.UsageError("importing gorun enabled the GIL of a free-threaded interpreter")


def pytest_collection_finish() -> None:
    """What the tests' modules made stays: the collector need not look at it after each test."""
    gc.collect()
    gc.freeze()


# --- Hangs ----------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Keeps a way to the real standard error, which each test redirects; and counts the tests."""
    config.stash[STDERR] = os.dup(sys.stderr.fileno())
    config.stash[TESTS] = itertools.count(1)
    # A shell's background job ignores it, and so would each child.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool | None:
    """At the limit: goroutines, pytest-timeout's stacks, exit. Later: exit, come what may."""
    if settings.method != "thread" or pytest_timeout.is_debugging():
        return None

    def expire() -> None:
        with open(item.config.stash[STDERR], "w", closefd=False) as stderr:
            print(f"\n{item.nodeid} exceeded {settings.timeout} s", file=stderr, flush=True)
            try:
                gorun.dump(file=stderr)
            except Exception as error:
                print(f"no list of goroutines: {error!r}", file=stderr, flush=True)
        pytest_timeout.timeout_timer(item, settings)

    def cancel() -> None:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()
        timer.join()

    timer = threading.Timer(settings.timeout, expire)
    timer.name = f"hang limit of {item.nodeid}"
    timer.daemon = True
    item.cancel_timeout = cancel  # where pytest-timeout looks for it
    timer.start()
    # This one runs in a thread of its own that never waits for the interpreter.
    faulthandler.dump_traceback_later(
        settings.timeout + WATCHDOG_GRACE, exit=True, file=item.config.stash[STDERR]
    )
    return True


def pytest_enter_pdb() -> None:
    """Somebody is looking: no hurry."""
    faulthandler.cancel_dump_traceback_later()
