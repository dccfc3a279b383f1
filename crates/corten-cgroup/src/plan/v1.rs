//! The plan for v1 hierarchies (kernel: `Documentation/admin-guide/cgroup-v1/`).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{
    Facts, Write, Writes, hugepages, idle_and_weight, invalid, memory_pair, period_first,
    rdma_line, set,
};
use crate::Error;

/// All writes but the devices'.
pub fn plan(resources: &LinuxResources, facts: &Facts) -> Result<Vec<Write>, Error> {
    let mut writes = Writes(Vec::new());
    if let Some(r) = resources.memory() {
        memory(r, facts, &mut writes)?;
    }
    if let Some(r) = resources.cpu() {
        cpu(r, facts, &mut writes)?;
    }
    if let Some(r) = resources.pids() {
        pids(r.limit(), &mut writes)?;
    }
    if let Some(r) = resources.block_io() {
        block_io(r, facts, &mut writes)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugepages(limit, facts, facts.hugetlb_unified, &mut writes)?;
    }
    if let Some(r) = resources.network() {
        if let Some(class) = set(r.class_id()) {
            writes.push("net_cls", "net_cls.classid", class);
        }
        for p in r.priorities().iter().flatten() {
            if p.name().is_empty() || p.name().contains(char::is_whitespace) {
                return Err(invalid("network.priorities", p.name(), "not a link name"));
            }
            let line = format!("{} {}", p.name(), p.priority());
            writes.push("net_prio", "net_prio.ifpriomap", line);
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        writes.push("rdma", "rdma.max", rdma_line(device, limit)?);
    }
    for (file, value) in resources.unified().iter().flatten() {
        writes.unified(file, value)?;
    }
    Ok(writes.0)
}

fn memory(memory: &LinuxMemory, facts: &Facts, writes: &mut Writes) -> Result<(), Error> {
    let (limit, swap) = memory_pair(memory, facts)?;
    if limit.is_none() && swap.is_some_and(|s| s != -1) {
        return Err(invalid(
            "memory.swap",
            swap.unwrap_or_default(),
            "it needs memory.limit beside it",
        ));
    }
    // Without a limit of memory, one of memory and swap together would hold memory too.
    let swap = match (limit, swap) {
        (Some(-1), None) => Some(-1),
        _ => swap,
    };
    const LIMIT: &str = "memory.limit_in_bytes";
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    // limit <= memsw holds at every moment, so raising starts with memsw and lowering with limit.
    let unbounded = |v: i64| if v == -1 { i64::MAX } else { v };
    let raising = match (limit, facts.memory_and_swap) {
        (Some(limit), Some(now)) => unbounded(limit) > now,
        _ => false,
    };
    let both = swap.map(|s| (BOTH, s));
    // A limit that was only read to check swap against is not written again.
    let limit = limit.filter(|_| set(memory.limit()).is_some());
    let limit = limit.map(|l| (LIMIT, l));
    let order = if raising {
        [both, limit]
    } else {
        [limit, both]
    };
    for (file, value) in order.into_iter().flatten() {
        // Where the kernel counts no swap, there is no file and nothing to unlimit.
        if file == BOTH && value == -1 && facts.memory_and_swap.is_none() {
            continue;
        }
        writes.push("memory", file, value);
    }
    if let Some(value) = set(memory.reservation()) {
        writes.push("memory", "memory.soft_limit_in_bytes", value);
    }
    if let Some(value) = set(memory.kernel_tcp()) {
        writes.push("memory", "memory.kmem.tcp.limit_in_bytes", value);
    }
    if let Some(value) = memory.swappiness() {
        if value > 100 {
            return Err(invalid("memory.swappiness", value, "it is above 100"));
        }
        writes.push("memory", "memory.swappiness", value);
    }
    if let Some(disable) = memory.disable_oom_killer() {
        writes.push("memory", "memory.oom_control", u8::from(disable));
    }
    Ok(())
}

fn cpu(cpu: &LinuxCpu, facts: &Facts, writes: &mut Writes) -> Result<(), Error> {
    let shares = set(cpu.shares()).map(|n| ("cpu.shares", n));
    idle_and_weight(cpu, shares, writes)?;
    let period = set(cpu.period()).map(|p| ("cpu.cfs_period_us", p.to_string()));
    let quota = set(cpu.quota()).map(|q| ("cpu.cfs_quota_us", q.to_string()));
    let order = match period_first(cpu, facts) {
        true => [period, quota],
        false => [quota, period],
    };
    for (file, value) in order.into_iter().flatten() {
        writes.push("cpu", file, value);
    }
    if let Some(burst) = cpu.burst() {
        writes.push("cpu", "cpu.cfs_burst_us", burst);
    }
    realtime(cpu, facts, writes);
    cpuset(cpu, writes);
    Ok(())
}

/// The budget may never exceed its period, so a shorter period comes last.
fn realtime(cpu: &LinuxCpu, facts: &Facts, writes: &mut Writes) {
    let period = set(cpu.realtime_period());
    let shorter = period.is_some_and(|new| facts.realtime_period.is_some_and(|old| new < old));
    let period = period.map(|p| ("cpu.rt_period_us", p.to_string()));
    let runtime = set(cpu.realtime_runtime()).map(|r| ("cpu.rt_runtime_us", r.to_string()));
    let order = match shorter {
        true => [runtime, period],
        false => [period, runtime],
    };
    for (file, value) in order.into_iter().flatten() {
        writes.push("cpu", file, value);
    }
}

pub(super) fn cpuset(cpu: &LinuxCpu, writes: &mut Writes) {
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            writes.push("cpuset", file, value);
        }
    }
}

