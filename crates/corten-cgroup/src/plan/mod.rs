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
    /// A file of the unified tree by the caller's own word, so of no v1 hierarchy.
    pub unified: bool,
}

/// What was read from the group before deciding. `None`: not there, or not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// v1 `memory.memsw.limit_in_bytes`.
    pub memory_and_swap: Option<i64>,
    /// Bytes; -1 is no limit. Read where swap is to be limited and memory is not mentioned.
    pub memory_limit: Option<i64>,
    /// v2: this kernel has no `memory.swap.max`, as it was told not to account swap.
    pub no_swap: bool,
    /// Bytes in use; read for `checkBeforeUpdate` only.
    pub memory_usage: Option<i64>,
    /// Microseconds; -1 is no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// v1 `cpu.rt_period_us`.
    pub realtime_period: Option<u64>,
    /// Whether weights belong to the BFQ scheduler's files.
    pub bfq: bool,
    /// Whether hugetlb is one of a hybrid host's leftovers in the unified tree.
    pub hugetlb_unified: bool,
    /// Whether reservations can be limited (Linux 5.7), not page faults alone.
    pub hugetlb_reservations: bool,
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
            unified: false,
        });
    }

    /// One entry of `unified`: a file of the group, one write a line.
    fn unified(&mut self, file: &str, value: &str) -> Result<(), Error> {
        let Some((controller, rest)) = file.split_once('.') else {
            let reason = "a file name looks like memory.high";
            return Err(invalid("unified", file, reason));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if controller.is_empty() || rest.is_empty() || !file.chars().all(plain) {
            return Err(invalid("unified", file, "not a file of a group"));
        }
        // The core's other files move, freeze and kill processes, the runtime's own among them.
        const CORE: [&str; 3] = ["max.depth", "max.descendants", "pressure"];
        if controller == "cgroup" && !CORE.contains(&rest) {
            return Err(invalid("unified", file, "it is no limit"));
        }
        for line in value.lines().filter(|l| !l.trim().is_empty()) {
            self.push(controller, file, line);
            if let Some(last) = self.0.last_mut() {
                last.unified = true;
            }
        }
        Ok(())
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
    let (mut limit, swap) = (set(memory.limit()), set(memory.swap()));
    let unlimited = |l: Option<i64>| l.filter(|l| *l != -1);
    for (name, value) in [
        ("memory.limit", limit),
        ("memory.swap", swap),
        ("memory.reservation", memory.reservation()),
    ] {
        if let Some(value) = value.filter(|v| *v < -1) {
            return Err(invalid(name, value, "it is below -1"));
        }
    }
    // An update of swap alone is about the memory that the group has.
    if limit.is_none() && swap.is_some_and(|s| s != -1) {
        limit = unlimited(facts.memory_limit);
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

/// The writes for one page size: what is reserved, where the kernel counts that, and what is faulted in.
fn hugepages(
    limit: &LinuxHugepageLimit,
    facts: &Facts,
    v2: bool,
    writes: &mut Writes,
) -> Result<(), Error> {
    let size = hugepage_size(limit)?;
    let (word, value) = match (v2, limit.limit()) {
        (_, n) if n < -1 => return Err(invalid("hugepageLimits.limit", n, "it is below -1")),
        (true, n) => ("max", max_or(n)),
        (false, n) => ("limit_in_bytes", n.to_string()),
    };
    writes.push("hugetlb", format!("hugetlb.{size}.{word}"), &value);
    if facts.hugetlb_reservations {
        writes.push("hugetlb", format!("hugetlb.{size}.rsvd.{word}"), &value);
    }
    Ok(())
}

/// The weight of a group against its neighbours. The kernel refuses shares for an idle group, so an idle
/// one is woken first, and one that is to be idle gets its shares before.
fn idle_and_weight(
    cpu: &LinuxCpu,
    weight: Option<(&str, u64)>,
    writes: &mut Writes,
) -> Result<(), Error> {
    let idle = match cpu.idle() {
        None | Some(0 | 1) => cpu.idle(),
        Some(n) => return Err(invalid("cpu.idle", n, "it is neither 0 nor 1")),
    };
    if idle == Some(0) {
        writes.push("cpu", "cpu.idle", 0);
    }
    if let Some((file, weight)) = weight {
        writes.push("cpu", file, weight);
    }
    if idle == Some(1) {
        writes.push("cpu", "cpu.idle", 1);
    }
    Ok(())
}

pub(crate) fn hugepage_size(limit: &LinuxHugepageLimit) -> Result<&str, Error> {
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
