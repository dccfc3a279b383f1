//! A pod: the namespaces that its containers share, and what holds for them.

use serde_json::{Value, json};

use super::capability;
use super::error::{Refused, invalid};
use super::facts::{Handler, Host, Needs, Observed};
use super::namespaces::{self, Pid, Pod};
use super::user::{self, User};
use super::{annotations, apparmor, resources, seccomp, selinux, sysctl};
use crate::proto::{LinuxSandboxSecurityContext, PodSandboxConfig};

/// What there is for a pod.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub host: &'a Host,
    pub handler: &'a Handler,
    pub id: &'a str,
    pub observed: &'a Observed,
    pub cgroup: &'a str,
    /// As [`facts::Pod`](super::facts::Pod) has it.
    pub level: &'a str,
}

/// A pod, decided.
#[derive(Debug)]
pub struct Planned {
    /// The specification of its holder: `hostname`, `annotations` and `linux`, with the namespaces that are new, whom
    /// they map, their settings, and the group. `process` is that of a process which holds a PID namespace, if there
    /// is to be one; its command line is the engine's.
    pub spec: Value,
    pub namespaces: Pod,
    pub warnings: Vec<String>,
}

/// Its holder gives way to whatever it stands for, and is the last that the kernel ends.
const OOM_SCORE: i64 = -998;
/// The least that the kernel takes: it does nothing.
const SHARES: u64 = 2;

/// What to look at before a pod is planned.
pub fn needs(pod: &PodSandboxConfig) -> Result<Needs, Refused> {
    let context = context(pod);
    let mut needs = Needs::default();
    let profile = seccomp::profile(context.seccomp.as_ref(), older(&context))?;
    if let (seccomp::Profile::Localhost(path), false) = (profile, context.privileged) {
        needs.seccomp.insert(path);
    }
    Ok(needs)
}

pub fn plan(pod: &PodSandboxConfig, facts: &Facts<'_>) -> Result<Planned, Refused> {
    let linux = pod.linux.clone().unwrap_or_default();
    let context = context(pod);
    let of = namespaces::of_pod(pod)?;
    let mut warnings = Vec::new();
    let mut spec = json!({
        "ociVersion": facts.handler.oci_version,
        "annotations": annotations::of_pod(pod, facts.id, facts.handler),
        "linux": {
            "namespaces": new(&of),
            "cgroupsPath": facts.cgroup,
            "sysctl": sysctl::plan(&linux.sysctls, &of)?,
            "resources": { "cpu": { "shares": SHARES } },
        },
    });
    if let Some(name) = hostname(pod, &of)? {
        spec["hostname"] = json!(name);
    }
    if let Some(ids) = &of.user {
        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = ids.oci();
    }
    for asked in [&linux.overhead, &linux.resources].into_iter().flatten() {
        // Kubelet has set them on the pod's group; they are looked at for what is wrong in them.
        resources::resources(asked, facts.host, &mut warnings)?;
    }
    // What cannot be is refused also where no process is to have it.
    let wall = Wall::plan(&context, facts)?;
    if let Some(label) = &wall.labels.mount {
        spec["linux"]["mountLabel"] = json!(label);
    }
    if of.pid == Pid::Pod {
        spec["process"] = wall.process(facts)?;
        if let Some(filter) = wall.filter {
            spec["linux"]["seccomp"] = filter;
        }
    }
    Ok(Planned {
        spec,
        namespaces: of,
        warnings,
    })
}

/// What holds the process of a pod back.
struct Wall {
    user: User,
    labels: selinux::Labels,
    apparmor: Option<String>,
    filter: Option<Value>,
}

impl Wall {
    fn plan(context: &LinuxSandboxSecurityContext, facts: &Facts<'_>) -> Result<Self, Refused> {
        let (host, privileged) = (facts.host, context.privileged);
        let profile = match (privileged, context.seccomp.as_ref()) {
            (true, _) => seccomp::Profile::Unconfined,
            (false, asked) => seccomp::profile(asked, older(context))?,
        };
        Ok(Self {
            user: user(context)?,
            labels: selinux::plan(
                context.selinux_options.as_ref(),
                facts.level,
                privileged,
                host,
            )?,
            apparmor: apparmor::profile(context.apparmor.as_ref(), privileged, host)?,
            filter: seccomp::plan(&profile, &[], host, facts.observed)?,
        })
    }

    /// It waits, and needs no rights for that.
    fn process(&self, facts: &Facts<'_>) -> Result<Value, Refused> {
        let mut process = json!({
            "user": self.user.oci(),
            "cwd": "/",
            "env": [],
            "args": [],
            "capabilities": capability::nothing(),
            "noNewPrivileges": true,
            "oomScoreAdj": resources::oom_score(OOM_SCORE, facts.host, &mut vec![])?,
        });
        for (key, value) in [
            ("selinuxLabel", &self.labels.process),
            ("apparmorProfile", &self.apparmor),
        ] {
            if let Some(value) = value {
                process[key] = json!(value);
            }
        }
        Ok(process)
    }
}

fn context(pod: &PodSandboxConfig) -> LinuxSandboxSecurityContext {
    let linux = pod.linux.as_ref();
    let context = linux.and_then(|l| l.security_context.clone());
    context.unwrap_or_default()
}

/// The interface keeps it for callers of before 2021.
#[allow(deprecated)]
fn older(context: &LinuxSandboxSecurityContext) -> &str {
    &context.seccomp_profile_path
}

/// Those that the pod owns. Only who has a process has mounts.
fn new(of: &Pod) -> Vec<Value> {
    let mut kinds = Vec::new();
    if !of.host_network {
        kinds.extend(["network", "uts"]);
    }
    if !of.host_ipc {
        kinds.push("ipc");
    }
    if of.user.is_some() {
        kinds.push("user");
    }
    if of.pid == Pid::Pod {
        kinds.extend(["pid", "mount", "cgroup"]);
    }
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

fn hostname<'a>(pod: &'a PodSandboxConfig, of: &Pod) -> Result<Option<&'a str>, Refused> {
    match pod.hostname.as_str() {
        "" => Ok(None),
        name if of.host_network => {
            let problem = format!("is {name:?}, and the pod has the host's name with its network");
            Err(invalid("hostname", problem))
        }
        name if name.len() > 64 || name.contains('\0') => {
            let problem = format!("is {name:?}, and a name has at most 64 bytes");
            Err(invalid("hostname", problem))
        }
        name => Ok(Some(name)),
    }
}

/// Ids alone: there is no image to look names up in.
fn user(context: &LinuxSandboxSecurityContext) -> Result<User, Refused> {
    const CONTEXT: &str = "linux.security_context";
    let id = |name: &str, value: Option<&crate::proto::Int64Value>| {
        let field = format!("{CONTEXT}.{name}");
        value.map(|v| user::id(&field, v.value)).transpose()
    };
    let uid = id("run_as_user", context.run_as_user.as_ref())?;
    let gid = id("run_as_group", context.run_as_group.as_ref())?;
    if let (None, Some(gid)) = (uid, gid) {
        let problem = format!("is {gid}, but there is no run_as_user");
        return Err(invalid(format!("{CONTEXT}.run_as_group"), problem));
    }
    let groups = context.supplemental_groups.iter();
    let groups = groups.map(|g| user::id(&format!("{CONTEXT}.supplemental_groups"), *g));
    Ok(User {
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
        groups: groups.collect::<Result<_, _>>()?,
    })
}
