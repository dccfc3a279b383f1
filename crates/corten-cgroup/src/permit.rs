//! What somebody without rights may do: delegated groups, and no others.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::group::Cgroup;
use crate::{Error, Layout};

/// Was the caller refused for who it is?
pub fn is_refusal(error: &Error) -> bool {
    let refused = |errno: &Errno| matches!(*errno, Errno::ACCESS | Errno::PERM | Errno::ROFS);
    match error {
        Error::Create { source, .. } | Error::Open { source, .. } | Error::Write { source, .. } => {
            refused(source)
        }
        Error::NotMounted { .. } => true,
        _ => false,
    }
}

/// May the caller move itself to `path` on v2? That takes the right to write to `cgroup.procs` of the closest
/// group above both places (cgroups(7), "Delegation").
pub(crate) fn crossing(root: &Path, path: &str) -> Result<(), Error> {
    let own = own(true, &[])?.unwrap_or_default();
    let above = root.join(common(&own, path)).join("cgroup.procs");
    accessat(CWD, &above, Access::WRITE_OK, AtFlags::EACCESS).map_err(|source| Error::Open {
        group: path.into(),
        hierarchy: root.into(),
        source,
    })
}

/// May the caller write to the group's list of processes?
pub(crate) fn entry(group: &Cgroup) -> Result<(), Error> {
    for dir in &group.dirs {
        let file = if dir.v2 { "cgroup.procs" } else { "tasks" };
        accessat(&dir.fd, file, Access::WRITE_OK, AtFlags::EACCESS).map_err(|source| {
            Error::Open {
                group: group.path.clone(),
                hierarchy: dir.root.clone(),
                source,
            }
        })?;
    }
    Ok(())
}

/// The path that both begin with, without a slash at its start.
fn common(a: &str, b: &str) -> String {
    let parts = |path: &str| -> Vec<String> {
        path.split('/')
            .filter(|p| !p.is_empty())
            .map(String::from)
            .collect()
    };
    let same = parts(a)
        .into_iter()
        .zip(parts(b))
        .take_while(|(a, b)| a == b);
    same.map(|(a, _)| a).collect::<Vec<_>>().join("/")
}

/// The calling process's own group in the hierarchy that is mounted at `root`, as its own cgroup namespace shows
/// it. `None`: it is none of the layout's.
pub fn own_group(layout: &Layout, root: &Path) -> Result<Option<String>, Error> {
    if layout.unified() == Some(root) {
        return own(true, &[]);
    }
    match layout.hierarchies().iter().find(|h| h.root == root) {
        Some(hierarchy) if hierarchy.controllers.is_empty() => {
            let name = root
                .file_name()
                .map(|n| format!("name={}", n.to_string_lossy()));
            own(false, &[name.unwrap_or_default()])
        }
        Some(hierarchy) => own(false, &hierarchy.controllers),
        None => Ok(None),
    }
}

fn own(unified: bool, controllers: &[String]) -> Result<Option<String>, Error> {
    const FILE: &str = "/proc/self/cgroup";
    let text = std::fs::read_to_string(FILE).map_err(|error| Error::Probe {
        path: FILE.into(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    Ok(find(&text, unified, controllers))
}

/// Lines are `ID:CONTROLLERS:PATH`; the unified tree's is `0::PATH`.
fn find(text: &str, unified: bool, controllers: &[String]) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match unified {
            true => id == "0" && names.is_empty(),
            false => names
                .split(',')
                .any(|name| controllers.iter().any(|c| c == name)),
        };
        // Of a process that is outside its cgroup namespace; such a path leads nowhere from here.
        (found && !path.starts_with("/..")).then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_read_off_the_kernels_list() {
        let text = "4:cpu,cpuacct:/a\n1:name=systemd:/s:x\n0::/user/b\n";
        let find = |unified, names: &[&str]| {
            find(
                text,
                unified,
                &names.iter().map(|n| n.to_string()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(find(true, &[]).as_deref(), Some("/user/b"));
        assert_eq!(find(false, &["cpuacct"]).as_deref(), Some("/a"));
        assert_eq!(find(false, &["name=systemd"]).as_deref(), Some("/s:x"));
        assert_eq!(find(false, &["memory"]), None);
    }

    #[test]
    fn the_closest_group_above_both() {
        assert_eq!(common("/a/b/c", "/a/b/d/e"), "a/b");
        assert_eq!(common("/a", "/b"), "");
        assert_eq!(common("/ab", "/a"), "");
    }
}
