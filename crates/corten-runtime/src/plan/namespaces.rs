//! Which namespaces are new, which are joined, and who is who in the container's user namespace.

use std::fmt::Write as _;
use std::path::PathBuf;

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use crate::error::{Error, invalid};

/// What is known of the maker's own namespaces, and of those that the spec names by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around {
    /// The maker may not mount: init makes all mounts, in namespaces of the container's own.
    pub inside: bool,
    /// The maker's ids, where it is in a user namespace itself.
    pub ids: Option<Mappings>,
    /// Named by path, and the maker's own: there is nothing to join.
    pub own: Namespaces,
    /// The ids of the user namespace that is named by path.
    pub joined: Option<Mappings>,
    /// `setgroups(2)` is denied in the user namespace that the container gets, as far as is known
    /// before one is made.
    pub groups_denied: bool,
}

#[derive(Debug)]
pub(crate) struct Plan {
    /// Made by the clone.
    pub new: Namespaces,
    /// Joined by path.
    pub join: Vec<(Namespaces, PathBuf)>,
    /// Ids of the container's user namespace, new or joined, if it is not the maker's.
    pub user: Option<Mappings>,
    /// Init makes the mounts, so that their ids are the container's.
    pub inside: bool,
    /// Lines for `timens_offsets`.
    pub time_offsets: Option<String>,
}

/// Ids of a user namespace.
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

    /// As `/proc/PID/uid_map` shows it.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace().map(str::parse::<u32>);
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(size)), None) => {
                    Some((inside, outside, size))
                }
                _ => None,
            }
        };
        text.lines().map(line).collect::<Option<_>>().map(Self)
    }

    pub fn ranges(&self) -> &[(u32, u32, u32)] {
        &self.0
    }

    /// The same ids, whatever the order and the number of lines.
    fn same(&self, other: &Self) -> bool {
        self.merged() == other.merged()
    }

    fn merged(&self) -> Vec<(u32, u32, u32)> {
        let mut ranges = self.0.clone();
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32, u32)> = Vec::new();
        for (inside, outside, size) in ranges {
            let end = |at: u32, size: u32| u64::from(at) + u64::from(size);
            match merged.last_mut() {
                Some((a, b, n))
                    if end(*a, *n) == u64::from(inside) && end(*b, *n) == u64::from(outside) =>
                {
                    *n = n.saturating_add(size);
                }
                _ => merged.push((inside, outside, size)),
            }
        }
        merged
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

    /// Is there a new user namespace, whose ids are to be mapped?
    pub fn makes_user(&self) -> bool {
        self.new.contains(Namespaces::USER)
    }

    /// May the network namespace be made while other things are done? It then belongs to the maker's user
    /// namespace. And for that moment the maker has a thread more, with which it may not join user or
    /// time namespaces (setns(2)).
    pub fn network_ahead(&self) -> bool {
        let joins = [Namespaces::USER, Namespaces::PID, Namespaces::TIME];
        self.new.contains(Namespaces::NETWORK)
            && self.user.is_none()
            && !self.inside
            && self.time_offsets.is_none()
            && !joins.into_iter().any(|kind| self.joined(kind))
    }

    /// The user id `uid` of the container as who makes the mounts knows it: the host's, or if init makes
    /// them, the same. `None`: it is not mapped.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        let host = self.user.as_ref().map_or(Some(uid), |m| m.uid.host(uid))?;
        Some(if self.inside { uid } else { host })
    }

    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        let host = self.user.as_ref().map_or(Some(gid), |m| m.gid.host(gid))?;
        Some(if self.inside { gid } else { host })
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

const FIELD: &str = "linux.namespaces";

pub(crate) fn plan(linux: &Linux, around: &Around) -> Result<Plan, Error> {
    let mut new = Namespaces::NONE;
    let mut join: Vec<(Namespaces, PathBuf)> = Vec::new();
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
    // One's own is no namespace apart, whatever it is called; and the kernel refuses to join one's own user
    // namespace. Of the mount namespace it matters whether it is new or not, and joining it does no harm.
    join.retain(|(kind, _)| *kind == Namespaces::MOUNT || !around.own.contains(*kind));
    let has = |kind| new.contains(kind) || join.iter().any(|(k, _)| *k == kind);
    if !has(Namespaces::MOUNT) {
        return Err(invalid(FIELD, "has no mount namespace"));
    }
    if new.contains(Namespaces::USER) && join.iter().any(|(k, _)| *k == Namespaces::MOUNT) {
        let problem = "joins a mount namespace and makes a user namespace, whose root could mount nothing there";
        return Err(invalid(FIELD, problem));
    }
    if around.inside && around.ids.is_none() && !has(Namespaces::USER) {
        let problem =
            "has no user namespace, without which a caller without CAP_SYS_ADMIN can mount nothing";
        return Err(invalid(FIELD, problem));
    }
    Ok(Plan {
        time_offsets: time_offsets(linux, new)?,
        user: user(linux, new.contains(Namespaces::USER), around)?,
        inside: around.inside,
        new,
        join,
    })
}

