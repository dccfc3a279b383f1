//! A file that gets its name when its content is whole. Until then it has none, so that whoever is killed leaves nothing.
//!
//! Some file systems have no files without a name (overlay before Linux 6.1, NFS). There it has a name that nobody looks for, which
//! the caller chooses; what a kill leaves of it goes with the next file that is made there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};
use rustix::io::Errno;

use crate::failpoint::failpoint;

/// A whole file, without the name that it is to have.
#[derive(Debug)]
pub(crate) struct Nameless {
    file: File,
    /// What it is called meanwhile, or would be.
    meanwhile: PathBuf,
    is_named: bool,
}

impl Nameless {
    /// `meanwhile`: in the folder that the file is to be in. Nobody else may use that name at the same time.
    pub fn write(meanwhile: PathBuf, bytes: &[u8]) -> io::Result<Self> {
        let folder = meanwhile.parent().unwrap_or(Path::new("/"));
        let (file, is_named) = match open(folder) {
            Ok(fd) => (File::from(fd), false),
            // open(2): the kernel or the file system does not know O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                // It may be another name of a file that is in use: never written to.
                remove(&meanwhile)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let fd = rustix::fs::open(&meanwhile, flags, Mode::from(0o600))?;
                (File::from(fd), true)
            }
            Err(errno) => return Err(errno.into()),
        };
        let mut made = Self {
            file,
            meanwhile,
            is_named,
        };
        made.file.write_all(bytes)?;
        failpoint!("nameless.written");
        Ok(made)
    }

    /// Whether the name was free; now it is taken.
    pub fn claim(self, path: &Path) -> io::Result<bool> {
        match self.link(path) {
            Ok(()) => {
                failpoint!("nameless.claimed");
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// In the place of whatever has the name.
    pub fn replace(mut self, path: &Path) -> io::Result<()> {
        if !self.is_named {
            match self.link(path) {
                Err(Errno::EXIST) => {}
                done => return Ok(done?),
            }
            // A name that is there already can be taken only by another name.
            remove(&self.meanwhile)?;
            self.link(&self.meanwhile)?;
            self.is_named = true;
        }
        failpoint!("cache.write.temporary");
        fs::rename(&self.meanwhile, path)?;
        self.is_named = false;
        Ok(())
    }

    fn link(&self, to: &Path) -> Result<(), Errno> {
        if self.is_named {
            return linkat(CWD, &self.meanwhile, CWD, to, AtFlags::empty());
        }
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(CWD, unnamed.as_str(), CWD, to, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        if self.is_named {
            // If it fails, the next one is made in its place.
            let _ = fs::remove_file(&self.meanwhile);
        }
    }
}

fn open(folder: &Path) -> Result<OwnedFd, Errno> {
    #[cfg(test)]
    if tests::REFUSED.get() {
        return Err(Errno::OPNOTSUPP);
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from(0o600))
}

/// One that is not there is a success.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Whether this thread's files are on a file system that has none without a name.
        pub static REFUSED: Cell<bool> = const { Cell::new(false) };
    }

    /// Does it with files that have no name, and with such that have one meanwhile.
    pub fn both(check: impl Fn(&Path)) {
        for refused in [false, true] {
            REFUSED.set(refused);
            let dir = tempfile::tempdir().unwrap();
            check(dir.path());
        }
        REFUSED.set(false);
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_name_is_claimed_once_and_replaced_at_will() {
        both(|dir| {
            let new = |text: &str| Nameless::write(dir.join(".new"), text.as_bytes()).unwrap();
            let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
            assert!(new("one").claim(&dir.join("a")).unwrap());
            assert!(!new("two").claim(&dir.join("a")).unwrap());
            assert_eq!(text("a"), "one");
            for text_of in ["three", "four"] {
                new(text_of).replace(&dir.join("b")).unwrap();
                assert_eq!(text("b"), text_of);
            }
            drop(new("five"));
            assert_eq!(names(dir), ["a", "b"]);
        });
    }

    #[test]
    fn what_a_kill_has_left_is_not_written_to() {
        both(|dir| {
            // Killed between two steps: the name that was taken has another yet.
            fs::write(dir.join("a"), "one").unwrap();
            fs::hard_link(dir.join("a"), dir.join(".new")).unwrap();
            let new = Nameless::write(dir.join(".new"), b"two").unwrap();
            assert!(new.claim(&dir.join("b")).unwrap());
            fs::hard_link(dir.join("b"), dir.join(".new2")).unwrap();
            let new = Nameless::write(dir.join(".new2"), b"three").unwrap();
            new.replace(&dir.join("a")).unwrap();
            let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
            assert_eq!((text("a").as_str(), text("b").as_str()), ("three", "two"));
        });
    }
}
