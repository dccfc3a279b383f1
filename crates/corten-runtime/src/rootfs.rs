//! Root file systems as detached mounts.

use std::os::fd::OwnedFd;

use crate::Error;

/// A mount as containerd and the snapshotters describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind`, `erofs`, `tmpfs`, …
    pub fstype: String,
    pub source: String,
    /// As in `mount -o`: `lowerdir=…`, `ro`, `rbind`, …
    pub options: Vec<String>,
}

/// Makes one detached mount of `mounts`, the container's root. Nothing appears in the caller's
/// mount namespace.
pub fn assemble(mounts: &[Mount]) -> Result<OwnedFd, Error> {
    let _ = mounts;
    Err(Error::Unsupported {
        what: "assembling a root".into(),
    })
}
