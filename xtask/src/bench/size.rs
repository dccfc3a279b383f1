//! (d) The size on disk: one binary of ours beside the binaries that do the
//! same work together.

use std::fs;
use std::path::Path;

use super::Bench;

const STACKS: &[(&str, &[&str])] = &[
    (
        "docker: client, dockerd, containerd, shim, runc, proxy, init",
        &[
            "/usr/bin/docker",
            "/usr/sbin/dockerd",
            "/usr/bin/containerd",
            "/usr/bin/containerd-shim-runc-v2",
            "/usr/sbin/runc",
            "/usr/sbin/docker-proxy",
            "/usr/bin/docker-init",
        ],
    ),
    (
        "podman: podman, conmon, crun, CNI plugins of its network",
        &[
            "/usr/bin/podman",
            "/usr/bin/conmon",
            "/usr/bin/crun",
            "/usr/lib/cni/bridge",
            "/usr/lib/cni/host-local",
            "/usr/lib/cni/portmap",
            "/usr/lib/cni/firewall",
            "/usr/lib/cni/tuning",
        ],
    ),
];

pub fn measure(bench: &Bench) {
    println!("\nsize on disk (MiB, without shared libraries)");
    println!("  {:>8.2}  corten", mib(&bench.corten));
    for (name, files) in STACKS {
        let present: Vec<&Path> = files
            .iter()
            .map(Path::new)
            .filter(|path| path.exists())
            .collect();
        let total: f64 = present.iter().map(|path| mib(path)).sum();
        println!(
            "  {total:>8.2}  {name} ({} of {} found)",
            present.len(),
            files.len()
        );
    }
}

fn mib(path: &Path) -> f64 {
    fs::metadata(path).map_or(f64::NAN, |file| file.len() as f64 / (1 << 20) as f64)
}
