//! Which namespaces a pod has, and which of them a container is in.
//!
//! A pod owns network, IPC, UTS and user namespaces, and a PID namespace if its containers share one; what it does
//! not own is the host's. A container is in its pod's, with mount and cgroup namespaces of its own, and a PID
//! namespace of its own if it says so.

use std::path::Path;

use serde_json::{Value, json};

use super::error::{Refused, invalid, missing, unsupported};
use super::facts;
use crate::proto::{IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace};

const POD: &str = "linux.security_context.namespace_options";

/// What a pod asks for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub host_network: bool,
    pub host_ipc: bool,
    pub pid: Pid,
    pub user: Option<Ids>,
}

/// The PID namespace of a pod's containers, or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pid {
    /// One for all of the pod.
    Pod,
    /// Each container its own.
    Container,
    Host,
    /// That of another container.
    Target,
}

/// Who is who in a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    pub uid: IdMapping,
    pub gid: IdMapping,
}

impl Ids {
    /// For `uidMappings` and `gidMappings`, of the container or of a mount.
    pub fn oci(&self) -> (Value, Value) {
        (mappings([&self.uid]), mappings([&self.gid]))
    }
}

pub(super) fn mappings<'a>(all: impl IntoIterator<Item = &'a IdMapping>) -> Value {
    let one = |m: &IdMapping| json!({ "containerID": m.container_id, "hostID": m.host_id, "size": m.length });
    all.into_iter().map(one).collect()
}

/// The namespaces of a pod.
pub fn of_pod(pod: &PodSandboxConfig) -> Result<Pod, Refused> {
    let options = pod.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let options = options.and_then(|c| c.namespace_options.clone());
    let options = options.unwrap_or_default();
    let asked = Pod {
        host_network: is_host("network", options.network)?,
        host_ipc: is_host("ipc", options.ipc)?,
        pid: match pid(options.pid)? {
            Pid::Target => {
                let problem = "is TARGET, which is for a container, not for a pod";
                return Err(invalid(format!("{POD}.pid"), problem));
            }
            pid => pid,
        },
        user: options.userns_options.as_ref().map_or(Ok(None), ids)?,
    };
    // Mounting what shows a namespace takes rights in the user namespace that owns it (user_namespaces(7)).
    let shared = [("pid", asked.pid == Pid::Host), ("ipc", asked.host_ipc)];
    if let (Some(_), Some((name, _))) = (&asked.user, shared.iter().find(|(_, host)| *host)) {
        let problem = format!(
            "is NODE, and the pod has a user namespace, whose root may not mount what shows the host's {name}"
        );
        return Err(unsupported(format!("{POD}.{name}"), problem));
    }
    Ok(asked)
}

/// What one container asks for, which says nothing against its pod: absent options are the pod's.
pub(super) fn of_container(pod: &Pod, options: Option<&NamespaceOption>) -> Result<Pid, Refused> {
    let Some(options) = options else {
        return Ok(pod.pid);
    };
    for (name, value, host) in [
        ("network", options.network, pod.host_network),
        ("ipc", options.ipc, pod.host_ipc),
    ] {
        if is_host(name, value)? && !host {
            let problem = "is NODE, and that of the pod is not";
            return Err(invalid(format!("{POD}.{name}"), problem));
        }
    }
    let user = options.userns_options.as_ref().map_or(Ok(None), ids)?;
    if user != pod.user {
        let problem = "is not that of the pod";
        return Err(invalid(format!("{POD}.userns_options"), problem));
    }
    match (pid(options.pid)?, pod.pid) {
        // The pod's is the host's.
        (Pid::Pod, Pid::Host) => Ok(Pid::Host),
        (Pid::Pod, Pid::Container) => {
            let problem = "is POD, and the containers of the pod share none";
            Err(invalid(format!("{POD}.pid"), problem))
        }
        (Pid::Host, of) if of != Pid::Host => {
            let problem = "is NODE, and that of the pod is not";
            Err(invalid(format!("{POD}.pid"), problem))
        }
        (Pid::Target, _) if options.target_id.is_empty() => {
            let problem = "is empty, and pid is TARGET";
            Err(invalid(format!("{POD}.target_id"), problem))
        }
        (pid, _) => Ok(pid),
    }
}

