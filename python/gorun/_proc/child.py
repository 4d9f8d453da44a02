"""What a worker process runs: batches of items, one after the other, until the parent has gone.

Who does what
- The main thread reads frames, runs what they bring and sends what came of it.
- A call of an executor that finds its worker idle comes alone, and is run and answered without any
  of the following: nothing is there to be taken back.
- A batch is claimed before it is begun, by a word that the parent may change, too: one that wants batches
  back claims those that are left (linked.py). That needs nobody's cooperation: the worker may be stuck in
  native code. Where there are no rings, the claim is a token: the batch's number, that the parent wrote
  into a pipe that both read from.
- A helper thread serves the parent's wish for what is left of a batch that takes long: it sends the
  results that are there, and gives back the items that are not begun. It needs the interpreter, so
  it comes when the item at work lets go of it.
- An item is run or given back: it is taken from a list under a lock. Outcomes are sent by one of
  the two threads, in their order.
- Before each item its place in the batch goes into a page that the parent maps: it is how a parent
  knows which items a dead worker had begun. In batches of up to LOGGED items the outcomes go there
  too, each by itself, so that a death costs the one item that was at work; in longer ones, of items
  that take some microseconds, that would cost more than the items. There STEP items count as begun
  at a time, and are run without a line of Python between them.

- A worker that has grown by more than it may says so with a result, and its parent has it leave when it
  has done what is with it.

The end: the lifeline is a pipe that only the parent could write to. When its end is closed, because
the parent closed it or is gone, the kernel sends SIGKILL (F_SETSIG): also to a worker that computes
in native code. Elsewhere than on Linux, the end of the socket has to do. SIGINT is ignored: a Ctrl-C
reaches the whole group, and the parent decides.
"""

from __future__ import annotations

import os
import sys
from _pickle import dumps, loads
from _thread import allocate_lock, start_new_thread
from itertools import chain, islice, starmap
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from gorun._proc import wire
else:
    wire = sys.modules["_gorun_wire"]

LOGGED = 128  # items
STEP = 32  # items
PLAIN = (int, float, bool, type(None))  # results that name nothing and have no buffers
# There `extend` holds the list's lock while the items run, and whoever looks into it waits: the
# helper to the end of the batch, the log some 15 us for each item.
FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()

LOOK = 0.1  # seconds between two looks at this process's memory
UNIT = os.sysconf("SC_PAGE_SIZE")

F_SETSIG = 10  # Linux; the fcntl module does not name it on every version


