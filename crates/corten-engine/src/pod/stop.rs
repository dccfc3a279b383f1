//! Stop and removal of a pod, and the clearing of one that a crash has left.

use std::os::fd::AsFd as _;
use std::time::Duration;

use corten_spec::{ContainerId, Kind};
use corten_sys::process::send_signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::end::is_gone;
use super::{Cni, Pod, PodContainer};
use crate::error::Error;
use crate::{Engine, remove_tree};

/// What was killed ends soon, unless it hangs in the kernel.
const END_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Ends a pod: its containers, its network, its namespaces, its supervisor. One that is on record as stopped has given back
    /// all of it: its network's plugins may be gone by now, and are not asked again.
    pub fn stop_pod(
        &self,
        pod: &mut Pod,
        containers: &[PodContainer],
        cni: &Cni,
    ) -> Result<(), Error> {
        if pod.record.stopped {
            return Ok(());
        }
        for container in containers {
            if container.record.started.is_some() {
                self.stop_pod_container(container, Duration::ZERO)?;
                self.settle_pod_container(pod, container)?;
                self.note_lost(container)?;
            }
        }
        self.release_pod(pod, cni)?;
        pod.record.stopped = true;
        self.save_pod(pod)
    }

    /// Removes a pod that is stopped or not, with all its containers.
    pub fn remove_pod(
        &self,
        pod: &mut Pod,
        containers: &[PodContainer],
        cni: &Cni,
    ) -> Result<(), Error> {
        self.stop_pod(pod, containers, cni)?;
        for container in containers {
            self.remove_pod_container(pod, container)?;
        }
        remove_tree(&self.paths.pod(&pod.id))?;
        Ok(self.store.pods().delete(&pod.row()?)?)
    }

    /// Removes whatever there is of a pod that never was whole.
    pub fn clear_pod(&self, pod: &Pod, cni: &Cni) -> Result<(), Error> {
        self.release_pod(pod, cni)?;
        remove_tree(&self.paths.pod(&pod.id))?;
        Ok(self.store.pods().delete(&pod.row()?)?)
    }

    /// Gives back what a pod holds of the host.
    fn release_pod(&self, pod: &Pod, cni: &Cni) -> Result<(), Error> {
        // While its namespace is there.
        self.detach_pod(pod, cni)?;
        if let Some(shim) = self.pod_supervisor(&pod.id, &pod.id)? {
            match shim.end_pod() {
                Err(e) if !is_gone(&e) => return Err(e.into()),
                _ => {}
            }
        }
        self.end_pod_supervisor(&pod.id);
        match corten_runtime::delete(&self.paths.runtime_state(), &pod.id, true) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        let bundle = self.paths.pod_bundle(&pod.id);
        // Of a supervisor that was killed, on kernels where the pod's memory has a place.
        for memory in ["shm", "etc"] {
            let _absent = rustix::mount::unmount(bundle.join(memory), UnmountFlags::DETACH);
        }
        remove_tree(&bundle)
    }

    /// Makes sure that a pod's supervisor has ended, and reaps it if it is our child.
    fn end_pod_supervisor(&self, id: &ContainerId) {
        let bundle = self.paths.pod_bundle(id);
        let number = std::fs::read_to_string(bundle.join(corten_shim::client::PID_FILE));
        let pid = number.ok().and_then(|n| Pid::from_raw(n.parse().ok()?));
        let Some(pid) = pid else {
            return;
        };
        // The number may be another's by now, so it is looked at once the process is held.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        let line = line.unwrap_or_default();
        let wanted = bundle.as_os_str().as_encoded_bytes();
        if line.split(|b| *b == 0).any(|word| word == wanted) {
            let _ended = send_signal(&process, 9);
        } else if !line.is_empty() {
            return;
        }
        // One that has ended has no words any more.
        let limit = Timespec {
            tv_sec: END_PATIENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        let _ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit));
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _reaped = waitid(WaitId::PidFd(process.as_fd()), ended);
    }
}
