//! What init needs and cannot make itself: its root, most of its mounts, a furnished `/dev`, its terminal.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_sys::mount::{Attributes, Change, Propagation, clone_tree, new_filesystem};
use corten_sys::namespace::Namespaces;
use corten_sys::pty;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;

use super::group::View;
use super::{cgroups, mounts};
use crate::error::{Error, failed};
use crate::plan::devices::{LINKS, Node};
use crate::plan::mounts::{Anchor, Plan as Mount, Source};
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
    /// Init makes it, in its own namespaces.
    ByInit,
}

impl Ready {
    fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        let (tree, children) = match self {
            Self::Tree(tree) => (Some(tree), Vec::new()),
            Self::Nested { tree, children } => (Some(tree), children),
            Self::ByInit => (None, Vec::new()),
        };
        tree.into_iter()
            .chain(children.into_iter().map(|(_, child)| child))
    }

    pub fn tree(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tree(tree) | Self::Nested { tree, .. } => Some(tree.as_fd()),
            Self::ByInit => None,
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
    let mut ready = Vec::with_capacity(plan.mounts.len());
    for (index, mount) in plan.mounts.iter().enumerate() {
        ready.push(one(plan, view, index, mount)?);
    }
    let mut device_binds = Vec::new();
    if let Some(dev) = plan.devices.tmpfs {
        let tree = ready[dev]
            .tree()
            .ok_or_else(|| failed("mount", "/dev")(Errno::BADF))?;
        device_binds = furnish(plan, dev, tree)?;
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

fn root(plan: &Plan, rootfs: Rootfs) -> Result<OwnedFd, Error> {
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
    mounts::bind(path, true, &[change]).map_err(failed("open the root", path))
}

fn one(plan: &Plan, view: &View, index: usize, mount: &Mount) -> Result<Ready, Error> {
    let target = || PathBuf::from("/").join(OsStr::from_bytes(mount.target.as_bytes()));
    if plan.by_init(index) {
        return Ok(Ready::ByInit);
    }
    match &mount.source {
        Source::Bind { path, recursive } => mounts::bind(path, *recursive, &mount.changes)
            .map(Ready::Tree)
            .map_err(failed("bind", path)),
        Source::Cgroup { attributes } => {
            cgroups::mount(view, plan, *attributes).map_err(failed("mount", target()))
        }
        Source::New {
            fstype,
            source,
            options,
            attributes,
            ..
        } => {
            let tree = mounts::new_filesystem(fstype, source, options, *attributes)
                .map_err(|refused| refuse(&target(), refused))?;
            mounts::change_all(&tree, &mount.changes)
                .map_err(failed("set the mount's attributes on", target()))?;
            // The maker's root is nobody in there.
            own_root(plan, &tree).map_err(failed("set the owner of", target()))?;
            Ok(Ready::Tree(tree))
        }
    }
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

/// Builds `/dev` on its detached tmpfs: with the umask open, so that nodes need no chmod after.
fn furnish(
    plan: &Plan,
    index: usize,
    dev: BorrowedFd<'_>,
) -> Result<Vec<(CString, OwnedFd)>, Error> {
    let old = rustix::process::umask(Mode::empty());
    let furnished = furnish_open(plan, index, dev);
    rustix::process::umask(old);
    furnished
}

fn furnish_open(
    plan: &Plan,
    index: usize,
    dev: BorrowedFd<'_>,
) -> Result<Vec<(CString, OwnedFd)>, Error> {
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
    let at = |name: &OsStr| failed("make the device", Path::new("/dev").join(name));
    for mount in plan
        .mounts
        .iter()
        .filter(|m| m.anchor == Anchor::Mount(index))
    {
        let name = OsStr::from_bytes(mount.name());
        mkdirat(dev, name, Mode::from_raw_mode(0o755)).map_err(at(name))?;
        own(name).map_err(at(name))?;
    }
    let mut binds = Vec::new();
    for node in &plan.devices.nodes {
        if let Some(bound) = make(dev, node, own)? {
            binds.push(bound);
        }
    }
    for (name, target) in LINKS {
        let made = symlinkat(target, dev, name);
        let name = OsStr::from_bytes(name.to_bytes());
        made.and_then(|()| own(name)).map_err(at(name))?;
    }
    if plan.devices.console {
        let name = OsStr::new("console");
        let kind = FileType::RegularFile;
        mknodat(dev, name, kind, Mode::from_raw_mode(0o600), 0).map_err(at(name))?;
        own(name).map_err(at(name))?;
    }
    Ok(binds)
}

/// Makes a node below `/dev`; where the kernel refuses (no CAP_MKNOD in the host's user namespace), an
/// empty file and the host's node to be bound on it.
fn make(
    dev: BorrowedFd<'_>,
    node: &Node,
    own: impl Fn(&OsStr) -> Result<(), Errno>,
) -> Result<Option<(CString, OwnedFd)>, Error> {
    let path = Path::new(OsStr::from_bytes(node.path.as_bytes()));
    let Ok(name) = path.strip_prefix("dev") else {
        return Ok(None);
    };
    let at = || failed("make the device", Path::new("/").join(path));
    let mut folder = PathBuf::new();
    for part in name.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        match mkdirat(dev, &folder, Mode::from_raw_mode(0o755)) {
            Ok(()) => own(folder.as_os_str()).map_err(at())?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(at()(errno)),
        }
    }
    let mode = Mode::from_raw_mode(node.mode);
    let device = rustix::fs::makedev(node.major, node.minor);
    match mknodat(dev, name, node.kind, mode, device) {
        Ok(()) => {
            if (node.uid, node.gid) != (0, 0) {
                let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                chownat(dev, name, Some(uid), Some(gid), flags).map_err(at())?;
            }
            Ok(None)
        }
        Err(Errno::PERM) if node.name_in_dev().is_some() => {
            mknodat(dev, name, FileType::RegularFile, mode, 0).map_err(at())?;
            let tree = host_node(node).map_err(at())?;
            let name = CString::new(name.as_os_str().as_bytes());
            Ok(Some((name.map_err(|_| at()(Errno::INVAL))?, tree)))
        }
        Err(errno) => Err(at()(errno)),
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
