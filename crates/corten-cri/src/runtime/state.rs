//! How pods and containers stand, in the interface's words. Pure but for the book.

use std::collections::BTreeMap;

use corten_engine::pod::Pod;
use serde_json::{Value, json};

use super::Shared;
use super::book::{ContainerEntry, ContainerNow, PodEntry};
use crate::proto::{
    Container, ContainerResources, ContainerState, ContainerStatus, ImageSpec,
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandbox, PodSandboxNetworkStatus, PodSandboxStatus,
};

/// Of a start that failed, as containerd has it.
const START_ERROR: &str = "StartError";

impl PodEntry {
    pub fn listed(&self) -> PodSandbox {
        let now = self.now();
        let config = &self.document.config;
        PodSandbox {
            id: self.id.to_string(),
            metadata: config.metadata.clone(),
            state: self.state().into(),
            created_at: now.pod.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: self.document.handler.clone(),
        }
    }

    pub fn status(&self) -> PodSandboxStatus {
        let now = self.now();
        let config = &self.document.config;
        let security = config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref());
        PodSandboxStatus {
            id: self.id.to_string(),
            metadata: config.metadata.clone(),
            state: self.state().into(),
            created_at: now.pod.created_at,
            network: Some(network(&now.pod)),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: security.and_then(|s| s.namespace_options.clone()),
                }),
            }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: self.document.handler.clone(),
        }
    }

    /// More than kubelet needs, for people.
    pub fn info(&self, shown: Option<Value>) -> BTreeMap<String, String> {
        let now = self.now();
        let run = now.pod.record.run.as_ref();
        let info = json!({
            "sandboxID": self.id.as_str(),
            "pid": run.map_or(0, |r| r.pid),
            "supervisorPid": run.map_or(0, |r| r.shim),
            "namespaces": run.map(|r| &r.namespaces),
            "runtimeHandler": self.document.handler,
            "cniResult": run.and_then(|r| r.network.as_ref()),
            "runtimeSpec": shown,
        });
        BTreeMap::from([("info".into(), info.to_string())])
    }
}

/// The first address is the pod's; one on the host's network has none of its own.
fn network(pod: &Pod) -> PodSandboxNetworkStatus {
    let run = pod.record.run.as_ref();
    let mut all = run
        .map(|r| r.addresses.as_slice())
        .unwrap_or_default()
        .iter();
    PodSandboxNetworkStatus {
        ip: all.next().map(ToString::to_string).unwrap_or_default(),
        additional_ips: all.map(|ip| PodIp { ip: ip.to_string() }).collect(),
    }
}

impl ContainerNow {
    /// By the name that a person asked for, where kubelet tells it.
    fn image(&self) -> ImageSpec {
        let asked = self.document.config.image.clone().unwrap_or_default();
        let name = match asked.user_specified_image.as_str() {
            "" => self.container.record.image.clone(),
            name => name.into(),
        };
        ImageSpec {
            image: name,
            image_ref: self.document.image_id.clone(),
            ..asked
        }
    }
}

impl ContainerEntry {
    pub fn listed(&self) -> Container {
        let now = self.now();
        let config = &now.document.config;
        Container {
            id: self.id.to_string(),
            pod_sandbox_id: self.pod.to_string(),
            metadata: config.metadata.clone(),
            image: Some(now.image()),
            image_ref: now.document.image_id.clone(),
            state: now.state().into(),
            created_at: now.container.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: now.document.image_id.clone(),
        }
    }

    pub fn status(&self, log_directory: &str) -> ContainerStatus {
        let now = self.now();
        let config = &now.document.config;
        let (exit_code, reason, message) = ended(&now);
        ContainerStatus {
            id: self.id.to_string(),
            metadata: config.metadata.clone(),
            state: now.state().into(),
            created_at: now.container.created_at,
            started_at: now.container.record.started.map_or(0, |s| s.at),
            finished_at: finished_at(&now),
            exit_code,
            image: Some(now.image()),
            image_ref: now.document.image_id.clone(),
            reason,
            message,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: log_path(log_directory, &config.log_path),
            resources: Some(ContainerResources {
                linux: config.linux.as_ref().and_then(|l| l.resources.clone()),
            }),
            image_id: now.document.image_id.clone(),
            user: Some(now.document.user.clone()),
            stop_signal: now.document.stop_signal,
        }
    }
}

pub fn log_path(directory: &str, path: &str) -> String {
    match (directory.is_empty(), path.is_empty()) {
        (_, true) => String::new(),
        (true, false) => path.into(),
        (false, false) => format!("{}/{path}", directory.trim_end_matches('/')),
    }
}

fn finished_at(now: &ContainerNow) -> i64 {
    match (&now.exit, &now.container.record.failure) {
        (_, Some(_)) => now.container.record.started.map_or(0, |s| s.at),
        (Some(exit), None) => exit.at,
        (None, None) => 0,
    }
}

/// Exit code, reason and message, as kubelet's users know them.
fn ended(now: &ContainerNow) -> (i32, String, String) {
    if let Some(failure) = &now.container.record.failure {
        let code = failure.exit_code as i32;
        return (code, START_ERROR.into(), failure.error.clone());
    }
    let Some(exit) = now
        .exit
        .as_ref()
        .filter(|_| now.state() == ContainerState::ContainerExited)
    else {
        return (0, String::new(), String::new());
    };
    let reason = match (exit.oom, exit.status) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, 255) => "Unknown",
        (false, _) => "Error",
    };
    (exit.status, reason.into(), String::new())
}

impl Shared {
    /// The folder of logs of a container's pod.
    pub(super) fn log_directory(&self, container: &ContainerEntry) -> String {
        let pod = self.book.find_pod(container.pod.as_str());
        pod.map(|p| p.document.config.log_directory.clone())
            .unwrap_or_default()
    }
}
