//! Removing trees: a rename into `trash/` first, which is one instant, then name by name.
//!
//! A hostile layer may nest folders deeper than a process may have descriptors open, so what lies too deep is itself
//! renamed up into the trash, and its turn comes later.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::snapshot::attach;
use crate::store::{Store, open_folder};

/// One descriptor a level.
const DEPTH: usize = 48;

impl Store {
    /// Removes a tree, if it is there, so that at no instant half of it has its name.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<u64> {
        match put(self, path)? {
            Some(trashed) => empty(self, &trashed),
            None => Ok(0),
        }
    }
}

/// Moves something into the trash, if it is there; returns its new path.
pub(crate) fn put(store: &Store, path: &Path) -> Result<Option<PathBuf>> {
    let to = store.folder("trash").join(unique());
    match fs::rename(path, &to) {
        Ok(()) => Ok(Some(to)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("move to the trash", path)(e)),
    }
}

/// Removes one thing in the trash; returns the bytes of blocks freed. Others may be at the same thing.
pub(crate) fn empty(store: &Store, path: &Path) -> Result<u64> {
    let mut freed = 0;
    // A layer's folder, moved here by whoever did not look whether its image is mounted.
    attach::detach(path)?;
    let trash = store.folder("trash");
    let run = |freed: &mut u64| -> io::Result<()> {
        let fd = open_folder(&trash)?;
        let Some(name) = path.file_name() else {
            return Ok(());
        };
        let mut todo = vec![CString::new(name.as_bytes())?];
        while let Some(name) = todo.pop() {
            remove(fd.as_fd(), fd.as_fd(), &name, 0, &mut todo, freed)?;
        }
        Ok(())
    };
    run(&mut freed).map_err(Error::io("remove", path))?;
    Ok(freed)
}

fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    format!("{}-{n}-{nanos}", std::process::id())
}

fn remove(
    trash: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &CString,
    depth: usize,
    todo: &mut Vec<CString>,
    freed: &mut u64,
) -> Result<(), Errno> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_folder && depth >= DEPTH {
        let up = CString::new(unique()).map_err(|_| Errno::INVAL)?;
        gone(rustix::fs::renameat(parent, name, trash, &up))?;
        todo.push(up);
        return Ok(());
    }
    let flags = match is_folder {
        true => {
            let Some(folder) = found(open(parent, name))? else {
                return Ok(());
            };
            for child in names(&folder)? {
                remove(trash, folder.as_fd(), &child, depth + 1, todo, freed)?;
            }
            AtFlags::REMOVEDIR
        }
        false => AtFlags::empty(),
    };
    gone(rustix::fs::unlinkat(parent, name, flags))?;
    if is_folder || stat.st_nlink == 1 {
        *freed += stat.st_blocks.cast_unsigned() * 512;
    }
    Ok(())
}

fn open(parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// All names at once: what is removed while a folder is read may make the reading skip.
pub(crate) fn names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut out = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            out.push(name.to_owned());
        }
    }
    Ok(out)
}

fn found<T>(r: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match r {
        Ok(t) => Ok(Some(t)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn gone(r: Result<(), Errno>) -> Result<(), Errno> {
    found(r).map(|_| ())
}
