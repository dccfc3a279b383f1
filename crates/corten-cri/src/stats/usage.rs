//! The interface's messages about usage, from samples.

use corten_cgroup::detail::{Pressure, Stall};
use corten_cgroup::stats::Memory;

use super::network::{self, Interface};
use super::sample::{Layer, Sample};
use crate::proto::{
    ContainerAttributes, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage, IoUsage,
    LinuxPodSandboxStats, MemoryUsage, PodSandboxAttributes, PodSandboxStats, ProcessUsage,
    PsiData, PsiStats, SwapUsage, UInt64Value,
};

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Of one container; without a sample it does not run.
pub fn container(
    attributes: ContainerAttributes,
    sample: Option<&Sample>,
    nano_cores: Option<u64>,
    layer: Option<&Layer>,
) -> ContainerStats {
    ContainerStats {
        attributes: Some(attributes),
        cpu: sample.and_then(|s| cpu(s, nano_cores)),
        memory: sample.and_then(memory),
        writable_layer: layer.map(file_system),
        swap: sample.and_then(swap),
        io: sample.and_then(io),
    }
}

/// Of a pod, with those of its containers. `processes`: how many there are in them.
pub fn pod(
    attributes: PodSandboxAttributes,
    sample: &Sample,
    nano_cores: Option<u64>,
    interfaces: Option<&[Interface]>,
    processes: u64,
    containers: Vec<ContainerStats>,
) -> PodSandboxStats {
    PodSandboxStats {
        attributes: Some(attributes),
        linux: Some(LinuxPodSandboxStats {
            cpu: cpu(sample, nano_cores),
            memory: memory(sample),
            network: interfaces.map(|all| network::usage(all, sample.at)),
            process: Some(ProcessUsage {
                timestamp: sample.at,
                process_count: value(processes),
            }),
            containers,
            io: io(sample),
        }),
    }
}

pub fn cpu(sample: &Sample, nano_cores: Option<u64>) -> Option<CpuUsage> {
    let cpu = sample.stats.cpu.as_ref()?;
    Some(CpuUsage {
        timestamp: sample.at,
        usage_core_nano_seconds: value(cpu.usage),
        usage_nano_cores: nano_cores.and_then(value),
        psi: sample.pressures.cpu.as_ref().map(pressure),
    })
}

pub fn memory(sample: &Sample) -> Option<MemoryUsage> {
    let memory = sample.stats.memory.as_ref()?;
    let working = working_set(memory);
    Some(MemoryUsage {
        timestamp: sample.at,
        working_set_bytes: value(working),
        available_bytes: memory.limit.and_then(|l| value(l.saturating_sub(working))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(detail(memory, "total_rss", "anon")),
        page_faults: value(detail(memory, "total_pgfault", "pgfault")),
        major_page_faults: value(detail(memory, "total_pgmajfault", "pgmajfault")),
        psi: sample.pressures.memory.as_ref().map(pressure),
    })
}

/// What the kernel could not drop at once, as cAdvisor counts it; kubelet evicts by it.
pub(super) fn working_set(memory: &Memory) -> u64 {
    memory.usage.saturating_sub(memory.inactive_file)
}

/// A line of `memory.stat` in the words of the version at hand.
pub(super) fn detail(memory: &Memory, v1: &str, v2: &str) -> u64 {
    let key = if memory.v1 { v1 } else { v2 };
    memory.detail.get(key).copied().unwrap_or(0)
}

/// Swap alone: usage and limit. Version 1 counts memory and swap together.
pub(super) fn swap_alone(memory: &Memory) -> (u64, Option<u64>) {
    if !memory.v1 {
        return (memory.swap_usage, memory.swap_limit);
    }
    let usage = match memory.detail.get("total_swap") {
        Some(swap) => *swap,
        None => memory.swap_usage.saturating_sub(memory.usage),
    };
    let limit = memory.swap_limit.zip(memory.limit);
    (usage, limit.map(|(both, alone)| both.saturating_sub(alone)))
}

pub fn swap(sample: &Sample) -> Option<SwapUsage> {
    let memory = sample.stats.memory.as_ref()?;
    let (usage, limit) = swap_alone(memory);
    Some(SwapUsage {
        timestamp: sample.at,
        swap_available_bytes: limit.and_then(|l| value(l.saturating_sub(usage))),
        swap_usage_bytes: value(usage),
    })
}

pub fn io(sample: &Sample) -> Option<IoUsage> {
    let psi = sample.pressures.io.as_ref().map(pressure)?;
    Some(IoUsage {
        timestamp: sample.at,
        psi: Some(psi),
    })
}

fn pressure(pressure: &Pressure) -> PsiStats {
    let data = |stall: &Stall| PsiData {
        total: stall.total,
        avg10: stall.averages[0],
        avg60: stall.averages[1],
        avg300: stall.averages[2],
    };
    PsiStats {
        full: Some(data(&pressure.full)),
        some: Some(data(&pressure.some)),
    }
}

/// What a container has written.
pub fn file_system(layer: &Layer) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: layer.at,
        fs_id: Some(FilesystemIdentifier {
            mountpoint: layer.mountpoint.clone(),
        }),
        used_bytes: value(layer.bytes),
        inodes_used: value(layer.inodes),
    }
}
