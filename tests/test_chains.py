"""Chains of our objects, each held by the next: however long, they go with a bounded stack, and whole.

Every test is a child: what fails here is a crash. "Mutation:" names the change that makes a test fail.
"""

from __future__ import annotations

from textwrap import indent

import pytest
from tests._child import run

pytestmark = pytest.mark.no_matrix

LINKS = 20_000
STACK = 512 * 1024
"""Bytes of every thread of the child. A link takes a hundred or more if nothing bounds it."""

MAKERS = """
warnings.simplefilter("ignore")  # operations that are never awaited
def chan(inner):
    ch = gorun.Chan(1)
    ch.send(inner)
    return ch
def view(inner):
    return chan(inner).receiver()
def case(inner):
    return gorun.send(gorun.Chan(), inner)
def operation(inner, ch=gorun.Chan()):
    return ch.send_async(inner)
def handle(inner):
    is_operation = hasattr(inner, "send") and hasattr(inner, "throw")  # it would be awaited
    g = go(lambda: [inner] if is_operation else inner)
    g.result(20)
    return g
def timer(inner):
    t = gorun.Timer(3600, lambda: inner)
    t.stop()
    return t
def stop(inner):
    # What ends an await, kept by hand: from 3.12 on it is an object of ours.
    ch = gorun.Chan(1)
    ch.send(inner)
    kept = []
    async def body():
        op = ch.recv_async()
        try:
            while True:  # once, or twice at the end of a time slice
                op.send(None)
        except StopIteration as e:
            kept.append(e)
    go(body).result(20)
    return kept.pop().with_traceback(None)
KINDS = [chan, view, case, operation, handle, timer, stop]
class Bottom:
    gone = 0
    def __del__(self):
        Bottom.gone += 1
def chain(links, *kinds):
    top = Bottom()
    for i in range(links):
        top = kinds[i % len(kinds)](top)
    return top
"""

DROP = "top = None"
ELSEWHERE = """
box = [top]
top = None
go(box.clear).result(20)
"""
COLLECT = """
ring = gorun.Chan(2)
ring.send(top)
ring.send(ring)
top = ring = None
assert Bottom.gone == 0
gc.collect()
"""


@pytest.mark.parametrize("way", [DROP, ELSEWHERE, COLLECT], ids=["drop", "elsewhere", "collect"])
@pytest.mark.parametrize(
    "kinds", ["chan", "view", "case", "operation", "handle", "timer", "stop", "*KINDS"]
)
def test_a_chain_of_any_length_goes(kinds: str, way: str) -> None:
    """Mutation: a `Deaths::end` that always runs the rest at once (the child dies by SIGSEGV)."""
    script = f"""
threading.stack_size({STACK})
{MAKERS}
def test():
    global ended
    top = chain({LINKS}, {kinds})
{indent(way.strip(), "    ")}
    # On free-threaded builds an object may go when the thread that made it runs next.
    limit = time.monotonic() + 20
    while not Bottom.gone:
        assert time.monotonic() < limit
        gc.collect()
        time.sleep(0.001)
    top = chain({LINKS}, {kinds})  # and once more, with what the first one has left behind
    top = None
    ended = True
thread = threading.Thread(target=test)
thread.start()
thread.join(35)
assert ended
"""
    run(script)


def test_errors_deep_in_a_chain_are_reported_and_their_handles_may_be_kept() -> None:
    """Mutation: the finalizer called in `drop_handle`: the collector never sees what the hook keeps."""
    run("""
kept = []
gorun.excepthook = lambda args: kept.append(args.goroutine)
def fails(n):
    raise ValueError(n)
top = None
for n in range(200):
    g = go(fails, n)
    gorun.wait([g])
    ch = gorun.Chan(2)
    ch.send(g)
    ch.send(top)
    top = ch
del g, ch
top = None
gc.collect()
assert sorted(int(str(g._error())) for g in kept) == list(range(200))
assert all(gc.is_tracked(g) for g in kept)
refs = [__import__("weakref").ref(g) for g in kept]
kept.clear()
gc.collect()
assert not kept and not any(ref() for ref in refs)
""")


def test_a_goroutine_whose_handle_waits_to_go_finds_another_one() -> None:
    """Mutation: `vacate` called in `drop_handle`: `current()` gives out the one that is being freed."""
    run("""
asked, gate = threading.Event(), threading.Event()
seen = []
def body(n):
    assert asked.wait(20)
    seen.append((n, gorun.current()))
    assert gate.wait(20)
    return n
class Asks:
    def __del__(self):
        asked.set()
        limit = time.monotonic() + 20
        while len(seen) < 100:
            assert time.monotonic() < limit
            time.sleep(0.001)
top = None
for n in range(100):
    ch = gorun.Chan(2)
    ch.send(top)
    ch.send(go(body, n))
    top = ch
ch = gorun.Chan(2)
ch.send(top)
ch.send(Asks())  # goes after the chain, and before what that has put off
top = None
del ch
assert len(seen) == 100
again = [go(int) for _ in range(300)]  # in the memory of the old ones
gate.set()
for n, g in seen:
    assert g.result(20) == n
assert [g.result(20) for g in again] == [0] * 300
""")
