//! One look at everything that has a figure: calls, images, pods, this process.

use std::fs;
use std::sync::Arc;

use corten_cri::image::{Images, Pulled};
use corten_cri::proto::image_service_server::ImageService;
use corten_cri::proto::runtime_service_server::RuntimeService;
use corten_cri::proto::{
    ContainerState, FilesystemUsage, ImageFsInfoRequest, ListContainersRequest, ListImagesRequest,
    ListPodSandboxRequest, PodSandboxState, StatusRequest,
};
use tonic::{Request, Status};

use super::metrics::{Calls, counter, gauge, head, line};
use super::spans::Exported;

/// What /metrics and /readyz look at.
pub struct Scrape<R> {
    pub calls: Arc<Calls>,
    pub images: Arc<Images>,
    pub runtime: Arc<R>,
    pub spans: Option<Arc<Exported>>,
}

impl<R: RuntimeService> Scrape<R> {
    /// The text of /metrics. What cannot be counted now is left out: half a page is better than none.
    pub async fn metrics(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        head(
            &mut out,
            "corten_build_info",
            "gauge",
            "The version that runs.",
        );
        line(
            &mut out,
            "corten_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1,
        );
        self.calls.write(&mut out);
        pulls(&mut out, &self.images.pulled());
        if let Err(status) = self.images(&mut out).await {
            tracing::warn!(why = status.message(), "images cannot be counted");
        }
        if let Err(status) = self.pods(&mut out).await {
            tracing::debug!(why = status.message(), "pods cannot be counted");
        }
        if let Some(spans) = &self.spans {
            counter(
                &mut out,
                "corten_spans_sent_total",
                "Spans that a collector has taken.",
                spans.sent(),
            );
            counter(
                &mut out,
                "corten_spans_dropped_total",
                "Spans that found no room, or no collector.",
                spans.dropped(),
            );
        }
        process(&mut out);
        out
    }

    /// What of the runtime's conditions does not hold: `Ok` where it can run pods.
    pub async fn ready(&self) -> Result<(), String> {
        let said = |s: Status| s.message().to_owned();
        self.images
            .list_images(Request::new(ListImagesRequest::default()))
            .await
            .map_err(said)?;
        let status = self
            .runtime
            .status(Request::new(StatusRequest::default()))
            .await;
        let conditions = status
            .map_err(said)?
            .into_inner()
            .status
            .unwrap_or_default()
            .conditions;
        let ready = |c: &&corten_cri::proto::RuntimeCondition| c.r#type == "RuntimeReady";
        match conditions.iter().find(ready) {
            Some(c) if c.status => Ok(()),
            Some(c) => Err(format!("{}: {}", c.reason, c.message)),
            None => Err("the runtime says nothing of its condition".into()),
        }
    }

    async fn images(&self, out: &mut String) -> Result<(), Status> {
        let listed = self
            .images
            .list_images(Request::new(ListImagesRequest::default()))
            .await?;
        let images = listed.into_inner().images;
        gauge(out, "corten_images", "Images in the store.", images.len());
        let usage = self
            .images
            .image_fs_info(Request::new(ImageFsInfoRequest {}))
            .await?
            .into_inner();
        let name = "corten_filesystem_used_bytes";
        head(
            out,
            name,
            "gauge",
            "Disk that images, and the writable parts of containers, occupy.",
        );
        let used = |list: &[FilesystemUsage]| -> u64 {
            list.iter()
                .filter_map(|u| u.used_bytes.as_ref())
                .map(|b| b.value)
                .sum()
        };
        line(
            out,
            name,
            &[("of", "images")],
            used(&usage.image_filesystems),
        );
        line(
            out,
            name,
            &[("of", "containers")],
            used(&usage.container_filesystems),
        );
        Ok(())
    }

    async fn pods(&self, out: &mut String) -> Result<(), Status> {
        let pods = self
            .runtime
            .list_pod_sandbox(Request::new(ListPodSandboxRequest::default()))
            .await?;
        let pods = pods.into_inner().items;
        head(out, "corten_pods", "gauge", "Pods by state.");
        for (state, word) in [
            (PodSandboxState::SandboxReady, "ready"),
            (PodSandboxState::SandboxNotready, "not-ready"),
        ] {
            let count = pods.iter().filter(|p| p.state() == state).count();
            line(out, "corten_pods", &[("state", word)], count);
        }
        let containers = self
            .runtime
            .list_containers(Request::new(ListContainersRequest::default()))
            .await?;
        let containers = containers.into_inner().containers;
        head(
            out,
            "corten_containers",
            "gauge",
            "Containers of pods by state.",
        );
        for (state, word) in [
            (ContainerState::ContainerCreated, "created"),
            (ContainerState::ContainerRunning, "running"),
            (ContainerState::ContainerExited, "exited"),
            (ContainerState::ContainerUnknown, "unknown"),
        ] {
            let count = containers.iter().filter(|c| c.state() == state).count();
            line(out, "corten_containers", &[("state", word)], count);
        }
        Ok(())
    }
}

fn pulls(out: &mut String, pulled: &Pulled) {
    head(
        out,
        "corten_image_pulls_total",
        "counter",
        "Pulls that have ended, by how.",
    );
    line(
        out,
        "corten_image_pulls_total",
        &[("result", "whole")],
        pulled.whole(),
    );
    line(
        out,
        "corten_image_pulls_total",
        &[("result", "failed")],
        pulled.failed(),
    );
    counter(
        out,
        "corten_image_pull_bytes_total",
        "Compressed bytes that pulls have got.",
        pulled.bytes(),
    );
    gauge(
        out,
        "corten_image_pulls_under_way",
        "Pulls under way.",
        pulled.under_way(),
    );
}

/// By the names that every client library of Prometheus gives them.
fn process(out: &mut String) {
    let page = rustix::param::page_size() as u64;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; field 3 comes after it (proc_pid_stat(5)).
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let field = |n: usize| {
        fields
            .get(n - 3)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let seconds = (field(14) + field(15)) as f64 / ticks as f64;
    counter(
        out,
        "process_cpu_seconds_total",
        "Processor time, in seconds.",
        seconds,
    );
    gauge(
        out,
        "process_resident_memory_bytes",
        "Memory that is resident.",
        field(24) * page,
    );
    gauge(
        out,
        "process_virtual_memory_bytes",
        "Memory that is mapped.",
        field(23),
    );
    gauge(out, "process_threads", "Threads.", field(20));
    if let Some(boot) = boot_time() {
        let started = boot as f64 + field(22) as f64 / ticks as f64;
        gauge(
            out,
            "process_start_time_seconds",
            "When it started, in seconds since 1970.",
            started,
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The one that is looked with is among them.
        gauge(
            out,
            "process_open_fds",
            "Descriptors that are open.",
            open.count().saturating_sub(1),
        );
    }
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(max) = limits.current {
        gauge(out, "process_max_fds", "Descriptors that may be open.", max);
    }
}

fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|l| l.strip_prefix("btime "))?;
    line.trim().parse().ok()
}
