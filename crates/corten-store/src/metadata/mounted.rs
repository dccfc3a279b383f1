//! Images that somebody has mounted to look at: rows that own a snapshot, as a container's row does.

use std::path::{Path, PathBuf};

use rusqlite::params;

use crate::error::{Error, Result};
use crate::metadata::now;
use crate::store::Store;

/// An image with a place on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedImage {
    /// Of its snapshot.
    pub key: String,
    pub reference: String,
    /// Where it is mounted, or was before a reboot.
    pub path: PathBuf,
}

impl Store {
    /// Enters one, before its snapshot and its mount are made. Entering it again changes nothing.
    pub fn add_mounted(&self, image: &MountedImage) -> Result<()> {
        let op = "enter a mounted image";
        let path = image.path.to_str().ok_or_else(|| Error::Invalid {
            what: "mount point",
            text: image.path.display().to_string(),
            why: "it is not UTF-8",
        })?;
        self.db().write(op, |t| {
            t.execute(
                "INSERT OR IGNORE INTO mounted (key, reference, path, added) VALUES (?1, ?2, ?3, ?4)",
                params![image.key, image.reference, path, now()],
            )
            .map(|_| ())
            .map_err(Error::db(op))
        })
    }

    /// Forgets one, after its mount and its snapshot are gone.
    pub fn remove_mounted(&self, key: &str) -> Result<()> {
        let op = "forget a mounted image";
        self.db().write(op, |t| {
            t.execute("DELETE FROM mounted WHERE key = ?1", [key])
                .map(|_| ())
                .map_err(Error::db(op))
        })
    }

    /// All of them, by reference.
    pub fn mounted(&self) -> Result<Vec<MountedImage>> {
        self.db().read("list the mounted images", |c| {
            let mut q = c.prepare("SELECT key, reference, path FROM mounted ORDER BY reference")?;
            q.query_map([], |r| {
                Ok(MountedImage {
                    key: r.get(0)?,
                    reference: r.get(1)?,
                    path: Path::new(&r.get::<_, String>(2)?).into(),
                })
            })?
            .collect()
        })
    }
}
