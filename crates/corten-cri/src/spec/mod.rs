//! From the interface's configurations to an OCI runtime specification: pure, so that the same request and facts always
//! give the same text.
//!
//! ```text
//!   request ── needs ──▶ Needs ── observe::look ──▶ Observed ─┐
//!           ───────────────────────────────────────────────── ┴─ container ──▶ Planned ── prepare::carry_out
//! ```
//!
//! [`needs`] says what has to be looked at (sources of mounts, devices, profiles, images), thin code looks
//! ([`observe`]), [`container`] decides, and thin code ([`prepare`]) makes the host folders that are missing. [`sandbox`]
//! does the same for a pod, [`resources()`] for an update, [`exec`] for another process. What cannot be honoured is
//! refused by the name of its field ([`Refused`]); nothing of the request is passed over.
//!
//! It makes no namespace, no control group and no mount: the engine does.

mod annotations;
pub mod apparmor;
mod capability;
pub mod cgroup;
mod devices;
mod edits;
mod error;
pub mod facts;
mod mounts;
pub mod namespaces;
pub mod observe;
pub mod prepare;
mod process;
mod resources;
pub mod sandbox;
mod seccomp;
mod selinux;
pub mod signal;
mod sysctl;
#[cfg(test)]
mod tests;
mod user;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

pub use error::Refused;
pub use facts::{Facts, Handler, Host, Needs, Observed, Pod};
pub use process::exec;
pub use resources::resources;

use crate::cdi::{self, Registry};
use crate::proto::{
    ContainerConfig, LinuxContainerSecurityContext, LinuxContainerUser, PodSandboxConfig, Signal,
};
use error::{invalid, unsupported};
use mounts::Wall;
use namespaces::Pid;

/// A container, decided.
#[derive(Debug)]
pub struct Planned {
    /// The specification. Its root is `rootfs`, which is the engine's.
    pub spec: Value,
    /// Who its first process is, for its status.
    pub user: LinuxContainerUser,
    /// What asks it to end: the kernel's number.
    pub stop_signal: i32,
    /// Folders of the host to be made before it is created: sources of mounts.
    pub folders: Vec<PathBuf>,
    /// Paths of the host that get this SELinux label before it is created.
    pub relabel: Vec<(PathBuf, String)>,
    /// What the caller should know, and what is no reason to refuse.
    pub warnings: Vec<String>,
}

/// What to look at before a container is planned; refuses what can be refused without looking.
pub fn needs(
    container: &ContainerConfig,
    handler: &Handler,
    cdi: &Registry,
) -> Result<Needs, Refused> {
    let context = context(container);
    let mut needs = Needs::default();
    mounts::needs(container, &mut needs)?;
    let every = context.privileged && !handler.privileged_without_host_devices;
    devices::needs(container, every, &mut needs);
    edits::needs(&cdi.edits(&cdi::wanted(container)?)?, &mut needs);
    if let seccomp::Profile::Localhost(path) = filter(&context)? {
        needs.seccomp.insert(path);
    }
    Ok(needs)
}

/// A container of a pod.
pub fn container(
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
    facts: &Facts<'_>,
) -> Result<Planned, Refused> {
    let context = context(container);
    allowed(pod, &context)?;
    let of = namespaces::of_pod(pod)?;
    let pid = namespaces::of_container(&of, context.namespace_options.as_ref())?;
    let wall = Wall {
        privileged: context.privileged,
        read_only: context.readonly_rootfs,
        host_network: of.host_network,
        host_ipc: of.host_ipc,
        ids: of.user.as_ref(),
    };
    let mut warnings = Vec::new();
    let mounts = mounts::plan(container, &wall, facts)?;
    let mut parts = Parts::plan(container, &context, &of, facts, &mut warnings)?;
    parts.mounts = mounts.mounts;
    parts.edit(container, facts, of.user.is_some())?;
    let labels = labels(pod, &context, facts)?;
    let process = process_section(&parts, container, &context, &labels, facts, &mut warnings)?;
    linux_section(&mut parts.linux, &context, &of, pid, facts)?;
    parts.set("rootfsPropagation", mounts.root);
    parts.set("mountLabel", labels.mount.clone());
    let user = parts.user.status();
    let mut spec = json!({
        "ociVersion": facts.handler.oci_version,
        "root": { "path": "rootfs", "readonly": context.readonly_rootfs },
        "process": process,
        "annotations": annotations::of_container(
            pod, container, facts.pod.id, facts.image_name, facts.handler,
        ),
    });
    parts.finish(&mut spec);
    let label = labels.mount.unwrap_or_default();
    let relabel = mounts.relabel.into_iter();
    Ok(Planned {
        spec,
        user,
        stop_signal: stop_signal(container, facts)?,
        folders: mounts.folders,
        relabel: relabel.map(|path| (path, label.clone())).collect(),
        warnings,
    })
}

