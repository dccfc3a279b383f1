//! The ids of a new user namespace, written from outside.
//!
//! Who has `CAP_SETUID` and `CAP_SETGID` maps any. Who has not may map one id, their own; for more there are
//! `newuidmap` and `newgidmap` (shadow), which have the rights and look up in `/etc/subuid` and
//! `/etc/subgid` what is the caller's (user_namespaces(7), subuid(5)).

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{getegid, geteuid, getgid, getuid};

use super::launch::write_file;
use crate::error::Error;
use crate::plan::namespaces::{Map, Mappings};

/// Maps the ids of the process `pid`'s user namespace; `any`: we may map whatever we like.
pub(crate) fn map(pid: u32, mappings: &Mappings, any: bool) -> Result<(), Error> {
    let folder = Path::new("/proc").join(pid.to_string());
    let direct = |file: &str, map: &Map| write_file(&folder.join(file), &map.text());
    if any || only(&mappings.uid, geteuid().as_raw()) {
        direct("uid_map", &mappings.uid)?;
    } else {
        USERS.run(pid, &mappings.uid)?;
    }
    if any {
        return direct("gid_map", &mappings.gid);
    }
    if only(&mappings.gid, getegid().as_raw()) {
        // Else one could drop a group, and with it what the group is denied (CVE-2014-8989).
        write_file(&folder.join("setgroups"), "deny")?;
        return direct("gid_map", &mappings.gid);
    }
    GROUPS.run(pid, &mappings.gid)
}

/// Is it one id, and that one?
fn only(map: &Map, id: u32) -> bool {
    matches!(map.ranges(), [(_, outside, 1)] if *outside == id)
}

struct Helper {
    program: &'static str,
    file: &'static str,
    what: &'static str,
}

const USERS: Helper = Helper {
    program: "newuidmap",
    file: "/etc/subuid",
    what: "user",
};
const GROUPS: Helper = Helper {
    program: "newgidmap",
    file: "/etc/subgid",
    what: "group",
};

impl Helper {
    fn run(&self, pid: u32, map: &Map) -> Result<(), Error> {
        let problem = |problem: String| Error::IdMap {
            program: self.program,
            problem,
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = find(self.program, &path)
            .ok_or_else(|| problem("is not installed (package uidmap or shadow-utils)".into()))?;
        let ids = map.ranges().iter().flat_map(|(a, b, n)| [a, b, n]);
        let output = Command::new(&program)
            .arg(pid.to_string())
            .args(ids.map(u32::to_string))
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(|e| problem(format!("cannot be run: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it did not say why").trim();
        Err(problem(match self.missing(map) {
            Some(missing) => missing,
            None => format!("failed: {said}"),
        }))
    }

    /// The first range that the file does not give us. A host may keep ranges elsewhere (nsswitch.conf), so
    /// that is asked only after the program has refused.
    fn missing(&self, map: &Map) -> Option<String> {
        let text = std::fs::read_to_string(self.file).unwrap_or_default();
        let uid = getuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let given = given(&text, uid, name_of(&passwd, uid));
        let own = match self.what {
            "user" => uid,
            _ => getgid().as_raw(),
        };
        let (inside, outside, size) = map.ranges().iter().find(|(_, outside, size)| {
            let (first, end) = (u64::from(*outside), u64::from(*outside) + u64::from(*size));
            let fits = |(from, count): &(u64, u64)| *from <= first && end <= from + count;
            !(given.iter().any(fits) || (*size == 1 && *outside == own))
        })?;
        let has = match given.as_slice() {
            [] => "none".to_owned(),
            some => {
                let ranges = some
                    .iter()
                    .map(|(a, n)| format!("{a}-{}", a + n.saturating_sub(1)));
                ranges.collect::<Vec<_>>().join(", ")
            }
        };
        Some(format!(
            "refuses to map the container's {} ids {inside}-{} to {outside}-{}: {} does not give them to user {uid}, who has {has}",
            self.what,
            u64::from(*inside) + u64::from(*size) - 1,
            u64::from(*outside) + u64::from(*size) - 1,
            self.file,
        ))
    }
}

/// In the host's folders of PATH: never in one that is named relative to where we happen to be, nor a
/// file that somebody else than root could have put there.
fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    let usual = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(path).filter(|f| f.is_absolute());
    let mut candidates = folders.chain(usual).map(|folder| folder.join(program));
    candidates.find(|file| {
        let own = getuid().as_raw();
        std::fs::metadata(file).is_ok_and(|meta| {
            meta.is_file() && meta.permissions().mode() & 0o111 != 0
                // Root's, that is, who in a user namespace may be the overflow id.
                && (own == 0 || meta.uid() != own)
        })
    })
}

fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// Ranges of a user, as (first, count); lines are `USER-OR-UID:FIRST:COUNT`.
fn given(text: &str, uid: u32, name: Option<&str>) -> Vec<(u64, u64)> {
    let number = uid.to_string();
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let first = fields.next()?.parse::<u32>().ok()?;
        let count = fields.next()?.parse::<u32>().ok()?;
        (user == number || Some(user) == name).then_some((first.into(), count.into()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let text = "# none\nweb:100000:65536\n33:300000:5\nroot:1:1\nweb:bad:1\n";
        assert_eq!(
            given(text, 33, Some("web")),
            [(100_000, 65_536), (300_000, 5)]
        );
        assert_eq!(given(text, 34, None), []);
        assert_eq!(
            name_of("root:x:0:0::/:\nweb:x:33:33::/:\n", 33),
            Some("web")
        );
    }

    #[test]
    fn one_own_id_needs_no_helper() {
        let map = |text| Map::parse(text).unwrap();
        assert!(only(&map("0 1000 1\n"), 1000));
        assert!(only(&map("5 1000 1\n"), 1000));
        assert!(!only(&map("0 1001 1\n"), 1000));
        assert!(!only(&map("0 1000 2\n"), 1000));
        assert!(!only(&map("0 1000 1\n1 100000 1\n"), 1000));
    }

    #[test]
    fn helpers_are_not_looked_for_where_we_stand() {
        assert_eq!(find("no-such-helper", OsStr::new(".:bin:/usr/bin")), None);
        let here = std::env::current_dir().unwrap();
        assert!(find("Cargo.toml", OsStr::new(".")).is_none(), "{here:?}");
    }
}
