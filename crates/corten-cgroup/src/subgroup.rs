//! The way into a container's group for a process that is added later: the group itself, one below it, or the
//! one where init is.
//!
//! Version 2 lets no group both hold processes and hand controllers down (cgroups(7), "no internal
//! processes"). A container that manages groups of its own (a systemd, a docker in it) has moved its init
//! to a leaf, and its top group takes nobody any more; then init's group is the place, as with runc.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::dir::{Dir, open_child};
use crate::group::{Cgroup, Entry, checked};
use crate::{Error, dir};

/// A group below the container's that a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// A v1 controller; `None` for version 2.
    pub controller: Option<String>,
    /// Relative to the container's group; `/` is that group itself.
    pub path: String,
}

impl Cgroup {
    /// How to put a process more into the container whose init is `init`. Groups asked for must be there.
    pub fn entry_beside(&self, init: u32, below: &[Below]) -> Result<Entry, Error> {
        let mut entry = Entry {
            v2: None,
            v1_tasks: Vec::new(),
        };
        for asked in below {
            self.find(asked)?;
        }
        for dir in &self.dirs {
            let asked = below.iter().find(|b| self.names(b, dir));
            let path = match asked {
                Some(below) => relative(&below.path)?,
                None if dir.v2 && self.is_pure_v2() => self.beside(dir, init)?,
                None => String::new(),
            };
            let open = |source| Error::Open {
                group: format!("{}/{path}", self.path),
                hierarchy: dir.root.clone(),
                source,
            };
            let group = descend(dir, &path).map_err(open)?;
            if dir.v2 {
                entry.v2 = Some(group);
            } else {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let tasks = openat(&group, "tasks", flags, Mode::empty()).map_err(open)?;
                entry.v1_tasks.push(tasks);
            }
        }
        Ok(entry)
    }

    /// Whether a process more would stand still at once: the group is frozen, or, by the container itself, the one below it where its
    /// init is.
    pub fn is_frozen_beside(&self, init: u32) -> Result<bool, Error> {
        if self.is_frozen()? {
            return Ok(true);
        }
        let Some(dir) = self.unified().filter(|_| self.is_pure_v2()) else {
            return Ok(false);
        };
        match &*self.beside(dir, init)? {
            "" => Ok(false),
            below => {
                let events = dir.read(&self.path, &format!("{below}/cgroup.events"))?;
                Ok(events.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// Is it this hierarchy that is meant? Without a controller, only where there is but one.
    fn names(&self, below: &Below, dir: &Dir) -> bool {
        match &below.controller {
            Some(controller) => !dir.v2 && dir.has(controller),
            None => self.is_pure_v2(),
        }
    }

    /// A controller that no hierarchy has cannot be asked for.
    fn find(&self, asked: &Below) -> Result<(), Error> {
        if self.dirs.iter().any(|dir| self.names(asked, dir)) {
            return Ok(());
        }
        Err(Error::Invalid {
            setting: "cgroup".into(),
            value: match &asked.controller {
                Some(controller) => format!("{controller}:{}", asked.path),
                None => asked.path.clone(),
            },
            reason: match asked.controller {
                Some(_) => "no hierarchy of this host has the controller",
                None => "this host has cgroup v1, so a controller must be named",
            },
        })
    }

    /// Where in the container's group its init is, if the group itself takes no process.
    fn beside(&self, dir: &Dir, init: u32) -> Result<String, Error> {
        let handed_down = dir.read(&self.path, "cgroup.subtree_control")?;
        if handed_down.trim().is_empty() {
            return Ok(String::new());
        }
        let file = format!("/proc/{init}/cgroup");
        let text = dir::read_path(&file).map_err(|source| Error::Read {
            file: file.clone(),
            group: self.path.clone(),
            source,
        })?;
        let own = text.lines().find_map(|l| l.strip_prefix("0::"));
        // As seen from here; under a cgroup namespace of ours the path may begin elsewhere.
        let below = own.and_then(|path| path.split_once(&format!("{}/", self.path)));
        Ok(below.map_or(String::new(), |(_, below)| below.to_owned()))
    }
}

/// A path that stays below: `.` and `..` are no names.
fn relative(path: &str) -> Result<String, Error> {
    let path = path.trim_matches('/');
    match path {
        "" => Ok(String::new()),
        path => checked(&format!("/{path}")).map(|p| p.trim_start_matches('/').to_owned()),
    }
}

fn descend(dir: &Dir, path: &str) -> Result<OwnedFd, Errno> {
    let mut at = open_child(dir.fd.as_fd(), ".")?;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        at = open_child(at.as_fd(), name)?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below() {
        assert_eq!(relative("/").unwrap(), "");
        assert_eq!(relative("a/b/").unwrap(), "a/b");
        assert_eq!(relative("/a").unwrap(), "a");
        for path in ["..", "a/../../b", "/a//b", "a/./b"] {
            assert!(relative(path).is_err(), "{path}");
        }
    }
}
