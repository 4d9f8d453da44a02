//! Tests of the probe against real threads. None waits for a time to pass: samples get invented times, and what a
//! thread does is awaited with a bound of ten seconds. "Mutation:" names the change that makes the test fail.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;

const MS: u64 = 1_000_000;
const READ: i64 = libc::SYS_read;
const FUTEX: i64 = libc::SYS_futex;
const WAIT: i32 = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
const WAKE: i32 = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
const TRUST: Interp = Interp {
    gil: false,
    runtime_range: None,
    trust_syscall: true,
    clock_bound_ns: CLOCK_BOUND_NS,
};

#[track_caller]
fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s");
        thread::sleep(Duration::from_micros(50));
    }
}

/// A thread that opens a probe of itself and then runs `work`.
fn watched(mode: Mode, work: impl FnOnce() + Send + 'static) -> (Arc<Probe>, JoinHandle<()>) {
    let (tx, rx) = mpsc::channel();
    let thread = thread::spawn(move || {
        let probe = Arc::new(Probe::open_current(mode));
        tx.send(probe.clone()).unwrap();
        drop(tx);
        work();
    });
    (rx.recv().unwrap(), thread)
}

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which nobody else owns afterwards.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1]))
    }
}

/// A thread asleep in read(2) until the pipe's other end, which is returned, is closed.
fn reader(mode: Mode) -> (Arc<Probe>, File, JoinHandle<()>) {
    let (mut rx, tx) = pipe();
    let (probe, thread) = watched(mode, move || {
        let _ = rx.read(&mut [0]);
    });
    // The probe may not read /proc (Mode::Clock), so ask by the path.
    let path = format!("/proc/self/task/{}/syscall", probe.tid());
    let call = format!("{READ} ");
    until(|| std::fs::read_to_string(&path).is_ok_and(|line| line.starts_with(&call)));
    (probe, tx, thread)
}

/// A thread that waits on a futex word, always at the same place, until the word is not 0.
struct Waiter {
    probe: Arc<Probe>,
    word: Arc<AtomicU32>,
    wakes: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Waiter {
    fn new() -> Self {
        let word = Arc::new(AtomicU32::new(0));
        let wakes = Arc::new(AtomicU32::new(0));
        let (w, n) = (word.clone(), wakes.clone());
        let (probe, thread) = watched(Mode::Auto, move || {
            while w.load(SeqCst) == 0 {
                let (at, none) = (w.as_ptr(), ptr::null::<libc::timespec>());
                // All six arguments, or the line would end in leftovers that differ from call to call.
                // SAFETY: the word lives as long as this closure.
                unsafe { libc::syscall(FUTEX, at, WAIT, 0_usize, none, 0_usize, 0_usize) };
                n.fetch_add(1, SeqCst);
            }
        });
        let this = Self {
            probe,
            word,
            wakes,
            thread,
        };
        this.asleep();
        this
    }

    fn at(&self) -> usize {
        self.word.as_ptr() as usize
    }

    fn asleep(&self) {
        let arg0 = self.at() as u64;
        until(|| self.probe.raw_line() == Some(Line::Call { nr: FUTEX, arg0 }));
    }

    fn wake(&self) {
        // SAFETY: only the address is used.
        unsafe { libc::syscall(FUTEX, self.word.as_ptr(), WAKE, 1) };
    }

    fn end(self) {
        self.word.store(1, SeqCst);
        self.wake();
        self.thread.join().unwrap();
    }
}

/// A thread that spins until the flag is set.
fn spinner(mode: Mode) -> (Arc<Probe>, Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, go) = (stop.clone(), Arc::new(AtomicBool::new(false)));
    let begun = go.clone();
    let (probe, thread) = watched(mode, move || {
        begun.store(true, SeqCst);
        while !flag.load(SeqCst) {
            std::hint::spin_loop();
        }
    });
    until(|| go.load(SeqCst));
    (probe, stop, thread)
}

