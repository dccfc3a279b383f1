//! One pull into an empty store: time, processor, memory, disk, and what it leaves for the disk to do.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::super::call;
use super::super::report::Series;
use super::subject::{Ready, Subject};
use super::{Rig, print};
use crate::failure::{Context, Result, failure};

#[derive(Default)]
pub struct Measured {
    wall: Series,
    cpu: Series,
    memory: Series,
    disk: Series,
    dirty: Series,
}

impl Measured {
    pub fn print(&self) {
        print(&self.wall, "cold pull", "s");
        print(&self.cpu, "processor time of it, daemons included", "s");
        print(
            &self.memory,
            "largest resident set of a process in it",
            "MiB",
        );
        print(&self.disk, "on the disk", "MB");
        print(&self.dirty, "sync(1) afterwards", "s");
    }
}

pub fn measure(rig: &Rig, subject: &Subject, round: usize, into: &mut Measured) -> Result<()> {
    let ready = subject.ready(rig, &round.to_string())?;
    let outcome = one(rig, subject, &ready, into);
    ready.close();
    outcome
}

fn one(rig: &Rig, subject: &Subject, ready: &Ready, into: &mut Measured) -> Result<()> {
    rig.settle()?;
    let argv = subject.pull(rig, ready);
    let before = cpu(ready)?;
    let (wall, peak) = timed(rig, &argv)?;
    let cpu = cpu(ready)? - before;
    let daemons = ready.daemons.iter().map(|d| peak_of(d.id()));
    let peak = daemons.fold(peak, f64::max);
    let since = Instant::now();
    call("sync", &[])?;
    into.dirty.add(subject.name, since.elapsed().as_secs_f64());
    into.wall.add(subject.name, wall);
    into.cpu.add(subject.name, cpu);
    into.memory.add(subject.name, peak);
    let used = call("du", &["-s", "-B1000000", &ready.store])?;
    let used = used.split_whitespace().next().unwrap_or_default();
    into.disk.add(subject.name, used.parse().context("du")?);
    Ok(())
}

/// Seconds, and MiB of the largest process.
pub fn timed(rig: &Rig, argv: &[String]) -> Result<(f64, f64)> {
    let file = rig.run_path("peak.kib");
    let since = Instant::now();
    let out = Command::new(&rig.peak)
        .arg(&file)
        .args(argv)
        .stdin(Stdio::null())
        .output()
        .context(&rig.peak)?;
    let wall = since.elapsed().as_secs_f64();
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(failure(format!("`{}`: {}", argv.join(" "), why.trim())));
    }
    let kib = fs::read_to_string(&file).context(&file)?;
    Ok((wall, kib.trim().parse::<f64>().context(&file)? / 1024.0))
}

/// Seconds that our children, waited for, and the daemons with theirs have used.
fn cpu(ready: &Ready) -> Result<f64> {
    let mut total = times("/proc/self/stat", 2)?;
    for daemon in &ready.daemons {
        total += times(&format!("/proc/{}/stat", daemon.id()), 0)?;
    }
    Ok(total)
}

/// User and system time of a process and of its children (proc_pid_stat(5), fields 14 to 17), from the `from`th of the four on.
fn times(path: &str, from: usize) -> Result<f64> {
    let text = fs::read_to_string(path).context(path)?;
    let after = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after.split_whitespace().skip(11).take(4);
    let ticks: Vec<f64> = fields.filter_map(|f| f.parse().ok()).collect();
    // USER_HZ is 100 on every architecture that engines run on.
    Ok(ticks.iter().skip(from).sum::<f64>() / 100.0)
}

fn peak_of(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    kib.and_then(|k| k.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
