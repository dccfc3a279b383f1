//! The host as a container engine could leave it: mounts, links, namespaces,
//! control groups, processes, packet filter rules, routes. Taken before and
//! after a test, and compared. (A port left open is a process left behind.)

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tool;

/// Everything that a test must not change, a set a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<(&'static str, BTreeSet<String>)>);

impl Snapshot {
    pub fn take() -> Snapshot {
        Snapshot(vec![
            ("mount", mounts()),
            ("link", links()),
            ("network namespace", names(Path::new("/run/netns"))),
            ("control group", cgroups()),
            ("process", processes()),
            ("packet filter rule", rules()),
            ("route", routes()),
        ])
    }

    /// What came and what went, a line each; empty if nothing did.
    pub fn changes(&self, after: &Snapshot) -> String {
        let mut text = String::new();
        for ((kind, before), (_, after)) in self.0.iter().zip(&after.0) {
            for new in after.difference(before) {
                let _ = writeln!(text, "left behind: {kind} {new}");
            }
            for gone in before
                .difference(after)
                .filter(|_| matches!(*kind, "mount" | "link" | "route" | "packet filter rule"))
            {
                let _ = writeln!(text, "taken away: {kind} {gone}");
            }
        }
        text
    }
}

/// Mount point, type and source; the ids and the optional fields may change.
fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let short = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        Some(format!("{} ({right})", left.split(' ').nth(4)?))
    };
    text.lines().filter_map(short).collect()
}

/// By /proc, which follows the reader's network namespace; /sys follows its mount.
fn links() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let named = text.lines().filter_map(|line| line.split_once(':'));
    named.map(|(name, _)| name.trim().to_owned()).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Ours only: peers leave their own parents behind, and that is their matter.
fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let root = Path::new("/sys/fs/cgroup");
    let mut queue: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let text = entry.path().to_string_lossy().into_owned();
            // The default engine's own group may stay, for its next container. Sandboxes look after theirs.
            if text.contains("/corten/") {
                found.insert(text);
            }
            queue.push(entry.path());
        }
    }
    found
}

/// Processes in a group of ours, or of one of our binary's names.
fn processes() -> BTreeSet<String> {
    pids()
        .filter_map(|pid| describe(pid).filter(|text| is_ours(pid, text)))
        .collect()
}

pub fn pids() -> impl Iterator<Item = u32> {
    names(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse().ok())
}

/// Command line of a process; none for kernel threads, zombies and the gone.
pub(crate) fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))
        .ok()
        .filter(|bytes| !bytes.is_empty())?;
    Some(
        bytes
            .split(|&byte| byte == 0)
            .map(String::from_utf8_lossy)
            .collect::<Vec<_>>()
            .join(" ")
            .trim_end()
            .to_owned(),
    )
}

fn describe(pid: u32) -> Option<String> {
    Some(format!("{pid} {}", command_line(pid)?))
}

fn is_ours(pid: u32, text: &str) -> bool {
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    group.contains(":/corten")
        || exe
            .file_name()
            .is_some_and(|name| name == "corten" || name == "corten (deleted)")
        || text.contains("containerd-shim-corten")
}

fn rules() -> BTreeSet<String> {
    // Handles and counters come and go with every change; the words alone matter.
    let text = tool::call("nft", &["--stateless", "list", "ruleset"]).unwrap_or_default();
    let mut table = String::new();
    let mut found = BTreeSet::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "}")
    {
        if line.starts_with("table ") {
            table = line.trim_end_matches(" {").to_owned();
        }
        found.insert(format!("{table}: {line}"));
    }
    found
}

fn routes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for family in ["-4", "-6"] {
        let text = tool::call("ip", &[family, "route", "show"]).unwrap_or_default();
        // A link that lost its last port says so on its routes.
        found.extend(
            text.lines()
                .map(|line| line.replace(" linkdown", "").trim_end().to_owned()),
        );
    }
    found
}
