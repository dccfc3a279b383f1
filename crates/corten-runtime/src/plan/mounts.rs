//! Mounts, in the order of the spec: what each is made of, with which attributes, and where it goes.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use corten_sys::mount::{Attributes, Propagation};
use oci_spec::runtime::{Mount, Spec};

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
    pub anchor: Anchor,
    /// No part of the target may be a link: `/proc`, `/sys` and `/dev` must be what they are called
    /// (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579).
    pub plain: bool,
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
        /// Of the parent's namespaces as good as of init's: made before the clone.
        early: bool,
    },
    /// A folder or file of the host, with what is mounted below it if `recursive`.
    Bind { path: PathBuf, recursive: bool },
    /// The container's own control groups.
    Cgroup { attributes: u64 },
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
) -> Result<Vec<Plan>, Error> {
    let inherited = spec
        .linux()
        .as_ref()
        .and_then(|l| l.rootfs_propagation().clone());
    let inherited = inherit(inherited.as_deref());
    let mut plans: Vec<Plan> = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let mut plan = one(mount, namespaces, facts, inherited)?;
        plan.anchor = anchor(&plans, &plan);
        plans.push(plan);
    }
    Ok(plans)
}

/// What a bind mount gets from the container's tree: the host's events (slave), unless said otherwise.
pub(crate) fn inherit(rootfs_propagation: Option<&str>) -> Option<Propagation> {
    match rootfs_propagation.and_then(propagation) {
        Some((Propagation::Shared, _)) => None,
        Some((Propagation::Private | Propagation::Unbindable, _)) => Some(Propagation::Private),
        Some((Propagation::Slave, _)) | None => Some(Propagation::Slave),
    }
}

/// `rshared` and its like; the flag says recursive.
pub(crate) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let kind = match word {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => return None,
    };
    Some((kind, recursive))
}

