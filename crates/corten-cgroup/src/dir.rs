//! One group in one hierarchy: a folder held open, and its files.
//!
//! Every access is relative to the descriptor, so a group that is removed and
//! made again under the same name is never taken for the old one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::{Errno, read, write};
use rustix::path::Arg;

use crate::Error;

/// Large enough for `memory.stat` and for `cgroup.procs` of some hundred processes in one read.
const READ_STEP: usize = 4096;
/// No group file is larger; a process list of a million lines would be 8 MB.
const READ_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    /// Mount point of the hierarchy.
    pub(crate) root: PathBuf,
    /// v1 controllers; empty on v2, where they are read from the group.
    pub(crate) controllers: Vec<String>,
    pub(crate) v2: bool,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Opens a hierarchy's root.
pub(crate) fn open_root(root: &Path) -> Result<OwnedFd, Errno> {
    openat(
        CWD,
        root,
        FOLDER.difference(OFlags::NOFOLLOW),
        Mode::empty(),
    )
}

pub(crate) fn open_child(at: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(at, name, FOLDER, Mode::empty())
}

/// Makes a child group. `Ok(false)`: it was there.
pub(crate) fn make_child(at: BorrowedFd<'_>, name: &str) -> Result<bool, Errno> {
    match mkdirat(at, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Reads a whole file of a group.
pub(crate) fn read_file(at: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let fd = openat(at, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_all(fd.as_fd())
}

/// Reads a whole file of `/proc` about a group.
pub(crate) fn read_path(path: &str) -> Result<String, Errno> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_all(fd.as_fd())
}

pub(crate) fn read_all(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    let mut step = [0u8; READ_STEP];
    loop {
        match read(fd, &mut step) {
            Ok(0) => break,
            Ok(n) if bytes.len() + n > READ_MAX => return Err(Errno::FBIG),
            Ok(n) => bytes.extend_from_slice(&step[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// Writes a value in one call: the kernel parses each `write` on its own.
pub(crate) fn write_file(at: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Errno> {
    let fd = openat(at, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match write(&fd, value.as_bytes()) {
            Ok(n) if n == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::IO),
            // A memory limit below the usage makes the kernel reclaim, which a signal can interrupt.
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

impl Dir {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    pub(crate) fn read(&self, group: &str, file: &str) -> Result<String, Error> {
        read_file(self.fd.as_fd(), file).map_err(|source| Error::Read {
            file: file.into(),
            group: group.into(),
            source,
        })
    }

    /// Like [`read`](Self::read), but a file that this kernel does not have is `None`.
    pub(crate) fn read_if(&self, group: &str, file: &str) -> Result<Option<String>, Error> {
        match read_file(self.fd.as_fd(), file) {
            Ok(text) => Ok(Some(text)),
            // ENODEV: the group was removed meanwhile; EOPNOTSUPP: switched off at boot.
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
            Err(source) => Err(Error::Read {
                file: file.into(),
                group: group.into(),
                source,
            }),
        }
    }

    pub(crate) fn write(&self, group: &str, file: &str, value: &str) -> Result<(), Error> {
        write_file(self.fd.as_fd(), file, value).map_err(|source| Error::Write {
            value: value.trim_end().into(),
            file: file.into(),
            group: group.into(),
            source,
        })
    }
}