#[test]
fn parses_the_kernels_lines() {
    // Mutation: take the second argument as arg0; accept any number of words; accept an unprefixed number.
    let call = |nr, arg0| Some(Line::Call { nr, arg0 });
    let p = |s: &str| Line::parse(s.as_bytes());
    assert_eq!(p("running\n"), Some(Line::Running));
    assert_eq!(p("running"), Some(Line::Running));
    assert_eq!(p("-1 0x7ffd3e0a8b60 0x55d0c1d0a1b4\n"), Some(Line::NoCall));
    let futex = "202 0x7f21dc000b60 0x189 0x0 0x0 0x0 0xffffffff 0x7ffc81f9f3a0 0x7f21e1c83a36\n";
    assert_eq!(p(futex), call(202, 0x7f21_dc00_0b60));
    let read = "0 0xffffffffffffffff 0x1 0x2 0x0 0x0 0x0 0x7ffc81f9f3a0 0x7f21e1c83a36\n";
    assert_eq!(p(read), call(0, u64::MAX));
    for garbage in [
        "",
        "\n",
        "runningx",
        "run",
        "-1",
        "-1 0x0\n",
        "-2 0x0 0x0\n",
        "202",
        "202 0x1 0x2\n",
        "x 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0",
        "1 0 0x0 0x0 0x0 0x0 0x0 0x0 0x0",
        "1 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0xg",
        "1 0x10000000000000000 0x0 0x0 0x0 0x0 0x0 0x0 0x0",
        "1  0x0 0x0 0x0 0x0 0x0 0x0 0x0",
        "99999999999999999999 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0",
    ] {
        assert_eq!(p(garbage), None, "{garbage:?}");
    }
    assert_eq!(Line::parse(b"\xff\xfe"), None);
    // The longest line fits into the buffer.
    let longest = format!("{}{}\n", i32::MAX, " 0xffffffffffffffff".repeat(8));
    assert!(longest.len() < 256 && p(&longest).is_some());
}

#[test]
fn the_rule_is_the_table_of_the_notes() {
    // Mutation: swap SUSPENDED and ATTACHED; drop the arm for a held GIL; drop restart_syscall or 449 in os.rs; make
    // the range inclusive; ignore `gil` in any arm; let NoCall be blocked at once.
    use Verdict::{Blocked, HasCpu, WaitsForInterpreter};
    let call = |nr, arg0| Line::Call { nr, arg0 };
    let old = Interp {
        gil: true,
        runtime_range: Some((1000, 2000)),
        ..TRUST
    };
    let musl = Interp { gil: true, ..TRUST };
    // A range is known on free-threaded builds too, but nobody waits for a GIL there.
    let free = Interp {
        runtime_range: Some((1000, 2000)),
        ..TRUST
    };
    let twice = Step::Quiet(FUTEX_WINDOW_NS);
    let waits = Step::Now(WaitsForInterpreter);
    let blocked = Step::Now(Blocked);
    let keep = Step::Now(HasCpu);
    for (line, state, interp, want) in [
        (Line::Running, None, &old, keep),
        (Line::Running, Some(1), &free, keep),
        // A few threads of a stop-the-world show "running".
        (Line::Running, Some(2), &free, keep),
        // GIL, no state (3.11, 3.12).
        (call(FUTEX, 1000), None, &old, waits),
        (call(FUTEX, 1999), None, &old, waits),
        (call(FUTEX, 999), None, &old, twice),
        (call(FUTEX, 2000), None, &old, twice),
        (call(READ, 1500), None, &old, blocked),
        (Line::NoCall, None, &old, twice),
        // After SIGCONT.
        (call(libc::SYS_restart_syscall, 1500), None, &old, waits),
        (call(libc::SYS_restart_syscall, 0), None, &old, twice),
        (call(449, 0), None, &old, twice),
        // GIL and state (3.13).
        (call(FUTEX, 1500), Some(0), &old, waits),
        (call(FUTEX, 0), Some(0), &old, twice),
        (call(FUTEX, 0), Some(1), &old, waits),
        (call(READ, 0), Some(0), &old, blocked),
        (call(READ, 0), Some(1), &old, keep),
        (Line::NoCall, Some(1), &old, keep),
        // GIL on musl: any futex may be the GIL's.
        (
            call(FUTEX, 1500),
            Some(0),
            &musl,
            Step::Quiet(CLOCK_BOUND_NS),
        ),
        (call(READ, 0), Some(0), &musl, blocked),
        (Line::NoCall, Some(0), &musl, twice),
        // Free-threaded.
        (call(FUTEX, 1500), Some(0), &free, twice),
        (call(FUTEX, 0), Some(1), &free, waits),
        (call(FUTEX, 0), Some(2), &free, waits),
        (call(READ, 0), Some(0), &free, blocked),
        (call(READ, 0), Some(1), &free, blocked),
        (call(READ, 0), Some(2), &free, waits),
        (Line::NoCall, Some(1), &free, twice),
        (call(FUTEX, 0), None, &free, twice),
        (call(FUTEX, 0), Some(0), &TRUST, twice),
        // A state that is not known yet (3.14: shutting down) is not attached.
        (call(READ, 0), Some(3), &old, blocked),
    ] {
        assert_eq!(
            judge(line, state, interp),
            want,
            "{line:?} {state:?} {interp:?}"
        );
    }
}

