"""Typical uses of channels and `select`: mypy --strict finds nothing here."""

from __future__ import annotations

from typing import Any, assert_type

import gorun
from gorun import (
    Chan,
    Goroutine,
    RecvChan,
    Selected,
    SendChan,
    go,
    recv,
    select,
    select_async,
    send,
)

c = Chan[int](3)
d: Chan[str] = Chan()
e = Chan[bytes]()
g = go(len, "x")

# Methods.
c.send(1)
c.send(1, timeout=0.5)
assert_type(c.try_send(1), bool)
assert_type(c.send_many(range(3)), int)
assert_type(c.recv(), int)
assert_type(c.recv(timeout=1), int)
assert_type(c.try_recv(), int)
assert_type(c.recv_ok(), tuple[int | None, bool])
assert_type(c.recv_many(3), list[int])
assert_type((len(c), c.capacity, c.closed, bool(c)), tuple[int, int, bool, bool])
for number in c:
    assert_type(number, int)
chans: Chan[Chan[str]] = Chan(1)
assert_type(chans.recv().recv(), str)

# Views: what may be sent narrows, what is received widens.
assert_type(c.sender(), SendChan[int])
assert_type(c.receiver(), RecvChan[int])
wide: RecvChan[object] = c.receiver()
narrow: SendChan[bool] = c.sender()


def produce(out: SendChan[int]) -> None:
    out.send(1)
    assert_type(out.send_many([1, 2]), int)
    out.close()


def consume(source: RecvChan[int]) -> int:
    assert_type(source.recv_ok(), tuple[int | None, bool])
    return sum(source)


go(produce, c.sender())
assert_type(go(consume, c.receiver()), Goroutine[int])
assert_type(sum(c.receiver()), int)


async def awaited() -> None:
    assert_type(await c.send_async(1), None)
    assert_type(await c.send_many_async([1]), int)
    assert_type(await c.recv_async(timeout=1), int)
    assert_type(await c.recv_ok_async(), tuple[int | None, bool])
    assert_type(await c.receiver().recv_many_async(2), list[int])
    async for x in c.receiver():
        assert_type(x, int)


# Select: what its channels bring, or None. A send, a goroutine's end and nil bring nothing.
assert_type(select(c), Selected[int | None])
assert_type(select(recv(c)), Selected[int | None])
assert_type(select(c.receiver()), Selected[int | None])
assert_type(select(send(c, 1)), Selected[None])
assert_type(select(g), Selected[None])
assert_type(select(None), Selected[None])
assert_type(select(recv(None), send(None, 1)), Selected[None])
assert_type(select(), Selected[None])
assert_type(select(default=True), Selected[None])
assert_type(select(c, d), Selected[int | str | None])
assert_type(select(c, c.receiver()), Selected[int | None])
assert_type(select(recv(c), d, timeout=1), Selected[int | str | None])
assert_type(select(gorun.after(1), c, default=True), Selected[float | int | None])
assert_type(select(gorun.Timer(1).chan, d), Selected[float | str | None])

# They may stand before, between and behind the receives.
assert_type(select(send(d, "x"), c), Selected[int | None])
assert_type(select(None, c), Selected[int | None])
assert_type(select(g, c), Selected[int | None])
assert_type(select(c, None, send(d, "x"), g), Selected[int | None])
assert_type(select(None, g, send(d, "x"), c), Selected[int | None])
assert_type(select(send(c, 1), d, None, recv(e), g), Selected[str | bytes | None])
assert_type(select(g, c, None, d, send(d, "x"), e), Selected[int | str | bytes | None])

# A channel that may be nil.
maybe: RecvChan[int] | None = c.receiver() if c else None
assert_type(select(maybe, d), Selected[int | str | None])
assert_type(select(send(d, "x"), recv(maybe)), Selected[int | None])

# More than six, and lists: of one type as exact as ever, else `object`.
assert_type(select(c, None, c, g, c, send(d, "x"), c), Selected[int | None])
assert_type(select(c, d, c, d, c, d, c), Selected[object])
many = [c.receiver(), c.receiver()]
assert_type(select(*many), Selected[int | None])
assert_type(select(*many, timeout=1), Selected[int | None])
assert_type(select(send(d, "x"), *many), Selected[int | None])
assert_type(select(*many, None), Selected[int | None])
assert_type(select(d, *many), Selected[object])
assert_type(select(*[g, go(len, "y")]), Selected[None])

# The answer.
chosen = select(None, c, d)
assert_type(chosen.index, int)
assert_type(chosen.value, int | str | None)
assert_type(chosen.ok, bool)
index, value, ok = chosen
assert_type(value, int | str | None)
match select(send(d, "x"), c):
    case (1, got, True):
        assert_type(got, int | None)
wider: Selected[int | str | None] = select(c)  # covariant
widest: Selected[object] = select(recv(c), d, send(c, 1))
either: Selected[int | str | None] = select(c, d, c, d, c, d, c)


async def selects() -> None:
    assert_type(await select_async(), Selected[None])
    assert_type(await select_async(None), Selected[None])
    assert_type(await select_async(c), Selected[int | None])
    assert_type(await select_async(c, d), Selected[int | str | None])
    assert_type(await select_async(send(d, "x"), c, timeout=1), Selected[int | None])
    assert_type(await select_async(None, g, recv(d)), Selected[str | None])
    assert_type(await select_async(g, c, None, d), Selected[int | str | None])
    assert_type(await select_async(g, c, None, d, e), Selected[int | str | bytes | None])
    assert_type(
        await select_async(g, c, None, d, send(d, "x"), e), Selected[int | str | bytes | None]
    )
    assert_type(await select_async(*many, None), Selected[int | None])
    assert_type(await select_async(gorun.background().done, c), Selected[Any | int | None])
    wider: Selected[int | str | None] = await select_async(c)
    print(wider)
