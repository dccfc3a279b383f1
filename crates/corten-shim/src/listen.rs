//! Sockets at paths that may be longer than `sun_path`.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use corten_sys::socket::path_of;
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Connects, but never waits: where the other side takes nobody on and its queue is full, that is an error. What comes of
/// it does not block either.
pub fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let folder = open(folder, FOLDER, Mode::empty())?;
    let address = SocketAddrUnix::new(Path::new(&path_of(&folder)).join(name))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &address)?;
    Ok(stream.into())
}

/// Binds and listens at `folder/name`, in the place of a socket that a dead process left.
/// The address is 108 bytes at most, so it goes through `/proc/self/fd`.
pub fn bind_in(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let folder = open(folder, FOLDER, Mode::empty())?;
    let path = format!("{}/{name}", path_of(&folder));
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => UnixListener::bind(&path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_listener_that_takes_nobody_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let mut queued = Vec::new();
        let refused = loop {
            match connect_now(&path) {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
            assert!(queued.len() < 10);
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
