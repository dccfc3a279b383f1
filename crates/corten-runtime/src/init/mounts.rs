//! The container's mounts, put together below its root before anything can see it.

use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::mount::{self, Change, Propagation, attach, clone_tree};
use corten_sys::rooted::{self, Make};
use corten_sys::weakened;
use rustix::fs::{FileType, Mode, OFlags, fchmod, fstat, mknodat, symlinkat};
use rustix::io::Errno;

use super::{copy_up, shared};
use crate::handshake::{Failure, Step};
use crate::parent::dev;
use crate::parent::prepare::{Prepared, Ready};
use crate::plan::Plan;
use crate::plan::devices::{LINKS, Node};
use crate::plan::mounts::{Anchor, Link, Plan as Mount, Source};

/// Cuts the way back to the host for what will be mounted here.
pub(crate) fn detach<'a>() -> Result<(), Failure<'a>> {
    // Our copy of the host's mounts becomes a slave, or what follows would show up on the host.
    let host = rustix::fs::openat(
        rustix::fs::CWD,
        c"/",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(Failure::at(Step::Propagation, b"/"))?;
    let slave = Change {
        propagation: Some(Propagation::Slave),
        recursive: true,
        ..Change::default()
    };
    mount::change(&host, &slave).map_err(Failure::at(Step::Propagation, b"/"))
}

/// What init makes itself, by its place in the plan, and nodes for its `/dev` that it could not make.
#[derive(Default)]
pub(crate) struct Own {
    pub mounts: Vec<(usize, Ready)>,
    pub device_binds: Vec<dev::Bound>,
}

/// Makes those in `range` that the maker leaves to us, in the order of the spec: the kernel lists mounts by their
/// age. To be done before [`detach`], as a bind mount may be asked to stay a peer of the host's.
pub(crate) fn make<'a>(
    plan: &'a Plan,
    range: Range<usize>,
    own: &mut Own,
) -> Result<(), Failure<'a>> {
    for index in range.filter(|index| plan.by_init(*index)) {
        let mount = &plan.mounts[index];
        let ready = match &mount.source {
            Source::Bind {
                path,
                recursive,
                link,
                ..
            } => bind(path, *recursive, *link, mount)
                .map_err(Failure::at(Step::Bind, path.as_os_str().as_bytes()))?,
            Source::New { .. } => Ready::Tree(create(plan, mount)?),
            Source::Cgroup { .. } | Source::Remount { .. } => continue,
        };
        if let (Ready::Tree(tree), true) = (&ready, plan.devices.tmpfs == Some(index)) {
            own.device_binds = dev::furnish(plan, index, tree.as_fd())
                .map_err(|(errno, name)| Failure::new(Step::Device, errno, name))?;
        }
        own.mounts.push((index, ready));
    }
    Ok(())
}

fn bind(path: &Path, recursive: bool, link: Link, mount: &Mount) -> Result<Ready, Errno> {
    if link == Link::Copy {
        match rustix::fs::readlink(path, Vec::new()) {
            Ok(to) => return Ok(Ready::Link(to)),
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    crate::parent::mounts::bind(path, recursive, link, &mount.changes).map(Ready::Tree)
}

/// Attaches the root and all mounts; returns the root.
pub(crate) fn assemble<'a>(
    plan: &'a Plan,
    prepared: &mut Prepared,
    root_at: &CStr,
) -> Result<OwnedFd, Failure<'a>> {
    let root = prepared
        .root
        .take()
        .ok_or(Failure::new(Step::AttachRoot, Errno::BADF, b""))?;
    attach(&root, rustix::fs::CWD, root_at).map_err(Failure::at(Step::AttachRoot, b""))?;
    fill(plan, prepared, &root)?;
    Ok(root)
}

/// All mounts below the root, and what else is in its `/dev`.
pub(crate) fn fill<'a>(
    plan: &'a Plan,
    prepared: &mut Prepared,
    root: &OwnedFd,
) -> Result<(), Failure<'a>> {
    for index in 0..plan.mounts.len() {
        #[cfg(feature = "weaken")]
        crate::weak::make_target_by_path(plan, &plan.mounts[index]);
        place(plan, prepared, root, index)?;
    }
    devices(plan, prepared, root)?;
    console(plan, prepared, root)
}

