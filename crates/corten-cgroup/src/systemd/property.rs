//! Deciding: an OCI resource list in, properties of a unit out (systemd.resource-control(5),
//! org.freedesktop.systemd1(5)). Pure.
//!
//! systemd must know a limit that it has a property for, or its next reload takes the limit away. All limits
//! are written to the group's files as well, exactly, so what it has no property for (hugetlb, rdma,
//! single devices' I/O, burst) is left out here and lost to nobody.

use std::fmt;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::value::Value;
use crate::Error;
use crate::device::{self, Allowed};
use crate::plan::{Facts, io_weight_from_blkio, weight_from_shares};

/// `u64::MAX` is "no limit" in every property.
const INFINITY: u64 = u64::MAX;
/// The kernel's largest mask is 8192 bits.
const CPU_MAX: usize = 8192;

/// One property of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub(crate) name: String,
    pub(crate) value: Value,
}

impl Property {
    pub(crate) fn new(name: &str, value: Value) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

/// What the properties depend on besides the resources.
#[derive(Clone, Debug)]
pub(crate) struct Setting<'a> {
    /// systemd's, 252 for `252.39-1~deb12u2`.
    pub version: u32,
    pub v2: bool,
    /// Current quota and period, for an update of one of them.
    pub facts: &'a Facts,
    /// The text of `/proc/devices`, where the names of wildcard majors are.
    pub majors: &'a str,
    /// A user's manager may load no device program.
    pub user: bool,
}

struct Properties(Vec<Property>);

impl Properties {
    /// A later value of the same name replaces the earlier one: `unified` comes last.
    fn set(&mut self, name: &str, value: Value) {
        self.0.retain(|p| p.name != name);
        self.0.push(Property::new(name, value));
    }

    fn number(&mut self, name: &str, value: i64) {
        let value = u64::try_from(value).unwrap_or(INFINITY);
        self.set(name, Value::U64(value));
    }
}

/// The resources in systemd's words.
pub(crate) fn properties(
    resources: &LinuxResources,
    setting: &Setting<'_>,
) -> Result<Vec<Property>, Error> {
    let mut properties = Properties(Vec::new());
    if let Some(memory) = resources.memory() {
        let (limit, swap) = (set(memory.limit()), set(memory.swap()));
        match setting.v2 {
            true => {
                limit.inspect(|n| properties.number("MemoryMax", *n));
                set(memory.reservation()).inspect(|n| properties.number("MemoryLow", *n));
                let both = swap.or(limit.filter(|l| *l == -1));
                if let Some(swap) = both {
                    let alone = match (swap, limit) {
                        (-1, _) => -1,
                        (both, limit) => both - limit.unwrap_or(0),
                    };
                    properties.number("MemorySwapMax", alone);
                }
            }
            false => {
                limit.inspect(|n| properties.number("MemoryLimit", *n));
            }
        }
    }
    if let Some(r) = resources.cpu() {
        cpu(r, setting, &mut properties)?;
    }
    if let Some(pids) = resources.pids() {
        // As in the file: 0 is one process, the first.
        let limit = if pids.limit() == 0 { 1 } else { pids.limit() };
        properties.number("TasksMax", limit);
    }
    if let Some(weight) = resources
        .block_io()
        .as_ref()
        .and_then(|io| set(io.weight()))
    {
        match setting.v2 {
            true => properties.set("IOWeight", Value::U64(io_weight_from_blkio(weight))),
            false => properties.set("BlockIOWeight", Value::U64(weight.into())),
        }
    }
    if setting.v2 {
        for (file, value) in resources.unified().iter().flatten() {
            unified(file, value.trim(), setting, &mut properties)?;
        }
    }
    if !setting.user {
        let rules = resources.devices().as_deref().unwrap_or_default();
        devices(device::allowed(rules)?, setting, &mut properties);
    }
    Ok(properties.0)
}

fn set<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

fn cpu(cpu: &LinuxCpu, setting: &Setting<'_>, properties: &mut Properties) -> Result<(), Error> {
    if let Some(shares) = set(cpu.shares()) {
        match setting.v2 {
            true => properties.set("CPUWeight", Value::U64(weight_from_shares(shares))),
            false => properties.set("CPUShares", Value::U64(shares)),
        }
    }
    // A weight of 0 is systemd's word for idle since 252.
    if cpu.idle() == Some(1) && setting.v2 && setting.version >= 252 {
        properties.set("CPUWeight", Value::U64(0));
    }
    let (quota, period) = (set(cpu.quota()), set(cpu.period()));
    if quota.is_some() || period.is_some() {
        let quota = quota.or(setting.facts.cpu_quota).unwrap_or(-1);
        quota_of(quota, period, setting, properties);
    }
    if setting.v2 && setting.version >= 244 {
        for (name, list) in [
            ("AllowedCPUs", cpu.cpus()),
            ("AllowedMemoryNodes", cpu.mems()),
        ] {
            if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
                properties.set(name, mask(name, list)?);
            }
        }
    }
    Ok(())
}

