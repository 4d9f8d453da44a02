"""How an exception travels: whole, else its parts, else its text; and its traceback's text in any case.

Which of them it is, is tried out where it was raised, by unpickling it: exceptions are pickled as
calls of their type with `args`, which many constructors do not take. Parts are put together again
without the constructor. A group that cannot travel whole is made again of members that travel each
by itself.

Loaded where the first exception is packed; in a worker beside wire.py, without gorun.
"""

from __future__ import annotations

import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Packed: TypeAlias = tuple[str, Any, Any, str]


def pack(error: BaseException, text: str, dumps: Callable[[Any], bytes]) -> Packed:
    """Packs `error`, with the traceback `text`; `dumps` has all in the pickle, buffers too."""
    kind = type(error)
    try:
        data = dumps(error)
        if type(pickle.loads(data)) is kind:
            return "whole", data, None, text
    except Exception:
        pass
    try:
        if isinstance(error, BaseExceptionGroup):
            data = dumps((kind, error.message, vars(error)))
            pickle.loads(data)
            return "group", data, [pack(one, "", dumps) for one in error.exceptions], text
        data = dumps((kind, error.args, vars(error)))
        pickle.loads(data)
        return "parts", data, None, text
    except Exception as why:
        return "text", f"{kind.__module__}.{kind.__qualname__}", f"{shown(error)} ({why})", text


def unpack(data: bytes, members: list[BaseException] | None) -> BaseException:
    """Puts an exception together from its parts."""
    kind, args, state = pickle.loads(data)
    error: BaseException
    if members is None:
        error = kind.__new__(kind)
        error.args = args
    else:
        error = kind.__new__(kind, args, members)
    error.__dict__.update(state)
    return error


def shown(thing: object) -> str:
    """`repr`, short, and come what may."""
    try:
        text = repr(thing)
    except Exception:
        text = f"a {type(thing).__name__}"
    return text if len(text) <= 200 else text[:197] + "..."
