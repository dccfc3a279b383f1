//! A container's life, one verb a file.
//!
//! ```text
//!            create            start             exits
//!   (none) ─────────▶ created ───────▶ running ─────────▶ stopped
//!      ▲                 │                │ ▲                │
//!      │                 │ kill     pause ▼ │ resume         │
//!      │                 │             paused                │
//!      └── delete ◀──────┴── (force) ─────┴──────────────────┘
//! ```

mod agent;
mod checkpoint;
mod create;
mod delete;
mod exec;
mod kept;
mod maker;
pub(crate) mod members;
mod outside;
mod restore;
mod restoring;
mod signal;
mod start;
mod way;

use std::path::Path;

use corten_cgroup::Cgroup;
use corten_spec::ContainerId;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::error::unsupported;
use crate::parent::driver;
use crate::state::{Folder, Found, refused};
use crate::{Error, State, Status};

pub use checkpoint::checkpoint;
pub use create::{create, run};
pub(crate) use delete::Ending;
pub use delete::delete;
pub use exec::exec;
pub(crate) use exec::{Target, exec_in};
pub use restore::restore;
pub use signal::kill;
pub(crate) use start::Gate;
pub use start::start;

/// The container's state, derived from what its init does now.
pub fn state(state_root: &Path, id: &ContainerId) -> Result<State, Error> {
    Found::open(state_root, id)?.state()
}

/// The states of all containers below `state_root`, by id. A folder that cannot be read is listed as
/// stopped, so that it is seen and can be deleted.
pub fn list(state_root: &Path) -> Result<Vec<State>, Error> {
    let entries = match std::fs::read_dir(state_root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(crate::error::failed_io("read", state_root)(error)),
    };
    let mut states = Vec::new();
    for entry in entries {
        let entry = entry.map_err(crate::error::failed_io("read", state_root))?;
        let Some(Ok(id)) = entry.file_name().to_str().map(str::parse::<ContainerId>) else {
            continue;
        };
        match state(state_root, &id) {
            Ok(state) => states.push(state),
            Err(Error::State { .. }) => states.push(damaged(id)),
            // Deleted meanwhile, or a file.
            Err(_) => {}
        }
    }
    states.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(states)
}

fn damaged(id: ContainerId) -> State {
    State {
        id,
        status: Status::Stopped,
        pid: 0,
        bundle: Default::default(),
        rootfs: Default::default(),
        created: String::new(),
        owner: 0,
        cgroup: String::new(),
        annotations: Default::default(),
    }
}

/// The spec that the container was made from.
pub fn config(state_root: &Path, id: &ContainerId) -> Result<Spec, Error> {
    Folder::new(state_root, id).read_config()
}

/// Freezes every process of the container.
pub fn pause(state_root: &Path, id: &ContainerId) -> Result<(), Error> {
    let found = Found::open(state_root, id)?;
    match found.status()? {
        Status::Running | Status::Created => group(&found)?
            .freeze()
            .map_err(refused("pause the container")),
        other => Err(found.conflict("pause", other)),
    }
}

/// Undoes [`pause`].
pub fn resume(state_root: &Path, id: &ContainerId) -> Result<(), Error> {
    let found = Found::open(state_root, id)?;
    match found.status()? {
        Status::Paused => group(&found)?
            .thaw()
            .map_err(refused("resume the container")),
        other => Err(found.conflict("resume", other)),
    }
}

/// Changes limits. What `resources` does not mention stays as it is.
pub fn update(
    state_root: &Path,
    id: &ContainerId,
    resources: &LinuxResources,
) -> Result<(), Error> {
    let found = Found::open(state_root, id)?;
    match found.status()? {
        status @ (Status::Stopped | Status::Creating) => Err(found.conflict("update", status)),
        _ => driver::update(found.record.unit.as_ref(), &group(&found)?, resources),
    }
}

/// The container's cgroup, for statistics, limits and OOM events.
pub fn cgroup(state_root: &Path, id: &ContainerId) -> Result<Cgroup, Error> {
    group(&Found::open(state_root, id)?)
}

/// The ids of all its processes.
pub fn pids(state_root: &Path, id: &ContainerId) -> Result<Vec<i32>, Error> {
    let found = Found::open(state_root, id)?;
    match found.cgroup()? {
        Some(cgroup) => cgroup.pids().map_err(refused("list the processes")),
        None => members::pids(&found),
    }
}

fn group(found: &Found) -> Result<Cgroup, Error> {
    if found.record.cgroup.is_empty() {
        return Err(unsupported(format!(
            "container {} has no control group of its own, and this without one",
            found.record.id
        )));
    }
    found
        .cgroup()?
        .ok_or_else(|| found.conflict("find the cgroup of", Status::Stopped))
}
