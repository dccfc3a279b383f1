//! The agent that decides on the system calls that a seccomp policy leaves open (`SCMP_ACT_NOTIFY`).
//!
//! ```text
//!   init ── Listener + descriptor ──▶ maker or starter ── container process state + descriptor ──▶ agent
//! ```
//! The agent is connected to before the process may go on, so that one that is not there costs nothing. The
//! descriptor goes with the first bytes, one state to a connection, which is closed after it (config-linux.md,
//! "The Container Process State"). runc sends it at `create`; here the filter is installed by the last step before
//! the program, so it is sent at `start`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};

use crate::error::{Error, failed};
use crate::handshake::Message;
use crate::parent::watch;
use crate::plan::seccomp::Listener;
use crate::state::Record;

/// Somebody to hand a listener to, or nobody if no filter has one.
#[derive(Debug)]
pub(crate) struct Agent<'a>(Option<(&'a Listener, OwnedFd)>);

impl<'a> Agent<'a> {
    pub fn dial(listener: Option<&'a Listener>) -> Result<Self, Error> {
        let Some(listener) = listener else {
            return Ok(Self(None));
        };
        let dial = || -> Result<OwnedFd, Errno> {
            let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
            let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
            connect_to(&socket, &listener.path)?;
            Ok(socket)
        };
        let socket = dial().map_err(failed("connect to the seccomp agent", &listener.path))?;
        Ok(Self(Some((listener, socket))))
    }

    /// The next message of `pid`. A listener on the way is handed on; `state` is the container's document
    /// then. The end before the listener is no success: without it nobody would answer the process's calls.
    pub fn receive(
        &mut self,
        socket: &OwnedFd,
        pid: u32,
        patience: Duration,
        state: impl Fn() -> String,
    ) -> Result<Message, Error> {
        let Some((listener, agent)) = &self.0 else {
            return watch::receive(socket, pid, patience);
        };
        match watch::receive_with_fd(socket, pid, patience)? {
            (Message::Listener, Some(fd)) => {
                let text = document(listener, pid, &state());
                hand_over(agent, text.as_bytes(), &fd)
                    .map_err(failed("send to the seccomp agent", &listener.path))?;
                self.0 = None;
                watch::receive(socket, pid, patience)
            }
            (Message::End, _) => Err(Error::Died {
                status: "no seccomp listener came from it".into(),
            }),
            (message, _) => Ok(message),
        }
    }
}

/// The state of a container whose process, not yet at its program, is `pid`.
pub(crate) fn state(record: &Record, status: &str) -> String {
    record.document(status, record.init.map_or(0, |init| init.pid))
}

/// `state` is JSON already.
fn document(listener: &Listener, pid: u32, state: &str) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let version = text(crate::OCI_VERSION);
    let metadata = match &listener.metadata {
        Some(metadata) => format!(",\"metadata\":{}", text(metadata)),
        None => String::new(),
    };
    format!(
        "{{\"ociVersion\":{version},\"fds\":[\"seccompFd\"],\"pid\":{pid}{metadata},\"state\":{state}}}"
    )
}

/// A path longer than the 108 bytes of an address is named through a descriptor of its folder.
fn connect_to(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return connect(socket, &address);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let folder = openat(CWD, parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let short = Path::new(&corten_sys::socket::path_of(&folder)).join(name);
    connect(socket, &SocketAddrUnix::new(short)?)
}

fn hand_over(agent: &OwnedFd, mut bytes: &[u8], fd: &OwnedFd) -> Result<(), Errno> {
    // The first call takes the descriptor and at least one byte; a stream may take the rest in parts.
    let (first, rest) = bytes.split_at(1);
    corten_sys::socket::send_fd(agent, first, fd.as_fd())?;
    bytes = rest;
    while !bytes.is_empty() {
        match send(agent, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_has_the_specifications_fields() {
        let listener = Listener {
            path: "/a".into(),
            metadata: Some("M=\"x\"".into()),
        };
        let text = document(&listener, 7, "{\"id\":\"web\"}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["fds"], serde_json::json!(["seccompFd"]));
        assert_eq!(
            (value["pid"].as_u64(), &value["metadata"]),
            (Some(7), &"M=\"x\"".into())
        );
        assert_eq!(value["state"]["id"], "web");
        assert!(value["ociVersion"].is_string());
    }
}
