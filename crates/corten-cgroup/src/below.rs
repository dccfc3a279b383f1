//! The groups below a group, whoever has made them.
//!
//! A container that may make groups may make them deep, and name them by any bytes. One folder is open at a time, and no call
//! calls itself, so neither descriptors nor the stack bound how deep one may look.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir as ReadDir, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::dir::open_child;

/// What is met on the way.
pub(crate) enum Step<'a> {
    /// A group, before those below it.
    Into(&'a OwnedFd),
    /// A child of a group, after those below it.
    OutOf(&'a OwnedFd, &'a CStr),
}

/// Visits a group and all below it. Those that go meanwhile are not missed.
pub(crate) fn walk(
    top: &OwnedFd,
    mut visit: impl FnMut(Step<'_>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut at = match open_child(top.as_fd(), c".") {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        opened => opened?,
    };
    visit(Step::Into(&at))?;
    // Of each group from the top to the present one: the children to come, the present one the last.
    let mut path = vec![children(&at)?];
    loop {
        let Some(next) = path.last().and_then(|names| names.last()) else {
            path.pop();
            let Some(done) = path.last_mut().and_then(Vec::pop) else {
                return Ok(());
            };
            at = open_child(at.as_fd(), c"..")?;
            visit(Step::OutOf(&at, &done))?;
            continue;
        };
        match open_child(at.as_fd(), next) {
            Ok(child) => {
                at = child;
                visit(Step::Into(&at))?;
                path.push(children(&at)?);
            }
            Err(Errno::NOENT | Errno::NODEV) => drop(path.last_mut().and_then(Vec::pop)),
            Err(errno) => return Err(errno),
        }
    }
}

/// Names of the groups directly below; none of one that is gone.
fn children(group: &OwnedFd) -> Result<Vec<CString>, Errno> {
    // The link count of a group is 2 + its children: most have none, so save the listing.
    if rustix::fs::fstat(group)?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = match openat(group, ".", flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut names = Vec::new();
    for entry in ReadDir::new(listing)? {
        let entry = match entry {
            Err(Errno::NOENT | Errno::NODEV) => break,
            entry => entry?,
        };
        let name = entry.file_name();
        if entry.file_type().is_dir() && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
