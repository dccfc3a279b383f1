//! Descriptors sent over a Unix socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Sends `bytes` together with one descriptor (`SCM_RIGHTS`).
pub fn send_fd(socket: impl AsFd, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let io = [std::io::IoSlice::new(bytes)];
    sendmsg(socket, &io, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// `/proc/self/fd/N`: a path for a descriptor, where an interface has room for a path only, such as
/// the 108 bytes of a Unix socket's address.
pub fn path_of(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
