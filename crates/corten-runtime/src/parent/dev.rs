//! `/dev`, furnished on a tmpfs that nobody else can reach yet. Init does it, without allocating; with a
//! new user namespace the maker, since only the host's root may make nodes.

use std::ffi::{CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::mount::{Change, clone_tree};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;

use crate::plan::Plan;
use crate::plan::devices::{LINKS, Node};
use crate::plan::mounts::Anchor;

/// A node of the host, to be bound on an empty file of this name.
pub(crate) type Bound = (CString, OwnedFd);

/// What could not be made, below `/dev`.
pub(crate) type Refused<'a> = (Errno, &'a [u8]);

/// Makes folders for mounts, nodes and links in `dev`, which is mount `index` of the plan. Nodes that the kernel
/// refuses to make come back as mounts.
pub(crate) fn furnish<'a>(
    plan: &'a Plan,
    index: usize,
    dev: BorrowedFd<'_>,
) -> Result<Vec<Bound>, Refused<'a>> {
    // With the umask open nodes need no chmod after.
    let old = rustix::process::umask(Mode::empty());
    let furnished = furnish_open(plan, index, dev);
    rustix::process::umask(old);
    furnished
}

fn furnish_open<'a>(
    plan: &'a Plan,
    index: usize,
    dev: BorrowedFd<'_>,
) -> Result<Vec<Bound>, Refused<'a>> {
    let owner = plan.namespaces.user.as_ref().map(|_| {
        let ids = &plan.namespaces;
        (ids.host_uid(0).unwrap_or(0), ids.host_gid(0).unwrap_or(0))
    });
    let own = |name: &OsStr| match owner {
        Some((uid, gid)) => chownat(
            dev,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        ),
        None => Ok(()),
    };
    for mount in &plan.mounts {
        if mount.anchor == Anchor::Mount(index) {
            let name = mount.name();
            folder(dev, name, &own).map_err(|errno| (errno, name))?;
        }
    }
    let mut binds = Vec::new();
    for node in &plan.devices.nodes {
        make(dev, node, &own, &mut binds).map_err(|errno| (errno, node.path.as_bytes()))?;
    }
    for (name, target) in LINKS {
        let made = symlinkat(target, dev, name);
        let name = name.to_bytes();
        made.and_then(|()| own(OsStr::from_bytes(name)))
            .map_err(|errno| (errno, name))?;
    }
    if plan.devices.console {
        let name = OsStr::new("console");
        mknodat(
            dev,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o600),
            0,
        )
        .and_then(|()| own(name))
        .map_err(|errno| (errno, &b"console"[..]))?;
    }
    Ok(binds)
}

/// A folder that a mount or a node needs; two may need the same.
fn folder(
    dev: BorrowedFd<'_>,
    name: &[u8],
    own: &impl Fn(&OsStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let name = OsStr::from_bytes(name);
    match mkdirat(dev, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => own(name),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes a node below `/dev`; where the kernel refuses (no CAP_MKNOD in the host's user namespace), an
/// empty file and the host's node to be bound on it.
fn make(
    dev: BorrowedFd<'_>,
    node: &Node,
    own: &impl Fn(&OsStr) -> Result<(), Errno>,
    binds: &mut Vec<Bound>,
) -> Result<(), Errno> {
    let Some(name) = node.path.as_bytes().strip_prefix(b"dev/") else {
        return Ok(());
    };
    let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for (at, _) in slashes {
        folder(dev, &name[..at], own)?;
    }
    let name = OsStr::from_bytes(name);
    let mode = Mode::from_raw_mode(node.mode);
    let device = rustix::fs::makedev(node.major, node.minor);
    match mknodat(dev, name, node.kind, mode, device) {
        Ok(()) if (node.uid, node.gid) == (0, 0) => Ok(()),
        Ok(()) => {
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        Err(Errno::PERM) if node.kind != FileType::Fifo => {
            mknodat(dev, name, FileType::RegularFile, mode, 0)?;
            let tree = host_node(node)?;
            let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
            binds.push((name, tree));
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// The host's node of the same path, detached: if it is the device that is asked for.
pub(crate) fn host_node(node: &Node) -> Result<OwnedFd, Errno> {
    let host = Path::new("/").join(OsStr::from_bytes(node.path.as_bytes()));
    let tree = clone_tree(CWD, host.as_path(), false, &Change::default())?;
    let found = rustix::fs::fstat(&tree)?;
    let device = rustix::fs::makedev(node.major, node.minor);
    match FileType::from_raw_mode(found.st_mode) == node.kind && found.st_rdev == device {
        true => Ok(tree),
        false => Err(Errno::NODEV),
    }
}
