"""What travels how, and who is to blame if it cannot.

Plain pickle where it does: by reference, fast. cloudpickle (by value) for lambdas, closures, and for
what belongs to `__main__` or to a module that a worker cannot import: there is no such module there,
or another one. A pickle that names such a module is made again by value (wire.py, byvalue.py). Which those
are is found in what a function's pickle names, by value or by reference; for items, when a worker
could not unpickle one.

Exceptions keep their type and get the worker's traceback as `__cause__` (errors.py). Where one cannot
be sent, or cannot be unpickled after all, a RuntimeError names it.
"""

from __future__ import annotations

import functools
import pickle
import pickletools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

from gorun import _settings
from gorun._proc import errors, start, wire
from gorun._proc.errors import shown

_registering = threading.Lock()


class RemoteTraceback(Exception):
    """The `__cause__` of an exception of a worker process: `tb` is the traceback's text there."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


def goes_by_value(fn: Callable[..., Any]) -> bool:
    """Whether `fn` is the first one to be sent by value, as far as that can be told at once."""
    if "cloudpickle" in sys.modules:
        return False
    inner = "<" in getattr(fn, "__qualname__", "")  # a lambda, or of a function
    return inner or getattr(fn, "__module__", None) == "__main__"


class Codec:
    """Packs for workers, by one map's or one pool's knowledge of what they cannot import."""

    def __init__(self, *functions: Callable[..., Any] | None) -> None:
        self._seen: set[str] = set()
        self._modules: list[ModuleType] = []
        self.by_value: tuple[bytes, ...] = (b"__main__",)
        for fn in functions:
            self.learn(fn)

    def learn(self, fn: Callable[..., Any] | None) -> None:
        """Finds out what a worker could not import for `fn`."""
        name = getattr(fn, "__module__", None)
        if fn is None or (name in self._seen and not isinstance(fn, functools.partial)):
            return
        if isinstance(name, str):
            self._seen.add(name)
        for module in _out_of_reach([fn]):
            if module not in self._modules:
                self._modules.append(module)
                self.by_value = (*self.by_value, module.__name__.encode())

    def learn_from(self, data: bytes) -> bool:
        """Finds out what a worker could not import for a pickle; True if that is news."""
        known = len(self._modules)
        for name in _strings(data):
            module = sys.modules.get(name)
            if module is not None and name not in self._seen and name != "__main__":
                self._seen.add(name)
                if not _in_reach(name, module):
                    self._modules.append(module)
                    self.by_value = (*self.by_value, name.encode())
        return len(self._modules) > known

    def dumps_all(self, thing: Any) -> tuple[bytes, list[memoryview]]:
        """As `dumps`, with all that it names, and what that names in turn."""
        while True:
            packed = self.dumps(thing)
            if not self.learn_from(packed[0]):
                return packed

    def dumps_plain(self, thing: Any) -> bytes | None:
        """As `dumps`, of what has no buffers; None where plain pickle is not enough."""
        if self._modules:
            return None
        try:
            data = pickle.dumps(thing, 5)
        except Exception:
            return None
        for name in self.by_value:
            if name in data:
                return None
        return data

    def dumps(self, thing: Any) -> tuple[bytes, list[memoryview]]:
        """The pickle of `thing` and its large buffers."""
        if not self._modules:
            return wire.dumps(thing, self.by_value)
        with _by_value(self._modules):
            return wire.dumps(thing, self.by_value)

    def whole(self, thing: Any) -> bytes:
        """The pickle of `thing` with its buffers in it."""
        if not self._modules:
            return wire.whole(thing, self.by_value)
        with _by_value(self._modules):
            return wire.whole(thing, self.by_value)

    def job(
        self,
        fn: Callable[..., Any] | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        *,
        star: bool = False,
        retries: int = 0,
    ) -> tuple[bytes, list[memoryview]]:
        """What a worker is to do; `fn` None: calls that bring their function along."""
        try:
            packed, buffers = self.dumps_all((fn, initializer, initargs))
        except Exception:
            for what, thing in (
                ("function", fn),
                ("initializer", initializer),
                *((f"initargs[{place}]", argument) for place, argument in enumerate(initargs)),
            ):
                self._blame(f"the {what} {shown(thing)}", thing)
            raise
        plain = {
            "by_value": self.by_value,
            "star": star,
            "retries": retries,
            "growth": _settings.worker_growth(),
        }
        return pickle.dumps((plain, packed)), buffers

    def _blame(self, name: str, thing: Any) -> None:
        try:
            self.dumps(thing)
        except Exception as error:
            raise unsendable(name, error) from error


def unsendable(name: str, error: Exception) -> Exception:
    """What is raised for something that cannot be pickled: `error`'s own type, with its name."""
    text = f"{name} cannot be sent to a worker process: {error}"
    kind = type(error)
    plain = kind in (TypeError, AttributeError, ValueError, RecursionError)
    return kind(text) if plain else pickle.PicklingError(text)


def unpack_error(packed: tuple[str, Any, Any, str], name: str) -> BaseException:
    """The exception that a worker sent, for the item called `name`."""
    kind, first, second, text = packed
    error: BaseException
    if kind == "unsent":
        kinds = (TypeError, AttributeError, ValueError, RecursionError, SystemExit)
        types: dict[str, type[BaseException]] = {t.__name__: t for t in kinds}
        error = types.get(first, pickle.PicklingError)(
            f"the result of {name} cannot be sent back from the worker process: {second}"
        )
    elif kind == "text":
        error = RuntimeError(f"{name} raised {first}, which cannot be pickled: {second}")
    else:
        try:
            if kind == "whole":
                error = pickle.loads(first)
            else:
                members = second and [unpack_error(one, name) for one in second]
                error = errors.unpack(first, members)
        except Exception as why:
            last = text.strip().rpartition("\n")[2]
            error = RuntimeError(f"{name} raised {last}, which cannot be unpickled: {why!r}")
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error


def _out_of_reach(things: Iterable[Any]) -> list[ModuleType]:
    """The modules of functions that a worker could not import."""
    found: dict[str, ModuleType] = {}
    pending = list(things)
    while pending:
        thing = pending.pop()
        while isinstance(thing, functools.partial):
            pending += [*thing.args, *thing.keywords.values()]
            thing = thing.func
        thing = getattr(thing, "__wrapped__", thing)
        name = getattr(thing, "__module__", None) or type(thing).__module__
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is not None and name != "__main__" and not _in_reach(name, module):
            found[name] = module
    return list(found.values())


def _strings(data: bytes) -> set[str]:
    """The strings in a pickle: the names of its modules are among them."""
    return {arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)}


def _in_reach(name: str, module: ModuleType) -> bool:
    """Whether a worker that imports `name` gets the same module."""
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin in ("built-in", "frozen"):
        return True
    path: Any = None
    origin: str | None = None
    for at, _ in enumerate(parts := name.split(".")):
        full = ".".join(parts[: at + 1])
        try:
            seen = PathFinder.find_spec(full, path)
        except Exception:
            return False
        if seen is None:
            # An editable install finds it, in the worker as here; anything else may not be there.
            return spec is not None and start.needs_site()
        path, origin = seen.submodule_search_locations, seen.origin
    return origin is None or origin == getattr(module, "__file__", None)


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    """Has cloudpickle take what is in `modules` by value."""
    import cloudpickle

    with _registering:
        known = cloudpickle.list_registry_pickle_by_value()
        new = [module for module in modules if module.__name__ not in known]
        for module in new:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in new:
                cloudpickle.unregister_pickle_by_value(module)
