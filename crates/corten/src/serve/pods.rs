//! What of `serve.toml` is about pods: their network, their control groups, and who runs them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_cri::runtime::{Handler, Settings};
use corten_cri::spec;
use corten_engine::pod::Cni;
use serde::Deserialize;

/// Kubernetes' own folders.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
const PLUGINS: &str = "/opt/cni/bin";
/// Our own runtime, by the name that a RuntimeClass gives it; the default's name is empty.
const OWN: &str = "corten";
/// Of the runtime specification, for others' runtimes: nothing that is asked of them is newer.
const OLD_OCI_VERSION: &str = "1.0.2";
const OCI_VERSION: &str = "1.2.0";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileCni {
    /// The first usable configuration in it, by name, is the pods' network.
    conf_dir: Option<PathBuf>,
    /// Folders of plugins that are not ours.
    bin_dirs: Option<Vec<PathBuf>>,
    /// Writes a configuration with our own plugins once kubelet says which addresses the node's pods have.
    own_network: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    #[default]
    Cgroupfs,
    Systemd,
}

/// A RuntimeClass's handler.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileHandler {
    /// As `--runtime` takes it: `runc`, `crun`, `kata`, `runsc`, a name of config.toml's `[runtimes]`; `corten`, the default, is our own.
    runtime: Option<String>,
    pod_annotations: Vec<String>,
    container_annotations: Vec<String>,
    privileged_without_host_devices: bool,
    device_ownership: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub struct File {
    pub cni: FileCni,
    pub driver: Driver,
    pub default: FileHandler,
    pub handlers: BTreeMap<String, FileHandler>,
    pub restore_images: bool,
}

impl File {
    pub fn settings(self) -> Settings {
        let kernel = kernel();
        let cni = Cni {
            configurations: self.cni.conf_dir.unwrap_or_else(|| CONFIGURATIONS.into()),
            plugins: self.cni.bin_dirs.unwrap_or_else(|| vec![PLUGINS.into()]),
        };
        let mut handlers: BTreeMap<String, Handler> = self
            .handlers
            .into_iter()
            .map(|(name, file)| (name, file.handler(kernel)))
            .collect();
        handlers.insert(String::new(), self.default.handler(kernel));
        let own = || FileHandler::default().handler(kernel);
        handlers.entry(OWN.into()).or_insert_with(own);
        let shown = serde_json::json!({
            "handlers": handlers.keys().collect::<Vec<_>>(),
            "ownNetwork": self.cni.own_network,
            "restoreCheckpoints": self.restore_images,
            "systemdCgroup": self.driver == Driver::Systemd,
        });
        Settings {
            cni,
            systemd_cgroup: self.driver == Driver::Systemd,
            handlers,
            own_network: self.cni.own_network,
            restore_images: self.restore_images,
            shown,
        }
    }
}

impl FileHandler {
    fn handler(self, kernel: (u32, u32)) -> Handler {
        let runtime = self.runtime.filter(|name| name != OWN);
        let own = runtime.is_none();
        Handler {
            // Mounts that show other owners on every file system of a pod, tmpfs last.
            user_namespaces: own && kernel >= (6, 3),
            spec: spec::Handler {
                pod_annotations: self.pod_annotations,
                container_annotations: self.container_annotations,
                privileged_without_host_devices: self.privileged_without_host_devices,
                device_ownership: self.device_ownership,
                // mount_setattr(2).
                recursive_read_only: own && kernel >= (5, 12),
                oci_version: if own { OCI_VERSION } else { OLD_OCI_VERSION },
            },
            runtime,
        }
    }
}

/// Major and minor; one that says nothing of the kind is held to be the oldest.
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let text = name.release().to_string_lossy().into_owned();
    let mut numbers = text.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
