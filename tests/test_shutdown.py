"""What `gorun.shutdown` leaves behind: timers that go on as soon as somebody waits. "Mutation:" as elsewhere."""

from __future__ import annotations

import pytest
from tests._child import run

pytestmark = pytest.mark.no_matrix

WAITS = {
    "after": "a = gorun.after(0.3); wait = lambda: a.recv(20)",
    "timer": "ch = gorun.Chan(); t = gorun.Timer(0.3, ch.close); wait = lambda: list(ch)",
    "ticker": "t = gorun.Ticker(0.2); wait = lambda: [t.chan.recv(20), t.chan.recv(20)]",
    "context": "c = gorun.background().with_timeout(0.3); wait = lambda: list(c.done)",
    "sleep": "a = gorun.after(0.3); wait = lambda: (gorun.sleep(0.01), a.recv(20))",
}
AFTER = """
assert gorun.shutdown(20)
assert gorun.stats().ms == 0
thread.start()
"""
BEFORE = """
thread.start()
time.sleep(0.05)  # it waits by now, or it does not yet: both must end
assert gorun.shutdown(20)
"""


@pytest.mark.parametrize("when", [AFTER, BEFORE], ids=["after", "before"])
@pytest.mark.parametrize("what", WAITS)
def test_a_thread_that_waits_starts_the_timers_again(what: str, when: str) -> None:
    """Mutation: no `revive`. Of those before: a `stop` that rouses nobody."""
    run(f"""
{WAITS[what]}
thread = threading.Thread(target=wait, daemon=True)
{when}
thread.join(30)
assert not thread.is_alive()
""")


@pytest.mark.parametrize("what", WAITS)
def test_the_main_thread_too(what: str) -> None:
    """Mutation: no `revive`."""
    run(f"""
{WAITS[what]}
assert gorun.shutdown(20)
wait()
""")


def test_an_open_timeout_of_a_thread_ends_its_wait() -> None:
    """Mutation: no `revive`."""
    run("""
inside, stopped = threading.Event(), threading.Event()
ended = []
def body():
    try:
        with gorun.timeout(0.3):
            inside.set()
            assert stopped.wait(20)
            gorun.Chan().recv()
    except TimeoutError:
        ended.append(True)
thread = threading.Thread(target=body, daemon=True)
thread.start()
assert inside.wait(20)
assert gorun.shutdown(20)
stopped.set()
thread.join(30)
assert ended
""")


def test_an_asyncio_task_too() -> None:
    """It did before; it stays so. Mutation: `arm` without `started`."""
    run("""
import asyncio
a = gorun.after(0.3)
assert gorun.shutdown(20)
async def main():
    await a.recv_async(20)
asyncio.run(main())
""")


def test_nothing_starts_for_a_wait_without_timers() -> None:
    """Mutation: a `stands_still` that does not look at wheels and queues."""
    run("""
go(int).result(20)
assert gorun.shutdown(20)
ch = gorun.Chan()
threading.Thread(target=ch.send, args=(1,)).start()
assert ch.recv(20) == 1
for wait in [lambda: ch.recv(timeout=0.01), lambda: gorun.Mutex() and gorun.sleep(0.01)]:
    try:
        wait()
    except TimeoutError:
        pass
    assert gorun.stats().ms == 0
""")


def test_nothing_starts_at_the_exit() -> None:
    """Mutation: at the exit a `stop` that is not for good, and a `revive` that does not ask whether it is that."""
    out = run(
        """
a = gorun.after(0.02)
assert gorun.shutdown(20)
""",
        before="""
import atexit
def last():
    try:
        a.recv(timeout=0.2)
    except TimeoutError:
        print(gorun.stats().ms)
atexit.register(last)  # before gorun is imported: it is called after gorun's own
""",
    ).out
    assert out == "0"


def test_nothing_starts_in_a_forked_child() -> None:
    """Mutation: an `after_fork` that keeps the parent's runtime."""
    run(
        """
a = gorun.after(0.02)
assert gorun.shutdown(20)
pid = os.fork()
if not pid:
    try:
        a.recv(timeout=0.2)
    except TimeoutError:
        os._exit(gorun.stats().ms)
    os._exit(9)
assert os.waitpid(pid, 0)[1] == 0
a.recv(20)
""",
        flags=("-W", "ignore"),
    )
