//! `ctr` on our shim and on containerd's own, under the same containerd: a container run and removed, a process
//! executed, and what supervisors cost in memory and wake-ups.
//!
//! `CORTEN_BENCH_CONTAINERD` names a folder with another containerd, its `ctr` and its shim than Debian's.

use std::fs;
use std::time::Duration;

use super::Bench;
use super::memory::{find, read};
use super::peer::{Engine, IMAGE, Kind};
use super::report::{Series, skipped};
use super::run::rounds;
use crate::failure::{Context, Result, failure};

const WARM_UP: usize = 3;
const SETTLE: Duration = Duration::from_millis(700);
/// How long an idle supervisor is watched.
const WATCH: Duration = Duration::from_secs(5);
/// Containers of one pod, whose supervisor is weighed.
const PODS: [usize; 4] = [1, 2, 5, 10];

/// A shim, and how it is asked for.
struct Subject {
    name: &'static str,
    runtime: &'static str,
    /// What its command line has in it.
    process: &'static str,
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "corten",
        runtime: "io.containerd.corten.v2",
        process: "containerd-shim-corten-v2 -namespace default",
    },
    Subject {
        name: PEER,
        runtime: "io.containerd.runc.v2",
        process: "containerd-shim-runc-v2 -namespace default",
    },
];
const PEER: &str = "containerd-shim-runc-v2";

pub fn measure(bench: &Bench) -> Result<()> {
    let ctr = bench.engines.iter().find(|e| e.kind == Kind::Containerd);
    let ctr = ctr.ok_or_else(|| failure("containerd did not come up, and the shims need it"))?;
    let version = ctr.place.run(&ctr.words(&["version"]))?.stdout;
    let mut version = version
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Version:"));
    println!(
        "containerd {}",
        version.next_back().unwrap_or_default().trim()
    );
    runs(ctr);
    execs(ctr)?;
    supervisors(ctr);
    Ok(())
}

fn runs(ctr: &Engine) {
    let mut series = Series::default();
    for round in 0..rounds() + WARM_UP {
        for subject in &SUBJECTS {
            let runtime = ["run", "--rm", "--runtime", subject.runtime];
            let argv = ctr.words(&[&runtime[..], &[IMAGE, "bench-run", "/bin/true"]].concat());
            match ctr.place.run(&argv) {
                Ok(timing) if round >= WARM_UP => series.add(subject.name, timing.millis),
                Ok(_) => {}
                Err(why) => skipped(subject.name, why),
            }
        }
    }
    series.print("ctr run --rm busybox true", "ms", &[PEER]);
}

fn execs(ctr: &Engine) -> Result<()> {
    for subject in &SUBJECTS {
        start(ctr, subject, subject.name, &[])?;
    }
    let mut series = Series::default();
    for round in 0..rounds() + WARM_UP {
        for subject in &SUBJECTS {
            let id = format!("exec-{round}");
            let words = ["task", "exec", "--exec-id", &id, subject.name, "/bin/true"];
            let timing = ctr.place.run(&ctr.words(&words))?;
            if round >= WARM_UP {
                series.add(subject.name, timing.millis);
            }
        }
    }
    for subject in &SUBJECTS {
        remove(ctr, subject.name)?;
    }
    series.print("ctr task exec true", "ms", &[PEER]);
    Ok(())
}

fn supervisors(ctr: &Engine) {
    for count in PODS {
        let mut pss = Series::default();
        for subject in &SUBJECTS {
            match pod(ctr, subject, count) {
                Ok(weight) => pss.add(subject.name, weight),
                Err(why) => skipped(subject.name, why),
            }
        }
        let title = format!("one supervisor of {count} containers of a pod: PSS");
        pss.print(&title, "MiB", &[PEER]);
    }
}

/// The supervisor's proportional set size with so many containers in one pod; says how it rests.
fn pod(ctr: &Engine, subject: &Subject, count: usize) -> Result<f64> {
    let names: Vec<String> = (0..count).map(|n| format!("bench-pod-{n}")).collect();
    let annotation = "io.kubernetes.cri.sandbox-id=bench-pod-0";
    let started = names
        .iter()
        .try_for_each(|name| start(ctr, subject, name, &["--annotation", annotation]));
    std::thread::sleep(SETTLE);
    let measured = started
        .and_then(|()| find(subject.process))
        .and_then(|pid| {
            let (weight, _) = read(pid)?;
            if count == 1 {
                rest(subject.name, pid)?;
            }
            Ok(weight)
        });
    for name in names.iter().rev() {
        // Those that were not started have nothing to remove.
        if let Err(why) = remove(ctr, name)
            && measured.is_ok()
        {
            return Err(why);
        }
    }
    measured
}

/// Threads, and how often it woke up while nothing happened.
fn rest(name: &str, pid: u32) -> Result<()> {
    let wakes = || -> Result<(u64, usize)> {
        let (mut sum, mut threads) = (0, 0);
        let folder = format!("/proc/{pid}/task");
        for task in fs::read_dir(&folder).context(&folder)?.flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            sum += line.and_then(|l| l.trim().parse::<u64>().ok()).unwrap_or(0);
            threads += 1;
        }
        Ok((sum, threads))
    };
    let (before, _) = wakes()?;
    std::thread::sleep(WATCH);
    let (after, threads) = wakes()?;
    println!(
        "  {name}: {threads} threads, {} wake-ups in {} s of rest",
        after - before,
        WATCH.as_secs()
    );
    Ok(())
}

fn start(ctr: &Engine, subject: &Subject, name: &str, more: &[&str]) -> Result<()> {
    let runtime = ["run", "--detach", "--runtime", subject.runtime];
    let argv = ctr.words(&[&runtime[..], more, &[IMAGE, name, "/bin/sleep", "1000"]].concat());
    ctr.place.run(&argv).map(drop)
}

fn remove(ctr: &Engine, name: &str) -> Result<()> {
    ctr.remove(&[name.to_owned()])
        .iter()
        .try_for_each(|argv| ctr.place.run(argv).map(drop))
}
