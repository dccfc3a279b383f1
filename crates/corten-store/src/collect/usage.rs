//! What a tree occupies.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::trash::names;
use crate::error::{Error, Result};
use crate::snapshot::Usage;
use crate::store::open_folder;

/// Blocks and inodes below a folder, the folder included. It may change meanwhile: a container writes to it.
pub(crate) fn of(path: &Path) -> Result<Usage> {
    let mut usage = Usage {
        bytes: 0,
        inodes: 1,
    };
    let root = open_folder(path).map_err(Error::io("open folder", path))?;
    // Paths instead of descriptors: a container may nest folders as deep as it likes.
    let mut todo = vec![Vec::new()];
    while let Some(folder) = todo.pop() {
        add(&root, &folder, &mut usage, &mut todo).map_err(Error::io("measure", path))?;
    }
    Ok(usage)
}

fn add(
    root: &OwnedFd,
    path: &[u8],
    usage: &mut Usage,
    todo: &mut Vec<Vec<u8>>,
) -> Result<(), Errno> {
    let at = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(root, at, flags, Mode::empty()) {
        // Gone meanwhile, or deeper than one path reaches: no account of an engine's needs those.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    let device = rustix::fs::fstat(root)?.st_dev;
    for name in names(&folder)? {
        let stat = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let bytes = stat.st_blocks.cast_unsigned() * 512;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_dev != device {
            // A mounted image: its bytes are those of the files beside it.
            continue;
        }
        usage.inodes += 1;
        // Each name of a file with several takes its share; a folder's link count speaks of its subfolders.
        usage.bytes += match is_folder {
            true => bytes,
            false => bytes / stat.st_nlink.max(1),
        };
        if is_folder {
            todo.push(crate::layer::join(path, name.to_bytes()));
        }
    }
    Ok(())
}
