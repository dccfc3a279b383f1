//! What a killed server has left: pods and containers that were never whole, pods whose supervisor is gone, containers that have
//! exited meanwhile.

use std::fs;

use corten_shim::proto::task::Status as TaskStatus;
use corten_spec::{ContainerId, Kind, chain};

use super::record::Started;
use super::{Cni, Pod, PodContainer, Rows, Unread};
use crate::Engine;
use crate::error::{Error, Is};
use crate::recovery::names;
use crate::remove_tree;

/// What is there once a server has put it in order.
#[derive(Debug, Default)]
pub struct Recovered {
    pub pods: Vec<Pod>,
    pub containers: Vec<PodContainer>,
    /// What nobody here understands, and nobody has touched.
    pub unread: Vec<Unread>,
    /// What was removed, and what could not be: a line each, for the log.
    pub notes: Vec<String>,
}

impl Engine {
    /// Puts pods in order, as the one process that serves them. What cannot be put in order is noted, and stays.
    pub fn recover_pods(&self, cni: &Cni) -> Result<Recovered, Error> {
        crate::make_private(&self.paths.pod_exits())?;
        let Rows {
            pods,
            containers,
            unread,
        } = self.pods()?;
        let mut found = Recovered {
            unread,
            ..Recovered::default()
        };
        for container in containers {
            let pod = pods.iter().find(|p| p.id == container.pod);
            let Some(pod) = pod else {
                found.unread.push(Unread {
                    why: Error::PodState {
                        what: "container",
                        id: container.id.to_string(),
                        action: "taken over",
                        source: Is("in a pod whose record cannot be read"),
                    },
                    id: container.id,
                    pod: Some(container.pod),
                    name: container.name,
                    created_at: container.created_at,
                });
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
                if found.unread.iter().any(|u| u.pod.as_ref() == Some(&pod.id)) {
                    // Clearing it would take what is in it along.
                    continue;
                }
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
        let mut containers = std::mem::take(&mut found.containers);
        for container in &mut containers {
            let pod = found.pods.iter().find(|p| p.id == container.pod);
            let done = pod.map_or(Ok(()), |pod| self.recover_container(pod, container));
            if done.is_err() {
                found.note(done, "container that is not in order", &container.id);
            }
        }
        found.containers = containers;
        // One folder that cannot be removed must not keep a node from serving.
        match self.store.sweep_snapshots() {
            Ok(swept) => {
                let lines = swept
                    .iter()
                    .map(|path| format!("snapshot or layer of nobody's: {}", path.display()));
                found.notes.extend(lines);
            }
            Err(e) => found
                .notes
                .push(format!("snapshots without a row: {}", chain(&e))),
        }
        for (done, what) in [
            (self.sweep_pods(&found), "folders without a pod"),
            (self.sweep_volumes(), "volumes without a container"),
            (self.gather_pods(cni), "what deleted links had in nftables"),
        ] {
            if let Err(e) = done {
                found.notes.push(format!("{what}: {}", chain(&e)));
            }
        }
        Ok(found)
    }

    /// A container that ended meanwhile gives back what it holds; one whose start was cut either runs, or has failed.
    fn recover_container(&self, pod: &Pod, container: &mut PodContainer) -> Result<(), Error> {
        if self.pod_exit(container)?.is_some() {
            return self.settle_pod_container(pod, container);
        }
        let (Some(started), None) = (container.record.started, &container.record.failure) else {
            return Ok(());
        };
        if started.pid != 0 {
            return Ok(());
        }
        let Some(mut shim) = self.pod_supervisor(&pod.id, &container.id)? else {
            return Ok(());
        };
        match shim.state("") {
            Ok(state) if matches!(state.status(), TaskStatus::Running | TaskStatus::Paused) => {
                let pid = state.pid;
                container.record.started = Some(Started { pid, ..started });
                self.save_pod_container(container)
            }
            Err(e) if e.kind() != Kind::NotFound => Err(e.into()),
            _ => {
                let cut = Error::PodState {
                    what: "container",
                    id: container.id.to_string(),
                    action: "started",
                    source: Is("a container whose start was cut"),
                };
                self.fail_start(pod, container, &mut shim, &cut)
            }
        }
    }

    /// What the pods' network has in nftables for links that are gone.
    fn gather_pods(&self, cni: &Cni) -> Result<(), Error> {
        match cni.list() {
            Ok(list) => Ok(corten_net::recover::gather(&list)?),
            // A node that has no network yet has nothing of it.
            Err(_) => Ok(()),
        }
    }

    /// Whether a pod's supervisor answers for it.
    pub fn pod_lives(&self, pod: &Pod) -> bool {
        let shim = self.pod_supervisor(&pod.id, &pod.id).ok().flatten();
        // A shim that has no such pod refuses.
        shim.is_some_and(|mut shim| shim.holds_pod().unwrap_or(false))
    }

    /// Folders of pods and exits of containers that have no row.
    fn sweep_pods(&self, found: &Recovered) -> Result<(), Error> {
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
            Err(e) => format!("{what} {id}: {}", chain(&e)),
        });
    }
}
