//! Metrics in Prometheus's terms: one value by name and labels. Values are whole numbers; times lose their fraction.

use std::collections::BTreeMap;

use corten_cgroup::stats::{Io, Memory};

use super::network::{self, Interface};
use super::process::Processes;
use super::sample::{FileSystem, Layer, Sample};
use super::usage;
use crate::proto::{LinuxContainerResources, Metric, MetricType, UInt64Value};

const SECOND: u64 = 1_000_000_000;
/// Pressure is counted in microseconds.
const MICROSECOND: u64 = 1_000_000;

/// Whose metrics they are.
#[derive(Clone, Debug, Default)]
pub struct Subject<'a> {
    pub pod: &'a str,
    pub namespace: &'a str,
    /// Empty for a pod.
    pub container: &'a str,
    pub id: &'a str,
    /// As users call it; empty for a pod.
    pub image: &'a str,
}

/// What there is to tell of a container.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    pub sample: &'a Sample,
    pub processes: &'a Processes,
    pub layer: Option<&'a Layer>,
    /// On which that layer is.
    pub file_system: Option<&'a FileSystem>,
    /// Names of block devices.
    pub devices: &'a BTreeMap<(u32, u32), String>,
    /// As they are asked for.
    pub resources: Option<&'a LinuxContainerResources>,
    /// Nanoseconds since 1970; 0: not yet.
    pub started: i64,
}

/// What went through the interfaces of a pod.
pub fn of_pod(subject: &Subject<'_>, interfaces: &[Interface], at: i64) -> Vec<Metric> {
    let mut all = Metrics::new(subject, at);
    // Kubelet shows one interface a pod.
    let Some((name, counters)) = network::default(interfaces) else {
        return all.found;
    };
    for (way, traffic) in [
        ("receive", &counters.received),
        ("transmit", &counters.sent),
    ] {
        for (what, value) in [
            ("bytes", traffic.bytes),
            ("packets", traffic.packets),
            ("packets_dropped", traffic.dropped),
            ("errors", traffic.errors),
        ] {
            all.counter(&format!("network_{way}_{what}_total"), value, &[name]);
        }
    }
    all.found
}

pub fn of_container(subject: &Subject<'_>, figures: &Figures<'_>) -> Vec<Metric> {
    let sample = figures.sample;
    let mut all = Metrics::new(subject, sample.at);
    let seconds = |nanos: i64| u64::try_from(nanos).unwrap_or(0) / SECOND;
    all.gauge("last_seen", seconds(sample.at), &[]);
    all.gauge("start_time_seconds", seconds(figures.started), &[]);
    all.cpu(sample);
    if let Some(memory) = &sample.stats.memory {
        all.memory(memory);
    }
    for (size, peak) in &sample.hugetlb_peaks {
        all.gauge("hugetlb_max_usage_bytes", *peak, &[size]);
    }
    for pages in &sample.stats.hugetlb {
        all.gauge("hugetlb_usage_bytes", pages.usage, &[&pages.page_size]);
    }
    all.pressure(sample);
    for io in &sample.stats.io {
        all.disk(io, figures.devices);
    }
    all.root(figures);
    all.processes(figures);
    if let Some(resources) = figures.resources {
        all.limits(resources);
    }
    all.found
}

struct Metrics {
    labels: [String; 5],
    at: i64,
    found: Vec<Metric>,
}

impl Metrics {
    fn new(subject: &Subject<'_>, at: i64) -> Self {
        let labels = [
            subject.pod,
            subject.namespace,
            subject.container,
            subject.id,
            subject.image,
        ];
        Self {
            labels: labels.map(String::from),
            at,
            found: vec![],
        }
    }

    fn put(&mut self, kind: MetricType, name: &str, value: u64, labels: &[&str]) {
        let own = self.labels.iter().map(String::as_str);
        self.found.push(Metric {
            name: format!("container_{name}"),
            timestamp: self.at,
            metric_type: kind as i32,
            label_values: own
                .chain(labels.iter().copied())
                .map(String::from)
                .collect(),
            value: Some(UInt64Value { value }),
        });
    }

    fn counter(&mut self, name: &str, value: u64, labels: &[&str]) {
        self.put(MetricType::Counter, name, value, labels);
    }

    fn gauge(&mut self, name: &str, value: u64, labels: &[&str]) {
        self.put(MetricType::Gauge, name, value, labels);
    }

    fn cpu(&mut self, sample: &Sample) {
        let Some(cpu) = &sample.stats.cpu else { return };
        for (name, value) in [
            ("usage_seconds", cpu.usage / SECOND),
            ("user_seconds", cpu.user / SECOND),
            ("system_seconds", cpu.system / SECOND),
            ("cfs_periods", cpu.periods),
            ("cfs_throttled_periods", cpu.throttled_periods),
            ("cfs_throttled_seconds", cpu.throttled / SECOND),
        ] {
            self.counter(&format!("cpu_{name}_total"), value, &[]);
        }
    }

