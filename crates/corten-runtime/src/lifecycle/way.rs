//! How a process of ours gets to where a container's init is: its namespaces, its root, its control group.

use std::os::fd::OwnedFd;
use std::path::Path;

use corten_cgroup::{Cgroup, Entry, is_refusal};
use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, failed};
use crate::parent::place;
use crate::plan::namespaces::{Mappings, kind};
use crate::state::refused;

const SYS_ADMIN: u64 = 1 << 21;

/// Those that differ by the container first.
const ALL: [Namespaces; 7] = [
    Namespaces::USER,
    Namespaces::TIME,
    Namespaces::MOUNT,
    Namespaces::UTS,
    Namespaces::IPC,
    Namespaces::NETWORK,
    Namespaces::CGROUP,
];

/// To a container's init.
pub(super) struct Way {
    pub kinds: Namespaces,
    /// Of init's user namespace, if that is not ours.
    pub ids: Option<Mappings>,
    pub groups_denied: bool,
    /// We are in a user namespace ourselves.
    pub nested: bool,
    /// We have no rights here that would help; in init's user namespace we have.
    pub inside: bool,
    /// We cannot join the pid namespace for the moment of the clone: from there we might not come back.
    pub forks: bool,
    /// Init's root, where it is not that of its mount namespace.
    pub root: Option<OwnedFd>,
}

impl Way {
    pub fn find(pid: u32, spec: &Spec, held: u64) -> Result<Self, Error> {
        let inside = held & SYS_ADMIN == 0;
        let (mut kinds, named) = joined(spec);
        let own = |kind| {
            let ns = |who: &str| {
                Path::new("/proc")
                    .join(who)
                    .join("ns")
                    .join(place::name(kind))
            };
            let theirs = rustix::fs::stat(ns(&pid.to_string()));
            let ours = rustix::fs::stat(ns("self"));
            // Who may not look there is not in there.
            matches!((theirs, ours), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
        };
        let nested = place::in_user_namespace()?;
        let forks = inside || nested;
        // Without the host's rights one cannot even join where one is.
        let looked_at = match forks {
            true => &ALL[..],
            false => &ALL[..2],
        };
        for kind in looked_at {
            if kinds.contains(*kind) && own(*kind) {
                kinds = kinds.without(*kind);
            }
        }
        if forks && !own(Namespaces::PID) {
            kinds = kinds.with(Namespaces::PID);
        }
        let process = pid.to_string();
        let user = kinds.contains(Namespaces::USER);
        let root = match named.contains(Namespaces::MOUNT) {
            true => {
                let path = Path::new("/proc").join(&process).join("root");
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = openat(CWD, &path, flags, Mode::empty());
                Some(root.map_err(failed("open the root", &path))?)
            }
            false => None,
        };
        Ok(Self {
            kinds,
            ids: user.then(|| Mappings::of(&process)).transpose()?,
            groups_denied: user && place::groups_denied(&process),
            nested,
            inside,
            forks,
            root,
        })
    }
}

/// The way into the container's group. Without root it may be barred even though the group is ours: from where we
/// are, the two lie below a group that is not (as from another login session). As with runc, the process then
/// stays in its caller's group, and the caller is told.
pub(super) fn enter_group(
    cgroup: Option<&Cgroup>,
    (rootless, nested): (Option<bool>, bool),
    warnings: &mut Vec<String>,
) -> Result<Entry, Error> {
    let none = Entry {
        v2: None,
        v1_tasks: Vec::new(),
    };
    let Some(cgroup) = cgroup else {
        return Ok(none);
    };
    let tolerant = match rootless {
        Some(rootless) => rootless,
        None => nested || !rustix::process::geteuid().is_root(),
    };
    if !tolerant {
        return cgroup.entry().map_err(refused("enter the control group"));
    }
    match cgroup.entry_where_permitted() {
        Ok(entry) => Ok(entry),
        Err(error) if is_refusal(&error) => {
            warnings.push(format!(
                "the process stays outside of the container's control group: {error}"
            ));
            Ok(none)
        }
        Err(error) => Err(refused("enter the control group")(error)),
    }
}

/// The namespaces to follow init into, and those that the spec names by path. Its user and time namespaces only if
/// the spec has any.
fn joined(spec: &Spec) -> (Namespaces, Namespaces) {
    let always = [
        Namespaces::MOUNT,
        Namespaces::UTS,
        Namespaces::IPC,
        Namespaces::NETWORK,
        Namespaces::CGROUP,
    ];
    let mut kinds = always.into_iter().fold(Namespaces::NONE, Namespaces::with);
    let mut named = Namespaces::NONE;
    let listed = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    for namespace in listed.into_iter().flatten() {
        if matches!(
            namespace.typ(),
            LinuxNamespaceType::User | LinuxNamespaceType::Time
        ) {
            kinds = kinds.with(kind(namespace.typ()));
        }
        let path = namespace.path().as_ref();
        if path.is_some_and(|p| !p.as_os_str().is_empty()) {
            named = named.with(kind(namespace.typ()));
        }
    }
    (kinds, named)
}