#[test]
fn calls_are_blocked_after_one_sample() {
    // Mutation: `(None, _) => Quiet(..)` in judge.
    let (probe, end, thread) = reader(Mode::Auto);
    for now in [0, 0, 5, u64::MAX] {
        assert_eq!(probe.sample(&TRUST, now), Verdict::Blocked);
    }
    drop(end);
    thread.join().unwrap();

    let (rx, end) = pipe();
    let (probe, thread) = watched(Mode::Auto, move || {
        let mut fd = libc::pollfd {
            fd: rx.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, alive.
        unsafe { libc::poll(&raw mut fd, 1, -1) };
    });
    until(|| probe.sample(&TRUST, 0) == Verdict::Blocked);
    drop(end);
    thread.join().unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let (probe, thread) = watched(Mode::Auto, move || {
        while !flag.load(SeqCst) {
            thread::sleep(Duration::from_millis(2));
        }
    });
    until(|| probe.sample(&TRUST, 0) == Verdict::Blocked);
    stop.store(true, SeqCst);
    thread.join().unwrap();
}

#[test]
fn a_futex_needs_two_samples_and_a_still_clock() {
    // Mutation: `stood > window` or a window of 0; do not compare the clock; do not compare the key; forget() does
    // nothing; do not keep `since` when nothing moved.
    let waiter = Waiter::new();
    let look = |now| waiter.probe.sample(&TRUST, now);
    assert_eq!(look(0), Verdict::Maybe);
    assert_eq!(look(49_999), Verdict::Maybe);
    assert_eq!(look(50_000), Verdict::Blocked);
    assert_eq!(look(9 * MS), Verdict::Blocked);
    waiter.probe.forget();
    assert_eq!(look(10 * MS), Verdict::Maybe);
    assert_eq!(look(11 * MS), Verdict::Blocked);
    // It ran, and shows the same line again.
    let before = waiter.wakes.load(SeqCst);
    waiter.wake();
    until(|| waiter.wakes.load(SeqCst) > before);
    waiter.asleep();
    assert_eq!(look(20 * MS), Verdict::Maybe);
    assert_eq!(look(21 * MS), Verdict::Blocked);
    // Another line, though the clock stands still.
    waiter.probe.key.store(1, SeqCst);
    assert_eq!(look(30 * MS), Verdict::Maybe);
    // A time that goes backwards is no reason.
    assert_eq!(look(0), Verdict::Maybe);
    waiter.end();
}

#[test]
fn a_futex_of_the_interpreter_is_no_block() {
    // Mutation: ignore the range; ignore state; `Quiet(FUTEX_WINDOW_NS)` when the range is unknown; forget() not called
    // after a verdict at once.
    let waiter = Waiter::new();
    let at = waiter.at();
    let gil = |range| Interp {
        gil: true,
        runtime_range: range,
        ..TRUST
    };
    let look = |interp: &Interp, now| waiter.probe.sample(interp, now);
    assert_eq!(
        look(&gil(Some((at, at + 4))), 0),
        Verdict::WaitsForInterpreter
    );
    assert_eq!(look(&gil(Some((at - 8, at))), 0), Verdict::Maybe);
    assert_eq!(look(&gil(Some((at - 8, at))), MS), Verdict::Blocked);
    // A verdict at once ends the series.
    assert_eq!(
        look(&gil(Some((at, at + 4))), 2 * MS),
        Verdict::WaitsForInterpreter
    );
    assert_eq!(look(&gil(None), 3 * MS), Verdict::Maybe);
    assert_eq!(
        look(&gil(None), 3 * MS + CLOCK_BOUND_NS - 1),
        Verdict::Maybe
    );
    assert_eq!(look(&gil(None), 3 * MS + CLOCK_BOUND_NS), Verdict::Blocked);

    let state = AtomicI32::new(SUSPENDED);
    // SAFETY: the pointer is taken back below, before `state` ends.
    unsafe { waiter.probe.set_state_ptr(state.as_ptr()) };
    assert_eq!(waiter.probe.raw_state(), Some(SUSPENDED));
    assert_eq!(look(&TRUST, 4 * MS), Verdict::WaitsForInterpreter);
    state.store(ATTACHED, SeqCst);
    assert_eq!(look(&TRUST, 5 * MS), Verdict::WaitsForInterpreter);
    state.store(0, SeqCst);
    assert_eq!(look(&TRUST, 6 * MS), Verdict::Maybe);
    assert_eq!(look(&TRUST, 7 * MS), Verdict::Blocked);
    // SAFETY: null.
    unsafe { waiter.probe.set_state_ptr(ptr::null()) };
    assert_eq!(waiter.probe.raw_state(), None);
    waiter.end();
}

#[test]
fn a_held_gil_is_not_handed_off() {
    // Mutation: drop the arm `(Some(ATTACHED), None) if interp.gil` in judge, or its twin in `sample`; read the state
    // although it is not trusted.
    let state = AtomicI32::new(ATTACHED);
    let gil = Interp {
        gil: true,
        runtime_range: Some((8, 16)),
        ..TRUST
    };
    let distrust = Interp {
        trust_syscall: false,
        ..gil.clone()
    };
    for mode in [Mode::Auto, Mode::Clock] {
        let (probe, end, thread) = reader(mode);
        // SAFETY: the probe is not sampled after this test.
        unsafe { probe.set_state_ptr(state.as_ptr()) };
        assert_eq!(probe.sample(&gil, 0), Verdict::HasCpu);
        assert_eq!(probe.sample(&gil, CLOCK_BOUND_NS), Verdict::HasCpu);
        assert_eq!(probe.sample(&distrust, 0), Verdict::Maybe);
        assert_eq!(probe.sample(&distrust, CLOCK_BOUND_NS), Verdict::Blocked);
        drop(end);
        thread.join().unwrap();
    }
}

#[test]
fn mutexes_and_condition_variables_end_as_blocked() {
    // Mutation: compare the clock with `!=`.
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let guard = pair.0.lock().unwrap();
    let theirs = pair.clone();
    let (probe, thread) = watched(Mode::Auto, move || {
        let mut done = theirs.0.lock().unwrap();
        while !*done {
            done = theirs.1.wait(done).unwrap();
        }
    });
    until(|| probe.sample(&TRUST, now()) == Verdict::Blocked);
    drop(guard);
    // Now it goes on to the condition variable.
    until(|| probe.sample(&TRUST, now()) == Verdict::Blocked);
    *pair.0.lock().unwrap() = true;
    pair.1.notify_one();
    thread.join().unwrap();
}

#[test]
fn a_spinning_thread_always_has_the_cpu() {
    // Mutation: `Line::Running => Step::Quiet(0)` in judge.
    let (probe, stop, thread) = spinner(Mode::Auto);
    for i in 0..20_000 {
        assert_eq!(probe.sample(&TRUST, i * MS), Verdict::HasCpu);
    }
    stop.store(true, SeqCst);
    thread.join().unwrap();
}

#[test]
fn a_clock_that_goes_on_has_the_cpu() {
    // Mutation: `known` without the clock in `quiet`; answer `Maybe` for `moved`. The invented time stands still
    // because on a loaded machine a spinning thread may wait long for a CPU: that is what the bound is for.
    let (probe, stop, thread) = spinner(Mode::Clock);
    let mut moved = 0;
    until(|| {
        let verdict = probe.sample(&TRUST, 0);
        assert!(
            matches!(verdict, Verdict::HasCpu | Verdict::Maybe),
            "{verdict:?}"
        );
        moved += u32::from(verdict == Verdict::HasCpu);
        moved >= 20
    });
    // And the longest stand-still is forgotten as soon as it moved.
    until(|| probe.sample(&TRUST, 10_000 * MS) == Verdict::HasCpu);
    stop.store(true, SeqCst);
    thread.join().unwrap();
}

#[test]
fn by_the_clock_a_sleeper_is_blocked_after_the_bound() {
    // Mutation: ignore the bound; open the file in Mode::Clock; read it without trust.
    for (mode, trust_syscall) in [(Mode::Clock, true), (Mode::Auto, false)] {
        let (probe, end, thread) = reader(mode);
        let interp = Interp {
            trust_syscall,
            clock_bound_ns: 40 * MS,
            ..TRUST
        };
        assert_eq!(mode == Mode::Clock, probe.raw_line().is_none());
        assert_eq!(probe.sample(&interp, 7), Verdict::Maybe);
        assert_eq!(probe.sample(&interp, 40 * MS + 6), Verdict::Maybe);
        assert_eq!(probe.sample(&interp, 40 * MS + 7), Verdict::Blocked);
        probe.forget();
        assert_eq!(probe.sample(&interp, 90 * MS), Verdict::Maybe);
        drop(end);
        thread.join().unwrap();
    }
}

#[test]
fn the_bound_grows_with_the_load_and_the_switch_interval() {
    // Mutation: drop either factor, or `max(1)`.
    assert_eq!(clock_bound_ns(0, 0, 0), 15 * MS);
    assert_eq!(clock_bound_ns(4, 2, 5 * MS), 15 * MS);
    assert_eq!(clock_bound_ns(5, 2, 5 * MS), 30 * MS);
    assert_eq!(clock_bound_ns(16, 2, 0), 60 * MS);
    assert_eq!(clock_bound_ns(2, 2, 100 * MS), 300 * MS);
}

#[test]
fn an_ended_thread_is_gone() {
    // Mutation: is_gone() answers false; answer HasCpu on an error.
    for mode in [Mode::Auto, Mode::Clock] {
        let (probe, thread) = watched(mode, || {});
        thread.join().unwrap();
        // join returns a little before the kernel lets the thread go.
        until(|| probe.sample(&TRUST, 0) == Verdict::Gone);
        assert_eq!(probe.raw_line(), None);
    }
}

#[test]
fn a_forked_child_sees_gone() {
    // Mutation: drop the comparison of pids in `sample` (bit 1), `raw_line` (bit 2) or `set_state_ptr` (hangs: killed
    // by the alarm).
    let (probe, end, thread) = reader(Mode::Auto);
    let state = AtomicI32::new(0);
    // SAFETY: the child only makes system calls, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // As if sysmon had been reading at the fork.
        probe.readers.store(1, SeqCst);
        // SAFETY: `state` outlives the child's use; alarm and _exit are safe after a fork.
        unsafe {
            libc::alarm(10);
            probe.set_state_ptr(state.as_ptr());
            let sees = u8::from(probe.sample(&TRUST, 0) != Verdict::Gone);
            libc::_exit(i32::from(sees | u8::from(probe.raw_line().is_some()) << 1));
        }
    }
    assert!(pid > 0);
    let mut status = -1;
    // SAFETY: our child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert_eq!(probe.sample(&TRUST, 0), Verdict::Blocked);
    drop(end);
    thread.join().unwrap();
}

