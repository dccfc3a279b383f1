//! Limits, and how ready the kernel is to kill a container when memory runs out.

use serde_json::{Map, Value, json};

use super::error::{Refused, invalid, unsupported};
use super::facts::Host;
use crate::proto::LinuxContainerResources;

/// The specification's `linux.resources` without devices: for a new container, and for the update of one. What is 0 or
/// empty is left as it is.
pub fn resources(
    asked: &LinuxContainerResources,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Value, Refused> {
    let mut out = Map::new();
    let cpu = cpu(asked)?;
    if !cpu.is_empty() {
        out.insert("cpu".into(), cpu.into());
    }
    let memory = memory(asked, host, warnings)?;
    if !memory.is_empty() {
        out.insert("memory".into(), memory.into());
    }
    let pages = huge_pages(asked, host)?;
    if !pages.is_empty() {
        out.insert("hugepageLimits".into(), pages.into());
    }
    if !asked.unified.is_empty() {
        if !host.unified {
            let names: Vec<&str> = asked.unified.keys().map(String::as_str).collect();
            let problem = format!(
                "sets {}, and control groups of this host are not those of version 2",
                names.join(", ")
            );
            return Err(unsupported("linux.resources.unified", problem));
        }
        out.insert("unified".into(), json!(asked.unified));
    }
    Ok(out.into())
}

fn cpu(asked: &LinuxContainerResources) -> Result<Map<String, Value>, Refused> {
    let mut cpu = Map::new();
    for (key, name, value) in [
        ("period", "cpu_period", asked.cpu_period),
        ("shares", "cpu_shares", asked.cpu_shares),
    ] {
        if value < 0 {
            let problem = format!("is {value}, and cannot be negative");
            return Err(invalid(format!("linux.resources.{name}"), problem));
        }
        if value != 0 {
            cpu.insert(key.into(), value.into());
        }
    }
    match asked.cpu_quota {
        0 => {}
        quota if quota < -1 => {
            let problem = format!("is {quota}, and no limit is -1");
            return Err(invalid("linux.resources.cpu_quota", problem));
        }
        quota => drop(cpu.insert("quota".into(), quota.into())),
    }
    for (key, value) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(key.into(), value.as_str().into());
        }
    }
    Ok(cpu)
}

/// A container that is given no swap of its own gets none: both together are as much as memory alone.
fn memory(
    asked: &LinuxContainerResources,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Map<String, Value>, Refused> {
    let (limit, swap) = (
        asked.memory_limit_in_bytes,
        asked.memory_swap_limit_in_bytes,
    );
    for (name, value) in [
        ("memory_limit_in_bytes", limit),
        ("memory_swap_limit_in_bytes", swap),
    ] {
        if value < -1 {
            let problem = format!("is {value}, and no limit is -1");
            return Err(invalid(format!("linux.resources.{name}"), problem));
        }
    }
    let mut memory = Map::new();
    if limit != 0 {
        memory.insert("limit".into(), limit.into());
    }
    let both = if swap == 0 { limit } else { swap };
    if both != 0 && host.swap_accounting {
        memory.insert("swap".into(), both.into());
    }
    if swap > 0 && swap != limit && !host.swap_accounting {
        let problem = "is left out: this kernel does not account swap";
        warnings.push(format!(
            "linux.resources.memory_swap_limit_in_bytes {problem}"
        ));
    }
    Ok(memory)
}

/// Kubelet sends a limit of 0 for each size that the host has.
fn huge_pages(asked: &LinuxContainerResources, host: &Host) -> Result<Vec<Value>, Refused> {
    let mut all = Vec::new();
    for limit in &asked.hugepage_limits {
        match host.hugetlb {
            true => all.push(json!({
                "pageSize": limit.page_size,
                // More than there can be is no limit.
                "limit": i64::try_from(limit.limit).unwrap_or(-1),
            })),
            false if limit.limit == 0 => {}
            false => {
                let problem = format!(
                    "gives {} bytes of {} pages, and this host cannot limit them",
                    limit.limit, limit.page_size
                );
                return Err(unsupported("linux.resources.hugepage_limits", problem));
            }
        }
    }
    Ok(all)
}

/// The score, or the lowest that we may give.
pub(super) fn oom_score(
    asked: i64,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<i32, Refused> {
    const FIELD: &str = "linux.resources.oom_score_adj";
    let score = i32::try_from(asked)
        .ok()
        .filter(|s| (-1000..=1000).contains(s));
    let Some(score) = score else {
        let problem = format!("is {asked}, and must be from -1000 to 1000");
        return Err(invalid(FIELD, problem));
    };
    match host.lowest_oom_score.filter(|lowest| *lowest > score) {
        Some(lowest) => {
            warnings.push(format!(
                "{FIELD} is {lowest} instead of {score}: this daemon may give no lower one"
            ));
            Ok(lowest)
        }
        None => Ok(score),
    }
}
