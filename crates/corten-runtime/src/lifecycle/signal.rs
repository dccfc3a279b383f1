//! `kill`: signals to init, or to all processes.

use std::path::Path;

use corten_spec::ContainerId;
use corten_sys::process;

use crate::Error;
use crate::error::{failed, invalid};
use crate::state::{Found, Status, refused};

const SIGKILL: i32 = 9;

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
            Some(_) if signal == 0 => Ok(()),
            Some(cgroup) => cgroup.kill(signal).map_err(refused("kill all processes")),
            None if found.record.cgroup.is_empty() => super::members::signal(&found, signal),
            None => Ok(()),
        };
    }
    let Some(init) = &found.init else {
        return Err(found.conflict("kill", Status::Stopped));
    };
    process::send_signal(&init.pidfd, signal)
        .map_err(failed("send a signal to", format!("process {}", init.pid)))?;
    match signal {
        SIGKILL => finish(&found),
        _ => Ok(()),
    }
}

/// Init's end is that of its pid namespace. Where it has none of its own the others are killed too, as runc does;
/// and v1's frozen processes die when they are thawed only.
fn finish(found: &Found) -> Result<(), Error> {
    let Some(cgroup) = found.cgroup()? else {
        return Ok(());
    };
    if found.record.shares_pids {
        return cgroup.kill(SIGKILL).map_err(refused("kill all processes"));
    }
    match cgroup.is_frozen().map_err(refused("read the freezer"))? {
        true => cgroup.thaw().map_err(refused("resume the container")),
        false => Ok(()),
    }
}