/// Who is who: as the spec has it for a new user namespace, as it is for a joined one.
fn user(linux: &Linux, new: bool, around: &Around) -> Result<Option<Mappings>, Error> {
    const UIDS: &str = "linux.uidMappings";
    const GIDS: &str = "linux.gidMappings";
    let given = |m: &Option<Vec<LinuxIdMapping>>| m.as_ref().is_some_and(|m| !m.is_empty());
    if new {
        let ids = Mappings {
            uid: Map::new(UIDS, linux.uid_mappings())?,
            gid: Map::new(GIDS, linux.gid_mappings())?,
        };
        // Whoever sets the container up is its root until the program's own user is set.
        for (field, map) in [(UIDS, &ids.uid), (GIDS, &ids.gid)] {
            if map.host(0).is_none() {
                return Err(invalid(field, "does not map the container's id 0"));
            }
        }
        within(&ids, around)?;
        return Ok(Some(ids));
    }
    if around.own.contains(Namespaces::USER) {
        // Named by path is the maker's own, where every id is itself. Podman maps what it needs of them.
        for (field, asked) in [(UIDS, linux.uid_mappings()), (GIDS, linux.gid_mappings())] {
            let mut ranges = asked.iter().flatten();
            if ranges.any(|m| m.container_id() != m.host_id()) {
                return Err(invalid(field, "is not what the joined user namespace maps"));
            }
        }
        return Ok(None);
    }
    for (field, asked, found) in [
        (
            UIDS,
            linux.uid_mappings(),
            around.joined.as_ref().map(|j| &j.uid),
        ),
        (
            GIDS,
            linux.gid_mappings(),
            around.joined.as_ref().map(|j| &j.gid),
        ),
    ] {
        match found {
            _ if !given(asked) => {}
            // containerd sends the mappings along with the path.
            Some(found) if Map::new(field, asked)?.same(found) => {}
            Some(_) => return Err(invalid(field, "is not what the joined user namespace maps")),
            None => return Err(invalid(field, "is set, but there is no user namespace")),
        }
    }
    Ok(around.joined.clone())
}

/// In a user namespace, only its own ids can be given on.
fn within(ids: &Mappings, around: &Around) -> Result<(), Error> {
    let Some(own) = &around.ids else {
        return Ok(());
    };
    for (field, map, own) in [
        ("linux.uidMappings", &ids.uid, &own.uid),
        ("linux.gidMappings", &ids.gid, &own.gid),
    ] {
        let merged = own.merged();
        let covered = |first: u32, size: u32| {
            let (first, end) = (u64::from(first), u64::from(first) + u64::from(size));
            merged.iter().any(|(inside, _, n)| {
                let (from, to) = (u64::from(*inside), u64::from(*inside) + u64::from(*n));
                from <= first && end <= to
            })
        };
        if let Some((_, first, size)) = map.0.iter().find(|(_, b, n)| !covered(*b, *n)) {
            return Err(invalid(
                field,
                format!(
                    "maps {size} ids from {first} up, and the runtime's own user namespace has not all of them"
                ),
            ));
        }
    }
    Ok(())
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
        // time_namespaces(7), and KTIME_SEC_MAX / 2 of linux/ktime.h.
        const SECONDS_MAX: u64 = 9_223_372_036 / 2;
        if nanos >= 1_000_000_000 || seconds.unsigned_abs() > SECONDS_MAX {
            let problem = format!(
                "moves {name} by {seconds} s and {nanos} ns, and must stay within {SECONDS_MAX} s and below 1000000000 ns"
            );
            return Err(invalid(FIELD, problem));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {seconds} {nanos}");
    }
    Ok(Some(text))
}
