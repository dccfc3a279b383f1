//! Writes the tree of a patch: see [`settle`](super::settle) for what goes in and why.
//!
//! All trees here are ours and still; but their symlinks are the image's, so no path is ever opened through one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::copy::Copies;
use super::merged::{Merged, Node, is_symlink};
use crate::collect::trash::names;
use crate::layer::attributes::{self, Attributes};
use crate::layer::{EntryPath, LayerError, Pending, join, marks, split};

/// What stops a patch.
pub(super) enum Fault {
    Errno(&'static str, Vec<u8>, Errno),
    NoTarget(Vec<u8>),
    LinkToFolder(Vec<u8>),
}

impl Fault {
    pub fn into_layer_error(self) -> LayerError {
        let refused = |link, why| LayerError::Refused {
            entry: EntryPath(link),
            why,
        };
        match self {
            Self::Errno(op, path, e) => LayerError::Write {
                op,
                entry: EntryPath(path),
                source: e.into(),
            },
            Self::NoTarget(link) => refused(
                link,
                "it is a hard link to a file that neither this layer nor one below has",
            ),
            Self::LinkToFolder(link) => refused(link, "it is a hard link to a folder"),
        }
    }
}

type Outcome<T> = Result<T, Fault>;

/// Where the target of a link lies, under the name that the link has for it; and its path, if it is shown.
type Target<'t> = (OwnedFd, &'t [u8], Option<Vec<u8>>);

fn errno(op: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Fault {
    move |e| Fault::Errno(op, path.to_vec(), e)
}

pub(super) struct Patch<'a> {
    /// The layer that is patched.
    raw: OwnedFd,
    /// All below it.
    lower: Merged,
    root: OwnedFd,
    pending: &'a Pending,
    /// The patch's folders and the times that they get when nothing more is put into them.
    made: BTreeMap<Vec<u8>, (i64, u32)>,
    /// Where the contents of an implied folder went that is a symlink below.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
    copies: Copies,
    /// Where folders of the patch go that a link replaces: copies in them may still get other names. For the maker to remove.
    aside: PathBuf,
    made_aside: u32,
    touched: bool,
}

impl<'a> Patch<'a> {
    /// `aside` is a path on the file system of `root` and outside of it, made when needed.
    pub fn new(
        raw: OwnedFd,
        lower: Merged,
        root: OwnedFd,
        aside: &Path,
        pending: &'a Pending,
    ) -> Self {
        Self {
            raw,
            lower,
            root,
            pending,
            made: BTreeMap::new(),
            moved: Vec::new(),
            copies: Copies::default(),
            aside: aside.into(),
            made_aside: 0,
            touched: false,
        }
    }

    /// Writes it all; returns whether nothing was needed.
    pub fn write(mut self) -> Outcome<bool> {
        let pending = self.pending;
        for folder in pending.folders() {
            self.implied(folder)?;
        }
        for (link, target) in pending.links() {
            self.link(link, target)?;
        }
        for (path, mtime) in self.made.iter().rev() {
            let times = attributes::times(*mtime);
            rustix::fs::futimens(self.at(path)?, &times).map_err(errno("set the time", path))?;
        }
        Ok(!self.touched)
    }

    /// A folder that the layer has only because something lies in it.
    fn implied(&mut self, path: &[u8]) -> Outcome<()> {
        let moved = |from: &[u8]| {
            path.strip_prefix(from)
                .is_some_and(|r| r.first() == Some(&b'/'))
        };
        if self.moved.iter().any(|(from, _)| moved(from)) || self.is_hidden(path)? {
            return Ok(());
        }
        let Some(raw) = open_in(&self.raw, path).map_err(errno("look at", path))? else {
            return Ok(());
        };
        match self.lower.get(path).map_err(errno("look up", path))? {
            Some(Node::Folder(_)) => {
                if self.attributes(path)? != Attributes::IMPLIED {
                    self.folder(path)?;
                }
                Ok(())
            }
            Some(Node::Other { folder, stat }) if is_symlink(&stat) => {
                match marks::is_opaque(&raw).map_err(errno("look at", path))? {
                    true => Ok(()),
                    false => self.relocate(path, &folder),
                }
            }
            _ => Ok(()),
        }
    }

    /// Below, `path` is a symlink in `folder`. It stays one, and what this layer has in it goes where it leads.
    fn relocate(&mut self, path: &[u8], folder: &OwnedFd) -> Outcome<()> {
        let Some(to) = self.lower.resolve(path).map_err(errno("resolve", path))? else {
            return Ok(());
        };
        let (parent, name) = split(path);
        self.folder(parent)?;
        let copy = || {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            let attributes = Attributes::of(folder.as_fd(), name)?;
            let parent = self.at_errno(parent)?;
            rustix::fs::symlinkat(target.as_c_str(), &parent, name)?;
            attributes::set_named(parent.as_fd(), name, FileType::Symlink, &attributes)
        };
        copy().map_err(errno("copy the symlink", path))?;
        self.touched = true;
        self.carry(path, &to)
    }

