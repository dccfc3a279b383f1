//! What the runtime is, and whether it can work: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use corten_engine::Error;
use corten_spec::Cidr;
use serde_json::json;
use tonic::Status;

use super::Shared;
use crate::blocking;
use crate::proto::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfig,
    RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus,
    StatusResponse, VersionResponse,
};

/// What kubelet asks for, and all that it takes.
const KUBELET_VERSION: &str = "0.1.0";
const API_VERSION: &str = "v1";
/// The file that [`super::Settings::own_network`] leads to.
const OWN_FILE: &str = "10-corten.conflist";

pub fn version() -> VersionResponse {
    VersionResponse {
        version: KUBELET_VERSION.into(),
        runtime_name: "corten".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: API_VERSION.into(),
    }
}

impl Shared {
    pub(super) async fn status(&self, verbose: bool) -> Result<StatusResponse, Status> {
        let (engine, cni) = (self.engine.clone(), self.settings.cni.clone());
        let network = blocking::run(move || {
            Ok(match cni.check(&engine) {
                Ok(_) => condition("NetworkReady", true, "", ""),
                Err(error) => {
                    let text = crate::status::chain(&error);
                    condition("NetworkReady", false, "NetworkPluginNotReady", &text)
                }
            })
        })
        .await?;
        let handlers = self.settings.handlers.iter();
        Ok(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true, "", ""), network],
            }),
            info: match verbose {
                true => self.info(),
                false => BTreeMap::new(),
            },
            runtime_handlers: handlers
                .map(|(name, handler)| RuntimeHandler {
                    name: name.clone(),
                    features: Some(RuntimeHandlerFeatures {
                        recursive_read_only_mounts: handler.spec.recursive_read_only,
                        user_namespaces: handler.user_namespaces,
                    }),
                })
                .collect(),
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    fn info(&self) -> BTreeMap<String, String> {
        let paths = self.engine.paths();
        let version = env!("CARGO_PKG_VERSION");
        let config = json!({
            "root": paths.root(),
            "run": paths.run(),
            "cniConfDir": self.settings.cni.configurations,
            "cniBinDirs": self.settings.cni.plugins,
            "settings": self.settings.shown,
        });
        BTreeMap::from([
            ("version".into(), version.into()),
            ("config".into(), config.to_string()),
        ])
    }

    pub(super) fn runtime_config(&self) -> RuntimeConfigResponse {
        // Zero would mean systemd: it is always said.
        let driver = match self.settings.systemd_cgroup {
            true => CgroupDriver::Systemd,
            false => CgroupDriver::Cgroupfs,
        };
        RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration {
                cgroup_driver: driver.into(),
            }),
        }
    }

    /// Kubelet says which addresses pods have. Where the node has no network and is to have ours, it gets it now.
    pub(super) async fn update_runtime_config(
        &self,
        config: Option<RuntimeConfig>,
    ) -> Result<(), Status> {
        let cidrs = config.and_then(|c| c.network_config).map(|n| n.pod_cidr);
        let Some(cidrs) = cidrs.filter(|c| !c.is_empty() && self.settings.own_network) else {
            return Ok(());
        };
        let subnets: Result<Vec<Cidr>, _> = cidrs.split(',').map(|c| c.trim().parse()).collect();
        let subnets = subnets.map_err(|e| {
            Status::invalid_argument(format!(
                "runtime_config.network_config.pod_cidr: {cidrs:?}: {e}"
            ))
        })?;
        let folder = self.settings.cni.configurations.clone();
        let cni = self.settings.cni.clone();
        blocking::run(move || match cni.list() {
            // Somebody's, or ours of an earlier call.
            Ok(list) if list.name != OWN_NAME => Ok(()),
            _ => write(&folder, &subnets),
        })
        .await
    }
}

const OWN_NAME: &str = "corten-pods";

fn write(folder: &Path, subnets: &[Cidr]) -> Result<(), Error> {
    let path = folder.join(OWN_FILE);
    let ranges = subnets.iter().map(|s| json!([{"subnet": s}]));
    let any = |v4: bool| match v4 {
        true => IpAddr::from([0, 0, 0, 0]),
        false => IpAddr::from([0u16; 8]),
    };
    let routes = subnets
        .iter()
        .map(|s| json!({"dst": format!("{}/0", any(s.is_ipv4()))}));
    let document = json!({
        "cniVersion": "1.1.0",
        "name": OWN_NAME,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "corten-pods0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges.collect::<Vec<_>>(),
                    "routes": routes.collect::<Vec<_>>(),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    });
    std::fs::create_dir_all(folder).map_err(Error::io("write", folder))?;
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{document:#}\n")).map_err(Error::io("write", &new))?;
    std::fs::rename(&new, &path).map_err(Error::io("write", &path))
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> RuntimeCondition {
    RuntimeCondition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
    }
}
