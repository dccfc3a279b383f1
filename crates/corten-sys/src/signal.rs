//! Signals: dispositions and masks of a new process, and signals as a descriptor.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::call::checked;

/// The highest signal number, real-time ones included.
pub const LAST: i32 = 64;

/// A set of blocked signals.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

impl Mask {
    pub fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the whole set.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    pub fn full() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the whole set.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// Makes this the mask of the calling thread and returns the old one.
    pub fn install(&self) -> Result<Self, Errno> {
        let mut old = Self::empty();
        // The kernel's set is 64 bits long, and the C library's begins with them. The call is made without the C
        // library, which would leave out the two signals that it keeps for itself (32 and 33): a
        // container's process is not to find them blocked.
        const SIZE: usize = 8;
        // SAFETY: both sets are valid and at least SIZE bytes long; the old one is written.
        checked(unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.0,
                &raw mut old.0,
                SIZE,
            )
        })?;
        Ok(old)
    }
}

/// Puts the signals that a parent may have ignored back to default: dispositions "ignored" survive
/// both clone and exec (our own runtime ignores SIGPIPE, a shell's `&` SIGINT and SIGQUIT).
pub fn reset_ignored() {
    const OFTEN_IGNORED: [i32; 9] = [
        libc::SIGPIPE,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGCHLD,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    for signal in OFTEN_IGNORED {
        // SAFETY: SIG_DFL is always a valid disposition for these signals; it cannot fail.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // posix_spawn(3) of glibc leaves the two signals that it keeps for itself ignored, and offers no way to change that.
    for signal in [32, 33] {
        // The kernel's sigaction (handler, flags, restorer, mask) in its default form is all zeros.
        let default = [0u64; 4];
        // SAFETY: the kernel reads one sigaction, which is no larger than this on any architecture, and writes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<u64>(),
                8usize,
            )
        };
    }
}

/// Leaves children that end to the kernel: none becomes a zombie, and nobody can wait for one.
pub fn ignore_children() -> Result<(), Errno> {
    // SAFETY: SIG_IGN is a valid disposition for this signal.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// One signal that came in through [`Receiver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: i32,
    /// The sender, 0 for the kernel.
    pub pid: u32,
}

/// All signals of this process, by descriptor.
#[derive(Debug)]
pub struct Receiver(OwnedFd);

impl Receiver {
    /// Signals of `mask` must be blocked already, or they are delivered the old way.
    pub fn new(mask: &Mask) -> Result<Self, Errno> {
        // SAFETY: the mask is valid and only read.
        let fd = checked(
            unsafe { libc::signalfd(-1, &mask.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into(),
        )?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// The next pending signal, if there is one.
    pub fn next(&self) -> Result<Option<Received>, Errno> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = std::mem::size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has exactly the size that is told.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        match checked(read as libc::c_long) {
            Ok(_) => {
                // SAFETY: signalfd gives whole records only, and any bit pattern is valid.
                let info = unsafe { info.assume_init() };
                Ok(Some(Received {
                    signal: info.ssi_signo as i32,
                    pid: info.ssi_pid,
                }))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