/// systemd keeps the quota as microseconds of CPU in a second of time, in steps of 10 ms; rounded up, so
/// that its word is never the narrower one.
fn quota_of(quota: i64, period: Option<u64>, setting: &Setting<'_>, properties: &mut Properties) {
    const STEP: u128 = 10_000;
    if let Some(period) = period.filter(|_| setting.version >= 242) {
        properties.set("CPUQuotaPeriodUSec", Value::U64(period));
    }
    let period = period.or(setting.facts.cpu_period).unwrap_or(100_000);
    let per_second = match u128::try_from(quota) {
        Ok(quota) => {
            let exact = quota * 1_000_000 / u128::from(period.max(1));
            u64::try_from(exact.next_multiple_of(STEP)).unwrap_or(INFINITY)
        }
        Err(_) => INFINITY,
    };
    properties.set("CPUQuotaPerSecUSec", Value::U64(per_second));
}

/// `0-2,7` as a mask of bytes, lowest first.
fn mask(name: &str, list: &str) -> Result<Value, Error> {
    let bad = || Error::Invalid {
        setting: name.into(),
        value: list.into(),
        reason: "a list looks like 0-2,7",
    };
    let number = |text: &str| {
        let number = text.trim().parse::<usize>().ok();
        number.filter(|n| *n < CPU_MAX).ok_or_else(bad)
    };
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',').filter(|p| !p.trim().is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first {
            return Err(bad());
        }
        for bit in first..=last {
            let at = bit / 8;
            if at >= bytes.len() {
                bytes.resize(at + 1, 0);
            }
            bytes[at] |= 1 << (bit % 8);
        }
    }
    let bytes = bytes.into_iter().map(Value::Byte).collect();
    Ok(Value::Array("y".into(), bytes))
}

/// Files of `unified` that are properties too. The others reach the files alone.
fn unified(
    file: &str,
    value: &str,
    setting: &Setting<'_>,
    properties: &mut Properties,
) -> Result<(), Error> {
    let bad = |reason| Error::Invalid {
        setting: format!("unified {file}"),
        value: value.into(),
        reason,
    };
    let number = |text: &str| match text {
        "max" => Ok(INFINITY),
        text => text
            .parse::<u64>()
            .map_err(|_| bad("not a number, nor max")),
    };
    let name = match file {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpuset.cpus" | "cpuset.mems" if setting.version >= 244 => {
            let name = match file {
                "cpuset.cpus" => "AllowedCPUs",
                _ => "AllowedMemoryNodes",
            };
            properties.set(name, mask(name, value)?);
            return Ok(());
        }
        "cpu.idle" if value == "1" && setting.version >= 252 => {
            properties.set("CPUWeight", Value::U64(0));
            return Ok(());
        }
        "cpu.max" => {
            let mut words = value.split_ascii_whitespace();
            let quota = number(words.next().unwrap_or_default())?;
            let period = words.next().map(number).transpose()?;
            let quota = i64::try_from(quota).unwrap_or(-1);
            quota_of(quota, period, setting, properties);
            return Ok(());
        }
        _ => return Ok(()),
    };
    properties.set(name, Value::U64(number(value)?));
    Ok(())
}

/// An allow list in systemd's form. It has no "all but": a narrow denial below a wide permission is for
/// the group's own program, and systemd's list is then the wider of the two.
fn devices(allowed: Option<Allowed>, setting: &Setting<'_>, properties: &mut Properties) {
    let entries = match allowed {
        None => return,
        Some(Allowed::Everything) => {
            properties.set("DevicePolicy", Value::text("auto"));
            properties.set("DeviceAllow", Value::Array("(ss)".into(), Vec::new()));
            return;
        }
        Some(Allowed::List(entries)) => entries,
    };
    properties.set("DevicePolicy", Value::text("strict"));
    let mut list: Vec<(String, String)> = Vec::new();
    for entry in entries {
        let sort = if entry.block { "block" } else { "char" };
        let name = match (entry.major, entry.minor) {
            (None, _) => Some(format!("{sort}-*")),
            (Some(major), Some(minor)) => Some(format!("/dev/{sort}/{major}:{minor}")),
            // A major that no driver has registered can be opened by nobody.
            (Some(major), None) => {
                major_name(setting.majors, entry.block, major).map(|n| format!("{sort}-{n}"))
            }
        };
        let Some(name) = name else { continue };
        match list.iter_mut().find(|(n, _)| *n == name) {
            Some((_, access)) => merge(access, &entry.access),
            None => list.push((name, entry.access)),
        }
    }
    let pair = |(name, access)| Value::Struct(vec![Value::Str(name), Value::Str(access)]);
    let list = list.into_iter().map(pair).collect();
    properties.set("DeviceAllow", Value::Array("(ss)".into(), list));
}

fn merge(access: &mut String, more: &str) {
    let both = |c: &char| access.contains(*c) || more.contains(*c);
    let merged: String = ['r', 'w', 'm'].iter().filter(|c| both(c)).collect();
    *access = merged;
}

/// The driver of a major: "136 pts" below "Character devices:".
fn major_name(text: &str, block: bool, major: u32) -> Option<&str> {
    let mut in_section = false;
    for line in text.lines() {
        match line.trim() {
            "Character devices:" => in_section = !block,
            "Block devices:" => in_section = block,
            line if in_section => {
                let (number, name) = line.split_once(' ').unwrap_or((line, ""));
                if number.parse() == Ok(major) && !name.trim().is_empty() {
                    return Some(name.trim());
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
