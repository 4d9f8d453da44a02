"""Done callbacks.

"Mutation:" names the change to the runtime that makes the test fail.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests import _child

import gorun

LONG = 3600.0
LIMIT = 20.0
"""Seconds that nothing here comes near: only a failure waits for it."""


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came about"
        time.sleep(0.001)


def fails(text: str) -> None:
    raise LookupError(text)


# ---- done callbacks ------------------------------------------------------------------------------


def test_callbacks_in_order_of_adding_on_the_thread_that_ends_it() -> None:
    # Mutation: run them in reverse, or on the adder's thread.
    gate = threading.Event()
    out: list[Any] = []

    def body() -> int:
        gate.wait()
        return threading.get_ident()

    g = gorun.go(body)
    for i in range(5):
        g.add_done_callback(
            lambda h, i=i: out.append((i, h, threading.get_ident(), gorun.current(), h.done()))
        )
    gate.set()
    thread = g.result(LIMIT)
    until(lambda: len(out) == 5)
    assert out == [(i, g, thread, None, True) for i in range(5)]


def test_callback_after_the_end_runs_at_once() -> None:
    g = gorun.go(abs, -1)
    g.result(LIMIT)
    out: list[Any] = []
    g.add_done_callback(lambda h: out.append((h, threading.get_ident(), gorun.current())))
    assert out == [(g, threading.get_ident(), None)]


def test_callback_after_the_end_inside_a_goroutine() -> None:
    # Mutation: `run_callbacks` does not hide or restore the current goroutine.
    g = gorun.go(abs, -1)
    g.result(LIMIT)

    def body() -> Any:
        out: list[Any] = []
        g.add_done_callback(lambda h: out.append(gorun.current()))
        return out, gorun.current()

    h = gorun.go(body)
    assert h.result(LIMIT) == ([None], h)


def test_errors_in_callbacks_go_to_the_hook(hook_errors: Any) -> None:
    # Mutation: stop at the first error, or print it.
    gate = threading.Event()
    out: list[int] = []
    g = gorun.go(gate.wait)
    g.add_done_callback(lambda _: fails("one"))
    g.add_done_callback(lambda _: out.append(1))
    g.add_done_callback(lambda _: fails("three"))
    gate.set()
    assert g.result(LIMIT) is True
    [first, second] = hook_errors.take(2)
    assert (first.exc_value.args, first.goroutine) == (("one",), g)
    assert second.exc_value.args == ("three",)
    assert out == [1]
    g.add_done_callback(lambda _: fails("late"))
    [args] = hook_errors.take()
    assert args.exc_value.args == ("late",)


def test_callbacks_of_every_end() -> None:
    out: list[str] = []

    async def waits() -> None:
        await gorun.sleep_async(LONG)

    for fn, args in ((abs, (1,)), (fails, ("x",)), (waits, ())):
        g = gorun.go(fn, *args)
        g.add_done_callback(lambda g: out.append(type(g.exception()).__name__))
        if fn is waits:
            g.cancel()
        gorun.wait([g])
    until(lambda: len(out) == 3)
    assert out == ["NoneType", "LookupError", "GoroutineCancelled"]


def test_callbacks_must_be_callable() -> None:
    g = gorun.go(abs, 1)
    with pytest.raises(TypeError, match="callable"):
        g.add_done_callback(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a callable"):
        g.add_done_callback()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="at most 1"):
        g.add_done_callback(print, 1)  # type: ignore[call-arg]
    assert g.result(LIMIT) == 1


def test_a_callback_by_name() -> None:
    """As `concurrent.futures` has it. Mutation: METH_O."""
    out: list[Any] = []
    g = gorun.go(abs, 1)
    g.add_done_callback(fn=out.append)
    until(lambda: out)
    assert out == [g]


def test_callbacks_may_use_gorun_and_block() -> None:
    out: list[Any] = []

    def callback(g: Any) -> None:
        gorun.sleep(0.001)
        out.append(gorun.go(abs, -4).result(LIMIT))
        out.append(g.result())

    g = gorun.go(abs, -5)
    g.add_done_callback(callback)
    until(lambda: len(out) == 2)
    assert out == [4, 5]


def test_dropping_a_callback() -> None:
    # Mutation: `drop_done_callback` compares by equality, or does nothing.
    gate = threading.Event()
    out: list[int] = []

    class Callback:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = object.__hash__

        def __call__(self, g: Any) -> None:
            out.append(1)

    a, b = Callback(), Callback()
    g = gorun.go(gate.wait)
    g.add_done_callback(a)
    g.add_done_callback(b)
    g.add_done_callback(a)
    g._drop_done_callback(a)
    ref = weakref.ref(a)
    del a
    gc.collect()
    assert ref() is None
    gate.set()
    g.result(LIMIT)
    until(lambda: out)
    g._drop_done_callback(b)
    assert out == [1]


# ---- ends of the program, asked for in a callback ------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_to_who_adds_late(error: Any, hook_errors: Any) -> None:
    """A callback that runs at once does so on the caller's thread: Ctrl-C there is meant for the caller.

    Mutation: `passes` is reported like other errors.
    """
    g = gorun.go(abs, -1)
    g.result(LIMIT)

    def callback(g: Any) -> None:
        raise error

    with pytest.raises(error):
        g.add_done_callback(callback)

    def body() -> bool:
        with pytest.raises(error):
            g.add_done_callback(callback)
        return gorun.current() is not None

    assert gorun.go(body).result(LIMIT)
    assert hook_errors.left() == []


def test_on_an_m_the_hook_gets_a_keyboard_interrupt_and_no_exit(hook_errors: Any) -> None:
    """Nobody is there to end by it, and the others run. Mutation: report SystemExit; let either pass."""
    gate = threading.Event()
    out: list[int] = []

    def exits(g: Any) -> None:
        raise SystemExit(3)

    def interrupts(g: Any) -> None:
        raise KeyboardInterrupt

    g = gorun.go(gate.wait)
    g.add_done_callback(exits)
    g.add_done_callback(interrupts)
    g.add_done_callback(lambda g: out.append(1))
    gate.set()
    g.result(LIMIT)
    until(lambda: out)
    assert [args.exc_type for args in hook_errors.take()] == [KeyboardInterrupt]


def test_shutdown_in_a_callback_is_refused() -> None:
    """The M that runs it would wait for itself. Mutation: `shutdown` looks at `current()`."""
    ended = _child.run(
        """
        out = []
        def callback(g):
            try:
                gorun.shutdown()
            except RuntimeError as error:
                out.append(str(error))
            told.set()

        told = threading.Event()
        gate = threading.Event()
        g = go(gate.wait)
        g.add_done_callback(callback)
        gate.set()
        print(told.wait(20), out)
        sys.stdout.flush()
        os._exit(0)
        """
    )
    assert ended.out == "True ['gorun.shutdown() inside a goroutine would wait for itself']"
