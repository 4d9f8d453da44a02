"""Wrong uses of channels, `select`, locks and clocks that mypy --strict must report, by code."""

from __future__ import annotations

import gorun
from gorun import Chan, RecvChan, Selected, SendChan, go, recv, select, select_async, send

c = Chan[int](3)
d = Chan[str]()


def text(n: int) -> str:
    return str(n)


def produce(out: SendChan[int]) -> None:
    out.send(1)


# Channels.
c.send("x")  # E: arg-type
c.send_many(["x"])  # E: list-item
c.try_send(None)  # E: arg-type
c.recv("1")  # E: arg-type
s: str = c.recv()  # E: assignment
n: int = c.recv_ok()[0]  # E: assignment
strs: list[str] = c.recv_many(3)  # E: assignment
Chan[int]("3")  # E: arg-type
nothing = Chan()  # E: var-annotated
wide: Chan[object] = c  # E: assignment
for number in c:
    number.upper()  # E: attr-defined

# Views go one way.
c.sender().recv()  # E: attr-defined
c.sender().send("x")  # E: arg-type
c.receiver().send(1)  # E: attr-defined
c.receiver().close()  # E: attr-defined
next(c.sender())  # E: call-overload
to_all: SendChan[object] = c.sender()  # E: assignment
from_str: RecvChan[str] = c.receiver()  # E: assignment
go(produce, c.receiver())  # E: call-overload
go(produce, d.sender())  # E: call-overload

# Cases.
recv(c.sender())  # E: arg-type
recv(5)  # E: arg-type
send(c, "x")  # E: misc
send(c.receiver(), 1)  # E: arg-type
select(c.sender())  # E: call-overload
select(1)  # E: call-overload
select(None, c, c.sender())  # E: call-overload
select(c, gorun.Ticker(1))  # E: call-overload
select(c, gorun.Mutex())  # E: call-overload
select(c, timeout="1")  # E: call-overload
select(c, after=1)  # E: call-overload
select(*[c.sender()])  # E: call-overload

# Answers.
i: int = select(c).value  # E: assignment
wrong_1: Selected[str | None] = select(c)  # E: arg-type
wrong_2: Selected[int | None] = select(c, d)  # E: arg-type
wrong_3: Selected[str | None] = select(send(d, "x"), c)  # E: arg-type
wrong_4: Selected[str | None] = select(None, go(text, 1), recv(c))  # E: arg-type
wrong_5: Selected[int | None] = select(c, d, c, d, c, d, c)  # E: arg-type
wrong_6: Selected[str | None] = select(*[c, c])  # E: arg-type
wrong_7: Selected[str | None] = select(d, *[c, c])  # E: arg-type
wrong_8: Selected[str] = select(d)  # E: assignment
select(None, c).value.upper()  # E: union-attr


async def selects() -> None:
    i: int = (await select_async(c)).value  # E: assignment
    wrong_1: Selected[str | None] = await select_async(c)  # E: arg-type
    wrong_2: Selected[str | None] = await select_async(send(d, "x"), c)  # E: arg-type
    await select_async(c.sender())  # E: call-overload
    s: str = await c.recv_async()  # E: assignment
    print(i, s, wrong_1, wrong_2)


# Locks and clocks.
gorun.Mutex().acquire(True, 2, 3)  # E: call-arg
gorun.Semaphore(1, False)  # E: call-arg
gorun.Semaphore(2).release("1")  # E: arg-type
gorun.RWMutex().acquire()  # E: attr-defined
gorun.WaitGroup().add("1")  # E: arg-type
gorun.WaitGroup().go(text, "1")  # E: call-overload
gorun.Barrier()  # E: call-arg
count: int = gorun.Mutex()  # E: assignment
gorun.Ticker("x")  # E: arg-type
gorun.Timer("1")  # E: arg-type
gorun.Timer(1).chan.recv()  # E: union-attr
gorun.after(1).send(1.0)  # E: attr-defined
gorun.map(text, ["x"])  # E: arg-type
doubled: list[int] = list(gorun.map(text, [1]))  # E: arg-type
