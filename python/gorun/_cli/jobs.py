"""The jobs of `python -m gorun map`: what is done with each file.

`parse` is pure Python: it needs cores and an interpreter on each of them. `hash` lets go of the
interpreter: threads do. Functions and results travel between processes, so both are of this module.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import hashlib
import os
import stat
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple


class Digest(NamedTuple):
    """What was found of one file; with an `error`, nothing."""

    path: str
    size: int = 0  # bytes
    packed: int = 0  # bytes after zlib, at its usual level
    sha256: str = ""
    error: str = ""


class Parsed(NamedTuple):
    """What one file of Python consists of; with an `error`, it is none."""

    path: str
    size: int = 0  # bytes
    nodes: int = 0  # of the syntax tree
    names: int = 0  # different ones
    error: str = ""


def read(path: str) -> bytes:
    """What is in a file; OSError also where it is none that ends, as a pipe or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(
            errno.EINVAL, "not a regular file"
        )  # to open a FIFO would wait for its writer
    return Path(path).read_bytes()


def digest(path: str) -> Digest:
    """Reads, compresses and hashes one file."""
    try:
        data = read(path)
    except OSError as error:
        return Digest(path, error=error.strerror or repr(error))
    return Digest(path, len(data), len(zlib.compress(data)), hashlib.sha256(data).hexdigest())


def parse(path: str) -> Parsed:
    """Reads and parses one file, and walks over its tree."""
    _be_quiet()
    try:
        data = read(path)
        tree = _tree(data)
    except OSError as error:
        return Parsed(path, error=error.strerror or repr(error))
    except (SyntaxError, ValueError) as error:
        return Parsed(path, error=f"{type(error).__name__}: {error}")
    except (MemoryError, RecursionError):  # which of them depends on how deep the caller is
        return Parsed(path, error="nested too deeply for the parser")
    nodes, names = 0, set()
    for node in ast.walk(tree):
        nodes += 1
        if isinstance(node, ast.Name):
            names.add(node.id)
    return Parsed(path, len(data), nodes, len(names))


def _tree(data: bytes) -> ast.Module:
    """``ast.parse``, one thread at a time where the GIL lets no more through anyway.

    Before 3.13 all threads of an interpreter share the parser's recursion counter (gh-106905): a
    switch of threads in the middle of it ends in a SystemError.
    """
    with _TURN:
        return ast.parse(data)


_TURN = threading.Lock() if sys.version_info < (3, 13) else contextlib.nullcontext()


@functools.cache
def _be_quiet() -> None:
    """Old files have escapes that are none; here nobody wants to know."""
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="invalid escape")


class Job(NamedTuple):
    """What `--job` chooses."""

    run: Callable[[str], Any]  # gives a tuple with path, size and error
    told: str
    suffix: str  # of the files that are looked for in folders; "" for all
    on: Literal["thread"] | None  # where `gorun.map` does it


JOBS = {
    "parse": Job(parse, "parsed by ast, its nodes and names counted", ".py", None),
    "hash": Job(digest, "compressed by zlib, hashed by sha256", "", "thread"),
}
