//! Pods: run, stop, remove, list.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_engine::pod::{Dns, NetworkAsk, Pod, PodAsk, PodContainer, new_id};
use corten_spec::cni::{Capabilities, DnsArgument, PortMapping as Mapping};
use serde_json::{Map, Value, json};
use tonic::Status;

use super::book::PodEntry;
use super::document::PodDocument;
use super::settings::Handler;
use super::{Shared, filter};
use crate::blocking;
use crate::proto::{
    ContainerEventType, NamespaceMode, PodSandbox, PodSandboxConfig, PodSandboxFilter,
    PodSandboxMetadata, Protocol,
};

/// Of `/dev/shm`, where the pod's is its own.
const SHM_SIZE: u64 = 64 << 20;

impl Shared {
    pub(super) async fn run_sandbox(
        self: &Arc<Self>,
        config: PodSandboxConfig,
        handler: String,
    ) -> Result<String, Status> {
        let metadata = metadata(&config)?;
        let Some(found) = self.settings.handler(&handler) else {
            return Err(Status::not_found(format!(
                "no runtime handler {handler:?} is configured"
            )));
        };
        check_words(&config)?;
        let name = name(&metadata);
        let making = self.book.name(&name).ok_or_else(|| {
            Status::already_exists(format!("a pod sandbox named {name:?} is being made"))
        })?;
        let found = found.clone();
        // The work goes on if kubelet gives up waiting, and what it makes is on the list then.
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let worker = shared.clone();
            let made = blocking::status(move || worker.run(config, handler, &found, name));
            let entry = made.await?;
            shared.book.add_pod(entry.clone());
            drop(making);
            shared.watch_supervisor(&entry);
            let id = entry.id.as_str();
            shared.tell(ContainerEventType::ContainerCreatedEvent, id, &entry);
            shared.tell(ContainerEventType::ContainerStartedEvent, id, &entry);
            Ok(id.to_owned())
        });
        task.await
            .map_err(|_| Status::internal("the making of the pod ended without a result"))?
    }

    fn run(
        &self,
        config: PodSandboxConfig,
        handler: String,
        found: &Handler,
        name: String,
    ) -> Result<Arc<PodEntry>, Status> {
        let failed = |e: corten_engine::Error| crate::status::of(&e);
        let id = new_id().map_err(failed)?;
        let hostname = hostname(&config);
        let holder = super::plan::holder(self, &config, found, id.as_str(), &hostname)?;
        let document = PodDocument { config, handler };
        let config = &document.config;
        let metadata = config.metadata.clone().unwrap_or_default();
        let ask = PodAsk {
            name,
            document: document.text(),
            hostname,
            holder,
            network: (mode(config, |o| o.network) != NamespaceMode::Node)
                .then(|| network(config, &metadata, id.as_str()))
                .transpose()?,
            dns: config.dns_config.as_ref().map(|dns| Dns {
                servers: dns.servers.clone(),
                searches: dns.searches.clone(),
                options: dns.options.clone(),
            }),
            shm_size: match mode(config, |o| o.ipc) {
                NamespaceMode::Node => 0,
                _ => SHM_SIZE,
            },
            runtime: found.runtime.clone(),
            id,
        };
        let logs = &config.log_directory;
        if !logs.is_empty() {
            std::fs::create_dir_all(logs)
                .map_err(corten_engine::Error::io("make folder", logs))
                .map_err(failed)?;
        }
        let pod = self.engine.run_pod(&ask, &self.settings.cni);
        let pod = pod.map_err(failed)?;
        self.leave_service(&pod);
        Ok(PodEntry::new(pod, document, true))
    }

    /// Where it cannot be done the pod is as good; who kills our unit kills it too.
    pub(super) fn leave_service(&self, pod: &Pod) {
        if let Err(error) = self.engine.leave_service(pod) {
            let error = corten_spec::chain(&error);
            tracing::warn!(
                error,
                pod = pod.id.as_str(),
                "a supervisor stays in this service"
            );
        }
    }

    /// One that is not there is stopped.
    pub(super) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        self.book.readable(id, true)?;
        let Some(pod) = self.book.find_pod(id) else {
            return Ok(());
        };
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let _busy = pod.busy.lock().await;
            shared.stop_locked(&pod).await
        });
        task.await
            .map_err(|_| Status::internal("the stopping of the pod ended without a result"))?
    }

    async fn stop_locked(self: &Arc<Self>, pod: &Arc<PodEntry>) -> Result<(), Status> {
        let was_ready = pod.is_ready();
        // A start that is on its way ends first, and no other begins before the pod is on record as stopped.
        let all = self.book.containers_of(&pod.id);
        let mut held = Vec::new();
        for container in &all {
            held.push(container.busy.lock().await);
        }
        let (engine, cni) = (self.engine.clone(), self.settings.cni.clone());
        let mut record = Pod::clone(&pod.now().pod);
        let of = all.iter().map(|c| PodContainer::clone(&c.now().container));
        let containers: Vec<_> = of.collect();
        let stopped = blocking::run(move || {
            engine.stop_pod(&mut record, &containers, &cni)?;
            Ok(record)
        })
        .await?;
        pod.set(stopped, false);
        drop(held);
        for container in &all {
            self.exited(container.id.as_str()).await;
        }
        if was_ready {
            self.tell(
                ContainerEventType::ContainerStoppedEvent,
                pod.id.as_str(),
                pod,
            );
        }
        Ok(())
    }

    /// One that is not there is removed.
    pub(super) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        self.book.readable(id, true)?;
        let Some(pod) = self.book.find_pod(id) else {
            return Ok(());
        };
        let unread = self.book.unread();
        let within = unread.iter().find(|row| row.pod.as_ref() == Some(&pod.id));
        if let Some(row) = within {
            return Err(row.refused());
        }
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let _busy = pod.busy.lock().await;
            if shared.book.find_pod(pod.id.as_str()).is_none() {
                return Ok(());
            }
            shared.stop_locked(&pod).await?;
            for container in shared.book.containers_of(&pod.id) {
                shared.remove_entry(&pod, &container).await?;
            }
            let (engine, cni) = (shared.engine.clone(), shared.settings.cni.clone());
            let mut record = Pod::clone(&pod.now().pod);
            blocking::run(move || engine.remove_pod(&mut record, &[], &cni)).await?;
            shared.book.remove_pod(&pod.id);
            shared.rates.retain(|id| id != pod.id.as_str());
            shared.tell(
                ContainerEventType::ContainerDeletedEvent,
                pod.id.as_str(),
                &pod,
            );
            Ok(())
        });
        task.await
            .map_err(|_| Status::internal("the removal of the pod ended without a result"))?
    }

    pub(super) fn list_sandboxes(&self, wanted: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let wanted = wanted.unwrap_or_default();
        let fits = |pod: &Arc<PodEntry>| {
            filter::id(pod.id.as_str(), &wanted.id)
                && wanted.state.is_none_or(|s| s.state() == pod.state())
                && filter::labels(&pod.document.config.labels, &wanted.label_selector)
        };
        let all = self.book.pods().into_iter().filter(fits);
        let unread = self.book.unread();
        let unread = unread.iter().filter_map(|row| row.pod(&wanted));
        all.map(|pod| pod.listed()).chain(unread).collect()
    }

    /// A pod's supervisor has ended, and with it the pod, unless we have ended it ourselves.
    pub(super) async fn supervisor_ended(self: &Arc<Self>, pod: &Arc<PodEntry>) {
        let _busy = pod.busy.lock().await;
        if !pod.is_ready() {
            return;
        }
        tracing::warn!(
            pod = pod.id.as_str(),
            "its supervisor has ended, and with it the pod"
        );
        if let Err(status) = self.stop_locked(pod).await {
            tracing::error!(
                pod = pod.id.as_str(),
                error = status.message(),
                "cannot be cleared up"
            );
            pod.set_lost();
        }
    }
}

