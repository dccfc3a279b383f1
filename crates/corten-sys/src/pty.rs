//! Terminals of a container's own devpts instance.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;

use crate::call::checked;
use crate::rooted;
use crate::socket::path_of;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// `/dev/ptmx` is 5:2; slaves have the majors 136 to 143 (devices.txt).
const PTMX: (u32, u32) = (5, 2);
const SLAVE_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a new terminal in the devpts whose root is `devpts`. The slave comes from the master by
/// `TIOCGPTPEER` (Linux 4.13), never by a path that something could be mounted over (CVE-2025-52565).
pub fn open(devpts: impl AsFd) -> Result<Terminal, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    pair(openat(devpts, "ptmx", flags, Mode::empty())?)
}

/// Opens a new terminal at `dev/pts/ptmx` inside `root`, a container's root folder. What is found
/// there is checked to be devpts, and only then opened: the container may have put anything in its place, and
/// the open of a device or of a file of FUSE can do harm, or never return.
pub fn open_in_root(root: impl AsFd) -> Result<Terminal, Errno> {
    let found = rooted::open(root, "dev/pts/ptmx", OFlags::PATH)?;
    check(&found, |major, minor| (major, minor) == PTMX)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    pair(openat(CWD, path_of(&found), flags, Mode::empty())?)
}

fn pair(master: OwnedFd) -> Result<Terminal, Errno> {
    check(&master, |major, minor| (major, minor) == PTMX)?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let unlocked = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    checked(unlocked.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes an integer and returns a descriptor.
    let peer =
        checked(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: a new descriptor that nobody else owns.
    let slave = unsafe { OwnedFd::from_raw_fd(peer as i32) };
    check(&slave, |major, _| SLAVE_MAJORS.contains(&major))?;
    Ok(Terminal { master, slave })
}

fn check(fd: &OwnedFd, device: impl Fn(u32, u32) -> bool) -> Result<(), Errno> {
    let stat = fstat(fd)?;
    let character =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if !character || !device(major, minor) || fstatfs(fd)?.f_type as i64 != DEVPTS_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    Ok(())
}

/// Tells a terminal its size in characters.
pub fn resize(terminal: impl AsFd, rows: u16, cols: u16) -> Result<(), Errno> {
    rustix::termios::tcsetwinsize(
        terminal,
        rustix::termios::Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}
