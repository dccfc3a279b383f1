//! Release: after a run, give back what the run held. Remove: give back the rest. Both may be
//! done again after a crash in their middle, by any process, and find less to do.

use std::time::Duration;

use corten_shim::client::Client;
use corten_spec::Kind;
use corten_store::Snapshotter as _;

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
        let _lock = self.lock(&container.id)?;
        if self.status(container)?.is_running() {
            return Err(Error::ContainerState {
                name: container.name.to_string(),
                action: "cleaned up",
                source: Is("running"),
            });
        }
        self.release_locked(container)
    }

    /// What the supervisor asks for when a container has exited and nobody waits for it.
    pub fn exited(&self, name: &str) -> Result<(), Error> {
        let container = match self.container(name) {
            Err(Error::ContainerMissing { .. }) => return Ok(()),
            found => found?,
        };
        self.release(&container)?;
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
        let id = &container.id;
        if let Some(mut shim) = shim {
            // It may be on its way out by itself; what it leaves is found below.
            let _gone = shim.delete("").and_then(|_| shim.shutdown());
        }
        match corten_runtime::delete(&self.paths.runtime_state(), id, true) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.remove_cgroup(&self.paths.cgroup(id))?;
        self.detach_network(id, container.record.options.network.mode)?;
        remove_tree(&self.paths.bundle(id))
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
            let status = self.status(container)?;
            if status.is_running() {
                if !force {
                    return Err(Error::ContainerState {
                        name: container.name.to_string(),
                        action: "removed",
                        source: Is("running"),
                    });
                }
                self.kill_and_wait(container)?;
            }
            if !self.paths.container(&container.id).exists() {
                // A crash between row and folder, or between folder and row.
                return self.discard(container);
            }
            let _lock = self.lock(&container.id)?;
            if !matches!(status, Status::Created) || self.paths.bundle(&container.id).exists() {
                self.release_locked(container)?;
            }
            self.remove_released(container, volumes)
        };
        removed().map_err(|e: Error| e.of_container(container.name.as_str(), "removed"))
    }

    /// What is left of a container that holds nothing of the host any more.
    pub(crate) fn remove_released(
        &self,
        container: &Container,
        volumes: bool,
    ) -> Result<(), Error> {
        if volumes {
            self.remove_anonymous_volumes(container)?;
        }
        self.discard(container)
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

    fn remove_anonymous_volumes(&self, container: &Container) -> Result<(), Error> {
        for mount in &container.record.options.mounts {
            if let MountSource::Volume(name) = &mount.source
                && volume::is_anonymous(name)
            {
                volume::remove(&self.paths, name)?;
            }
        }
        Ok(())
    }
}
