//! How this host mounts its control groups.
//!
//! Found with `statfs` on the places where every distribution has them; the
//! mount table, which grows with the containers of a host, is never parsed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, statfs};
use rustix::io::Errno;

use crate::Error;

/// `f_type` of a v1 hierarchy and of the unified one (`linux/magic.h`).
const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

const ROOT: &str = "/sys/fs/cgroup";

/// One mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted: `/sys/fs/cgroup/cpu,cpuacct`.
    pub root: PathBuf,
    /// What it controls: `["cpu", "cpuacct"]`. Empty for a named one, such as systemd's.
    pub controllers: Vec<String>,
}

/// The host's hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only v1 hierarchies.
    V1 { hierarchies: Vec<Hierarchy> },
    /// One unified tree.
    V2 { root: PathBuf },
    /// v1 hierarchies, and a v2 tree beside them that has the leftover
    /// controllers, often none. Its `cgroup.kill` and `cgroup.events` work all the same.
    Hybrid {
        hierarchies: Vec<Hierarchy>,
        unified: PathBuf,
    },
}

impl Layout {
    /// Looks at `/sys/fs/cgroup`: about a dozen system calls.
    pub fn probe() -> Result<Self, Error> {
        let root = Path::new(ROOT);
        if magic(root)? == CGROUP2_SUPER_MAGIC {
            return Ok(Self::V2 { root: root.into() });
        }
        let mut hierarchies = Vec::new();
        let mut unified = None;
        for name in child_names(root)? {
            let path = root.join(&name);
            match magic(&path)? {
                CGROUP_SUPER_MAGIC => hierarchies.push(hierarchy(path, &name)),
                CGROUP2_SUPER_MAGIC => unified = Some(path),
                _ => {}
            }
        }
        match (hierarchies.is_empty(), unified) {
            (true, None) => Err(Error::NotMounted { path: root.into() }),
            (true, Some(root)) => Ok(Self::V2 { root }),
            (false, None) => Ok(Self::V1 { hierarchies }),
            (false, Some(unified)) => Ok(Self::Hybrid {
                hierarchies,
                unified,
            }),
        }
    }

    /// The groups directly below `prefix` in any hierarchy, as full paths
    /// (`/corten/web-1`), sorted. A prefix that exists nowhere has none.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let prefix = crate::group::checked(prefix)?;
        let mut found = BTreeSet::new();
        for root in self.roots() {
            let folder = root.join(prefix.trim_start_matches('/'));
            match child_names(&folder) {
                Ok(names) => found.extend(names.into_iter().map(|n| format!("{prefix}/{n}"))),
                Err(Error::Probe {
                    source: Errno::NOENT,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The v1 hierarchies; none on a pure v2 host.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        match self {
            Self::V1 { hierarchies } | Self::Hybrid { hierarchies, .. } => hierarchies,
            Self::V2 { .. } => &[],
        }
    }

    /// The unified tree's root, if there is one.
    pub fn unified(&self) -> Option<&Path> {
        match self {
            Self::V1 { .. } => None,
            Self::V2 { root: unified } | Self::Hybrid { unified, .. } => Some(unified),
        }
    }

    /// Can this host limit what `controller` is for?
    pub fn controls(&self, controller: &str) -> bool {
        let listed = |root: &Path| {
            let list = std::fs::read_to_string(root.join("cgroup.controllers"));
            let list = list.unwrap_or_default();
            list.split_ascii_whitespace().any(|c| c == controller)
        };
        let mut v1 = self.hierarchies().iter();
        v1.any(|h| h.controllers.iter().any(|c| c == controller))
            || self.unified().is_some_and(listed)
    }

    fn roots(&self) -> impl Iterator<Item = &Path> {
        let v1 = self.hierarchies().iter().map(|h| h.root.as_path());
        v1.chain(self.unified())
    }
}

fn magic(path: &Path) -> Result<u64, Error> {
    match statfs(path) {
        Ok(found) => Ok(found.f_type as u64),
        Err(Errno::NOENT) => Err(Error::NotMounted { path: path.into() }),
        Err(source) => Err(Error::Probe {
            path: path.into(),
            source,
        }),
    }
}

/// Child folders by name. Links (`cpu -> cpu,cpuacct`) are other names of what is
/// already listed, so they are left out.
fn child_names(folder: &Path) -> Result<Vec<String>, Error> {
    let probe = |source| Error::Probe {
        path: folder.into(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, folder, flags, Mode::empty()).map_err(probe)?;
    let mut names = Vec::new();
    for entry in Dir::new(fd).map_err(probe)? {
        let entry = entry.map_err(probe)?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type().is_dir() && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The mount point's name lists the controllers by convention (systemd, mount
/// scripts); `systemd` and other unknown names are named hierarchies without any.
fn hierarchy(root: PathBuf, name: &str) -> Hierarchy {
    const KNOWN: [&str; 14] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "debug",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
    ];
    let known = |c: &&str| KNOWN.contains(c) || *c == "rdma";
    let controllers = name.split(',').filter(known).map(String::from).collect();
    Hierarchy { root, controllers }
}