fn mode(name: &str, value: i32) -> Result<NamespaceMode, Refused> {
    NamespaceMode::try_from(value).map_err(|_| {
        let problem = format!("is {value}, which is no mode");
        invalid(format!("{POD}.{name}"), problem)
    })
}

fn pid(value: i32) -> Result<Pid, Refused> {
    Ok(match mode("pid", value)? {
        NamespaceMode::Pod => Pid::Pod,
        NamespaceMode::Container => Pid::Container,
        NamespaceMode::Node => Pid::Host,
        NamespaceMode::Target => Pid::Target,
    })
}

fn is_host(name: &str, value: i32) -> Result<bool, Refused> {
    match mode(name, value)? {
        NamespaceMode::Pod => Ok(false),
        NamespaceMode::Node => Ok(true),
        other => {
            let problem = format!("is {}, and can be POD or NODE", other.as_str_name());
            Err(invalid(format!("{POD}.{name}"), problem))
        }
    }
}

/// One range each, from the container's 0 on; none with the host's user namespace.
pub(super) fn ids(options: &UserNamespace) -> Result<Option<Ids>, Refused> {
    let field = |name: &str| format!("{POD}.userns_options.{name}");
    match mode("userns_options.mode", options.mode)? {
        NamespaceMode::Node => {
            for (name, all) in [("uids", &options.uids), ("gids", &options.gids)] {
                if !all.is_empty() {
                    return Err(invalid(field(name), "is not empty, and mode is NODE"));
                }
            }
            Ok(None)
        }
        NamespaceMode::Pod => Ok(Some(Ids {
            uid: range(&field("uids"), &options.uids)?,
            gid: range(&field("gids"), &options.gids)?,
        })),
        other => {
            let problem = format!("is {}, and can be POD or NODE", other.as_str_name());
            Err(unsupported(field("mode"), problem))
        }
    }
}

fn range(field: &str, all: &[IdMapping]) -> Result<IdMapping, Refused> {
    let [one] = all else {
        let problem = format!("holds {} mappings, and must hold one", all.len());
        return Err(invalid(field, problem));
    };
    if one.container_id != 0 {
        return Err(invalid(field, "does not map the container's id 0"));
    }
    // 4294967295 is no id.
    if one.length == 0 || one.host_id.checked_add(one.length).is_none() {
        let problem = "has a range that is empty or ends above 4294967294";
        return Err(invalid(field, problem));
    }
    Ok(*one)
}

/// The list for a container's specification.
pub(super) fn oci(
    pod: &Pod,
    pid: Pid,
    own_cgroup: bool,
    paths: &facts::Namespaces,
) -> Result<Vec<Value>, Refused> {
    let mut all = vec![json!({ "type": "mount" })];
    if own_cgroup {
        all.push(json!({ "type": "cgroup" }));
    }
    let mut join = |kind: &str, path: Option<&Path>| match path {
        Some(path) => {
            all.push(json!({ "type": kind, "path": path }));
            Ok(())
        }
        None => Err(missing(
            format!("{POD}.{}", field(kind)),
            format!("asks for a {kind} namespace that is not there"),
        )),
    };
    if let Some(path) = &paths.uts {
        join("uts", Some(path))?;
    }
    if !pod.host_network {
        join("network", paths.network.as_deref())?;
    }
    if !pod.host_ipc {
        join("ipc", paths.ipc.as_deref())?;
    }
    if pod.user.is_some() {
        join("user", paths.user.as_deref())?;
    }
    match pid {
        Pid::Host => {}
        Pid::Container => all.push(json!({ "type": "pid" })),
        Pid::Pod => join("pid", paths.pid.as_deref())?,
        Pid::Target => join("pid", paths.target.as_deref())?,
    }
    Ok(all)
}

fn field(kind: &str) -> &str {
    match kind {
        "user" => "userns_options",
        kind => kind,
    }
}
