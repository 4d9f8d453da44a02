"""How a worker process is started: posix_spawn of this interpreter, lean, with its ends of the pipes.

Never a bare fork: threads of the parent may hold any lock at that moment. The interpreter starts
without `site` (a third of the time), and is told the parent's `sys.path`; `site` runs where import
hooks of editable installs have to be. PYTHONHASHSEED and the other variables of the environment
hold for the worker too. Threads of BLAS and OpenMP are limited, as nothing can limit them later.
SIGINT is blocked from before the start until the worker ignores it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import NamedTuple, TypeAlias

from gorun import _gorun
from gorun._gorun import _Link
from gorun._proc import wire
from gorun._settings import usable_cpus

HERE = os.path.dirname(__file__)
EXTENSION = str(_gorun.__file__)
# Loads the two files that a worker needs, with their cached byte code, and nothing else of gorun; they load the
# extension, for the rings.
BOOT = """\
import sys
from _frozen_importlib_external import SourceFileLoader
def load(name, path):
    sys.modules[name] = module = type(sys)(name)
    module.__file__ = path
    SourceFileLoader(name, path).exec_module(module)
    return module
load("_gorun_wire", sys.argv[1])
load("_gorun_child", sys.argv[2]).main(*sys.argv[3:])
"""
INNER_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "GOMAXPROCS",  # of gorun in the worker: a map inside a map takes its share
)


class Ends(NamedTuple):
    """The parent's side of a worker that was started."""

    pid: int
    sock: socket.socket
    lifeline: int  # closed: the worker is killed
    control: int
    tokens: tuple[int, int] | None  # both ends; there are no rings
    memory: int | None  # the page and the rings


# How many threads a worker may keep busy inside its libraries; whether who uses us asked for that:
# else the environment knows better.
Share: TypeAlias = tuple[int, bool]


def share_of(workers: int, asked: int | None) -> Share:
    """What one of so many workers may have."""
    return (max(1, usable_cpus() // workers), False) if asked is None else (asked, True)


def start(share: Share) -> Ends:
    """Starts a worker. OSError: it failed."""
    if not sys.executable:
        raise OSError("sys.executable is not set: there is no interpreter to start workers with")
    with ExitStack() as ours, ExitStack() as others:  # closed where it fails; closed in any case
        mine, its = socket.socketpair()
        ours.callback(mine.close)
        others.callback(its.close)
        life_out, life_in = _pipe(others, ours)
        control_out, control_in = _pipe(others, ours)
        tokens = None
        memory = wire.memory(wire.PAGE + _Link.SIZE)
        if memory is not None:
            ours.callback(os.close, memory)
            either = memory
        else:
            tokens = either, token_in = _pipe(ours, ours)
            os.set_blocking(either, False)
            os.set_blocking(token_in, False)
        mine.setblocking(False)
        given = [its.fileno(), life_out, control_out, either]
        program = [*(os.path.join(HERE, name) for name in ("wire.py", "child.py")), EXTENSION]
        numbers = [str(fd) for fd in given]
        pid = os.posix_spawn(
            sys.executable,
            [*_command(), *program, *numbers, "memory" if tokens is None else "tokens"],
            _environment(share),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                # Onto itself: that alone makes it inheritable, and in the child only.
                *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in given),
            ],
            setsigmask=[signal.SIGINT],
        )
        ours.pop_all()
    return Ends(pid, mine, life_in, control_in, tokens, memory)


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """A pipe, whose ends belong to those two."""
    out, into = os.pipe()
    reader.callback(os.close, out)
    writer.callback(os.close, into)
    return out, into


def _command() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, *([] if needs_site() else ["-S"]), "-s", "-P", "-c", BOOT]


def needs_site() -> bool:
    """Whether imports go through hooks that only `site` installs."""
    return any("editable" in _module_of(finder) for finder in sys.meta_path)


def _module_of(finder: object) -> str:
    module = getattr(finder, "__module__", "") or ""
    return f"{module} {getattr(finder, '__name__', type(finder).__name__)}".lower()


def _environment(share: Share) -> dict[str, str]:
    threads, asked = share
    ours = dict.fromkeys(INNER_THREADS, str(threads))
    return {**os.environ, **ours} if asked else {**ours, **os.environ}


def setup(name: str, share: Share) -> dict[str, object]:
    """What a worker is told first."""
    try:
        here = os.getcwd()
    except OSError:  # it has been removed; the worker is there, too
        here = None
    return {
        "name": name[:15],
        "cwd": here,
        "authkey": _authkey(),
        "environ": _environment(share),
        "sys": {
            "path": list(sys.path),
            "prefix": sys.prefix,
            "exec_prefix": sys.exec_prefix,
            "argv": list(sys.argv),
            "dont_write_bytecode": sys.dont_write_bytecode,
        },
    }


def _authkey() -> bytes | None:
    """What a proxy of a `multiprocessing` manager shows to its manager; None where there is none."""
    if "multiprocessing.managers" not in sys.modules:
        return None
    from multiprocessing import process

    return bytes(process.current_process().authkey)  # its own type refuses to be pickled
