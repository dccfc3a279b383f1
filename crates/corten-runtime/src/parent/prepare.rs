//! What init needs and cannot make itself: its root, most of its mounts, a furnished `/dev`, its terminal.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_sys::mount::{Attributes, Propagation, new_filesystem};
use corten_sys::namespace::Namespaces;
use corten_sys::pty;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chownat};
use rustix::io::Errno;

use super::group::View;
use super::users::Users;
use super::{cgroups, dev, mounts};
use crate::error::{Error, failed};
use crate::plan::mounts::{Link, Plan as Mount, Source};
use crate::plan::{Plan, mounts as planned};
use crate::request::Rootfs;

/// Descriptors for init, in step with the plan.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub root: Option<OwnedFd>,
    /// One for each of the plan's mounts.
    pub mounts: Vec<Ready>,
    /// Nodes of the host to bind in `/dev`, where this host does not let us make any.
    pub device_binds: Vec<(CString, OwnedFd)>,
    /// Covers masked folders.
    pub empty: Option<OwnedFd>,
    /// The terminal's slave, for `/dev/console`.
    pub console: Option<OwnedFd>,
}

impl Prepared {
    /// All of them, for who has no use for them any more.
    pub fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        let single = [self.root, self.empty, self.console];
        let binds = self.device_binds.into_iter().map(|(_, node)| node);
        let mounts = self.mounts.into_iter().flat_map(Ready::into_fds);
        single.into_iter().flatten().chain(binds).chain(mounts)
    }
}

/// A mount on its way.
#[derive(Debug)]
pub(crate) enum Ready {
    Tree(OwnedFd),
    /// A mount with others in it, by name.
    Nested {
        tree: OwnedFd,
        children: Vec<(CString, OwnedFd)>,
    },
    /// No mount: a symbolic link.
    Link(CString),
    /// Init makes it, in its own namespaces.
    ByInit,
}

impl Ready {
    fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        let (tree, children) = match self {
            Self::Tree(tree) => (Some(tree), Vec::new()),
            Self::Nested { tree, children } => (Some(tree), children),
            Self::Link(_) | Self::ByInit => (None, Vec::new()),
        };
        tree.into_iter()
            .chain(children.into_iter().map(|(_, child)| child))
    }

    pub fn tree(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tree(tree) | Self::Nested { tree, .. } => Some(tree.as_fd()),
            Self::Link(_) | Self::ByInit => None,
        }
    }
}

/// The plan's mounts and devices, and the master of its terminal.
pub(crate) fn prepare(
    plan: &Plan,
    rootfs: Rootfs,
    view: &View,
    size: Option<(u16, u16)>,
) -> Result<(Prepared, Option<pty::Terminal>), Error> {
    let root = match plan.namespaces.joined(Namespaces::MOUNT) {
        // It is looked for there.
        true => None,
        false => Some(root(plan, rootfs)?),
    };
    let mut users = Users::default();
    let mut ready = Vec::with_capacity(plan.mounts.len());
    for (index, mount) in plan.mounts.iter().enumerate() {
        let made = one(plan, view, index, mount)?;
        if let (Some(idmap), Some(tree)) = (&mount.idmap, made.tree()) {
            users.map(tree, idmap, &target(mount))?;
        }
        ready.push(made);
    }
    let mut device_binds = Vec::new();
    // Otherwise init does it.
    if let Some(dev) = plan.devices.tmpfs
        && let Some(tree) = ready[dev].tree()
    {
        device_binds = dev::furnish(plan, dev, tree).map_err(refused_device)?;
    }
    let terminal = size.map(|size| terminal(plan, &ready, size)).transpose()?;
    let console = match &terminal {
        Some(terminal) => Some(
            rustix::io::fcntl_dupfd_cloexec(&terminal.slave, 3)
                .map_err(failed("open the terminal", ""))?,
        ),
        None => None,
    };
    let prepared = Prepared {
        root,
        mounts: ready,
        device_binds,
        empty: empty(plan)?,
        console,
    };
    Ok((prepared, terminal))
}

pub(crate) fn root(plan: &Plan, rootfs: Rootfs) -> Result<OwnedFd, Error> {
    let path = match (rootfs, &plan.root.path) {
        (Rootfs::Mount(mount), _) => return Ok(mount),
        (Rootfs::Bundle, Some(path)) => path,
        (Rootfs::Bundle, None) => return Err(crate::error::invalid("root", "is missing")),
    };
    // Never the host's peer, whatever it is to be in the end: our mounts in it would appear on the host.
    let change = planned::Change {
        attributes: Attributes::default(),
        propagation: Some(match plan.root.propagation {
            None | Some((Propagation::Slave, _)) => Propagation::Slave,
            _ => Propagation::Private,
        }),
        recursive: true,
    };
    mounts::bind(path, true, Link::Follow, &[change]).map_err(failed("open the root", path))
}

fn target(mount: &Mount) -> PathBuf {
    PathBuf::from("/").join(OsStr::from_bytes(mount.target.as_bytes()))
}

fn one(plan: &Plan, view: &View, index: usize, mount: &Mount) -> Result<Ready, Error> {
    if plan.by_init(index) {
        return Ok(Ready::ByInit);
    }
    match &mount.source {
        Source::Bind {
            path,
            recursive,
            link,
            ..
        } => mounts::bind(path, *recursive, *link, &mount.changes)
            .map(Ready::Tree)
            .map_err(failed("bind", path)),
        Source::Cgroup {
            attributes,
            unified,
        } => cgroups::mount(view, plan, *attributes, *unified)
            .map_err(failed("mount", target(mount))),
        Source::New { .. } => new(plan, mount).map(Ready::Tree),
        Source::Remount { .. } => Ok(Ready::ByInit),
    }
}

