//! A group that is given to a user: its folder, and the files with which groups below it are made and filled. Its limits stay with
//! whoever has made it.

use rustix::fs::{AtFlags, Uid, chownat};
use rustix::io::Errno;

use crate::Error;
use crate::group::Cgroup;

/// Names the files, a line each (Linux 4.15; `cgroup-v2.rst`, "Delegation").
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// Those of the first kernels with version 2.
const ALWAYS: [&str; 2] = ["cgroup.procs", "cgroup.subtree_control"];

impl Cgroup {
    /// Gives the group to `uid`, on hosts with version 2 alone: in version 1 a user with groups of its own is a user without limits.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        let Some(dir) = self.unified().filter(|_| self.is_pure_v2()) else {
            return Ok(());
        };
        let give = |name: &str| {
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            match chownat(&dir.fd, name, Some(Uid::from_raw(uid)), None, flags) {
                // Of a controller that this group does not have.
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(source) => Err(Error::Give {
                    file: if name.is_empty() { "." } else { name }.into(),
                    group: self.path.clone(),
                    uid,
                    source,
                }),
            }
        };
        give("")?;
        match std::fs::read_to_string(LIST) {
            // A name leads nowhere but into the group.
            Ok(list) => list
                .lines()
                .filter(|n| !n.is_empty() && !n.contains('/'))
                .try_for_each(give),
            Err(_) => ALWAYS.into_iter().try_for_each(give),
        }
    }
}
