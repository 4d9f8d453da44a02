"""`Pool`: what is put can be got; two full collections empty it; no matter who uses it."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
from tests._callers import LIMIT

import gorun
from gorun import Pool


class Thing:
    pass


class Back:
    """Uses its pool when it dies. (A local class with closures is never freed by 3.13t under pytest.)"""

    def __init__(self, pool: Pool[object]) -> None:
        self.pool = pool

    def __del__(self) -> None:
        self.pool.put(self.pool.get())


def test_get_and_put() -> None:
    """Mutation: `get` makes a new one always."""
    pool = Pool(Thing)
    x = pool.get()
    pool.put(x)
    assert pool.get() is x
    assert pool.get() is not x


def test_use() -> None:
    """It is put back also after an error. Mutation: no `finally`."""
    pool = Pool(Thing)
    with pytest.raises(LookupError), pool.use() as x:
        raise LookupError
    with pool.use() as y, pool.use() as z:
        assert y is x
        assert z is not x


def test_emptied_over_two_collections() -> None:
    """One full collection keeps what lies there, the second drops it. Mutation: `_age` drops at once, or never."""
    pool = Pool(Thing)
    ref = weakref.ref(pool.get())
    x = Thing()
    pool.put(x)
    ref = weakref.ref(x)
    del x
    gc.collect()
    x = pool.get()
    assert ref() is x
    pool.put(x)
    del x
    if gorun._pool._FULL:
        for generation in range(gorun._pool._FULL):
            gc.collect(generation)
        assert ref() is not None
    gc.collect()
    gc.collect()
    assert ref() is None
    assert isinstance(pool.get(), Thing)


@pytest.mark.no_matrix
def test_emptied_by_collections_of_its_own() -> None:
    """Nobody need call gc.collect. Mutation: `_FULL` is 2 on every build (free-threaded ones never say 2)."""
    pool = Pool(Thing)
    ref = weakref.ref(pool.get())
    x = Thing()
    ref = weakref.ref(x)
    pool.put(x)
    del x
    kept: list[object] = []
    end = time.monotonic() + LIMIT
    while ref() is not None:
        assert time.monotonic() < end
        kept.append([[] for _ in range(10_000)])  # what makes the collector run
        if len(kept) > 50:
            kept.clear()


def test_pools_are_freed() -> None:
    """Mutation: `_pools` holds the pool itself."""
    before = len(gorun._pool._pools)
    pool = Pool(Thing)
    ref = weakref.ref(pool)
    pool.put(Thing())
    del pool
    gc.collect()
    assert ref() is None
    assert len(gorun._pool._pools) == before


def test_things_that_use_the_pool_when_they_die() -> None:
    """A finalizer may get and put: no lock is held. Mutation: a plain lock around the deques: a hang."""
    pool: Pool[object] = Pool(object)
    for _ in range(10):
        pool.put(Back(pool))
    for _ in range(3):
        gc.collect()


def test_many_users() -> None:
    """Nobody gets what another one has. Mutation: `get` looks at the last without taking it."""
    pool: Pool[list[int]] = Pool(list)

    def user() -> bool:
        for _ in range(300):
            with pool.use() as x:
                x.append(threading.get_ident())
                if len(x) != 1:
                    return False
                x.clear()
        return True

    assert all(g.result(LIMIT) for g in [gorun.go(user) for _ in range(6)])


def test_misuse() -> None:
    with pytest.raises(TypeError, match="3"):
        Pool(3)  # type: ignore[arg-type]

    def bad() -> object:
        raise LookupError

    with pytest.raises(LookupError):
        Pool(bad).get()
