//! `cargo xtask bench images`: one large image, pulled into an empty store by everyone, and what comes after.
//!
//! ```text
//! docker-registry (loopback) ──► floor: GET, hash, inflate, hash, write, sync; nothing else
//!                            ├─► curl | gunzip | sha256sum, two at a time
//!                            ├─► corten: EROFS images; folders
//!                            └─► podman, docker, containerd
//! ```
//!
//! Every pull has a store of its own, an empty page cache but for the registry's blobs, and no dirty data of the one before. Old
//! stores are left where they are until the end: ext4 makes files several times slower for minutes after many
//! were removed. Rounds are interleaved; ratios are of medians.

mod after;
mod pull;
mod subject;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::daemon::Daemon;
use super::report::{self, Series};
use super::{PEERS, built, call};
use crate::failure::{Context, Result, failure};
use crate::packages;
use subject::{Kind, Subject};

const REGISTRY: &str = "127.0.0.1:5000";
/// In the bench's own registry.
pub const IMAGE: &str = "127.0.0.1:5000/large:latest";
const ROUNDS: usize = 3;

/// The outer half: builds what is measured, then goes into namespaces of its own.
pub fn run(args: &[String]) -> Result<()> {
    let rounds = rounds(args)?;
    if let Err(why) = packages::install(PEERS) {
        println!("bench: not every peer could be installed: {why}");
    }
    let corten = super::corten()?;
    let floor = built(
        &["--release", "-p", "corten-store", "--example", "floor"],
        "floor",
    )?;
    let peak = built(
        &["--release", "-p", "corten-sys", "--example", "peak"],
        "peak",
    )?;
    let image = crate::steps::fixtures_of("large")?;
    let before = super::cgroup::Groups::take();
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().context("cannot find this executable")?)
        .arg("bench-images-inside")
        .args([&corten, &floor, &peak, &image])
        .arg(rounds.to_string())
        .stdin(Stdio::null())
        .status()
        .context("cannot run unshare")?;
    before.restore()?;
    match status.success() {
        true => Ok(()),
        false => Err(failure("the bench did not come to its end")),
    }
}

fn rounds(args: &[String]) -> Result<usize> {
    match args {
        [] => Ok(ROUNDS),
        [flag, n] if flag == "--rounds" => n.parse().context("--rounds needs a number"),
        _ => Err(failure("bench images knows --rounds N and nothing else")),
    }
}

/// What the measurements share.
pub struct Rig {
    pub folder: PathBuf,
    pub corten: String,
    pub floor: String,
    pub peak: String,
    /// Digests of the layers, the largest first.
    pub layers: Vec<String>,
    registry: Option<Daemon>,
}

pub fn inside(args: &[String]) -> Result<()> {
    let [corten, floor, peak, image, rounds] = args else {
        return Err(failure("bench-images-inside is started by bench images"));
    };
    let rounds: usize = rounds.parse().context("rounds")?;
    let mut rig = Rig::open([corten, floor, peak], Path::new(image))?;
    report::machine();
    let mut measured = pull::Measured::default();
    let mut skipped: Vec<&str> = Vec::new();
    for round in 0..rounds {
        for subject in Subject::ALL {
            if skipped.contains(&subject.name) {
                continue;
            }
            if let Err(why) = pull::measure(&rig, &subject, round, &mut measured) {
                report::skipped(subject.name, why);
                skipped.push(subject.name);
            }
        }
    }
    measured.print();
    after::measure(&rig, &skipped);
    rig.close();
    Ok(())
}

impl Rig {
    fn open([corten, floor, peak]: [&String; 3], image: &Path) -> Result<Rig> {
        // On the disk: what is measured is a disk's work.
        let folder = PathBuf::from(format!(
            "/var/tmp/corten-bench-images-{}",
            std::process::id()
        ));
        fs::create_dir_all(folder.join("run")).context(folder.display())?;
        call("ip", &["link", "set", "lo", "up"])?;
        call(
            "mount",
            &["-t", "tmpfs", "run", &folder.join("run").to_string_lossy()],
        )?;
        for path in ["/run", "/var/lib/cni", "/var/lib/containers"] {
            if Path::new(path).exists() {
                call("mount", &["-t", "tmpfs", "bench", path])?;
            }
        }
        let mut rig = Rig {
            layers: layers(image)?,
            folder,
            corten: corten.clone(),
            floor: floor.clone(),
            peak: peak.clone(),
            registry: None,
        };
        rig.serve(image)?;
        Ok(rig)
    }

    fn serve(&mut self, image: &Path) -> Result<()> {
        let config = self.folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            self.path("registry")
        );
        fs::write(&config, text).context(config.display())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        command.env("OTEL_TRACES_EXPORTER", "none");
        let ready = || TcpStream::connect(REGISTRY).is_ok();
        let log = self.folder.join("registry.log");
        self.registry = Some(Daemon::start("docker-registry", &mut command, &log, ready)?);
        let source = format!("oci:{}:large", image.display());
        let target = format!("docker://{IMAGE}");
        let options = [
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ];
        call("skopeo", &[&options[..], &[&source, &target]].concat())?;
        Ok(())
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// Where state that lives in memory goes.
    pub fn run_path(&self, name: &str) -> String {
        self.path(&format!("run/{name}"))
    }

    /// Nothing dirty, nothing cached but what the registry sends.
    pub fn settle(&self) -> Result<()> {
        call("sync", &[])?;
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")?;
        call(
            "sh",
            &[
                "-c",
                &format!(
                    "cat $(find '{}' -type f) > /dev/null",
                    self.path("registry")
                ),
            ],
        )?;
        Ok(())
    }

    fn close(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            registry.stop();
        }
        println!("\nremoving {}", self.folder.display());
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

/// Of the image in a layout.
fn layers(image: &Path) -> Result<Vec<String>> {
    let read = |path: PathBuf| -> Result<Value> {
        let bytes = fs::read(&path).context(path.display())?;
        serde_json::from_slice(&bytes).context(path.display())
    };
    let index = read(image.join("index.json"))?;
    let digest = index["manifests"][0]["digest"].as_str().unwrap_or_default();
    let manifest = read(image.join("blobs").join(digest.replace(':', "/")))?;
    let mut layers: Vec<(u64, String)> = manifest["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|l| Some((l["size"].as_u64()?, l["digest"].as_str()?.to_owned())))
        .collect();
    layers.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    println!(
        "image: {} layers, {:.0} MB of gzip, the largest {:.0} MB",
        layers.len(),
        layers.iter().map(|(n, _)| *n as f64 / 1e6).sum::<f64>(),
        layers.first().map_or(0.0, |(n, _)| *n as f64 / 1e6),
    );
    Ok(layers.into_iter().map(|(_, digest)| digest).collect())
}

/// Fills a table and says what is aimed at.
pub fn print(series: &Series, title: &str, unit: &str) {
    let floor = Subject::named(Kind::Floor).name;
    series.print(title, unit, &[floor, "podman", "docker"]);
}
