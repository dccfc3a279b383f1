//! Several mounts that make one root: each with its place in what the ones before it have made.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_sys::{mount, rooted};
use rustix::fs::OFlags;

use super::{Mount, assemble};
use crate::error::{Error, failed, invalid};

/// Makes one detached tree. A mount without a target covers all before it, as it would on a mount point; the others go
/// where their target leads inside, whatever links are there.
pub fn stack(mounts: &[(PathBuf, Mount)]) -> Result<OwnedFd, Error> {
    // What is covered whole is seen by nobody.
    let covers = |(target, _): &(PathBuf, Mount)| matches!(target.to_str(), Some("" | "/"));
    let first = mounts.iter().rposition(covers).ok_or_else(|| {
        let problem = match mounts.is_empty() {
            true => "has no mounts",
            false => "has mounts with targets only, and nothing for them to be in",
        };
        invalid("rootfs", problem)
    })?;
    let root = assemble(std::slice::from_ref(&mounts[first].1))?;
    for (target, mount) in &mounts[first + 1..] {
        let tree = assemble(std::slice::from_ref(mount))?;
        attach(&tree, &root, target)?;
    }
    Ok(root)
}

/// Linux 6.15 and later attach to a tree that is attached nowhere itself.
fn attach(tree: &OwnedFd, root: &OwnedFd, target: &Path) -> Result<(), Error> {
    let inside = target.strip_prefix("/").unwrap_or(target);
    let place = rooted::open(root, inside, OFlags::PATH | OFlags::CLOEXEC)
        .map_err(failed("find the target of a mount of the root,", target))?;
    mount::attach(tree, &place, c"").map_err(failed("attach a mount of the root at", target))
}
