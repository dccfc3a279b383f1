//! A tree of files as a tar: a container's root as it looks, or what it has changed as a layer.
//!
//! Every file is opened below the root's descriptor and looked at by that: no symbolic link is followed, and no device opened.
//! Entries come in the order of their names, hard links once they have something to link to, holes as holes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::tar::Kind;
use super::tar::write::{Entry, Writer};
use crate::error::Error;
use crate::rootfs::by_fd;

/// The mark of a folder that hides what is below it in lower layers.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Labels of the host's own policy, which mean nothing elsewhere.
const LABELS: [&[u8]; 4] = [
    b"security.selinux",
    b"security.SMACK64",
    b"security.ima",
    b"security.evm",
];
/// Attributes of one file, in bytes; the kernel has the same bound for the list of their names.
const XATTR_MAX: usize = 64 << 10;
/// Parts of a file with holes; one with more is written as if it had none.
const PARTS_MAX: usize = 100_000;

/// What the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Everything that is seen, as it is.
    Root,
    /// The upper folder of an overlay: what stands for a removal becomes a whiteout.
    Layer,
}

/// A file that was looked at.
struct Seen {
    fd: OwnedFd,
    stat: Stat,
    xattrs: Xattrs,
}

/// Names and values, by name.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes the tree below `root`; the root folder itself has no entry, but in a layer.
pub(crate) fn write<W: Write>(
    root: &OwnedFd,
    form: Form,
    out: &mut Writer<W>,
) -> Result<(), Error> {
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let seen = match look(root, &path) {
            Ok(seen) => seen,
            // A container that runs may remove what was just listed.
            Err((_, Errno::NOENT)) if !path.is_empty() => continue,
            Err((what, e)) => return Err(failed(what, &path)(e.into())),
        };
        let kind = FileType::from_raw_mode(seen.stat.st_mode);
        if kind == FileType::Directory {
            let names = list(root, &path).map_err(|e| failed("list", &path)(e.into()))?;
            waiting.extend(names.into_iter().rev().map(|n| join(&path, &n)));
        }
        if path.is_empty() && form == Form::Root {
            continue;
        }
        entry(out, form, &path, kind, &seen, &mut links).map_err(failed("write", &path))?;
    }
    Ok(())
}

fn entry<W: Write>(
    out: &mut Writer<W>,
    form: Form,
    path: &[u8],
    kind: FileType,
    seen: &Seen,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
) -> io::Result<()> {
    if form == Form::Layer && is_whiteout(kind, &seen.stat) {
        let (folder, name) = split(path);
        let whiteout = join(folder, &[b".wh.", name].concat());
        return out.entry(&Entry::file(&whiteout, 0), &mut io::empty());
    }
    let Some(kind) = kind_of(kind) else {
        return Ok(());
    };
    let name = match (kind, path) {
        (Kind::Folder, b"") => b"./".to_vec(),
        (Kind::Folder, path) => [path, b"/"].concat(),
        (_, path) => path.to_vec(),
    };
    let xattrs: Xattrs = seen
        .xattrs
        .iter()
        .filter(|(n, _)| travels(n))
        .cloned()
        .collect();
    let mut entry = Entry {
        xattrs: &xattrs,
        ..looks(&name, kind, &seen.stat)
    };
    if let Some(first) = earlier(links, path, kind, &seen.stat) {
        let (kind, xattrs) = (Kind::Hardlink, &[][..]);
        return out.entry(
            &Entry {
                kind,
                link: &first,
                xattrs,
                ..entry
            },
            &mut io::empty(),
        );
    }
    match kind {
        Kind::File => file(out, entry, seen),
        Kind::Symlink => {
            let link = rustix::fs::readlinkat(&seen.fd, "", Vec::new())?;
            entry.link = link.as_bytes();
            out.entry(&entry, &mut io::empty())
        }
        _ => {
            out.entry(&entry, &mut io::empty())?;
            let opaque = seen.xattrs.iter().any(|(n, v)| n == OPAQUE && v == b"y");
            if form == Form::Layer && opaque {
                let mark = join(path, b".wh..wh..opq");
                out.entry(&Entry::file(&mark, 0), &mut io::empty())?;
            }
            Ok(())
        }
    }
}

/// The overlay's own mark of a removal.
fn is_whiteout(kind: FileType, stat: &Stat) -> bool {
    kind == FileType::CharacterDevice && device(stat) == (0, 0)
}

