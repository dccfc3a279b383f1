//! A layer as a folder that the kernel's overlay takes as it is.
//!
//! One layer, alone: what depends on the layers below is recorded in [`Pending`] and settled when the stack is known.

pub(crate) mod attributes;
pub(crate) mod marks;
mod pending;
mod walk;

pub(crate) use pending::Pending;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::{Action, split};
use super::error::EntryPath;
use super::tar::{Entry, Segment, Type};
use super::{LayerError, Limits};
use attributes::Attributes;
use walk::{Walk, write};

/// From this size on a file's need is compared with the free space before it is written.
const CHECK_SPACE: u64 = 1 << 20;

/// Gives the stored bytes of the current entry, piece by piece.
pub(crate) trait Contents {
    fn chunk(&mut self) -> Result<Option<&[u8]>, LayerError>;
    /// Where in the tar the next of them is.
    fn offset(&self) -> u64;
}

impl<R: std::io::BufRead> Contents for super::tar::Reader<R> {
    fn chunk(&mut self) -> Result<Option<&[u8]>, LayerError> {
        super::tar::Reader::chunk(self)
    }

    fn offset(&self) -> u64 {
        super::tar::Reader::offset(self)
    }
}

/// A tree being written.
pub(crate) struct Tree {
    walk: Walk,
    /// Where folders go that a later entry of the same name replaces: removing them here and now could take
    /// more open descriptors than a process has.
    replaced: PathBuf,
    replacements: u64,
    limits: Limits,
    done: Done,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub pending: Pending,
    /// An entry named the root, so its attributes are the layer's.
    pub names_root: bool,
    /// Everything in lower layers is hidden. The kernel does not look for that mark on a root.
    pub opaque_root: bool,
    /// Bytes of file contents.
    pub size: u64,
    pub entries: u64,
}

impl Done {
    pub fn check(&self, limits: &Limits) -> Result<(), LayerError> {
        if self.entries > limits.entries {
            return Err(LayerError::Limit {
                what: "entries",
                limit: limits.entries,
            });
        }
        match self.pending.bytes() > limits.pending {
            true => Err(LayerError::Limit {
                what: "bytes of names of implied folders",
                limit: limits.pending as u64,
            }),
            false => Ok(()),
        }
    }
}

impl walk::Implied for Done {
    fn implied(&mut self, path: &[u8]) -> Result<(), LayerError> {
        self.entries += 1;
        self.pending.add_folder(path);
        Ok(())
    }
}

impl Tree {
    /// Writes into the empty folder `root`; `replaced` is a path beside it, made when needed.
    pub fn new(root: OwnedFd, replaced: &Path, limits: &Limits) -> Self {
        Self {
            walk: Walk::new(root),
            replaced: replaced.into(),
            replacements: 0,
            limits: limits.clone(),
            done: Done::default(),
        }
    }

    /// Does what one entry says. `contents` are the stored bytes of a file.
    pub fn apply(&mut self, action: Action, contents: &mut dyn Contents) -> Result<(), LayerError> {
        match action {
            Action::Nothing => Ok(()),
            Action::Hide(path) => self.hide(&path),
            Action::HideContents(path) => self.hide_contents(&path),
            Action::Make(e) if e.path.is_empty() => self.root(&e),
            Action::Make(e) => self.make(e, contents),
        }?;
        self.done.entries += 1;
        self.done.check(&self.limits)
    }

    /// Puts the times of the last folders right.
    pub fn finish(self) -> Result<Done, LayerError> {
        self.walk.finish()?;
        Ok(self.done)
    }

