//! `cargo xtask bench`: Corten beside the engines that people use, in one run.
//!
//! The whole bench lives in mount, network and process namespaces of its own:
//! bridges, packet filter rules, daemons and mounts of every peer end with it.
//! What namespaces do not hold (control groups, one folder below /tmp) is
//! removed by name at the end.
//!
//! ```text
//! cargo xtask bench ── builds corten, re-runs itself under unshare(1)
//!    └─ inside: registry, containerd, dockerd; measures
//!         ├─ agent: a mount namespace without /sys/fs/cgroup/unified   (podman with crun)
//!         └─ agent: a mount namespace with cgroup v2 alone             (bare crun)
//! ```
//!
//! Times on a shared machine vary by the minute, so rounds are interleaved:
//! every subject runs once a round, and ratios are of medians over the rounds.

mod agent;
mod cgroup;
mod cri;
mod daemon;
mod images;
mod many;
mod memory;
pub mod network;
mod oci;
mod peer;
mod report;
mod run;
mod setup;
mod shim;
mod size;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Result, failure};
use crate::packages;

pub use agent::serve as agent;
pub use cri::inside as cri_inside;
pub use images::inside as images_inside;
pub use oci::{agent as oci_agent, inside as oci_inside};

const PARTS: &[&str] = &["run", "memory", "many", "network", "shim", "size"];

/// What the peers are made of; one that cannot be installed is left out of the tables.
const PEERS: &[(&str, &str)] = &[
    ("aardvark-dns", "/usr/lib/podman/aardvark-dns"),
    ("conmon", "/usr/bin/conmon"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("containerd", "/usr/bin/containerd"),
    ("crun", "/usr/bin/crun"),
    ("docker.io", "/usr/sbin/dockerd"),
    ("dnsperf", "/usr/bin/dnsperf"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("iperf3", "/usr/bin/iperf3"),
    ("iproute2", "/sbin/ip"),
    ("iptables", "/usr/sbin/iptables"),
    ("netavark", "/usr/lib/podman/netavark"),
    ("podman", "/usr/bin/podman"),
    ("runc", "/usr/sbin/runc"),
    ("skopeo", "/usr/bin/skopeo"),
    ("umoci", "/usr/bin/umoci"),
];

/// The outer half: prepares what needs the host's network, then goes inside.
pub fn run(args: &[String]) -> Result<()> {
    match args
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        Some(("oci", options)) => return oci::run(options),
        Some(("images", options)) => return images::run(options),
        Some(("cri", options)) => return cri::run(options),
        _ => {}
    }
    let parts = parts(args)?;
    if let Err(why) = packages::install(PEERS) {
        println!("bench: not every peer could be installed: {why}");
    }
    let corten = corten()?;
    let image = busybox()?;
    let before = cgroup::Groups::take();
    let own = std::env::current_exe().context("cannot find this executable")?;
    let mut command = Command::new("unshare");
    if parts.iter().any(|part| part == "shim") {
        let what = ["--release", "-p", "corten-shim", "--example", "exec-time"];
        command.env(shim::EXEC_TIME, built(&what, "exec-time")?);
    }
    let status = command
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(own)
        .arg("bench-inside")
        .arg(corten)
        .arg(image)
        .args(parts)
        .stdin(Stdio::null())
        .status()
        .context("cannot run unshare")?;
    before.restore()?;
    if status.success() {
        Ok(())
    } else {
        Err(failure("the bench did not come to its end"))
    }
}

fn parts(args: &[String]) -> Result<Vec<String>> {
    let known = |part: &&String| PARTS.contains(&part.as_str());
    if args.is_empty() || args == ["all"] {
        return Ok(PARTS.iter().map(|&part| part.to_owned()).collect());
    }
    if let Some(unknown) = args.iter().find(|part| !known(part)) {
        return Err(failure(format!(
            "bench has no part {unknown}; it has {}, and all",
            PARTS.join(", ")
        )));
    }
    Ok(args.to_vec())
}

/// The release build, or another one by `CORTEN_BIN`.
fn corten() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CORTEN_BIN") {
        return Ok(path.into());
    }
    built(&["--release", "-p", "corten"], "corten")
}

