//! Paths inside a root that somebody else controls.
//!
//! Every lookup is one `openat2(RESOLVE_IN_ROOT)` (Linux 5.6): symbolic links, `..` and absolute
//! targets stay below the root whatever else renames meanwhile. What is missing is made through
//! descriptors, one component after the other, and never looked up a second time by its path
//! (CVE-2021-30465, CVE-2024-45310).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::weakened;

/// What a missing last component becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Folder,
    File,
}

const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// How often a lookup is tried again. The kernel gives EAGAIN when something was renamed during the
/// walk and it cannot tell whether `..` left the root; a hostile renamer could keep that up for ever.
const TRIES: usize = 128;

fn resolve(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = match path.as_os_str() {
        empty if empty.is_empty() => Path::new("."),
        _ => path,
    };
    for _ in 0..TRIES {
        let opened = openat2(
            root.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        );
        match opened {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens `path` below `root`, links followed as if `root` were `/`; magic links are refused.
pub fn open(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if weakened!("rooted.no_in_root") {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path);
        return resolve(root, path, flags, ResolveFlags::empty());
    }
    resolve(root, path.as_ref(), flags, how)
}

/// Opens `path` below `root` without following a single link nor crossing a mount: what is opened
/// belongs to the file system of `root` itself.
pub fn open_plain(
    root: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let how = match weakened!("rooted.follow") {
        true => ResolveFlags::empty(),
        false => how,
    };
    let path = path.as_ref();
    resolve(root, path.strip_prefix("/").unwrap_or(path), flags, how)
}

/// An `O_PATH` descriptor of `path` below `root`; what is missing of it is made.
pub fn open_or_make(root: impl AsFd, path: impl AsRef<Path>, make: Make) -> Result<OwnedFd, Errno> {
    let path = path.as_ref();
    match open(root.as_fd(), path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (mut at, missing) = deepest(root, path)?;
    for (index, name) in missing.iter().enumerate() {
        let last = index + 1 == missing.len();
        at = step(&at, name, if last { make } else { Make::Folder })?;
    }
    Ok(at)
}

/// The deepest folder of `path` that exists, and the names that are missing below it.
fn deepest(root: impl AsFd, path: &Path) -> Result<(OwnedFd, Vec<CString>), Errno> {
    let mut missing = Vec::new();
    let mut rest = path;
    loop {
        let name = rest.file_name().ok_or(Errno::NOENT)?;
        missing.push(CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?);
        rest = rest.parent().unwrap_or(Path::new(""));
        match open(root.as_fd(), rest, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(found) => {
                missing.reverse();
                return Ok((found, missing));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Makes one component in a folder that is held open. A link found in its place (dangling, or put
/// there by a rival) is an error, not followed.
fn step(at: &OwnedFd, name: &CString, make: Make) -> Result<OwnedFd, Errno> {
    let nofollow = match weakened!("console.by_path") {
        true => OFlags::empty(),
        false => OFlags::NOFOLLOW,
    };
    let path = OFlags::PATH | nofollow | OFlags::CLOEXEC;
    match make {
        Make::Folder => {
            match mkdirat(at, name.as_c_str(), FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            openat(at, name.as_c_str(), path | OFlags::DIRECTORY, Mode::empty())
        }
        Make::File => {
            let flags = OFlags::CREATE
                | OFlags::RDONLY
                | nofollow
                | OFlags::NONBLOCK
                | OFlags::NOCTTY
                | OFlags::CLOEXEC;
            openat(at, name.as_c_str(), flags, FILE_MODE)?;
            openat(at, name.as_c_str(), path, Mode::empty())
        }
    }
}
