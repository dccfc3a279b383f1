//! Where a pod's groups are: below what kubelet has made, by the driver that it was told of.

use std::path::{Component, Path};

use corten_cgroup::systemd::slice_path;

use super::error::{Refused, invalid};

const FIELD: &str = "linux.cgroup_parent";
/// Of the scopes that systemd makes.
const PREFIX: &str = "corten";

/// The path of the group of `id`, as [`Facts`](super::Facts) and the specification have it: `/PARENT/ID`, or with the
/// systemd driver `SLICE:PREFIX:ID`.
pub fn path(parent: &str, id: &str, systemd: bool) -> Result<String, Refused> {
    let name = Path::new(parent).file_name().and_then(|n| n.to_str());
    let slice = name.filter(|n| n.ends_with(".slice"));
    match (systemd, slice) {
        (true, Some(slice)) => Ok(format!("{slice}:{PREFIX}:{id}")),
        (true, None) if parent.is_empty() => Ok(format!("system.slice:{PREFIX}:{id}")),
        (true, None) => {
            let problem = format!("is {parent:?}, and the driver is systemd, which knows slices");
            Err(invalid(FIELD, problem))
        }
        (false, Some(_)) => {
            let problem = format!("is {parent:?}, a slice, and the driver is cgroupfs");
            Err(invalid(FIELD, problem))
        }
        (false, None) if parent.is_empty() => Ok(format!("/{PREFIX}/{id}")),
        (false, None) => {
            let plain = |c| matches!(c, Component::Normal(_) | Component::RootDir);
            if !Path::new(parent).components().all(plain) || parent.contains('\0') {
                let problem = format!("is {parent:?}, which is no plain path");
                return Err(invalid(FIELD, problem));
            }
            let parent = parent.trim_matches('/');
            match parent {
                "" => Ok(format!("/{id}")),
                parent => Ok(format!("/{parent}/{id}")),
            }
        }
    }
}

/// The group of the parent itself, as a path below each hierarchy's root. `None`: it is no parent of this driver's.
pub fn parent(parent: &str, systemd: bool) -> Option<String> {
    if !systemd {
        return Some(parent.into()).filter(|p: &String| !p.is_empty());
    }
    let slice = Path::new(parent).file_name()?.to_str()?;
    slice_path(slice).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_drivers() {
        let fs = |parent: &str| path(parent, "id", false).unwrap();
        assert_eq!(
            fs("/kubepods/burstable/pod1"),
            "/kubepods/burstable/pod1/id"
        );
        assert_eq!(fs("kubepods/"), "/kubepods/id");
        assert_eq!(fs(""), "/corten/id");
        assert_eq!(fs("/"), "/id");
        let systemd = |parent: &str| path(parent, "id", true).unwrap();
        assert_eq!(
            systemd("/kubepods.slice/kubepods-pod1.slice"),
            "kubepods-pod1.slice:corten:id"
        );
        assert_eq!(systemd("a.slice"), "a.slice:corten:id");
        assert_eq!(systemd(""), "system.slice:corten:id");
    }

    #[test]
    fn the_parents_own_group() {
        assert_eq!(parent("/kubepods/pod1", false).unwrap(), "/kubepods/pod1");
        assert_eq!(parent("", false), None);
        let whole = "/kubepods.slice/kubepods-pod1.slice";
        for given in [whole, "kubepods-pod1.slice"] {
            assert_eq!(parent(given, true).unwrap(), whole);
        }
        assert_eq!(parent("/kubepods", true), None);
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused() {
        for (parent, systemd) in [("a.slice", false), ("/kubepods", true), ("/a/../b", false)] {
            let error = path(parent, "id", systemd).unwrap_err().to_string();
            assert!(error.contains(parent), "{error}");
        }
    }
}