/// Builds one executable, and returns where it is.
fn built(what: &[&str], name: &str) -> Result<PathBuf> {
    let out = Command::new(env!("CARGO"))
        .args(["build", "--locked"])
        .args(what)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        return Err(failure(format!("{name} does not build")));
    }
    let messages = String::from_utf8_lossy(&out.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    let found = executables.find(|path| path.file_name().is_some_and(|file| file == name));
    found.ok_or_else(|| failure(format!("cargo built no executable named {name}")))
}

/// The busybox test image; the test kit builds it.
fn busybox() -> Result<PathBuf> {
    crate::steps::fixtures_of("busybox")
}

/// The inner half, in namespaces of its own.
pub fn inside(args: &[String]) -> Result<()> {
    let [corten, image, parts @ ..] = args else {
        return Err(failure("bench-inside is started by bench"));
    };
    let bench = Bench::open(Path::new(corten), Path::new(image))?;
    report::machine();
    for part in parts {
        match part.as_str() {
            "run" => run::measure(&bench)?,
            "memory" => memory::measure(&bench)?,
            "many" => many::measure(&bench)?,
            "network" => network::measure(&bench)?,
            "shim" => shim::measure(&bench)?,
            _ => size::measure(&bench),
        }
    }
    Ok(())
}

/// What the parts measure with.
pub struct Bench {
    /// Subjects that start containers, ours first.
    pub engines: Vec<peer::Engine>,
    /// Runtimes on a prepared bundle.
    pub bare: Vec<peer::Bare>,
    pub corten: PathBuf,
    /// Daemons end, then their folders go.
    daemons: Vec<daemon::Daemon>,
    folder: PathBuf,
}

impl Bench {
    /// For what the parts write.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn open(corten: &Path, image: &Path) -> Result<Bench> {
        let folder = PathBuf::from(format!("/tmp/corten-bench-{}", std::process::id()));
        match fs::remove_dir_all(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(failure(format!(
                    "cannot clear {}: {error}",
                    folder.display()
                )));
            }
        }
        fs::create_dir_all(folder.join("run")).context(folder.display())?;
        call("ip", &["link", "set", "lo", "up"])?;
        // Where engines keep what dies with the machine; /run is memory on a real host.
        call(
            "mount",
            &["-t", "tmpfs", "run", &folder.join("run").to_string_lossy()],
        )?;
        // Peers write to these whatever their options say.
        let fixed = ["/run", "/var/lib/cni", "/var/lib/containers"];
        for path in fixed.iter().filter(|path| Path::new(path).exists()) {
            call("mount", &["-t", "tmpfs", "bench", path])?;
        }
        let mut setup = setup::Setup::new(folder.clone(), corten.to_owned(), image.to_owned());
        let engines = setup.engines()?;
        let bare = setup.bare()?;
        Ok(Bench {
            engines,
            bare,
            corten: corten.to_owned(),
            daemons: setup.daemons,
            folder,
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            daemon.stop();
        }
        // Mounts below it would survive as folders of ours on the disk.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let prefix = self.folder.to_string_lossy().into_owned();
        let points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .collect();
        for point in points
            .iter()
            .rev()
            .filter(|point| point.starts_with(&prefix))
        {
            if let Err(why) = call("umount", &["--lazy", point]) {
                eprintln!("bench: {why}");
            }
        }
        if let Err(why) = fs::remove_dir_all(&self.folder) {
            eprintln!("bench: cannot remove {}: {why}", self.folder.display());
        }
    }
}

/// Runs a set-up command that must succeed; returns its stdout.
fn call(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context(program)?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&out.stderr).into_owned();
    Err(failure(format!(
        "{program} {}: {}",
        args.join(" "),
        why.trim()
    )))
}
