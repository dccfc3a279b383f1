//! Descriptors sent over a Unix socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors in one message, at most. The kernel's limit is 253 (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 128;

/// Sends `bytes` together with one descriptor (`SCM_RIGHTS`).
pub fn send_fd(socket: impl AsFd, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    send_fds(socket, bytes, &[fd])
}

/// Sends `bytes`, which must not be empty, together with up to [`FDS_MAX`] descriptors.
pub fn send_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::NOBUFS);
    }
    let io = [IoSlice::new(bytes)];
    loop {
        match sendmsg(socket.as_fd(), &io, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message of [`send_fds`]: its bytes into `buffer`, its descriptors, close-on-exec, at
/// the end of `fds`. Returns how many bytes there were; 0 is the end of the stream. A message that
/// does not fit is `EMSGSIZE`.
pub fn receive_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut io = [IoSliceMut::new(&mut *buffer)];
        match recvmsg(
            socket.as_fd(),
            &mut io,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::MSGSIZE);
    }
    Ok(received.bytes)
}

/// Receives one descriptor. `None`: the other side closed, or sent something else.
pub fn receive_fd(socket: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    let mut fds = Vec::new();
    receive_fds(socket, &mut [0; 64], &mut fds)?;
    Ok(fds.pop())
}

/// `/proc/self/fd/N`: a path for a descriptor, where an interface has room for a path only, such as
/// the 108 bytes of a Unix socket's address.
pub fn path_of(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// How many bytes (with the kernel's own overhead) a socket has sent that have not left this
/// network namespace's links: a datagram waits here as long as its neighbour's hardware address is
/// asked for.
pub fn unsent(socket: impl AsFd) -> Result<usize, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, to a variable that lives across the call.
    let asked = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    crate::call::checked(asked.into())?;
    Ok(usize::try_from(count).unwrap_or(0))
}
