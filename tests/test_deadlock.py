"""Deadlock: the alarm comes in simple cases, and does not while one of the conditions of API.md stands.

In children: in a test run other threads are awake. Where there must be no alarm, somebody acts after
LATER seconds, several looks later; a child that must hang is ended by SIGALRM, whose default action
needs no handler.
"""

from __future__ import annotations

import signal
import textwrap

import pytest
from tests import _child

pytestmark = pytest.mark.no_matrix

LATER = 0.4
HUNG = -signal.SIGALRM

HELPERS = f"""
import asyncio, contextlib, ctypes, time, threading, signal
from gorun import Chan, Deadlock
LATER = {LATER}
ch = Chan()
def hang_until_alarm():
    signal.setitimer(signal.ITIMER_REAL, LATER)
def later(act, *args):
    time.sleep(LATER)
    act(*args)
def alarm(fn, *args):
    try:
        got = fn(*args)
    except Deadlock as e:
        return str(e)
    raise AssertionError(f'no alarm, but {{got!r}}')
"""


def run(script: str, code: int = 0, **env: str) -> str:
    """Runs it with one and with two Ps; what was printed the last time."""
    out = ""
    for procs in ("1", "2"):
        source = HELPERS + textwrap.dedent(script)
        out = _child.run(source, code=code, GOMAXPROCS=procs, **env).out
    return out


# ---- the alarm comes ---------------------------------------------------------------------------

SIMPLE = {
    "a channel that nobody sends to": "ch.recv()",
    "a channel that nobody receives from": "ch.send(1)",
    "iteration": "for _ in ch: pass",
    "a select": "gorun.select(ch, gorun.send(ch, 1))",
    "a select of nothing": "gorun.select()",
    "a mutex": "mu = gorun.Mutex(); mu.acquire(); mu.acquire()",
    "a side of a RWMutex": "mu = gorun.RWMutex(); mu.reader.acquire(); mu.writer.acquire()",
    "a semaphore": "gorun.Semaphore(0).acquire()",
    "a WaitGroup that is never done": "wg = gorun.WaitGroup(); wg.add(); wg.wait()",
    "an event": "gorun.Event().wait()",
    "a barrier": "gorun.Barrier(2).wait()",
    "a join of a coroutine's goroutine": "async def f(): await ch.recv_async()\ngo(f).result()",
    "a join of a plain goroutine": "g = go(ch.recv); g.result()",
    "one of several": "gorun.wait([go(ch.recv), go(ch.recv)])",
    "as_completed": "list(gorun.as_completed([go(ch.recv)]))",
    "a run": "gorun.run(ch.recv)",
    "a goroutine inside another": "gorun.run(lambda: go(ch.recv).result())",
}


@pytest.mark.parametrize("case", SIMPLE)
def test_the_alarm_comes(case: str) -> None:
    """The main thread waits for ever, alone or with goroutines that do. The text says where it waits.

    Mutations: `stuck` says false; `Watch::turn` says Sleep; `note` leaves out idle Ms, or sysmon, or Ms whose
    goroutine waits.
    """
    body = textwrap.indent(SIMPLE[case], "    ")
    run(
        f"def wait_here():\n{body}\ntext = alarm(wait_here)\n"
        + "assert 'in wait_here' in text, text\n"
    )


def test_each_waits_for_the_other() -> None:
    """Main holds what a goroutine wants; two goroutines want what the other holds. They are left where they are.

    Mutations: `describe` without `_leaks.describe`; `note` cuts goroutines (`cut: true`).
    """
    script = """
    mu = gorun.Mutex()
    mu.acquire()
    async def wants():
        await mu.acquire_async()
        return 'had it'
    g = go(wants)
    for _ in range(2):
        text = alarm(g.result)
        assert 'goroutine 1 [waiting: mutex' in text and 'in wants' in text, text
        assert 'thread MainThread [waiting: join]' in text, text
    mu.release()
    assert g.result() == 'had it'
    a, b = gorun.Mutex(), gorun.Mutex()
    def both(first, second, said, heard):
        with first:
            said.send(1)
            heard.recv()
            second.acquire()
    x, y = Chan(1), Chan(1)
    one = gorun.spawn(both, (a, b, x, y), name='one')
    two = gorun.spawn(both, (b, a, y, x), name='two')
    text = alarm(one.result)
    assert 'goroutine 2 (one) [blocked: mutex' in text, text
    assert 'goroutine 3 (two) [blocked: mutex' in text, text
    b.release()  # nobody owns it
    one.result(), two.result()
    """
    run(script)


