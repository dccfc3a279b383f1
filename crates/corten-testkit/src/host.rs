//! The host as a container engine could leave it: mounts, links, namespaces,
//! packet filter rules, routes. Taken before and after a test, and compared.
//!
//! Other engines may be at work on the same machine. What bears another
//! instance's name (`ct`, `corten-` or `corten_` and eight hexadecimal digits)
//! is theirs. A sandbox knows its own processes and control groups by name.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

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
            ("packet filter rule", rules()),
            ("route", routes()),
        ])
    }

    /// What came and what went, a line each; empty if nothing did. `instance` is
    /// the eight digits of the engine that this is about; without it all counts.
    pub fn changes(&self, after: &Snapshot, instance: Option<&str>) -> String {
        let ours = |line: &&String| instance.is_none_or(|own| !is_anothers(line, own));
        let mut text = String::new();
        for ((kind, before), (_, after)) in self.0.iter().zip(&after.0) {
            for new in after.difference(before).filter(ours) {
                let _ = writeln!(text, "left behind: {kind} {new}");
            }
            // A veth has no bridge for the moment after it is made.
            let stays = |line: &&String| !line.starts_with("veth");
            for gone in before.difference(after).filter(ours).filter(stays) {
                let _ = writeln!(text, "taken away: {kind} {gone}");
            }
        }
        text
    }
}

/// Names another engine's instance.
fn is_anothers(line: &str, own: &str) -> bool {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    let instance = |word: &str| {
        let digits = ["corten-", "corten_", "ct"]
            .iter()
            .find_map(|mark| word.strip_prefix(mark))?;
        let whole = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        whole.then(|| digits.to_owned())
    };
    words.filter_map(instance).any(|digits| digits != own)
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

/// The name of each link, and of the bridge that it is on. By netlink, which
/// follows the reader's network namespace; /sys follows its mount.
fn links() -> BTreeSet<String> {
    let text = tool::call("ip", &["-o", "link", "show"]).unwrap_or_default();
    let describe = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let name = words
            .next()?
            .trim_end_matches(':')
            .split('@')
            .next()?
            .to_owned();
        let bridge = words.skip_while(|word| *word != "master").nth(1);
        Some(bridge.map_or(name.clone(), |bridge| format!("{name} on {bridge}")))
    };
    text.lines().filter_map(describe).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

pub fn pids() -> impl Iterator<Item = u32> {
    names(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse().ok())
}

/// Command line of a process; none for kernel threads, zombies and the gone.
pub fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))
        .ok()
        .filter(|bytes| !bytes.is_empty())?;
    let words = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    Some(words.collect::<Vec<_>>().join(" ").trim_end().to_owned())
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

#[cfg(test)]
mod tests {
    use super::is_anothers;

    #[test]
    fn an_instance_is_known_by_its_digits() {
        let own = "0badcafe";
        for theirs in [
            "ctdeadbeef",
            "veth1 on ctdeadbeef",
            "table inet corten_deadbeef: chain a",
            "10.0.0.0/8 dev ctdeadbeef proto",
        ] {
            assert!(is_anothers(theirs, own), "{theirs}");
        }
        for ours in [
            "ct0badcafe",
            "veth1 on ct0badcafe",
            "veth1",
            "/tmp/corten-test-abc (tmpfs)",
            "table inet corten: x",
            "docker0",
        ] {
            assert!(!is_anothers(ours, own), "{ours}");
        }
    }
}
