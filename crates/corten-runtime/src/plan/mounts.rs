//! Mounts, in the order of the spec: what each is made of, with which attributes, and where it goes.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use corten_sys::mount::{Attributes, Propagation};
use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{Mount, Spec};

use super::idmap::{self, IdMap};
use super::remount;
use super::words::{Options, propagation, sort};
use super::{Facts, c_string, namespaces};
use crate::error::{Error, invalid, unsupported};

/// One mount.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Below the container's root, without a slash at the start.
    pub target: CString,
    pub source: Source,
    /// Done to the detached tree, in this order.
    pub changes: Vec<Change>,
    /// Done to the detached tree as well.
    pub idmap: Option<IdMap>,
    pub anchor: Anchor,
    /// No part of the target may be a link: `/proc`, `/sys` and `/dev` must be what they are called
    /// (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579).
    pub plain: bool,
    /// A link at the target is covered, not followed.
    pub cover_link: bool,
    /// Fill the new tmpfs with what the target folder holds.
    pub copy_up: bool,
    /// A tmpfs without a mode of its own takes the target folder's.
    pub keep_mode: bool,
}

#[derive(Debug)]
pub(crate) enum Source {
    /// A new file system.
    New {
        fstype: CString,
        source: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: u64,
        /// Made by the parent, before the clone.
        early: bool,
    },
    /// A folder or file of the host, with what is mounted below it if `recursive`.
    Bind {
        path: PathBuf,
        recursive: bool,
        link: Link,
        early: bool,
    },
    /// The container's own control groups: those of all hierarchies, or of the `unified` one.
    Cgroup { attributes: u64, unified: bool },
    /// None: a mount that is there already is changed.
    Remount {
        /// The mount of this spec that it is.
        of: Option<usize>,
        /// For its superblock.
        options: Vec<(CString, Option<CString>)>,
    },
}

/// What a source that is a symbolic link means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// What it leads to.
    Follow,
    /// The link.
    Bind,
    /// A link in the container that leads as far.
    Copy,
}

/// A change to a detached mount, as `corten_sys::mount::Change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub attributes: Attributes,
    pub propagation: Option<Propagation>,
    pub recursive: bool,
}

/// A folder that is certain to hold the target as a plain name, so that one `move_mount` finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// None is: the target is looked up inside the root.
    Lookup,
    /// The container's root.
    Root,
    /// The root of an earlier mount of ours that nobody else can have written to.
    Mount(usize),
}

impl Plan {
    pub fn is_tmpfs(&self) -> bool {
        self.is_new(c"tmpfs")
    }

    pub fn is_new(&self, wanted: &std::ffi::CStr) -> bool {
        matches!(&self.source, Source::New { fstype, .. } if fstype.as_c_str() == wanted)
    }

    /// Does what it shows depend on the network namespace of who makes it?
    pub fn shows_network(&self) -> bool {
        self.is_new(c"sysfs")
    }

    /// The last component of the target.
    pub fn name(&self) -> &[u8] {
        let target = self.target.as_bytes();
        target.rsplit(|b| *b == b'/').next().unwrap_or(target)
    }
}

pub(crate) fn plan(
    spec: &Spec,
    namespaces: &namespaces::Plan,
    facts: &Facts<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Plan>, Error> {
    let linux = spec.linux().as_ref();
    let inherited = linux.and_then(|l| l.rootfs_propagation().clone());
    let label = linux.and_then(|l| l.mount_label().as_deref());
    let mut context = Context {
        namespaces,
        facts,
        inherited: inherit(inherited.as_deref()),
        label: label.filter(|l| !l.is_empty()),
        warnings,
    };
    let mut plans: Vec<Plan> = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let mut plan = context.one(mount, &plans)?;
        plan.anchor = anchor(&plans, &plan);
        plans.push(plan);
    }
    Ok(plans)
}

/// What the plan of one mount depends on.
struct Context<'a> {
    namespaces: &'a namespaces::Plan,
    facts: &'a Facts<'a>,
    inherited: Option<Propagation>,
    label: Option<&'a str>,
    warnings: &'a mut Vec<String>,
}

/// What a bind mount gets from the container's tree: the host's events (slave), unless said otherwise.
pub(crate) fn inherit(rootfs_propagation: Option<&str>) -> Option<Propagation> {
    match rootfs_propagation.and_then(propagation) {
        Some((Propagation::Shared, _)) => None,
        Some((Propagation::Private | Propagation::Unbindable, _)) => Some(Propagation::Private),
        Some((Propagation::Slave, _)) | None => Some(Propagation::Slave),
    }
}

