//! What a caller hands over beside stdio, and what it is handed: sockets of systemd's socket activation, further
//! descriptors, and a pidfd of the new process.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;

use super::options::Parsed;
use super::process::dial;
use super::{Failure, UsageError};

/// How many sockets systemd has given to us, from descriptor 3 up (sd_listen_fds(3)). What it has given to
/// somebody before us is not ours to pass on.
fn listening() -> Result<u32, Failure> {
    let variable = |name| std::env::var(name).ok();
    let (Some(count), Some(pid)) = (variable("LISTEN_FDS"), variable("LISTEN_PID")) else {
        return Ok(0);
    };
    if pid != std::process::id().to_string() {
        return Ok(0);
    }
    count.parse().map_err(|_| {
        Failure::Usage(UsageError::Bad {
            name: "preserve-fds",
            text: count,
            must: "a number in $LISTEN_FDS",
        })
    })
}

/// The descriptors that survive into the container: `$LISTEN_FDS` and `--preserve-fds` together.
pub(super) fn descriptors(parsed: &Parsed) -> Result<u32, Failure> {
    let asked: u32 = parsed.number("preserve-fds")?.unwrap_or(0);
    let count = listening()?.checked_add(asked).filter(|n| *n < 1 << 20);
    count.ok_or(Failure::Refused("too many descriptors are to be preserved"))
}

/// Tells the container's process of its sockets: it is process 1 of its namespace.
pub(super) fn announce(spec: &mut Spec) -> Result<(), Failure> {
    let count = listening()?;
    if count == 0 {
        return Ok(());
    }
    let Some(process) = spec.process().as_ref() else {
        return Ok(());
    };
    let mut process = process.clone();
    let mut environment = process.env().clone().unwrap_or_default();
    environment.push(format!("LISTEN_FDS={count}"));
    environment.push("LISTEN_PID=1".into());
    process.set_env(Some(environment));
    spec.set_process(Some(process));
    Ok(())
}

/// Somebody who wants a pidfd of the new process.
pub(super) struct Receiver(Option<OwnedFd>);

impl Receiver {
    /// Connects before anything is made. `annotation` is crun's, for who cannot change the command line.
    pub fn dial(parsed: &Parsed, spec: Option<&Spec>) -> Result<Self, Failure> {
        let annotations = spec.and_then(|s| s.annotations().as_ref());
        let annotation = annotations.and_then(|a| a.get("run.oci.pidfd_receiver"));
        let path = parsed
            .get("pidfd-socket")
            .or(annotation.map(String::as_str));
        let path = path.filter(|p| !p.is_empty());
        Ok(Self(path.map(|p| dial("pidfd", p)).transpose()?))
    }

    /// `kind` is runc's word for it: `standard` or `setns`.
    pub fn send(&self, kind: &str, pidfd: &OwnedFd) -> Result<(), Failure> {
        let Some(socket) = &self.0 else {
            return Ok(());
        };
        corten_sys::socket::send_fd(socket, kind.as_bytes(), pidfd.as_fd()).map_err(|source| {
            Failure::Kernel {
                what: "send the pidfd to its socket",
                source,
            }
        })
    }
}
