//! Statistics in containerd's messages, of the version that the host's groups have.

use corten_cgroup::detail::{Account, Counter, Detail, Pressure};
use corten_cgroup::{Cgroup, Stats};
use prost::Message;
use prost_types::Any;

use crate::proto::metrics as proto;

/// Everything that a group's files say in these messages.
pub fn of(group: &Cgroup) -> Result<Any, corten_cgroup::Error> {
    Ok(encode(&group.stats()?, &group.detail()?))
}

/// Packs statistics as `io.containerd.cgroups.v1.Metrics` or its v2 sister.
fn encode(stats: &Stats, detail: &Detail) -> Any {
    match stats.memory.as_ref().is_some_and(|m| m.v1) {
        true => Any {
            type_url: "io.containerd.cgroups.v1.Metrics".into(),
            value: version_1(stats, detail).encode_to_vec(),
        },
        false => Any {
            type_url: "io.containerd.cgroups.v2.Metrics".into(),
            value: version_2(stats, detail).encode_to_vec(),
        },
    }
}

/// Both versions say "no limit" with the largest number.
fn limit(limit: Option<u64>) -> u64 {
    limit.unwrap_or(u64::MAX)
}

/// Here version 1 says "no limit" with a 0.
fn pids(stats: &Stats, unlimited: u64) -> Option<proto::Pids> {
    stats.pids.map(|p| proto::Pids {
        current: p.current,
        limit: p.limit.unwrap_or(unlimited),
    })
}

fn version_1(stats: &Stats, detail: &Detail) -> proto::V1 {
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
        pids: pids(stats, 0),
        cpu: stats.cpu.map(|c| proto::V1Cpu {
            usage: Some(proto::V1CpuUsage {
                total: c.usage,
                kernel: c.system,
                user: c.user,
                per_cpu: detail.per_cpu[0].clone(),
            }),
            throttling: Some(proto::V1Throttle {
                periods: c.periods,
                throttled_periods: c.throttled_periods,
                throttled_time: c.throttled,
            }),
        }),
        memory: stats.memory.as_ref().map(|m| memory_1(m, detail)),
        blkio: Some(proto::V1Io {
            io_service_bytes_recursive: entries(&detail.block.bytes),
            io_serviced_recursive: entries(&detail.block.operations),
            io_queued_recursive: entries(&detail.block.queued),
            io_service_time_recursive: entries(&detail.block.service_time),
            io_wait_time_recursive: entries(&detail.block.wait_time),
            io_merged_recursive: entries(&detail.block.merged),
            io_time_recursive: entries(&detail.block.time),
            sectors_recursive: entries(&detail.block.sectors),
        }),
        memory_oom_control: stats.memory.as_ref().map(|m| proto::V1Oom {
            oom_kill_disable: event(m, "oom_kill_disable"),
            under_oom: event(m, "under_oom"),
            oom_kill: m.oom_kills,
        }),
    }
}

fn memory_1(memory: &corten_cgroup::stats::Memory, detail: &Detail) -> proto::V1Memory {
    let get = |key| memory.detail.get(key).copied().unwrap_or(0);
    proto::V1Memory {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
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
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
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
            max: detail.swap_peak,
            failcnt: detail.swap_failures,
        }),
        kernel: detail.kernel.as_ref().map(account),
        kernel_tcp: detail.kernel_tcp.as_ref().map(account),
    }
}

fn entries(counters: &[Counter]) -> Vec<proto::V1IoEntry> {
    let entry = |counter: &Counter| proto::V1IoEntry {
        op: counter.operation.clone(),
        device: String::new(),
        major: counter.major.into(),
        minor: counter.minor.into(),
        value: counter.value,
    };
    counters.iter().map(entry).collect()
}

fn account(account: &Account) -> proto::V1MemoryEntry {
    proto::V1MemoryEntry {
        limit: limit(account.limit),
        usage: account.usage,
        max: account.peak,
        failcnt: account.failures,
    }
}

fn event(memory: &corten_cgroup::stats::Memory, name: &str) -> u64 {
    memory.events.get(name).copied().unwrap_or(0)
}

fn pressure(pressure: &Pressure) -> proto::V2Pressure {
    let stall = |stall: &corten_cgroup::detail::Stall| {
        let [avg10, avg60, avg300] = stall.averages;
        proto::V2Stall {
            avg10,
            avg60,
            avg300,
            total: stall.total,
        }
    };
    proto::V2Pressure {
        some: Some(stall(&pressure.some)),
        full: Some(stall(&pressure.full)),
    }
}