fn device(stat: &Stat) -> (u32, u32) {
    (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    )
}

/// `None` for sockets, which are somebody's, and of no use without them.
fn kind_of(kind: FileType) -> Option<Kind> {
    Some(match kind {
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        FileType::RegularFile => Kind::File,
        _ => return None,
    })
}

fn looks<'a>(name: &'a [u8], kind: Kind, stat: &Stat) -> Entry<'a> {
    Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        device: device(stat),
        ..Entry::file(name, 0)
    }
}

/// The path under which the same file came already; otherwise this one is remembered.
fn earlier(
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    path: &[u8],
    kind: Kind,
    stat: &Stat,
) -> Option<Vec<u8>> {
    if kind == Kind::Folder || stat.st_nlink < 2 {
        return None;
    }
    let id = (stat.st_dev, stat.st_ino);
    let first = links.get(&id).cloned();
    if first.is_none() {
        links.insert(id, path.to_vec());
    }
    first
}

fn file<W: Write>(out: &mut Writer<W>, mut entry: Entry<'_>, seen: &Seen) -> io::Result<()> {
    let file = File::open(by_fd(seen.fd.as_fd()))?;
    entry.size = u64::try_from(seen.stat.st_size).unwrap_or(0);
    let whole = [(0, entry.size)];
    let parts = parts(&file, &seen.stat)?;
    let mut content = Content {
        file: &file,
        parts: parts.as_deref().unwrap_or(&whole),
        at: 0,
    };
    out.entry(
        &Entry {
            data: parts.as_deref(),
            ..entry
        },
        &mut content,
    )
}

fn open(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere in the tree raced with the walk (openat2(2)).
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
}

fn look(root: &OwnedFd, path: &[u8]) -> Result<Seen, (&'static str, Errno)> {
    let fd = open(root, path, OFlags::PATH).map_err(|e| ("open", e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| ("look at", e))?;
    let xattrs = xattrs(&fd).map_err(|e| ("read the attributes of", e))?;
    Ok(Seen { fd, stat, xattrs })
}

/// Names in their order.
fn list(root: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let fd = match open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Through the descriptor's name in /proc, as the calls on descriptors take none opened with `O_PATH`.
fn xattrs(fd: &OwnedFd) -> Result<Xattrs, Errno> {
    let path = by_fd(fd.as_fd());
    let mut list = vec![0; XATTR_MAX];
    let n = match rustix::fs::listxattr(&path, list.as_mut_slice()) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        n => n?,
    };
    let mut found = Vec::new();
    for name in list[..n].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; XATTR_MAX];
        match rustix::fs::getxattr(&path, name, value.as_mut_slice()) {
            Ok(n) => {
                value.truncate(n);
                found.push((name.to_vec(), value));
            }
            // It went meanwhile, or is one of those that only are listed.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(e),
        }
    }
    found.sort();
    Ok(found)
}

fn travels(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    !overlay && !LABELS.contains(&name)
}

/// Where a file has data, if it has holes that are worth the trouble.
fn parts(file: &File, stat: &Stat) -> io::Result<Option<Vec<(u64, u64)>>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if size < 64 << 10 || on_disk >= size {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(None),
            start => start?.min(size),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        parts.push((start, end - start));
        at = end;
        if parts.len() > PARTS_MAX {
            return Ok(None);
        }
    }
    // A map that ends before the file does is how readers learn of a hole at its end.
    if parts.last().is_none_or(|(o, l)| o + l < size) {
        parts.push((size, 0));
    }
    Ok(Some(parts))
}

/// The parts of a file, one after the other. What a file lost meanwhile reads as zeros, since its size was said already.
struct Content<'a> {
    file: &'a File,
    parts: &'a [(u64, u64)],
    /// In the first of them.
    at: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(&(offset, length)) = self.parts.first() {
            if self.at == length {
                self.parts = &self.parts[1..];
                self.at = 0;
                continue;
            }
            let most = usize::try_from(length - self.at).unwrap_or(usize::MAX);
            let most = most.min(buffer.len());
            let mut n = self.file.read_at(&mut buffer[..most], offset + self.at)?;
            if n == 0 && most > 0 {
                buffer[..most].fill(0);
                n = most;
            }
            self.at += n as u64;
            return Ok(n);
        }
        Ok(0)
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

fn failed(doing: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    let name = std::ffi::OsStr::from_bytes(path);
    Error::io(doing, Path::new("/").join(name))
}
