//! The agent's side of a filter's listener: calls that wait for an answer (seccomp_unotify(2)).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::Call;
use crate::call::checked;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    audit: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`.
const RECEIVE: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Names the call in the answer.
    pub id: u64,
    /// The calling thread, as the agent's pid namespace sees it.
    pub thread: u32,
    pub call: Call,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns this value, without having been made.
    Value(i64),
    Error(Errno),
    /// It is made after all (Linux 5.5). No verdict on its arguments: memory that they point to may have changed.
    Continue,
}

/// Waits for the next call.
pub fn next(listener: impl AsFd) -> Result<Waiting, Errno> {
    // The kernel insists on zeroes.
    let mut found = Notification::default();
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the request's number carries the size of `found`, which is writable for the call.
    checked(i64::from(unsafe {
        libc::ioctl(fd, RECEIVE as _, &raw mut found)
    }))?;
    Ok(Waiting {
        id: found.id,
        thread: found.pid,
        call: Call {
            audit: found.audit,
            number: found.number as u32,
            arguments: found.arguments,
        },
    })
}

/// Answers it. `ENOENT`: the caller is gone, or was interrupted.
pub fn answer(listener: impl AsFd, id: u64, answer: Answer) -> Result<(), Errno> {
    const CONTINUE: u32 = 1;
    let (value, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Error(errno) => (0, -errno.raw_os_error(), 0),
        Answer::Continue => (0, 0, CONTINUE),
    };
    let response = Response {
        id,
        value,
        error,
        flags,
    };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the request's number carries the size of `response`, which outlives the call.
    checked(i64::from(unsafe {
        libc::ioctl(fd, SEND as _, &raw const response)
    }))
    .map(drop)
}
