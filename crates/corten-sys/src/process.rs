//! New processes, by `clone3` with every namespace at once, and waiting for them by pidfd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use rustix::io::Errno;

use crate::call::{checked, last};
use crate::namespace::Namespaces;

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the new process is born into.
#[derive(Debug, Default)]
pub struct Clone<'a> {
    pub namespaces: Namespaces,
    /// A cgroup v2 folder (`CLONE_INTO_CGROUP`, Linux 5.7): the process never is elsewhere, and no
    /// lock is taken as a later write to `cgroup.procs` would.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// A child of our parent instead of ours (`CLONE_PARENT`).
    pub sibling: bool,
    /// A descriptor of the caller's that the child is born without: the caller's end of a socket
    /// pair, so that the child sees when the caller is gone.
    pub without: Option<BorrowedFd<'a>>,
}

/// A child process.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    pub pidfd: OwnedFd,
}

/// `struct clone_args` of `linux/sched.h`, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Runs `child` in a new process with a copy of this one's memory; its result is the exit status.
/// Handlers of signals are back to default in it, ignored signals stay ignored.
///
/// The caller should have one thread: locks that another thread holds (the allocator's) stay held in
/// the child for ever. So `child` should also not allocate.
pub fn clone(request: &Clone<'_>, child: impl FnOnce() -> i32) -> Result<Child, Errno> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: u64::from(request.namespaces.bits())
            | libc::CLONE_PIDFD as u64
            | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if request.sibling {
        args.flags |= libc::CLONE_PARENT as u64;
        // The signal is that of our own end (clone(2)).
        args.exit_signal = 0;
    }
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child runs on a copy of this stack and memory and no reference of
    // ours is shared; `args` and `pidfd` outlive the call, and the size is that of the struct.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            std::mem::size_of::<CloneArgs>(),
        )
    };
    match pid {
        -1 => Err(last()),
        0 => {
            if let Some(fd) = request.without {
                // SAFETY: this closes the child's copy of the number. Its owner lives in a frame of
                // the caller, to which the child never returns, so nobody here uses or closes it again.
                unsafe { libc::close(fd.as_raw_fd()) };
            }
            leave(child)
        }
        pid => Ok(Child {
            pid: pid as u32,
            // SAFETY: CLONE_PIDFD has stored a new descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Runs the child and ends it without the parent's exit handlers. A panic must not unwind into
/// frames that belong to the parent.
fn leave(child: impl FnOnce() -> i32) -> ! {
    struct Abort;
    impl Drop for Abort {
        fn drop(&mut self) {
            exit_now(125);
        }
    }
    let _abort = Abort;
    exit_now(child())
}

/// `_exit(2)`: no handlers, no flushing.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(status) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal(u8),
}

impl Exit {
    /// As a shell says it: the code, or 128 + the signal.
    pub fn status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.wrapping_add(128),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Waits until a child has ended, and reaps it.
pub fn wait(pidfd: impl AsFd) -> Result<Exit, Errno> {
    loop {
        match rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        ) {
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code as u8),
                    (None, signal) => Exit::Signal(signal.unwrap_or(0) as u8),
                });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The largest resident set, in KiB, of any child that was waited for, or of a child of theirs
/// (`ru_maxrss` of getrusage(2)). It is never below this process's own at the moment of a `vfork`.
pub fn peak_of_children() -> Result<u64, Errno> {
    // SAFETY: an rusage of zeros is valid: it holds integers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one rusage, to the place of one.
    checked(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) }.into())?;
    Ok(usage.ru_maxrss as u64)
}

/// Sends a signal of any number, real-time ones included, through a pidfd.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    // SAFETY: the siginfo pointer may be null (pidfd_send_signal(2)); all else are integers.
    checked(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Marks every descriptor from `first` up close-on-exec, in one call (Linux 5.11).
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no descriptor is closed here, so no owner of one is betrayed.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes every descriptor but one. For a process that will only [`park`] after: owners of what is closed must not be used.
pub fn close_all_but(fd: impl AsFd) -> Result<(), Errno> {
    let kept = fd.as_fd().as_raw_fd() as u32;
    for (first, last) in [(0, kept.checked_sub(1)), (kept + 1, Some(u32::MAX))] {
        let Some(last) = last else { continue };
        // SAFETY: no memory is touched; the caller uses no other descriptor any more.
        checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    }
    Ok(())
}

/// Closes every descriptor and sleeps until a signal ends the process.
pub fn park() -> Result<std::convert::Infallible, Errno> {
    // SAFETY: no memory is touched. Owners of the descriptors are never used or dropped again, as nothing of this
    // process runs any more but the loop below, unless the call has failed and closed nothing.
    checked(unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0) })?;
    loop {
        rustix::event::pause();
    }
}

/// Closes many descriptors with few calls: each run of adjacent numbers with one (Linux 5.9).
pub fn close_all(fds: impl Iterator<Item = OwnedFd>) {
    let mut numbers: Vec<i32> = fds.map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            // SAFETY: every number between them was owned by what was passed in, and given up.
            unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) };
        }
    }
}

/// Makes `fd` the descriptor number `target` (0, 1 or 2 for stdio), inheritable.
pub fn install(fd: impl AsFd, target: i32) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    if fd == target {
        // dup2 of a descriptor to itself does nothing, so close-on-exec would stay.
        // SAFETY: F_SETFD takes an integer.
        return checked(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: callers name 0, 1 or 2 in a new process that is about to exec: what was there is given
    // up on purpose, and no OwnedFd stands for it.
    checked(unsafe { libc::dup2(fd, target) }.into()).map(drop)
}

/// Clears close-on-exec.
pub fn inherit(fd: impl AsFd) -> Result<(), Errno> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
}

/// Gives the calling process's memory to nobody but root in the host's user namespace: no ptrace, no
/// `/proc/PID/{exe,fd,mem}`. Inherited by children until they exec.
pub fn set_undumpable() -> Result<(), Errno> {
    if crate::weakened!("exec.dumpable") {
        return Ok(());
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}

/// The opposite of [`set_undumpable`]: whoever has the same ids may look. Where ids are mapped by
/// `newuidmap`, that program wants to see its caller own the process.
pub fn set_dumpable() -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
}
