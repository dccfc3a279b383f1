//! The plan for the unified tree (kernel: `Documentation/admin-guide/cgroup-v2.rst`).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::v1::{checked_weight, cpuset, pids};
use super::{
    Facts, Write, Writes, hugepages, idle_and_weight, invalid, io_weight_from_blkio, max_or,
    memory_pair, period_first, rdma_line, set, unsupported, weight_from_shares,
};
use crate::Error;

/// All writes but the devices'. `unified` comes last: it is the caller's own word.
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
        hugepages(limit, facts, true, &mut writes)?;
    }
    if let Some(r) = resources.network() {
        let priorities = r.priorities().iter().flatten().count();
        if set(r.class_id()).is_some() || priorities > 0 {
            return Err(unsupported(
                "network",
                "cgroup v2 has no net_cls and no net_prio",
            ));
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
    // v1 limits memory+swap, v2 swap alone, so the difference counts.
    let swap = match (limit, swap) {
        (_, Some(-1)) => Some(-1),
        (Some(-1), None) => Some(-1),
        (_, None) => None,
        (Some(limit), Some(swap)) => Some(swap - limit),
        (None, Some(swap)) => {
            return Err(invalid(
                "memory.swap",
                swap,
                "it needs memory.limit beside it",
            ));
        }
    };
    if let Some(limit) = limit.filter(|_| set(memory.limit()).is_some()) {
        writes.push("memory", "memory.max", max_or(limit));
    }
    // A kernel that accounts no swap gives none to a group, and limits none: both are as asked for.
    if let Some(swap) = swap.filter(|s| !(facts.no_swap && matches!(s, 0 | -1))) {
        writes.push("memory", "memory.swap.max", max_or(swap));
    }
    if let Some(low) = set(memory.reservation()) {
        writes.push("memory", "memory.low", max_or(low));
    }
    if set(memory.kernel_tcp()).is_some_and(|k| k != -1) {
        return Err(unsupported(
            "memory.kernelTCP",
            "cgroup v2 has no such limit",
        ));
    }
    if memory.swappiness().is_some() {
        return Err(unsupported(
            "memory.swappiness",
            "cgroup v2 has no swappiness of a group",
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported(
            "memory.disableOOMKiller",
            "cgroup v2 cannot switch the OOM killer off",
        ));
    }
    Ok(())
}

fn cpu(cpu: &LinuxCpu, facts: &Facts, writes: &mut Writes) -> Result<(), Error> {
    let weight = set(cpu.shares()).map(|n| ("cpu.weight", weight_from_shares(n)));
    idle_and_weight(cpu, weight, writes)?;
    cpu_max(cpu, facts, writes);
    if set(cpu.realtime_period()).is_some() || set(cpu.realtime_runtime()).is_some() {
        return Err(unsupported(
            "cpu.realtimeRuntime",
            "cgroup v2 has no realtime budget",
        ));
    }
    cpuset(cpu, writes);
    Ok(())
}

/// Quota and period are one file here, so a half that is not given keeps its value.
fn cpu_max(cpu: &LinuxCpu, facts: &Facts, writes: &mut Writes) {
    let (quota, period) = (set(cpu.quota()), set(cpu.period()));
    // A burst larger than the quota is refused: lower it first, raise it last.
    let burst = cpu.burst();
    let lowering = match (quota, facts.cpu_quota) {
        (Some(new), Some(old)) => new != -1 && (old == -1 || new < old),
        _ => !period_first(cpu, facts),
    };
    if let Some(burst) = burst.filter(|_| lowering) {
        writes.push("cpu", "cpu.max.burst", burst);
    }
    if quota.is_some() || period.is_some() {
        let quota = max_or(quota.or(facts.cpu_quota).unwrap_or(-1));
        let value = match period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        writes.push("cpu", "cpu.max", value);
    }
    if let Some(burst) = burst.filter(|_| !lowering) {
        writes.push("cpu", "cpu.max.burst", burst);
    }
}

fn block_io(io: &LinuxBlockIo, facts: &Facts, writes: &mut Writes) -> Result<(), Error> {
    let file = if facts.bfq {
        "io.bfq.weight"
    } else {
        "io.weight"
    };
    // BFQ keeps v1's scale; io.weight has its own.
    let weight = |w: u16| -> Result<u64, Error> {
        let w = checked_weight(w)?;
        Ok(match facts.bfq {
            true => u64::from(w),
            false => io_weight_from_blkio(w),
        })
    };
    if let Some(w) = set(io.weight()) {
        writes.push("io", file, weight(w)?);
    }
    let mut leaf = set(io.leaf_weight()).is_some();
    for d in io.weight_device().iter().flatten() {
        leaf |= set(d.leaf_weight()).is_some();
        if let Some(w) = set(d.weight()) {
            writes.push(
                "io",
                file,
                format!("{}:{} {}", d.major(), d.minor(), weight(w)?),
            );
        }
    }
    if leaf {
        return Err(unsupported(
            "blockIO.leafWeight",
            "cgroup v2 has no leaf weight",
        ));
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for d in devices.iter().flatten() {
            // v1 lifts a limit by 0, v2 by its word.
            let rate = match d.rate() {
                0 => "max".into(),
                n => n.to_string(),
            };
            writes.push(
                "io",
                "io.max",
                format!("{}:{} {key}={rate}", d.major(), d.minor()),
            );
        }
    }
    Ok(())
}
