//! Waiting for word from a process that somebody may hold up.
//!
//! Where its pid namespace is shared, root of another container can stop a process on its way, trace it, or
//! take hold of its socket (pidfd_getfd(2)), whose end is then never seen. What is waited for may be
//! slow by itself: a cold disk, a copy into a tmpfs. So there is no short deadline, but a look at the
//! process ten times a second, for as long as it says nothing. Who gets an error kills the process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::error::Error;
use crate::handshake::{self, Message};
use crate::state;

/// For a container to be put together, and for what it executes to be read.
pub(crate) const MAKING: Duration = Duration::from_secs(600);
/// For a process more.
pub(crate) const ENTERING: Duration = Duration::from_secs(60);

/// How often to look.
const LOOK: Duration = Duration::from_millis(100);
/// strace(1) of ourselves stops it at each call, for moments.
const TRACED: Duration = Duration::from_secs(5);

/// Makes `socket` one that can be waited at.
pub(crate) fn prepare(socket: &OwnedFd) -> Result<(), Errno> {
    set_socket_timeout(socket, Timeout::Recv, Some(LOOK))
}

/// The next message of the process `pid`, at the latest after `patience`.
pub(crate) fn receive(socket: &OwnedFd, pid: u32, patience: Duration) -> Result<Message, Error> {
    receive_with_fd(socket, pid, patience).map(|(message, _)| message)
}

/// As [`receive`], with the descriptor that came along, if one did.
pub(crate) fn receive_with_fd(
    socket: &OwnedFd,
    pid: u32,
    patience: Duration,
) -> Result<(Message, Option<OwnedFd>), Error> {
    let since = Instant::now();
    let mut traced = None;
    loop {
        if let Some(message) = handshake::receive_with_fd(socket)? {
            return Ok(message);
        }
        let problem = match state::doing(pid) {
            None | Some(b'Z' | b'X') => return last(socket),
            Some(b'T') => Some("stopped by a process of the container".into()),
            Some(b't') => {
                let since = traced.get_or_insert_with(Instant::now);
                let held = since.elapsed() > TRACED;
                held.then(|| "held by a process of the container, which traces it".into())
            }
            Some(_) => {
                traced = None;
                if has_executed(pid) {
                    return last(socket);
                }
                None
            }
        };
        let late = || (since.elapsed() > patience).then(|| format!("no word for {patience:?}"));
        if let Some(status) = problem.or_else(late) {
            return Err(Error::Died { status });
        }
    }
}

/// Nothing will follow: what was said since we listened, or the end, which is not seen where somebody else
/// holds the other side of the socket.
fn last(socket: &OwnedFd) -> Result<(Message, Option<OwnedFd>), Error> {
    Ok(handshake::receive_with_fd(socket)?.unwrap_or((Message::End, None)))
}

/// Is it neither us nor our trampoline any more?
fn has_executed(pid: u32) -> bool {
    let exe = |who: &str| std::fs::read_link(Path::new("/proc").join(who).join("exe")).ok();
    let ours = |path: &Path| path.to_string_lossy().starts_with("/memfd:corten-init");
    exe(&pid.to_string()).is_some_and(|now| !ours(&now) && exe("self").as_ref() != Some(&now))
}