pub(super) fn pids(limit: i64, writes: &mut Writes) -> Result<(), Error> {
    let value = match limit {
        -1 => "max".into(),
        // No task beyond the first; a real 0 would refuse CLONE_INTO_CGROUP itself.
        0 => "1".into(),
        n if n > 0 => n.to_string(),
        n => return Err(invalid("pids.limit", n, "it is below -1")),
    };
    writes.push("pids", "pids.max", value);
    Ok(())
}

fn block_io(io: &LinuxBlockIo, facts: &Facts, writes: &mut Writes) -> Result<(), Error> {
    let (weight_file, device_file) = match facts.bfq {
        true => ("blkio.bfq.weight", "blkio.bfq.weight_device"),
        false => ("blkio.weight", "blkio.weight_device"),
    };
    if let Some(weight) = set(io.weight()) {
        writes.push("blkio", weight_file, checked_weight(weight)?);
    }
    if let Some(weight) = set(io.leaf_weight()) {
        writes.push("blkio", "blkio.leaf_weight", checked_weight(weight)?);
    }
    for device in io.weight_device().iter().flatten() {
        let at = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = set(device.weight()) {
            let weight = checked_weight(weight)?;
            writes.push("blkio", device_file, format!("{at} {weight}"));
        }
        if let Some(weight) = set(device.leaf_weight()) {
            let weight = checked_weight(weight)?;
            writes.push(
                "blkio",
                "blkio.leaf_weight_device",
                format!("{at} {weight}"),
            );
        }
    }
    for (file, devices) in throttles(io) {
        for d in devices {
            let line = format!("{}:{} {}", d.major(), d.minor(), d.rate());
            writes.push("blkio", format!("blkio.throttle.{file}_device"), line);
        }
    }
    Ok(())
}

pub(super) fn checked_weight(weight: u16) -> Result<u16, Error> {
    match weight {
        10..=1000 => Ok(weight),
        _ => Err(invalid("blockIO.weight", weight, "it is not in 10..=1000")),
    }
}

/// The four throttle lists with their v1 names.
fn throttles(io: &LinuxBlockIo) -> [(&'static str, &[LinuxThrottleDevice]); 4] {
    [
        (
            "read_bps",
            io.throttle_read_bps_device().as_deref().unwrap_or_default(),
        ),
        (
            "write_bps",
            io.throttle_write_bps_device()
                .as_deref()
                .unwrap_or_default(),
        ),
        (
            "read_iops",
            io.throttle_read_iops_device()
                .as_deref()
                .unwrap_or_default(),
        ),
        (
            "write_iops",
            io.throttle_write_iops_device()
                .as_deref()
                .unwrap_or_default(),
        ),
    ]
}
