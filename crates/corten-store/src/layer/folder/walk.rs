//! Finding the folder of an entry, below one descriptor and never above it.
//!
//! Nearly every entry lies in the folder of the one before, so the last few folders stay open. A miss is one
//! `openat2` that crosses no symlink. Only where that fails does [`Walk::descend`] go name by name, to make the folders
//! that the layer implies, or to follow a symlink of this same layer as long as it leads down a relative path
//! inside. Nobody else writes to the tree meanwhile, and even so each step is held by a descriptor.
//!
//! Adding a name to a folder changes its mtime. Each open folder remembers the time that it shall have, and gets it back
//! when it is closed; so no list of all folders is needed at the end.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::marks;
use crate::layer::LayerError;
use crate::layer::entry::{components, escape, join, split};
use crate::layer::error::EntryPath;

/// As many folders as a common path is deep.
const OPEN: usize = 24;
/// MAXSYMLINKS of the kernel.
const SYMLINKS: usize = 40;
const LONGEST_PATH: usize = 4095;

struct Open {
    /// From the root, through no symlink.
    path: Vec<u8>,
    fd: OwnedFd,
    mtime: (i64, u32),
    touched: bool,
}

/// Which folders were made only because something lies in them.
pub(super) trait Implied {
    /// A folder was made that no entry has named.
    fn implied(&mut self, path: &[u8]) -> Result<(), LayerError>;
}

pub(super) struct Walk {
    root: OwnedFd,
    /// The last used one is at the end.
    open: Vec<Open>,
}

/// A symlink was met; what its target says to do next.
enum Detour {
    Components(Vec<Vec<u8>>),
    Escape,
}

