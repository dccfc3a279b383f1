//! The control groups, as criu is to find them: a folder with each hierarchy under the name that criu has for it.
//!
//! Left to itself criu mounts cgroup2 anew. In the host's cgroup namespace such a mount gives its options, none, to the one
//! hierarchy that there is (cgroup.c, `apply_cgroup_root_flags`): the host would lose `nsdelegate`, the wall around delegated
//! groups, until somebody mounts it again. In a yard criu finds what is mounted already. On hosts with version 1 there is none: criu
//! has a name of its own for each combination of controllers there, and the mounts have no options that could be lost.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use corten_cgroup::Layout;

use crate::error::{Error, failed_io};
use crate::state::refused;

/// criu's name for version 2.
pub(crate) const UNIFIED: &str = "unified";

/// Where version 2 alone is mounted.
pub(crate) fn hierarchy() -> Result<Option<PathBuf>, Error> {
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    Ok(match layout {
        Layout::V2 { root } => Some(root),
        Layout::V1 { .. } | Layout::Hybrid { .. } => None,
    })
}

/// A yard for a dump, which does no more than look: a link is enough. Dropped, it goes; what a kill leaves goes with the folder.
#[derive(Debug)]
pub(crate) struct Yard(PathBuf);

impl Yard {
    /// In the container's own folder.
    pub fn lay(folder: &Path) -> Result<Option<Self>, Error> {
        let Some(root) = hierarchy()? else {
            return Ok(None);
        };
        let at = folder.join(format!("yard-{}", std::process::id()));
        // Of an earlier process with our id, which was killed.
        drop(Self(at.clone()));
        std::fs::create_dir(&at).map_err(failed_io("make the folder", &at))?;
        let yard = Self(at);
        let link = yard.0.join(UNIFIED);
        symlink(root, &link).map_err(failed_io("make the link", &link))?;
        Ok(Some(yard))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        // It is in nobody's way, and goes with the container at the latest.
        let _ = std::fs::remove_file(self.0.join(UNIFIED));
        let _ = std::fs::remove_dir(&self.0);
    }
}