fn place<'a>(
    plan: &'a Plan,
    prepared: &mut Prepared,
    root: &OwnedFd,
    index: usize,
) -> Result<(), Failure<'a>> {
    let mount = &plan.mounts[index];
    let path = mount.target.as_bytes();
    match (&prepared.mounts[index], &mount.source) {
        (Ready::ByInit, Source::Remount { of, options }) => {
            let of = of.and_then(|i| prepared.mounts[i].tree());
            return remount(root, mount, of, options);
        }
        (Ready::Link(to), _) => {
            return link(root, mount, to).map_err(Failure::at(Step::DeviceLink, path));
        }
        _ => {}
    }
    let (tree, children) = match &prepared.mounts[index] {
        Ready::Tree(tree) => (tree, &[][..]),
        Ready::Nested { tree, children } => (tree, children.as_slice()),
        Ready::Link(_) | Ready::ByInit => {
            return Err(Failure::new(Step::Mount, Errno::INVAL, path));
        }
    };
    let at = |a| Failure::at(a, path);
    let direct = match mount.anchor {
        Anchor::Root => Some(root.as_fd()),
        Anchor::Mount(earlier) => prepared.mounts[earlier].tree(),
        Anchor::Lookup => None,
    };
    let name = OsStr::from_bytes(mount.name());
    let attached = direct.map(|folder| attach(tree, folder, name));
    match attached {
        Some(Ok(())) => {}
        // ENOENT: to be made; EINVAL, ENOTDIR: a link or file is in its place.
        None | Some(Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR)) => {
            let target = find_target(root, mount, tree).map_err(at(Step::Target))?;
            fit(mount, tree, &target).map_err(at(Step::CopyUp))?;
            attach(tree, &target, c"").map_err(at(Step::Attach))?;
            super::let_go(target);
        }
        Some(Err(errno)) => return Err(Failure::new(Step::Attach, errno, path)),
    }
    for (name, child) in children {
        attach(child, tree, name.as_c_str()).map_err(at(Step::Attach))?;
    }
    Ok(())
}

/// Changes a mount that is there: one of ours, by its descriptor, or what an earlier bind mount brought along.
fn remount<'a>(
    root: &OwnedFd,
    mount: &'a Mount,
    of: Option<BorrowedFd<'_>>,
    options: &Options,
) -> Result<(), Failure<'a>> {
    let path = mount.target.as_bytes();
    let found;
    let tree = match of {
        Some(tree) => tree,
        None => {
            let follow = match mount.cover_link {
                true => OFlags::NOFOLLOW,
                false => OFlags::empty(),
            };
            found = rooted::open(root, OsStr::from_bytes(path), OFlags::PATH | follow)
                .map_err(Failure::at(Step::Target, path))?;
            found.as_fd()
        }
    };
    if !options.is_empty() {
        crate::parent::mounts::reconfigure(tree, options).map_err(Failure::refused(path))?;
    }
    // EINVAL: no mount is there.
    crate::parent::mounts::change_all(tree, &mount.changes)
        .map_err(Failure::at(Step::MountAttributes, path))
}

/// A link instead of a mount. What is there already must be the same one.
fn link(root: &OwnedFd, mount: &Mount, to: &CStr) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(mount.target.as_bytes()));
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => {
            rooted::open_or_make(root, parent, Make::Folder)?
        }
        _ => rooted::open(root, ".", OFlags::PATH)?,
    };
    let name = OsStr::from_bytes(mount.name());
    match symlinkat(to, &folder, name) {
        Err(Errno::EXIST) => match rustix::fs::readlinkat(&folder, name, Vec::new()) {
            Ok(there) if there.as_c_str() == to => Ok(()),
            _ => Err(Errno::EXIST),
        },
        other => other,
    }
}

/// A file system of init's own namespaces.
fn create<'a>(plan: &Plan, mount: &'a Mount) -> Result<OwnedFd, Failure<'a>> {
    let path = mount.target.as_bytes();
    let Source::New {
        fstype,
        source,
        options,
        attributes,
        ..
    } = &mount.source
    else {
        return Err(Failure::new(Step::Mount, Errno::INVAL, path));
    };
    match new(fstype, source, options, *attributes, &mount.changes, path) {
        Err(refused) if refused.errno == Errno::PERM => {
            match shared::bind(plan, fstype, *attributes).map_err(Failure::at(Step::Bind, path))? {
                Some(tree) => Ok(tree),
                None => Err(refused),
            }
        }
        other => other,
    }
}

/// Options as a mount plan holds them.
type Options = [(std::ffi::CString, Option<std::ffi::CString>)];

fn new<'a>(
    fstype: &CStr,
    source: &CStr,
    options: &Options,
    attributes: u64,
    changes: &[crate::plan::mounts::Change],
    path: &'a [u8],
) -> Result<OwnedFd, Failure<'a>> {
    let tree = crate::parent::mounts::new_filesystem(fstype, source, options, attributes)
        .map_err(Failure::refused(path))?;
    crate::parent::mounts::change_all(&tree, changes)
        .map_err(Failure::at(Step::MountAttributes, path))?;
    Ok(tree)
}

/// The mount point, made if it is missing.
pub(crate) fn find_target(root: &OwnedFd, mount: &Mount, tree: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = OsStr::from_bytes(mount.target.as_bytes());
    if mount.plain {
        let how = OFlags::PATH | OFlags::DIRECTORY;
        match rooted::open_plain(root, path, how) {
            Err(Errno::NOENT) => {}
            // Beyond a mount: one that the spec itself put there.
            Err(Errno::XDEV) => return rooted::open(root, path, how),
            other => return other,
        }
    }
    let follow = match mount.cover_link {
        true => OFlags::NOFOLLOW,
        false => OFlags::empty(),
    };
    match rooted::open(root, path, OFlags::PATH | follow) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let make = match FileType::from_raw_mode(fstat(tree)?.st_mode) {
        FileType::Directory => Make::Folder,
        _ => Make::File,
    };
    rooted::open_or_make(root, path, make)
}

