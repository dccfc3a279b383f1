//! User namespaces that only say which ids are which, for id-mapped mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::mount;
use corten_sys::namespace::Namespaces;
use corten_sys::process::{self, Clone};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::idmap::map;
use crate::error::{Error, failed};
use crate::plan::idmap::{IdMap, Ids};
use crate::plan::namespaces::Mappings;

/// One namespace for each different mapping.
#[derive(Debug, Default)]
pub(crate) struct Users(Vec<(Ids, OwnedFd)>);

impl Users {
    /// Maps the ids of `tree`, which is to be mounted at `target`.
    pub fn map(&mut self, tree: BorrowedFd<'_>, idmap: &IdMap, target: &Path) -> Result<(), Error> {
        let known = self.0.iter().position(|(ids, _)| *ids == idmap.ids);
        let at = match known {
            Some(at) => at,
            None => {
                self.0.push((idmap.ids.clone(), open(&idmap.ids)?));
                self.0.len() - 1
            }
        };
        mount::idmap(tree, &self.0[at].1, idmap.recursive)
            .map_err(failed("map the ids of the mount on", target))
    }
}

fn open(ids: &Ids) -> Result<OwnedFd, Error> {
    let of = |path: &Path| {
        openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open the namespace", path))
    };
    match ids {
        Ids::Joined(path) => of(path),
        Ids::Own(mappings) => made(mappings, of),
    }
}

/// A namespace of a process that lives no longer than it takes to open it.
fn made(
    mappings: &Mappings,
    of: impl FnOnce(&Path) -> Result<OwnedFd, Error>,
) -> Result<OwnedFd, Error> {
    let request = Clone {
        namespaces: Namespaces::USER,
        ..Clone::default()
    };
    let maker = rustix::process::getpid();
    let child = process::clone(&request, || {
        let tied = set_parent_process_death_signal(Some(Signal::KILL));
        // A maker that died before is seen by our having another parent.
        while tied.is_ok() && rustix::process::getppid() == Some(maker) {
            rustix::event::pause();
        }
        1
    })
    .map_err(failed("make the namespace", "user"))?;
    let opened = map(child.pid, mappings, true).and_then(|()| {
        of(&Path::new("/proc")
            .join(child.pid.to_string())
            .join("ns/user"))
    });
    // It does nothing but wait for this.
    let ended =
        process::send_signal(&child.pidfd, 9).and_then(|()| process::wait(child.pidfd.as_fd()));
    ended.map_err(failed("end", "the process of a user namespace"))?;
    opened
}
