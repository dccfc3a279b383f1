//! Sockets at paths that may be longer than `sun_path`.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Binds and listens at `folder/name`, in the place of a socket that a dead process left.
/// The address is 108 bytes at most, so it goes through `/proc/self/fd`.
pub fn bind_in(folder: &Path, name: &str) -> io::Result<UnixListener> {
    use rustix::fs::{Mode, OFlags, open};
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => UnixListener::bind(&path),
    }
}
