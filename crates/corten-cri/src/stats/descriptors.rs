//! The names of all metrics: those that kubelet had from cAdvisor, so that dashboards stay as they are.

use crate::proto::MetricDescriptor;

/// The labels of every metric.
const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

const NONE: &[&str] = &[];
const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];

/// Name without `container_`, help, further labels.
type Row = (&'static str, &'static str, &'static [&'static str]);

const ROWS: [Row; 58] = [
    (
        "last_seen",
        "When the container was last seen, in seconds since 1970",
        NONE,
    ),
    (
        "start_time_seconds",
        "When the container started, in seconds since 1970",
        NONE,
    ),
    ("cpu_usage_seconds_total", "CPU time, in seconds", NONE),
    (
        "cpu_user_seconds_total",
        "CPU time of programs, in seconds",
        NONE,
    ),
    (
        "cpu_system_seconds_total",
        "CPU time of the kernel, in seconds",
        NONE,
    ),
    ("cpu_cfs_periods_total", "Periods of the CPU quota", NONE),
    (
        "cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota was used up",
        NONE,
    ),
    (
        "cpu_cfs_throttled_seconds_total",
        "Time without CPU for the quota's sake, in seconds",
        NONE,
    ),
    (
        "memory_usage_bytes",
        "Memory in use, page cache included",
        NONE,
    ),
    (
        "memory_working_set_bytes",
        "Memory in use that could not be dropped at once",
        NONE,
    ),
    ("memory_max_usage_bytes", "Highest memory usage", NONE),
    ("memory_rss", "Anonymous memory, in bytes", NONE),
    ("memory_cache", "Page cache, in bytes", NONE),
    (
        "memory_mapped_file",
        "Files that are mapped into memory, in bytes",
        NONE,
    ),
    (
        "memory_kernel_usage",
        "Memory of the kernel for the container, in bytes",
        NONE,
    ),
    ("memory_swap", "Swap in use, in bytes", NONE),
    ("memory_failcnt", "How often the memory limit was hit", NONE),
    (
        "memory_failures_total",
        "Page faults, by type",
        &["failure_type", "scope"],
    ),
    (
        "memory_total_active_file_bytes",
        "Page cache that was used lately",
        NONE,
    ),
    (
        "memory_total_inactive_file_bytes",
        "Page cache that would be dropped first",
        NONE,
    ),
    (
        "oom_events_total",
        "Processes that were killed for want of memory",
        NONE,
    ),
    ("hugetlb_usage_bytes", "Huge pages in use", &["pagesize"]),
    (
        "hugetlb_max_usage_bytes",
        "Highest usage of huge pages",
        &["pagesize"],
    ),
    (
        "pressure_cpu_waiting_seconds_total",
        "Time in which some waited for CPU",
        NONE,
    ),
    (
        "pressure_cpu_stalled_seconds_total",
        "Time in which all waited for CPU",
        NONE,
    ),
    (
        "pressure_memory_waiting_seconds_total",
        "Time in which some waited for memory",
        NONE,
    ),
    (
        "pressure_memory_stalled_seconds_total",
        "Time in which all waited for memory",
        NONE,
    ),
    (
        "pressure_io_waiting_seconds_total",
        "Time in which some waited for disks",
        NONE,
    ),
    (
        "pressure_io_stalled_seconds_total",
        "Time in which all waited for disks",
        NONE,
    ),
    (
        "blkio_device_usage_total",
        "Bytes by device and operation",
        &["device", "major", "minor", "operation"],
    ),
    ("fs_reads_bytes_total", "Bytes read from a device", DEVICE),
    ("fs_reads_total", "Reads from a device", DEVICE),
    ("fs_writes_bytes_total", "Bytes written to a device", DEVICE),
    ("fs_writes_total", "Writes to a device", DEVICE),
    (
        "fs_usage_bytes",
        "Bytes that the container has written to its root",
        DEVICE,
    ),
    (
        "fs_limit_bytes",
        "Size of the file system of its root",
        DEVICE,
    ),
    (
        "fs_inodes_total",
        "Inodes of the file system of its root",
        DEVICE,
    ),
    (
        "fs_inodes_free",
        "Free inodes of the file system of its root",
        DEVICE,
    ),
    ("processes", "Processes", NONE),
    ("threads", "Threads", NONE),
    (
        "threads_max",
        "Most threads that there may be; 0 for any number",
        NONE,
    ),
    ("file_descriptors", "Open files", NONE),
    ("sockets", "Open sockets", NONE),
    (
        "ulimits_soft",
        "Soft limits of the first process",
        &["ulimit"],
    ),
    (
        "spec_cpu_period",
        "Period of the CPU quota, in microseconds",
        NONE,
    ),
    (
        "spec_cpu_quota",
        "CPU quota of a period, in microseconds",
        NONE,
    ),
    ("spec_cpu_shares", "Share of the CPU against others", NONE),
    ("spec_memory_limit_bytes", "Memory limit", NONE),
    (
        "spec_memory_reservation_limit_bytes",
        "Memory above which it is reclaimed",
        NONE,
    ),
    (
        "spec_memory_swap_limit_bytes",
        "Limit of memory and swap together",
        NONE,
    ),
    ("network_receive_bytes_total", "Bytes received", INTERFACE),
    (
        "network_receive_packets_total",
        "Packets received",
        INTERFACE,
    ),
    (
        "network_receive_packets_dropped_total",
        "Packets dropped while receiving",
        INTERFACE,
    ),
    (
        "network_receive_errors_total",
        "Errors while receiving",
        INTERFACE,
    ),
    ("network_transmit_bytes_total", "Bytes sent", INTERFACE),
    ("network_transmit_packets_total", "Packets sent", INTERFACE),
    (
        "network_transmit_packets_dropped_total",
        "Packets dropped while sending",
        INTERFACE,
    ),
    (
        "network_transmit_errors_total",
        "Errors while sending",
        INTERFACE,
    ),
];

/// All that [`metrics`](super::metrics) can give.
pub fn descriptors() -> Vec<MetricDescriptor> {
    let one = |(name, help, labels): &Row| MetricDescriptor {
        name: format!("container_{name}"),
        help: (*help).into(),
        label_keys: BASE.iter().chain(*labels).map(|l| (*l).into()).collect(),
    };
    ROWS.iter().map(one).collect()
}
