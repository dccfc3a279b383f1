//! Copies of single files between trees, for where a hard link cannot reach: out of a mounted image into a folder.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use crate::layer::attributes::{self, Attributes};

/// What was copied already: two names of one file stay one file.
#[derive(Default)]
pub(super) struct Copies {
    /// By device and inode; where the copy is.
    made: HashMap<(u64, u64), (OwnedFd, Vec<u8>)>,
}

impl Copies {
    /// Gives what is `from` in `source` the name `to` in `folder`: as a hard link, or on another file system as a copy. Says whether
    /// it is a copy.
    pub fn link(
        &mut self,
        source: &OwnedFd,
        from: &[u8],
        folder: &OwnedFd,
        to: &[u8],
    ) -> Result<bool> {
        match rustix::fs::linkat(source, from, folder, to, AtFlags::empty()) {
            Err(Errno::XDEV) => self.copy(source, from, folder, to).map(|()| true),
            other => other.map(|()| false),
        }
    }

    fn copy(&mut self, source: &OwnedFd, from: &[u8], folder: &OwnedFd, to: &[u8]) -> Result<()> {
        let stat = rustix::fs::statat(source, from, AtFlags::SYMLINK_NOFOLLOW)?;
        let id = (stat.st_dev, stat.st_ino);
        if let Some((place, name)) = self.made.get(&id) {
            return rustix::fs::linkat(place, name.as_slice(), folder, to, AtFlags::empty());
        }
        make(source, from, &stat, folder, to)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let attributes = Attributes::of(source.as_fd(), from)?;
        attributes::set_named(folder.as_fd(), to, kind, &attributes)?;
        let place = rustix::io::fcntl_dupfd_cloexec(folder, 0)?;
        self.made.insert(id, (place, to.to_vec()));
        Ok(())
    }
}

fn make(source: &OwnedFd, from: &[u8], stat: &Stat, folder: &OwnedFd, to: &[u8]) -> Result<()> {
    let mode = Mode::from_raw_mode(0o600);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let read: File = rustix::fs::openat(source, from, flags, Mode::empty())?.into();
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let write: File = rustix::fs::openat(folder, to, flags, mode)?.into();
            contents(&read, &write).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(source, from, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), folder, to)
        }
        kind => rustix::fs::mknodat(folder, to, kind, mode, stat.st_rdev),
    }
}

/// Zeros become holes: a few bytes of a layer may be terabytes of them.
fn contents(read: &File, write: &File) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let n = match read.read_at(&mut buffer, at) {
            Ok(0) => return write.set_len(at),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if buffer[..n].iter().any(|&b| b != 0) {
            write.write_all_at(&buffer[..n], at)?;
        }
        at += n as u64;
    }
}
