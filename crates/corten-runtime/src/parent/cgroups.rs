//! The container's view of its control groups, as bind mounts of its own groups' folders.
//!
//! In a cgroup namespace of its own these look just like fresh mounts of the hierarchies, and they cost one
//! call each instead of six, none of them waiting for an RCU grace period. Without such a namespace the
//! host's groups are not in reach at all (CVE-2023-25809); on v2 alone, where programs look for their
//! group by the path that `/proc/self/cgroup` names, the whole tree is bound.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_cgroup::Layout;
use corten_sys::mount::{self, Attributes, Change, Propagation, clone_tree};
use corten_sys::namespace::Namespaces;
use rustix::fs::{CWD, Mode, mkdirat, symlinkat};
use rustix::io::Errno;

use super::group::View;
use super::prepare::Ready;
use crate::plan::Plan;

/// The mount for `/sys/fs/cgroup` with `attributes`; of the unified hierarchy alone if so asked.
pub(crate) fn mount(
    view: &View,
    plan: &Plan,
    attributes: u64,
    unified: bool,
) -> Result<Ready, Errno> {
    let layout = view.layout.as_ref().ok_or(Errno::NODEV)?;
    let group = |root: &Path| {
        let foreign = view.foreign.iter().find(|(at, _)| at == root);
        // What is not the container's own is not its to change, whoever it may be there.
        let (path, attributes) = match foreign {
            Some((_, path)) => (path, attributes | Attributes::READ_ONLY),
            None => (&plan.cgroup_path, attributes),
        };
        let (path, attributes) = match corten_sys::weakened!("cgroup.host_view") {
            true => ("", 0),
            false => (path.as_str(), attributes),
        };
        let mut change = Change {
            propagation: Some(Propagation::Private),
            ..Change::default()
        };
        change.attributes.add(attributes);
        let folder = match (layout, plan.namespaces.own(Namespaces::CGROUP)) {
            (Layout::V2 { .. }, false) => root.to_owned(),
            _ => root.join(path.trim_start_matches('/')),
        };
        clone_tree(CWD, folder.as_path(), false, &change)
    };
    if let Layout::V2 { root } = layout {
        return group(root).map(Ready::Tree);
    }
    if unified {
        // A host of version 1 alone has no such file system mounted.
        let root = layout.unified().ok_or(Errno::NODEV)?;
        return group(root).map(Ready::Tree);
    }
    let tree = tmpfs(attributes & !Attributes::READ_ONLY)?;
    let hierarchies = layout.hierarchies().iter().map(|h| h.root.as_path());
    let mut children = Vec::new();
    for root in hierarchies.chain(layout.unified()) {
        if let Some(name) = folder(&tree, root)? {
            children.push((name, group(root)?));
        }
    }
    if attributes & Attributes::READ_ONLY != 0 {
        let mut attributes = Attributes::default();
        attributes.add(Attributes::READ_ONLY);
        let change = Change {
            attributes,
            ..Change::default()
        };
        mount::change(&tree, &change)?;
    }
    Ok(Ready::Nested { tree, children })
}

fn tmpfs(attributes: u64) -> Result<OwnedFd, Errno> {
    let options = [(c"mode", Some(c"755"))];
    mount::new_filesystem(c"tmpfs", Some(c"cgroup"), &options, attributes).map_err(|r| r.errno)
}

/// The hierarchy's folder in the tmpfs, and its other names: `cpu` for `cpu,cpuacct`.
fn folder(tree: &OwnedFd, root: &Path) -> Result<Option<CString>, Errno> {
    let Some(name) = root.file_name() else {
        return Ok(None);
    };
    mkdirat(tree, name, Mode::from_raw_mode(0o755))?;
    let parts: Vec<&[u8]> = name.as_bytes().split(|b| *b == b',').collect();
    if parts.len() > 1 {
        for part in parts {
            symlinkat(name, tree, part)?;
        }
    }
    CString::new(name.as_bytes())
        .map(Some)
        .map_err(|_| Errno::INVAL)
}
