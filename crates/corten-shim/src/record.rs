//! The exit record: how an engine learns of an exit that it did not see.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::time::rfc3339;

/// What is on disk, as JSON, from the moment of the exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub pid: u32,
    /// The exit code, or 128 + the signal.
    pub exit_status: u32,
    /// RFC 3339 with nanoseconds, UTC.
    pub exited_at: String,
    /// Whether the kernel's OOM killer ended a process of the container.
    pub oom_killed: bool,
    /// It is to be started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarting: Option<Restarting>,
}

/// A restart to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// Which one since the user's start, from 1.
    pub count: u32,
    /// How long after the exit, or after the try before this one.
    pub delay_ms: u64,
}

impl ExitRecord {
    pub(crate) fn new(pid: u32, exit_status: u32, at: SystemTime, oom_killed: bool) -> Self {
        Self {
            pid,
            exit_status,
            exited_at: rfc3339(at),
            oom_killed,
            restarting: None,
        }
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        crate::whole::write(path, &serde_json::to_vec(self)?)
    }

    /// Reads a record. `None`: the container has not exited, or has none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) if bytes.len() > 4096 => Err(io::ErrorKind::InvalidData.into()),
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}
