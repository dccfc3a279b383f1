//! A file that gets its name when it is whole. Until then it has none, so that whoever is killed leaves nothing; on file systems
//! that have no such files it has another name meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::rootfs::by_fd;

/// A file being written.
#[derive(Debug)]
pub struct Beside {
    pub file: File,
    target: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    Nameless,
    /// By this name meanwhile.
    Named(PathBuf),
    /// A device or pipe takes what it gets at once: another file must not take its place.
    Direct,
    Published,
}

impl Beside {
    /// In the target's folder, which is made if it is not there. Where a link leads to a file, that file is replaced.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let kind = fs::metadata(&target).map(|m| m.file_type());
        if kind.is_ok_and(|k| !k.is_file() && !k.is_dir()) {
            let file = OpenOptions::new().write(true).open(&target);
            return Ok(Self {
                file: file.map_err(Error::io("open", &target))?,
                target,
                state: State::Direct,
            });
        }
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(Error::io("make folder", folder))?;
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        // As for any new file, what the umask leaves of it.
        let mode = Mode::from_raw_mode(0o666);
        let (file, state) = match rustix::fs::open(folder, flags, mode) {
            Ok(fd) => (File::from(fd), State::Nameless),
            // open(2): the kernel or the file system does not know O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let path = partial(&target);
                remove(&path)?;
                let file = File::create_new(&path).map_err(Error::io("make", &path))?;
                (file, State::Named(path))
            }
            Err(e) => return Err(Error::io("make", &target)(e.into())),
        };
        Ok(Self {
            file,
            target,
            state,
        })
    }

    /// The file gets its name, in place of whatever had it.
    pub fn publish(mut self) -> Result<(), Error> {
        let failed = |e: Errno| Error::io("name", &self.target)(e.into());
        if let State::Nameless = self.state {
            match self.link(&self.target) {
                Ok(()) => self.state = State::Published,
                // A link replaces nothing; a rename does.
                Err(Errno::EXIST) => {
                    let path = partial(&self.target);
                    remove(&path)?;
                    self.link(&path).map_err(failed)?;
                    self.state = State::Named(path);
                }
                Err(e) => return Err(failed(e)),
            }
        }
        if let State::Named(path) = &self.state {
            fs::rename(path, &self.target).map_err(Error::io("rename into", &self.target))?;
            self.state = State::Published;
        }
        Ok(())
    }

    fn link(&self, path: &Path) -> Result<(), Errno> {
        let own = by_fd(self.file.as_fd());
        rustix::fs::linkat(CWD, &own, CWD, path, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let State::Named(path) = &self.state {
            // The failure that led here is the one to tell.
            let _ = fs::remove_file(path);
        }
    }
}

fn partial(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    target.with_file_name(name)
}

/// One that a killed process of our id left is in nobody's hands.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_name_comes_last() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/file");
        let names = || fs::read_dir(folder.path().join("a")).unwrap().count();
        for text in ["first", "second"] {
            let before = fs::read_to_string(&target).ok();
            let mut new = Beside::create(&target).unwrap();
            new.file.write_all(text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&target).ok(), before, "not yet");
            new.publish().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            assert_eq!(names(), 1);
        }
        // What is no file stays what it is, and a link stays one.
        let null = Beside::create(Path::new("/dev/null")).unwrap();
        (&null.file).write_all(b"gone").unwrap();
        null.publish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut new = Beside::create(&link).unwrap();
        new.file.write_all(b"by way of a link").unwrap();
        new.publish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "by way of a link");
        fs::write(&target, "second").unwrap();
        drop(Beside::create(&target).unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap(), "second");
        assert_eq!(names(), 1);
    }
}