impl Walk {
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root,
            open: Vec::new(),
        }
    }

    /// The folder `path`, made if need be, as a descriptor and its real path. `entry` is for messages.
    pub fn enter(
        &mut self,
        path: &[u8],
        entry: &[u8],
        implied: &mut dyn Implied,
    ) -> Result<(BorrowedFd<'_>, &[u8]), LayerError> {
        let at = match self.open(path) {
            Ok(i) => i,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                let real = self
                    .descend(path, entry, Some(implied))?
                    // Only a walk that makes nothing ends nowhere.
                    .ok_or_else(|| LayerError::refused(entry, "its folder is gone"))?;
                self.open(&real).map_err(write("open its folder", entry))?
            }
            Err(e) => return Err(write("open its folder", entry)(e)),
        };
        let folder = &self.open[at];
        Ok((folder.fd.as_fd(), &folder.path))
    }

    /// The folder `path` if this layer has it, without making anything.
    pub fn find(
        &mut self,
        path: &[u8],
        entry: &[u8],
    ) -> Result<Option<(BorrowedFd<'_>, &[u8])>, LayerError> {
        let at = match self.open(path) {
            Ok(i) => i,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                match self.descend(path, entry, None)? {
                    Some(real) => self.open(&real).map_err(write("open its folder", entry))?,
                    None => return Ok(None),
                }
            }
            Err(e) => return Err(write("open its folder", entry)(e)),
        };
        let folder = &self.open[at];
        Ok(Some((folder.fd.as_fd(), &folder.path)))
    }

    /// To be called after a name was added to or taken from the open folder `path`.
    pub fn touch(&mut self, path: &[u8]) {
        if let Some(o) = self.open.iter_mut().rev().find(|o| o.path == path) {
            o.touched = true;
        }
    }

    /// The folder `path` was given this time.
    pub fn set_mtime(&mut self, path: &[u8], mtime: (i64, u32)) {
        if let Some(o) = self.open.iter_mut().find(|o| o.path == path) {
            o.mtime = mtime;
            o.touched = true;
        }
    }

    /// Forgets `path` and all below it: they are no longer in the tree.
    pub fn forget(&mut self, path: &[u8]) {
        self.open.retain(|o| {
            let below = o.path.strip_prefix(path);
            !below.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        });
    }

    /// Gives every open folder its time back.
    pub fn finish(mut self) -> Result<OwnedFd, LayerError> {
        for o in self.open.drain(..) {
            close(o)?;
        }
        Ok(self.root)
    }

    /// Opens a folder by its real path; the index is good until the next call.
    fn open(&mut self, path: &[u8]) -> Result<usize, Errno> {
        let last = self.open.len().wrapping_sub(1);
        if let Some(i) = self.open.iter().rposition(|o| o.path == path) {
            if i != last {
                let o = self.open.remove(i);
                self.open.push(o);
            }
            return Ok(last);
        }
        let (parent, name) = split(path);
        let (from, rest) = match self.open.iter().rfind(|o| o.path == parent) {
            Some(o) if !path.is_empty() => (o.fd.as_fd(), name),
            _ if path.is_empty() => (self.root.as_fd(), b".".as_slice()),
            _ => (self.root.as_fd(), path),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let fd = rustix::fs::openat2(from, rest, flags, Mode::empty(), resolve)?;
        let mtime = attributes::mtime(&rustix::fs::fstat(&fd)?);
        if self.open.len() == OPEN {
            let oldest = self.open.remove(0);
            restore(&oldest)?;
        }
        self.open.push(Open {
            path: path.to_vec(),
            fd,
            mtime,
            touched: false,
        });
        Ok(self.open.len() - 1)
    }

    /// Goes down name by name; returns the real path. Without `implied` it makes nothing, and `None` says that there is no such folder.
    fn descend(
        &mut self,
        path: &[u8],
        entry: &[u8],
        mut implied: Option<&mut dyn Implied>,
    ) -> Result<Option<Vec<u8>>, LayerError> {
        let mut at: Vec<u8> = Vec::new();
        let mut todo: Vec<Vec<u8>> = components(path);
        let mut symlinks = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                if at.is_empty() {
                    return Err(escape(entry));
                }
                let parent = split(&at).0.len();
                at.truncate(parent);
                continue;
            }
            let next = join(&at, &name);
            if next.len() > LONGEST_PATH {
                return Err(LayerError::refused(
                    entry,
                    "its path through symlinks is longer than 4095 bytes",
                ));
            }
            let i = self.open(&at).map_err(write("open its folder", entry))?;
            let stat = marks::stat(&self.open[i].fd, &name).map_err(write("look at", entry))?;
            let kind = stat.as_ref().map(|s| FileType::from_raw_mode(s.st_mode));
            match (stat, kind) {
                (Some(_), Some(FileType::Directory)) => at = next,
                (Some(_), Some(FileType::Symlink)) => {
                    symlinks += 1;
                    match self.detour(i, &name, symlinks, entry)? {
                        Detour::Components(more) => todo.extend(more),
                        Detour::Escape => return Err(escape(entry)),
                    }
                }
                (Some(s), _) if !marks::is_whiteout(&s) => {
                    return Err(LayerError::refused(entry, "what it lies in is no folder"));
                }
                (whiteout, _) => {
                    let Some(implied) = implied.as_mut() else {
                        return Ok(None);
                    };
                    self.imply(i, &name, whiteout.is_some(), entry)?;
                    // Where a whiteout stood, nothing from below shines through, so nothing is inherited.
                    if whiteout.is_none() {
                        implied.implied(&next)?;
                    }
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    /// Makes a folder that is only implied.
    fn imply(
        &mut self,
        parent: usize,
        name: &[u8],
        whiteout: bool,
        entry: &[u8],
    ) -> Result<(), LayerError> {
        let folder = &mut self.open[parent];
        let make = || {
            if whiteout {
                rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty())?;
            }
            rustix::fs::mkdirat(&folder.fd, name, Mode::from_raw_mode(0o700))?;
            if whiteout {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                marks::make_opaque(rustix::fs::openat(&folder.fd, name, flags, Mode::empty())?)?;
            }
            let kind = FileType::Directory;
            attributes::set_named(folder.fd.as_fd(), name, kind, &Attributes::IMPLIED)
        };
        make().map_err(write("make its folder", entry))?;
        folder.touched = true;
        Ok(())
    }

    fn detour(
        &self,
        parent: usize,
        name: &[u8],
        symlinks: usize,
        entry: &[u8],
    ) -> Result<Detour, LayerError> {
        if symlinks > SYMLINKS {
            return Err(LayerError::refused(
                entry,
                "its path has more than 40 symlinks",
            ));
        }
        let target = rustix::fs::readlinkat(&self.open[parent].fd, name, Vec::new())
            .map_err(write("read a symlink", entry))?;
        let target = target.to_bytes();
        match target.first() {
            Some(b'/') | None => Ok(Detour::Escape),
            Some(_) => Ok(Detour::Components(components(target))),
        }
    }
}

fn restore(o: &Open) -> Result<(), Errno> {
    match o.touched {
        true => rustix::fs::futimens(&o.fd, &attributes::times(o.mtime)),
        false => Ok(()),
    }
}

fn close(o: Open) -> Result<(), LayerError> {
    restore(&o).map_err(write("set the time of a folder", &o.path))
}

/// For `map_err`: the file system would not do this for the entry.
pub(super) fn write(op: &'static str, entry: &[u8]) -> impl FnOnce(Errno) -> LayerError {
    move |e| LayerError::Write {
        op,
        entry: EntryPath(entry.to_vec()),
        source: e.into(),
    }
}
