//! Blobs: whole, checked, named by their digest.

pub(crate) mod direct;
pub(crate) mod partial;
pub(crate) mod tee;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use corten_spec::Digest;
use rusqlite::{Transaction, params};

use crate::error::{Error, Result};
use crate::metadata::{Lease, int, now};
use crate::store::{Store, rename, sync_folder};
use partial::Partial;

impl Store {
    /// Stores a document that is in memory: a manifest, an index, a config. Under the lease it stays. Storing it again is cheap.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes do not have that digest.
    pub fn put_blob(&self, lease: &Lease, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let mut hasher = digest.hasher();
        hasher.update(bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(Error::Mismatch {
                what: "digest",
                subject: digest.clone(),
                expected: digest.to_string(),
                found: found.to_string(),
            });
        }
        let there =
            fs::metadata(self.blob_path(digest)).is_ok_and(|m| m.len() == bytes.len() as u64);
        if there && lease.hold_blob(digest)? {
            return Ok(());
        }
        let partial = Partial::lock(self, digest)?;
        let written = write(&partial, bytes).map_err(Error::io("write", partial.path()));
        if let Err(e) = written {
            partial.discard()?;
            return Err(e);
        }
        self.db().write("add a blob", |t| {
            self.publish_blob(t, &partial, digest, bytes.len() as u64)?;
            lease.add_blob(t, digest)
        })
    }

    /// Reads a document of at most `max` bytes, and checks its digest again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`] if it is no longer what it was.
    pub fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotFound {
                    what: "blob",
                    name: digest.to_string(),
                });
            }
            other => other.map_err(Error::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > max {
            return Err(Error::Invalid {
                what: "blob",
                text: digest.to_string(),
                why: "it is longer than a document of its kind may be",
            });
        }
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let found = hasher.finish();
        match found == *digest {
            true => Ok(bytes),
            false => Err(Error::Damaged {
                what: "blob",
                name: digest.to_string(),
                why: format!("its digest is now {found}"),
            }),
        }
    }

    /// Is the blob here now? Only [`Lease::hold_blob`] says that it will stay.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let size = self
            .db()
            .read("look up a blob", |c| crate::metadata::blob_size(c, digest))?;
        Ok(size.is_some())
    }

    /// Gives a synced partial blob its name and row, inside the transaction that is the lock for both. The folder is
    /// synced before the row may reach the disk.
    pub(crate) fn publish_blob(
        &self,
        t: &Transaction<'_>,
        partial: &Partial,
        digest: &Digest,
        size: u64,
    ) -> Result<()> {
        let path = self.blob_path(digest);
        rename(partial.path(), &path)?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))?;
        self.insert_blob(t, digest, size)
    }

    pub(crate) fn insert_blob(
        &self,
        t: &Transaction<'_>,
        digest: &Digest,
        size: u64,
    ) -> Result<()> {
        t.execute(
            "INSERT INTO blob (digest, size, added) VALUES (?1, ?2, ?3) ON CONFLICT (digest) DO UPDATE SET size = excluded.size",
            params![digest.to_string(), int(size), now()],
        )
        .map_err(Error::db("add a blob"))?;
        Ok(())
    }
}

fn write(partial: &Partial, bytes: &[u8]) -> io::Result<()> {
    let mut file = partial.file();
    rustix::fs::ftruncate(file, 0)?;
    file.write_all(bytes)?;
    rustix::fs::fsync(file)?;
    Ok(())
}
