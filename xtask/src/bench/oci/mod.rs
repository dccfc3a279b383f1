//! `cargo xtask bench oci`: `corten-oci` beside crun, runc, and the floor under all of them.
//!
//! ```text
//! bench oci ── builds, re-runs itself in a mount namespace of its own
//!    └─ inside: bundles and state on a tmpfs that ends with the namespace
//!         ├─ agent v2:   /sys/fs/cgroup is cgroup v2 alone   (crun refuses a hybrid host)
//!         ├─ agent v1:   the host's groups without v2        (crun under a memory limit)
//!         └─ agent host: as the machine is                   (beside runc)
//! ```
//!
//! Every series is interleaved: each subject once a round, so that a busy minute is everybody's. Ratios are of medians
//! of the same rounds. Absolute times mean little on a shared machine.

mod agent;
mod bundle;
mod cost;
mod gate;
mod lifecycle;
mod options;
mod phases;
mod run;
mod throughput;
mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{call, cgroup, report};
use crate::failure::{Context, Result, failure};
use crate::packages;

use agent::Place;
pub use agent::serve as agent;
use bundle::{Bundles, Variant, text};
use gate::Gates;
use options::Options;

const WARM_UP: usize = 2;
const CRUN: &str = "/usr/bin/crun";
const RUNC: &str = "/usr/sbin/runc";
const ON_V2: &str = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup";
const ON_V1: &str =
    "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi";

const PEERS: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("crun", CRUN),
    ("runc", RUNC),
    ("strace", "/usr/bin/strace"),
];

/// The outer half: builds, then goes inside.
pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    packages::install(PEERS)?;
    let corten = match std::env::var_os("CORTEN_OCI") {
        Some(path) => PathBuf::from(path),
        None => built_runtime()?,
    };
    let floor = example("corten-sys", "floor")?;
    let peak = example("corten-sys", "peak")?;
    let profile = example("corten-runtime", "default-seccomp")?;
    let before = cgroup::Groups::take();
    let own = std::env::current_exe().context("cannot find this executable")?;
    let status = Command::new("unshare")
        .arg("--mount")
        .arg(own)
        .arg("bench-oci-inside")
        .args([corten, floor, peak, profile])
        .args(options.words())
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

/// The small executable, if the workspace has one, or the whole engine, which is a runtime by its name.
fn built_runtime() -> Result<PathBuf> {
    let metadata = crate::metadata::Graph::load()?;
    let small = metadata.members().find(|package| {
        let mut targets = package.targets.iter();
        targets.any(|target| target.kind == "bin" && target.name == "corten-oci")
    });
    match small {
        Some(package) => {
            let package = package.name.clone();
            super::built(&["-p", &package, "--bin", "corten-oci"], "corten-oci")
        }
        None => super::built(&["-p", "corten"], "corten"),
    }
}

fn example(package: &str, name: &str) -> Result<PathBuf> {
    super::built(&["-p", package, "--example", name], name)
}

/// The inner half, in a mount namespace of its own.
pub fn inside(args: &[String]) -> Result<()> {
    let [corten, floor, peak, profile, options @ ..] = args else {
        return Err(failure("bench-oci-inside is started by bench"));
    };
    let options = Options::parse(options)?;
    let rig = Rig::open([corten, floor, peak, profile], &options)?;
    report::machine();
    let mut gates = Gates::default();
    for part in &options.parts {
        match part.as_str() {
            "run" => run::measure(&rig, &mut gates)?,
            "lifecycle" => lifecycle::measure(&rig, &mut gates)?,
            "cost" => cost::measure(&rig, &mut gates)?,
            "throughput" => throughput::measure(&rig, &mut gates)?,
            _ => phases::measure(&rig)?,
        }
    }
    gates.print();
    Ok(())
}

/// What the series measure with.
pub struct Rig {
    v2: Place,
    v1: Place,
    host: Place,
    bundles: Bundles,
    /// The seccomp section of an ordinary container.
    profile: serde_json::Value,
    corten: String,
    floor: String,
    peak: String,
    folder: PathBuf,
    rounds: usize,
    gap: Duration,
    quick: bool,
}