def test_run_cancels_its_main_first() -> None:
    """`main` cleans up, then the alarm is raised; others are left alone. Mutation: no wait after the cancel."""
    script = """
    other = go(ch.recv)
    async def main():
        try:
            await Chan().recv_async()
        except gorun.Cancelled as e:
            await gorun.sleep_async(0.2)
            print('cleanup', e.reason)
            raise
    alarm(gorun.run, main)
    print('then', other.done())
    ch.send('value')
    assert other.result() == 'value'
    """
    assert run(script) == "cleanup deadlock\nthen False"


def test_it_ends_a_program() -> None:
    """Nobody catches it: it is printed with the dump, and the program fails. Mutation: `stuck` says false."""
    ended = _child.run("gorun.run(gorun.Chan().recv)", code=1, err=None)
    assert "gorun.Deadlock: every goroutine is asleep" in ended.err
    assert "goroutine 1 [blocked: chan receive" in ended.err


def test_other_threads_that_wait_raise_it_too() -> None:
    """With the same text, which names each. Mutations: `cut_found` cuts nobody; the text is made after it."""
    script = """
    texts = []
    threads = [
        threading.Thread(target=lambda: texts.append(alarm(Chan().recv)), name=f'waiter-{n}') for n in range(3)
    ]
    for t in threads: t.start()
    texts.append(alarm(gorun.Event().wait))
    for t in threads: t.join()
    assert len(texts) == 4 and len(set(texts)) == 1, texts
    for n in range(3):
        assert f'thread waiter-{n} [waiting: chan receive]' in texts[0], texts[0]
    assert 'thread MainThread [waiting: event]' in texts[0], texts[0]
    """
    run(script)


def test_a_group() -> None:
    """The children are cancelled, and the alarm is an error of the group; also if they cannot be cut.

    Mutation: no `except Deadlock` in `__exit__` (the second child: a hang).
    """
    script = """
    def stubborn():
        with gorun.shield():
            ch.recv()
    for child in (ch.recv, stubborn):
        try:
            with gorun.Group() as group:
                g = group.go(child)
        except ExceptionGroup as e:
            assert all(isinstance(x, Deadlock) for x in e.exceptions), e.exceptions
            print(len(e.exceptions), g.done())
    ch.send(1)
    """
    assert run(script) == "1 True\n2 False"


def test_many_parked_goroutines() -> None:
    """Its cost does not grow with them; of very many the first thousand are shown. Mutation: `infos` unsliced."""
    script = """
    async def parked():
        await ch.recv_async()
    gs = gorun.go_many(lambda _: parked(), range(20_000))
    text = alarm(gorun.Event().wait)
    assert text.count('in parked') == 1000
    assert '... and 19000 goroutines more' in text
    ch.close()
    gorun.wait(gs)
    for g in gs: g.exception()
    """
    run(script)


def test_idle_executors_are_no_obstacle() -> None:
    """Their workers wait for ever, too. Mutation: Ms whose goroutine waits are awake."""
    script = """
    with gorun.Executor(3) as executor:
        assert list(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]
        alarm(ch.recv)
        assert executor.submit(abs, -4).result() == 4
    """
    run(script)


def test_in_a_child() -> None:
    """A forked child has threads and seats of its own. Mutation: `sit` looks at no epoch."""
    script = """
    t = threading.Thread(target=ch.recv, daemon=True)
    t.start()
    go(gorun.sleep, 0.01).result()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the fork beside threads
        pid = os.fork()
    if pid == 0:
        text = alarm(ch.recv)
        g = go(ch.recv)
        text += alarm(g.result)
        os._exit('Thread-1' in text)
    assert os.waitpid(pid, 0)[1] == 0
    ch.send(1)
    """
    run(script)


# ---- the alarm does not come ---------------------------------------------------------------------

