//! What kubelet and crictl need to know of us.

use std::path::{Path, PathBuf};

use super::{Item, file};
use crate::cli::Global;
use crate::failure::Failure;
use crate::serve::config::Config;

/// Kubelet reads it where it is started with `--config-dir`: the folder of drop-ins (`*.conf`) of its configuration.
const KUBELET: &str = "/etc/kubernetes/kubelet.conf.d/10-corten.conf";
const CRICTL: &str = "/etc/crictl.yaml";
const ORDER: &str = "kubelet.service.d/10-corten.conf";

/// What is left to an administrator.
pub(super) const NEXT: &str = "'systemctl daemon-reload && systemctl enable --now corten.socket corten.service'; kubelet reads the settings \
     if it is started with --config-dir=/etc/kubernetes/kubelet.conf.d (kubeadm: KUBELET_EXTRA_ARGS in /etc/default/kubelet)";

/// What of this host decides the settings.
struct Facts {
    socket: PathBuf,
    systemd_cgroup: bool,
    cgroup_v1: bool,
}

pub(super) fn plan(global: &Global, units: &Path) -> Result<Vec<Item>, Failure> {
    let paths = global.paths()?;
    let config = Config::load(None, paths.etc(), paths.run());
    let config = config.map_err(|e| crate::cli::serve::failed(e.into()))?;
    let facts = Facts {
        socket: config.socket,
        systemd_cgroup: config.pods.systemd_cgroup,
        cgroup_v1: !Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
    };
    Ok(vec![
        file(KUBELET.into(), &kubelet(&facts)),
        file(CRICTL.into(), &crictl(&facts)),
        file(units.join(ORDER), ORDERED),
    ])
}

/// A part of a KubeletConfiguration. The image service is on the same socket, which is where kubelet looks for it then.
fn kubelet(facts: &Facts) -> String {
    let driver = match facts.systemd_cgroup {
        true => "systemd",
        false => "cgroupfs",
    };
    // Kubelet of 1.36 does not start on control groups v1 unless it is told to.
    let v1 = match facts.cgroup_v1 {
        true => "failCgroupV1: false\n",
        false => "",
    };
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         containerRuntimeEndpoint: {}\ncgroupDriver: {driver}\n{v1}{STATS}",
        endpoint(facts)
    )
}

/// Without it kubelet asks its cAdvisor, which reads the names of containers and the traffic of pods out of containerd or CRI-O alone. Off by
/// default up to Kubernetes 1.36; gates of several files are merged.
const STATS: &str = "featureGates:\n  \
    # Figures of pods and containers are asked of the runtime. Without it the network of pods is missing in\n  \
    # /stats/summary, and the names of containers in /metrics/cadvisor.\n  \
    PodAndContainerStatsFromCRI: true\n";

fn crictl(facts: &Facts) -> String {
    let endpoint = endpoint(facts);
    format!("runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 10\n")
}

/// A text of YAML, in quotes: a path may hold what means something there.
fn endpoint(facts: &Facts) -> String {
    let url = format!("unix://{}", facts.socket.display());
    format!("\"{}\"", url.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Kubelet complains until its runtime answers.
const ORDERED: &str = "[Unit]\nWants=corten.service\nAfter=corten.service\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_the_host() {
        let facts = |systemd_cgroup, cgroup_v1| Facts {
            socket: "/run/corten/corten.sock".into(),
            systemd_cgroup,
            cgroup_v1,
        };
        assert_eq!(
            kubelet(&facts(false, true)),
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             containerRuntimeEndpoint: \"unix:///run/corten/corten.sock\"\ncgroupDriver: cgroupfs\nfailCgroupV1: false\n"
                .to_owned()
                + STATS
        );
        let modern = kubelet(&facts(true, false));
        assert!(
            modern.contains("cgroupDriver: systemd\nfeatureGates:\n  #"),
            "{modern}"
        );
        assert!(modern.ends_with("\n  PodAndContainerStatsFromCRI: true\n"));
        assert!(
            crictl(&facts(true, false))
                .contains("image-endpoint: \"unix:///run/corten/corten.sock\"\n")
        );
    }
}
