//! `system install`: what it lays for Kubernetes, and what of somebody else it leaves.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use corten_testkit::Result;

use super::sandbox;

#[test]
fn a_node_is_set_up_below_a_prefix() -> Result<()> {
    let sandbox = sandbox()?;
    let prefix = sandbox.files().join("host");
    let at = |path: &str| prefix.join(path);
    let text = |path: &str| fs::read_to_string(at(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    fs::write(
        sandbox.etc().join("serve.toml"),
        "cgroup-driver = \"systemd\"\n",
    )
    .expect("settings");
    let prefix_arg = prefix.to_string_lossy().into_owned();
    let install = ["system", "install", "--kubernetes", "--prefix", &prefix_arg];

    let mut dry = install.to_vec();
    dry.push("--dry-run");
    let shown = sandbox.corten(&dry).ok();
    assert!(shown.contains("    cgroupDriver: systemd\n"), "{shown}");
    assert!(!prefix.exists(), "nothing is laid");

    let laid = sandbox.corten(&install);
    assert!(
        laid.talk()
            .contains("--config-dir=/etc/kubernetes/kubelet.conf.d"),
        "{laid}"
    );
    assert_eq!(laid.ok().lines().count(), 9, "{laid}");
    let socket = sandbox.run_folder().join("corten.sock");
    let endpoint = format!("\"unix://{}\"", socket.display());
    let kubelet = text("etc/kubernetes/kubelet.conf.d/10-corten.conf");
    for line in [
        "apiVersion: kubelet.config.k8s.io/v1beta1",
        "kind: KubeletConfiguration",
        &format!("containerRuntimeEndpoint: {endpoint}"),
        "cgroupDriver: systemd",
        "  PodAndContainerStatsFromCRI: true",
    ] {
        assert!(kubelet.lines().any(|l| l == line), "{line}\n{kubelet}");
    }
    let v1 = !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert_eq!(kubelet.contains("failCgroupV1: false"), v1, "{kubelet}");
    assert!(text("etc/crictl.yaml").contains(&format!("runtime-endpoint: {endpoint}\n")));
    let unit = text("etc/systemd/system/corten.socket");
    assert!(
        unit.contains(&format!("ListenStream={}\n", socket.display())),
        "{unit}"
    );
    assert!(
        text("etc/systemd/system/kubelet.service.d/10-corten.conf")
            .contains("After=corten.service\n")
    );
    assert_eq!(
        fs::read_link(at("usr/local/bin/corten-oci")).expect("a link"),
        sandbox.binary()
    );

    // The unit's command is one that starts: here it is told of a setting that it does not know.
    let unit = text("etc/systemd/system/corten.service");
    assert!(
        unit.contains("\nType=notify\n") && unit.contains("\nKillMode=process\n"),
        "{unit}"
    );
    let command = unit
        .lines()
        .find_map(|l| l.strip_prefix("ExecStart="))
        .expect("a command");
    fs::write(sandbox.etc().join("serve.toml"), "nothing = 1\n").expect("settings");
    let refused = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("sh");
    let talk = String::from_utf8_lossy(&refused.stderr);
    assert!(talk.contains("unknown field `nothing`"), "{talk}");
    fs::remove_file(sandbox.etc().join("serve.toml")).expect("remove");

    // Again, with other settings: what is ours and has changed is replaced, the rest is left.
    let again = sandbox.corten(&install).ok();
    assert!(
        again
            .lines()
            .all(|l| l.ends_with("10-corten.conf (replaced)")),
        "{again}"
    );
    assert_eq!(again.lines().count(), 1, "{again}");
    assert!(
        text("etc/kubernetes/kubelet.conf.d/10-corten.conf").contains("cgroupDriver: cgroupfs\n")
    );
    assert_eq!(sandbox.corten(&install).ok(), "");
    sandbox.finish();
    Ok(())
}

#[test]
fn what_is_somebody_elses_stops_it_before_anything_is_laid() -> Result<()> {
    let sandbox = sandbox()?;
    let prefix = sandbox.files().join("host");
    let (crictl, link) = (
        prefix.join("etc/crictl.yaml"),
        prefix.join("usr/local/bin/corten-oci"),
    );
    for path in [&crictl, &link] {
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    }
    fs::write(
        &crictl,
        "runtime-endpoint: unix:///run/containerd/containerd.sock\n",
    )
    .expect("write");
    symlink("/usr/bin/runc", &link).expect("a link");
    let prefix_arg = prefix.to_string_lossy().into_owned();
    let install = ["system", "install", "--kubernetes", "--prefix", &prefix_arg];
    let refused = sandbox.corten(&install);
    refused
        .fails(125)
        .names("somebody else's")
        .names("etc/crictl.yaml")
        .names("usr/local/bin/corten-oci")
        .complete();
    assert!(!prefix.join("etc/kubernetes").exists() && !prefix.join("etc/systemd").exists());
    assert!(
        fs::read_to_string(&crictl)
            .expect("read")
            .contains("containerd.sock")
    );
    sandbox.finish();
    Ok(())
}
