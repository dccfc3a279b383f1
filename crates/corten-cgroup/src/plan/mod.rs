//! Deciding: an OCI resource list and a few observed values in, an ordered list
//! of writes out. Nothing here touches the kernel.
//!
//! Conventions of the field that the OCI text leaves open: for memory, CPU and
//! block weight values a 0 means "not set" (Docker and podman send it so); -1
//! is "no limit". `pids.limit` is the exception: since runtime-spec 1.3 a 0 is a limit.

pub mod v1;
pub mod v2;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxRdma};

use crate::Error;

/// One value for one file of one controller's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub controller: String,
    pub file: String,
    pub value: String,
}

/// What was read from the group before deciding. `None`: not there, or not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// v1 `memory.memsw.limit_in_bytes`.
    pub memory_and_swap: Option<i64>,
    /// Bytes in use; read for `checkBeforeUpdate` only.
    pub memory_usage: Option<i64>,
    /// Microseconds; -1 is no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Whether weights belong to the BFQ scheduler's files.
    pub bfq: bool,
    /// Whether hugetlb is one of a hybrid host's leftovers in the unified tree.
    pub hugetlb_unified: bool,
}

/// A value that is set and is not the field's "not set".
fn set<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

struct Writes(Vec<Write>);

impl Writes {
    fn push(&mut self, controller: &str, file: impl Into<String>, value: impl ToString) {
        self.0.push(Write {
            controller: controller.into(),
            file: file.into(),
            value: value.to_string(),
        });
    }
}

fn invalid(setting: &str, value: impl ToString, reason: &'static str) -> Error {
    Error::Invalid {
        setting: setting.into(),
        value: value.to_string(),
        reason,
    }
}

fn unsupported(setting: &str, reason: &'static str) -> Error {
    Error::Unsupported {
        setting: setting.into(),
        reason,
    }
}

/// Checks what both versions check alike: a sign, and the pair limit/swap.
/// Returns `(limit, swap)` with "not set" taken out.
fn memory_pair(
    memory: &oci_spec::runtime::LinuxMemory,
    facts: &Facts,
) -> Result<(Option<i64>, Option<i64>), Error> {
    let (limit, swap) = (set(memory.limit()), set(memory.swap()));
    for (name, value) in [
        ("memory.limit", limit),
        ("memory.swap", swap),
        ("memory.reservation", memory.reservation()),
    ] {
        if let Some(value) = value.filter(|v| *v < -1) {
            return Err(invalid(name, value, "it is below -1"));
        }
    }
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap != -1
        && (limit == -1 || swap < limit)
    {
        return Err(invalid(
            "memory.swap",
            swap,
            "memory and swap together are less than memory",
        ));
    }
    if memory.check_before_update() == Some(true)
        && let (Some(limit), Some(usage)) = (limit, facts.memory_usage)
        && limit != -1
        && limit < usage
    {
        return Err(invalid("memory.limit", limit, "more than that is in use"));
    }
    // The kernel has had no separate limit for its own memory since 5.16.
    #[allow(deprecated)]
    if set(memory.kernel()).is_some_and(|k| k != -1) {
        return Err(unsupported(
            "memory.kernel",
            "the kernel no longer limits its own memory apart",
        ));
    }
    if memory.use_hierarchy() == Some(false) {
        return Err(unsupported(
            "memory.useHierarchy=false",
            "since Linux 5.11 every memory group is hierarchical",
        ));
    }
    Ok((limit, swap))
}

/// Whether the new period must be written before the new quota. In between, the
/// group must not ask for a larger share than its parent allows (EINVAL), so the
/// order is the one whose middle state is no larger than the old or the new one.
fn period_first(cpu: &LinuxCpu, facts: &Facts) -> bool {
    match (set(cpu.period()), facts.cpu_period) {
        (Some(new), Some(old)) => new >= old,
        _ => true,
    }
}

fn hugepage_size(limit: &LinuxHugepageLimit) -> Result<&str, Error> {
    let size = limit.page_size().as_str();
    let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &size[digits.len()..];
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // It becomes part of a file name.
    if !plain || digits.starts_with('0') || !matches!(unit, "KB" | "MB" | "GB") {
        return Err(invalid(
            "hugepageLimits.pageSize",
            size,
            "a size looks like 2MB",
        ));
    }
    Ok(size)
}

/// `mlx5_0 hca_handle=2 hca_object=max`: the same on v1 and v2.
fn rdma_line(device: &str, limit: &LinuxRdma) -> Result<String, Error> {
    if device.is_empty() || device.contains(char::is_whitespace) {
        return Err(invalid("rdma", device, "not a device name"));
    }
    let mut line = device.to_owned();
    for (key, value) in [
        ("hca_handle", limit.hca_handles()),
        ("hca_object", limit.hca_objects()),
    ] {
        if let Some(value) = value {
            line.push_str(&format!(" {key}={value}"));
        }
    }
    match line == device {
        true => Err(invalid("rdma", device, "it names no limit")),
        false => Ok(line),
    }
}

/// "-1" or a number, in v2's word.
fn max_or(value: i64) -> String {
    match value {
        -1 => "max".into(),
        n => n.to_string(),
    }
}

/// v1 `cpu.shares` (2 to 262144, default 1024) as v2 `cpu.weight` (1 to 10000,
/// default 100). The curve is the one that Kubernetes and the runtimes agreed on
/// in 2025: it maps both ends and both defaults onto each other, where the older
/// linear one made a default container 2.5 times too light.
pub fn weight_from_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // The epsilon keeps 1024 at 100 rather than at ceil(100.0000000001).
            ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
        }
    }
}

/// The inverse of [`weight_from_shares`].
pub fn shares_from_weight(weight: u64) -> u64 {
    match weight {
        0 | 1 => 2,
        10_000.. => 262_144,
        _ => {
            let target = 612.0 * ((weight as f64).log10() + 7.0 / 34.0);
            let l = (-125.0 + (125.0f64 * 125.0 + 4.0 * target).sqrt()) / 2.0;
            (l.exp2().round() as u64).clamp(2, 262_144)
        }
    }
}

/// v1 `blkio.weight` (10 to 1000) as v2 `io.weight` (1 to 10000), linearly: as the
/// runtime specification's table has it.
pub fn io_weight_from_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests;
