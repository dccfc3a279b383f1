//! `kill`: signals to init, or to all processes.

use std::path::Path;

use corten_spec::ContainerId;
use corten_sys::process;

use crate::Error;
use crate::error::{failed, invalid};
use crate::state::{Found, Status, refused};

/// Sends `signal` to init, or with `all` to every process of the container's cgroup.
pub fn kill(state_root: &Path, id: &ContainerId, signal: i32, all: bool) -> Result<(), Error> {
    if !(0..=corten_sys::signal::LAST).contains(&signal) {
        return Err(invalid(
            "signal",
            format!("is {signal}, and must be from 0 to 64"),
        ));
    }
    let found = Found::open(state_root, id)?;
    if all {
        // Also of a stopped container: processes of a shared pid namespace outlive their init.
        return match found.cgroup()? {
            Some(cgroup) => cgroup.kill(signal).map_err(refused("kill all processes")),
            None if found.record.cgroup.is_empty() => super::members::signal(&found, signal),
            None => Ok(()),
        };
    }
    match &found.init {
        Some(init) => process::send_signal(&init.pidfd, signal)
            .map_err(failed("send a signal to", format!("process {}", init.pid))),
        None => Err(found.conflict("kill", Status::Stopped)),
    }
}
