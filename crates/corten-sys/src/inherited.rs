//! Descriptors that whoever started this process has left open for it, by number (`sd_listen_fds(3)`).

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// The descriptor `number` for our own use: another one for the same thing, close-on-exec. The given one stays open, close-on-exec
/// from now on, so that no child has it. `EBADF`: there is none.
pub fn take(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: borrowed for these calls only, none of which closes it; where it is not open, the first says EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(fd)?;
    fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    fcntl_dupfd_cloexec(fd, number + 1)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_open_is_taken_and_no_child_has_it() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let taken = take(theirs.as_raw_fd()).unwrap();
        assert_ne!(taken.as_raw_fd(), theirs.as_raw_fd());
        for fd in [&taken, &theirs] {
            assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
        }
        drop((taken, ours));
        assert_eq!(take(-1).unwrap_err(), Errno::BADF);
        assert_eq!(take(1_000_000).unwrap_err(), Errno::BADF);
    }
}