    fn hide(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let (folder, parent) = self.walk.enter(parent, path, &mut self.done)?;
        let stat = marks::stat(folder, name).map_err(write("look at", path))?;
        let parent = parent.to_vec();
        match stat {
            None => marks::make_whiteout(folder, name).map_err(write("write a whiteout", path))?,
            Some(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => {
                open_folder(folder, name)
                    .and_then(marks::make_opaque)
                    .map_err(write("mark opaque", path))?;
                // Nothing of the hidden folder is inherited, were this one only implied.
                self.done
                    .pending
                    .name_folder(&super::entry::join(&parent, name));
            }
            // Whatever else this layer has there hides what is below by being there.
            Some(_) => return Ok(()),
        }
        self.walk.touch(&parent);
        Ok(())
    }

    fn hide_contents(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let (folder, _) = self.walk.enter(path, path, &mut self.done)?;
        if path.is_empty() {
            self.done.opaque_root = true;
            return Ok(());
        }
        marks::make_opaque(folder).map_err(write("mark opaque", path))
    }

    fn root(&mut self, e: &Entry) -> Result<(), LayerError> {
        let (root, _) = self.walk.enter(b"", b"./", &mut self.done)?;
        let a = self::attributes_of(e);
        attributes::clear_xattrs(root, b".")
            .and_then(|()| attributes::set_open(root, &a))
            .map_err(write("set the attributes", b"./"))?;
        self.walk.set_mtime(b"", a.mtime);
        self.done.names_root = true;
        Ok(())
    }

    fn make(&mut self, e: Entry, contents: &mut dyn Contents) -> Result<(), LayerError> {
        if e.kind == Type::Hardlink {
            return self.link(&e);
        }
        let (parent, name) = split(&e.path);
        let real = self.walk.enter(parent, &e.path, &mut self.done)?.1.to_vec();
        let path = super::entry::join(&real, name);
        match e.kind {
            Type::Folder => self.folder(&e, &path)?,
            Type::File => self.file(&e, &path, contents)?,
            _ => self.special(&e, &path)?,
        }
        self.walk.touch(&real);
        Ok(())
    }

    fn folder(&mut self, e: &Entry, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let a = attributes_of(e);
        let mut opaque = false;
        let mut folder = self.parent(parent, &e.path)?;
        loop {
            match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(err) => return Err(write("make a folder", &e.path)(err)),
            }
            let stat = stat(folder, name, &e.path)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                attributes::clear_xattrs(folder, name)
                    .map_err(write("replace the xattrs", &e.path))?;
                break;
            }
            opaque = marks::is_whiteout(&stat);
            self.clear(path, &stat, &e.path)?;
            folder = self.parent(parent, &e.path)?;
        }
        if opaque {
            open_folder(folder, name)
                .and_then(marks::make_opaque)
                .map_err(write("mark opaque", &e.path))?;
        }
        attributes::set_named(folder, name, FileType::Directory, &a)
            .map_err(write("set the attributes", &e.path))?;
        self.walk.set_mtime(path, a.mtime);
        self.done.pending.name_folder(path);
        Ok(())
    }

    fn file(
        &mut self,
        e: &Entry,
        path: &[u8],
        contents: &mut dyn Contents,
    ) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = loop {
            let folder = self.parent(parent, &e.path)?;
            match rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600)) {
                Ok(file) => break file,
                Err(Errno::EXIST) => {
                    let stat = stat(folder, name, &e.path)?;
                    self.clear(path, &stat, &e.path)?;
                }
                Err(err) => return Err(write("make a file", &e.path)(err)),
            }
        };
        check_space(&file, e)?;
        self.done.size += fill(&file, e, 0, contents)?;
        attributes::set_open(&file, &attributes_of(e))
            .and_then(|()| rustix::fs::futimens(&file, &attributes::times(e.mtime)))
            .map_err(write("set the attributes", &e.path))
    }

    fn special(&mut self, e: &Entry, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let (kind, device) = match e.kind {
            Type::Symlink => (FileType::Symlink, 0),
            Type::Fifo => (FileType::Fifo, 0),
            Type::Block => (FileType::BlockDevice, device(e)),
            _ => (FileType::CharacterDevice, device(e)),
        };
        loop {
            let folder = self.parent(parent, &e.path)?;
            let made = match kind {
                FileType::Symlink => rustix::fs::symlinkat(e.link.as_slice(), folder, name),
                _ => rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o600), device),
            };
            match made {
                Ok(()) => break,
                Err(Errno::EXIST) => {
                    let stat = stat(folder, name, &e.path)?;
                    self.clear(path, &stat, &e.path)?;
                }
                Err(err) => return Err(write("make a node", &e.path)(err)),
            }
        }
        let folder = self.parent(parent, &e.path)?;
        attributes::set_named(folder, name, kind, &attributes_of(e))
            .map_err(write("set the attributes", &e.path))
    }

    /// A hard link has no attributes of its own; its target may be in a lower layer.
    fn link(&mut self, e: &Entry) -> Result<(), LayerError> {
        let target = self.target(e)?;
        let (parent, name) = split(&e.path);
        let (folder, real) = self.walk.enter(parent, &e.path, &mut self.done)?;
        let there = marks::stat(folder, name).map_err(write("look at", &e.path))?;
        let real = real.to_vec();
        let path = super::entry::join(&real, name);
        if let (Some((_, t)), Some(s)) = (&target, &there)
            && (t.st_dev, t.st_ino) == (s.st_dev, s.st_ino)
        {
            return Ok(());
        }
        if let Some(s) = there {
            self.clear(&path, &s, &e.path)?;
        }
        match target {
            Some((from, _)) => {
                let folder = self.parent(&real, &e.path)?;
                let name_there = split(&e.link).1;
                rustix::fs::linkat(&from, name_there, folder, name, AtFlags::empty())
                    .map_err(write("make a hard link", &e.path))?;
            }
            None => self.done.pending.add_link(&path, &e.link),
        }
        self.walk.touch(&real);
        Ok(())
    }

    /// The folder of a hard link's target, if this layer has it and has it here already.
    fn target(&mut self, e: &Entry) -> Result<Option<(OwnedFd, Stat)>, LayerError> {
        let (parent, name) = split(&e.link);
        let Some((folder, _)) = self.walk.find(parent, &e.path)? else {
            return Ok(None);
        };
        let stat = marks::stat(folder, name)
            .map_err(write("look at the target of the hard link", &e.path))?;
        match stat {
            Some(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => Err(
                LayerError::refused(&e.path, "it is a hard link to a folder"),
            ),
            Some(s) if !marks::is_whiteout(&s) => Ok(Some((dup(folder, &e.path)?, s))),
            _ => Ok(None),
        }
    }

    /// An entry's folder by its real path, which `enter` has found before.
    fn parent(&mut self, real: &[u8], entry: &[u8]) -> Result<BorrowedFd<'_>, LayerError> {
        Ok(self.walk.enter(real, entry, &mut self.done)?.0)
    }

    /// Makes room: an earlier entry of this layer has the name, and the last one wins.
    fn clear(&mut self, path: &[u8], stat: &Stat, entry: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        let folder = self.walk.enter(parent, entry, &mut self.done)?.0;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return rustix::fs::unlinkat(folder, name, AtFlags::empty())
                .map_err(write("replace an earlier entry", entry));
        }
        if self.replacements == 0 {
            rustix::fs::mkdir(&self.replaced, Mode::from_raw_mode(0o700))
                .map_err(write("replace an earlier entry", entry))?;
        }
        self.replacements += 1;
        let aside = self.replaced.join(self.replacements.to_string());
        rustix::fs::renameat(folder, name, rustix::fs::CWD, &aside)
            .map_err(write("replace an earlier entry", entry))?;
        self.walk.forget(path);
        Ok(())
    }
}

