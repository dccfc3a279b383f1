//! What a killed server has left: pods and containers that were never whole, pods whose supervisor is gone, containers that have
//! exited meanwhile.

use std::fs;

use corten_spec::ContainerId;

use super::{Cni, Pod, PodContainer};
use crate::Engine;
use crate::error::Error;
use crate::recovery::names;
use crate::remove_tree;

/// What is there once a server has put it in order.
#[derive(Debug, Default)]
pub struct Recovered {
    pub pods: Vec<Pod>,
    pub containers: Vec<PodContainer>,
    /// What was removed, and what could not be: a line each, for the log.
    pub notes: Vec<String>,
}

impl Engine {
    /// Puts pods in order, as the one process that serves them. What cannot be put in order is noted, and stays.
    pub fn recover_pods(&self, cni: &Cni) -> Result<Recovered, Error> {
        crate::make_private(&self.paths.pod_exits())?;
        let (pods, containers) = self.pods()?;
        let mut found = Recovered::default();
        for container in containers {
            let pod = pods.iter().find(|p| p.id == container.pod);
            let Some(pod) = pod else {
                continue;
            };
            if container.record.whole && pod.record.run.is_some() {
                found.containers.push(container);
                continue;
            }
            let done = self.remove_pod_container(pod, &container);
            found.note(done, "half-made container", &container.id);
        }
        for mut pod in pods {
            if pod.record.run.is_none() {
                let done = self.clear_pod(&pod, cni);
                found.note(done, "half-made pod", &pod.id);
                continue;
            }
            if !pod.record.stopped && !self.pod_lives(&pod) {
                let of = |c: &&PodContainer| c.pod == pod.id;
                let of: Vec<_> = found.containers.iter().filter(of).cloned().collect();
                let done = self.stop_pod(&mut pod, &of, cni);
                found.note(done, "pod without its supervisor (stopped)", &pod.id);
            }
            found.pods.push(pod);
        }
        let mut cleared = Vec::new();
        for container in &found.containers {
            match self.clear_checkpoint(container) {
                Ok(false) => {}
                done => cleared.push((done.map(drop), container.id.clone())),
            }
        }
        for (done, id) in cleared {
            found.note(done, "half a checkpoint of container", &id);
        }
        for container in &found.containers {
            let pod = found.pods.iter().find(|p| p.id == container.pod);
            if let (Some(pod), Ok(Some(_))) = (pod, self.pod_exit(container)) {
                self.settle_pod_container(pod, container)?;
            }
        }
        self.sweep_pods(&mut found)?;
        Ok(found)
    }

    /// Whether a pod's supervisor answers for it.
    pub fn pod_lives(&self, pod: &Pod) -> bool {
        let shim = self.pod_supervisor(&pod.id, &pod.id).ok().flatten();
        // Asked again it answers the same; a shim that has no such pod refuses.
        shim.is_some_and(|mut shim| shim.ping_pod().is_ok())
    }

    /// Folders of pods and exits of containers that have no row.
    fn sweep_pods(&self, found: &mut Recovered) -> Result<(), Error> {
        for folder in [self.paths.pods(), self.paths.pod_bundles()] {
            for name in names(&folder)? {
                if !found.pods.iter().any(|p| p.id.as_str() == name) && self.no_pod(&name)? {
                    remove_tree(&folder.join(name))?;
                }
            }
        }
        for name in names(&self.paths.pod_exits())? {
            // One that is being written at this moment counts as what it becomes.
            let path = self.paths.pod_exits().join(&name);
            let name = name.split('.').next().unwrap_or_default().to_owned();
            if !found.containers.iter().any(|c| c.id.as_str() == name) && self.no_pod(&name)? {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn no_pod(&self, id: &str) -> Result<bool, Error> {
        Ok(!self.is_of_pods(id)?)
    }

    /// Whether an id is that of a pod, or of a container in one.
    pub(crate) fn is_of_pods(&self, id: &str) -> Result<bool, Error> {
        let rows = self.store.pods().list()?;
        Ok(rows.iter().any(|row| row.id.as_str() == id))
    }
}

impl Recovered {
    fn note(&mut self, done: Result<(), Error>, what: &str, id: &ContainerId) {
        self.notes.push(match done {
            Ok(()) => format!("{what} {id}"),
            Err(e) => format!("{what} {id}: {}", super::run::chain(&e)),
        });
    }
}
