//! `ctr` on our shim and on containerd's own, under the same containerd: a container run and removed, a process
//! executed, and what supervisors cost in memory and wake-ups.
//!
//! `CORTEN_BENCH_CONTAINERD` names a folder with another containerd, its `ctr` and its shim than Debian's.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
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

/// The variable that names the client which speaks to shims; the outer half builds it.
pub const EXEC_TIME: &str = "CORTEN_BENCH_EXEC_TIME";
const PROCESS: &str =
    r#"{"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}"#;

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
    execs(bench, ctr)?;
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

fn execs(bench: &Bench, ctr: &Engine) -> Result<()> {
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
    series.print("ctr task exec true", "ms", &[PEER]);
    let mut series = Series::default();
    for subject in &SUBJECTS {
        for took in by_themselves(bench, subject.name)? {
            series.add(subject.name, took);
        }
    }
    series.print(
        "the same, asked of the shims by a client that stays connected",
        "ms",
        &[PEER],
    );
    SUBJECTS
        .iter()
        .try_for_each(|subject| remove(ctr, subject.name))
}

/// Exec, Start, Wait and Delete without ctr and containerd, each of which takes longer than our shim.
fn by_themselves(bench: &Bench, name: &str) -> Result<Vec<f64>> {
    let program = std::env::var_os(EXEC_TIME).ok_or_else(|| failure("exec-time was not built"))?;
    let socket = socket(&bench.folder().join("run/containerd"), name)?;
    let rounds = (rounds() + WARM_UP).to_string();
    let mut child = Command::new(program)
        .args([&socket, name, &rounds])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("exec-time")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(PROCESS.as_bytes()).context("exec-time")?;
    }
    let out = child.wait_with_output().context("exec-time")?;
    if !out.status.success() {
        return Err(failure(format!("exec-time failed on {name}")));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .skip(WARM_UP)
        .collect())
}

/// Where the shim of a task listens, as its bundle has it: an older one writes it down, a newer containerd does.
fn socket(state: &Path, name: &str) -> Result<String> {
    let bundle = state
        .join("io.containerd.runtime.v2.task/default")
        .join(name);
    let written = fs::read_to_string(bundle.join("address"));
    let address = written.or_else(|_| -> std::io::Result<String> {
        let text = fs::read_to_string(bundle.join("bootstrap.json"))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        Ok(json["address"].as_str().unwrap_or_default().to_owned())
    });
    let address = address.context(bundle.display())?;
    Ok(address.trim_start_matches("unix://").to_owned())
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
