//! Blobs on their way in: `ingest/ALGORITHM-HEX`, held by whoever has its flock.
//!
//! The lock goes when its process does, so a partial blob that nobody has locked is either to be resumed or garbage. A file can
//! be renamed or unlinked while others wait for its lock: they find that the path now names another
//! file or none, and start over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use corten_spec::Digest;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::store::Store;

/// A locked partial blob. The lock ends with the value; the bytes stay, unless there are none.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    /// Waits for the lock.
    pub fn lock(store: &Store, digest: &Digest) -> Result<Self> {
        Self::lock_name(
            store,
            &format!("{}-{}", digest.algorithm().as_str(), digest.hex()),
        )
    }

    /// The same for work that has a name and no bytes.
    pub fn lock_name(store: &Store, name: &str) -> Result<Self> {
        let path = store.folder("ingest").join(name);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(Error::io("open", &path))?;
            if lock(&file, FlockOperation::LockExclusive).map_err(Error::io("lock", &path))?
                && is_at(&file, &path).map_err(Error::io("look at", &path))?
            {
                return Ok(Self { file, path });
            }
        }
    }

    /// Takes the lock if nobody has it; for cleaning up.
    pub fn try_lock(path: &Path) -> Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", path))?,
        };
        let held = lock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(Error::io("lock", path))?
            && is_at(&file, path).map_err(Error::io("look at", path))?;
        Ok(held.then(|| Self {
            file,
            path: path.into(),
        }))
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> Result<u64> {
        let m = self
            .file
            .metadata()
            .map_err(Error::io("look at", &self.path))?;
        Ok(m.len())
    }

    /// Where the layer of this blob is being unpacked. Belongs to the holder of the lock.
    pub fn tree(&self) -> PathBuf {
        self.path.with_extension("tree")
    }

    /// Removes the bytes.
    pub fn discard(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path)(e))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // An empty one is worth nothing to the next. If it was renamed, this file has bytes or the path is gone.
        if self.file.metadata().is_ok_and(|m| m.len() == 0)
            && is_at(&self.file, &self.path).is_ok_and(|at| at)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    loop {
        match rustix::fs::flock(file, how) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