/// One command to be measured.
pub struct Subject {
    name: &'static str,
    argv: Vec<String>,
}

impl Rig {
    fn open(programs: [&String; 4], options: &Options) -> Result<Rig> {
        let folder = PathBuf::from(format!("/tmp/corten-bench-oci-{}", std::process::id()));
        fs::create_dir_all(&folder).context(folder.display())?;
        call(
            "mount",
            &["-t", "tmpfs", "-o", "mode=755", "bench", &text(&folder)],
        )?;
        let [corten, floor, peak, profile] = programs;
        // The engine is a runtime by this name; a copy here is also what every command is charged for alike.
        let copy = |from: &String, name: &str| {
            let to = folder.join(name);
            fs::copy(from, &to).context(from).map(|_| text(&to))
        };
        let profile = call(profile, &[])?;
        let place = |prepare: &str, name: &str, fifo: bool| {
            Place::new(prepare, &folder.join(format!("{name}.said")), fifo)
        };
        let rig = Rig {
            v2: place(ON_V2, "v2", options.fifo)?,
            v1: place(ON_V1, "v1", false)?,
            // A v1 cpu group has no real-time budget, so nothing in it can be SCHED_FIFO.
            host: place(":", "host", false)?,
            bundles: Bundles::new(&folder.join("bundles"))?,
            profile: serde_json::from_str(&profile).context("default-seccomp")?,
            corten: copy(corten, "corten-oci")?,
            floor: copy(floor, "floor")?,
            peak: copy(peak, "peak")?,
            rounds: options.rounds,
            gap: Duration::from_millis(options.gap),
            quick: options.quick,
            folder,
        };
        rig.v2
            .run(&words(&["mkdir", "-p", "/sys/fs/cgroup/corten-bench"]))?;
        Ok(rig)
    }

    /// Where a runtime keeps its state, on memory as /run is.
    fn state(&self, runtime: &str) -> String {
        let name = Path::new(runtime).file_name().unwrap_or_default();
        text(&self.folder.join("state").join(name))
    }

    /// A runtime's command line.
    fn command(&self, runtime: &str, more: &[&str]) -> Vec<String> {
        let state = self.state(runtime);
        words(&[&[runtime, "--root", &state][..], more].concat())
    }

    /// `run` of a bundle with this name and variant.
    fn oci(
        &self,
        name: &'static str,
        runtime: &str,
        id: &str,
        variant: &Variant,
    ) -> Result<Subject> {
        let bundle = self.bundles.make(id, variant)?;
        let argv = self.command(runtime, &["run", "--bundle", &bundle, id]);
        Ok(Subject { name, argv })
    }

    /// The floor, which needs v2.
    fn floor(&self, name: &'static str, id: &str) -> Subject {
        let group = format!("/sys/fs/cgroup/corten-bench/{id}");
        let argv = words(&[&self.floor, &self.bundles.root(), &group]);
        Subject { name, argv }
    }

    fn breathe(&self) {
        std::thread::sleep(self.gap);
    }
}

impl Drop for Rig {
    /// Containers that a failed series has left; the rest ends with the mount namespace.
    fn drop(&mut self) {
        for runtime in [self.corten.clone(), CRUN.to_owned(), RUNC.to_owned()] {
            let left = fs::read_dir(self.state(&runtime)).into_iter().flatten();
            for entry in left.flatten() {
                let id = entry.file_name().to_string_lossy().into_owned();
                let delete = self.command(&runtime, &["delete", "--force", &id]);
                let done = [&self.v2, &self.host, &self.v1].map(|place| place.run(&delete).is_ok());
                // crun keeps folders of its own there, which are no containers.
                if done == [false; 3] && !id.starts_with('.') {
                    eprintln!("bench: container {id} of {runtime} may be left");
                }
            }
        }
        let folder = text(&self.folder);
        if let Err(why) = call("umount", &["--lazy", &folder]) {
            eprintln!("bench: {why}");
        }
        if let Err(why) = fs::remove_dir(&self.folder) {
            eprintln!("bench: cannot remove {folder}: {why}");
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