    /// Links all that the layer has in the folder `from` into the folder `to`.
    fn carry(&mut self, from: &[u8], to: &[u8]) -> Outcome<()> {
        self.moved.push((from.to_vec(), to.to_vec()));
        self.folder(to)?;
        let list = || names(&open_in(&self.raw, from)?.ok_or(Errno::NOENT)?);
        for name in list().map_err(errno("list", from))? {
            let name = name.to_bytes();
            let (path, target) = (join(from, name), join(to, name));
            let source = open_in(&self.raw, from).map_err(errno("open", from))?;
            let source = source.ok_or(Errno::NOENT).map_err(errno("open", from))?;
            let stat = stat(&source, name).map_err(errno("look at", &path))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.carry_folder(&path, &target)?;
                continue;
            }
            let parent = self.at(to)?;
            match self.copies.link(&source, name, &parent, name) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(e) => return Err(errno("link", &target)(e)),
            }
        }
        Ok(())
    }

    fn carry_folder(&mut self, from: &[u8], to: &[u8]) -> Outcome<()> {
        let raw = open_in(&self.raw, from)
            .and_then(|f| f.ok_or(Errno::NOENT))
            .map_err(errno("open", from))?;
        let opaque = marks::is_opaque(&raw).map_err(errno("look at", from))?;
        let implied = self.pending.folders().contains(from);
        let below = self.lower.get(to).map_err(errno("look up", to))?;
        if implied
            && !opaque
            && let Some(Node::Other { stat, .. }) = &below
            && is_symlink(stat)
            && let Some(real) = self.lower.resolve(to).map_err(errno("resolve", to))?
        {
            return self.carry(from, &real);
        }
        let read = || match below {
            Some(Node::Folder(f)) if implied && !opaque => Attributes::of(f[0].as_fd(), b""),
            _ => Attributes::of(raw.as_fd(), b""),
        };
        let attributes = read().map_err(errno("read the attributes", from))?;
        self.make(to, &attributes)?;
        if opaque {
            marks::make_opaque(self.at(to)?).map_err(errno("mark opaque", to))?;
        }
        self.carry(from, to)
    }

    /// A hard link whose target the layer does not have.
    fn link(&mut self, link: &[u8], target: &[u8]) -> Outcome<()> {
        let (parent, name) = split(link);
        let raw = open_in(&self.raw, parent).map_err(errno("look at", link))?;
        let Some(raw) = raw else {
            // A later entry has replaced its folder.
            return Ok(());
        };
        let there = marks::stat(&raw, name).map_err(errno("look at", link))?;
        if there.is_some_and(|s| !marks::is_whiteout(&s)) {
            // A later entry has its name.
            return Ok(());
        }
        let (source, source_name, shown) = self.target(link, target)?;
        let parent = self.map(parent);
        self.folder(&parent)?;
        let folder = self.at(&parent)?;
        self.clear(&folder, &join(&parent, name))?;
        let is_copy = self
            .copies
            .link(&source, source_name, &folder, name)
            .map_err(errno("make the hard link", link))?;
        self.touched = true;
        let Some(path) = shown.filter(|_| is_copy) else {
            return Ok(());
        };
        let read = || {
            let stat = stat(&source, source_name)?;
            match stat.st_nlink {
                // The link may stand where the folder of the only name was.
                1 if self.view()?.shows(&path, &stat)? => Ok(vec![path]),
                1 => Ok(Vec::new()),
                _ => self.view()?.names_of(&stat),
            }
        };
        for path in read().map_err(errno("look for other names of", link))? {
            self.shadow(&path, &folder, name)?;
        }
        Ok(())
    }

    /// Makes room for a link: what an earlier one put there, a folder with names of a copied file perhaps, is moved aside.
    fn clear(&mut self, folder: &OwnedFd, path: &[u8]) -> Outcome<()> {
        let name = split(path).1;
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(e) => return Err(errno("make room for", path)(e)),
        }
        let below = |made: &[u8]| {
            made.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        self.made.retain(|made, _| !below(made));
        let aside = self.aside.join(self.made_aside.to_string());
        self.made_aside += 1;
        let put = || {
            match rustix::fs::mkdir(&self.aside, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            rustix::fs::renameat(folder, name, rustix::fs::CWD, &aside)
        };
        put().map_err(errno("make room for", path))
    }

    /// A file that was copied keeps its own names, so that they and the link stay one file.
    fn shadow(&mut self, path: &[u8], copy: &OwnedFd, copy_name: &[u8]) -> Outcome<()> {
        let (parent, name) = split(path);
        self.folder(parent)?;
        let folder = self.at(parent)?;
        match rustix::fs::linkat(copy, copy_name, &folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(errno("make the hard link", path)(e)),
        }
    }

    /// The layer as it is shown with its patch, as far as that is, and all below.
    fn view(&self) -> Result<Merged, Errno> {
        let mut roots = vec![dup(&self.root)?, dup(&self.raw)?];
        for root in self.lower.roots() {
            roots.push(dup(root)?);
        }
        Ok(Merged::new(roots))
    }

    /// The target as this layer shows it with all below, and then its path; or, if this layer hides it, as it was below.
    fn target<'t>(&self, link: &[u8], target: &'t [u8]) -> Outcome<Target<'t>> {
        let view = self.view().map_err(errno("look up the target", link))?;
        let (parent, name) = split(target);
        for (view, is_shown) in [(&view, true), (&self.lower, false)] {
            let find = || -> Result<_, Errno> {
                let Some(real) = view.resolve(parent)? else {
                    return Ok(None);
                };
                let path = join(&real, name);
                Ok(view.get(&path)?.map(|node| (node, path)))
            };
            match find().map_err(errno("look up the target", link))? {
                Some((Node::Other { folder, .. }, path)) => {
                    return Ok((folder, name, is_shown.then_some(path)));
                }
                Some((Node::Folder(_), _)) => return Err(Fault::LinkToFolder(link.to_vec())),
                None => {}
            }
        }
        Err(Fault::NoTarget(link.to_vec()))
    }

    /// Where a path of the layer is now.
    fn map(&self, path: &[u8]) -> Vec<u8> {
        let rest = |from: &[u8]| {
            path.strip_prefix(from)
                .filter(|r| r.is_empty() || r[0] == b'/')
                .map(<[u8]>::to_vec)
        };
        self.moved
            .iter()
            .filter_map(|(from, to)| Some((from.len(), to, rest(from)?)))
            .max_by_key(|(length, ..)| *length)
            .map_or_else(
                || path.to_vec(),
                |(_, to, rest)| [to.as_slice(), &rest].concat(),
            )
    }

    /// Makes sure that the patch has this folder, looking as it should.
    fn folder(&mut self, path: &[u8]) -> Outcome<()> {
        if path.is_empty() || self.made.contains_key(path) {
            return Ok(());
        }
        let attributes = self.attributes(path)?;
        self.make(path, &attributes)
    }

    fn make(&mut self, path: &[u8], attributes: &Attributes) -> Outcome<()> {
        if self.made.contains_key(path) {
            return Ok(());
        }
        let (parent, name) = split(path);
        self.folder(parent)?;
        let parent = self.at(parent)?;
        let mkdir = || rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700));
        let mut made = mkdir();
        if made == Err(Errno::EXIST) {
            // Two paths of the layer may lead to one, through symlinks below. The folder wins, in whichever order they come.
            self.clear(&parent, path)?;
            made = mkdir();
        }
        made.and_then(|()| {
            attributes::set_named(parent.as_fd(), name, FileType::Directory, attributes)
        })
        .map_err(errno("make the folder", path))?;
        self.made.insert(path.to_vec(), attributes.mtime);
        self.touched = true;
        Ok(())
    }

    /// As the layer names it; else as it is below; else the default.
    fn attributes(&self, path: &[u8]) -> Outcome<Attributes> {
        let read = || -> Result<Attributes, Errno> {
            if !self.pending.folders().contains(path)
                && let Some(raw) = open_in(&self.raw, path)?
            {
                return Attributes::of(raw.as_fd(), b"");
            }
            match self.lower.get(path)? {
                Some(Node::Folder(f)) => Attributes::of(f[0].as_fd(), b""),
                _ => Ok(Attributes::IMPLIED),
            }
        };
        match self.is_hidden(path)? && self.pending.folders().contains(path) {
            true => Ok(Attributes::IMPLIED),
            false => read().map_err(errno("read the attributes", path)),
        }
    }

    /// Does a folder above it, in this layer, hide all that is below it in others?
    fn is_hidden(&self, path: &[u8]) -> Outcome<bool> {
        let mut at = split(path).0;
        while !at.is_empty() {
            let opaque = open_in(&self.raw, at).and_then(|f| match f {
                Some(f) => marks::is_opaque(&f),
                None => Ok(false),
            });
            if opaque.map_err(errno("look at", at))? {
                return Ok(true);
            }
            at = split(at).0;
        }
        Ok(false)
    }

    fn at(&self, path: &[u8]) -> Outcome<OwnedFd> {
        self.at_errno(path).map_err(errno("open", path))
    }

    fn at_errno(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_in(&self.root, path)?.ok_or(Errno::NOENT)
    }
}

/// A folder by its path, through no symlink.
fn open_in(root: &OwnedFd, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

fn stat(folder: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn dup(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}
