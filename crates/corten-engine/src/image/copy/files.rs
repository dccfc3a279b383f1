//! Files that hold images: a folder's, or a tar's members, opened by name and read from anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::ImageError;
use super::super::tar::Kind;
use super::super::tar::read::{Members, TarError};
use crate::error::Error;

/// More members than any archive of images has.
const MEMBERS_MAX: usize = 100_000;
/// Bytes of a member's name, and of what a link names.
const NAME_MAX: usize = 1024;
/// Links that lead to links; docker's old archives have one.
const LINKS_MAX: u32 = 8;

/// Where files are.
pub(crate) enum Files {
    Folder(PathBuf),
    Archive(Archive),
}

/// A tar whose members are known.
pub(crate) struct Archive {
    /// As people named it.
    label: String,
    file: Arc<File>,
    members: BTreeMap<String, Place>,
}

enum Place {
    At {
        offset: u64,
        size: u64,
    },
    /// At another member's name.
    Link(String),
}

/// A stretch of a file, read on its own.
pub(crate) struct Section {
    file: Arc<File>,
    start: u64,
    size: u64,
    position: u64,
}

impl Files {
    /// The folder, or the archive: plain, or packed with gzip or zstd, which then is unpacked into `scratch` first.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let kind = file.metadata().map_err(Error::io("read", path))?;
        if kind.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let label = path.display().to_string();
        let mut head = [0; 4];
        let n = match kind.is_file() {
            true => file
                .read_at(&mut head, 0)
                .map_err(Error::io("read", path))?,
            false => 0,
        };
        if n == 4 && Packing::of(&head) == Packing::Plain {
            return Ok(Self::Archive(Archive::index(file, label)?));
        }
        Ok(Self::Archive(Archive::spool(
            file,
            label,
            scratch,
            u64::MAX,
        )?))
    }

    /// An archive in a file that is open, whose content, unpacked, is at most `max` bytes.
    pub fn bounded(file: File, label: &str, scratch: &Path, max: u64) -> Result<Self, Error> {
        let mut head = [0; 4];
        let n = file.read_at(&mut head, 0);
        let n = n.map_err(Error::io("read", label))?;
        let archive = match Packing::of(&head[..n]) {
            Packing::Plain => Archive::index(file, label.into())?,
            _ => Archive::spool(file, label.into(), scratch, max)?,
        };
        Ok(Self::Archive(archive))
    }

    /// The files right below a folder, by their names in it. Of a folder of files none are told.
    pub fn below(&self, folder: &str) -> Vec<(String, Section)> {
        let Self::Archive(archive) = self else {
            return Vec::new();
        };
        let prefix = format!("{folder}/");
        let names = archive.members.iter().filter_map(|(name, place)| {
            let own = name.strip_prefix(&prefix).filter(|n| !n.contains('/'))?;
            match place {
                Place::At { offset, size } => {
                    let section = Section::new(archive.file.clone(), *offset, *size);
                    Some((own.to_owned(), section))
                }
                Place::Link(_) => None,
            }
        });
        names.collect()
    }

    /// An archive from a stream, which is written down to be read in any order.
    pub fn from_stream(stream: impl Read, label: &str, scratch: &Path) -> Result<Self, Error> {
        Ok(Self::Archive(Archive::spool(
            stream,
            label.into(),
            scratch,
            u64::MAX,
        )?))
    }

    pub fn label(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Archive(archive) => archive.label.clone(),
        }
    }

    /// A file by its name below; `None` where there is none.
    pub fn section(&self, name: &str) -> Result<Option<Section>, Error> {
        match self {
            Self::Folder(folder) => in_folder(folder, name),
            Self::Archive(archive) => Ok(archive.section(name)),
        }
    }

    /// A whole file of at most `max` bytes.
    pub fn bytes(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(section) = self.section(name)? else {
            return Ok(None);
        };
        if section.size > max {
            return Err(self.wrong(format!("its {name} is larger than {max} bytes")));
        }
        let mut bytes = Vec::new();
        let read = section.take(max).read_to_end(&mut bytes);
        read.map_err(Error::io("read", self.label()))?;
        Ok(Some(bytes))
    }

    pub fn wrong(&self, why: impl Into<String>) -> Error {
        let archive = self.label();
        let why = why.into();
        ImageError::Archive { archive, why }.into()
    }
}

