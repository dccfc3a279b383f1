//! A pod from nothing to ready: row, folders, supervisor with its namespaces, network. Whatever fails, all of it is given back.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use corten_cgroup::systemd::{self, Manager, Scope};
use corten_shim::client::{self, SpawnRequest};
use corten_spec::{ContainerId, Kind, chain};
use serde_json::Value;

use super::cni::kept;
use super::record::{Maps, Record, Run, VERSION};
use super::{Cni, Dns, NetworkAsk, Pod, files};
use crate::error::Error;
use crate::{Engine, clock, make_private};

/// What is asked of a pod.
#[derive(Clone, Debug)]
pub struct PodAsk {
    /// A [new one](super::new_id).
    pub id: ContainerId,
    /// No other pod has it.
    pub name: String,
    /// The orchestrator's words, to be kept.
    pub document: String,
    pub hostname: String,
    /// What its containers share, as a runtime specification has it: `linux` (namespaces, id mappings, sysctls, control group) and
    /// `hostname`.
    pub holder: Value,
    /// `None`: the host's network.
    pub network: Option<NetworkAsk>,
    /// `None`: the host's resolver.
    pub dns: Option<Dns>,
    /// Bytes of `/dev/shm`; 0: the host's.
    pub shm_size: u64,
    /// `None`: our own runtime.
    pub runtime: Option<String>,
}

impl Engine {
    /// Makes a pod and returns when it is ready. The caller sees to it that no two are made of one name at once: what has the name
    /// and is not whole is what an earlier try could not take back, and is cleared first.
    pub fn run_pod(&self, ask: &PodAsk, cni: &Cni) -> Result<Pod, Error> {
        self.check_pod_runtime(ask.runtime.as_deref())?;
        let network = match &ask.network {
            Some(_) => Some(cni.list()?.document().clone()),
            None => None,
        };
        let mut pod = Pod {
            id: ask.id.clone(),
            name: ask.name.clone(),
            created_at: clock::nanoseconds(),
            record: Record {
                version: VERSION,
                document: ask.document.clone(),
                runtime: ask.runtime.clone(),
                maps: maps(&ask.holder),
                network,
                ..Record::default()
            },
        };
        self.insert_pod(&pod, cni)?;
        match self.make_pod(&mut pod, ask, cni) {
            Ok(()) => Ok(pod),
            Err(first) => Err(match self.clear_pod(&pod, cni) {
                Ok(()) => first,
                Err(second) => Error::Undo {
                    name: pod.name,
                    first: chain(&first),
                    source: Box::new(second),
                },
            }),
        }
    }

    /// Moves the pod's supervisor out of the service that has started it, if systemd runs this host and has it among one's
    /// processes: `systemctl kill` would end it with the service. It and others are in a scope of theirs then.
    pub fn leave_service(&self, pod: &Pod) -> Result<(), Error> {
        let Some(run) = &pod.record.run else {
            return Ok(());
        };
        if run.shim == 0 || systemd::service_of(run.shim)?.is_none() {
            return Ok(());
        }
        let scope = Scope {
            slice: "system.slice".into(),
            unit: self.paths.supervisors_scope(),
        };
        let mut manager = Manager::connect(false)?;
        Ok(manager.gather(&scope, "Supervisors of Corten's pods", run.shim)?)
    }

    fn insert_pod(&self, pod: &Pod, cni: &Cni) -> Result<(), Error> {
        let (pods, row) = (self.store.pods(), pod.row()?);
        let taken = match pods.insert(&row) {
            Err(e) if e.kind() == Kind::AlreadyExists => e,
            done => return Ok(done?),
        };
        let Some(other) = pods.named(&pod.name, false)? else {
            return Err(taken.into());
        };
        let other = Pod::parse(other)?;
        if other.record.run.is_some() {
            return Err(taken.into());
        }
        self.clear_pod(&other, cni)?;
        Ok(pods.insert(&row)?)
    }

    fn make_pod(&self, pod: &mut Pod, ask: &PodAsk, cni: &Cni) -> Result<(), Error> {
        let (folder, bundle) = (self.paths.pod(&pod.id), self.paths.pod_bundle(&pod.id));
        make_private(&self.paths.runtime_state())?;
        make_private(&self.paths.pod_exits())?;
        for path in [&folder, &bundle] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(path)
                .map_err(Error::io("make folder", path))?;
        }
        files::write(&folder, &ask.hostname, ask.dns.as_ref())?;
        let config = bundle.join("config.json");
        fs::write(&config, ask.holder.to_string()).map_err(Error::io("write", &config))?;
        let log = fs::File::create(folder.join("shim.log"));
        let log = log.map_err(Error::io("make", folder.join("shim.log")))?;
        let mut shim = client::spawn(&SpawnRequest {
            exe: SpawnRequest::own_exe(),
            bundle: &bundle,
            id: &pod.id,
            namespace: "corten",
            state_root: &self.paths.runtime_state(),
            inherit: Vec::new(),
            log: Some(log.into()),
        })?;
        let held = shim.hold_pod(ask.shm_size)?;
        let namespaces = held.namespaces.into_iter();
        let mut run = Run {
            shim: shim.child().unwrap_or_default(),
            pid: held.pid,
            namespaces: namespaces.map(|(kind, path)| (kind, path.into())).collect(),
            shm: Some(held.shm).filter(|s| !s.is_empty()).map(PathBuf::from),
            ..Run::default()
        };
        if let (Some(ask), Some(netns)) = (&ask.network, run.namespaces.get("network")) {
            let result = self.attach_pod(pod, cni, netns, ask)?;
            run.addresses = (result.container_ips())
                .map(|ip| ip.address.address())
                .collect();
            run.network = kept(&result);
        }
        pod.record.run = Some(run);
        self.save_pod(pod)
    }
}

/// The ids of the pod's own users, as mount options.
fn maps(holder: &Value) -> Option<Maps> {
    let linux = &holder["linux"];
    let ranges = |key: &str| -> Option<(String, u32)> {
        let all = linux[key].as_array().filter(|all| !all.is_empty())?;
        let number = |range: &Value, key: &str| range[key].as_u64();
        let words: Option<Vec<String>> = all
            .iter()
            .map(|r| {
                let (inside, outside) = (number(r, "containerID")?, number(r, "hostID")?);
                Some(format!("{inside}:{outside}:{}", number(r, "size")?))
            })
            .collect();
        let root = all.iter().find(|r| number(r, "containerID") == Some(0));
        let root = root.and_then(|r| number(r, "hostID")).unwrap_or_default();
        Some((words?.join(","), u32::try_from(root).ok()?))
    };
    let (uid, uid_root) = ranges("uidMappings")?;
    let (gid, gid_root) = ranges("gidMappings")?;
    let root = (uid_root, gid_root);
    Some(Maps { uid, gid, root })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_as_mount_options() {
        let range = json!([{"containerID": 0, "hostID": 70_000, "size": 65536}]);
        let holder = json!({"linux": {"uidMappings": range, "gidMappings": range}});
        let found = maps(&holder).unwrap();
        assert_eq!(found.uid, "0:70000:65536");
        assert_eq!(found.root, (70_000, 70_000));
        assert_eq!(maps(&json!({"linux": {"uidMappings": []}})), None);
    }
}