    fn memory(&mut self, memory: &Memory) {
        let detail = |v1: &str, v2: &str| usage::detail(memory, v1, v2);
        // Version 1 counts it in a file of its own, which newer kernels no longer have.
        let kernel = detail("total_kernel_stack", "kernel");
        for (name, value) in [
            ("usage_bytes", memory.usage),
            ("working_set_bytes", usage::working_set(memory)),
            ("max_usage_bytes", memory.peak.unwrap_or(memory.usage)),
            ("rss", detail("total_rss", "anon")),
            ("cache", detail("total_cache", "file")),
            ("mapped_file", detail("total_mapped_file", "file_mapped")),
            ("kernel_usage", kernel),
            ("swap", usage::swap_alone(memory).0),
            (
                "total_active_file_bytes",
                detail("total_active_file", "active_file"),
            ),
            ("total_inactive_file_bytes", memory.inactive_file),
        ] {
            self.gauge(&format!("memory_{name}"), value, &[]);
        }
        self.counter("memory_failcnt", memory.failures, &[]);
        self.counter("oom_events_total", memory.oom_kills, &[]);
        for kind in ["pgfault", "pgmajfault"] {
            let total = detail(&format!("total_{kind}"), kind);
            let own = memory.detail.get(kind).copied().unwrap_or(total);
            for (scope, value) in [("container", own), ("hierarchy", total)] {
                self.counter("memory_failures_total", value, &[kind, scope]);
            }
        }
    }

    fn pressure(&mut self, sample: &Sample) {
        let all = &sample.pressures;
        for (name, pressure) in [("cpu", &all.cpu), ("memory", &all.memory), ("io", &all.io)] {
            let Some(pressure) = pressure else { continue };
            for (word, stall) in [("waiting", &pressure.some), ("stalled", &pressure.full)] {
                let seconds = stall.total / MICROSECOND;
                self.counter(
                    &format!("pressure_{name}_{word}_seconds_total"),
                    seconds,
                    &[],
                );
            }
        }
    }

    fn disk(&mut self, io: &Io, names: &BTreeMap<(u32, u32), String>) {
        let numbers = (io.major.to_string(), io.minor.to_string());
        let plain = format!("{}:{}", numbers.0, numbers.1);
        let device = names.get(&(io.major, io.minor)).unwrap_or(&plain);
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            let labels = [device, numbers.0.as_str(), numbers.1.as_str(), operation];
            self.counter("blkio_device_usage_total", bytes, &labels);
        }
        for (name, value) in [
            ("reads_bytes", io.read_bytes),
            ("reads", io.reads),
            ("writes_bytes", io.write_bytes),
            ("writes", io.writes),
        ] {
            self.counter(&format!("fs_{name}_total"), value, &[device]);
        }
    }

    fn root(&mut self, figures: &Figures<'_>) {
        let Some(on) = figures.file_system else {
            return;
        };
        if let Some(layer) = figures.layer {
            self.gauge("fs_usage_bytes", layer.bytes, &[&on.device]);
        }
        for (name, value) in [
            ("limit_bytes", on.bytes),
            ("inodes_total", on.inodes),
            ("inodes_free", on.inodes_free),
        ] {
            self.gauge(&format!("fs_{name}"), value, &[&on.device]);
        }
    }

    fn processes(&mut self, figures: &Figures<'_>) {
        let processes = figures.processes;
        self.gauge("processes", processes.count, &[]);
        self.gauge("file_descriptors", processes.descriptors, &[]);
        self.gauge("sockets", processes.sockets, &[]);
        if let Some(pids) = &figures.sample.stats.pids {
            self.gauge("threads", pids.current, &[]);
            self.gauge("threads_max", pids.limit.unwrap_or(0), &[]);
        }
        if let Some(limit) = processes.max_files {
            self.gauge("ulimits_soft", limit, &["max_open_files"]);
        }
    }

    /// What is set: not set, and no limit, are nothing that a number could say.
    fn limits(&mut self, resources: &LinuxContainerResources) {
        let high = resources.unified.get("memory.high");
        let high = high.and_then(|text| text.parse().ok()).unwrap_or(0);
        for (name, value) in [
            ("cpu_period", resources.cpu_period),
            ("cpu_quota", resources.cpu_quota),
            ("cpu_shares", resources.cpu_shares),
            ("memory_limit_bytes", resources.memory_limit_in_bytes),
            ("memory_reservation_limit_bytes", high),
            (
                "memory_swap_limit_bytes",
                match resources.memory_swap_limit_in_bytes {
                    // None given is none to be had.
                    0 => resources.memory_limit_in_bytes,
                    both => both,
                },
            ),
        ] {
            match u64::try_from(value) {
                Ok(value) if value != 0 => self.gauge(&format!("spec_{name}"), value, &[]),
                _ => {}
            }
        }
    }
}
