//! Doing something inside another network namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

/// Opens the namespace at `path`; `None` if it has gone, which for DEL is as good as done.
pub fn open_if_there(path: &Path) -> Result<Option<File>, Error> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    match open(path) {
        Ok(file) => Ok(Some(file)),
        // A reaped process has no such path; one that is being reaped says ESRCH.
        Err(Error::Netns {
            source: Errno::NOENT | Errno::SRCH,
            ..
        }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Opens the namespace at `path`.
pub fn open(path: &Path) -> Result<File, Error> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|source| Error::Netns {
            path: path.into(),
            source,
        })
}

/// Whether `path` is the namespace of the calling thread.
pub fn is_own(path: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = identity(Path::new("/proc/thread-self/ns/net"));
    own.is_some() && own == identity(path)
}

/// Runs `work` on a thread of its own inside the namespace, so that the caller's thread never
/// leaves its own, not even when `work` panics.
pub fn inside<T: Send>(
    netns: &File,
    path: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                |source| Error::Netns {
                    path: path.into(),
                    source,
                },
            )?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
