//! A small Debian with systemd as its first process: a folder that an emulated guest takes as its root.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::folder;
use crate::failure::{Context, Result, failure};
use crate::packages;

/// systemd and what it is spoken to through, for root and for users; and what tests start.
const CONTENT: &[&str] = &[
    "busybox-static",
    "criu",
    "dbus",
    "dbus-user-session",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "kmod",
    "libpam-systemd",
    "procps",
    "systemd",
    "systemd-sysv",
    "uidmap",
];
/// These would make a boot slow, or wait for what is not there.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "modprobe@.service",
    "serial-getty@ttyS0.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-random-seed.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
];

/// The folder, made if it is not there.
pub fn build() -> Result<PathBuf> {
    packages::install(&[("mmdebstrap", "/usr/bin/mmdebstrap")])
        .context("a Debian for the guest cannot be made")?;
    let root = folder("debian")?;
    let stamp = root.join("recipe");
    let recipe = include_str!("image.rs");
    let image = root.join("root");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) && image.exists() {
        return Ok(image);
    }
    println!("guest: making a Debian with systemd");
    let fresh = root.join(format!("fresh-{}", std::process::id()));
    let status = Command::new("mmdebstrap")
        .args([
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
            "--quiet",
        ])
        .args([
            "--aptopt=Acquire::Languages \"none\"",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ])
        .arg(format!("--include={}", CONTENT.join(",")))
        .arg("bookworm")
        .arg(&fresh)
        // Root's PATH may lack the folders that dpkg's scripts need.
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .status()
        .context("cannot run mmdebstrap")?;
    if !status.success() {
        return Err(failure("mmdebstrap failed"));
    }
    let units = fresh.join("etc/systemd/system");
    for unit in MASKED {
        rustix::fs::symlink("/dev/null", units.join(unit)).context(unit)?;
    }
    fs::write(
        fresh.join("etc/machine-id"),
        "c0a7e9c0a7e9c0a7e9c0a7e9c0a7e900\n",
    )
    .context("machine-id")?;
    if image.exists() {
        fs::remove_dir_all(&image).context(image.display())?;
    }
    fs::rename(&fresh, &image).context(image.display())?;
    fs::write(&stamp, recipe).context(stamp.display())?;
    Ok(image)
}