class Failed:
    """The outcome of an item that raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Job:
    """What is done with each item; it comes once, before the batches that want it."""

    def __init__(self, fn: Callable[..., Any], star: bool, retries: int) -> None:
        self.fn = fn if retries == 0 else persistent(fn, retries)
        self.star = star


def persistent(fn: Callable[..., Any], retries: int) -> Callable[..., Any]:
    """Calls `fn` again if it raises an Exception, up to `retries` times."""

    def tried(*args: Any) -> Any:
        left = retries
        while True:
            try:
                return fn(*args)
            except Exception:
                if left == 0:
                    raise
                left -= 1

    return tried


class Batch:
    """The items of one batch, and what came of them."""

    def __init__(self, number: int, items: list[Any], worker: Worker) -> None:
        self.number = number
        self.items = items
        self.claim = allocate_lock()  # of the next two
        self.begun = 0  # items, from the first on
        self.end = len(items)  # those behind it were given back
        self._worker = worker
        self._log = wire.LOG if 1 < len(items) <= LOGGED else 0
        page = worker.page
        self._rest = iter(items)  # of a long batch: what `fn` was not called with
        self.done: list[Any] = []  # outcomes, in their order
        self.sent = 0  # how many of them were answered; those are None by now
        self.ended = False  # the last item has been taken, by whomever
        self.failed = False  # some outcome is a Failed
        self._page = page
        if page is not None:
            page[1] = page[2] = 0
            page[0] = number

    def give_back(self) -> int:
        """Gives up what is not begun: how many items."""
        with self.claim:
            back, self.end = self.end - self.begun, self.begun
            del self.items[self.end :]  # where iterators over it stop
        return back

    def forked(self) -> None:
        """In a process that an item has forked: nothing more is begun, or noted in the parent's page."""
        self._page = None
        self.claim._at_fork_reinit()  # type: ignore[attr-defined]  # the helper may have had it
        self.end = self.begun
        self.items.clear()  # what is left of a step

    def taken(self) -> Iterator[Any]:
        """The items, each noted before it is run."""
        items, claim, page = self.items, self.claim, self._page
        log = self.log if self._log and page is not None else None
        while True:
            if log is not None and self.begun:
                log(self.begun - 1)
            with claim:
                at = self.begun
                if at >= self.end:
                    self.ended = True
                    return
                self.begun = at + 1
            item, items[at] = items[at], None
            if page is not None:
                page[1] = at + 1
            yield item
            item = None  # or it would live as long as the next one runs

    def log(self, place: int) -> None:
        """Notes the outcome of an item, if it is there, can be pickled, and has room."""
        try:
            value = self.done[-1]
            if place < self.sent:  # looked at after the value, which may be None for that
                return
            if type(value) is Failed:
                value = pack_error(value.error, self._worker, keep=True)
                data, _ = wire.dumps((False, value), self._worker.by_value)
            else:
                data, buffers = wire.dumps((True, value), self._worker.by_value)
                if buffers:
                    return
            at = self._log
            end = at + wire.ENTRY.size + len(data)
            whole, page = self._worker.memory, self._page
            if end <= wire.PAGE and page is not None and whole is not None:
                wire.ENTRY.pack_into(whole, at, place, len(data))
                whole[at + wire.ENTRY.size : end] = data
                self._log = end
                page[2] = end - wire.LOG
        except Exception:
            return

    def steps(self) -> Iterator[Iterator[Any]]:
        """As `taken`, STEP items at a time. Each line here is paid for by those."""
        claim, rest, begun = self.claim, self._rest, self.begun
        if left := begun - self._consumed():
            yield islice(rest, left)  # of the step in which an error came
        while True:
            with claim:
                if begun >= self.end:
                    break
                begun = min(begun + STEP, self.end)
                self.begun = begun
            if (page := self._page) is not None:  # looked for anew: an item may have forked
                page[1] = begun
            yield islice(rest, STEP)
        self.ended = True

    def _consumed(self) -> int:
        """How many items of a long batch `fn` was called with."""
        with self.claim:
            left: int = self._rest.__length_hint__()  # type: ignore[attr-defined]
            return len(self.items) - left

    def run(self, job: Job) -> None:
        """Runs all items that nobody takes back."""
        short = len(self.items) <= LOGGED
        done, fn = self.done, job.fn
        call = starmap if job.star else map
        while not self.ended:
            try:
                results = call(fn, self.taken() if short else chain.from_iterable(self.steps()))
                if self._log or FREE_THREADED:
                    for value in results:
                        done.append(value)
                        del value
                else:
                    done.extend(results)
                if not self.ended:  # that was no end of the items
                    raise StopIteration
            except BaseException as error:
                self._fail(error, self.begun if short else self._consumed())

    def _fail(self, error: BaseException, begun: int) -> None:
        """Takes note of what an item raised. A handler's error between two items is nobody's."""
        trace = error.__traceback__
        if len(self.done) < begun:
            self.failed = True
            self.done.append(Failed(error.with_traceback(trace and trace.tb_next)))
        else:
            sys.excepthook(type(error), error, trace)


class Gone:
    """In place of the wire, in a process that an item has forked: there is nobody to be told, so it ends.

    It writes into none of the memory that it has in common with its parent.
    """

    sock = claim = keep = None
    look_out = 0.0

    def __getattr__(self, name: str) -> NoReturn:
        os._exit(0)