/// What is decided piece by piece, and what devices of the CDI may change.
struct Parts {
    user: user::User,
    capabilities: capability::Set,
    env: Vec<String>,
    mounts: Vec<Value>,
    devices: devices::Plan,
    filter: Option<Value>,
    resources: Value,
    hooks: Map<String, Value>,
    linux: Map<String, Value>,
}

impl Parts {
    fn plan(
        container: &ContainerConfig,
        context: &LinuxContainerSecurityContext,
        of: &namespaces::Pod,
        facts: &Facts<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Refused> {
        // A user namespace starts with every capability.
        let available = match of.user {
            Some(_) => capability::every(),
            None => facts.host.bounding,
        };
        let capabilities = capability::plan(context, available)?;
        if capabilities.missing != 0 {
            warnings.push(format!(
                "linux.security_context.capabilities: this host does not give {}",
                capability::names(capabilities.missing).join(", ")
            ));
        }
        let names = capability::names(capabilities.all);
        let asked = container.linux.as_ref().and_then(|l| l.resources.clone());
        Ok(Self {
            user: user::plan(context, facts)?,
            capabilities,
            env: process::environment(container, facts.image, facts.pod.hostname)?,
            mounts: vec![],
            devices: devices::plan(container, context.privileged, facts)?,
            filter: seccomp::plan(&filter(context)?, &names, facts.host, facts.observed)?,
            resources: resources(&asked.unwrap_or_default(), facts.host, warnings)?,
            hooks: Map::new(),
            linux: Map::new(),
        })
    }

    fn edit(
        &mut self,
        container: &ContainerConfig,
        facts: &Facts<'_>,
        mapped: bool,
    ) -> Result<(), Refused> {
        let edits = facts.cdi.edits(&cdi::wanted(container)?)?;
        let user = self.user.clone();
        edits::apply(
            &edits,
            facts,
            edits::Parts {
                env: &mut self.env,
                devices: &mut self.devices,
                mounts: &mut self.mounts,
                groups: &mut self.user.groups,
                hooks: &mut self.hooks,
                linux: &mut self.linux,
                user,
                mapped,
            },
        )
    }
}

impl Parts {
    /// A field of `linux`, if there is a value.
    fn set(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.linux.insert(key.into(), value.into());
        }
    }

    /// What is left of them goes into the specification.
    fn finish(mut self, spec: &mut Value) {
        let filter = self.filter.take();
        self.set("seccomp", filter);
        self.resources["devices"] = json!(self.devices.rules);
        self.linux.insert("resources".into(), self.resources);
        if !self.devices.nodes.is_empty() {
            self.linux
                .insert("devices".into(), json!(self.devices.nodes));
        }
        spec["linux"] = self.linux.into();
        spec["mounts"] = self.mounts.into();
        if !self.hooks.is_empty() {
            spec["hooks"] = self.hooks.into();
        }
    }
}

