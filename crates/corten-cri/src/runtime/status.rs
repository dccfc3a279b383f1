//! What the runtime is, and whether it can work: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use std::collections::BTreeMap;

use corten_spec::Cidr;
use serde_json::json;
use tonic::Status;

use super::{Shared, own_network};
use crate::blocking;
use crate::proto::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfig,
    RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus,
    StatusResponse, VersionResponse,
};

/// What kubelet asks for, and all that it takes.
const KUBELET_VERSION: &str = "0.1.0";
const API_VERSION: &str = "v1";

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
                    let text = corten_spec::chain(&error);
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

    /// Kubelet says which addresses pods have. Where the node has no network and is to have ours, it gets it now, and
    /// another one if they change.
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
        let (cni, data) = (self.settings.cni.clone(), self.engine.paths().ipam());
        blocking::run(move || own_network::update(&cni, &data, &subnets)).await
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> RuntimeCondition {
    RuntimeCondition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
    }
}
