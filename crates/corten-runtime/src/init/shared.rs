//! What the kernel lets only the host's root make, and what the host's own of it serves for.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;

use corten_sys::mount::{Change, Propagation, attach, clone_tree};
use corten_sys::namespace::Namespaces;
use corten_sys::rooted::{self, Make};
use rustix::fs::CWD;
use rustix::io::Errno;

use crate::parent::dev::host_node;
use crate::plan::Plan;
use crate::plan::devices::Node;

/// File systems that show a namespace, and where the host has its own of them.
const VIEWS: [(&CStr, Namespaces, &CStr); 3] = [
    (c"sysfs", Namespaces::NETWORK, c"/sys"),
    (c"proc", Namespaces::PID, c"/proc"),
    (c"mqueue", Namespaces::IPC, c"/dev/mqueue"),
];

/// A file system of a namespace that the container shares with the host. Root of a user namespace may not mount it,
/// as the namespace is not its own (user_namespaces(7)); the host's mount is the very same thing. `None`: the
/// refusal had another reason.
pub(super) fn bind(plan: &Plan, fstype: &CStr, attributes: u64) -> Result<Option<OwnedFd>, Errno> {
    let view = VIEWS.iter().find(|(name, ..)| *name == fstype);
    let Some((_, _, host)) = view.filter(|(_, kind, _)| !plan.namespaces.own(*kind)) else {
        return Ok(None);
    };
    let mut change = Change {
        propagation: Some(Propagation::Slave),
        recursive: true,
        ..Change::default()
    };
    change.attributes.add(attributes);
    // With all that is mounted on it: to show what that covers is what a user namespace must not do.
    clone_tree(CWD, *host, true, &change).map(Some)
}

/// The host's node of the same path, bound on a file in `folder`, which is the container's.
pub(super) fn bind_node(folder: &OwnedFd, name: &OsStr, node: &Node) -> Result<(), Errno> {
    let tree = host_node(node)?;
    let target = rooted::open_or_make(folder, name, Make::File)?;
    attach(&tree, &target, c"")
}