/// Gives a tmpfs the mode, and if asked for the content, of the folder that it will cover.
fn fit(mount: &Mount, tree: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    if !mount.keep_mode && !mount.copy_up {
        return Ok(());
    }
    let below = fstat(target)?;
    let folder = rustix::fs::openat(
        tree,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if mount.keep_mode {
        fchmod(&folder, Mode::from_raw_mode(below.st_mode & 0o7777))?;
    }
    if mount.copy_up {
        copy_up::copy(target, &folder)?;
    }
    Ok(())
}

/// Nodes that are not in a `/dev` of ours, and bind mounts where nodes were refused.
fn devices<'a>(plan: &'a Plan, prepared: &mut Prepared, root: &OwnedFd) -> Result<(), Failure<'a>> {
    let dev = plan.devices.tmpfs.and_then(|i| prepared.mounts[i].tree());
    if let Some(dev) = dev {
        for (name, node) in &prepared.device_binds {
            attach(node, dev, name.as_c_str()).map_err(Failure::at(Step::Device, b"/dev"))?;
        }
    }
    for node in &plan.devices.nodes {
        let in_dev = node.path.as_bytes().starts_with(b"dev/");
        if in_dev && dev.is_some() {
            continue;
        }
        if in_dev && plan.devices.host {
            // Nothing is made in the host's folder, but what was asked for must be in it.
            if node.asked {
                find_node(root, node).map_err(Failure::at(Step::Device, node.path.as_bytes()))?;
            }
            continue;
        }
        make_node(root, node).map_err(Failure::at(Step::Device, node.path.as_bytes()))?;
    }
    if dev.is_none() && !plan.devices.host {
        let at = Failure::at(Step::DeviceLink, b"/dev");
        links(root).map_err(at)?;
    }
    Ok(())
}

fn dev_folder(root: &OwnedFd) -> Result<OwnedFd, Errno> {
    match rooted::open_plain(root, "dev", OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => rooted::open_or_make(root, "dev", Make::Folder),
        other => other,
    }
}

fn links(root: &OwnedFd) -> Result<(), Errno> {
    let dev = dev_folder(root)?;
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            // The image has its own idea of it.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn make_node(root: &OwnedFd, node: &Node) -> Result<(), Errno> {
    let path = node.path.as_bytes();
    let split = path.iter().rposition(|b| *b == b'/');
    let (folder, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let folder = match folder {
        b"dev" => dev_folder(root)?,
        folder => rooted::open_or_make(root, OsStr::from_bytes(folder), Make::Folder)?,
    };
    let device = rustix::fs::makedev(node.major, node.minor);
    let name = OsStr::from_bytes(name);
    let old = rustix::process::umask(Mode::empty());
    let made = mknodat(
        &folder,
        name,
        node.kind,
        Mode::from_raw_mode(node.mode),
        device,
    );
    rustix::process::umask(old);
    match made {
        // No CAP_MKNOD in the host's user namespace.
        Err(Errno::PERM) => shared::bind_node(&folder, name, node),
        // What is there already must be that very device: an image could bring a look-alike.
        Err(Errno::EXIST) => {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let found = rustix::fs::statat(&folder, name, flags)?;
            let same = FileType::from_raw_mode(found.st_mode) == node.kind
                && (node.kind == FileType::Fifo || found.st_rdev == device);
            match same || weakened!("devices.unchecked") {
                true => Ok(()),
                false => Err(Errno::EXIST),
            }
        }
        other => other,
    }
}

/// The very device, by its numbers.
fn find_node(root: &OwnedFd, node: &Node) -> Result<(), Errno> {
    let path = OsStr::from_bytes(node.path.as_bytes());
    let found = fstat(rooted::open(root, path, OFlags::PATH)?)?;
    let device = rustix::fs::makedev(node.major, node.minor);
    let same = FileType::from_raw_mode(found.st_mode) == node.kind
        && (node.kind == FileType::Fifo || found.st_rdev == device);
    if same { Ok(()) } else { Err(Errno::EXIST) }
}

/// Binds the terminal's slave, by descriptor, on `/dev/console`.
fn console<'a>(plan: &'a Plan, prepared: &Prepared, root: &OwnedFd) -> Result<(), Failure<'a>> {
    let Some(slave) = &prepared.console else {
        return Ok(());
    };
    let bind = || -> Result<(), Errno> {
        let tree = clone_tree(slave, c"", false, &Change::default())?;
        let dev: Option<BorrowedFd<'_>> =
            plan.devices.tmpfs.and_then(|i| prepared.mounts[i].tree());
        match dev {
            Some(dev) => attach(&tree, dev, c"console"),
            None => {
                let dev = dev_folder(root)?;
                let target = rooted::open_or_make(&dev, "console", Make::File)?;
                attach(&tree, &target, c"")
            }
        }
    };
    bind().map_err(Failure::at(Step::Console, b"/dev/console"))
}