fn version_2(stats: &Stats, detail: &Detail) -> proto::V2 {
    proto::V2 {
        pids: pids(stats, u64::MAX),
        cpu: stats.cpu.map(|c| proto::V2Cpu {
            usage_usec: c.usage / 1000,
            user_usec: c.user / 1000,
            system_usec: c.system / 1000,
            nr_periods: c.periods,
            nr_throttled: c.throttled_periods,
            throttled_usec: c.throttled / 1000,
            psi: detail.cpu_pressure.as_ref().map(pressure),
            nr_bursts: c.bursts,
            burst_usec: c.burst / 1000,
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
                file_dirty: get("file_dirty"),
                file_writeback: get("file_writeback"),
                anon_thp: get("anon_thp"),
                inactive_anon: get("inactive_anon"),
                active_anon: get("active_anon"),
                inactive_file: get("inactive_file"),
                active_file: get("active_file"),
                unevictable: get("unevictable"),
                slab_reclaimable: get("slab_reclaimable"),
                slab_unreclaimable: get("slab_unreclaimable"),
                pgfault: get("pgfault"),
                pgmajfault: get("pgmajfault"),
                workingset_refault: get("workingset_refault_anon") + get("workingset_refault_file"),
                workingset_activate: get("workingset_activate_anon")
                    + get("workingset_activate_file"),
                workingset_nodereclaim: get("workingset_nodereclaim"),
                pgrefill: get("pgrefill"),
                pgscan: get("pgscan"),
                pgsteal: get("pgsteal"),
                pgactivate: get("pgactivate"),
                pgdeactivate: get("pgdeactivate"),
                pglazyfree: get("pglazyfree"),
                pglazyfreed: get("pglazyfreed"),
                thp_fault_alloc: get("thp_fault_alloc"),
                thp_collapse_alloc: get("thp_collapse_alloc"),
                usage: m.usage,
                usage_limit: limit(m.limit),
                swap_usage: m.swap_usage,
                swap_limit: limit(m.swap_limit),
                max_usage: m.peak.unwrap_or(0),
                swap_max_usage: detail.swap_peak,
                psi: detail.memory_pressure.as_ref().map(pressure),
            }
        }),
        io: Some(proto::V2Io {
            psi: detail.io_pressure.as_ref().map(pressure),
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
                failcnt: h.failures,
            })
            .collect(),
        memory_events: stats.memory.as_ref().map(|m| proto::V2MemoryEvents {
            low: event(m, "low"),
            high: event(m, "high"),
            max: m.failures,
            oom: event(m, "oom"),
            oom_kill: m.oom_kills,
            oom_group_kill: event(m, "oom_group_kill"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corten_cgroup::detail::Stall;
    use corten_cgroup::stats::{Cpu, Memory};

    fn memory(v1: bool, pairs: &[(&str, u64)]) -> Stats {
        let detail = pairs.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        Stats {
            cpu: Some(Cpu {
                bursts: 2,
                burst: 3000,
                ..Cpu::default()
            }),
            memory: Some(Memory {
                v1,
                detail,
                events: [("under_oom".to_string(), 1), ("high".to_string(), 4)].into(),
                ..Memory::default()
            }),
            ..Stats::default()
        }
    }

    #[test]
    fn the_kernels_names_find_their_fields_in_version_1() {
        let stats = memory(
            true,
            &[
                ("pgpgin", 1),
                ("total_pgpgout", 2),
                ("rss_huge", 3),
                ("hierarchical_memsw_limit", 5),
            ],
        );
        let any = encode(&stats, &Detail::default());
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let decoded = proto::V1::decode(any.value.as_slice()).unwrap();
        let memory = decoded.memory.unwrap();
        assert_eq!((memory.pg_pg_in, memory.total_pg_pg_out), (1, 2));
        assert_eq!((memory.rss_huge, memory.hierarchical_swap_limit), (3, 5));
        assert_eq!(memory.usage.unwrap().limit, u64::MAX);
        assert_eq!(decoded.memory_oom_control.unwrap().under_oom, 1);
    }

    #[test]
    fn pressure_and_bursts_are_in_version_2() {
        let stats = memory(
            false,
            &[
                ("workingset_refault_anon", 1),
                ("workingset_refault_file", 2),
            ],
        );
        let some = Stall {
            averages: [1.25, 0.5, 0.0],
            total: 7,
        };
        let pressure = Pressure {
            some,
            ..Pressure::default()
        };
        let detail = Detail {
            cpu_pressure: Some(pressure),
            io_pressure: Some(pressure),
            ..Detail::default()
        };
        let any = encode(&stats, &detail);
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let decoded = proto::V2::decode(any.value.as_slice()).unwrap();
        let cpu = decoded.cpu.unwrap();
        assert_eq!((cpu.nr_bursts, cpu.burst_usec), (2, 3));
        let psi = cpu.psi.unwrap().some.unwrap();
        assert_eq!((psi.avg10, psi.avg60, psi.total), (1.25, 0.5, 7));
        assert!(decoded.io.unwrap().psi.is_some());
        let memory = decoded.memory.unwrap();
        assert_eq!(memory.workingset_refault, 3);
        assert!(memory.psi.is_none());
        assert_eq!(decoded.memory_events.unwrap().high, 4);
    }
}
