"""Typical uses of scopes, groups, contexts, jobs and what runs once: mypy --strict finds nothing here."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, assert_type

import gorun
from gorun import Chan, Context, Goroutine, Group, Job, Pool, RecvChan, SingleFlight


async def double(n: int, *, plus: int = 0) -> int:
    return 2 * n + plus


def name(n: int) -> str:
    return str(n)


# Scopes.
with gorun.timeout(1.5) as scope:
    scope.reschedule(None)
assert_type(scope.expired, bool)


async def scopes() -> int:
    async with gorun.timeout(None):
        return await double(1)


# Groups.
def groups() -> str:
    with Group(limit=2, context=gorun.background()) as group:
        assert_type(group.go(double, 1, plus=2), Goroutine[int])
        assert_type(group.go(name, 1), Goroutine[str])
        assert_type(group.go(double(1)), Goroutine[int])
        assert_type(group.try_go(name, 1), Goroutine[str] | None)
        assert_type(group.context, Context)
        return "the block does not swallow errors"


async def async_groups() -> None:
    async with Group() as group:
        assert_type(await group.go_async(double, 1), Goroutine[int])
        assert_type(await group.go_async(name, 1), Goroutine[str])


# Contexts.
ctx = gorun.background().with_cancel()
assert_type(ctx.with_timeout(1).with_deadline(2.0).with_value("k", 1).without_cancel(), Context)
assert_type(ctx.done, RecvChan[Any])
assert_type(ctx.err(), gorun.ContextDone | None)
assert_type(ctx.deadline, float | None)
assert_type(ctx.after_func(print), Callable[[], bool])
ctx.cancel(LookupError())
with ctx as same:
    assert_type(same, Context)


# Once, SingleFlight, Pool.
assert_type(gorun.Once().do(name, 1), str)


@gorun.once
def load(n: int) -> str:
    return str(n)


@gorun.once
async def fetch(n: int) -> str:
    return str(n)


assert_type(load(1), str)
assert_type(SingleFlight().do("key", name, 1), tuple[str, bool])
assert_type(SingleFlight().do("key", double, 1), tuple[int, bool])


async def once_async() -> None:
    assert_type(await fetch(1), str)
    assert_type(await gorun.Once().do_async(double, 1), int)
    assert_type(await SingleFlight().do_async(("k", 1), double, 1), tuple[int, bool])


pool = Pool(bytearray)
assert_type(pool.get(), bytearray)
with pool.use() as buffer:
    assert_type(buffer, bytearray)
chans: Pool[Chan[int]] = Pool(Chan)

# Jobs.
job = gorun.every(1.0, name, 1, id="x", overlap="queue", timeout=None, jitter=0.5)
assert_type(job, Job)
assert_type(gorun.jobs(), list[Job])
assert_type((job.runs, job.skipped, job.cancel()), tuple[int, int, bool])
assert_type(job.id, Hashable)
assert_type(job.last_error, BaseException | None)
assert_type(job.last_heartbeat, float | None)
gorun.heartbeat()

# Leaks.
with gorun.check_leaks():
    gorun.dump()
