//! The overlay file system's own marks on files and folders (Documentation/filesystems/overlayfs.rst).

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags};
use rustix::io::{Errno, Result};

/// Set to `y` on a folder that hides all below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Is this xattr the overlay's own? It shows none of those through a mount, and obeys any: a layer must not bring them.
pub(crate) fn is_private(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// A whiteout: a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn make_whiteout(folder: impl AsFd, name: &[u8]) -> Result<()> {
    let mode = Mode::from_raw_mode(0);
    rustix::fs::mknodat(folder, name, FileType::CharacterDevice, mode, 0)
}

pub(crate) fn make_opaque(folder: impl AsFd) -> Result<()> {
    rustix::fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
}

pub(crate) fn is_opaque(folder: impl AsFd) -> Result<bool> {
    let mut value = [0u8; 8];
    match rustix::fs::fgetxattr(folder, OPAQUE, &mut value[..]) {
        Ok(n) => Ok(&value[..n] == b"y"),
        Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A path to `name` in `folder` for the calls that take no folder descriptor (setxattr, before 6.13).
pub(crate) fn path_in(folder: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Stats without following.
pub(crate) fn stat(folder: impl AsFd, name: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(s) => Ok(Some(s)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
