//! Release: after a run, give back what the run held. Remove: give back the rest. Both may be
//! done again after a crash in their middle, by any process, and find less to do.

use std::time::Duration;

use corten_shim::client::Client;
use corten_spec::Kind;
use corten_store::Snapshotter as _;

use super::INCOMPLETE;
use super::options::MountSource;
use super::record::Container;
use super::status::Status;
use super::stop::wait_for;
use crate::error::{Error, Is};
use crate::{Engine, remove_tree, volume};

/// SIGKILL cannot be refused; a process that is still there after this hangs in the kernel.
const SIGKILL: u32 = 9;
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Gives back what the last run held: supervisor, processes, cgroup, address, ports, bundle.
    /// Refused while the container runs.
    pub fn release(&self, container: &Container) -> Result<(), Error> {
        let (_lock, container) = self.hold(&container.id)?;
        let status = self.status(&container)?;
        if status.is_active() {
            return Err(in_the_way(&container, "cleaned up", &status));
        }
        self.release_locked(&container)
    }

    /// What the supervisor asks for when a container has exited and nobody waits for it.
    pub fn exited(&self, name: &str) -> Result<(), Error> {
        let container = match self.container(name) {
            Err(Error::ContainerMissing { .. }) => return Ok(()),
            found => found?,
        };
        match self.release(&container) {
            // Another process removed it, or is at it, or has started it again.
            Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => return Ok(()),
            done => done?,
        }
        match container.record.options.auto_remove {
            true => self.remove(&container, false, true),
            false => Ok(()),
        }
    }

    pub(crate) fn release_locked(&self, container: &Container) -> Result<(), Error> {
        let shim = self.supervisor(&container.id)?;
        self.release_from(container, shim)
    }

    pub(crate) fn release_from(
        &self,
        container: &Container,
        shim: Option<Client>,
    ) -> Result<(), Error> {
        if let Some(mut shim) = shim {
            // It may be on its way out by itself; what it leaves is found below.
            let _deleted = shim.delete("");
            let _gone = shim.shutdown();
        }
        self.release_run(container)?;
        remove_tree(&self.paths.bundle(&container.id))
    }

    /// Gives back what a run held but for its supervisor, whose place is the bundle.
    pub(crate) fn release_run(&self, container: &Container) -> Result<(), Error> {
        let id = &container.id;
        corten_shim::foreign::clean(&self.paths.bundle(id), id)?;
        match corten_runtime::delete(&self.paths.runtime_state(), id, true) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.remove_cgroup(&self.paths.cgroup(id))?;
        // Before the addresses: the resolver keeps the namespace, and names must not outlive what they mean.
        self.withdraw_names(container)?;
        self.detach_networks(container)
    }

    /// Frees what removed containers occupied on disk. Apart from the removal, since on a disk with
    /// `discard` it takes milliseconds that nobody needs to wait for.
    pub fn sweep(&self) -> Result<u64, Error> {
        Ok(self.store.empty_trash()?)
    }

    /// Removes a container; [`Engine::sweep`] frees its bytes. A running one only with `force`, which kills it. `volumes`: with
    /// those that have no name of their own.
    pub fn remove(&self, container: &Container, force: bool, volumes: bool) -> Result<(), Error> {
        let removed = || {
            self.end_by(force, container)?;
            let (_lock, container) = match self.hold(&container.id) {
                // Another process was faster.
                Err(Error::ContainerMissing { .. }) => return Ok(()),
                // A crash between row and folder, or between folder and row.
                Err(Error::ContainerState {
                    source: INCOMPLETE, ..
                }) => return self.discard(container),
                held => held?,
            };
            // It may have been started again before we had the lock.
            self.end_by(force, &container)?;
            let created = matches!(self.status(&container)?, Status::Created);
            if !created || self.paths.bundle(&container.id).exists() {
                self.release_locked(&container)?;
            }
            self.remove_released(&container, volumes)
        };
        removed().map_err(|e: Error| e.of_container(container.name.as_str(), "removed"))
    }

    /// What is left of a container that holds nothing of the host any more. What removes itself takes its
    /// nameless volumes along, whoever removes it.
    pub(crate) fn remove_released(
        &self,
        container: &Container,
        volumes: bool,
    ) -> Result<(), Error> {
        if volumes || container.record.options.auto_remove {
            self.remove_anonymous_volumes(container)?;
        }
        self.discard(container)
    }

    /// Ends it where it runs and that is allowed.
    fn end_by(&self, force: bool, container: &Container) -> Result<(), Error> {
        let status = self.status(container)?;
        match status.is_active() {
            true if force => {
                // Else its policy would start it again.
                self.mark_stopped(container)?;
                match status.is_running() {
                    true => self.kill_and_wait(container),
                    // The release below ends that.
                    false => Ok(()),
                }
            }
            true => Err(in_the_way(container, "removed", &status)),
            false => Ok(()),
        }
    }

    pub(crate) fn kill_and_wait(&self, container: &Container) -> Result<(), Error> {
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(());
        };
        match shim.kill("", SIGKILL, true) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        match wait_for(&mut shim, KILL_PATIENCE) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::Stuck {
                name: container.name.to_string(),
            }),
            // The supervisor went away: the cgroup is killed by the release.
            Err(_) => Ok(()),
        }
    }

    /// Snapshot, folder, row, in this order.
    pub(crate) fn discard(&self, container: &Container) -> Result<(), Error> {
        match self.store.snapshotter().remove(container.id.as_str()) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        remove_tree(&self.paths.container(&container.id))?;
        match self.store.containers().delete(&container.id) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        Ok(())
    }

    /// Those of its volumes that nobody named, and no other container has.
    pub(crate) fn remove_anonymous_volumes(&self, container: &Container) -> Result<(), Error> {
        let own: Vec<&str> = volumes_of(container)
            .filter(|v| volume::is_anonymous(v))
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        let mut others = self.containers()?;
        others.retain(|c| c.id != container.id);
        for name in own {
            if !others.iter().any(|c| volumes_of(c).any(|v| v == name)) {
                volume::remove(&self.paths, name)?;
            }
        }
        Ok(())
    }
}

/// The volumes that a container has mounted, by name.
pub(crate) fn volumes_of(container: &Container) -> impl Iterator<Item = &str> {
    let mounts = container.record.options.mounts.iter();
    mounts.filter_map(|m| match &m.source {
        MountSource::Volume(name) => Some(name.as_str()),
        MountSource::Bind(_) | MountSource::Tmpfs => None,
    })
}

fn in_the_way(container: &Container, action: &'static str, status: &Status) -> Error {
    Error::ContainerState {
        name: container.name.to_string(),
        action,
        source: Is(status.as_str()),
    }
}
