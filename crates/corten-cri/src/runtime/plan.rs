//! From kubelet's words to specifications: what there is, put before [`crate::spec`]'s plans.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use corten_engine::pod::{Draft, Pod};
use corten_spec::ContainerId;
use serde_json::Value;
use tonic::Status;

use super::Shared;
use super::book::PodEntry;
use super::settings::Handler;
use crate::cdi::{FOLDERS, Registry};
use crate::proto::{ContainerConfig, ContainerUser, NamespaceMode, PodSandboxConfig};
use crate::spec::{self, Facts, facts, sandbox, signal};

/// What the service keeps of a container's plan.
pub struct Made {
    pub spec: Value,
    pub user: ContainerUser,
    /// The kernel's number.
    pub stop_signal: u32,
    /// The interface's.
    pub signal_name: i32,
    /// The container whose processes it shares.
    pub target: Option<ContainerId>,
    /// The images of volumes: the mount's place in the request, and the id.
    pub volumes: Vec<(usize, String)>,
}

pub fn refused(refused: spec::Refused) -> Status {
    crate::status::of_kind(refused.kind(), corten_spec::chain(&refused))
}

/// What holds a pod: its namespaces.
pub fn holder(
    shared: &Shared,
    config: &PodSandboxConfig,
    handler: &Handler,
    id: &str,
    hostname: &str,
) -> Result<Value, Status> {
    let needs = sandbox::needs(config).map_err(refused)?;
    let observed = spec::observe::look(&needs).map_err(refused)?;
    let cgroup = cgroup(shared, config, id)?;
    let planned = sandbox::plan(
        config,
        &sandbox::Facts {
            host: &shared.host,
            handler: &handler.spec,
            id,
            observed: &observed,
            cgroup: &cgroup,
            level: &level(shared, id),
        },
    )
    .map_err(refused)?;
    for warning in &planned.warnings {
        tracing::warn!(pod = id, "{warning}");
    }
    let mut spec = planned.spec;
    if spec.get("hostname").is_some() {
        spec["hostname"] = hostname.into();
    }
    Ok(spec)
}

/// A container, whose image was looked into. Folders that its mounts need are made.
pub fn container(
    shared: &Shared,
    pod: &PodEntry,
    config: &ContainerConfig,
    draft: &mut Draft<'_>,
) -> Result<Made, Status> {
    let failed = |e: corten_engine::Error| crate::status::of(&e);
    let sandbox = &pod.document.config;
    let handler = shared.settings.handler(&pod.document.handler);
    let handler = handler.ok_or_else(|| {
        Status::failed_precondition(format!(
            "the runtime handler {:?} of its pod is no longer configured",
            pod.document.handler
        ))
    })?;
    let cdi = devices(config);
    let needs = spec::needs(config, &handler.spec, &cdi).map_err(refused)?;
    let observed = spec::observe::look(&needs).map_err(refused)?;
    let (images, shown) = volumes(shared, draft, &needs.images)?;
    let (passwd, group) = (
        draft.passwd().map_err(failed)?,
        draft.group().map_err(failed)?,
    );
    let now = pod.now().pod;
    let etc = now.record.run.as_ref().and_then(|run| run.etc.clone());
    let files_are_its = etc.is_some();
    let folder = etc.unwrap_or_else(|| shared.engine.paths().pod(&now.id));
    let hostname = super::sandbox::hostname(sandbox);
    let level = level(shared, now.id.as_str());
    let target = target(shared, &now, config)?;
    let facts = Facts {
        host: &shared.host,
        handler: &handler.spec,
        pod: &spec::Pod {
            id: now.id.as_str(),
            hostname: &hostname,
            namespaces: namespaces(&now, target.as_ref().map(|t| t.1)),
            hosts: Some(folder.join("hosts")),
            hostname_file: Some(folder.join("hostname")),
            resolv_conf: Some(folder.join("resolv.conf")),
            files_are_its,
            shm: shared_memory(&now, sandbox),
            level: &level,
        },
        image: &draft.image().clone(),
        image_name: &draft.record().image.clone(),
        passwd: &passwd,
        group: &group,
        observed: &observed,
        images: &images,
        cgroup: &cgroup(shared, sandbox, draft.id().as_str())?,
        cdi: &cdi,
    };
    let planned = spec::container(sandbox, config, &facts).map_err(refused)?;
    for warning in &planned.warnings {
        tracing::warn!(container = draft.id().as_str(), "{warning}");
    }
    spec::prepare::carry_out(&planned).map_err(refused)?;
    Ok(Made {
        signal_name: signal::word(planned.stop_signal).into(),
        stop_signal: planned.stop_signal.unsigned_abs(),
        user: ContainerUser {
            linux: Some(planned.user),
        },
        spec: planned.spec,
        target: target.map(|t| t.0),
        volumes: shown,
    })
}

/// A registry is read only where a device of one is asked for: most containers ask for none.
fn devices(config: &ContainerConfig) -> Registry {
    let by_annotation = config
        .annotations
        .keys()
        .any(|k| k.starts_with("cdi.k8s.io/"));
    match config.cdi_devices.is_empty() && !by_annotation {
        true => Registry::default(),
        false => {
            let registry = Registry::read(&FOLDERS);
            for (path, fault) in registry.faults() {
                let error = corten_spec::chain(fault);
                tracing::warn!(path = %path.display(), error, "devices that cannot be used");
            }
            registry
        }
    }
}

