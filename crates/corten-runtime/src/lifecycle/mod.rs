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

use std::path::Path;

use corten_cgroup::Cgroup;
use corten_spec::ContainerId;

use crate::{Create, Created, Error, Exec, Execed, State};

/// How a waiting init is let go.
#[derive(Debug)]
pub(crate) struct Gate {}

fn unfinished(what: &str) -> Error {
    Error::Unsupported { what: what.into() }
}

/// Makes the container's cgroup, namespaces, mounts and init, which then waits at its gate.
pub fn create(_create: Create<'_>) -> Result<Created, Error> {
    Err(unfinished("create"))
}

impl Created {
    /// Opens the gate. `Ok` once `execve` has succeeded.
    pub fn start(&mut self) -> Result<(), Error> {
        Err(unfinished("start"))
    }
}

/// [`Created::start`] from another process than the one that created.
pub fn start(_state_root: &Path, _id: &ContainerId) -> Result<(), Error> {
    Err(unfinished("start"))
}

/// Adds a process to a running container. `Ok` once `execve` has succeeded.
pub fn exec(_exec: Exec<'_>) -> Result<Execed, Error> {
    Err(unfinished("exec"))
}

/// The container's state, derived from what its init does now.
pub fn state(_state_root: &Path, _id: &ContainerId) -> Result<State, Error> {
    Err(unfinished("state"))
}

/// The states of all containers below `state_root`; a damaged folder is listed as stopped.
pub fn list(_state_root: &Path) -> Result<Vec<State>, Error> {
    Err(unfinished("list"))
}

/// Sends `signal` to init, or to every process of the container's cgroup.
pub fn kill(_state_root: &Path, _id: &ContainerId, _signal: i32, _all: bool) -> Result<(), Error> {
    Err(unfinished("kill"))
}

/// Removes a stopped container's cgroup and state. With `force` it is killed first, and damaged
/// or missing state is no error.
pub fn delete(_state_root: &Path, _id: &ContainerId, _force: bool) -> Result<(), Error> {
    Err(unfinished("delete"))
}

/// Freezes every process of the container.
pub fn pause(_state_root: &Path, _id: &ContainerId) -> Result<(), Error> {
    Err(unfinished("pause"))
}

/// Undoes [`pause`].
pub fn resume(_state_root: &Path, _id: &ContainerId) -> Result<(), Error> {
    Err(unfinished("resume"))
}

/// The container's cgroup, for statistics, limits and OOM events.
pub fn cgroup(_state_root: &Path, _id: &ContainerId) -> Result<Cgroup, Error> {
    Err(unfinished("cgroup"))
}
