//! Control groups that peers leave behind: namespaces do not hold them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// The group that the bench's own containers live in.
const OWN: &str = "corten-bench";
const DELEGATED: &str = "/sys/fs/cgroup/unified/cgroup.subtree_control";

/// The groups at one moment, and what the v2 root hands down.
pub struct Groups {
    folders: BTreeSet<PathBuf>,
    delegated: String,
}

impl Groups {
    pub fn take() -> Groups {
        Groups {
            folders: folders(),
            delegated: fs::read_to_string(DELEGATED).unwrap_or_default(),
        }
    }

    /// Removes the groups that came since, if they are empty and a peer's or ours by name.
    pub fn restore(&self) -> Result<()> {
        self.restore_where(is_engines)
    }

    /// The same for what a bench of runtimes alone makes, all of it below one name.
    pub fn restore_own(&self) -> Result<()> {
        self.restore_where(|folder| folder.components().any(|part| part.as_os_str() == OWN))
    }

    fn restore_where(&self, ours: impl Fn(&Path) -> bool) -> Result<()> {
        let after = folders();
        // A folder after everything below it.
        let new: Vec<&PathBuf> = after
            .difference(&self.folders)
            .filter(|path| ours(path))
            .collect();
        for folder in new.into_iter().rev() {
            // Tests of this project on the same machine have groups of these names too, and use them.
            if let Err(why) = fs::remove_dir(folder) {
                eprintln!("bench: {} stays: {why}", folder.display());
            }
        }
        let now = fs::read_to_string(DELEGATED).unwrap_or_default();
        for controller in now
            .split_whitespace()
            .filter(|name| !self.delegated.split_whitespace().any(|old| old == *name))
        {
            // Runtimes on cgroup v2 turn controllers on for their group and leave them so.
            fs::write(DELEGATED, format!("-{controller}")).context(DELEGATED)?;
        }
        Ok(())
    }
}

/// Others use this machine too: only what an engine of this bench makes.
fn is_engines(folder: &Path) -> bool {
    let below = folder.strip_prefix(ROOT).unwrap_or(folder);
    let mut names = below
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    let hierarchy = names.next().unwrap_or_default();
    match names.next() {
        // podman makes plain folders for v1 controllers that this host has not.
        None => ["hugetlb", "net_cls", "net_prio", "perf_event"].contains(&hierarchy.as_str()),
        Some(group) => {
            ["libpod_parent", "docker", "default", OWN, "conmon"].contains(&group.as_str())
                || group.starts_with("libpod-")
                || group.starts_with("bench-")
                || group.starts_with("corten-")
        }
    }
}

fn folders() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut queue = vec![PathBuf::from(ROOT)];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                queue.push(entry.path());
            }
        }
    }
    found
}