class Worker:
    """The one worker of this process."""

    def __init__(self, link: wire.Wire, tokens: int, control: int, memory: Any) -> None:
        self.wire: Any = link
        self.tokens, self.control, self.memory = tokens, control, memory
        self.page = None if memory is None else memoryview(memory).cast("Q")
        self.by_value: tuple[bytes, ...] = (b"__main__",)
        self.keep: float | None = None  # seconds without work until it ends
        self.job: Job | None = None
        self.batch: Batch | None = None
        self.helped = False
        self.token: int | None = None  # taken for a batch that is still to come
        self.sending = allocate_lock()
        self.told: dict[str, Any] = {}
        self.growth = 0  # bytes that it may grow by; 0: any
        self.usual = 0  # bytes of memory after its first batch
        self.looked = 0.0
        self.answered = 0.0  # when the last call that came alone was
        self.lookout = wire.Lookout()
        self.collected = False  # the last time, because it had grown

    def main(self) -> None:
        """Serves frames until there are no more."""
        while (frame := self.next_frame()) is not None:
            if frame.kind == wire.CALL:
                self.do_call(frame)
                if frame.count == wire.LOOK_OUT and self.lookout.worth():
                    self.wire.look_out = wire.QUICK
            elif frame.kind == wire.BATCH:
                self.do_batch(frame)
            elif frame.kind == wire.JOB:
                self.take_job(frame)
            elif frame.kind == wire.SETUP:
                self.set_up(loads(frame.data))
            elif frame.kind == wire.EXIT:
                return

    def next_frame(self) -> Any:
        """The next frame; None when the parent has gone, or nothing came for long."""
        try:
            while (frame := self.wire.get()) is None:
                if not self.wire.fill():
                    return None
        except OSError:  # a TimeoutError, too: `keep` is over
            return None
        return frame

    def set_up(self, told: dict[str, Any]) -> None:
        """Makes this process as like the parent as it need be."""
        for name, value in told["sys"].items():
            setattr(sys, name, value)
        self.told = told
        self.go_home()
        if told["authkey"] is not None:
            from multiprocessing import process

            process.current_process().authkey = told["authkey"]
        try:
            with open("/proc/self/comm", "w") as comm:
                comm.write(told["name"])
        except OSError:
            pass
        if "by_value" in told:  # what will be wanted takes long to load
            try:  # noqa: SIM105 - as in `flush_output`
                wire.sibling("byvalue")
            except Exception:  # told when it is wanted
                pass

    def go_home(self) -> None:
        """Takes the parent's folder and environment, whatever the last job has made of its own."""
        environ, folder = self.told["environ"], self.told["cwd"]
        if os.environ != environ:
            os.environ.clear()
            os.environ.update(environ)
        try:
            if folder is not None:
                os.chdir(folder)
        except OSError:  # it has been removed: so be it, here as there
            pass

    def forked(self) -> None:
        """In a process that an item has forked: only the item is its own; then it ends (`Gone`)."""
        sock, self.wire = self.wire.sock, Gone()
        self.page = self.memory = None
        self.sending._at_fork_reinit()  # type: ignore[attr-defined]  # as in `Batch`
        if self.batch is not None:
            self.batch.forked()
        try:
            if sock is not None:  # else it is a child's child
                sock.close()
        except OSError:  # the item has closed it
            pass

    def take_job(self, frame: Any) -> None:
        """Unpickles what is to be done, and runs its initializer."""
        self.job = None
        keep = frame.count / 1000 if frame.count else None
        self.wire.keep = keep
        if not frame.data:
            self.wire.done_with(frame)
            self.wire.trim()
            self.go_home()
            return
        what = "the function"
        try:
            plain, packed = loads(frame.data)
            self.by_value = plain["by_value"]
            self.growth, self.usual = plain["growth"], 0
            frame.copy()  # the function stays
            fn, initializer, initargs = loads(packed, buffers=frame.buffers)
            if fn is None:
                fn = call
            if initializer is not None:
                what = "the initializer"
                initializer(*initargs)
            self.job = Job(fn, plain["star"], plain["retries"])
        except BaseException as error:
            self.send(wire.BAD, frame.number, 0, (what, pack_error(error, self)))
            return
        finally:
            self.wire.done_with(frame)
        self.send(wire.READY, frame.number, 0, None)

    def do_batch(self, frame: Any) -> None:
        """Runs a batch, unless the parent has taken it back."""
        if not self.may_begin(frame.number):
            self.wire.done_with(frame)
            return
        job = self.job
        if job is None:  # it could not be had, and the parent knows
            self.wire.done_with(frame)
            return
        try:
            if self.wire.keeps_many:
                frame.copy()
            items = loads(frame.data, buffers=frame.buffers)
        except BaseException as error:
            self.wire.done_with(frame)
            self.send(wire.BAD, frame.number, 1, ("", pack_error(error, self)))
            return
        batch = Batch(frame.number, items, self)
        del items
        if len(batch.items) > 1 and not self.helped:
            self.helped = True
            start_new_thread(self.help, ())
        self.batch = batch
        began = perf_counter()
        batch.run(job)
        seconds = perf_counter() - began
        self.batch = None
        batch.items.clear()
        with self.sending:
            if began >= self.looked + LOOK:
                self.look_at_memory(began)
            self.answer(wire.DONE, batch, seconds, 0, frame)

    def do_call(self, frame: Any) -> None:
        """Runs one call that came alone, to an idle worker, unless the parent has taken it back."""
        if not self.may_begin(frame.number) or self.job is None:
            self.let_go(frame)
            return
        page, number = self.page, frame.number
        if page is not None:
            page[2] = 0
            page[1] = 1
            page[0] = number
        value = error = None
        began = perf_counter()
        self.lookout.took(began - self.answered)
        try:
            try:
                fn, args, kwargs = loads(frame.data)
            finally:
                self.let_go(frame)
            value = fn(*args, **kwargs)
        except BaseException as caught:
            trace = caught.__traceback__
            error = pack_error(caught.with_traceback(trace and trace.tb_next), self)
        seconds = perf_counter() - began
        flush_output()
        if error is None and type(value) in PLAIN:
            data = dumps((value, None, seconds), 5)
            with self.sending:
                if began >= self.looked + LOOK:
                    self.look_at_memory(began)
                try:
                    sent = self.wire.send(wire.RESULT, number, 1, data)
                except OSError:
                    os._exit(0)
                if not sent:
                    self.flush()
            self.answered = perf_counter()
            return
        buffers: list[memoryview] = []
        try:
            data, buffers = wire.dumps((value, error, seconds), self.by_value)
            with self.sending:
                self.wire.put(wire.RESULT, number, 1, data, buffers)
        except BaseException as why:
            _, errors = self.sorted_out([value], {} if error is None else {0: error}, why)
            buffers.clear()
            with self.sending:
                data = dumps((None, errors[0], seconds), 5)
                self.wire.put(wire.RESULT, number, 1, data)
        with self.sending:
            del value, buffers
            if began >= self.looked + LOOK:
                self.look_at_memory(began)
            self.flush()
        self.answered = perf_counter()

    def let_go(self, frame: Any) -> None:
        """Gives the memory of a call back, if it has any; that goes with the answer."""
        if frame.segment:
            with self.sending:
                self.wire.done_with(frame)

    def look_at_memory(self, now: float) -> None:
        """Asks to be replaced if this process has grown by too much."""
        self.looked = now
        if not self.growth:
            return
        if not self.usual:
            self.usual = own_memory()
        elif own_memory() - self.usual <= self.growth:
            self.collected = False
        elif not self.collected:  # what that frees may be seen by the next time
            import gc

            gc.collect()
            self.collected = True
        else:
            self.growth = 0  # asked once
            self.wire.put(wire.GROWN)

    def may_begin(self, number: int) -> bool:
        """Claims the batch, or takes its token, if it is there."""
        if self.wire.claim is not None:
            try:
                claimed: bool = self.wire.claim(number)
            except OSError:
                os._exit(0)
            return claimed
        if self.token is None:
            try:
                (self.token,) = wire.TOKEN.unpack(os.read(self.tokens, wire.TOKEN.size))
            except BlockingIOError:
                return False
        if self.token != number:
            return False
        self.token = None
        return True

    def help(self) -> None:
        """Gives the rest of a batch back, each time that the parent asks for it."""
        while (asked := os.read(self.control, wire.TOKEN.size)) != b"":
            with self.sending:
                batch = self.batch
                if batch is None or wire.TOKEN.pack(batch.number) != asked:
                    continue
                self.answer(wire.PART, batch, 0.0, batch.give_back(), None)

    def answer(self, kind: int, batch: Batch, seconds: float, back: int, frame: Any) -> None:
        """Sends the outcomes that are there. The caller holds `sending`."""
        done, first = batch.done, batch.sent
        last = len(done)  # before its end it goes on growing
        values = done[first:last] if first or kind == wire.PART else done
        batch.sent = last
        if kind == wire.PART:
            done[first:last] = [None] * len(values)  # not kept longer than it takes to send them
        errors: dict[int, Any] | None = None
        if batch.failed:
            errors = {}
            for place, value in enumerate(values):
                if type(value) is Failed:
                    values[place] = None
                    errors[place] = pack_error(value.error, self)
        flush_output()
        for final in (False, False, True):
            try:
                data, buffers = wire.dumps((values, errors, seconds, back), self.by_value)
                self.wire.put(kind, batch.number, len(values), data, buffers)
                break
            except BaseException as why:
                if final:
                    raise
                values, errors = self.sorted_out(values, errors or {}, why)
        del values, data, buffers
        if kind == wire.DONE:
            done.clear()
        if frame is not None:
            self.wire.done_with(frame)
        self.flush()

    def sorted_out(
        self, values: list[Any], errors: dict[int, Any], why: BaseException
    ) -> tuple[list[Any], dict[int, Any]]:
        """As `values` and `errors`, with what cannot be pickled as an error.

        If each can be, they are too much for the memory there is, which `why` says: all are errors.
        """
        bad: dict[int, BaseException] = {}
        for place, value in enumerate(values):
            try:
                wire.dumps(value, self.by_value)
            except BaseException as error:
                bad[place] = error
        if not bad:
            large = (n for n, value in enumerate(values) if n in errors or type(value) not in PLAIN)
            bad = dict.fromkeys(large, why)
        for place, cause in bad.items():
            text = f"{cause} (the result {wire.sibling('errors').shown(values[place])})"
            values[place] = None
            errors[place] = ("unsent", type(cause).__name__, text, "")
        return values, errors

    def send(self, kind: int, number: int, count: int, thing: Any) -> None:
        """Sends one frame."""
        data, buffers = wire.dumps(thing, self.by_value)
        with self.sending:
            self.wire.put(kind, number, count, data, buffers)
            self.flush()

    def flush(self) -> None:
        """Sends all there is; ends the process if nobody reads it any more."""
        try:
            self.wire.flush()
        except OSError:
            os._exit(0)