fn anchor(earlier: &[Plan], plan: &Plan) -> Anchor {
    let target = Path::new(std::ffi::OsStr::from_bytes(plan.target.as_bytes()));
    let folder = matches!(plan.source, Source::New { .. } | Source::Cgroup { .. });
    if !folder || plan.keep_mode || plan.copy_up {
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

/// Options sorted by who understands them.
#[derive(Default)]
pub(crate) struct Options {
    pub bind: bool,
    pub recursive: bool,
    pub attributes: Attributes,
    pub below: Attributes,
    pub propagation: Vec<(Propagation, bool)>,
    pub copy_up: bool,
    /// For the file system itself.
    pub rest: Vec<(String, Option<String>)>,
}

fn one(
    mount: &Mount,
    namespaces: &namespaces::Plan,
    facts: &Facts<'_>,
    inherited: Option<Propagation>,
) -> Result<Plan, Error> {
    let target = target(mount.destination())?;
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(unsupported(format!(
            "mounts.uidMappings of {:?} (id-mapped mounts)",
            mount.destination()
        )));
    }
    let words = mount.options().as_deref().unwrap_or_default();
    let options = sort(words, mount.destination())?;
    let kind = mount.typ().as_deref().unwrap_or("none");
    let is_bind = options.bind || kind == "bind";
    if is_bind {
        return bind(mount, target, &options, facts, inherited);
    }
    let mut changes = Vec::new();
    for (propagation, recursive) in &options.propagation {
        changes.push(Change {
            attributes: Attributes::default(),
            propagation: Some(*propagation),
            recursive: *recursive,
        });
    }
    let attributes = options.attributes.set | options.below.set;
    let special =
        matches!(target.as_bytes(), b"proc" | b"sys" | b"dev") || matches!(kind, "proc" | "sysfs");
    let source = match kind {
        "none" | "" => {
            let problem = format!("is missing for {:?}", mount.destination());
            return Err(invalid("mounts.type", problem));
        }
        "cgroup" | "cgroup2" => Source::Cgroup { attributes },
        _ => new(mount, kind, &options, namespaces)?,
    };
    let has_mode = options.rest.iter().any(|(key, _)| key == "mode");
    Ok(Plan {
        keep_mode: kind == "tmpfs" && !has_mode,
        copy_up: options.copy_up,
        target,
        source,
        changes,
        anchor: Anchor::Lookup,
        plain: special,
    })
}

fn new(
    mount: &Mount,
    kind: &str,
    options: &Options,
    namespaces: &namespaces::Plan,
) -> Result<Source, Error> {
    const FIELD: &str = "mounts.options";
    if options.copy_up && kind != "tmpfs" {
        return Err(invalid(
            FIELD,
            "has tmpcopyup on something else than a tmpfs",
        ));
    }
    let mut rest = Vec::new();
    // A new devpts is always an instance of its own, and made by the parent, whose ids are the host's.
    let early = kind == "devpts" || (kind == "tmpfs" && namespaces.user.is_none());
    for (key, value) in &options.rest {
        let translated = match (kind, key.as_str(), value) {
            ("devpts", "gid", Some(gid)) => Some(host_id(gid, |id| namespaces.host_gid(id))?),
            ("devpts", "uid", Some(uid)) => Some(host_id(uid, |id| namespaces.host_uid(id))?),
            _ => value.clone(),
        };
        let value = translated
            .map(|v| c_string(FIELD, v.as_bytes()))
            .transpose()?;
        rest.push((c_string(FIELD, key.as_bytes())?, value));
    }
    let source = mount
        .source()
        .as_ref()
        .map_or(kind.as_bytes(), |s| s.as_os_str().as_bytes());
    Ok(Source::New {
        fstype: c_string("mounts.type", kind.as_bytes())?,
        source: c_string("mounts.source", source)?,
        options: rest,
        attributes: options.attributes.set | options.below.set,
        early,
    })
}

fn host_id(text: &str, map: impl Fn(u32) -> Option<u32>) -> Result<String, Error> {
    const FIELD: &str = "mounts.options";
    let id = text
        .parse()
        .map_err(|_| invalid(FIELD, format!("holds the id {text:?}")))?;
    let host = map(id).ok_or_else(|| {
        invalid(
            FIELD,
            format!("holds the id {id}, which the user namespace does not map"),
        )
    })?;
    Ok(host.to_string())
}

fn bind(
    mount: &Mount,
    target: CString,
    options: &Options,
    facts: &Facts<'_>,
    inherited: Option<Propagation>,
) -> Result<Plan, Error> {
    if let Some((key, value)) = options.rest.first() {
        let value = value.as_ref().map_or(String::new(), |v| format!("={v}"));
        return Err(invalid(
            "mounts.options",
            format!(
                "of {:?} holds {key}{value}, which a bind mount cannot have",
                mount.destination()
            ),
        ));
    }
    if options.copy_up {
        return Err(invalid("mounts.options", "has tmpcopyup on a bind mount"));
    }
    let source = mount
        .source()
        .as_ref()
        .filter(|s| !s.as_os_str().is_empty());
    let source = source.ok_or_else(|| {
        invalid(
            "mounts.source",
            format!("is missing for {:?}", mount.destination()),
        )
    })?;
    Ok(Plan {
        target,
        source: Source::Bind {
            path: facts.bundle.join(source),
            recursive: options.recursive,
        },
        changes: bind_changes(options, inherited),
        anchor: Anchor::Lookup,
        plain: false,
        copy_up: false,
        keep_mode: false,
    })
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

/// Words of mount(8) that are attributes of a mount, as (word, bit, set).
const ATTRIBUTES: [(&str, u64, bool); 18] = [
    ("ro", Attributes::READ_ONLY, true),
    ("rw", Attributes::READ_ONLY, false),
    ("nosuid", Attributes::NO_SUID, true),
    ("suid", Attributes::NO_SUID, false),
    ("nodev", Attributes::NO_DEV, true),
    ("dev", Attributes::NO_DEV, false),
    ("noexec", Attributes::NO_EXEC, true),
    ("exec", Attributes::NO_EXEC, false),
    ("nodiratime", Attributes::NO_DIR_ATIME, true),
    ("diratime", Attributes::NO_DIR_ATIME, false),
    ("nosymfollow", Attributes::NO_SYMLINK_FOLLOW, true),
    ("symfollow", Attributes::NO_SYMLINK_FOLLOW, false),
    ("noatime", Attributes::NO_ATIME, true),
    ("atime", Attributes::NO_ATIME, false),
    ("strictatime", Attributes::STRICT_ATIME, true),
    ("nostrictatime", Attributes::STRICT_ATIME, false),
    ("relatime", 0, true),
    ("norelatime", 0, false),
];

fn attribute(word: &str) -> Option<Attributes> {
    let (_, bit, set) = ATTRIBUTES.iter().find(|(name, ..)| *name == word)?;
    let mut attributes = Attributes::default();
    match (*bit, set) {
        // The access-time choice is one field of three values; relative, 0, is the default.
        (Attributes::NO_ATIME | Attributes::STRICT_ATIME, true) => attributes.set = *bit,
        (0, true) | (Attributes::NO_ATIME | Attributes::STRICT_ATIME, false) => {
            attributes.clear = Attributes::ATIME;
        }
        (0, false) => {}
        (bit, true) => attributes.set = bit,
        (bit, false) => attributes.clear = bit,
    }
    Some(attributes)
}

fn merge(into: &mut Attributes, new: Attributes) {
    if (new.set | new.clear) & Attributes::ATIME != 0 {
        into.set &= !Attributes::ATIME;
        into.clear &= !Attributes::ATIME;
    }
    into.add(new.set);
    into.remove(new.clear);
}

/// Sorts words of mount(8) for the mount that is called `what` in messages.
pub(crate) fn sort(words: &[String], what: &Path) -> Result<Options, Error> {
    let mut options = Options::default();
    for word in words {
        if let Some(attributes) = attribute(word) {
            merge(&mut options.attributes, attributes);
            continue;
        }
        if let Some(kind) = propagation(word) {
            options.propagation.push(kind);
            continue;
        }
        if let Some(attributes) = word.strip_prefix('r').and_then(attribute) {
            merge(&mut options.below, attributes);
            continue;
        }
        match word.as_str() {
            "bind" => options.bind = true,
            "rbind" => (options.bind, options.recursive) = (true, true),
            "tmpcopyup" => options.copy_up = true,
            // What a new mount has anyway.
            "" | "defaults" | "async" | "nomand" | "loud" => {}
            "remount" | "idmap" | "ridmap" | "mand" | "loop" | "copy-symlink" | "src-nofollow"
            | "dest-nofollow" => {
                return Err(unsupported(format!("mount option {word:?} of {what:?}")));
            }
            _ => options.rest.push(match word.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (word.clone(), None),
            }),
        }
    }
    Ok(options)
}

/// All words that are understood, sorted, for `features`.
pub(crate) fn words() -> Vec<String> {
    let mut words: Vec<String> = ATTRIBUTES.iter().map(|(word, ..)| (*word).into()).collect();
    words.extend(ATTRIBUTES.iter().map(|(word, ..)| format!("r{word}")));
    for word in ["private", "slave", "shared", "unbindable"] {
        words.push(word.into());
        words.push(format!("r{word}"));
    }
    words.extend(["bind", "rbind", "defaults", "async", "tmpcopyup"].map(String::from));
    words.sort();
    words
}