/// A name that leaves the folder, by way of a symbolic link too, is not there.
fn in_folder(folder: &Path, name: &str) -> Result<Option<Section>, Error> {
    let path = folder.join(name);
    let io = |e: Errno| Error::io("open", &path)(e.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty()).map_err(io)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let meta = file.metadata().map_err(Error::io("read", &path))?;
    if !meta.is_file() {
        return Ok(None);
    }
    Ok(Some(Section::new(Arc::new(file), 0, meta.len())))
}

impl Archive {
    fn spool(stream: impl Read, label: String, scratch: &Path, max: u64) -> Result<Self, Error> {
        let mut file = scratch_file(scratch)?;
        let unpacked = unpack(stream).map_err(Error::io("unpack", &label))?;
        let mut unpacked = unpacked.take(max.saturating_add(1));
        let bytes = io::copy(&mut unpacked, &mut file).map_err(Error::io("unpack", &label))?;
        if bytes > max {
            let why = format!("it has more than {max} bytes");
            return Err(ImageError::Archive {
                archive: label,
                why,
            }
            .into());
        }
        Self::index(file, label)
    }

    fn index(mut file: File, label: String) -> Result<Self, Error> {
        let failed = |e: TarError| match e {
            TarError::Read(source) => Error::io("read", &label)(source),
            e @ TarError::Form { .. } => ImageError::Archive {
                archive: label.clone(),
                why: e.to_string(),
            }
            .into(),
        };
        file.rewind().map_err(Error::io("read", &label))?;
        let mut found = BTreeMap::new();
        let mut members = Members::new(BufReader::with_capacity(64 << 10, &file));
        while let Some(member) = members.next().map_err(failed)? {
            if found.len() >= MEMBERS_MAX {
                return Err(ImageError::Archive {
                    archive: label,
                    why: format!("it has more than {MEMBERS_MAX} members"),
                }
                .into());
            }
            // No file of an archive of images has such a name, and many of them would fill the memory.
            if member.path.len() > NAME_MAX || member.link.len() > NAME_MAX {
                continue;
            }
            let Ok(name) = String::from_utf8(member.path) else {
                continue;
            };
            let link = String::from_utf8_lossy(&member.link).into_owned();
            let place = match member.kind {
                Kind::File => Place::At {
                    offset: member.offset,
                    size: member.size,
                },
                Kind::Hardlink => Place::Link(clean(&link)),
                Kind::Symlink => Place::Link(clean(&beside(&name, &link))),
                _ => continue,
            };
            found.insert(clean(&name), place);
        }
        Ok(Self {
            label,
            file: Arc::new(file),
            members: found,
        })
    }

    fn section(&self, name: &str) -> Option<Section> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match self.members.get(name)? {
                Place::At { offset, size } => {
                    return Some(Section::new(self.file.clone(), *offset, *size));
                }
                Place::Link(other) => name = other,
            }
        }
        None
    }
}

impl Section {
    fn new(file: Arc<File>, start: u64, size: u64) -> Self {
        Self {
            file,
            start,
            size,
            position: 0,
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let n = self
            .file
            .read_at(&mut buffer[..most], self.start + self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
            SeekFrom::End(n) => self.size.checked_add_signed(n),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A file without a name, that is gone with its last user.
pub(crate) fn scratch_file(folder: &Path) -> Result<File, Error> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let fd = rustix::fs::open(folder, flags, mode)
        .map_err(|e| Error::io("make a file in", folder)(e.into()))?;
    Ok(fd.into())
}

/// How a stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first four bytes.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Unpacks what is packed, as its first bytes say.
pub(crate) fn unpack<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    (&mut stream).take(4).read_to_end(&mut head)?;
    let packing = Packing::of(&head);
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(head).chain(stream));
    Ok(match packing {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
    })
}

/// `name` as a path beside the member `from`.
fn beside(from: &str, name: &str) -> String {
    match from.rsplit_once('/') {
        Some((folder, _)) if !name.starts_with('/') => format!("{folder}/{name}"),
        _ => name.to_owned(),
    }
}

/// Without `.`, `..` and doubled slashes; what would lead above the top stays at it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(clean("./a//b/../c"), "a/c");
        assert_eq!(clean("../../etc/passwd"), "etc/passwd");
        assert_eq!(
            clean(&beside("x/layer.tar", "../y/layer.tar")),
            "y/layer.tar"
        );
    }
}