pub(super) fn mode(
    config: &PodSandboxConfig,
    which: impl Fn(&crate::proto::NamespaceOption) -> i32,
) -> NamespaceMode {
    let linux = config.linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    let options = security.and_then(|s| s.namespace_options.as_ref());
    let value = options.map_or(0, which);
    NamespaceMode::try_from(value).unwrap_or_default()
}

fn metadata(config: &PodSandboxConfig) -> Result<PodSandboxMetadata, Status> {
    let metadata = config.metadata.clone().unwrap_or_default();
    match metadata.name.is_empty() {
        true => Err(Status::invalid_argument(
            "config.metadata.name: a pod has a name",
        )),
        false => Ok(metadata),
    }
}

fn name(metadata: &PodSandboxMetadata) -> String {
    let PodSandboxMetadata {
        name,
        uid,
        namespace,
        attempt,
    } = metadata;
    format!("{name}_{namespace}_{uid}_{attempt}")
}

/// A pod on the host's network has the host's name.
pub(super) fn hostname(config: &PodSandboxConfig) -> String {
    let own = mode(config, |o| o.network) != NamespaceMode::Node;
    match config.hostname.as_str() {
        name if own && !name.is_empty() => name.into(),
        _ => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    }
}

/// Words that become lines of files must be words.
fn check_words(config: &PodSandboxConfig) -> Result<(), Status> {
    let dns = config.dns_config.clone().unwrap_or_default();
    let all = (dns.servers.iter())
        .chain(&dns.searches)
        .chain(&dns.options);
    let bad = |word: &&String| {
        word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if let Some(word) = all.into_iter().find(bad) {
        return Err(Status::invalid_argument(format!(
            "config.dns_config: {word:?} is not one word"
        )));
    }
    Ok(())
}

/// What CNI is told, as containerd's users know it.
fn network(
    config: &PodSandboxConfig,
    metadata: &PodSandboxMetadata,
    id: &str,
) -> Result<NetworkAsk, Status> {
    let word = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let args = vec![
        word("IgnoreUnknown", "1"),
        word("K8S_POD_NAMESPACE", &metadata.namespace),
        word("K8S_POD_NAME", &metadata.name),
        word("K8S_POD_INFRA_CONTAINER_ID", id),
        word("K8S_POD_UID", &metadata.uid),
    ];
    let mut other = Map::new();
    if let Some(limits) = bandwidth(&config.annotations)? {
        other.insert("bandwidth".into(), limits);
    }
    let annotations = json!(config.annotations);
    other.insert("io.kubernetes.cri.pod-annotations".into(), annotations);
    let parent = config.linux.as_ref().map(|l| l.cgroup_parent.clone());
    if let Some(parent) = parent.filter(|p| !p.is_empty()) {
        other.insert("cgroupPath".into(), parent.into());
    }
    let dns = config.dns_config.clone().map(|dns| DnsArgument {
        servers: dns.servers,
        searches: dns.searches,
        options: dns.options,
    });
    Ok(NetworkAsk {
        args,
        capabilities: Capabilities {
            port_mappings: ports(config)?,
            dns,
            other,
            ..Capabilities::default()
        },
    })
}

/// Those that are published on the host.
fn ports(config: &PodSandboxConfig) -> Result<Vec<Mapping>, Status> {
    let number = |what: &str, port: i32| {
        u16::try_from(port).map_err(|_| {
            Status::invalid_argument(format!("config.port_mappings: {port} is no {what}"))
        })
    };
    let published = config.port_mappings.iter().filter(|p| p.host_port != 0);
    published
        .map(|p| {
            let protocol = match p.protocol() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let mapping = json!({
                "hostPort": number("port of the host", p.host_port)?,
                "containerPort": number("port of a container", p.container_port)?,
                "protocol": protocol,
                "hostIP": p.host_ip,
            });
            serde_json::from_value(mapping)
                .map_err(|e| Status::invalid_argument(format!("config.port_mappings: {e}")))
        })
        .collect()
}

/// Of kubelet's annotations, in the plugin's terms: bits a second, and bits of a burst.
fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, Status> {
    let mut limits = Map::new();
    for (direction, word) in [("ingress", "ingress"), ("egress", "egress")] {
        let key = format!("kubernetes.io/{word}-bandwidth");
        let Some(text) = annotations.get(&key) else {
            continue;
        };
        let rate = super::plan::quantity(text)
            .filter(|rate| (1000..=1_000_000_000_000_000).contains(rate));
        let rate = rate.ok_or_else(|| {
            Status::invalid_argument(format!(
                "annotation {key}: {text:?} is no rate between 1k and 1P"
            ))
        })?;
        limits.insert(format!("{direction}Rate"), rate.into());
        // What containerd gives: a burst as large as a 32 bit number.
        limits.insert(format!("{direction}Burst"), i32::MAX.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_and_rates_are_passed_on() {
        let mut config = PodSandboxConfig::default();
        for (host, container) in [(8080, 80), (0, 81)] {
            config.port_mappings.push(crate::proto::PortMapping {
                protocol: 1,
                container_port: container,
                host_port: host,
                host_ip: "127.0.0.1".into(),
            });
        }
        let found = ports(&config).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].host_port, found[0].container_port), (8080, 80));
        config.port_mappings[0].host_port = 70_000;
        assert!(ports(&config).unwrap_err().message().contains("70000"));
        let map = BTreeMap::from([("kubernetes.io/ingress-bandwidth".into(), "10M".into())]);
        let limits = bandwidth(&map).unwrap().unwrap();
        assert_eq!(limits["ingressRate"], 10_000_000);
        let map = BTreeMap::from([("kubernetes.io/egress-bandwidth".into(), "fast".into())]);
        assert!(bandwidth(&map).unwrap_err().message().contains("fast"));
    }

    #[test]
    fn a_name_server_is_one_word() {
        let mut config = PodSandboxConfig {
            dns_config: Some(Default::default()),
            ..PodSandboxConfig::default()
        };
        assert!(check_words(&config).is_ok());
        let dns = config.dns_config.as_mut().unwrap();
        dns.servers.push("10.0.0.1\nnameserver 6.6.6.6".into());
        assert!(check_words(&config).is_err());
    }
}
