//! What the database and the state folder remember of a container: versioned, apart from
//! the types that the code works with.

use corten_spec::{ContainerId, Digest, Name};
use serde::{Deserialize, Serialize};

use super::options::{Options, PortMapping};

/// The record's format; a newer one is refused.
pub const VERSION: u32 = 1;

/// The `record` column of a container's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub options: Options,
    /// The image's config, by which the container was made: the tag may move on.
    pub image_config: Digest,
    pub manifest: Digest,
    /// Snapshot layer ids, bottom first.
    pub layers: Vec<String>,
    /// The last run, where there was one.
    pub run: Option<Run>,
}

/// One run of a container: what was handed to it. Addresses and ports are those that it got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Seconds and nanoseconds since 1970.
    pub started_at: (i64, u32),
    pub pid: u32,
    pub addresses: Vec<std::net::IpAddr>,
    pub mac: Option<String>,
    pub ports: Vec<PortMapping>,
}

/// What the shim wrote when the container's init had exited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExitRecord {
    #[serde(default)]
    pub pid: u32,
    /// As a shell counts: the exit code, or 128 + the signal.
    pub exit_status: u32,
    /// RFC 3339 with nanoseconds.
    pub exited_at: String,
    #[serde(default)]
    pub oom_killed: bool,
}

/// A container as it was found: its row and its record.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: ContainerId,
    pub name: Name,
    pub image: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub record: Record,
}
