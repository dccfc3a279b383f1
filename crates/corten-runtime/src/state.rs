//! A container's state as the specification words it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_spec::ContainerId;

/// Where in its life a container is. Never stored: derived from init, which is known by process
/// id and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made, or its maker died half way.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `state` and `list` report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub id: ContainerId,
    pub status: Status,
    /// Init's process id on the host; 0 unless created, running or paused.
    pub pid: u32,
    pub bundle: PathBuf,
    /// The root folder, empty with a detached root mount.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// The user id that created it.
    pub owner: u32,
    /// Path of the cgroup below each hierarchy's root.
    pub cgroup: String,
    pub annotations: BTreeMap<String, String>,
}
