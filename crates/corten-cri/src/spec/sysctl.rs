//! Kernel settings of a pod: those of namespaces that it has to itself, and of none else.

use std::collections::BTreeMap;

use super::error::{Refused, invalid};
use super::namespaces::Pod;

const FIELD: &str = "linux.sysctls";

/// What is asked for, and what makes root of a container unnecessary: no port is privileged, and everybody may ping.
pub(super) fn plan(
    asked: &BTreeMap<String, String>,
    pod: &Pod,
) -> Result<BTreeMap<String, String>, Refused> {
    let mut all = BTreeMap::new();
    for (name, value) in asked {
        let name = dotted(name).ok_or_else(|| {
            let problem = format!("names {name:?}, which is no setting");
            invalid(FIELD, problem)
        })?;
        let Some((owner, shared)) = owner(&name, pod) else {
            let problem = format!("names {name:?}, which is the host's: no namespace separates it");
            return Err(invalid(FIELD, problem));
        };
        if shared {
            let problem =
                format!("names {name:?}, and the pod shares the host's {owner} namespace");
            return Err(invalid(FIELD, problem));
        }
        all.insert(name, value.clone());
    }
    if !pod.host_network {
        let mut usual = |name: &str, value: &str| {
            all.entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        };
        usual("net.ipv4.ip_unprivileged_port_start", "0");
        // The range names groups of the user namespace, which holds no such range.
        if pod.user.is_none() {
            usual("net.ipv4.ping_group_range", "0 2147483647");
        }
    }
    Ok(all)
}

/// With a slash first, slashes separate and dots belong to names, as sysctl(8) has it.
fn dotted(name: &str) -> Option<String> {
    let slash = name
        .find(['/', '.'])
        .is_some_and(|at| name[at..].starts_with('/'));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let dotted: String = match slash {
        true => name.chars().map(swap).collect(),
        false => name.into(),
    };
    let plain = |part: &str| !part.is_empty() && part != "/" && part != "//";
    let ok = dotted.contains('.') && dotted.split('.').all(plain) && !dotted.contains('\0');
    ok.then_some(dotted)
}

/// The kind of namespace that keeps a setting apart (namespaces(7), ipc_namespaces(7)), and whether it is the host's.
fn owner(name: &str, pod: &Pod) -> Option<(&'static str, bool)> {
    const IPC: [&str; 10] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.shm_next_id",
    ];
    if name.starts_with("net.") {
        return Some(("network", pod.host_network));
    }
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        return Some(("IPC", pod.host_ipc));
    }
    if name.starts_with("user.") {
        return Some(("user", pod.user.is_none()));
    }
    // The name itself is the request's `hostname`.
    (name == "kernel.domainname").then_some(("UTS", pod.host_network))
}
