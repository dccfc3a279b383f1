//! Stats and metrics: who is asked about, and where their counters are. What becomes of the counters is [`crate::stats`]'.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corten_cgroup::{Cgroup, Layout};
use tonic::Status;

use super::book::{ContainerEntry, PodEntry};
use super::{Shared, filter};
use crate::blocking;
use crate::proto::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, PodSandboxAttributes,
    PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter,
};
use crate::spec;
use crate::stats::metrics::{self, Figures, Subject};
use crate::stats::{FileSystem, Layer, Processes, Sample, devices, network, usage};

/// How long the size of what a container has written is good for: to count it means to walk it.
const LAYER_GOOD: Duration = Duration::from_secs(10);

impl Shared {
    pub(super) async fn container_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<ContainerStats, Status> {
        let entry = self.book.container(id)?;
        let shared = self.clone();
        blocking::status(move || Ok(shared.stats_of(&entry))).await
    }

    pub(super) async fn all_container_stats(
        self: &Arc<Self>,
        wanted: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, Status> {
        let wanted = wanted.unwrap_or_default();
        let mut all = self.book.containers();
        all.retain(|c| {
            let now = c.now();
            now.is_running()
                && filter::id(c.id.as_str(), &wanted.id)
                && filter::id(c.pod.as_str(), &wanted.pod_sandbox_id)
                && filter::labels(&now.document.config.labels, &wanted.label_selector)
        });
        let shared = self.clone();
        blocking::status(move || Ok(all.iter().map(|c| shared.stats_of(c)).collect())).await
    }

    pub(super) async fn pod_stats(self: &Arc<Self>, id: &str) -> Result<PodSandboxStats, Status> {
        let pod = self.book.pod(id)?;
        let shared = self.clone();
        blocking::status(move || Ok(shared.stats_of_pod(&pod))).await
    }

    pub(super) async fn all_pod_stats(
        self: &Arc<Self>,
        wanted: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, Status> {
        let wanted = wanted.unwrap_or_default();
        let mut all = self.book.pods();
        all.retain(|pod| {
            pod.is_ready()
                && filter::id(pod.id.as_str(), &wanted.id)
                && filter::labels(&pod.document.config.labels, &wanted.label_selector)
        });
        let shared = self.clone();
        blocking::status(move || Ok(all.iter().map(|pod| shared.stats_of_pod(pod)).collect())).await
    }

    pub(super) async fn metrics(self: &Arc<Self>) -> Result<Vec<PodSandboxMetrics>, Status> {
        let mut all = self.book.pods();
        all.retain(|pod| pod.is_ready());
        let shared = self.clone();
        blocking::status(move || Ok(all.iter().map(|pod| shared.metrics_of(pod)).collect())).await
    }

    /// Of one that does not run there is what it has written, and nothing more.
    fn stats_of(&self, entry: &ContainerEntry) -> ContainerStats {
        self.stats_with(entry, self.sample(entry).as_ref())
    }

    fn stats_with(&self, entry: &ContainerEntry, sample: Option<&Sample>) -> ContainerStats {
        let now = entry.now();
        let config = &now.document.config;
        let attributes = ContainerAttributes {
            id: entry.id.to_string(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let rate = sample.and_then(|s| self.rate(entry.id.as_str(), s));
        usage::container(attributes, sample, rate, self.layer(entry).as_ref())
    }

    fn rate(&self, id: &str, sample: &Sample) -> Option<u64> {
        let used = sample.stats.cpu.as_ref()?.usage;
        self.rates.update(id, sample.at, used)
    }

    /// `None`: it does not run, or has just ended.
    fn sample(&self, entry: &ContainerEntry) -> Option<Sample> {
        let now = entry.now();
        if !now.is_running() {
            return None;
        }
        let group = self.engine.pod_cgroup(&now.container).ok()?;
        Sample::read(&group).ok()
    }

    fn layer(&self, entry: &ContainerEntry) -> Option<Layer> {
        if let Some(known) = entry.layer(LAYER_GOOD) {
            return Some(known);
        }
        let (bytes, inodes) = self.engine.pod_layer_usage(&entry.now().container).ok()?;
        let layer = Layer {
            at: crate::stats::now(),
            mountpoint: self.snapshots().display().to_string(),
            bytes,
            inodes,
        };
        entry.set_layer(layer.clone());
        Some(layer)
    }

    /// As ImageFsInfo names it.
    fn snapshots(&self) -> PathBuf {
        self.engine.paths().root().join("snapshots")
    }

    fn stats_of_pod(&self, pod: &PodEntry) -> PodSandboxStats {
        let config = &pod.document.config;
        let containers = self.book.containers_of(&pod.id);
        let running: Vec<_> = containers.iter().filter(|c| c.now().is_running()).collect();
        // Each group is read once: it is what this call costs.
        let samples: Vec<_> = running.iter().map(|c| self.sample(c)).collect();
        let whole = self.whole(pod);
        let mut sample = whole.unwrap_or_else(|| Sample::sum(samples.iter().flatten()));
        if sample.at == 0 {
            sample.at = crate::stats::now();
        }
        let processes = samples.iter().flatten();
        let processes = processes.filter_map(|s| s.stats.pids.as_ref());
        let processes = processes.map(|p| p.current).sum();
        let attributes = PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let interfaces = self.interfaces(pod);
        let rate = self.rate(pod.id.as_str(), &sample);
        let of = running.iter().zip(&samples);
        let stats = of.map(|(c, s)| self.stats_with(c, s.as_ref())).collect();
        usage::pod(
            attributes,
            &sample,
            rate,
            interfaces.as_deref(),
            processes,
            stats,
        )
    }

    /// The group that kubelet has made for the pod, where it is a pod's alone.
    fn whole(&self, pod: &PodEntry) -> Option<Sample> {
        let linux = pod.document.config.linux.as_ref()?;
        let parent = spec::cgroup::parent(&linux.cgroup_parent, self.settings.systemd_cgroup)?;
        let uid = pod
            .document
            .config
            .metadata
            .as_ref()
            .map(|m| m.uid.replace('-', "_"))?;
        let own = !uid.is_empty() && parent.replace('-', "_").contains(&uid);
        if !own {
            return None;
        }
        let group = Cgroup::open(&Layout::probe().ok()?, &parent).ok()?;
        Sample::read(&group).ok()
    }

    /// `None`: it is on the host's network.
    fn interfaces(&self, pod: &PodEntry) -> Option<Vec<network::Interface>> {
        let run = pod.now().pod.record.run.clone()?;
        network::read(run.namespaces.get("network")?).ok()
    }

    fn metrics_of(&self, pod: &PodEntry) -> PodSandboxMetrics {
        let metadata = pod.document.config.metadata.clone().unwrap_or_default();
        let subject = Subject {
            pod: &metadata.name,
            namespace: &metadata.namespace,
            id: pod.id.as_str(),
            ..Subject::default()
        };
        let interfaces = self.interfaces(pod).unwrap_or_default();
        let containers = self.book.containers_of(&pod.id);
        let of = |entry: &Arc<ContainerEntry>| {
            Some(crate::proto::ContainerMetrics {
                container_id: entry.id.to_string(),
                metrics: self.metrics_of_container(&subject, entry)?,
            })
        };
        PodSandboxMetrics {
            pod_sandbox_id: pod.id.to_string(),
            metrics: metrics::of_pod(&subject, &interfaces, crate::stats::now()),
            container_metrics: containers.iter().filter_map(of).collect(),
        }
    }

    fn metrics_of_container(
        &self,
        pod: &Subject<'_>,
        entry: &ContainerEntry,
    ) -> Option<Vec<crate::proto::Metric>> {
        let sample = self.sample(entry)?;
        let now = entry.now();
        let config = &now.document.config;
        let name = config.metadata.as_ref().map_or("", |m| m.name.as_str());
        let group = self.engine.pod_cgroup(&now.container).ok()?;
        let mut pids = group.pids().unwrap_or_default();
        let first = now.container.record.started.map_or(0, |s| s.pid as i32);
        // The container's first process in front.
        pids.sort_by_key(|pid| *pid != first);
        let linux = config.linux.as_ref();
        let image = now.container.record.image.clone();
        Some(metrics::of_container(
            &Subject {
                container: name,
                id: entry.id.as_str(),
                image: &image,
                ..pod.clone()
            },
            &Figures {
                sample: &sample,
                processes: &Processes::read(&pids),
                layer: self.layer(entry).as_ref(),
                file_system: FileSystem::read(&self.snapshots()).ok().as_ref(),
                devices: &devices(&sample.stats),
                resources: linux.and_then(|l| l.resources.as_ref()),
                started: now.container.record.started.map_or(0, |s| s.at),
            },
        ))
    }
}