BEFORE = {
    "a thread that sleeps": "threading.Thread(target=later, args=(ch.send, 1)).start()",
    "a thread that waits with a time-out": """
def wait():
    with contextlib.suppress(TimeoutError): Chan().recv(timeout=LATER)
    ch.send(1)
threading.Thread(target=wait).start()""",
    "a thread that starts one": """
def chain(n): threading.Thread(target=chain, args=(n - 1,)).start() if n else ch.send(1)
threading.Timer(LATER, chain, (50,)).start()""",
    "a goroutine that sleeps in C": "go(later, ch.send, 1)",
    "a goroutine inside blocking()": """
def wait():
    with gorun.blocking(): time.sleep(LATER)
    ch.send(1)
go(wait)""",
    "a goroutine that computes": """
def compute():
    end = time.monotonic() + LATER
    while time.monotonic() < end: pass
    ch.send(1)
go(compute)""",
    "a goroutine that waits by its thread, with a time-out": """
def wait():
    with contextlib.suppress(TimeoutError): Chan().recv(timeout=LATER)
    ch.send(1)
go(wait)""",
    "a goroutine's sleep": """
async def wait():
    await gorun.sleep_async(LATER)
    await ch.send_async(1)
go(wait)""",
    "a goroutine's time-out": """
async def wait():
    with contextlib.suppress(TimeoutError): await Chan().recv_async(timeout=LATER)
    await ch.send_async(1)
go(wait)""",
    "a scope's time-out": """
async def wait():
    with contextlib.suppress(TimeoutError), gorun.timeout(LATER): await Chan().recv_async()
    await ch.send_async(1)
go(wait)""",
    "a context's deadline": """
ctx = gorun.background().with_timeout(LATER)
async def wait():
    await ctx.done.recv_ok_async()
    await ch.send_async(1)
go(wait)""",
    "a Timer": "timer = gorun.Timer(LATER, ch.send); timer.stop(); gorun.Timer(LATER, lambda: ch.send(1))",
    "a Ticker": """
ticker = gorun.Ticker(LATER)
go(lambda: (ticker.chan.recv(), ticker.stop(), ch.send(1)))""",
    "a job": "job = gorun.every(LATER, lambda: (job.cancel(), ch.try_send(1)))",
    "an event loop in another thread": """
async def in_loop():
    await asyncio.sleep(LATER)
    await ch.send_async(1)
threading.Thread(target=lambda: asyncio.run(in_loop())).start()""",
    "a task that waits, in a loop that is called from outside": """
async def in_loop():
    loop = asyncio.get_running_loop()
    threading.Timer(LATER, loop.call_soon_threadsafe, (go, ch.send, 1)).start()
    await inner.recv_async()
inner = Chan()
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_until_complete, args=(in_loop(),), daemon=True).start()""",
    "a thread that Python does not know": """
@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def begin(_):
    ch.send(1)
libc = ctypes.CDLL(None)
@ctypes.CFUNCTYPE(ctypes.c_int)
def nothing(): return 0
# sleep(seconds) as the body of a thread, which then calls nobody; the next one calls us.
thread = ctypes.c_ulong()
def start():
    libc.usleep(int(LATER * 1e6))
    libc.pthread_create(ctypes.byref(thread), None, begin, None)
first = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: start())
libc.pthread_create(ctypes.byref(thread), None, first, None)""",
    "an executor at work": """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(later, ch.send, 1)""",
    "an idle executor of another kind": """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(abs, -1).result()
threading.Timer(LATER, pool.submit, (ch.send, 1)).start()""",
    "a child process": """
import subprocess
def wait(): ch.send(subprocess.run(['sleep', str(LATER)]).returncode + 1)
threading.Thread(target=wait).start()""",
    "a signal handler": """
signal.signal(signal.SIGUSR1, lambda *_: go(ch.send, 1))
if os.fork() == 0:
    time.sleep(LATER)
    os.kill(os.getppid(), signal.SIGUSR1)
    os._exit(0)""",
    "a handler of its own for SIGINT": """
signal.signal(signal.SIGINT, lambda *_: go(ch.send, 1))
if os.fork() == 0:
    time.sleep(LATER)
    os.kill(os.getppid(), signal.SIGINT)
    os._exit(0)""",
}


@pytest.mark.parametrize("case", BEFORE)
def test_no_alarm_while_there_is(case: str) -> None:
    """Somebody is there who will act. Mutations, by group of cases:

    - threads: the kernel is not asked how many there are; Ms whose goroutine runs are counted as asleep;
    - time-outs of threads: `set_for_ever(true)`;
    - timers: `nothing_to_do` does not look at the wheels;
    - handlers: `is_handled` says false, or takes any handler of SIGINT for the default one.
    """
    run(f"{BEFORE[case]}\nassert ch.recv() == 1\n")


