//! Waiting for something else than the end of a container.

use std::os::fd::OwnedFd;

use super::logs::{wait_for_change, watch};
use super::record::Container;
use super::status::Status;
use crate::Engine;
use crate::error::{Error, Is};

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has ended, for good.
    Stopped,
    Running,
    Healthy,
    Unhealthy,
    Removed,
}

impl Engine {
    /// Waits for the condition. Returns the container's exit code if it does not run then.
    pub fn wait_until(
        &self,
        container: &Container,
        condition: Condition,
    ) -> Result<Option<u32>, Error> {
        if condition == Condition::Stopped {
            return self.wait(container).map(|exit| Some(exit.exit_status));
        }
        let folder = self.paths.container(&container.id);
        // Its folder: the exit record and the report of its health are written there, and it goes last.
        let watched: OwnedFd = watch(&folder).map_err(Error::io("watch", &folder))?;
        let mut last = None;
        loop {
            let container = match self.container(container.id.as_str()) {
                Err(Error::ContainerMissing { .. }) if condition == Condition::Removed => {
                    return Ok(last);
                }
                found => found?,
            };
            let status = self.status(&container)?;
            last = match &status {
                Status::Exited(exit) | Status::Restarting(exit) => Some(exit.exit_status),
                _ => None,
            };
            match self.is_met(&container, condition, &status)? {
                true => return Ok(last),
                false => wait_for_change(&watched).map_err(Error::io("watch", &folder))?,
            }
        }
    }

    fn is_met(
        &self,
        container: &Container,
        condition: Condition,
        status: &Status,
    ) -> Result<bool, Error> {
        let wanted = match condition {
            Condition::Stopped | Condition::Removed => return Ok(false),
            Condition::Running => return Ok(status.is_running()),
            Condition::Healthy => "healthy",
            Condition::Unhealthy => "unhealthy",
        };
        let refused = |source| Error::ContainerState {
            name: container.name.to_string(),
            action: "waited for",
            source,
        };
        if self.health_check(container)?.is_none() {
            return Err(refused(Is("without a health check")));
        }
        // It would wait for ever.
        if !status.is_active() {
            return Err(refused(Is(status.as_str())));
        }
        let report = self.health(container)?;
        Ok(status.is_running() && report.is_some_and(|r| r.status == wanted))
    }
}
