//! `delete`: nothing is left of a container.

use std::path::Path;

use corten_spec::ContainerId;
use corten_sys::process;

use crate::Error;
use crate::parent::hooks;
use crate::state::{Folder, Found, Status, open_cgroup, refused, wait_end};

const SIGKILL: i32 = 9;

/// Removes a stopped container's cgroup and state. With `force` it is killed first, and damaged
/// or missing state is no error. Returns warnings, of `poststop` hooks that failed.
pub fn delete(state_root: &Path, id: &ContainerId, force: bool) -> Result<Vec<String>, Error> {
    let found = match Found::open(state_root, id) {
        Ok(found) => found,
        Err(Error::NotFound { .. }) if force => return Ok(Vec::new()),
        Err(Error::State { .. }) if force => {
            return clean(state_root, id).map(|()| Vec::new());
        }
        Err(error) => return Err(error),
    };
    if !force {
        match found.status()? {
            Status::Stopped => {}
            other => return Err(found.conflict("delete", other)),
        }
    }
    if let Some(init) = &found.init {
        // ESRCH: it ended by itself meanwhile.
        let _ = process::send_signal(&init.pidfd, SIGKILL);
    }
    empty(&found.record.cgroup)?;
    if let Some(init) = &found.init {
        wait_end(&init.pidfd)?;
    }
    let spec = match found.record.hooks {
        true => found.folder.read_config().ok(),
        false => None,
    };
    found.folder.remove()?;
    let list = spec.as_ref().and_then(|s| s.hooks().as_ref());
    let Some(list) = list.and_then(|h| h.poststop().as_ref()) else {
        return Ok(Vec::new());
    };
    let document = found.record.document("stopped", 0);
    Ok(hooks::run_poststop(list, &document))
}

/// Kills what is left in the group, also what a shared pid namespace has let live, and removes it.
fn empty(path: &str) -> Result<(), Error> {
    let Some(cgroup) = open_cgroup(path)? else {
        return Ok(());
    };
    if !cgroup
        .pids()
        .map_err(refused("list the processes"))?
        .is_empty()
    {
        cgroup
            .kill(SIGKILL)
            .map_err(refused("kill all processes"))?;
    }
    cgroup.delete().map_err(refused("remove the control group"))
}

/// A folder without a readable record: its group is where it is by default, or in the spec if that is
/// readable.
fn clean(state_root: &Path, id: &ContainerId) -> Result<(), Error> {
    let folder = Folder::new(state_root, id);
    let spec = folder.read_config().ok();
    let linux = spec.as_ref().and_then(|s| s.linux().as_ref());
    let path = match linux.map(|l| crate::plan::cgroup::path(l, id.as_str())) {
        Some(Ok(path)) => path,
        _ => format!("/corten/{id}"),
    };
    empty(&path)?;
    folder.remove()
}