/// Unpacks a whole tar, plain, into the empty folder `root`; `replaced` as for [`Tree::new`].
pub(crate) fn apply_all<R: std::io::BufRead>(
    tar: R,
    root: OwnedFd,
    replaced: &Path,
    limits: &Limits,
) -> Result<Done, LayerError> {
    let mut tar = super::tar::Reader::new(tar, limits);
    let mut tree = Tree::new(root, replaced, limits);
    while let Some(entry) = tar.next()? {
        tree.apply(super::entry::action(entry)?, &mut tar)?;
    }
    tree.finish()
}

pub(crate) fn attributes_of(e: &Entry) -> Attributes {
    let keep = |name: &[u8]| !marks::is_private(name) && !attributes::is_host_label(name);
    Attributes {
        mode: e.mode,
        uid: e.uid,
        gid: e.gid,
        mtime: e.mtime,
        xattrs: e
            .xattrs
            .iter()
            .filter(|(name, _)| keep(name))
            .cloned()
            .collect(),
    }
}

fn device(e: &Entry) -> u64 {
    rustix::fs::makedev(e.device.0, e.device.1)
}

fn dup(fd: BorrowedFd<'_>, entry: &[u8]) -> Result<OwnedFd, LayerError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(write("open its folder", entry))
}

fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn stat(folder: BorrowedFd<'_>, name: &[u8], entry: &[u8]) -> Result<Stat, LayerError> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(write("look at", entry))
}

/// What a big file needs is known before its first byte, so it fails before it fills the disk.
pub(crate) fn check_space(file: &OwnedFd, e: &Entry) -> Result<(), LayerError> {
    let needed = match &e.sparse {
        Some(segments) => segments.iter().map(|s| s.length).sum(),
        None => e.size,
    };
    if needed < CHECK_SPACE {
        return Ok(());
    }
    let fs = rustix::fs::fstatvfs(file).map_err(write("look at the free space", &e.path))?;
    let available = fs.f_bavail.saturating_mul(fs.f_frsize);
    match needed > available {
        true => Err(LayerError::Space {
            entry: EntryPath(e.path.clone()),
            needed,
            available,
        }),
        false => Ok(()),
    }
}

/// Writes the contents, from byte `start` of the file on; returns how many bytes were stored.
pub(crate) fn fill(
    file: &OwnedFd,
    e: &Entry,
    start: u64,
    contents: &mut dyn Contents,
) -> Result<u64, LayerError> {
    let whole = [Segment {
        offset: 0,
        length: e.size,
    }];
    let segments = e.sparse.as_deref().unwrap_or(&whole);
    if e.sparse.is_some() {
        rustix::fs::ftruncate(file, start + e.size).map_err(write("set the size", &e.path))?;
    }
    let mut runs = segments.iter().filter(|s| s.length > 0);
    let mut run = runs.next().copied();
    let mut total = 0;
    while let Some(mut chunk) = contents.chunk()? {
        total += chunk.len() as u64;
        while !chunk.is_empty() {
            // The map and the stored length were checked to agree.
            let Some(r) = run.as_mut() else {
                return Err(LayerError::refused(
                    &e.path,
                    "it has more data than it says",
                ));
            };
            let n = chunk
                .len()
                .min(usize::try_from(r.length).unwrap_or(usize::MAX));
            write_at(file, &chunk[..n], start + r.offset).map_err(write("write", &e.path))?;
            chunk = &chunk[n..];
            r.offset += n as u64;
            r.length -= n as u64;
            if r.length == 0 {
                run = runs.next().copied();
            }
        }
    }
    Ok(total)
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file.as_fd(), bytes, at) {
            Ok(n) => {
                bytes = &bytes[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
