//! Starting a program with chosen descriptors, and adopting them on the other side.
//!
//! `std::process::Command` can hand over only descriptors 0 to 2; more need a
//! `pre_exec` closure, which is unsafe at each call and forces a slow fork. Here `posix_spawn` (a
//! `vfork` in glibc: no page tables are copied) does it with file actions, so a caller
//! with many threads or much memory pays nothing for them.

use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::signal::Mask;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    pub path: &'a Path,
    /// `argv`, the name included.
    pub arguments: &'a [&'a OsStr],
    /// Variables beside the caller's own; one of the same name takes its place.
    pub environment: &'a [(&'a str, &'a OsStr)],
    /// Standard input, output and error: `None` is `/dev/null`.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
    /// These become descriptors 3, 4, 5, …
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Whether it leads a session of its own, so that no terminal's signal reaches it.
    pub session: bool,
}

/// Starts the program with an empty signal mask and default dispositions. All
/// descriptors that are not named stay behind if they are close-on-exec, as Rust's are.
/// Returns its process id; the caller reaps it.
pub fn spawn(program: &Program<'_>) -> Result<u32, Errno> {
    let path = c_string(program.path.as_os_str())?;
    let arguments = program.arguments.iter().map(|a| c_string(a));
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    let environment = environment(program.environment)?;
    // Sources are first lifted above every target: a later dup2 must not overwrite one.
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let null = std::os::fd::AsFd::as_fd(&null);
    let floor = 3 + program.descriptors.len() as RawFd;
    let targets = program
        .stdio
        .iter()
        .map(|fd| fd.unwrap_or(null))
        .chain(program.descriptors.iter().copied());
    let lifted = targets
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, floor))
        .collect::<Result<Vec<_>, _>>()?;
    let mut actions = Actions::new()?;
    for (target, fd) in lifted.iter().enumerate() {
        actions.dup(fd, target as RawFd)?;
    }
    let attributes = Attributes::new(program.session)?;
    let argv = pointers(&arguments);
    let envp = pointers(&environment);
    let mut pid = 0;
    // SAFETY: path, argv and envp are C strings and null-terminated arrays of them that outlive the
    // call; actions and attributes are initialised; `pid` is writable.
    let error = unsafe {
        libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            &actions.0,
            &attributes.0,
            argv.as_ptr().cast::<*mut libc::c_char>(),
            envp.as_ptr().cast::<*mut libc::c_char>(),
        )
    };
    answer(error)?;
    Ok(pid as u32)
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::INVAL)
}

fn environment(more: &[(&str, &OsStr)]) -> Result<Vec<CString>, Errno> {
    let kept = std::env::vars_os().filter(|(k, _)| more.iter().all(|(m, _)| k != OsStr::new(m)));
    let more = more.iter().map(|(k, v)| (k.into(), v.into()));
    kept.chain(more)
        .map(
            |(mut pair, value): (std::ffi::OsString, std::ffi::OsString)| {
                pair.push("=");
                pair.push(value);
                c_string(&pair)
            },
        )
        .collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let null = [std::ptr::null()];
    strings.iter().map(|s| s.as_ptr()).chain(null).collect()
}

/// `posix_spawn` and its family return the error number itself.
fn answer(error: libc::c_int) -> Result<(), Errno> {
    match error {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error)),
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> Result<Self, Errno> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init writes the whole structure, or fails.
        answer(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: just initialised.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup(&mut self, fd: &OwnedFd, target: RawFd) -> Result<(), Errno> {
        // SAFETY: the structure is initialised; the numbers are only recorded.
        answer(unsafe {
            libc::posix_spawn_file_actions_adddup2(&mut self.0, fd.as_raw_fd(), target)
        })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new(session: bool) -> Result<Self, Errno> {
        /// `<spawn.h>` of glibc 2.26 and later.
        const SETSID: libc::c_int = 0x80;
        let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        if session {
            flags |= SETSID;
        }
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: init writes the whole structure, or fails.
        answer(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: just initialised.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are initialised in full before they are read, and copied by the setters.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            let it = &mut attributes.0;
            answer(libc::posix_spawnattr_setsigmask(it, none.as_ptr()))?;
            answer(libc::posix_spawnattr_setsigdefault(it, all.as_ptr()))?;
            answer(libc::posix_spawnattr_setflags(it, flags as libc::c_short))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

/// Has a command of the standard library begin with an empty signal mask, as [`spawn`] does. It passes on the caller's
/// (since Rust 1.67), and where signals are read from a descriptor that is a full one: what the command starts would
/// never hear of a SIGTERM.
pub fn unmask(command: &mut Command) -> &mut Command {
    let open = || Mask::empty().install().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call with a value of its own stack: it neither
    // allocates nor locks.
    unsafe { command.pre_exec(open) }
}

/// Adopts the descriptors from 3 up that this process was started with, `count` of
/// them, and marks them close-on-exec. They must be taken at the very start, before
/// anything else is opened: a second call gets none. One that is not open is an error.
pub fn inherited(count: usize) -> Result<Vec<OwnedFd>, Errno> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let numbers = 3..3 + RawFd::try_from(count).map_err(|_| Errno::INVAL)?;
    for number in numbers.clone() {
        // SAFETY: F_SETFD takes an integer, and fails on a closed descriptor.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(Errno::BADF);
        }
    }
    // SAFETY: open, as just seen; and only the first caller gets here, before this process has opened
    // any descriptor of its own, so nobody else owns them.
    Ok(numbers
        .map(|n| unsafe { OwnedFd::from_raw_fd(n) })
        .collect())
}
