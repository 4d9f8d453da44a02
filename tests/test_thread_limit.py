"""`max_threads`: what happens at the limit of Ms, and just below it."""

from __future__ import annotations

import pytest
from tests import _child

LIMIT = """
gorun.configure(max_threads={n})
def join(gs, limit=30):
    end = time.monotonic() + limit
    return [g.result(max(0, end - time.monotonic())) for g in gs]
def until(done):
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end, gorun.stats()
        time.sleep(0.001)
"""


@pytest.mark.no_matrix
def test_1000_blocking_calls_with_64_threads() -> None:
    """At the limit plain goroutines queue, and all complete; the user is told once.

    Mutation: `start_m` without its look at `max_threads`; or a warning each time.
    """
    ended = _child.run(
        LIMIT.format(n=64)
        + """
most = 0
def call(i):
    time.sleep(0.01)
    return i
gs = gorun.go_many(call, range(1000))
while not all(g.done() for g in gs):
    most = max(most, gorun.stats().ms)
    gorun.sleep(0.01)
assert join(gs) == list(range(1000))
assert 50 < most <= 64, most
""",
        err=None,
        GORUN_SYSMON="auto",  # by the clock alone calls of 10 ms end before they are found
    )
    assert ended.err.count("RuntimeWarning") == 1, ended.err
    assert "all 64 threads" in ended.err


@pytest.mark.no_matrix
def test_1000_known_blocking_calls_with_64_threads() -> None:
    """The same in `blocking()`: goroutines that find the last thread get ThreadLimit, the others go through.

    Mutation: `may_block` says True (then nobody is left to run anything).
    """
    _child.run(
        LIMIT.format(n=64)
        + """
def call(i):
    for _ in range(1000):
        try:
            with gorun.blocking():
                time.sleep(0.001)
            return i
        except gorun.ThreadLimit:
            time.sleep(0.001)
    raise AssertionError("never got a thread")
assert join(gorun.go_many(call, range(1000))) == list(range(1000))
assert gorun.stats().ms <= 64
""",
        # The sleep outside of the section is found blocked at the limit, and that is said.
        err=None,
    )


@pytest.mark.no_matrix
@pytest.mark.parametrize(
    "op",
    [
        "gorun.sleep(0.5)",
        "g.result()",
        "gorun.wait([g])",
        "gorun._gorun.Latch().wait()",
        "blocking()",
    ],
)
def test_thread_limit_for_the_last_free_m(op: str) -> None:
    """With 2 threads, one of them blocked: an operation on the other raises ThreadLimit, before it waits.

    Mutation: `may_block` counts one too many.
    """
    ended = _child.run(
        LIMIT.format(n=2)
        + f"""
g = go(nap)
def blocking():
    with gorun.blocking():
        pass
first = go(gorun.sleep, 3600)
until(lambda: gorun.stats().ms_blocked == 1)
def body():
    try:
        {op}
    except gorun.ThreadLimit as e:
        return str(e)
text = go(body).result(30)
assert "max_threads" in text and "2" in text, text
assert go(abs, -1).result(30) == 1  # the last one still works
assert first.cancel()
assert isinstance(first.exception(30), gorun.GoroutineCancelled)
assert go(gorun.sleep, 0.001).result(30) is None
""",
    )
    assert ended.out == ""


@pytest.mark.no_matrix
def test_one_thread_only() -> None:
    """`max_threads=1`: async goroutines and joins from threads work, blocking operations are refused.

    Mutation: `start_m` refuses the first M.
    """
    _child.run(
        """
        async def work(i):
            await gorun.sleep_async(0.001)
            return i
        assert [g.result(30) for g in gorun.go_many(work, range(20))] == list(range(20))
        try:
            go(gorun.sleep, 1).result(30)
        except gorun.ThreadLimit:
            pass
        assert gorun.stats().ms == 1
        """,
        GORUN_MAX_THREADS="1",
    )


@pytest.mark.no_matrix
def test_raising_the_limit_while_running() -> None:
    """A higher limit frees those that queue.

    Mutation: `keep_a_spare` looks at the limit of the start.
    """
    _child.run(
        LIMIT.format(n=2)
        + """
warnings.simplefilter("ignore")
ev = threading.Event()
held = []
def hold():
    held.append(1)
    ev.wait(100)
gs = [go(hold) for _ in range(10)]
until(lambda: len(held) == 2)  # two Ms alone may still have one that looks for work, and finds the next
late = go(abs, -5)
time.sleep(0.1)
assert not late.done()
gorun.configure(max_threads=100)
assert go(abs, -1).result(30) == 1
assert late.result(30) == 5
ev.set()
join(gs)
"""
    )
