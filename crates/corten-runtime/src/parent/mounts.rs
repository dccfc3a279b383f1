//! Detached mounts from their plans. Used by the maker, and by init for the kinds that must be made in its
//! own namespaces.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use corten_sys::mount::{self, Refused, clone_tree};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::plan::mounts::{Change, Link};

/// A new file system with a plan's options.
pub(crate) fn new_filesystem(
    fstype: &CStr,
    source: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<OwnedFd, Refused> {
    mount::new_filesystem(fstype, Some(source), &borrowed(options), attributes)
}

/// Other options for a file system that is mounted.
pub(crate) fn reconfigure(
    tree: impl AsFd,
    options: &[(CString, Option<CString>)],
) -> Result<(), Refused> {
    mount::reconfigure(tree, &borrowed(options))
}

/// Borrowed, so that init allocates nothing worth the name.
fn borrowed(options: &[(CString, Option<CString>)]) -> Vec<(&CStr, Option<&CStr>)> {
    options
        .iter()
        .map(|(key, value)| (key.as_c_str(), value.as_deref()))
        .collect()
}

fn raw(change: &Change) -> mount::Change {
    mount::Change {
        attributes: change.attributes,
        propagation: change.propagation,
        recursive: change.recursive,
    }
}

pub(crate) fn change_all(tree: impl AsFd, changes: &[Change]) -> Result<(), Errno> {
    changes
        .iter()
        .try_for_each(|change| mount::change(tree.as_fd(), &raw(change)))
}

/// A detached copy of the host's mount at `path`, changed as planned.
pub(crate) fn bind(
    path: &Path,
    recursive: bool,
    link: Link,
    changes: &[Change],
) -> Result<OwnedFd, Errno> {
    if link == Link::Bind {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = openat(CWD, path, flags, Mode::empty())?;
        let tree = clone_tree(&source, c"", recursive, &mount::Change::default())?;
        change_all(&tree, changes)?;
        return Ok(tree);
    }
    let (first, rest) = match changes.split_first() {
        // Where the first covers as much as the clone does, both are one call.
        Some((first, rest)) if first.recursive == recursive => (raw(first), rest),
        _ => (mount::Change::default(), changes),
    };
    let tree = clone_tree(CWD, path, recursive, &first)?;
    change_all(&tree, rest)?;
    Ok(tree)
}
