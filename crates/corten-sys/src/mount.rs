//! Detached mounts and their attributes.
//!
//! `rustix` has `fsopen`, `fsmount`, `open_tree` and `move_mount`; here are `mount_setattr` (Linux
//! 5.12), `open_tree_attr` (6.15, which is both in one call), and the few sequences that callers repeat.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    fspick, move_mount, open_tree,
};
use rustix::path::Arg;

use crate::call::checked;

/// How mount events travel between copies of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Unbindable => 1 << 17,
            Self::Private => 1 << 18,
            Self::Slave => 1 << 19,
            Self::Shared => 1 << 20,
        }
    }
}

/// Attributes to set and to clear, as `MOUNT_ATTR_*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
}

impl Attributes {
    pub const READ_ONLY: u64 = 0x1;
    pub const NO_SUID: u64 = 0x2;
    pub const NO_DEV: u64 = 0x4;
    pub const NO_EXEC: u64 = 0x8;
    /// The mask of the access-time choice; relative is 0, so clearing the mask chooses it.
    pub const ATIME: u64 = 0x70;
    pub const NO_ATIME: u64 = 0x10;
    pub const STRICT_ATIME: u64 = 0x20;
    pub const NO_DIR_ATIME: u64 = 0x80;
    pub const NO_SYMLINK_FOLLOW: u64 = 0x0020_0000;

    /// Adds `bits` to what is set, and takes them from what is cleared.
    pub fn add(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    /// The opposite of [`add`](Self::add).
    pub fn remove(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    pub fn is_empty(self) -> bool {
        self.set == 0 && self.clear == 0
    }
}

/// One change to a mount, or with `recursive` to all mounts of its tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    pub attributes: Attributes,
    pub propagation: Option<Propagation>,
    pub recursive: bool,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.propagation.is_none()
    }

    fn raw(&self) -> MountAttr {
        MountAttr {
            attr_set: self.attributes.set,
            // The access-time field is changed as a whole or not at all (mount_setattr(2)).
            attr_clr: self.attributes.clear
                | match self.attributes.set & Attributes::ATIME {
                    0 => 0,
                    _ => Attributes::ATIME,
                },
            propagation: self.propagation.map_or(0, Propagation::bits),
            userns_fd: 0,
        }
    }
}

/// `struct mount_attr`, version 0 (32 bytes).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;
/// The same number on every architecture; libc does not have it yet.
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;

/// Applies `change` to the mount whose root is `fd`.
pub fn change(fd: impl AsFd, change: &Change) -> Result<(), Errno> {
    set(fd, &change.raw(), change.recursive)
}

/// Maps the ids of a detached mount, and of those below it if `recursive`, as the user namespace `users` maps
/// them: a file of its user 0 belongs to whoever that user is outside (Linux 5.12). Done once, for good.
pub fn idmap(fd: impl AsFd, users: impl AsFd, recursive: bool) -> Result<(), Errno> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let attributes = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_fd().as_raw_fd() as u64,
    };
    set(fd, &attributes, recursive)
}

fn set(fd: impl AsFd, attributes: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, and the size is that of the struct, which is only read.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Clones the mount at `path` (relative to `at`; empty: `at` itself) as a detached one, with its
/// submounts if `recursive`, and applies `with`.
pub fn clone_tree(
    at: impl AsFd,
    path: impl Arg,
    recursive: bool,
    with: &Change,
) -> Result<OwnedFd, Errno> {
    static TOO_OLD: AtomicBool = AtomicBool::new(false);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    path.into_with_c_str(|path| {
        // One AT_RECURSIVE bit rules both halves of open_tree_attr.
        let together = !with.is_empty() && (with.recursive == recursive || !recursive);
        if together && !TOO_OLD.load(Ordering::Relaxed) {
            let attributes = with.raw();
            // SAFETY: a C string, and a struct of the told size that is only read.
            let opened = checked(unsafe {
                libc::syscall(
                    SYS_OPEN_TREE_ATTR,
                    at.as_fd().as_raw_fd(),
                    path.as_ptr(),
                    flags.bits(),
                    &raw const attributes,
                    std::mem::size_of::<MountAttr>(),
                )
            });
            match opened {
                // SAFETY: a new descriptor that nobody else owns.
                Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
                // EPERM: an outer container's filter that is older than the call.
                Err(Errno::NOSYS | Errno::PERM) => TOO_OLD.store(true, Ordering::Relaxed),
                Err(errno) => return Err(errno),
            }
        }
        let tree = open_tree(at.as_fd(), path, flags)?;
        if !with.is_empty() {
            change(&tree, with)?;
        }
        Ok(tree)
    })
}

/// Attaches a detached mount at `path` relative to `at`; an empty path means `at` itself. A link as
/// the last component is not followed.
pub fn attach(mount: impl AsFd, at: impl AsFd, path: impl Arg) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", at, path, flags)
}

/// A new file system of `fstype` as a detached mount. Options are `key` or `key=value`, both as the
/// file system knows them. On refusal the kernel's log of the reason is in the error.
pub fn new_filesystem<'a, K: Arg + Copy + 'a>(
    fstype: impl Arg,
    source: Option<K>,
    options: impl IntoIterator<Item = &'a (K, Option<K>)>,
    attributes: u64,
) -> Result<OwnedFd, Refused> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let build = || {
        if let Some(source) = source {
            fsconfig_set_string(&context, c"source", source)?;
        }
        configure(&context, options)?;
        fsconfig_create(&context)
    };
    build().map_err(|errno| Refused {
        errno,
        log: log_of(&context),
    })?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Changes the options of the file system that is mounted at `fd`, for all its mounts.
pub fn reconfigure<'a, K: Arg + Copy + 'a>(
    fd: impl AsFd,
    options: impl IntoIterator<Item = &'a (K, Option<K>)>,
) -> Result<(), Refused> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(fd, c"", flags)?;
    configure(&context, options)
        .and_then(|()| fsconfig_reconfigure(&context))
        .map_err(|errno| Refused {
            errno,
            log: log_of(&context),
        })
}

fn configure<'a, K: Arg + Copy + 'a>(
    context: &OwnedFd,
    options: impl IntoIterator<Item = &'a (K, Option<K>)>,
) -> Result<(), Errno> {
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, *key, *value)?,
            None => fsconfig_set_flag(context, *key)?,
        }
    }
    Ok(())
}

/// A file system that the kernel would not make, and what it said in the context's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub errno: Errno,
    pub log: Log,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            log: Log::default(),
        }
    }
}

/// The first error line of a file system context, at most 88 bytes: it travels by value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Log {
    text: [u8; 88],
    len: u8,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            text: [0; 88],
            len: 0,
        }
    }
}

impl Log {
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

fn log_of(context: &OwnedFd) -> Log {
    let mut log = Log::default();
    let mut message = [0u8; 256];
    while let Ok(len) = rustix::io::read(context, &mut message) {
        // "e text": errors; "w" and "i" are warnings and information.
        if let Some(text) = message[..len].strip_prefix(b"e ") {
            let text = text.trim_ascii();
            let len = text.len().min(log.text.len());
            log.text[..len].copy_from_slice(&text[..len]);
            log.len = len as u8;
            break;
        }
    }
    log
}