#[test]
fn the_state_is_never_read_after_it_was_taken_back() {
    // Mutation: do not count in raw_state (fails in four of five runs). A loaded machine gets fewer rounds, hence no
    // count of them is demanded.
    let probe = Arc::new(Probe::open_current(Mode::Clock));
    let stop = Arc::new(AtomicBool::new(false));
    let (p, flag) = (probe.clone(), stop.clone());
    let sysmon = thread::spawn(move || {
        while !flag.load(SeqCst) {
            if let Some(state) = p.raw_state() {
                assert_eq!(state, 7, "read after it was taken back");
            }
        }
    });
    let start = Instant::now();
    let limit = Duration::from_millis(300);
    for round in 0..50_000 {
        if sysmon.is_finished() || start.elapsed() > limit {
            break;
        }
        let state = AtomicI32::new(7);
        // SAFETY: taken back before `state` ends.
        unsafe { probe.set_state_ptr(state.as_ptr()) };
        if round % 64 == 0 {
            thread::yield_now();
        }
        // SAFETY: null.
        unsafe { probe.set_state_ptr(ptr::null()) };
        state.store(-1, SeqCst); // As free() would.
        std::hint::black_box(&state);
    }
    stop.store(true, SeqCst);
    sysmon.join().unwrap();
}

