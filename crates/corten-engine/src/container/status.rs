//! Where a container stands, found out by asking: its supervisor if one answers, else the exit
//! record, else the traces of a run that ended without one.

use std::fs;
use std::io;

use corten_shim::proto::task::Status as TaskStatus;
use corten_spec::Kind;

use super::record::{Container, ExitRecord};
use crate::Engine;
use crate::error::Error;

/// The state of a container, with what belongs to it.
#[derive(Clone, Debug)]
pub enum Status {
    /// Never run.
    Created,
    /// Its supervisor answers and its init lives (or is about to be started).
    Running {
        pid: u32,
    },
    /// It has ended and its supervisor waits to start it again.
    Restarting(ExitRecord),
    Exited(ExitRecord),
    /// It ran, and its supervisor ended without leaving an exit record: killed, or the host went down.
    Lost,
}

impl Status {
    /// Docker's word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Restarting(_) => "restarting",
            Self::Exited(_) => "exited",
            Self::Lost => "dead",
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// It runs, or will by itself.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Restarting(_))
    }
}

impl Engine {
    pub fn status(&self, container: &Container) -> Result<Status, Error> {
        let task = self.task_of(container)?;
        if let Some(Some(pid)) = task {
            return Ok(Status::Running { pid });
        }
        Ok(
            match (self.exit_record(container)?, &container.record.run) {
                (Some(exit), _) if exit.restarting.is_some() && task.is_some() => {
                    Status::Restarting(exit)
                }
                (Some(exit), _) => Status::Exited(exit),
                // By its policy it was started just now, between our two looks.
                (None, Some(_)) if task.is_some() => match self.task_of(container)? {
                    Some(Some(pid)) => Status::Running { pid },
                    _ => Status::Lost,
                },
                (None, Some(_)) => Status::Lost,
                (None, None) => Status::Created,
            },
        )
    }

    /// What the supervisor wrote when init had exited.
    pub fn exit_record(&self, container: &Container) -> Result<Option<ExitRecord>, Error> {
        let path = self.paths.exit_record(&container.id);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Ok(Some(record)),
                Err(source) => Err(Error::Document { path, source }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// Init's pid if a supervisor answers for a container that has not exited; `Some(None)` if one answers otherwise.
    fn task_of(&self, container: &Container) -> Result<Option<Option<u32>>, Error> {
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(None);
        };
        Ok(match shim.state("") {
            Ok(state) if state.status() != TaskStatus::Stopped => Some(Some(state.pid)),
            Ok(_) => Some(None),
            // It has no task (yet, or any more).
            Err(e) if e.kind() == Kind::NotFound => Some(None),
            // It is going away.
            Err(_) => None,
        })
    }
}
