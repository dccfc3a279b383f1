//! `cargo xtask bench cri`: pods by kubelet's interface, on `corten serve` and on containerd with runc and CNI's own plugins.
//!
//! ```text
//! docker-registry (loopback) ──► corten serve ◄──┐
//!                            └─► containerd   ◄──┴── cri-load: run a pod, create and start a container, until it runs
//! ```
//!
//! One connection, one client program for both; rounds are interleaved. The peers have the same CNI configuration; ours has the
//! plugins in itself. `CORTEN_BENCH_CONTAINERD` names a folder with another containerd and its shim than Debian's.

mod subject;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::report::{self, Series};
use super::{PEERS, built, call};
use crate::failure::{Context, Result, failure};
use crate::packages;
use subject::{PEER, Subject};

const ROUNDS: usize = 15;
const WARM_UP: usize = 2;
/// Pods at once, where several are made at a time.
const AT_ONCE: usize = 10;
/// Pods that memory is counted with.
const MANY: usize = 100;
const SETTLE: Duration = Duration::from_secs(3);
/// How long an idle daemon is watched.
const WATCH: Duration = Duration::from_secs(20);

/// The outer half: builds what is measured, then goes into namespaces of its own.
pub fn run(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        return Err(failure("bench cri knows no options"));
    }
    if let Err(why) = packages::install(PEERS) {
        println!("bench: not every peer could be installed: {why}");
    }
    let corten = super::corten()?;
    let load = built(
        &["--release", "-p", "corten-cri", "--example", "cri-load"],
        "cri-load",
    )?;
    let image = crate::steps::fixtures_of("busybox")?;
    let before = super::cgroup::Groups::take();
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().context("cannot find this executable")?)
        .arg("bench-cri-inside")
        .args([&corten, &load, &image])
        .stdin(Stdio::null())
        .status()
        .context("cannot run unshare")?;
    before.restore()?;
    match status.success() {
        true => Ok(()),
        false => Err(failure("the bench did not come to its end")),
    }
}

pub fn inside(args: &[String]) -> Result<()> {
    let [corten, load, image] = args else {
        return Err(failure("bench-cri-inside is started by bench cri"));
    };
    let mut rig = Rig::open(corten, load)?;
    report::machine();
    let done = measure(&mut rig, Path::new(image));
    rig.close();
    done
}

/// What the measurements share.
pub struct Rig {
    pub folder: PathBuf,
    pub corten: String,
    load: String,
    subjects: Vec<Subject>,
    registry: Option<super::daemon::Daemon>,
}

fn measure(rig: &mut Rig, image: &Path) -> Result<()> {
    rig.registry = Some(subject::registry(rig, image)?);
    for subject in [subject::corten(rig), subject::containerd(rig)] {
        match subject {
            Ok(subject) => rig.subjects.push(subject),
            Err(why) => report::skipped("a subject", why),
        }
    }
    for subject in &rig.subjects {
        rig.load(subject, &["pull", subject::IMAGE])?;
    }
    starts(rig, 1)?;
    starts(rig, AT_ONCE)?;
    memory(rig)
}

/// So many at once, one round after the other; the pods of a round are removed before the next.
fn starts(rig: &Rig, at_once: usize) -> Result<()> {
    let mut series = Series::default();
    for round in 0..rounds() + WARM_UP {
        for subject in &rig.subjects {
            let prefix = format!("r{at_once}-{round}");
            let took = rig.start(subject, at_once, at_once, &prefix)?;
            if round >= WARM_UP {
                took.iter().for_each(|t| series.add(subject.name, *t));
            }
            rig.load(subject, &["remove"])?;
        }
    }
    let title = format!("pod and container until it runs, {at_once} at once");
    series.print(&title, "ms", &[PEER]);
    for subject in &rig.subjects {
        if let Some(high) = series.quantile(subject.name, 0.99) {
            println!("  {}: p99 {high:.2} ms", subject.name);
        }
    }
    Ok(())
}

fn rounds() -> usize {
    let asked = std::env::var("CORTEN_BENCH_ROUNDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(ROUNDS)
}

/// Of the daemon alone, and of everything with many pods; and what an idle daemon costs.
fn memory(rig: &Rig) -> Result<()> {
    let (mut alone, mut many) = (Series::default(), Series::default());
    let (mut resident, mut busy) = (Series::default(), Series::default());
    for subject in &rig.subjects {
        std::thread::sleep(SETTLE);
        resident.add(subject.name, subject.daemon_memory()?.1);
        alone.add(subject.name, subject.daemon_memory()?.0);
        let before = subject.processor()?;
        std::thread::sleep(WATCH);
        let spent = subject.processor()? - before;
        busy.add(subject.name, spent / WATCH.as_secs_f64() * 100.0);
        rig.start(subject, MANY, AT_ONCE, "many")?;
        std::thread::sleep(SETTLE);
        many.add(subject.name, subject.memory()?);
        rig.load(subject, &["remove"])?;
    }
    resident.print("the daemon, idle: RSS", "MiB", &[PEER]);
    alone.print("the daemon, idle: PSS", "MiB", &[PEER]);
    busy.print("the daemon, idle: processor", "% of one", &[PEER]);
    many.print(
        &format!("{MANY} pods of one container: PSS of daemon, supervisors and pause processes"),
        "MiB",
        &[PEER],
    );
    Ok(())
}

impl Rig {
    fn open(corten: &str, load: &str) -> Result<Rig> {
        let folder = PathBuf::from(format!("/tmp/corten-bench-cri-{}", std::process::id()));
        fs::create_dir_all(folder.join("run")).context(folder.display())?;
        call("ip", &["link", "set", "lo", "up"])?;
        call(
            "mount",
            &["-t", "tmpfs", "run", &folder.join("run").to_string_lossy()],
        )?;
        for path in ["/run", "/var/lib/cni"] {
            if Path::new(path).exists() {
                call("mount", &["-t", "tmpfs", "bench", path])?;
            }
        }
        Ok(Rig {
            folder,
            corten: corten.into(),
            load: load.into(),
            subjects: Vec::new(),
            registry: None,
        })
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn load(&self, subject: &Subject, words: &[&str]) -> Result<String> {
        call(&self.load, &[&[subject.socket.as_str()], words].concat())
    }

    /// Milliseconds of each.
    fn start(
        &self,
        subject: &Subject,
        count: usize,
        at_once: usize,
        prefix: &str,
    ) -> Result<Vec<f64>> {
        let (count, at_once) = (count.to_string(), at_once.to_string());
        let logs = self.path(&format!("logs-{}", subject.short));
        let words = ["start", &count, &at_once, subject::IMAGE, prefix, &logs];
        let text = self.load(subject, &words)?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn close(&mut self) {
        for subject in &mut self.subjects {
            if let Err(why) = call(&self.load, &[&subject.socket, "remove"]) {
                eprintln!("bench: {}: {why}", subject.name);
            }
            subject.daemon.stop();
        }
        if let Some(mut registry) = self.registry.take() {
            registry.stop();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let prefix = self.folder.to_string_lossy().into_owned();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let points: Vec<&str> = points.filter(|p| p.starts_with(&prefix)).collect();
        for point in points.iter().rev() {
            if let Err(why) = call("umount", &["--lazy", point]) {
                eprintln!("bench: {why}");
            }
        }
        if let Err(why) = fs::remove_dir_all(&self.folder) {
            eprintln!("bench: cannot remove {}: {why}", self.folder.display());
        }
    }
}
