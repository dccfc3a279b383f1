//! `features`: what this runtime can (runtime specification, features.md).

use std::ffi::OsString;

use serde_json::json;

use super::Failure;
use super::options::{End, UsageError, parse};
use crate::plan::process::NAMES;

pub(super) fn features(args: Vec<OsString>) -> Result<u8, Failure> {
    let parsed = parse(args, &[], End::Never)?;
    if let Some(extra) = parsed.positional.first() {
        return Err(UsageError::Many(extra.clone()).into());
    }
    let capabilities: Vec<String> = NAMES.iter().map(|(_, n)| format!("CAP_{n}")).collect();
    let enabled = |on: bool| json!({"enabled": on});
    let document = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": crate::plan::words::all(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
                ],
            },
            "apparmor": enabled(true),
            "selinux": enabled(true),
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "mountExtensions": {"idmap": enabled(true)},
            "netDevices": enabled(true),
        },
        "potentiallyUnsafeConfigAnnotations": [],
        "annotations": {"org.corten.version": env!("CARGO_PKG_VERSION")},
    });
    println!(
        "{}",
        serde_json::to_string_pretty(&document).unwrap_or_default()
    );
    Ok(0)
}