#[test]
fn taking_the_state_back_waits_for_the_reader() {
    // Mutation: no loop in set_state_ptr. (Slowness cannot make it fail, only let that mutation pass.)
    let probe = Probe::open_current(Mode::Clock);
    let (begun, back) = (AtomicBool::new(false), AtomicBool::new(false));
    probe.readers.store(1, SeqCst);
    thread::scope(|scope| {
        scope.spawn(|| {
            begun.store(true, SeqCst);
            // SAFETY: null.
            unsafe { probe.set_state_ptr(ptr::null()) };
            back.store(true, SeqCst);
        });
        until(|| begun.load(SeqCst));
        thread::sleep(Duration::from_millis(10));
        let early = back.load(SeqCst);
        probe.readers.store(0, SeqCst);
        assert!(!early);
    });
}

#[test]
fn the_self_test_passes_here() {
    // Mutation: spin in the SLEEP phase, or sleep in the SPINNING phase; open_current(Mode::Clock).
    assert!(proc_readable());
}

#[test]
fn dropping_a_probe_closes_its_file() {
    // Mutation: hold the file by ManuallyDrop.
    let mine = format!("{}/syscall", os::tid());
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.ends_with(&mine)).count()
    };
    let probe = Probe::open_current(Mode::Auto);
    assert_eq!(open(), 1);
    drop(probe);
    assert_eq!(open(), 0);
}
