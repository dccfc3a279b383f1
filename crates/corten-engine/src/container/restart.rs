//! Restart policies: what the user asks for, what the supervisor is told of it, and the command that it runs.
//!
//! A container's supervisor decides and waits (`corten-shim`'s `serve/restart.rs`). Its command,
//! [`Engine::restart_again`], gives back what the run before held, but for the supervisor with its sockets, and starts
//! the container in that same supervisor. Killed anywhere, it leaves a supervisor that sees it and tries again.
//!
//! A supervisor that is killed itself can start nothing: [`Engine::start_by_policy`] is for that, and for a host
//! that has just come up.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use corten_shim::client::{Client, Restart};
use serde::{Deserialize, Serialize};

use super::options::NetworkMode;
use super::record::{Container, Failure, Run};
use super::start::{Again, Prepared, global_flags, text};
use super::status::Status;
use crate::Engine;
use crate::error::{Error, Is};

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    /// After an exit code other than 0: at most so many times in a row, 0 being without end.
    OnFailure(u32),
    Always,
    /// As always, but not after a reboot where the user had stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    pub fn max_retries(self) -> u32 {
        match self {
            Self::OnFailure(max) => max,
            Self::No | Self::Always | Self::UnlessStopped => 0,
        }
    }

    /// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once(':') {
            None => match text {
                // docker's default, written out as nothing.
                "" | "no" => Self::No,
                "always" => Self::Always,
                "unless-stopped" => Self::UnlessStopped,
                "on-failure" => Self::OnFailure(0),
                _ => return None,
            },
            Some(("on-failure", max)) => Self::OnFailure(max.parse().ok()?),
            Some(_) => return None,
        })
    }
}

/// Whether the host's start, or that of a supervisor's successor, is to start it.
fn is_due(policy: RestartPolicy, status: &Status, has_run: bool, stopped: bool) -> bool {
    match (policy, status) {
        (_, Status::Running { .. } | Status::Restarting(_)) => false,
        (RestartPolicy::No, _) => false,
        // As docker's: stopped by the user, it comes back with the daemon.
        (RestartPolicy::Always, _) => has_run,
        (RestartPolicy::UnlessStopped, _) => has_run && !stopped,
        // It did not end by itself.
        (RestartPolicy::OnFailure(_), Status::Lost) => !stopped,
        (RestartPolicy::OnFailure(_), Status::Exited(exit)) => {
            exit.restarting.is_some() && !stopped
        }
        (RestartPolicy::OnFailure(_), Status::Created) => false,
    }
}

impl Engine {
    /// What the supervisor has to know. `None` for a container that is never started again.
    pub(crate) fn restart_terms(&self, container: &Container) -> Result<Option<Restart>, Error> {
        let options = &container.record.options;
        let forced = options.health.restarts();
        match options.restart {
            RestartPolicy::No if !forced => Ok(None),
            policy => self.terms(container, policy).map(Some),
        }
    }

    fn terms(&self, container: &Container, policy: RestartPolicy) -> Result<Restart, Error> {
        let mut command = global_flags(&self.paths)?;
        command.extend(["system", "restarted", container.id.as_str()].map(Into::into));
        Ok(Restart {
            policy: policy.as_str().into(),
            max_retries: policy.max_retries(),
            command,
            stopped: text(&self.paths.stopped(&container.id)),
        })
    }

    /// Another policy for a container, from now on.
    pub fn set_restart_policy(
        &self,
        container: &Container,
        policy: RestartPolicy,
    ) -> Result<(), Error> {
        let (_lock, mut container) = self.hold(&container.id)?;
        if container.record.options.auto_remove && policy != RestartPolicy::No {
            return Err(Error::ContainerState {
                name: container.name.to_string(),
                action: "given a restart policy",
                source: Is("to be removed when it has exited (--rm)"),
            });
        }
        container.record.options.restart = policy;
        self.update(&container)?;
        // One that is about to end, or has no supervisor, learns of it at its next start.
        if self.status(&container)?.is_active()
            && let Some(mut shim) = self.supervisor(&container.id)?
        {
            shim.set_restart(self.terms(&container, policy)?)?;
        }
        Ok(())
    }

