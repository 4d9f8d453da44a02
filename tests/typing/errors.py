"""What `mypy --strict` must refuse: each line that ends in `# E: code` is an error of that code."""

from __future__ import annotations

import gorun


async def double(n: int) -> int:
    return 2 * n


def text(n: int) -> str:
    return str(n)


gorun.go(5)  # E: call-overload
gorun.go(double, "one")  # E: call-overload
gorun.go(text, 1, 2)  # E: call-overload
gorun.go(double, m=1)  # E: call-overload
gorun.go(double(1), 2)  # E: call-overload
gorun.go()  # E: call-overload
gorun.go_many(text, ["a"])  # E: arg-type
gorun.go_many(text, 5)  # E: call-overload
gorun.run(text, "one")  # E: call-overload
gorun.spawn(text, (1,), "x")  # E: call-overload
gorun.spawn(text, (1,), label="x")  # E: call-overload
gorun.sleep("1")  # E: arg-type
gorun.sleep_async(None)  # E: arg-type
gorun.gomaxprocs("2")  # E: arg-type
gorun.configure(5)  # E: call-arg
gorun.configure(threads=5)  # E: call-arg
gorun.Timer(1, lambda x: x)  # E: arg-type
gorun.Timer()  # E: call-arg
gorun.Goroutine(1)  # E: call-arg
g = gorun.go(double, 1)
g.id = 5  # E: misc
g.result("1")  # E: arg-type
n: str = g.result()  # E: assignment
g.add_done_callback(5)  # E: arg-type
gorun.wait([1])  # E: list-item
print(gorun.nothing)  # E: attr-defined


async def body() -> None:
    s: str = await g  # E: assignment
    print(s)
    gorun.sleep_async(1)  # E: unused-coroutine
    for x in gorun.as_completed_async([g]):  # E: attr-defined
        print(x)


class Sub(gorun.Goroutine[int]):  # E: misc
    pass
