//! Detached mounts from their plans. Used by the maker, and by init for the kinds that must be made in its
//! own namespaces.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use corten_sys::mount::{self, Refused, clone_tree};
use rustix::fs::CWD;
use rustix::io::Errno;

use crate::plan::mounts::Change;

/// A new file system with a plan's options.
pub(crate) fn new_filesystem(
    fstype: &CStr,
    source: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<OwnedFd, Refused> {
    // Borrowed, so that init allocates nothing worth the name.
    let options: Vec<(&CStr, Option<&CStr>)> = options
        .iter()
        .map(|(key, value)| (key.as_c_str(), value.as_deref()))
        .collect();
    mount::new_filesystem(fstype, Some(source), &options, attributes)
}

fn raw(change: &Change) -> mount::Change {
    mount::Change {
        attributes: change.attributes,
        propagation: change.propagation,
        recursive: change.recursive,
    }
}

pub(crate) fn change_all(tree: &OwnedFd, changes: &[Change]) -> Result<(), Errno> {
    changes
        .iter()
        .try_for_each(|change| mount::change(tree, &raw(change)))
}

/// A detached copy of the host's mount at `path`, changed as planned.
pub(crate) fn bind(
    path: &std::path::Path,
    recursive: bool,
    changes: &[Change],
) -> Result<OwnedFd, Errno> {
    let (first, rest) = match changes.split_first() {
        // Where the first covers as much as the clone does, both are one call.
        Some((first, rest)) if first.recursive == recursive => (raw(first), rest),
        _ => (mount::Change::default(), changes),
    };
    let tree = clone_tree(CWD, path, recursive, &first)?;
    change_all(&tree, rest)?;
    Ok(tree)
}
