//! A container in a mount namespace that was there before it.
//!
//! The specification joins it by path. As with crun, the spec's mounts are then made below the root folder as it is
//! found there, where all who share the namespace see them, and they stay when the container is gone. The
//! root is changed by `chroot`: to pivot would move the root of all the others too.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use corten_sys::mount::{Change, attach, clone_tree};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{chroot, fchdir};

use super::mounts;
use crate::handshake::{Failure, Step};
use crate::parent::prepare::Prepared;
use crate::plan::Plan;

/// Makes all mounts; returns the root.
pub(crate) fn assemble<'a>(
    plan: &'a Plan,
    prepared: &mut Prepared,
) -> Result<OwnedFd, Failure<'a>> {
    let path = plan
        .root
        .path
        .as_deref()
        .map_or(OsStr::new(""), |p| p.as_os_str());
    let at = || Failure::at(Step::OpenRoot, path.as_encoded_bytes());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut root = openat(CWD, path, flags, Mode::empty()).map_err(at())?;
    if plan.root.read_only {
        // It takes a mount of its own to be read-only.
        let own = || -> Result<OwnedFd, Errno> {
            let tree = clone_tree(&root, c"", true, &Change::default())?;
            attach(&tree, &root, c"")?;
            Ok(tree)
        };
        root = own().map_err(at())?;
    }
    mounts::fill(plan, prepared, &root)?;
    Ok(root)
}

pub(crate) fn change_root<'a>(root: &OwnedFd) -> Result<(), Failure<'a>> {
    fchdir(root)
        .and_then(|()| chroot(c"."))
        .and_then(|()| rustix::process::chdir(c"/"))
        .map_err(Failure::at(Step::ChangeRoot, b"/"))
}