fn process_section(
    parts: &Parts,
    container: &ContainerConfig,
    context: &LinuxContainerSecurityContext,
    labels: &selinux::Labels,
    facts: &Facts<'_>,
    warnings: &mut Vec<String>,
) -> Result<Value, Refused> {
    let mut process = json!({
        "terminal": container.tty,
        "user": parts.user.oci(),
        "args": process::args(container, facts.image)?,
        "env": parts.env,
        "cwd": process::folder(container, facts.image)?,
        "capabilities": parts.capabilities.oci(),
        "noNewPrivileges": context.no_new_privs,
    });
    if let Some(profile) = apparmor::plan(context, facts.host)? {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(label) = &labels.process {
        process["selinuxLabel"] = json!(label);
    }
    // Said or not: nobody is to inherit the daemon's.
    let resources = container.linux.as_ref().and_then(|l| l.resources.as_ref());
    let asked = resources.map_or(0, |r| r.oom_score_adj);
    process["oomScoreAdj"] = json!(resources::oom_score(asked, facts.host, warnings)?);
    Ok(process)
}

fn linux_section(
    linux: &mut Map<String, Value>,
    context: &LinuxContainerSecurityContext,
    of: &namespaces::Pod,
    pid: Pid,
    facts: &Facts<'_>,
) -> Result<(), Refused> {
    // A privileged one may look at the host's groups, and finds itself by their paths. With users of its own it is nobody there, and has
    // its own group to itself instead.
    let own_cgroup = !context.privileged || of.user.is_some();
    let namespaces = namespaces::oci(of, pid, own_cgroup, &facts.pod.namespaces)?;
    linux.insert("namespaces".into(), json!(namespaces));
    linux.insert("cgroupsPath".into(), json!(facts.cgroup));
    if let Some(ids) = &of.user {
        let (uids, gids) = ids.oci();
        linux.insert("uidMappings".into(), uids);
        linux.insert("gidMappings".into(), gids);
    }
    for (key, field, paths) in [
        ("maskedPaths", "masked_paths", &context.masked_paths),
        ("readonlyPaths", "readonly_paths", &context.readonly_paths),
    ] {
        if let Some(path) = paths
            .iter()
            .find(|p| !p.starts_with('/') || p.contains('\0'))
        {
            let problem = format!("holds {path:?}, which is no absolute path");
            return Err(invalid(format!("linux.security_context.{field}"), problem));
        }
        if !context.privileged && !paths.is_empty() {
            linux.insert(key.into(), json!(paths));
        }
    }
    Ok(())
}

/// The container's own options, else the pod's.
fn labels(
    pod: &PodSandboxConfig,
    context: &LinuxContainerSecurityContext,
    facts: &Facts<'_>,
) -> Result<selinux::Labels, Refused> {
    let of_pod = pod.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let of_pod = of_pod.and_then(|c| c.selinux_options.as_ref());
    let asked = context.selinux_options.as_ref().or(of_pod);
    selinux::plan(asked, facts.pod.level, context.privileged, facts.host)
}

/// What a container asks for that its pod must ask for as well.
fn allowed(pod: &PodSandboxConfig, context: &LinuxContainerSecurityContext) -> Result<(), Refused> {
    let of_pod = pod.linux.as_ref().and_then(|l| l.security_context.as_ref());
    match context.privileged && !of_pod.is_some_and(|c| c.privileged) {
        true => Err(invalid(
            "linux.security_context.privileged",
            "is set, and that of the pod is not",
        )),
        false => Ok(()),
    }
}

/// A request without a security context has the walls that one with it would name.
fn context(container: &ContainerConfig) -> LinuxContainerSecurityContext {
    let linux = container.linux.as_ref();
    let given = linux.and_then(|l| l.security_context.clone());
    given.unwrap_or_else(|| LinuxContainerSecurityContext {
        masked_paths: corten_runtime::spec::MASKED.map(String::from).into(),
        readonly_paths: corten_runtime::spec::READ_ONLY.map(String::from).into(),
        ..LinuxContainerSecurityContext::default()
    })
}

/// No filter for a privileged one, whatever it says.
#[allow(deprecated)]
fn filter(context: &LinuxContainerSecurityContext) -> Result<seccomp::Profile, Refused> {
    let asked = seccomp::profile(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    Ok(match context.privileged {
        true => seccomp::Profile::Unconfined,
        false => asked,
    })
}

fn stop_signal(container: &ContainerConfig, facts: &Facts<'_>) -> Result<i32, Refused> {
    let asked = Signal::try_from(container.stop_signal).map_err(|_| {
        let problem = format!("is {}, which is no signal", container.stop_signal);
        unsupported("stop_signal", problem)
    })?;
    Ok(signal::stop(asked, facts.image.stop_signal.as_deref()))
}
