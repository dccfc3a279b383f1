//! Debian's kernel on an emulated machine: every controller of cgroup v2, a disk, huge pages; and, in a root
//! of its own, systemd as process 1. Instructions are translated, never run by `/dev/kvm`: a
//! hypervisor's guest need not offer one that works, and here it does not matter how fast it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::console::{self, Outcome};
use super::initramfs::Archive;
use super::job::{Binary, Job, Root};
use super::kernel::{self, Kernel};
use super::{folder, image, own_binary, suite, workspace};
use crate::failure::{Context, Result};
use crate::packages;

const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("kmod", "/sbin/depmod"),
    ("iproute2", "/sbin/ip"),
];
const SHARE: &str = "hostroot";
const FOR_ONE: Duration = Duration::from_secs(300);
const FOR_ALL: Duration = Duration::from_secs(3600);
const DISK: u64 = 64 << 20;

pub fn run(binaries: &[Binary], filters: &[String]) -> Result<Outcome> {
    packages::install(PACKAGES).context("an emulated guest cannot be had")?;
    let kernel = kernel::fetch()?;
    match filters.is_empty() {
        true => boot("qemu", &kernel, &suite::emulated(binaries), filters, None),
        false => boot("qemu", &kernel, binaries, filters, None),
    }
}

/// The tests of the systemd driver, where systemd runs the machine.
pub fn run_systemd(binaries: &[Binary], filters: &[String]) -> Result<Outcome> {
    packages::install(PACKAGES).context("an emulated guest cannot be had")?;
    let kernel = kernel::fetch()?;
    let image = image::build()?;
    let all = ["systemd_".to_owned()];
    let filters = if filters.is_empty() { &all } else { filters };
    boot("systemd", &kernel, binaries, filters, Some(image))
}

fn boot(
    name: &str,
    kernel: &Kernel,
    binaries: &[Binary],
    filters: &[String],
    image: Option<PathBuf>,
) -> Result<Outcome> {
    let own = folder(&format!("{name}-{}", std::process::id()))?;
    let modules = kernel.load_order()?;
    let systemd = image.is_some();
    let job = Job {
        binaries: binaries.to_vec(),
        filters: filters.to_vec(),
        shard: 0,
        of: 1,
        // systemd's tests look at its units, of which there is one set.
        threads: if systemd { 1 } else { 2 },
        limit: FOR_ONE,
        environment: BTreeMap::from([
            ("CORTEN_GUEST".to_owned(), name.to_owned()),
            ("CORTEN_TEST_DISK".to_owned(), "/dev/vda".to_owned()),
        ]),
        root: Root {
            share: Some(SHARE.to_owned()),
            shown: match image {
                Some(_) => shown(binaries),
                None => covered(binaries),
            },
            lower: image.unwrap_or_else(|| "/".into()),
            modules: (0..modules.len()).map(in_archive).collect(),
            module_tree: Some(kernel.modules.clone()),
            systemd,
        },
    };
    let archive = write_archive(&own, &job, &modules)?;
    let disk = own.join("disk");
    let made = fs::File::create(&disk).and_then(|disk| disk.set_len(DISK));
    made.context(disk.display())?;
    let mut command = machine(kernel, &archive, &disk);
    let outcome = console::follow(name, &mut command, FOR_ALL);
    fs::remove_dir_all(&own).context(own.display())?;
    outcome
}

/// What of [`shown`] lies in folders that a guest has of its own.
pub(super) fn covered(binaries: &[Binary]) -> Vec<PathBuf> {
    let own = ["/tmp", "/run"];
    let mut folders = shown(binaries);
    folders.retain(|folder| own.iter().any(|own| folder.starts_with(own)));
    folders
}

/// What of this machine a root of its own needs: the checkout, and the binaries if they are elsewhere.
fn shown(binaries: &[Binary]) -> Vec<PathBuf> {
    let mut folders = vec![workspace()];
    for folder in binaries.iter().filter_map(|binary| binary.path.parent()) {
        // Examples lie beside the folder of the test binaries.
        let folder = folder.parent().unwrap_or(folder);
        if !folders.iter().any(|known| folder.starts_with(known)) {
            folders.push(folder.to_owned());
        }
    }
    folders
}

fn in_archive(number: usize) -> PathBuf {
    PathBuf::from(format!("/modules/{number:02}.ko"))
}

fn write_archive(own: &Path, job: &Job, modules: &[PathBuf]) -> Result<PathBuf> {
    let (file, to) = (own.join("job.json"), own.join("initramfs"));
    job.write(&file)?;
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "mnt", "modules"] {
        archive.folder(folder);
    }
    archive.program("init", &own_binary()?)?;
    archive.file("job.json", &file)?;
    for (number, module) in modules.iter().enumerate() {
        let name = in_archive(number);
        let name = name.to_string_lossy();
        archive.file(name.trim_start_matches('/'), module)?;
    }
    archive.write(&to)?;
    Ok(to)
}

fn machine(kernel: &Kernel, archive: &Path, disk: &Path) -> Command {
    let share =
        format!("local,path=/,mount_tag={SHARE},security_model=none,readonly=on,multidevs=remap");
    let disk = format!("file={},if=virtio,format=raw", disk.display());
    let words = match console::verbose() {
        true => "systemd.log_target=console",
        false => "quiet loglevel=1 systemd.show_status=0",
    };
    let line = format!(
        "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on hugepages=8 psi=1 \
         systemd.unified_cgroup_hierarchy=1 {words} -- guest-init /job.json"
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .args([
            "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1536", "-smp", "2",
        ])
        .args(["-virtfs", &share, "-drive", &disk])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", &line]);
    command
}
