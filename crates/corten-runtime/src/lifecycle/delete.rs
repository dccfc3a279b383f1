//! `delete`: nothing is left of a container.

use std::os::fd::OwnedFd;
use std::path::Path;

use corten_cgroup::Cgroup;
use corten_spec::ContainerId;
use corten_sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;
use crate::error::failed;
use crate::parent::driver;
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
    Ending::of(found)?.remove()
}

/// All that the end of a container takes, looked up: who runs one in the foreground does so while it runs.
pub(crate) struct Ending {
    found: Found,
    cgroup: Option<Cgroup>,
}

impl Ending {
    pub fn open(state_root: &Path, id: &ContainerId) -> Result<Self, Error> {
        Self::of(Found::open(state_root, id)?)
    }

    fn of(found: Found) -> Result<Self, Error> {
        let cgroup = found.cgroup()?;
        Ok(Self { found, cgroup })
    }

    /// Kills what still lives, and removes everything. Returns warnings, of `poststop` hooks that failed.
    pub fn remove(self) -> Result<Vec<String>, Error> {
        let Self { found, cgroup } = self;
        if let Some(init) = &found.init {
            // ESRCH: it ended by itself meanwhile.
            let _ = process::send_signal(&init.pidfd, SIGKILL);
            // With it end all processes of its pid namespace, and it says so at once; that a group is empty
            // the kernel tells up to 10 ms later. A frozen one ends when the group is killed, below.
            ended_within(
                &init.pidfd,
                Timespec {
                    tv_sec: 0,
                    tv_nsec: 100_000_000,
                },
            )?;
        }
        empty(cgroup)?;
        if let Some(unit) = &found.record.unit {
            driver::stop(unit)?;
        }
        if let Some(resctrl) = &found.record.resctrl {
            resctrl.remove()?;
        }
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
}

fn ended_within(pidfd: &OwnedFd, limit: Timespec) -> Result<(), Error> {
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(failed("wait for", "init")(errno)),
    }
}

/// Kills what is left in the group, also what a shared pid namespace has let live, and removes it.
fn empty(cgroup: Option<Cgroup>) -> Result<(), Error> {
    let Some(cgroup) = cgroup else {
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
    empty(open_cgroup(&path)?)?;
    // Nothing says which driver it was, and a unit that systemd does not know is stopped without harm.
    if let Some((path, unit)) = linux.and_then(|l| crate::plan::cgroup::host_scope(l, id.as_str()))
    {
        empty(open_cgroup(&path)?)?;
        driver::stop(&unit)?;
    }
    folder.remove()
}