def call(packed: Any) -> Any:
    """One call of an executor, pickled by itself so that it fails by itself."""
    if isinstance(packed, tuple):
        fn, args, kwargs = loads(packed[0], buffers=packed[1])
    else:
        fn, args, kwargs = loads(packed)
    return fn(*args, **kwargs)


def flush_output() -> None:
    """What an item printed is there before its result is."""
    for name in ("stdout", "stderr"):
        try:  # noqa: SIM105 - contextlib would be an import more for each worker
            getattr(sys, name).flush()
        except Exception:
            pass


def pack_error(
    error: BaseException, worker: Worker, keep: bool = False
) -> tuple[str, Any, Any, str]:
    """An exception as it travels (errors.py), with its traceback.

    Nothing is left for the exception to hold, unless it is to be packed again (`keep`).
    """
    import traceback

    text = "".join(traceback.format_exception(error))
    if not keep:
        error.__traceback__ = error.__context__ = error.__cause__ = None
    packed: tuple[str, Any, Any, str] = wire.sibling("errors").pack(
        error, text, lambda thing: wire.whole(thing, worker.by_value)
    )
    return packed


def own_memory() -> int:
    """Bytes of memory that are this process's alone."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            pages = statm.read().split()
        return (int(pages[1]) - int(pages[2])) * UNIT
    except OSError:
        return 0


def tie_to_parent(lifeline: int) -> bool:
    """Has the kernel kill this process when the other end of the lifeline is closed; False if it does not."""
    try:
        import fcntl

        # Opened anew: who gets the signal belongs to the open file, and ours is nobody else's.
        fd = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(fd, F_SETSIG, 9)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        return False
    try:
        if os.read(fd, 1) == b"":  # it was closed before
            os._exit(0)
    except BlockingIOError:
        pass
    return True


def extension(path: str) -> Any:
    """gorun's extension, without gorun; under its name, for a gorun that comes later."""
    from _frozen_importlib import _load  # type: ignore[attr-defined]
    from _frozen_importlib_external import spec_from_file_location

    return _load(spec_from_file_location("gorun._gorun", path))


def main(path: str, sock: str, lifeline: str, control: str, either: str, kind: str) -> NoReturn:
    """The program: where the extension is; descriptors, the last one of memory or of tokens."""
    import signal
    from _socket import socket

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    fds = [int(fd) for fd in (sock, lifeline, control, either)]
    for fd in fds:
        os.set_inheritable(fd, False)
    tied = tie_to_parent(fds[1])
    memory, end = None, socket(fileno=fds[0])
    link = wire.Wire(end)
    if kind == "memory":
        import mmap

        memory = mmap.mmap(fds[3], wire.PAGE)
        rings = extension(path)._Link(fds[3], wire.PAGE, fds[0])
        os.close(fds[3])
        link = wire.sibling("linked").WorkerEnd(end, rings, tied)
    worker = Worker(link, fds[3], fds[2], memory)
    os.register_at_fork(after_in_child=worker.forked)
    worker.main()
    sys.exit(0)  # as a program ends: exit handlers, flushed output