def test_no_alarm_in_a_wait_with_a_timeout() -> None:
    """The main thread's own wait ends by itself. Mutation: `set_for_ever(true)`."""
    script = """
    start = time.monotonic()
    try:
        ch.recv(timeout=LATER)
    except TimeoutError:
        print('time-out')
    with contextlib.suppress(TimeoutError), gorun.timeout(LATER): ch.recv()
    gorun.sleep(LATER)
    assert time.monotonic() - start >= 3 * LATER
    """
    assert run(script) == "time-out"


def test_no_alarm_on_the_thread_of_a_loop() -> None:
    """An event loop exists: the main thread blocks inside one. Mutation: `tied` says false."""
    script = """
    async def main():
        hang_until_alarm()
        ch.recv()
    asyncio.new_event_loop().run_until_complete(main())  # `asyncio.run` sets a handler
    """
    run(script, code=HUNG)


def test_it_can_be_turned_off() -> None:
    """GORUN_DEADLOCK=0; another value is an error that names it. Mutation: `_watch_deadlocks(True)`."""
    run("hang_until_alarm(); ch.recv()", code=HUNG, GORUN_DEADLOCK="0")
    run("alarm(ch.recv)", GORUN_DEADLOCK="1")
    ended = _child.run("", code=1, err=None, GORUN_DEADLOCK="no")
    assert "ValueError: GORUN_DEADLOCK must be '0' or '1', not 'no'" in ended.err


def test_handlers_that_are_none() -> None:
    """Ignored signals, and the default handler of SIGINT, are no obstacle. Mutation: `is_handled` without them."""
    script = """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    alarm(ch.recv)
    signal.signal(signal.SIGUSR1, print)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    alarm(ch.recv)
    """
    run(script)


def test_ctrl_c_in_the_middle_of_it() -> None:
    """It comes while the text is made: it is raised, and nobody is cut. Mutation: `report` puts it into the text."""
    script = """
    t = threading.Thread(target=ch.recv)
    t.start()
    def interrupt(*args):
        os.kill(os.getpid(), signal.SIGINT)
    usual, sys._current_frames = sys._current_frames, interrupt
    try:
        Chan().recv()
    except KeyboardInterrupt:
        print('Ctrl-C')
    sys._current_frames = usual
    ch.send(1)
    t.join()
    """
    assert run(script) == "Ctrl-C"


def test_a_look_runs_no_python() -> None:
    """So it cannot fail, nor be seen, in a wait that ends well: at the limit of recursion, with `signal` patched, with
    a profiler's hook. Mutation: `is_handled` calls `signal.getsignal`.
    """
    script = """
    def fails(*args):
        raise ValueError
    signal.getsignal = signal.valid_signals = fails
    def deepest(n):
        try:
            return deepest(n + 1)
        except RecursionError:
            return n
    def deep(n):
        return deep(n - 1) if n else ch.recv()
    started = threading.Thread(target=later, args=(ch.send, 1))
    started.start()
    sys.setprofile(lambda frame, event, arg: seen.append(frame.f_code.co_filename))
    seen = []
    got = ch.recv()
    sys.setprofile(None)
    assert got == 1 and set(seen) == {'<string>'}, seen
    started = threading.Thread(target=later, args=(ch.send, 2))
    started.start()
    assert deep(deepest(0) - 1) == 2
    """
    run(script)


def test_the_alarm_after_an_obstacle_has_gone() -> None:
    """Looks go on, if at growing distances, as long as the wait. Mutation: `Watch::turn` looks once."""
    script = """
    threading.Thread(target=time.sleep, args=(LATER,)).start()
    alarm(ch.recv)
    """
    run(script)


def test_at_the_exit() -> None:
    """Threads and goroutines that wait for ever are left, in silence. A hook that waits for ever is told.

    Mutation: `turn` says Sleep once the interpreter goes down (a hang).
    """
    script = """
    import atexit
    threading.Thread(target=ch.recv, daemon=True).start()
    go(ch.recv), go(nap)
    """
    run(script)
    before = "import atexit; atexit.register(lambda: ch.recv())\n"  # called after gorun's own
    ended = _child.run("from gorun import Chan; ch = Chan(); go(ch.recv)", before=before, err=None)
    assert "Deadlock: every goroutine is asleep" in ended.err, ended.err