fn anchor(earlier: &[Plan], plan: &Plan) -> Anchor {
    let target = Path::new(std::ffi::OsStr::from_bytes(plan.target.as_bytes()));
    let folder = matches!(plan.source, Source::New { .. } | Source::Cgroup { .. });
    if !folder || plan.keep_mode || plan.copy_up || plan.cover_link {
        return Anchor::Lookup;
    }
    let parent = target.parent().unwrap_or(Path::new(""));
    let of = |p: &Plan| PathBuf::from(std::ffi::OsStr::from_bytes(p.target.as_bytes()));
    match earlier.iter().rposition(|p| target.starts_with(of(p))) {
        Some(at)
            if of(&earlier[at]) == parent && earlier[at].is_tmpfs() && !earlier[at].copy_up =>
        {
            Anchor::Mount(at)
        }
        None if parent == Path::new("") => Anchor::Root,
        _ => Anchor::Lookup,
    }
}

/// `/a/./b//c` as `a/b/c`.
fn target(path: &Path) -> Result<CString, Error> {
    const FIELD: &str = "mounts.destination";
    if path.as_os_str().len() > 4095 {
        return Err(invalid(FIELD, "is longer than 4095 bytes"));
    }
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.as_bytes()),
            // As an absolute path in a root of its own: `..` stops there.
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    if parts.is_empty() {
        return Err(invalid(FIELD, format!("is {path:?}, the root itself")));
    }
    c_string(FIELD, &parts.join(&b'/'))
}

impl Context<'_> {
    fn one(&mut self, mount: &Mount, earlier: &[Plan]) -> Result<Plan, Error> {
        let target = target(mount.destination())?;
        let words = mount.options().as_deref().unwrap_or_default();
        let options = sort(words, mount.destination())?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let is_bind = options.bind || kind == "bind";
        let source = match (options.remount, is_bind, kind) {
            (true, ..) => return remount::plan(mount, target, &options, earlier),
            (_, true, _) => self.bind(mount, &options)?,
            (_, _, "none" | "") => {
                let problem = format!("is missing for {:?}", mount.destination());
                return Err(invalid("mounts.type", problem));
            }
            (_, _, "cgroup" | "cgroup2") => Source::Cgroup {
                attributes: options.attributes.set | options.below.set,
                unified: kind == "cgroup2",
            },
            _ => self.file_system(mount, kind, &options)?,
        };
        let idmap = idmap::plan(mount, &options, self.namespaces)?;
        if idmap.is_some() && namespaced(kind) && !is_bind {
            return Err(unsupported(format!("an id-mapped mount of type {kind:?}")));
        }
        let changes = match is_bind {
            true => bind_changes(&options, self.inherited),
            false => options.propagation.iter().map(propagate).collect(),
        };
        let has_mode = options.rest.iter().any(|(key, _)| key == "mode");
        let special = matches!(target.as_bytes(), b"proc" | b"sys" | b"dev")
            || matches!(kind, "proc" | "sysfs");
        Ok(Plan {
            keep_mode: !is_bind && kind == "tmpfs" && !has_mode,
            copy_up: options.copy_up,
            cover_link: options.cover_link,
            target,
            source,
            changes,
            idmap,
            anchor: Anchor::Lookup,
            plain: special && !is_bind,
        })
    }

    fn file_system(&self, mount: &Mount, kind: &str, options: &Options) -> Result<Source, Error> {
        let refuse = |problem: &str| {
            let problem = format!("of {:?} {problem}", mount.destination());
            Err(invalid(FIELD, problem))
        };
        if options.copy_up && kind != "tmpfs" {
            return refuse("has tmpcopyup on something else than a tmpfs");
        }
        if options.bind_link || options.copy_link {
            return refuse("says what to do with a link, and is no bind mount");
        }
        // These always count; no other can be told to by fsconfig(2).
        if options.versions && !matches!(kind, "tmpfs" | "ext4" | "xfs" | "btrfs") {
            let what = format!("mount option \"iversion\" on a file system of type {kind:?}");
            return Err(unsupported(what));
        }
        let flags = options.superblock.iter().map(|flag| (*flag, None));
        let rest = options.rest.iter();
        let words = flags.chain(rest.map(|(key, value)| (key.as_str(), value.as_deref())));
        let mut all = self.translate(kind, words)?;
        // Labels of files that the kernel makes up, or that are no files of anybody (SELinux policy has its own).
        if let Some(label) = self
            .label
            .filter(|_| !matches!(kind, "proc" | "sysfs" | "mqueue"))
        {
            all.push((
                c"context".into(),
                Some(c_string("linux.mountLabel", label.as_bytes())?),
            ));
        }
        let source = mount.source().as_ref();
        let source = source.map_or(kind.as_bytes(), |s| s.as_os_str().as_bytes());
        Ok(Source::New {
            fstype: c_string("mounts.type", kind.as_bytes())?,
            source: c_string("mounts.source", source)?,
            options: all,
            attributes: options.attributes.set | options.below.set,
            early: self.early(mount, kind, options),
        })
    }

    /// Of those that either could make: only what the parent's rights or descriptors are needed for. All
    /// else is made by init in the order of the spec, which then is that of `/proc/self/mountinfo`.
    fn early(&self, mount: &Mount, kind: &str, options: &Options) -> bool {
        let mapped = mount.uid_mappings().is_some() || options.idmap.is_some();
        let user = self.namespaces.own(Namespaces::USER);
        match kind {
            "proc" | "sysfs" | "mqueue" => false,
            // Always an instance of its own, with ids of the host, and the source of the terminal.
            "devpts" => user || self.facts.terminal,
            "tmpfs" => mapped || self.namespaces.joined(Namespaces::USER),
            // Its layers may have to be named by descriptors of the parent's.
            "overlay" => true,
            // Root of a user namespace may not mount most file systems, nor go wherever the host's root may.
            _ => mapped || user,
        }
    }

    /// Options in the form that fsconfig(2) takes, with the host's ids where the host makes the mount.
    fn translate<'b>(
        &self,
        kind: &str,
        words: impl Iterator<Item = (&'b str, Option<&'b str>)>,
    ) -> Result<Vec<(CString, Option<CString>)>, Error> {
        words
            .map(|(key, value)| {
                let translated = match (kind, key, value) {
                    ("devpts", "gid", Some(gid)) => {
                        Some(host_id(gid, |id| self.namespaces.host_gid(id))?)
                    }
                    ("devpts", "uid", Some(uid)) => {
                        Some(host_id(uid, |id| self.namespaces.host_uid(id))?)
                    }
                    _ => value.map(String::from),
                };
                let value = translated.map(|v| c_string(FIELD, v.as_bytes()));
                Ok((c_string(FIELD, key.as_bytes())?, value.transpose()?))
            })
            .collect()
    }

    fn bind(&mut self, mount: &Mount, options: &Options) -> Result<Source, Error> {
        let at = mount.destination();
        let refuse = |problem: String| Err(invalid(FIELD, format!("of {at:?} {problem}")));
        if options.copy_up {
            return refuse("has tmpcopyup on a bind mount".into());
        }
        // Honoured, these would change the host's own mounts; ignored, they would be a promise broken.
        let changing = |word: &&&str| matches!(**word, "sync" | "dirsync" | "lazytime");
        let host = options.superblock.iter().find(changing).copied();
        if let Some(word) = host.or(options.versions.then_some("iversion")) {
            return refuse(format!("holds {word}, which a bind mount cannot have"));
        }
        // mount(2) gets the rest as data, which for a bind mount it does not look at.
        for (key, value) in &options.rest {
            let value = value.as_ref().map_or(String::new(), |v| format!("={v}"));
            let warning =
                format!("mount option {key}{value} of {at:?} means nothing to a bind mount");
            self.warnings.push(warning);
        }
        let source = mount.source().as_ref();
        let Some(source) = source.filter(|s| !s.as_os_str().is_empty()) else {
            return Err(invalid("mounts.source", format!("is missing for {at:?}")));
        };
        Ok(Source::Bind {
            path: self.facts.bundle.join(source),
            recursive: options.recursive,
            early: self.early(mount, "bind", options) || self.namespaces.joined(Namespaces::MOUNT),
            link: match (options.copy_link, options.bind_link) {
                (true, _) => Link::Copy,
                (_, true) => Link::Bind,
                _ => Link::Follow,
            },
        })
    }
}

