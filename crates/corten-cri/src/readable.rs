//! A descriptor that the reactor watches for us.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Inside a tokio runtime.
#[expect(
    deprecated,
    reason = "what took its place is unsafe, for descriptors that somebody else may close; an owned one is none"
)]
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
