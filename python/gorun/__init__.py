"""Go's scheduler for Python.

Layout: the extension ``_gorun`` (Rust) holds the scheduler, channels and the hot calls; ``_runtime``
what is easier in Python; ``_sync`` and ``_cond`` locks and counters; ``_ticker``, ``_timeout``,
``_groups``, ``_context``, ``_once``, ``_pool``, ``_every``, ``_leaks`` what their names say;
``_joining`` waiting for several; ``_map`` the parallel map, ``_proc``
its worker processes, ``_executor``; ``_errors`` the exceptions; ``_hooks`` what
the extension calls back; ``_settings`` the environment. This file only re-exports.
"""

from gorun import _gorun as _gorun  # in a worker process it is there before
from gorun import _runtime as _runtime
from gorun._cond import Barrier, Cond
from gorun._context import Context, background
from gorun._errors import (
    Cancelled,
    ChannelClosed,
    ContextDone,
    Deadlock,
    GoroutineCancelled,
    GoroutineLeak,
    GorunError,
    PartialSend,
    ThreadLimit,
    WorkerDied,
    WouldBlock,
)
from gorun._every import Job, every, heartbeat, jobs
from gorun._executor import Executor
from gorun._gorun import (
    Chan,
    Goroutine,
    Mutex,
    RecvChan,
    SendChan,
    Timer,
    __version__,
    after,
    current,
    go,
    go_many,
    gosched,
    gosched_async,
    num_goroutine,
    recv,
    select,
    select_async,
    send,
    sleep,
    sleep_async,
)
from gorun._groups import Group
from gorun._hooks import ExceptHookArgs, excepthook
from gorun._joining import as_completed, as_completed_async, wait, wait_async
from gorun._leaks import check_leaks, dump
from gorun._map import map as map  # not in __all__: `from gorun import *` leaves the built-in one
from gorun._map import map_async as map_async
from gorun._once import Once, SingleFlight, once
from gorun._pool import Pool
from gorun._runtime import (
    GoroutineInfo,
    PStats,
    Stats,
    blocking,
    configure,
    gomaxprocs,
    goroutines,
    run,
    shield,
    shutdown,
    spawn,
    stats,
)
from gorun._selected import Selected
from gorun._sync import Event, RWMutex, Semaphore, WaitGroup
from gorun._ticker import Ticker
from gorun._timeout import timeout

_runtime._install()

__all__ = [
    "Barrier",
    "Cancelled",
    "Chan",
    "ChannelClosed",
    "Cond",
    "Context",
    "ContextDone",
    "Deadlock",
    "Event",
    "ExceptHookArgs",
    "Executor",
    "Goroutine",
    "GoroutineCancelled",
    "GoroutineInfo",
    "GoroutineLeak",
    "GorunError",
    "Group",
    "Job",
    "Mutex",
    "Once",
    "PStats",
    "PartialSend",
    "Pool",
    "RWMutex",
    "RecvChan",
    "Selected",
    "Semaphore",
    "SendChan",
    "SingleFlight",
    "Stats",
    "ThreadLimit",
    "Ticker",
    "Timer",
    "WaitGroup",
    "WorkerDied",
    "WouldBlock",
    "__version__",
    "after",
    "as_completed",
    "as_completed_async",
    "background",
    "blocking",
    "check_leaks",
    "configure",
    "current",
    "dump",
    "every",
    "excepthook",
    "go",
    "go_many",
    "gomaxprocs",
    "goroutines",
    "gosched",
    "gosched_async",
    "heartbeat",
    "jobs",
    "num_goroutine",
    "once",
    "recv",
    "run",
    "select",
    "select_async",
    "send",
    "shield",
    "shutdown",
    "sleep",
    "sleep_async",
    "spawn",
    "stats",
    "timeout",
    "wait",
    "wait_async",
]

for _cls in (
    *(GorunError, *GorunError.__subclasses__(), Cancelled),
    *(ExceptHookArgs, GoroutineInfo, PStats, Stats, blocking, shield),
    *(Context, Executor, Group, Job, Once, Pool, SingleFlight, check_leaks, timeout),
):
    _cls.__module__ = "gorun"
del _cls
