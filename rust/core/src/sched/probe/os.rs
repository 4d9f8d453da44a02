//! The questions of a probe to the kernel.
//!
//! Invariants: nothing here keeps state or allocates; off Linux the answers are stubs, because `sample` asks none of
//! them.

pub(super) use imp::{cpu_clock, is_gone, may_be_futex, open, read, tid};

#[cfg(target_os = "linux")]
mod imp {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    pub fn tid() -> i32 {
        // Not libc::gettid: glibc has it only since 2.30.
        // SAFETY: no arguments, cannot fail.
        unsafe { libc::syscall(libc::SYS_gettid) as i32 }
    }

    /// Through thread-self: right also when this /proc belongs to another pid namespace than ours.
    pub fn open() -> Option<File> {
        File::open("/proc/thread-self/syscall").ok()
    }

    pub fn read<'a>(file: &File, buffer: &'a mut [u8; 256]) -> io::Result<&'a [u8]> {
        let n = file.read_at(buffer, 0)?;
        Ok(&buffer[..n])
    }

    /// A futex call, or a restarted one: after SIGCONT every timed wait (the GIL's too) shows as restart_syscall, with
    /// the arguments of the call that it goes on with.
    #[allow(
        clippy::unnecessary_cast,
        reason = "c_long has 32 bits on some targets"
    )]
    pub fn may_be_futex(nr: i64) -> bool {
        // futex_time64 (32 bits only), futex_waitv, futex_wait: numbers that all architectures share.
        nr == libc::SYS_futex as i64
            || nr == libc::SYS_restart_syscall as i64
            || matches!(nr, 422 | 449 | 455)
    }

    /// CPU time of a thread of this process in ns. The id is what pthread_getcpuclockid makes, from the kernel's
    /// number.
    pub fn cpu_clock(tid: i32) -> io::Result<u64> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is valid for writing; a wrong id is an error, not a fault.
        if unsafe { libc::clock_gettime((!tid << 3) | 6, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    pub fn is_gone(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL))
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::fs::File;
    use std::io;

    pub fn tid() -> i32 {
        0
    }
    pub fn open() -> Option<File> {
        None
    }
    pub fn read<'a>(_: &File, _: &'a mut [u8; 256]) -> io::Result<&'a [u8]> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub fn may_be_futex(_: i64) -> bool {
        false
    }
    pub fn cpu_clock(_: i32) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub fn is_gone(_: &io::Error) -> bool {
        false
    }
}
