//! The end of a container in a pod: signals, stop, what it held, removal. Each may be done again by any process after a crash in
//! its middle, and finds less to do.

use std::fs;
use std::time::Duration;

use corten_spec::Kind;
use corten_store::Snapshotter as _;

use super::{Pod, PodContainer};
use crate::container::inspect::rfc3339;
use crate::container::record::ExitRecord;
use crate::container::wait_for;
use crate::error::Error;
use crate::{Engine, remove_tree};

const SIGKILL: u32 = 9;
/// As containerd has it: ended, and nobody knows how.
const UNKNOWN: u32 = 255;
/// SIGKILL cannot be refused; a process that is still there after this hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// How a container ended. `None`: it has not, as far as is on record.
    pub fn pod_exit(&self, container: &PodContainer) -> Result<Option<ExitRecord>, Error> {
        let path = self.paths.pod_exit(&container.id);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Ok(Some(record)),
                Err(source) => Err(Error::Document { path, source }),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// Puts on record that a container has ended of which nobody knows how: its supervisor is gone. One whose end is known is
    /// left alone.
    pub fn note_lost(&self, container: &PodContainer) -> Result<(), Error> {
        if container.record.started.is_none() {
            return Ok(());
        }
        self.note_exit(container, UNKNOWN, rfc3339(crate::clock::nanoseconds()))
    }

    /// In the supervisor's place, if it has not done so: its disk may have been full.
    fn note_exit(&self, container: &PodContainer, status: u32, at: String) -> Result<(), Error> {
        if self.pod_exit(container)?.is_some() {
            return Ok(());
        }
        let path = self.paths.pod_exit(&container.id);
        let record = serde_json::json!({
            "pid": 0,
            "exit_status": status,
            "exited_at": at,
            "oom_killed": false,
        });
        let new = path.with_extension("new");
        fs::write(&new, record.to_string()).map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("rename", &new))
    }

    /// Asks a container to end by its stop signal, and makes it after `patience`. One that does not run is stopped already.
    /// Returns when its exit is on record.
    pub fn stop_pod_container(
        &self,
        container: &PodContainer,
        patience: Duration,
    ) -> Result<(), Error> {
        let mut shim = match self.running_in_pod(container, "stopped") {
            Ok(shim) => shim,
            // Never started, or ended; or its pod is, of which its end follows.
            Err(Error::PodState { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let own = container.record.settings.stop_signal;
        for (signal, patience) in [(own, patience), (SIGKILL, KILL_PATIENCE)] {
            if patience.is_zero() && signal != SIGKILL {
                continue;
            }
            match shim.kill("", signal, signal == SIGKILL) {
                // It has ended, which may not be on record yet.
                Err(e) if is_gone(&e) => {}
                sent => sent?,
            }
            match wait_for(&mut shim, patience) {
                Ok(Some(exit)) => {
                    let at = rfc3339(crate::clock::nanoseconds_of(exit.at));
                    return self.note_exit(container, exit.status, at);
                }
                Ok(None) if signal == SIGKILL => {
                    return Err(Error::Stuck {
                        name: container.id.to_string(),
                    });
                }
                Ok(None) => {}
                // The supervisor never had it, or forgets those alone whose end it has told.
                Err(e) if e.kind() == Kind::NotFound => return self.note_lost(container),
                Err(e) if is_gone(&e) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Gives back what a container that has exited still holds of the host: its task, its control group, its bundle.
    pub fn settle_pod_container(&self, pod: &Pod, container: &PodContainer) -> Result<(), Error> {
        if let Some(mut shim) = self.pod_supervisor(&pod.id, &container.id)? {
            match shim.delete("") {
                Err(e) if !is_gone(&e) => return Err(e.into()),
                _ => {}
            }
        }
        self.free_pod_container(pod, container)
    }

    /// The same, where no supervisor has it.
    pub(super) fn free_pod_container(
        &self,
        pod: &Pod,
        container: &PodContainer,
    ) -> Result<(), Error> {
        let (id, bundle) = (
            &container.id,
            self.paths.pod_container_bundle(&pod.id, &container.id),
        );
        corten_shim::foreign::clean(&bundle, id)?;
        if pod.record.runtime.is_some() {
            // One that was told to end, and has nobody left to tell of it, tries for long.
            corten_shim::foreign::end_processes(&corten_shim::foreign::folder(
                &bundle,
                id.as_str(),
            ));
        }
        match corten_runtime::delete(&self.paths.runtime_state(), id, true) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        remove_tree(&bundle)
    }

    /// Removes a container; one that runs is killed. [`Engine::sweep`] frees its bytes.
    pub fn remove_pod_container(&self, pod: &Pod, container: &PodContainer) -> Result<(), Error> {
        if container.record.started.is_some() {
            self.stop_pod_container(container, Duration::ZERO)?;
            self.settle_pod_container(pod, container)?;
        }
        match self.store.snapshotter().remove(container.id.as_str()) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        remove_tree(&self.paths.pod_container(&pod.id, &container.id))?;
        let exit = self.paths.pod_exit(&container.id);
        match fs::remove_file(&exit) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", exit)(e));
            }
            _ => {}
        }
        self.store.pods().delete(&container.row()?)?;
        self.release_volumes(container)
    }
}

pub(super) fn is_gone(error: &corten_shim::Error) -> bool {
    matches!(
        error.kind(),
        Kind::NotFound | Kind::Conflict | Kind::Unavailable
    )
}
