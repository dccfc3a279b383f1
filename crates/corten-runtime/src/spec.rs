//! The spec to start from.

use oci_spec::runtime::Spec;
use serde_json::json;

/// What `corten-oci spec` prints: a shell on a terminal, with three capabilities, in namespaces of its own.
pub fn default() -> Spec {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let document = json!({
        "ociVersion": crate::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "corten",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    // The document is the constant above; a test reads it.
    serde_json::from_value(document).unwrap_or_default()
}

/// What `corten-oci spec --rootless` prints: the default for the user `uid` without privileges. The container's
/// root is that user; the network is the host's, as nobody else could give it one; and no limits are set,
/// which nobody may set who has no control group.
pub fn rootless(uid: u32, gid: u32) -> Spec {
    let mut document = json!(default());
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    let linux = &mut document["linux"];
    linux["uidMappings"] = map(uid);
    linux["gidMappings"] = map(gid);
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|n| n["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    linux["resources"] = json!(null);
    if let Some(mounts) = document["mounts"].as_array_mut() {
        for mount in mounts {
            match mount["destination"].as_str() {
                // A new sysfs takes a network namespace of one's own.
                Some("/sys") => {
                    *mount = json!({
                        "destination": "/sys", "type": "none", "source": "/sys",
                        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
                    });
                }
                // Only one id is mapped.
                _ => {
                    if let Some(options) = mount["options"].as_array_mut() {
                        let others = |o: &serde_json::Value| {
                            o.as_str()
                                .is_some_and(|o| o.starts_with("gid=") || o.starts_with("uid="))
                        };
                        options.retain(|o| !others(o));
                    }
                }
            }
        }
    }
    // The document is the constant above; a test reads it.
    serde_json::from_value(document).unwrap_or_default()
}

/// Paths of `/proc` and `/sys` that tell about the host, or reach it.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths of `/proc` that change the host.
pub const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn mounts() -> serde_json::Value {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let plain = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&plain[..], more].concat();
    json!([
        mount("/proc", "proc", "proc", &plain),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
            ]
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &with(&["mode=1777", "size=65536k"])
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &plain),
        mount("/sys", "sysfs", "sysfs", &with(&["ro"])),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &with(&["relatime", "ro"])
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rootless_spec_asks_for_nothing_that_takes_root() {
        let spec = rootless(1000, 100);
        let linux = spec.linux().as_ref().unwrap();
        let id = &linux.gid_mappings().as_ref().unwrap()[0];
        assert_eq!((id.container_id(), id.host_id(), id.size()), (0, 100, 1));
        assert!(linux.resources().is_none());
        let text = serde_json::to_string(&spec).unwrap();
        assert!(
            text.contains("\"user\"") && !text.contains("\"network\"") && !text.contains("gid=5")
        );
        assert_eq!(spec.mounts().as_ref().map(Vec::len), Some(7));
    }

    #[test]
    fn the_default_spec_is_the_document_above() {
        let spec = default();
        assert_eq!(spec.hostname().as_deref(), Some("corten"));
        assert_eq!(spec.mounts().as_ref().map(Vec::len), Some(7));
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().map(Vec::len), Some(6));
        assert_eq!(
            linux.masked_paths().as_ref().map(Vec::len),
            Some(MASKED.len())
        );
    }
}
