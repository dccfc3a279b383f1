//! What there is, what is needed, and what a collection would free: for `system df`.
//!
//! The collection's own decision, taken in a transaction that is then given up.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{decide, list, orphans, usage};
use crate::error::{Error, Result};
use crate::metadata::dead_leases;
use crate::store::Store;

/// Bytes of disk blocks, and how many things have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub count: u64,
    pub bytes: u64,
    /// Of these bytes, those that a collection would free now.
    pub reclaimable: u64,
}

/// What the store occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    pub blobs: Share,
    pub layers: Share,
    /// Writable parts of containers.
    pub snapshots: Share,
    /// Rests of interrupted pulls, which the next pull of the same goes on from, and what is on its way out.
    pub rests: Share,
}

impl Store {
    /// Measures the store. Looks at every file of layers that are folders, which takes a while where there are many.
    pub fn occupied(&self) -> Result<Occupied> {
        let mut out = Occupied::default();
        for algorithm in ["blobs/sha256", "blobs/sha512"] {
            add(&mut out.blobs, &self.folder(algorithm))?;
        }
        add(&mut out.layers, &self.folder("layers"))?;
        add(&mut out.snapshots, &self.folder("snapshots"))?;
        add(&mut out.rests, &self.folder("ingest"))?;
        add(&mut out.rests, &self.folder("trash"))?;
        for path in self.doomed(&[])? {
            let bytes = occupied_by(&path)?;
            let folder = path.parent().and_then(Path::file_name);
            let share = match folder.and_then(|f| f.to_str()) {
                Some("layers") => &mut out.layers,
                Some("snapshots") => &mut out.snapshots,
                Some("ingest" | "trash") => &mut out.rests,
                _ => &mut out.blobs,
            };
            share.reclaimable += bytes;
        }
        Ok(out)
    }

    /// What a collection would free in bytes, were these images removed before.
    pub fn freed_without(&self, references: &[String]) -> Result<u64> {
        let doomed = self.doomed(references)?;
        doomed.iter().map(|path| occupied_by(path)).sum()
    }

    /// The paths that a collection would remove, with these images removed.
    fn doomed(&self, references: &[String]) -> Result<Vec<PathBuf>> {
        let op = "estimate a collection";
        let dead = dead_leases(self.db())?;
        let mut paths = self.db().rolled_back(op, |t| {
            for (id, _) in &dead {
                t.execute("DELETE FROM lease WHERE id = ?1", [id])
                    .map_err(Error::db(op))?;
            }
            for reference in references {
                t.execute("DELETE FROM image WHERE reference = ?1", [reference])
                    .map_err(Error::db(op))?;
            }
            decide(t).map_err(Error::db(op))?;
            let found = orphans(self, t)?;
            Ok(found.into_iter().map(|o| o.path).collect::<Vec<_>>())
        })?;
        paths.extend(list(&self.folder("trash"))?);
        Ok(paths)
    }
}

fn add(share: &mut Share, folder: &Path) -> Result<()> {
    for path in list(folder)? {
        share.count += 1;
        share.bytes += occupied_by(&path)?;
    }
    Ok(())
}

/// What is gone meanwhile occupies nothing.
fn occupied_by(path: &Path) -> Result<u64> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => Ok(usage::of(path)?.bytes),
        Ok(m) => Ok(m.blocks() * 512),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io("look at", path)(e)),
    }
}
