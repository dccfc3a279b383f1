//! What a container sees mounted: the kernel's file systems, the pod's files, and what the request asks for, which
//! wins where two have one target.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::error::{Refused, invalid, missing, unsupported};
use super::facts::{Facts, Needs, Propagation, Source};
use super::namespaces::{self, Ids};
use crate::proto::{ContainerConfig, Mount, MountPropagation};

/// What is decided about mounts.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub mounts: Vec<Value>,
    /// Folders of the host that are to be there, and are not.
    pub folders: Vec<PathBuf>,
    /// Paths of the host whose labels are to be the container's.
    pub relabel: Vec<PathBuf>,
    /// Of the container's root, where a mount shares events with the host.
    pub root: Option<&'static str>,
}

/// What of the container decides about mounts beside the mounts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall<'a> {
    pub privileged: bool,
    pub read_only: bool,
    pub host_network: bool,
    pub host_ipc: bool,
    pub ids: Option<&'a Ids>,
}

pub(super) fn needs(container: &ContainerConfig, needs: &mut Needs) -> Result<(), Refused> {
    for (index, mount) in container.mounts.iter().enumerate() {
        check(index, mount)?;
        match &mount.image {
            None => drop(needs.sources.insert(PathBuf::from(&mount.host_path))),
            Some(image) => {
                let sub = mount.image_sub_path.clone();
                needs.images.push((index, image.clone(), sub));
            }
        }
    }
    Ok(())
}

pub(super) fn plan(
    container: &ContainerConfig,
    wall: &Wall<'_>,
    facts: &Facts<'_>,
) -> Result<Plan, Refused> {
    let mut plan = Plan::default();
    let mut asked: Vec<(PathBuf, Value)> = Vec::new();
    for (index, mount) in container.mounts.iter().enumerate() {
        check(index, mount)?;
        let target = clean(&mount.container_path);
        asked.push((target, plan.asked(index, mount, facts)?));
    }
    let taken = |target: &Path| asked.iter().any(|(t, _)| t == target);
    let mut all: Vec<(PathBuf, Value)> = Vec::new();
    for mount in system(wall) {
        let target = clean(mount["destination"].as_str().unwrap_or_default());
        // Who brings a tree of the host's (/dev, /sys) means what is mounted in it as well.
        let below = |tree: &Path| target.starts_with(tree) && taken(tree);
        if !["/dev", "/sys", "/proc"]
            .into_iter()
            .any(|t| below(Path::new(t)))
            && !taken(&target)
        {
            all.push((target, mount));
        }
    }
    for (target, mount) in shared(wall, facts) {
        if !taken(Path::new(target)) {
            if facts.host.selinux.is_some() && mount["source"] != json!("/dev/shm") {
                plan.relabel
                    .extend(mount["source"].as_str().map(PathBuf::from));
            }
            all.push((target.into(), mount));
        }
    }
    all.extend(asked);
    // A mount below another must come after it.
    all.sort_by_key(|(target, _)| target.components().count());
    plan.mounts = all.into_iter().map(|(_, mount)| mount).collect();
    Ok(plan)
}

/// What can be refused without looking.
fn check(index: usize, mount: &Mount) -> Result<(), Refused> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let target = &mount.container_path;
    if !target.starts_with('/') || target.contains('\0') {
        let problem = format!("is {target:?}, which is no absolute path");
        return Err(invalid(field("container_path"), problem));
    }
    if clean(target) == Path::new("/") {
        let problem = format!("is {target:?}, the root itself");
        return Err(invalid(field("container_path"), problem));
    }
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        let problem = "is there without the other of uid and gid";
        return Err(invalid(field("uidMappings or gidMappings"), problem));
    }
    let source = &mount.host_path;
    match &mount.image {
        None if !source.starts_with('/') || source.contains('\0') => {
            let problem = format!("is {source:?}, which is no absolute path");
            return Err(invalid(field("host_path"), problem));
        }
        None if !mount.image_sub_path.is_empty() => {
            return Err(invalid(field("image_sub_path"), "is set, and image is not"));
        }
        None => {}
        Some(_) if !source.is_empty() => {
            let problem = format!("is {source:?}, and there is an image to be mounted");
            return Err(invalid(field("host_path"), problem));
        }
        Some(_) if !mount.readonly => {
            let problem = "is false, and an image cannot be written to";
            return Err(invalid(field("readonly"), problem));
        }
        Some(image) if image.image.is_empty() => {
            return Err(invalid(field("image.image"), "is empty"));
        }
        Some(_) => {
            let sub = Path::new(&mount.image_sub_path);
            let plain = |c| matches!(c, Component::Normal(_) | Component::CurDir);
            if !sub.components().all(plain) || mount.image_sub_path.contains('\0') {
                let problem = format!("is {sub:?}, which is no path inside an image");
                return Err(invalid(field("image_sub_path"), problem));
            }
        }
    }
    recursive(index, mount)
}

/// Read-only all the way down: only what nobody else mounts into can stay so.
fn recursive(index: usize, mount: &Mount) -> Result<(), Refused> {
    let field = format!("mounts[{index}].recursive_read_only");
    match (mount.recursive_read_only, mount.readonly) {
        (true, false) => Err(invalid(field, "is set, and readonly is not")),
        (true, true) if mount.propagation != MountPropagation::PropagationPrivate as i32 => {
            Err(invalid(field, "is set, and propagation is not private"))
        }
        _ => Ok(()),
    }
}

