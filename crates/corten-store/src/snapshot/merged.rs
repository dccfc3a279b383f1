//! The merged view of a stack of layers, read without mounting: what an overlay of them would show.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Result;

use crate::collect::trash;
use crate::layer::{join, marks};

/// As the kernel: MAXSYMLINKS.
const SYMLINKS: usize = 40;

/// A stack, top first.
pub(super) struct Merged {
    root: Folders,
}

/// A folder of the merged view: those of the layers that show in it, top first, never empty.
pub(super) type Folders = Vec<OwnedFd>;

/// What a name stands for.
pub(super) enum Node {
    Folder(Folders),
    /// Lies in this folder of one layer under the name asked for.
    Other {
        folder: OwnedFd,
        stat: Stat,
    },
}

impl Merged {
    /// Of the roots of layers, top first. With none, the view is empty.
    pub fn new(root: Folders) -> Self {
        Self { root }
    }

    pub fn roots(&self) -> &[OwnedFd] {
        &self.root
    }

    /// What is at `path`, through no symlink.
    pub fn get(&self, path: &[u8]) -> Result<Option<Node>> {
        let mut at = dup(&self.root)?;
        let mut names = path
            .split(|&b| b == b'/')
            .filter(|n| !n.is_empty())
            .peekable();
        while let Some(name) = names.next() {
            match child(&at, name)? {
                Some(Node::Folder(next)) => at = next,
                Some(other) if names.peek().is_none() => return Ok(Some(other)),
                _ => return Ok(None),
            }
        }
        Ok(Some(Node::Folder(at)))
    }

    /// Is it this file that is shown at the path?
    pub fn shows(&self, path: &[u8], file: &Stat) -> Result<bool> {
        Ok(matches!(self.get(path)?, Some(Node::Other { stat, .. }) if is_same(&stat, file)))
    }

    /// All paths at which this file is shown. Looks at every entry.
    pub fn names_of(&self, file: &Stat) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        // Paths instead of descriptors: there may be more folders than a process may have of those.
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let Some(Node::Folder(folders)) = self.get(&path)? else {
                continue;
            };
            let mut all = BTreeSet::new();
            for folder in &folders {
                all.extend(trash::names(folder)?);
            }
            for name in all {
                let path = join(&path, name.to_bytes());
                match child(&folders, name.to_bytes())? {
                    Some(Node::Folder(_)) => todo.push(path),
                    Some(Node::Other { stat, .. }) if is_same(&stat, file) => found.push(path),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// The path without symlinks of a folder, as a process inside would find it: an absolute target starts at the root,
    /// and above the root is the root. `None`: there is no such folder.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut todo = names(path);
        let mut symlinks = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            match self.get(&at.join(&b'/'))? {
                Some(Node::Folder(_)) => {}
                Some(Node::Other { folder, stat }) if is_symlink(&stat) => {
                    symlinks += 1;
                    let name = at.pop().unwrap_or_default();
                    let target = rustix::fs::readlinkat(&folder, name.as_slice(), Vec::new())?;
                    let target = target.to_bytes();
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    if symlinks > SYMLINKS {
                        return Ok(None);
                    }
                    todo.extend(names(target));
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(at.join(&b'/')))
    }
}

/// Looks a name up in a folder of the view. Lower folders show through upper ones until a file, a whiteout or an opaque folder
/// ends it (Documentation/filesystems/overlayfs.rst, "Merging", "whiteouts and opaque directories").
fn child(folders: &[OwnedFd], name: &[u8]) -> Result<Option<Node>> {
    let mut found: Folders = Vec::new();
    for folder in folders {
        let Some(stat) = marks::stat(folder, name)? else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            if found.is_empty() && !marks::is_whiteout(&stat) {
                let folder = rustix::io::fcntl_dupfd_cloexec(folder, 0)?;
                return Ok(Some(Node::Other { folder, stat }));
            }
            break;
        }
        let fd = open(folder, name)?;
        let opaque = marks::is_opaque(&fd)?;
        found.push(fd);
        if opaque {
            break;
        }
    }
    Ok((!found.is_empty()).then_some(Node::Folder(found)))
}

fn open(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

pub(super) fn is_symlink(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// The names of a path, last first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|n| !n.is_empty() && n != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

fn dup(folders: &[OwnedFd]) -> Result<Folders> {
    folders
        .iter()
        .map(|f| rustix::io::fcntl_dupfd_cloexec(f.as_fd(), 0))
        .collect()
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}