/// By the place of each mount: its path, and its id.
type Volumes = (BTreeMap<usize, PathBuf>, Vec<(usize, String)>);

fn volumes(
    shared: &Shared,
    draft: &mut Draft<'_>,
    asked: &[(usize, crate::proto::ImageSpec, String)],
) -> Result<Volumes, Status> {
    let failed = |e: corten_engine::Error| crate::status::of(&e);
    let (mut found, mut shown) = (BTreeMap::new(), Vec::new());
    for (place, image, sub_path) in asked {
        // By the id that the pull has answered, where kubelet passes it on.
        let name = match image.image_ref.as_str() {
            "" => &image.image,
            id => id,
        };
        let record = shared.engine.image(name).map_err(failed)?;
        let path = draft.volume(&record, sub_path).map_err(failed)?;
        found.insert(*place, path);
        shown.push((*place, record.config.to_string()));
    }
    Ok((found, shown))
}

/// `target`: the process whose ids are shared.
fn namespaces(pod: &Pod, target: Option<u32>) -> facts::Namespaces {
    let run = pod.record.run.as_ref();
    let find = |kind: &str| run.and_then(|r| r.namespaces.get(kind)).cloned();
    facts::Namespaces {
        network: find("network"),
        ipc: find("ipc"),
        uts: find("uts"),
        user: find("user"),
        pid: find("pid"),
        // For people to see: the engine finds it anew at the start, when the number may be another's.
        target: target.map(|pid| format!("/proc/{pid}/ns/pid").into()),
    }
}

/// The container whose processes are to be shared, and its first one.
fn target(
    shared: &Shared,
    pod: &Pod,
    config: &ContainerConfig,
) -> Result<Option<(ContainerId, u32)>, Status> {
    let linux = config.linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    let options = security.and_then(|s| s.namespace_options.as_ref());
    let Some(options) = options.filter(|o| o.pid() == NamespaceMode::Target) else {
        return Ok(None);
    };
    let other = shared.book.container(&options.target_id)?;
    if other.pod != pod.id {
        return Err(Status::invalid_argument(format!(
            "linux.security_context.namespace_options.target_id: container {} is of another pod",
            options.target_id
        )));
    }
    let now = other.now();
    let started = now.container.record.started.filter(|_| now.is_running());
    let started = started.ok_or_else(|| {
        Status::failed_precondition(format!(
            "container {}, whose processes are to be shared, is not running",
            options.target_id
        ))
    })?;
    Ok(Some((other.id.clone(), started.pid)))
}

/// The pod's own; with the host's IPC namespace the host's.
fn shared_memory(pod: &Pod, config: &PodSandboxConfig) -> Option<PathBuf> {
    if super::sandbox::mode(config, |o| o.ipc) == NamespaceMode::Node {
        return Some("/dev/shm".into());
    }
    pod.record.run.as_ref().and_then(|r| r.shm.clone())
}

pub fn cgroup(shared: &Shared, config: &PodSandboxConfig, id: &str) -> Result<String, Status> {
    let parent = config.linux.as_ref().map(|l| l.cgroup_parent.as_str());
    let parent = parent.unwrap_or_default();
    let own = shared.engine.paths().cgroup_parent();
    let parent = match (parent, shared.settings.systemd_cgroup) {
        ("", false) => &own,
        (parent, _) => parent,
    };
    spec::cgroup::path(parent, id, shared.settings.systemd_cgroup).map_err(refused)
}

/// With SELinux each pod has two categories of its own, by its id.
fn level(shared: &Shared, id: &str) -> String {
    if shared.host.selinux.is_none() {
        return String::new();
    }
    let digits = |at: usize| u32::from_str_radix(id.get(at..at + 4).unwrap_or("0"), 16);
    let (a, b) = (digits(0).unwrap_or(1) % 1024, digits(4).unwrap_or(2) % 1024);
    let b = if a == b { (b + 1) % 1024 } else { b };
    format!("s0:c{},c{}", a.min(b), a.max(b))
}

/// A quantity of Kubernetes', in whole units: `10M`, `1Gi`, `1500`.
pub fn quantity(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 12] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
    ];
    let found = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
    let (number, unit) = found.unwrap_or((text, 1));
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(unit),
        Some((whole, part)) => {
            let digits = u32::try_from(part.len())
                .ok()
                .filter(|n| (1..=9).contains(n))?;
            let part: u64 = part.parse().ok()?;
            let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
            let part = part.checked_mul(unit)? / 10u64.pow(digits);
            whole.checked_add(part)
        }
    }
}

/// Where a specification has the paths of a pod's namespaces, for people to see.
pub fn shown(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::quantity;

    #[test]
    fn quantities() {
        for (text, number) in [
            ("10M", Some(10_000_000)),
            ("1Ki", Some(1024)),
            ("1.5G", Some(1_500_000_000)),
            ("7", Some(7)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1x", None),
            ("99999999999E", None),
        ] {
            assert_eq!(quantity(text), number, "{text}");
        }
    }
}