impl Plan {
    /// One mount of the request.
    fn asked(&mut self, index: usize, mount: &Mount, facts: &Facts<'_>) -> Result<Value, Refused> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let source = match &mount.image {
            Some(image) => facts.images.get(&index).cloned().ok_or_else(|| {
                let problem = format!("names {:?}, which is not mounted", image.image);
                missing(field("image"), problem)
            })?,
            None => PathBuf::from(&mount.host_path),
        };
        let found = match &mount.image {
            Some(_) => Propagation::Private,
            None => self.found(&source, facts),
        };
        let propagation = MountPropagation::try_from(mount.propagation).map_err(|_| {
            let problem = format!("is {}, which is none", mount.propagation);
            invalid(field("propagation"), problem)
        })?;
        let word = self.shares(propagation, found).ok_or_else(|| {
            let problem = format!(
                "is {}, and what {source:?} is mounted on shares no events with others",
                propagation.as_str_name()
            );
            invalid(field("propagation"), problem)
        })?;
        if mount.recursive_read_only && !facts.handler.recursive_read_only {
            let problem = "is set, and the runtime handler has no such mounts";
            return Err(unsupported(field("recursive_read_only"), problem));
        }
        let access = match (mount.readonly, mount.recursive_read_only) {
            (false, _) => "rw",
            (true, false) => "ro",
            (true, true) => "rro",
        };
        if mount.selinux_relabel && facts.host.selinux.is_some() {
            self.relabel.push(source.clone());
        }
        let mut bind = bind(&mount.container_path, &source, &["rbind", word, access]);
        // An image's files are the pod's users' already: it is mounted for them.
        if !mount.uid_mappings.is_empty() && mount.image.is_none() {
            bind["uidMappings"] = namespaces::mappings(&mount.uid_mappings);
            bind["gidMappings"] = namespaces::mappings(&mount.gid_mappings);
        }
        Ok(bind)
    }

    fn found(&mut self, source: &Path, facts: &Facts<'_>) -> Propagation {
        match facts.observed.sources.get(source) {
            Some(Source::Present(propagation)) => *propagation,
            Some(Source::Absent(propagation)) => {
                if !self.folders.iter().any(|f| f == source) {
                    self.folders.push(source.to_owned());
                }
                *propagation
            }
            None => Propagation::Private,
        }
    }

    /// The mount's word, if what it lies on can share so much; the container's root must share as much.
    fn shares(&mut self, asked: MountPropagation, found: Propagation) -> Option<&'static str> {
        match (asked, found) {
            (MountPropagation::PropagationPrivate, _) => Some("rprivate"),
            (MountPropagation::PropagationHostToContainer, Propagation::Private) => None,
            (MountPropagation::PropagationHostToContainer, _) => {
                self.root.get_or_insert("rslave");
                Some("rslave")
            }
            (MountPropagation::PropagationBidirectional, Propagation::Shared) => {
                self.root = Some("rshared");
                Some("rshared")
            }
            (MountPropagation::PropagationBidirectional, _) => None,
        }
    }
}

/// The kernel's file systems.
fn system(wall: &Wall<'_>) -> Vec<Value> {
    let access = if wall.privileged { "rw" } else { "ro" };
    let plain = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&plain[..], more].concat();
    let tmpfs = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    let pts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    // A sysfs shows a network namespace, and only its owner may mount it.
    let sys = match wall.ids.is_some() && wall.host_network {
        true => bind(
            "/sys",
            Path::new("/sys"),
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"],
        ),
        false => mount("/sys", "sysfs", "sysfs", &with(&[access])),
    };
    vec![
        mount("/proc", "proc", "proc", &plain),
        mount("/dev", "tmpfs", "tmpfs", &tmpfs),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/mqueue", "mqueue", "mqueue", &plain),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &with(&["relatime", access]),
        ),
    ]
}

/// What the containers of a pod have in common.
fn shared(wall: &Wall<'_>, facts: &Facts<'_>) -> Vec<(&'static str, Value)> {
    let access = if wall.read_only { "ro" } else { "rw" };
    let pod = facts.pod;
    let mut all = Vec::new();
    for (target, source) in [
        ("/etc/hostname", &pod.hostname_file),
        ("/etc/hosts", &pod.hosts),
        ("/etc/resolv.conf", &pod.resolv_conf),
    ] {
        let Some(source) = source else { continue };
        let mut file = bind(target, source, &["rbind", "rprivate", access]);
        // Those of an earlier version are root's on the host, and so the container's root's.
        if let Some(ids) = wall.ids.filter(|_| !pod.files_are_its) {
            (file["uidMappings"], file["gidMappings"]) = ids.oci();
        }
        all.push((target, file));
    }
    let words = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"];
    let shm = match (&pod.shm, wall.host_ipc) {
        (_, true) => bind("/dev/shm", Path::new("/dev/shm"), &words),
        (Some(source), false) => bind("/dev/shm", source, &words),
        (None, false) => mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
    };
    all.push(("/dev/shm", shm));
    all
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

fn bind(target: &str, source: &Path, options: &[&str]) -> Value {
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

/// `/a/./b//../c` as `/a/c`: what a target is called, without looking.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}