    /// From now on it is the user who has ended it, and no policy starts it again. Before the signal: who
    /// decides looks when the container has ended.
    pub(crate) fn mark_stopped(&self, container: &Container) -> Result<(), Error> {
        let path = self.paths.stopped(&container.id);
        match fs::write(&path, "") {
            // It is being removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written.map_err(Error::io("write", path)),
        }
    }

    /// A start by the user begins anew.
    pub(crate) fn forget_stopped(&self, container: &Container) -> Result<(), Error> {
        let path = self.paths.stopped(&container.id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Whether the user has ended it, and not started it since.
    pub fn is_stopped(&self, container: &Container) -> bool {
        self.paths.stopped(&container.id).exists()
    }

    /// What the supervisor's command does: starts again a container that waits for it. One that does not, any more, is
    /// left as it is.
    pub fn restart_again(&self, name: &str) -> Result<(), Error> {
        let container = match self.container(name) {
            Err(Error::ContainerMissing { .. }) => return Ok(()),
            found => found?,
        };
        let (lock, container) = match self.hold(&container.id) {
            Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => return Ok(()),
            held => held?,
        };
        if self.is_stopped(&container) {
            return Ok(());
        }
        let (exit, shim) = match (self.status(&container)?, self.supervisor(&container.id)?) {
            // Made by a command that was killed before it could start it: nobody else has the lock. The supervisor drops it, and asks again.
            (Status::Running { .. }, _) if self.waits_for_nobody(&container)? => {
                return Err(Error::ContainerState {
                    name: container.name.to_string(),
                    action: "started again",
                    source: Is("half made"),
                });
            }
            (Status::Running { .. }, _) => return Ok(()),
            (Status::Restarting(exit), Some(shim)) => (exit, shim),
            // Our own supervisor says otherwise: it is asked again, later, if it is still there.
            (other, _) => {
                return Err(Error::ContainerState {
                    name: container.name.to_string(),
                    action: "started again",
                    source: Is(other.as_str()),
                });
            }
        };
        let count = exit.restarting.map_or(1, |r| r.count);
        match self.set_up_again(container.clone(), shim, lock, count) {
            Ok(prepared) => match prepared.start() {
                Ok(_) => Ok(()),
                Err(e) => self.note_failure(&container.id, e),
            },
            Err(e) => self.note_failure(&container.id, e.of_container(name, "started again")),
        }
    }

    /// As [`Self::prepare`], in the supervisor that there is: what the run before held is given back first, and so is what
    /// a failure leaves.
    fn set_up_again(
        &self,
        container: Container,
        mut shim: Client,
        lock: File,
        count: u32,
    ) -> Result<Prepared<'_>, Error> {
        let namespace = self.clear_for_again(&container, &mut shim)?;
        let ports = container.record.run.as_ref().map(|r| r.ports.clone());
        let again = Again {
            shim,
            ports: ports.unwrap_or_default(),
            count,
            namespace,
        };
        match self.set_up(container.clone(), lock, Some(again)) {
            Ok(prepared) => Ok(prepared),
            Err((e, _lock)) => {
                // Best effort: the next try begins with it, too.
                let _given_back = self.release_again(&container);
                Err(e)
            }
        }
    }

    /// Gives back what a start by policy had made; the supervisor stays.
    pub(super) fn release_again(&self, container: &Container) -> Result<(), Error> {
        match self.supervisor(&container.id)? {
            Some(mut shim) => self.clear_for_again(container, &mut shim).map(drop),
            None => self.release_run(container),
        }
    }

    /// Keeps why a start failed, for who inspects the container.
    pub(super) fn note_error(&self, container: &Container, error: &Error) -> Result<(), Error> {
        let mut container = self.container(container.id.as_str())?;
        container.record.failure = Some(Failure::of(error));
        self.update(&container)
    }

    /// Keeps why it did not start, and gives it back.
    fn note_failure(&self, id: &corten_spec::ContainerId, error: Error) -> Result<(), Error> {
        let (_lock, container) = self.hold(id)?;
        self.note_error(&container, &error)?;
        Err(error)
    }

    /// Starts what its policy wants running and does not run: after a reboot, or where a supervisor was killed. Returns the names
    /// of those that were started, and the failures.
    pub fn start_by_policy(&self) -> Result<(Vec<String>, Vec<Error>), Error> {
        let mut all = self.containers()?;
        // Oldest first, as they were once started; those in another's network after that one.
        all.reverse();
        all.sort_by_key(|c| matches!(c.record.options.network.mode, NetworkMode::Container(_)));
        let (mut started, mut failed) = (Vec::new(), Vec::new());
        for container in all {
            match self.start_if_due(&container) {
                Ok(true) => started.push(container.name.to_string()),
                Ok(false) | Err(Error::ContainerMissing { .. }) => {}
                Err(e) => failed.push(e),
            }
        }
        Ok((started, failed))
    }

    fn start_if_due(&self, container: &Container) -> Result<bool, Error> {
        if !self.wants_to_run(container)? {
            return Ok(false);
        }
        match self.prepare(container).and_then(|p| p.start()) {
            Ok(_) => Ok(true),
            // Somebody was faster.
            Err(_) if self.status(container)?.is_active() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether its policy says that it should run, and it does not.
    pub(crate) fn wants_to_run(&self, container: &Container) -> Result<bool, Error> {
        let policy = container.record.options.restart;
        if policy == RestartPolicy::No {
            return Ok(false);
        }
        // A failed start undoes its run, and is no reason not to try again.
        let has_run = container.record.run.is_some() || container.record.failure.is_some();
        let stopped = self.is_stopped(container);
        Ok(is_due(policy, &self.status(container)?, has_run, stopped))
    }

    /// Ends a container and starts it, as one step for the user.
    pub fn restart(&self, container: &Container, patience: Duration) -> Result<(), Error> {
        self.stop(container, patience)?;
        self.prepare(container)?.start()?;
        Ok(())
    }
}

/// How often a run's container was started again since the user's start.
pub fn count(run: Option<&Run>, status: &Status) -> u32 {
    match status {
        Status::Restarting(exit) => exit.restarting.map_or(0, |r| r.count),
        _ => run.map_or(0, |r| r.restarts),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::ExitRecord;
    use super::*;

    #[test]
    fn policies_as_docker_writes_them() {
        for (text, policy) in [
            ("no", RestartPolicy::No),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure(0)),
            ("on-failure:5", RestartPolicy::OnFailure(5)),
        ] {
            assert_eq!(RestartPolicy::parse(text), Some(policy), "{text}");
        }
        for bad in [
            "sometimes",
            "always:3",
            "on-failure:x",
            "on-failure:-1",
            "on-failure:",
        ] {
            assert_eq!(RestartPolicy::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_boot_starts() {
        let exited = |restarting| {
            Status::Exited(ExitRecord {
                pid: 1,
                exit_status: 1,
                exited_at: String::new(),
                oom_killed: false,
                restarting,
            })
        };
        let waiting = Some(corten_shim::Restarting {
            count: 1,
            delay_ms: 100,
        });
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        for (policy, status, has_run, stopped, due) in [
            (No, Status::Lost, true, false, false),
            (Always, Status::Lost, true, false, true),
            (Always, exited(None), true, true, true),
            (Always, Status::Created, false, false, false),
            (Always, Status::Running { pid: 1 }, true, false, false),
            (UnlessStopped, exited(None), true, true, false),
            (UnlessStopped, exited(None), true, false, true),
            (OnFailure(3), Status::Lost, true, false, true),
            (OnFailure(3), Status::Lost, true, true, false),
            (OnFailure(3), exited(None), true, false, false),
            (OnFailure(3), exited(waiting), true, false, true),
        ] {
            assert_eq!(
                is_due(policy, &status, has_run, stopped),
                due,
                "{policy:?} {status:?} {stopped}"
            );
        }
    }
}