/// A new file system, detached.
fn new(plan: &Plan, mount: &Mount) -> Result<OwnedFd, Error> {
    let Source::New {
        fstype,
        source,
        options,
        attributes,
        ..
    } = &mount.source
    else {
        return Err(failed("mount", target(mount))(Errno::INVAL));
    };
    let tree = match fstype.as_c_str() == c"overlay" {
        true => overlay(source, options, *attributes)?,
        false => mounts::new_filesystem(fstype, source, options, *attributes)
            .map_err(|refused| refuse(&target(mount), refused))?,
    };
    mounts::change_all(&tree, &mount.changes)
        .map_err(failed("set the mount's attributes on", target(mount)))?;
    // The maker's root is nobody in there. What has files already keeps their owners.
    if mount.is_tmpfs() || mount.is_new(c"devpts") {
        own_root(plan, &tree).map_err(failed("set the owner of", target(mount)))?;
    }
    Ok(tree)
}

/// The furnished `/dev` of a container with a user namespace, for a restore: of any other, criu makes it.
pub(crate) fn dev(plan: &Plan) -> Result<Option<OwnedFd>, Error> {
    let (Some(index), Some(_)) = (plan.devices.tmpfs, &plan.namespaces.user) else {
        return Ok(None);
    };
    let tree = new(plan, &plan.mounts[index])?;
    let bound = dev::furnish(plan, index, tree.as_fd()).map_err(refused_device)?;
    match bound.is_empty() {
        true => Ok(Some(tree)),
        // Bound nodes are mounts more, which would have to come and go with this one.
        false => Err(failed("make the devices of", "/dev")(Errno::PERM)),
    }
}

/// An overlay, whose paths may be too long for fsconfig(2).
fn overlay(
    source: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<OwnedFd, Error> {
    let text = |c: &CStr| c.to_string_lossy().into_owned();
    let words: Vec<_> = options
        .iter()
        .map(|(key, value)| (text(key), value.as_deref().map(text)))
        .collect();
    let mount = crate::rootfs::Mount {
        fstype: "overlay".into(),
        source: text(source),
        options: Vec::new(),
    };
    crate::rootfs::file_system(&mount, &words, attributes)
}

fn refused_device((errno, name): dev::Refused<'_>) -> Error {
    let path = Path::new("/dev").join(OsStr::from_bytes(
        name.strip_prefix(b"dev/").unwrap_or(name),
    ));
    failed("make the device", path)(errno)
}

/// Gives the root of a new file system to the container's root, where that is somebody else.
fn own_root(plan: &Plan, tree: &OwnedFd) -> Result<(), Errno> {
    if plan.namespaces.user.is_none() {
        return Ok(());
    }
    let uid = plan.namespaces.host_uid(0).map(Uid::from_raw);
    let gid = plan.namespaces.host_gid(0).map(Gid::from_raw);
    chownat(tree, c"", uid, gid, AtFlags::EMPTY_PATH)
}

fn refuse(target: &Path, refused: corten_sys::mount::Refused) -> Error {
    let log = String::from_utf8_lossy(refused.log.as_bytes());
    let path = match log.is_empty() {
        true => target.into(),
        false => PathBuf::from(format!("{} ({log})", target.display())),
    };
    failed("mount", path)(refused.errno)
}

/// A terminal of the container's own devpts, or of the host's where the spec binds that.
fn terminal(
    plan: &Plan,
    ready: &[Ready],
    (rows, cols): (u16, u16),
) -> Result<pty::Terminal, Error> {
    let at = || failed("open a terminal in", "/dev/pts");
    let devpts = plan.mounts.iter().position(|m| m.is_new(c"devpts"));
    let terminal = match devpts.and_then(|i| ready[i].tree()) {
        Some(devpts) => pty::open(devpts).map_err(at())?,
        None => {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            let host = rustix::fs::openat(CWD, c"/dev/pts", flags, Mode::empty()).map_err(at())?;
            pty::open(&host).map_err(at())?
        }
    };
    own_terminal(&terminal, plan.namespaces.host_uid(plan.process.uid))?;
    if (rows, cols) != (0, 0) {
        pty::resize(&terminal.master, rows, cols).map_err(at())?;
    }
    Ok(terminal)
}

/// The user must be able to open `/dev/tty`'s terminal again. It was verified to be a slave of devpts.
pub(crate) fn own_terminal(terminal: &pty::Terminal, uid: Option<u32>) -> Result<(), Error> {
    match uid {
        None | Some(0) => Ok(()),
        Some(uid) => rustix::fs::fchown(&terminal.slave, Some(Uid::from_raw(uid)), None)
            .map_err(failed("give the terminal to its user", "")),
    }
}

/// One empty read-only folder for all masked ones.
fn empty(plan: &Plan) -> Result<Option<OwnedFd>, Error> {
    if plan.masked.is_empty() {
        return Ok(None);
    }
    let options = [(c"nr_inodes", Some(c"1")), (c"mode", Some(c"755"))];
    let attributes =
        Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC;
    new_filesystem(c"tmpfs", Some(c"tmpfs"), &options, attributes)
        .map(Some)
        .map_err(|refused| refuse(Path::new("(mask)"), refused))
}
