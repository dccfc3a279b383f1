//! `update`: limits from a document or from options.

use std::ffi::OsString;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources};

use super::options::{End, Known, Parsed, parse, value};
use super::process::document;
use super::{Context, Failure, UsageError, id};

pub(super) const UPDATE: [Known; 19] = [
    value("resources").or('r'),
    value("blkio-weight"),
    value("cpu-period"),
    value("cpu-quota"),
    value("cpu-burst"),
    value("cpu-share"),
    value("cpu-rt-period"),
    value("cpu-rt-runtime"),
    value("cpu-idle"),
    value("cpuset-cpus"),
    value("cpuset-mems"),
    value("memory"),
    value("memory-reservation"),
    value("memory-swap"),
    value("pids-limit"),
    value("l3-cache-schema"),
    value("mem-bw-schema"),
    value("kernel-memory"),
    value("kernel-memory-tcp"),
];

pub(super) fn update(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &UPDATE, End::Never)?;
    let id = id(&parsed)?;
    cache_and_bandwidth(&parsed)?;
    let mut resources = match parsed.get("resources") {
        Some(path) => document(Path::new(path))?.0,
        None => from_options(&parsed)?,
    };
    let kernel = ["kernel-memory", "kernel-memory-tcp"];
    if kernel.iter().any(|name| parsed.get(name).is_some()) {
        // The kernel has no such limits any more (Linux 6.1, and never on cgroup v2).
        context
            .log
            .warning("limits of kernel memory are obsolete, and were left out");
    }
    swap_with_memory(&mut resources);
    // Rules for devices are of the creation: what a plugin has added since stays, as with runc.
    resources.set_devices(None);
    crate::update(&context.root, &id, &resources)?;
    Ok(0)
}

/// Intel RDT's part of a container.
fn cache_and_bandwidth(parsed: &Parsed) -> Result<(), Failure> {
    let asked = ["l3-cache-schema", "mem-bw-schema"]
        .into_iter()
        .find(|name| parsed.get(name).is_some_and(|v| !v.is_empty()));
    match asked {
        None => Ok(()),
        Some("l3-cache-schema") => Err(Failure::Refused(
            "--l3-cache-schema is not supported: a container's part of Intel RDT cannot be changed",
        )),
        Some(_) => Err(Failure::Refused(
            "--mem-bw-schema is not supported: a container's part of Intel RDT cannot be changed",
        )),
    }
}

/// Memory without a limit, and nothing said of swap: that has none either.
fn swap_with_memory(resources: &mut LinuxResources) {
    let Some(memory) = resources.memory().filter(|m| m.limit() == Some(-1)) else {
        return;
    };
    if memory.swap().is_none() {
        let mut memory = memory;
        memory.set_swap(Some(-1));
        resources.set_memory(Some(memory));
    }
}

/// Bytes: a number, `-1`, or a number with a unit (`512m`, `1.5GiB`), by powers of 1024.
fn bytes(parsed: &Parsed, name: &'static str) -> Result<Option<i64>, UsageError> {
    let Some(text) = parsed.get(name) else {
        return Ok(None);
    };
    size(text).map(Some).ok_or_else(|| UsageError::Bad {
        name,
        text: text.into(),
        must: "-1, or a size such as 536870912 or 512m",
    })
}

fn size(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return (number >= -1).then_some(number);
    }
    let lower = text.trim().to_ascii_lowercase();
    let unit = lower.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = lower.split_at(unit);
    let power = match unit.trim_start() {
        "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let unit = 1i64 << (10 * power);
    match number.parse::<i64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => {
            let value = number.parse::<f64>().ok()? * unit as f64;
            (value < 9.0e18).then_some(value as i64)
        }
    }
}

fn from_options(parsed: &Parsed) -> Result<LinuxResources, Failure> {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let mut cpu = LinuxCpu::default();
    cpu.set_period(parsed.number("cpu-period")?);
    cpu.set_quota(parsed.number("cpu-quota")?);
    cpu.set_burst(parsed.number("cpu-burst")?);
    cpu.set_shares(parsed.number("cpu-share")?);
    cpu.set_realtime_period(parsed.number("cpu-rt-period")?);
    cpu.set_realtime_runtime(parsed.number("cpu-rt-runtime")?);
    cpu.set_idle(parsed.number("cpu-idle")?);
    cpu.set_cpus(parsed.get("cpuset-cpus").map(String::from));
    cpu.set_mems(parsed.get("cpuset-mems").map(String::from));
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(bytes(parsed, "memory")?);
    memory.set_reservation(bytes(parsed, "memory-reservation")?);
    memory.set_swap(bytes(parsed, "memory-swap")?);
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    if let Some(limit) = parsed.number::<i64>("pids-limit")? {
        resources.set_pids(LinuxPidsBuilder::default().limit(limit).build().ok());
    }
    if let Some(weight) = parsed.number("blkio-weight")? {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("-2", None),
            ("4096", Some(4096)),
            ("512m", Some(512 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("2 kb", Some(2048)),
            ("9000000p", None),
            ("m", None),
            ("5x", None),
            ("", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
