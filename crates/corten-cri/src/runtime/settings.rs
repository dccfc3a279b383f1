//! What an administrator decides about pods.

use std::collections::BTreeMap;

use corten_engine::pod::Cni;

use crate::spec;

/// Of the service.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cni: Cni,
    /// Control groups are systemd's scopes and slices; else folders.
    pub systemd_cgroup: bool,
    /// By the name that a RuntimeClass has; the default's is empty.
    pub handlers: BTreeMap<String, Handler>,
    /// Writes a CNI configuration of our own once kubelet says which addresses pods have, if there is none.
    pub own_network: bool,
    /// Containers may go on from checkpoints that are images: whoever made one decides as whom and with which capabilities its processes run,
    /// whatever a security context says.
    pub restore_images: bool,
    /// As administrators wrote them, for whoever asks verbosely.
    pub shown: serde_json::Value,
}

/// How pods of one RuntimeClass are run.
#[derive(Clone, Debug)]
pub struct Handler {
    /// As the engine knows it (`--runtime`); `None`: our own.
    pub runtime: Option<String>,
    pub spec: spec::Handler,
    /// What kubelet is told that it can.
    pub user_namespaces: bool,
}

impl Settings {
    pub fn handler(&self, name: &str) -> Option<&Handler> {
        self.handlers.get(name)
    }
}
