"""Go's scheduler for Python.

Layout: the extension ``_gorun`` (Rust) holds the scheduler and the hot calls; ``_runtime`` what is
easier in Python; ``_joining`` waiting for several; ``_map`` the parallel map; ``_executor`` the
executors; ``_errors`` the exceptions; ``_hooks`` what the extension calls back; ``_settings`` the
environment. This file only re-exports.
"""

from gorun import _runtime as _runtime
from gorun._errors import (
    Cancelled,
    ChannelClosed,
    ContextDone,
    Deadlock,
    GoroutineCancelled,
    GoroutineLeak,
    GorunError,
    ThreadLimit,
    WorkerDied,
    WouldBlock,
)
from gorun._executor import Executor
from gorun._gorun import (
    Goroutine,
    Timer,
    __version__,
    current,
    go,
    go_many,
    gosched,
    gosched_async,
    num_goroutine,
    sleep,
    sleep_async,
)
from gorun._hooks import ExceptHookArgs, excepthook
from gorun._joining import as_completed, as_completed_async, wait, wait_async
from gorun._map import map as map  # not in __all__: `from gorun import *` leaves the built-in one
from gorun._map import map_async as map_async
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

_runtime._install()

__all__ = [
    "Cancelled",
    "ChannelClosed",
    "ContextDone",
    "Deadlock",
    "ExceptHookArgs",
    "Executor",
    "Goroutine",
    "GoroutineCancelled",
    "GoroutineInfo",
    "GoroutineLeak",
    "GorunError",
    "PStats",
    "Stats",
    "ThreadLimit",
    "Timer",
    "WorkerDied",
    "WouldBlock",
    "__version__",
    "as_completed",
    "as_completed_async",
    "blocking",
    "configure",
    "current",
    "excepthook",
    "go",
    "go_many",
    "gomaxprocs",
    "goroutines",
    "gosched",
    "gosched_async",
    "num_goroutine",
    "run",
    "shield",
    "shutdown",
    "sleep",
    "sleep_async",
    "spawn",
    "stats",
    "wait",
    "wait_async",
]

for _cls in (
    *(GorunError, *GorunError.__subclasses__(), Cancelled),
    *(ExceptHookArgs, Executor, GoroutineInfo, PStats, Stats, blocking, shield),
):
    _cls.__module__ = "gorun"
del _cls
