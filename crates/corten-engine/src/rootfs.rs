//! Reading and preparing inside a container's root. Every path is resolved by the kernel
//! within that root (openat2, RESOLVE_IN_ROOT): a symbolic link in an image cannot lead out.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Error;

/// Files such as /etc/passwd; larger ones are refused rather than read.
const MAX_FILE: u64 = 16 << 20;

/// Opens `path` as the container would see it.
pub fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere in the tree raced with the walk (openat2(2)).
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
}

/// The text of a file; one that does not exist, or is no plain file, is empty. It is looked at before it is
/// opened: opening a device of the image's making would already do something.
pub fn read_text(root: BorrowedFd<'_>, path: &'static str) -> Result<String, Error> {
    let io = |e: Errno| Error::io("read the container's", path)(e.into());
    let found = match open(root, path, OFlags::PATH) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(e) => return Err(io(e)),
    };
    let stat = rustix::fs::fstat(&found).map_err(io)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(String::new());
    }
    if stat.st_size.unsigned_abs() > MAX_FILE {
        return Err(io(Errno::FBIG));
    }
    let file = File::open(by_fd(found.as_fd())).map_err(Error::io("read the container's", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read the container's", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes the folder and those above it, owned by root, as docker does for a working folder
/// that an image names but does not have.
pub fn make_folders(root: BorrowedFd<'_>, path: &str) -> Result<(), Error> {
    let io = |e: Errno| Error::io("make the container's folder", path)(e.into());
    let folder = OFlags::PATH | OFlags::DIRECTORY;
    if open(root, path, folder).is_ok() {
        return Ok(());
    }
    let mut done = String::new();
    let mut at = open(root, ".", folder).map_err(io)?;
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        done.push('/');
        done.push_str(part);
        at = match open(root, &done, folder) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(at.as_fd(), part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(io(e)),
                }
                open(root, &done, folder).map_err(io)?
            }
            Err(e) => return Err(io(e)),
        };
    }
    Ok(())
}

/// A path that names what `fd` holds, for calls that take paths only.
pub fn by_fd(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}
