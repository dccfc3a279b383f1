//! The network of a pod: a CNI configuration of the node, which somebody else has written.

use std::path::{Path, PathBuf};

use corten_net::cni::{
    Attachment, Caller, Capabilities, CniResult, NetworkConfigList, load_folder,
};
use corten_spec::ContainerId;
use serde_json::Value;

use super::Pod;
use crate::Engine;
use crate::error::{Error, Is};
use crate::network::NetworkError;

/// Where the node's networks are configured, and their plugins.
#[derive(Clone, Debug)]
pub struct Cni {
    /// The first usable file of this folder, by name, is the pods' network.
    pub configurations: PathBuf,
    /// Folders of plugins that are not ours.
    pub plugins: Vec<PathBuf>,
}

/// What a pod asks of its network.
#[derive(Clone, Debug, Default)]
pub struct NetworkAsk {
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    pub capabilities: Capabilities,
}

const INTERFACE: &str = "eth0";

impl Cni {
    /// The pods' network.
    ///
    /// # Errors
    /// Without one, or with none that can be used: the first file's trouble.
    pub fn list(&self) -> Result<NetworkConfigList, Error> {
        let mut trouble = None;
        for file in load_folder(&self.configurations)? {
            match file.list {
                Ok(list) => return Ok(list),
                Err(e) => trouble = trouble.or(Some(e)),
            }
        }
        Err(match trouble {
            Some(e) => e.into(),
            None => NetworkError::NoConfiguration {
                folder: self.configurations.clone(),
            }
            .into(),
        })
    }

    /// Whether pods could get a network now: STATUS of its plugins.
    pub fn check(&self, engine: &Engine) -> Result<NetworkConfigList, Error> {
        let list = self.list()?;
        engine.pod_caller(&self.plugins).status(&list)?;
        Ok(list)
    }
}

impl Engine {
    pub(super) fn pod_caller(&self, plugins: &[PathBuf]) -> Caller {
        Caller::new(plugins.to_vec(), self.paths.cni_cache())
    }

    pub(super) fn attach_pod(
        &self,
        pod: &Pod,
        cni: &Cni,
        netns: &Path,
        ask: &NetworkAsk,
    ) -> Result<CniResult, Error> {
        let list = network_of(pod)?.ok_or(Error::PodState {
            what: "pod",
            id: pod.id.to_string(),
            action: "attached to a network",
            source: Is("on the host's"),
        })?;
        let mut to = attachment(&pod.id, netns);
        to.args.clone_from(&ask.args);
        to.capabilities.clone_from(&ask.capabilities);
        Ok(self.pod_caller(&cni.plugins).add(&list, &to)?)
    }

    /// Takes a pod off its network; not being on it is fine. By the configuration that it had; where that cannot be carried out, by
    /// the one of the same name that an administrator has put in its place.
    pub(super) fn detach_pod(&self, pod: &Pod, cni: &Cni) -> Result<(), Error> {
        let Some(list) = network_of(pod)? else {
            return Ok(());
        };
        let run = pod.record.run.as_ref();
        let netns = run.and_then(|r| r.namespaces.get("network"));
        // One whose supervisor has gone is gone with it: DEL takes an empty path.
        let netns = netns.filter(|path| path.exists());
        let netns = netns.map(PathBuf::as_path).unwrap_or(Path::new(""));
        let from = attachment(&pod.id, netns);
        let caller = self.pod_caller(&cni.plugins);
        let Err(first) = caller.del(&list, &from) else {
            return Ok(());
        };
        let mended = cni.list().ok();
        let mended = mended.filter(|m| m.name == list.name && m.document() != list.document());
        match mended.map(|list| caller.del(&list, &from)) {
            Some(Ok(())) => Ok(()),
            _ => Err(first.into()),
        }
    }
}

fn attachment(id: &ContainerId, netns: &Path) -> Attachment {
    let mut to = Attachment::new(id.clone(), netns);
    to.ifname = INTERFACE.into();
    to
}

fn network_of(pod: &Pod) -> Result<Option<NetworkConfigList>, Error> {
    let Some(document) = &pod.record.network else {
        return Ok(None);
    };
    let list = NetworkConfigList::from_document(document.clone());
    Ok(Some(list.map_err(corten_net::Error::from)?))
}

/// What is kept of the answer.
pub(super) fn kept(result: &CniResult) -> Option<Value> {
    serde_json::to_value(result).ok()
}
