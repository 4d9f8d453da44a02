"""`check_leaks`, the fixture `gorun_no_leaks`, `dump`."""

# ruff: noqa: PT012 (what a `with` inside a `with` raises is the subject)

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests._callers import KINDS, LIMIT, LONG, run_as, until, waits

import gorun


async def inner() -> None:
    await gorun.sleep_async(LONG)


async def outer() -> None:
    await inner()


def plain_inner() -> None:
    gorun.sleep(LONG)


def plain_outer() -> None:
    plain_inner()


@pytest.fixture
def ended() -> Any:
    """Ends what the test left alive."""
    gs: list[gorun.Goroutine[Any]] = []
    yield gs
    for g in gs:
        g.cancel()
    gorun.wait(gs, LIMIT)


# ---- check_leaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_outlives_the_block_is_named(kind: str, ended: Any) -> None:
    """With its stack and birth. Mutation: `_left` leaves out those that wait."""

    def plain() -> str:
        with pytest.raises(gorun.GoroutineLeak) as caught, gorun.check_leaks():
            ended.append(gorun.spawn(outer, name="leaky"))
            until(lambda: waits(ended[0]))
        return str(caught.value)

    async def twin() -> str:
        return plain()

    text = run_as(kind, plain, twin)
    assert text.startswith("1 goroutine outlived the block:\ngoroutine ")
    assert "(leaky)" in text
    assert "in inner" in text
    assert "created at" in text


def test_a_clean_block() -> None:
    """Those that were there before do not count, nor does the caller. Mutation: compare numbers of goroutines."""
    before = gorun.go(outer)

    def body() -> None:
        with gorun.check_leaks():
            assert gorun.go(abs, -1).result() == 1
            before.cancel()
        with gorun.check_leaks() as check:
            assert isinstance(check, gorun.check_leaks)

    body()
    gorun.go(body).result(LIMIT)


def test_one_that_replaces_another_is_found(ended: Any) -> None:
    """As many as before, but not the same. Mutation: compare numbers of goroutines."""
    before = gorun.go(outer)
    until(lambda: waits(before))
    with pytest.raises(gorun.GoroutineLeak), gorun.check_leaks():
        before.cancel()
        before.exception(LIMIT)
        ended.append(gorun.go(outer))


def test_those_about_to_end_are_given_a_moment() -> None:
    """Many times: told to end, not waited for. Mutation: no `_SETTLE`."""
    for _ in range(20):
        with gorun.check_leaks():
            gorun.go(outer).cancel()


def test_an_error_of_the_block_passes(ended: Any) -> None:
    """Mutation: raise GoroutineLeak in its place."""
    with pytest.raises(LookupError), gorun.check_leaks():
        ended.append(gorun.go(outer))
        raise LookupError


def test_the_fixture(tmp_path: Path) -> None:
    """pytest finds it by its entry point. Mutation: no `pytest11` in pyproject.toml."""
    (tmp_path / "test_it.py").write_text(
        "import gorun\n"
        "def test_clean(gorun_no_leaks):\n"
        "    gorun.go(abs, -1).result()\n"
        "def test_leaky(gorun_no_leaks):\n"
        "    gorun.go(gorun.sleep, 3600)\n"
    )
    out = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        check=False,
    ).stdout
    assert "2 passed, 1 error" in out, out
    assert "GoroutineLeak: 1 goroutine outlived the block" in out


# ---- dump ----------------------------------------------------------------------------------------


def test_dump_shows_stacks(ended: Any) -> None:
    """Of a parked coroutine, a blocked and a running plain function. Mutation: `frames_of` stops at the first."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            pass

    gs = [gorun.go(outer), gorun.go(plain_outer), gorun.spawn(busy, name="busy", tags=["hot"])]
    until(lambda: waits(gs[0]) and waits(gs[1]))
    until(lambda: any(i.state == "running" and i.name == "busy" for i in gorun.goroutines()))
    out = io.StringIO()
    gorun.dump(out)
    stop.set()
    ended += gs
    text = out.getvalue()
    blocks = re.split(r"^goroutine ", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == 3
    coro, plain, running = blocks
    assert re.search(r"in outer\n.*\n.*in inner\n", coro), text
    assert coro.startswith(f"{gs[0].id} [waiting: sleep")
    assert re.search(r"in plain_outer\n.*\n.*in plain_inner\n", plain), text
    assert plain.startswith(f"{gs[1].id} [blocked: sleep")
    assert "(busy) [running] hot:" in running
    assert "in busy" in running
    assert "_bootstrap" not in text
    assert text.count("created at ") == 3


def test_dump_of_generators_and_iterators(ended: Any) -> None:
    """The chain is followed through generators. Mutation: only `cr_await` is looked at."""

    class Awaitable:
        def __await__(self) -> Any:
            yield from gorun.sleep_async(LONG).__await__()

    async def body() -> None:
        await Awaitable()

    g = gorun.go(body)
    ended.append(g)
    until(lambda: waits(g))
    out = io.StringIO()
    gorun.dump(out)
    assert "in test_dump_of_generators_and_iterators.<locals>.body" in out.getvalue()


def test_dump_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """To the one that is there at the call. Mutation: a default that is bound at import."""
    gorun.dump()
    assert capsys.readouterr().err == "no goroutines\n"


def test_dump_while_all_goes_on(ended: Any) -> None:
    """Looked at again and again while goroutines switch, begin and end: nobody is harmed.

    Mutation: `look_at` does not take the coroutine aside.
    """
    stop = threading.Event()
    turns: list[None] = []

    async def switcher() -> None:
        while not stop.is_set():
            await gorun.sleep_async(0)
            await gorun.go(abs, -1)
            turns.append(None)

    gs = [gorun.go(switcher) for _ in range(4)]
    until(lambda: gorun.dump(io.StringIO()) or len(turns) > 100)
    stop.set()
    for g in gs:
        g.result(LIMIT)
