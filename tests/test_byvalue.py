"""What scripts and notebooks are full of travels by value, to workers and back.

Each program runs as `__main__`, which workers do not have: nothing of it can be found by its name.
"""

from __future__ import annotations

import sys

import pytest
from tests import _child

import gorun
from gorun._cli import jobs

pytestmark = pytest.mark.no_matrix

PROGRAM = """
        import functools, typing
        def there(fn, *items):
            return list(gorun.map(fn, items, on="process"))
"""


def run(script: str) -> None:
    _child.run(PROGRAM + script)


def test_functions_with_a_cache() -> None:
    """Alone, in what another function calls, recursive, in a class, of a partial; there and back.

    Mutations: `_cached` is not in the table; it forgets `typed`; `_in_reach` is True always.
    """
    run("""
        @functools.cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        def local():
            @functools.lru_cache(maxsize=3, typed=True)
            def inner(n): return fib(n) + 1
            return inner
        class Has:
            @functools.lru_cache
            def method(self, n): return n + 1
        assert there(fib, 90) == [2880067194370816120]
        assert there(lambda n: fib(n), 5) == [5]
        assert there(local(), 5) == [6]
        inner = local()
        assert there(lambda n: inner.cache_parameters(), 0) == [{"maxsize": 3, "typed": True}]
        assert there(lambda n: Has().method(n), 5) == [6]
        assert there(functools.lru_cache(functools.partial(pow, 2)), 5) == [32]
        [back] = there(lambda n: fib, 0)
        assert back(10) == 55 and back.__name__ == "fib"
        with gorun.Executor(1, on="process") as executor:
            assert executor.submit(fib, 10).result() == 55
            assert list(gorun.map(fib, [10], on=executor)) == [55]
        import json.encoder
        json.encoder.cached = functools.cache(len)  # found by its name nowhere
        assert there(json.encoder.cached, "four") == [4]
    """)


def test_cached_properties() -> None:
    """Mutation: `_cached_property` is not in the table (3.11: it has a lock), or forgets `attrname`."""
    run("""
        class Has:
            def __init__(self, n): self.n = n
            @functools.cached_property
            def twice(self): return 2 * self.n
        assert there(lambda n: Has(n).twice, 2) == [4]
        [back] = there(lambda has: (has.twice, has)[1], Has(3))
        assert type(back) is Has and vars(back) == {"n": 3, "twice": 6}
    """)


def test_single_dispatch() -> None:
    """Mutations: `reducer_override` does not look for it, the table not for methods (3.13.0: their
    cache has weak references); `_dispatching` forgets `more`."""
    run("""
        @functools.singledispatch
        def depth(x): return 0
        @depth.register(list)
        def _(x): return 1 + max(map(depth, x))
        class Has:
            @functools.singledispatchmethod
            def kind(self, x): return "?"
            @kind.register
            def _(self, x: int): return "int"
            @functools.singledispatchmethod
            @classmethod
            def made(cls, x): return cls
            @made.register
            @classmethod
            def _(cls, x: str): return Has.made(int(x)), x
        Has().kind(1)
        assert there(depth, [1, [2]], 3) == [2, 0]
        assert there(lambda x: Has().kind(x), 1, "a") == ["int", "?"]
        assert there(lambda x: repr(Has.made(x)), "1") == [repr((Has, "1"))]
    """)


def test_names_of_types() -> None:
    """Mutations: `_new_type` or `_alias` is not in the table."""
    run("""
        Name = typing.NewType("Name", str)
        def greet(name: Name) -> Name: return Name("hello " + name)
        assert there(greet, "you") == ["hello you"]
        [back] = there(lambda n: Name, 0)
        assert (back.__name__, back.__module__, back.__supertype__) == ("Name", "__main__", str)
    """)
    if sys.version_info >= (3, 12):
        run("""
        exec("type Pair[T] = tuple[T, T]")
        def swap(pair: Pair[int]) -> Pair[int]: return pair[::-1]
        assert there(swap, (1, 2)) == [(2, 1)]
        [back] = there(lambda n: Pair, 0)
        assert back[int].__origin__.__value__.__origin__ is tuple
        """)


def test_slots() -> None:
    """Instances come and go: of dataclasses, with private names, inherited ones, and no `__dict__` there.

    Mutation: `_with_slots` is not called.
    """
    run("""
        import dataclasses
        @dataclasses.dataclass(slots=True)
        class Point: x: int; y: int = 2
        class Private:
            __slots__ = ("__hidden",)
            def __init__(self, n): self.__hidden = n
            def get(self): return self.__hidden
        class Heir(Private):
            __slots__ = {"more": "documented"}
            def __init__(self, n): super().__init__(n); self.more = n
        class Open(Heir): pass
        class One:
            __slots__ = "only"
            def __init__(self, n): self.only = n
        class Both(typing.NamedTuple): a: int
        def give(n): return Point(n), Private(n), Heir(n), Open(n), One(n), Both(n)
        def check(things):
            point, private, heir, opened, one, both = things
            assert (point.x, point.y) == (1, 2) and point == Point(1)
            assert [private.get(), heir.get(), heir.more, opened.get(), opened.more] == [1] * 5
            assert one.only == 1 and both.a == 1
            assert [hasattr(t, "__dict__") for t in things[:5]] == [False, False, False, True, False]
            return things
        [back] = there(give, 1)
        check(back)
        assert [type(t) for t in back] == [Point, Private, Heir, Open, One, Both]
        [back] = there(check, give(1))
        check(back)
    """)


def test_what_can_be_found_goes_by_name() -> None:
    """Mutation: `_in_reach` is False always."""
    quiet = jobs._be_quiet
    assert list(gorun.map(lambda n: quiet, [0], on="process")) == [quiet]
