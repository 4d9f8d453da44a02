"""cloudpickle, and what it leaves out: things that notebooks and scripts are full of.

What belongs to a module that the other side does not have goes by value. cloudpickle knows functions
and classes; these it would send by name, or wrongly, or not at all: functions with a cache,
`cached_property`, `singledispatch`, `NewType`, `type` aliases, classes with `__slots__`.

Each is pickled as the calls that make it again, of public functions of the standard library: who
unpickles it needs cloudpickle, and nothing of gorun.

Loaded where something is pickled by value for the first time: by the parent as a module of gorun, in a
worker beside wire.py, without gorun.
"""

from __future__ import annotations

import functools
import io
import operator
import sys
import typing
from collections import ChainMap
from types import FunctionType

import cloudpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

_SINGLE: Any = functools.singledispatch(lambda _: None)
_MAKE_CLASS = getattr(cloudpickle.cloudpickle, "_make_skeleton_class", None)
_ALIAS: Any = getattr(typing, "TypeAliasType", None)  # 3.12+


def dumps(thing: Any, buffer_callback: Callable[[Any], Any] | None) -> bytes:
    """The pickle of `thing`, by value where that is needed."""
    with io.BytesIO() as file:
        Pickler(file, 5, buffer_callback=buffer_callback).dump(thing)
        return file.getvalue()


class _Call:
    """Stands in a pickle for what the call of `fn` gives. It may be called, as if it were that."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self.made = fn, args

    def __call__(self) -> None:
        """Never: pickle wants something that looks callable."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


def _cached(fn: Any) -> Any:
    if _in_reach(fn):
        return fn.__reduce__()
    how = fn.cache_parameters()
    make: Any = _Call(functools.lru_cache, how["maxsize"], how["typed"])
    return make, (fn.__wrapped__,)


def _cached_property(thing: Any) -> Any:
    return functools.cached_property, (thing.func,), {"attrname": thing.attrname}


def _new_type(thing: Any) -> Any:
    if _in_reach(thing):
        return thing.__reduce__()
    made = thing.__qualname__, thing.__supertype__
    return typing.NewType, made, {"__module__": thing.__module__}


def _alias(thing: Any) -> Any:
    if _in_reach(thing):
        return thing.__reduce__()
    value, params = thing.__value__, thing.__type_params__
    return functools.partial(_ALIAS, thing.__name__, value, type_params=params), ()


def _single(fn: Any) -> Any:
    return _dispatching(_Call(functools.singledispatch, fn.registry[object]), fn)


def _single_method(method: Any) -> Any:
    """Without its cache: that of 3.13.0 holds weak references."""
    return _dispatching(_Call(functools.singledispatchmethod, method.func), method.dispatcher)


def _dispatching(made: Any, fn: Any) -> Any:
    """`made`, with all that is registered with `fn`."""
    register = _Call(getattr, made, "register")
    more = [_Call(register, kind, one) for kind, one in fn.registry.items() if kind is not object]
    return operator.getitem, ((made, *more), 0)


def _with_slots(kind: type, made: Any) -> Any:
    """How cloudpickle makes a class, with its slots: they cannot be added to one that is there."""
    make, (meta, name, bases, body, *rest), *how = made
    slots = vars(kind)["__slots__"]
    body = {**body, "__slots__": slots if isinstance(slots, str) else tuple(slots)}
    return make, (meta, name, bases, body, *rest), *how


def _is_by_value(made: Any) -> bool:
    return type(made) is tuple and made[0] is _MAKE_CLASS


def _in_reach(thing: Any) -> bool:
    """Whether the other side finds `thing` by its name."""
    name = getattr(thing, "__module__", None)
    if name is None or name == "__main__":
        return False
    for known in cloudpickle.list_registry_pickle_by_value():
        if name == known or name.startswith(f"{known}."):
            return False
    found: Any = sys.modules.get(name)
    path = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    for part in str(path).split("."):
        found = getattr(found, part, None)
    return found is thing


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """cloudpickle's, with more."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {
            type(functools.cache(len)): _cached,
            functools.cached_property: _cached_property,
            functools.singledispatchmethod: _single_method,
            typing.NewType: _new_type,
            **({} if _ALIAS is None else {_ALIAS: _alias}),
        },
        cloudpickle.Pickler.dispatch_table,
    )

    def reducer_override(self, thing: Any) -> Any:
        """What cloudpickle makes of functions and classes; NotImplemented for others."""
        if type(thing) is FunctionType and thing.__code__ is _SINGLE.__code__:
            return NotImplemented if _in_reach(thing) else _single(thing)
        made = super().reducer_override(thing)
        if isinstance(thing, type) and vars(thing).get("__slots__") and _is_by_value(made):
            return _with_slots(thing, made)
        return made
