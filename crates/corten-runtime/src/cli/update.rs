//! `update`: limits from a document or from options.

use std::ffi::OsString;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources};

use super::options::{End, Known, Parsed, parse, value};
use super::process::document;
use super::{Context, Failure, id};

const UPDATE: [Known; 15] = [
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
];

pub(super) fn update(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &UPDATE, End::Never)?;
    let id = id(&parsed)?;
    let resources = match parsed.get("resources") {
        Some(path) => document(Path::new(path))?.0,
        None => from_options(&parsed)?,
    };
    crate::update(&context.root, &id, &resources)?;
    Ok(0)
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
    memory.set_limit(parsed.number("memory")?);
    memory.set_reservation(parsed.number("memory-reservation")?);
    memory.set_swap(parsed.number("memory-swap")?);
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
