//! Owner, mode, xattrs and times: set from an entry, or taken over from another file.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use super::marks;

/// All that is set on a file besides its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Of a folder that no layer names.
    pub const IMPLIED: Self = Self {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    };

    /// Reads those of `name` in `folder`; an empty name is the folder itself. The overlay's own marks are left out.
    pub fn of(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Self> {
        let stat = match name {
            b"" => rustix::fs::fstat(folder)?,
            _ => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?,
        };
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(&stat),
            xattrs: xattrs(folder, name)?,
        })
    }
}

pub(crate) fn mtime(stat: &Stat) -> (i64, u32) {
    (
        stat.st_mtime,
        u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    )
}

pub(crate) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let t = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: t,
        last_modification: t,
    }
}

/// A folder's default ACL passes to all that is made in it (acl(5)), but a layer says of each file itself what it has. So what was inherited is
/// taken away before anything is set. Asking is cheap, and mostly all.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Everything but the times of an open file or folder. The order is the kernel's: chown takes away set-id bits and
/// `security.capability` (chown(2), capabilities(7)), so mode and xattrs come after it.
pub(crate) fn set_open(file: impl AsFd, a: &Attributes) -> Result<()> {
    rustix::fs::fchown(&file, uid(a.uid), gid(a.gid))?;
    for acl in ACLS {
        if rustix::fs::fgetxattr(&file, acl, &mut [0u8; 0]).is_ok() {
            rustix::fs::fremovexattr(&file, acl)?;
        }
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(a.mode))?;
    for (name, value) in &a.xattrs {
        rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(())
}

/// All of a file in a folder, never through a symlink.
pub(crate) fn set_named(
    folder: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    a: &Attributes,
) -> Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(folder, name, uid(a.uid), gid(a.gid), nofollow)?;
    if kind != FileType::Symlink {
        let path = marks::path_in(folder, name);
        for acl in ACLS {
            if rustix::fs::lgetxattr(path.as_slice(), acl, &mut [0u8; 0]).is_ok() {
                rustix::fs::lremovexattr(path.as_slice(), acl)?;
            }
        }
        // It was made by us under this name, so it is no symlink.
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(a.mode), AtFlags::empty())?;
    }
    if !a.xattrs.is_empty() {
        let path = marks::path_in(folder, name);
        for (name, value) in &a.xattrs {
            rustix::fs::lsetxattr(path.as_slice(), name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    rustix::fs::utimensat(folder, name, &times(a.mtime), nofollow)
}

/// Drops the xattrs that a file has, but for the overlay's marks.
pub(crate) fn clear_xattrs(folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let path = marks::path_in(folder, name);
    for (xattr, _) in xattrs(folder, name)? {
        rustix::fs::lremovexattr(path.as_slice(), xattr.as_slice())?;
    }
    Ok(())
}

fn xattrs(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = marks::path_in(folder, name);
    let names = grow(|buffer| rustix::fs::llistxattr(path.as_slice(), buffer))?;
    let mut out = Vec::new();
    for xattr in names.split(|&b| b == 0) {
        if xattr.is_empty() || marks::is_private(xattr) || is_host_label(xattr) {
            continue;
        }
        let Ok(c_name) = CString::new(xattr) else {
            continue;
        };
        match grow(|buffer| rustix::fs::lgetxattr(path.as_slice(), c_name.as_c_str(), buffer)) {
            Ok(value) => out.push((xattr.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    out.sort();
    Ok(out)
}

/// Labels that belong to the host's policy, whatever the machine that made the image had: SELinux and SMACK label by
/// place, and IMA and EVM sign for one file system.
pub(crate) fn is_host_label(xattr: &[u8]) -> bool {
    [
        b"security.selinux".as_slice(),
        b"security.SMACK64",
        b"security.ima",
        b"security.evm",
    ]
    .iter()
    .any(|l| xattr.starts_with(l))
}

/// XATTR_SIZE_MAX is 64 KiB, and so is the longest list.
fn grow(f: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match f(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 16 => buffer.resize(1 << 16, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    }
}

fn uid(n: u32) -> Option<Uid> {
    Some(Uid::from_raw(n))
}

fn gid(n: u32) -> Option<Gid> {
    Some(Gid::from_raw(n))
}
