//! The archive that a checkpoint becomes, as Podman, CRI-O, containerd and checkpointctl know it:
//!
//! ```text
//!   config.dump  spec.dump  status.dump     documents (JSON)
//!   checkpoint/…                            criu's images, and what our runtime keeps beside them
//!   rootfs-diff.tar                         what the container has changed of its image, as a layer
//!   container.log  dump.log                 where there are such
//! ```
//! All its members are root's and for root alone: the memory of a container is in there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::Error as CheckpointError;
use crate::error::Error;
use crate::image::tar::Kind;
use crate::image::tar::write::{Entry, Writer};
use crate::rootfs::by_fd;

pub(super) const IMAGES: &str = "checkpoint";
pub(super) const CONFIG: &str = "config.dump";
pub(super) const SPEC: &str = "spec.dump";
pub(super) const STATUS: &str = "status.dump";
pub(super) const CHANGES: &str = "rootfs-diff.tar";
pub(super) const LOG: &str = "container.log";
pub(super) const DUMP_LOG: &str = "dump.log";

/// Where an archive is to be: its folder is there, and held.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    name: OsString,
}

impl Place {
    pub fn of(location: &Path) -> Result<Self, CheckpointError> {
        let refused = |why| CheckpointError::Location {
            path: location.into(),
            why,
        };
        if !location.is_absolute() {
            return Err(refused("it is no absolute path"));
        }
        let (Some(parent), Some(name)) = (location.parent(), location.file_name()) else {
            return Err(refused("it names no file"));
        };
        if location.as_os_str().as_bytes().ends_with(b"/") || location.is_dir() {
            return Err(refused("it is a folder"));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => refused("its folder does not exist"),
            Errno::NOTDIR => refused("what should be its folder is none"),
            _ => refused("its folder cannot be opened"),
        })?;
        Ok(Self {
            folder,
            name: name.into(),
        })
    }

    /// A file there that has no name yet: whoever dies leaves nothing.
    pub fn begin(&self) -> Result<File, Error> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.folder, ".", flags, Mode::from_raw_mode(0o600));
        made.map(File::from)
            .map_err(|e| Error::io("make a file beside", &self.name)(e.into()))
    }

    /// A file whose bytes are on disk gets its name, in place of whatever had it.
    pub fn commit(&self, file: &File) -> Result<(), Error> {
        let named = || -> io::Result<()> {
            match self.link(file, &self.name) {
                Err(Errno::EXIST) => self.replace(file)?,
                done => done?,
            }
            Ok(rustix::fs::fsync(&self.folder)?)
        };
        named().map_err(Error::io("give its name to", &self.name))
    }

    fn link(&self, file: &File, name: &OsStr) -> Result<(), Errno> {
        use std::os::fd::AsFd as _;
        let from = by_fd(file.as_fd());
        // A file without a name has one in /proc (open(2), O_TMPFILE).
        rustix::fs::linkat(CWD, &from, &self.folder, name, AtFlags::SYMLINK_FOLLOW)
    }

    fn replace(&self, file: &File) -> Result<(), Errno> {
        let mut new = OsString::from(".");
        new.push(&self.name);
        new.push(".new");
        // What a kill between these calls has left.
        match rustix::fs::unlinkat(&self.folder, &new, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            done => done?,
        }
        self.link(file, &new)?;
        rustix::fs::renameat(&self.folder, &new, &self.folder, &self.name)
    }
}

/// Writes an archive, member by member.
pub(super) struct Archive<W> {
    tar: Writer<W>,
    /// Seconds since 1970, of every member.
    time: i64,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W, time: i64) -> Self {
        Self {
            tar: Writer::new(out),
            time,
        }
    }

    pub fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let entry = self.entry(name.as_bytes(), bytes.len() as u64);
        self.tar.entry(&entry, &mut &*bytes)
    }

    /// As much of a file as it has now.
    pub fn file(&mut self, name: &[u8], mut file: &File) -> io::Result<()> {
        let entry = self.entry(name, file.metadata()?.len());
        self.tar.entry(&entry, &mut file)
    }

    /// The same of one that may not be there, and must be a plain file and no link to one.
    pub fn file_at(&mut self, name: &str, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        match file.metadata()?.is_file() {
            true => self.file(name.as_bytes(), &file),
            false => Ok(()),
        }
    }

    /// The plain files of a folder, by name.
    pub fn images(&mut self, folder: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            if entry.file_type() == FileType::RegularFile {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        let path = format!("{IMAGES}/");
        let entry = Entry {
            kind: Kind::Folder,
            mode: 0o700,
            ..self.entry(path.as_bytes(), 0)
        };
        self.tar.entry(&entry, &mut io::empty())?;
        for name in names {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&folder, &name, flags, Mode::empty())?;
            let path = [path.as_bytes(), name.as_bytes()].concat();
            self.file(&path, &File::from(file))?;
        }
        Ok(())
    }

    pub fn finish(self) -> io::Result<W> {
        self.tar.finish()
    }

    fn entry<'a>(&self, name: &'a [u8], size: u64) -> Entry<'a> {
        Entry {
            mode: 0o600,
            mtime: (self.time, 0),
            ..Entry::file(name, size)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn places_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| Place::of(path).unwrap_err().to_string();
        assert!(why(Path::new("a/b")).contains("no absolute path"));
        assert!(why(dir.path()).contains("it is a folder"));
        assert!(why(&dir.path().join("no/x")).contains("does not exist"));
        std::fs::write(dir.path().join("f"), "").unwrap();
        assert!(why(&dir.path().join("f/x")).contains("is none"));
        assert!(why(Path::new("/")).contains("names no file"));
    }

    #[test]
    fn an_archive_has_a_name_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        for text in ["first", "second"] {
            let place = Place::of(&path).unwrap();
            let mut file = place.begin().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            drop(place.begin().unwrap());
            place.commit(&file).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn only_plain_files_are_members() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("images")).unwrap();
        std::fs::write(at("images/pages-1.img"), "memory").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("images/parent")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("log")).unwrap();
        let mut archive = Archive::new(Vec::new(), 7);
        archive.document(CONFIG, b"{}").unwrap();
        archive.images(&at("images")).unwrap();
        archive.file_at(LOG, &at("log")).unwrap();
        archive.file_at(DUMP_LOG, &at("none")).unwrap();
        let bytes = archive.finish().unwrap();
        let mut members =
            crate::image::tar::read::Members::new(std::io::Cursor::new(bytes.as_slice()));
        let mut names = Vec::new();
        while let Some(member) = members.next().unwrap() {
            names.push(String::from_utf8(member.path).unwrap());
        }
        assert_eq!(
            names,
            ["config.dump", "checkpoint/", "checkpoint/pages-1.img"]
        );
    }
}
