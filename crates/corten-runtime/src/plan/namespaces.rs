//! Which namespaces are new, which are joined, and who is who in a new user namespace.

use std::fmt::Write as _;
use std::path::PathBuf;

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use crate::error::{Error, invalid, unsupported};

#[derive(Debug)]
pub(crate) struct Plan {
    /// Made by the clone.
    pub new: Namespaces,
    /// Joined by path.
    pub join: Vec<(Namespaces, PathBuf)>,
    /// With a new user namespace.
    pub user: Option<Mappings>,
    /// Lines for `timens_offsets`.
    pub time_offsets: Option<String>,
}

/// Ids of a new user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mappings {
    pub uid: Map,
    pub gid: Map,
}

/// Ranges of one kind of id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map(Vec<(u32, u32, u32)>);

impl Map {
    pub fn new(field: &str, mappings: &Option<Vec<LinuxIdMapping>>) -> Result<Self, Error> {
        let mappings = mappings.iter().flatten();
        let ranges: Vec<_> = mappings
            .map(|m| (m.container_id(), m.host_id(), m.size()))
            .collect();
        if ranges.is_empty() {
            return Err(invalid(
                field,
                "is empty, but there is a new user namespace",
            ));
        }
        let overflows = |(a, b, n): &(u32, u32, u32)| {
            *n == 0 || a.checked_add(n - 1).is_none() || b.checked_add(n - 1).is_none()
        };
        if ranges.iter().any(overflows) {
            return Err(invalid(
                field,
                "has a range that is empty or ends above 4294967295",
            ));
        }
        Ok(Self(ranges))
    }

    /// What `/proc/PID/uid_map` takes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (inside, outside, size) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{inside} {outside} {size}");
        }
        text
    }

    /// The host's id of a container's id.
    pub fn host(&self, id: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|(inside, _, size)| id >= *inside && id - inside < *size)
            .map(|(inside, outside, _)| outside + (id - inside))
    }
}

impl Plan {
    /// Does the container have a namespace of this kind that is not the host's?
    pub fn own(&self, kind: Namespaces) -> bool {
        self.new.contains(kind) || self.joined(kind)
    }

    pub fn joined(&self, kind: Namespaces) -> bool {
        self.join.iter().any(|(joined, _)| *joined == kind)
    }

    /// May the network namespace be made while other things are done? It then belongs to the maker's user
    /// namespace. And for that moment the maker has a thread more, with which it may not join user or
    /// time namespaces (setns(2)).
    pub fn network_ahead(&self) -> bool {
        let joins = [Namespaces::USER, Namespaces::PID, Namespaces::TIME];
        self.new.contains(Namespaces::NETWORK)
            && self.user.is_none()
            && self.time_offsets.is_none()
            && !joins.into_iter().any(|kind| self.joined(kind))
    }

    /// The host's user id of `uid` in the container.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        self.user.as_ref().map_or(Some(uid), |m| m.uid.host(uid))
    }

    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        self.user.as_ref().map_or(Some(gid), |m| m.gid.host(gid))
    }
}

pub(crate) fn kind(kind: LinuxNamespaceType) -> Namespaces {
    match kind {
        LinuxNamespaceType::Mount => Namespaces::MOUNT,
        LinuxNamespaceType::Cgroup => Namespaces::CGROUP,
        LinuxNamespaceType::Uts => Namespaces::UTS,
        LinuxNamespaceType::Ipc => Namespaces::IPC,
        LinuxNamespaceType::User => Namespaces::USER,
        LinuxNamespaceType::Pid => Namespaces::PID,
        LinuxNamespaceType::Network => Namespaces::NETWORK,
        LinuxNamespaceType::Time => Namespaces::TIME,
    }
}

pub(crate) fn plan(linux: &Linux) -> Result<Plan, Error> {
    const FIELD: &str = "linux.namespaces";
    let mut new = Namespaces::NONE;
    let mut join = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = kind(namespace.typ());
        let named = join.iter().any(|(k, _)| *k == kind);
        if new.contains(kind) || named {
            return Err(invalid(FIELD, format!("names {} twice", namespace.typ())));
        }
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => {
                if !path.is_absolute() {
                    let problem = format!("names {path:?}, which is not absolute");
                    return Err(invalid(FIELD, problem));
                }
                join.push((kind, path.clone()));
            }
            _ => new = new.with(kind),
        }
    }
    if join.iter().any(|(k, _)| *k == Namespaces::MOUNT) {
        return Err(unsupported("joining a mount namespace by path"));
    }
    if !new.contains(Namespaces::MOUNT) {
        return Err(invalid(FIELD, "has no mount namespace"));
    }
    let joins_user = join.iter().any(|(k, _)| *k == Namespaces::USER);
    let user = match new.contains(Namespaces::USER) {
        true => Some(Mappings {
            uid: Map::new("linux.uidMappings", linux.uid_mappings())?,
            gid: Map::new("linux.gidMappings", linux.gid_mappings())?,
        }),
        false => None,
    };
    let mapped = linux.uid_mappings().as_ref().is_some_and(|m| !m.is_empty());
    if mapped && user.is_none() && !joins_user {
        return Err(invalid(
            "linux.uidMappings",
            "is set, but there is no user namespace",
        ));
    }
    Ok(Plan {
        time_offsets: time_offsets(linux, new)?,
        new,
        join,
        user,
    })
}

fn time_offsets(linux: &Linux, new: Namespaces) -> Result<Option<String>, Error> {
    const FIELD: &str = "linux.timeOffsets";
    let Some(offsets) = linux.time_offsets().as_ref().filter(|o| !o.is_empty()) else {
        return Ok(None);
    };
    if !new.contains(Namespaces::TIME) {
        return Err(invalid(FIELD, "is set, but there is no new time namespace"));
    }
    let mut clocks: Vec<_> = offsets.iter().collect();
    clocks.sort_by_key(|(name, _)| name.as_str());
    let mut text = String::new();
    for (name, offset) in clocks {
        if !matches!(name.as_str(), "monotonic" | "boottime") {
            return Err(invalid(
                FIELD,
                format!("names {name:?}, which is no such clock"),
            ));
        }
        let (seconds, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {seconds} {nanos}");
    }
    Ok(Some(text))
}
