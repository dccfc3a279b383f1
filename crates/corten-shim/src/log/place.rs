//! Where a log is, and how its folder is reached: by descriptors, since a container may be shown the folder of its own logs.
//!
//! A pod's log is `ROOT/CONTAINER/0.log`. Who may write below ROOT can put a link in the place of any name there; none is followed, so what
//! a container prints goes into no other of root's files, and none of those is read or renamed. ROOT itself is not its to change.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use corten_sys::rooted;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A FIFO that nobody reads would not open otherwise, nor would anything that waits for a line.
const FILE: OFlags = OFlags::NONBLOCK
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const MODE: Mode = Mode::from_raw_mode(0o640);

/// The path of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    root: Option<PathBuf>,
}

/// A path that is trusted.
impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self::new(path, None)
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        Self::new(path, None)
    }
}

/// The folder of a log, and the log's name in it.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    name: OsString,
}

impl Place {
    /// `root`: the folder from which on no link is followed. `None`: the whole path is trusted, but for the file itself.
    pub fn new(path: &Path, root: Option<&Path>) -> Self {
        Self {
            path: path.into(),
            root: root.map(Into::into),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> io::Result<Folder> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let name = self
            .path
            .file_name()
            .ok_or_else(|| wrong("it has no name"))?;
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let fd = match &self.root {
            None => rustix::fs::open(parent, FOLDER, Mode::empty())?,
            Some(root) => {
                let below = parent.strip_prefix(root);
                let below = below.map_err(|_| wrong("it is not in its pod's folder of logs"))?;
                let root = rustix::fs::open(root, FOLDER, Mode::empty())?;
                rooted::open_plain(root, below, FOLDER)?
            }
        };
        let name = name.to_owned();
        Ok(Folder { fd, name })
    }

    /// The log, to be read; `None`: there is none, or something else is in its place.
    pub fn read(&self) -> io::Result<Option<File>> {
        let opened = self.folder().and_then(|folder| {
            let file = openat(
                &folder.fd,
                &folder.name,
                OFlags::RDONLY | FILE,
                Mode::empty(),
            );
            regular(file?)
        });
        let absent = [
            Errno::NOENT,
            Errno::LOOP,
            Errno::NXIO,
            Errno::NOTDIR,
            Errno::INVAL,
        ];
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(e)
                if absent
                    .iter()
                    .any(|a| e.raw_os_error() == Some(a.raw_os_error())) =>
            {
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Folder {
    /// `end`: what is behind the log's name and a dot; empty: the log itself.
    fn named(&self, end: &str) -> OsString {
        let mut name = self.name.clone();
        if !end.is_empty() {
            name.push(".");
            name.push(end);
        }
        name
    }

    /// Opens it to be read and appended to; a new one is readable by its group.
    pub fn append_to(&self, end: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | FILE;
        regular(openat(&self.fd, self.named(end), flags, MODE)?)
    }

    pub fn has(&self, end: &str) -> bool {
        let found = statat(self.fd.as_fd(), self.named(end), AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok()
    }

    /// One that is not there is removed.
    pub fn remove(&self, end: &str) -> io::Result<()> {
        match unlinkat(&self.fd, self.named(end), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => Ok(done?),
        }
    }

    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(
            &self.fd,
            self.named(from),
            &self.fd,
            self.named(to),
        )?)
    }
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let file = File::from(fd);
    match file.metadata()?.mode() & 0o170_000 {
        0o100_000 => Ok(file),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

/// A rotated file's path.
pub(super) fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(OsStr::new(&format!(".{n}")));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::log::{Limits, Log, Stream};

    /// A container that has its pod's folder of logs tries to have its output in, or read from, a file of the host's.
    #[test]
    fn links_in_a_pods_folder_of_logs_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (root, host) = (dir.path().join("pod"), dir.path().join("host"));
        fs::create_dir_all(root.join("c")).unwrap();
        fs::create_dir(&host).unwrap();
        for name in ["0.log", "0.log.new", "0.log.1"] {
            fs::write(host.join(name), "precious\n").unwrap();
        }
        let place = Place::new(&root.join("c/0.log"), Some(&root));
        let mut log = Log::open(place.clone(), Limits::default()).unwrap();
        log.write(Stream::Stdout, b"one\n").unwrap();

        // In the place of the folder, and in the place of the file.
        let folder = root.join("c");
        let attacks: [&dyn Fn(); 3] = [
            &|| symlink(&host, &folder).unwrap(),
            &|| symlink("../../host", &folder).unwrap(),
            &|| {
                fs::create_dir(&folder).unwrap();
                symlink(host.join("0.log"), folder.join("0.log")).unwrap();
            },
        ];
        for (n, attack) in attacks.iter().enumerate() {
            match fs::symlink_metadata(&folder).unwrap().is_dir() {
                true => fs::rename(&folder, root.join(format!("away{n}"))).unwrap(),
                false => fs::remove_file(&folder).unwrap(),
            }
            attack();
            assert!(log.reopen().is_err(), "{n}");
            // It goes on where it was.
            log.write(Stream::Stdout, b"two\n").unwrap();
            for limits in [
                Limits::default(),
                Limits {
                    max_size: 1,
                    max_files: 2,
                },
            ] {
                assert!(Log::open(place.clone(), limits).is_err(), "{n}");
            }
            assert!(place.read().unwrap().is_none(), "{n}");
            for name in ["0.log", "0.log.new", "0.log.1"] {
                let text = fs::read_to_string(host.join(name)).unwrap();
                assert_eq!(text, "precious\n", "{n} {name}");
            }
        }
        let first = fs::read_to_string(root.join("away0/0.log")).unwrap();
        assert_eq!(first.lines().count(), 4, "{first}");
    }

    #[test]
    fn a_log_outside_of_its_root_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(&dir.path().join("x.log"), Some(&dir.path().join("pod")));
        let error = Log::open(place.clone(), Limits::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