pub(super) const FIELD: &str = "mounts.options";

/// Is its content that of a namespace, so that init must make it?
fn namespaced(kind: &str) -> bool {
    matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2")
}

pub(super) fn propagate((propagation, recursive): &(Propagation, bool)) -> Change {
    Change {
        attributes: Attributes::default(),
        propagation: Some(*propagation),
        recursive: *recursive,
    }
}

fn host_id(text: &str, map: impl Fn(u32) -> Option<u32>) -> Result<String, Error> {
    let id = text
        .parse()
        .map_err(|_| invalid(FIELD, format!("holds the id {text:?}")))?;
    let host = map(id).ok_or_else(|| {
        let problem = format!("holds the id {id}, which the user namespace does not map");
        invalid(FIELD, problem)
    })?;
    Ok(host.to_string())
}

/// Propagation first, then attributes of the top, then of all. One change where that is the same.
pub(crate) fn bind_changes(options: &Options, inherited: Option<Propagation>) -> Vec<Change> {
    let none = Attributes::default();
    let change = |attributes, propagation, recursive| Change {
        attributes,
        propagation,
        recursive,
    };
    let all = options.recursive;
    let mut changes = Vec::new();
    let severed = matches!(
        options.propagation.first(),
        Some((
            Propagation::Private | Propagation::Slave | Propagation::Unbindable,
            true
        ))
    );
    if let (Some(inherited), false) = (inherited, severed) {
        changes.push(change(none, Some(inherited), all));
    }
    for (kind, recursive) in &options.propagation {
        changes.push(change(none, Some(*kind), *recursive && all));
    }
    let mut top = options.attributes;
    if !all {
        top.add(options.below.set);
        top.remove(options.below.clear);
    }
    if !top.is_empty() {
        match changes.last_mut() {
            Some(last) if !last.recursive => last.attributes = top,
            _ => changes.push(change(top, None, false)),
        }
    }
    if all && !options.below.is_empty() {
        changes.push(change(options.below, None, true));
    }
    changes
}
