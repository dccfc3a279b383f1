//! Statistics in containerd's messages, of the version that the host's groups have.

use corten_cgroup::Stats;
use prost::Message;
use prost_types::Any;

use crate::proto::metrics as proto;

/// Packs statistics as `io.containerd.cgroups.v1.Metrics` or its v2 sister.
pub fn encode(stats: &Stats) -> Any {
    match stats.memory.as_ref().is_some_and(|m| m.v1) {
        true => Any {
            type_url: "io.containerd.cgroups.v1.Metrics".into(),
            value: version_1(stats).encode_to_vec(),
        },
        false => Any {
            type_url: "io.containerd.cgroups.v2.Metrics".into(),
            value: version_2(stats).encode_to_vec(),
        },
    }
}

/// Both versions say "no limit" with the largest number.
fn limit(limit: Option<u64>) -> u64 {
    limit.unwrap_or(u64::MAX)
}

fn pids(stats: &Stats) -> Option<proto::Pids> {
    stats.pids.map(|p| proto::Pids {
        current: p.current,
        // Here no limit is a 0, in both versions.
        limit: p.limit.unwrap_or(0),
    })
}

fn version_1(stats: &Stats) -> proto::V1 {
    let entry = |device: &corten_cgroup::stats::Io, op: &str, value| proto::V1IoEntry {
        op: op.into(),
        device: String::new(),
        major: device.major.into(),
        minor: device.minor.into(),
        value,
    };
    let both = |read: fn(&corten_cgroup::stats::Io) -> [u64; 2]| {
        let each = stats.io.iter().flat_map(|d| {
            let [r, w] = read(d);
            [entry(d, "Read", r), entry(d, "Write", w)]
        });
        each.collect::<Vec<_>>()
    };
    proto::V1 {
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|h| proto::V1Hugetlb {
                usage: h.usage,
                max: limit(h.limit),
                failcnt: h.failures,
                pagesize: h.page_size.clone(),
            })
            .collect(),
        pids: pids(stats),
        cpu: stats.cpu.map(|c| proto::V1Cpu {
            usage: Some(proto::V1CpuUsage {
                total: c.usage,
                kernel: c.system,
                user: c.user,
            }),
            throttling: Some(proto::V1Throttle {
                periods: c.periods,
                throttled_periods: c.throttled_periods,
                throttled_time: c.throttled,
            }),
        }),
        memory: stats.memory.as_ref().map(memory_1),
        blkio: Some(proto::V1Io {
            io_service_bytes_recursive: both(|d| [d.read_bytes, d.write_bytes]),
            io_serviced_recursive: both(|d| [d.reads, d.writes]),
        }),
        memory_oom_control: stats.memory.as_ref().map(|m| proto::V1Oom {
            oom_kill_disable: 0,
            under_oom: 0,
            oom_kill: m.oom_kills,
        }),
    }
}

fn memory_1(memory: &corten_cgroup::stats::Memory) -> proto::V1Memory {
    let get = |key| memory.detail.get(key).copied().unwrap_or(0);
    proto::V1Memory {
        cache: get("cache"),
        rss: get("rss"),
        mapped_file: get("mapped_file"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_mapped_file: get("total_mapped_file"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: Some(proto::V1MemoryEntry {
            limit: limit(memory.limit),
            usage: memory.usage,
            max: memory.peak.unwrap_or(0),
            failcnt: memory.failures,
        }),
        swap: Some(proto::V1MemoryEntry {
            limit: limit(memory.swap_limit),
            usage: memory.swap_usage,
            max: 0,
            failcnt: 0,
        }),
    }
}

fn version_2(stats: &Stats) -> proto::V2 {
    proto::V2 {
        pids: pids(stats),
        cpu: stats.cpu.map(|c| proto::V2Cpu {
            usage_usec: c.usage / 1000,
            user_usec: c.user / 1000,
            system_usec: c.system / 1000,
            nr_periods: c.periods,
            nr_throttled: c.throttled_periods,
            throttled_usec: c.throttled / 1000,
        }),
        memory: stats.memory.as_ref().map(|m| {
            let get = |key| m.detail.get(key).copied().unwrap_or(0);
            proto::V2Memory {
                anon: get("anon"),
                file: get("file"),
                kernel_stack: get("kernel_stack"),
                slab: get("slab"),
                sock: get("sock"),
                shmem: get("shmem"),
                file_mapped: get("file_mapped"),
                inactive_anon: get("inactive_anon"),
                active_anon: get("active_anon"),
                inactive_file: get("inactive_file"),
                active_file: get("active_file"),
                unevictable: get("unevictable"),
                pgfault: get("pgfault"),
                pgmajfault: get("pgmajfault"),
                usage: m.usage,
                usage_limit: limit(m.limit),
                swap_usage: m.swap_usage,
                swap_limit: limit(m.swap_limit),
                max_usage: m.peak.unwrap_or(0),
            }
        }),
        io: Some(proto::V2Io {
            usage: stats
                .io
                .iter()
                .map(|d| proto::V2IoEntry {
                    major: d.major.into(),
                    minor: d.minor.into(),
                    rbytes: d.read_bytes,
                    wbytes: d.write_bytes,
                    rios: d.reads,
                    wios: d.writes,
                })
                .collect(),
        }),
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|h| proto::V2Hugetlb {
                current: h.usage,
                max: limit(h.limit),
                pagesize: h.page_size.clone(),
            })
            .collect(),
        memory_events: stats.memory.as_ref().map(|m| proto::V2MemoryEvents {
            max: m.failures,
            oom_kill: m.oom_kills,
        }),
    }
}
