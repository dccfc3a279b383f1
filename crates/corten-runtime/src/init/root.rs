//! The change of root, and what is done to it from inside.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use corten_sys::mount::{self, Attributes, Change, attach, clone_tree};
use corten_sys::rooted;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chroot, fchdir, pivot_root};

use crate::handshake::{Failure, Step};
use crate::parent::prepare::Prepared;
use crate::plan::Plan;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Makes `root` the root of the mount namespace and lets go of the host's tree.
pub(crate) fn pivot<'a>(plan: &Plan, root: &OwnedFd, no_pivot: bool) -> Result<(), Failure<'a>> {
    let at = |step| Failure::at(step, b"/");
    fchdir(root).map_err(at(Step::Pivot))?;
    if no_pivot {
        // On an initramfs there is no root that could be moved away; it is covered instead.
        chroot(c".").map_err(at(Step::Pivot))?;
    } else {
        // The old root ends up on top of the new one, where "." finds it (pivot_root(2)).
        pivot_root(c".", c".").map_err(at(Step::Pivot))?;
        unmount(c".", UnmountFlags::DETACH).map_err(at(Step::DetachHost))?;
    }
    if let Some((propagation, recursive)) = plan.root.propagation {
        let change = Change {
            propagation: Some(propagation),
            recursive,
            ..Change::default()
        };
        mount::change(root, &change).map_err(at(Step::RootPropagation))?;
    }
    rustix::process::chdir(c"/").map_err(at(Step::Pivot))
}

/// Sysctls first: some of their files become read-only after.
pub(crate) fn finish<'a>(plan: &'a Plan, prepared: &mut Prepared) -> Result<(), Failure<'a>> {
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::at(Step::OpenRoot, b"/"))?;
    settings(plan)?;
    for path in &plan.read_only {
        read_only(&root, OsStr::from_bytes(path.as_bytes()))
            .map_err(Failure::at(Step::ReadOnlyPath, path.as_bytes()))?;
    }
    mask(plan, prepared, &root)?;
    if plan.root.read_only {
        let mut attributes = Attributes::default();
        attributes.add(Attributes::READ_ONLY);
        let change = Change {
            attributes,
            ..Change::default()
        };
        mount::change(&root, &change).map_err(Failure::at(Step::ReadOnlyRoot, b"/"))?;
    }
    Ok(())
}

/// Writes through a procfs that is certainly one, and that nobody else can reach or cover: made here,
/// attached nowhere (CVE-2019-16884, CVE-2025-52881).
fn settings(plan: &Plan) -> Result<(), Failure<'_>> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let procfs = procfs().map_err(Failure::at(Step::Sysctl, b"/proc"))?;
    for setting in &plan.sysctls {
        let name = setting.file.as_os_str().as_bytes();
        let write = || -> Result<(), Errno> {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW;
            let file = rooted::open_plain(&procfs, &setting.file, flags)?;
            rustix::io::write(&file, setting.value.as_bytes()).map(drop)
        };
        write().map_err(Failure::at(Step::Sysctl, name))?;
    }
    Ok(())
}

/// A procfs of the current pid namespace, detached. Root of a user namespace may make none if the pid namespace is the
/// host's; then the container's `/proc`, which a mount of ours has just put there, if it is the root of one.
pub(crate) fn procfs() -> Result<OwnedFd, Errno> {
    const PROC_ROOT_INO: u64 = 1;
    let options: [(&std::ffi::CStr, Option<&std::ffi::CStr>); 0] = [];
    let procfs = match mount::new_filesystem(c"proc", None, &options, 0) {
        Err(refused) if refused.errno == Errno::PERM => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(CWD, c"/proc", flags, Mode::empty())?
        }
        other => other.map_err(|r| r.errno)?,
    };
    let is_root = fstat(&procfs)?.st_ino == PROC_ROOT_INO;
    match fstatfs(&procfs)?.f_type as i64 {
        PROC_SUPER_MAGIC if is_root => Ok(procfs),
        _ => Err(Errno::NODEV),
    }
}

/// Covers what `path` leads to with a read-only view of itself. What does not exist needs none.
fn read_only(root: &OwnedFd, path: &OsStr) -> Result<(), Errno> {
    let target = match rooted::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let mut attributes = Attributes::default();
    attributes.add(Attributes::READ_ONLY);
    let change = Change {
        attributes,
        recursive: true,
        ..Change::default()
    };
    let tree = clone_tree(&target, c"", true, &change)?;
    attach(&tree, &target, c"")?;
    [tree, target].into_iter().for_each(super::let_go);
    Ok(())
}

/// Covers folders with one empty read-only folder and files with the null device.
fn mask<'a>(plan: &'a Plan, prepared: &mut Prepared, root: &OwnedFd) -> Result<(), Failure<'a>> {
    let mut null: Option<OwnedFd> = None;
    let mut covered = false;
    for path in &plan.masked {
        let at = |step| Failure::at(step, path.as_bytes());
        let name = OsStr::from_bytes(path.as_bytes());
        let target = match rooted::open(root, name, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.map_err(at(Step::Mask))?,
        };
        let kind = fstat(&target).map_err(at(Step::Mask))?.st_mode;
        if FileType::from_raw_mode(kind) != FileType::Directory {
            let device = match &null {
                Some(device) => device,
                None => null.insert(null_device(root).map_err(at(Step::NullDevice))?),
            };
            cover(device, &target).map_err(at(Step::Mask))?;
            super::let_go(target);
            continue;
        }
        let empty = prepared.empty.as_ref().ok_or(Failure::new(
            Step::Mask,
            Errno::BADF,
            path.as_bytes(),
        ))?;
        // Attached once, then cloned from there: a detached mount cannot be cloned before Linux 6.15.
        match covered {
            false => attach(empty, &target, c""),
            true => cover(empty, &target),
        }
        .map_err(at(Step::Mask))?;
        super::let_go(target);
        covered = true;
    }
    Ok(())
}

fn cover(with: &OwnedFd, target: impl AsFd) -> Result<(), Errno> {
    let tree = clone_tree(with, c"", false, &Change::default())?;
    attach(&tree, target, c"")?;
    super::let_go(tree);
    Ok(())
}

/// The container's null device, known by its numbers and not by its name: an image's `/dev/null` could be a
/// link to what should have been masked (CVE-2025-31133).
fn null_device(root: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let device = rooted::open(root, "dev/null", flags)?;
    let stat = fstat(&device)?;
    let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if character && stat.st_rdev == rustix::fs::makedev(1, 3) {
        return Ok(device);
    }
    Err(Errno::NODEV)
}
