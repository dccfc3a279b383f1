//! Debian packages: what a task needs is installed when it is missing, once.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Context, Result, failure};

/// What the tests run against, and a file by which its presence is known.
pub const FOR_TESTS: &[(&str, &str)] = &[
    ("apache2-utils", "/usr/bin/htpasswd"),
    ("buildah", "/usr/bin/buildah"),
    ("busybox-static", "/bin/busybox"),
    ("conmon", "/usr/bin/conmon"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("containerd", "/usr/bin/ctr"),
    ("criu", "/usr/sbin/criu"),
    ("crun", "/usr/bin/crun"),
    ("curl", "/usr/bin/curl"),
    ("dnsmasq-base", "/usr/sbin/dnsmasq"),
    ("docker.io", "/usr/sbin/dockerd"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("erofs-utils", "/usr/bin/fsck.erofs"),
    ("iproute2", "/sbin/ip"),
    ("iptables", "/usr/sbin/iptables"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("nftables", "/usr/sbin/nft"),
    ("openssl", "/usr/bin/openssl"),
    ("passt", "/usr/bin/pasta"),
    ("podman", "/usr/bin/podman"),
    ("runc", "/usr/sbin/runc"),
    ("skopeo", "/usr/bin/skopeo"),
    ("slirp4netns", "/usr/bin/slirp4netns"),
    ("uidmap", "/usr/bin/newuidmap"),
    ("umoci", "/usr/bin/umoci"),
    ("user-mode-linux", "/usr/bin/linux.uml"),
    ("zstd", "/usr/bin/zstd"),
];

/// Installs what is missing of `wanted`; asks the registry for nothing otherwise.
pub fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("packages: installing {}", missing.join(" "));
    // Package lists may be absent (a fresh image) or old (a moved mirror): refresh once, as we install at all.
    apt(&["update", "-q"])?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(&missing);
    apt(&args)?;
    for (name, file) in wanted.iter().filter(|(name, _)| missing.contains(name)) {
        if !Path::new(file).exists() {
            return Err(failure(format!(
                "package {name} was installed, yet {file} is not there"
            )));
        }
    }
    Ok(())
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args([
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Acquire::Retries=3",
        ])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    if status.success() {
        Ok(())
    } else {
        Err(failure(format!("apt-get {} failed", args.join(" "))))
    }
}
