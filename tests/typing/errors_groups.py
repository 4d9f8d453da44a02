"""Wrong uses that mypy --strict must report: the code is behind each line."""

from __future__ import annotations

import gorun


async def double(n: int) -> int:
    return 2 * n


with gorun.Group() as group:
    group.go(double, "1")  # E: call-overload
    s: str = group.go(double, 1).result()  # E: assignment
    group.go(5)  # E: call-overload
    group.try_go(double, 1).result()  # E: union-attr
gorun.Group(2)  # E: call-arg
gorun.timeout("1")  # E: arg-type
gorun.background().with_timeout("1")  # E: arg-type
gorun.every(1, 5)  # E: arg-type
gorun.Pool(5)  # E: arg-type
value: str = gorun.Pool(list).get()  # E: assignment
n: str = gorun.Once().do(len, [])  # E: assignment
