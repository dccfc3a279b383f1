//! `features`: what this runtime can (runtime specification, features.md).
//!
//! It tells of the runtime, not of the host, but for `supportedFlags`, which the specification lets a kernel narrow.

use std::ffi::OsString;

use corten_sys::seccomp::{
    FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_TSYNC, FLAG_WAIT_KILLABLE_RECV, probe::has_flag,
};
use serde_json::{Value, json};

use super::Failure;
use super::options::{End, UsageError, parse};
use crate::plan::process::NAMES;

/// Honoured, or refused by name so far.
const SYSTEMD: bool = true;
const INTEL_RDT: bool = true;
const ID_MAPPED_MOUNTS: bool = true;
const NET_DEVICES: bool = true;

const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
const NAMESPACES: [&str; 8] = [
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
/// Those of this build's machine. Others may be named in a policy, and never call.
const ARCHITECTURES: &[&str] = match cfg!(target_arch = "aarch64") {
    true => &["SCMP_ARCH_AARCH64"],
    false => &["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
};
const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", FLAG_LOG),
    (
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        FLAG_WAIT_KILLABLE_RECV,
    ),
];
const POLICY_MODES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const POLICY_FLAGS: [&str; 3] = [
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];
/// An engine that lets users set these lets them reach the host. One that ends in a dot is a prefix.
const UNSAFE_ANNOTATIONS: [&str; 3] = [
    "org.criu.config",
    "org.systemd.property.",
    "run.oci.pidfd_receiver",
];

pub(super) fn features(args: Vec<OsString>) -> Result<u8, Failure> {
    let parsed = parse(args, &[], End::Never)?;
    if let Some(extra) = parsed.positional.first() {
        return Err(UsageError::Many(extra.clone()).into());
    }
    println!(
        "{}",
        serde_json::to_string_pretty(&document()).unwrap_or_default()
    );
    Ok(0)
}

pub(crate) fn document() -> Value {
    let capabilities: Vec<String> = NAMES.iter().map(|(_, n)| format!("CAP_{n}")).collect();
    let enabled = |on: bool| json!({"enabled": on});
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": crate::plan::words::all(),
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": SYSTEMD, "systemdUser": SYSTEMD, "rdma": true},
            "seccomp": seccomp(),
            "apparmor": enabled(true),
            "selinux": enabled(true),
            "intelRdt": {"enabled": INTEL_RDT, "schemata": INTEL_RDT, "monitoring": INTEL_RDT},
            "memoryPolicy": {"modes": POLICY_MODES, "flags": POLICY_FLAGS},
            "mountExtensions": {"idmap": enabled(ID_MAPPED_MOUNTS)},
            "netDevices": enabled(NET_DEVICES),
        },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
        "annotations": {
            "org.corten.version": env!("CARGO_PKG_VERSION"),
            "org.corten.commit": option_env!("CORTEN_COMMIT").unwrap_or("unknown"),
        },
    })
}

fn seccomp() -> Value {
    let known = FLAGS.map(|(name, _)| name);
    let supported: Vec<&str> = FLAGS
        .iter()
        .filter(|(_, flag)| has_flag(*flag))
        .map(|(name, _)| *name)
        .collect();
    json!({
        "enabled": true,
        "actions": ACTIONS,
        "operators": OPERATORS,
        "archs": ARCHITECTURES,
        "knownFlags": known,
        "supportedFlags": supported,
    })
}

#[cfg(test)]
mod tests {
    /// What is listed is understood, and the other way round.
    #[test]
    fn the_list_is_what_the_documents_take() {
        use oci_spec::runtime::{
            LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, MemoryPolicyModeType,
        };
        let parses = |text: &str| serde_json::Value::from(text);
        for action in super::ACTIONS {
            serde_json::from_value::<LinuxSeccompAction>(parses(action)).unwrap();
        }
        for operator in super::OPERATORS {
            serde_json::from_value::<LinuxSeccompOperator>(parses(operator)).unwrap();
        }
        for (flag, _) in super::FLAGS {
            serde_json::from_value::<LinuxSeccompFilterFlag>(parses(flag)).unwrap();
        }
        for mode in super::POLICY_MODES {
            serde_json::from_value::<MemoryPolicyModeType>(parses(mode)).unwrap();
        }
    }
}
