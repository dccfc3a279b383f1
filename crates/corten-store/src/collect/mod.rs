//! Garbage: one transaction decides what nothing needs, then it is removed.
//!
//! The rows go first, and durably. Files without rows are garbage by definition, so a kill after that leaves nothing
//! but what the next collection sweeps up. Each file is moved to the trash under the same lock that
//! whoever publishes one takes, so a blob that comes back meanwhile is safe.

mod estimate;
mod sweep;
pub(crate) mod trash;
pub(crate) mod usage;

pub use estimate::{Occupied, Share};
use sweep::lost_snapshots;
pub(crate) use sweep::{Sort, list, orphans, stray_mounts};

use std::io;
use std::path::PathBuf;

use rusqlite::Transaction;

use crate::error::{Error, Result};
use crate::layer::verity::seal;
use crate::layer::{LayerId, erofs};
use crate::metadata::{dead_leases, owner, parsed};
use crate::snapshot::attach;
use crate::store::{Store, open_folder, sync_file};

/// Snapshots of no container, and not held.
pub(crate) const UNOWNED_SNAPSHOTS: &str = "key NOT IN (SELECT id FROM container UNION SELECT id FROM pod_container UNION SELECT key FROM lease_snapshot UNION SELECT key FROM mounted)";

/// Layers that no image, snapshot or lease has, and no layer lies on.
const UNUSED_LAYERS: &str = "DELETE FROM layer WHERE id NOT IN (
    SELECT layer FROM image_layer UNION SELECT layer FROM snapshot_layer UNION SELECT layer FROM lease_layer
    UNION SELECT base FROM layer WHERE base IS NOT NULL)";

/// Blobs that no image or lease has. A blob also stays for as long as its layer is not flushed: from it the layer is unpacked
/// again after a power cut.
const UNUSED_BLOBS: &str = "DELETE FROM blob WHERE digest NOT IN (
    SELECT target FROM image UNION SELECT manifest FROM image UNION SELECT config FROM image
    UNION SELECT blob FROM image_layer UNION SELECT blob FROM lease_blob
    UNION SELECT b.blob FROM layer_blob b JOIN layer l ON l.id = b.layer WHERE l.boot IS NOT NULL)";

impl Store {
    /// Removes what no image, container or living lease needs, and what killed processes left; returns the
    /// bytes of disk freed. Others may work on the store meanwhile, and may collect as well.
    pub fn collect(&self) -> Result<u64> {
        let dead = dead_leases(self.db())?;
        self.db().write_durably("collect garbage", |t| {
            for (id, _) in &dead {
                t.execute("DELETE FROM lease WHERE id = ?1", [id])
                    .map_err(Error::db("collect garbage"))?;
            }
            decide(t).map_err(Error::db("collect garbage"))
        })?;
        self.sweep()
    }

    /// Moves everything without a row to the trash, and empties that.
    pub(crate) fn sweep(&self) -> Result<u64> {
        self.db().write("sweep", |t| {
            for layer in stray_mounts(self, t)? {
                attach::detach(&layer)?;
            }
            for orphan in orphans(self, t)? {
                orphan.remove(self)?;
            }
            Ok(())
        })?;
        self.empty_trash()
    }

    /// Puts away what a kill in the middle of a snapshot's making or removal has left: its folder, and layers that were mounted for it.
    /// Returns what it was. For the start of whoever makes many: a look at each snapshot and layer, and no bytes are freed.
    pub fn sweep_snapshots(&self) -> Result<Vec<PathBuf>> {
        self.db().write("sweep snapshots", |t| {
            let mut swept = Vec::new();
            for layer in stray_mounts(self, t)? {
                attach::detach(&layer)?;
                swept.push(layer);
            }
            for orphan in lost_snapshots(self, t)? {
                swept.push(orphan.path.clone());
                orphan.remove(self)?;
            }
            Ok(swept)
        })
    }

    /// Frees what removed snapshots and replaced trees occupied; returns the bytes. For the tail of a command, when
    /// nobody waits any more; [`Store::collect`] does it as well. Several processes may be at it at once.
    pub fn empty_trash(&self) -> Result<u64> {
        let mut freed = 0;
        for path in list(&self.folder("trash"))? {
            freed += trash::empty(self, &path)?;
        }
        Ok(freed)
    }

    /// Writes all layers that were unpacked in this boot to the disk. Until that is done, by this or by the kernel in its own time, the
    /// store takes a reboot for a power cut, and unpacks those layers again from their blobs when
    /// next used. Takes as long as the file system has dirty data, not only the store's: for after a pull, not for before a run.
    pub fn flush(&self) -> Result<()> {
        let boot = owner::boot()?;
        let unflushed: Vec<(LayerId, bool)> = self.db().read("list unflushed layers", |c| {
            let mut q = c.prepare("SELECT id, form = 'tree' FROM layer WHERE boot = ?1")?;
            q.query_map([boot], |r| Ok((parsed(r, 0)?, r.get(1)?)))?
                .collect()
        })?;
        // Trees have too many files to sync each.
        if unflushed.iter().any(|(_, is_tree)| *is_tree) {
            let root = open_folder(self.root()).map_err(Error::io("open folder", self.root()))?;
            rustix::fs::syncfs(root).map_err(Error::io("flush the file system of", self.root()))?;
        }
        let mut ids = Vec::new();
        for (id, is_tree) in unflushed {
            if is_tree || (self.sync_image(&id)? && seal(self, &id)?) {
                ids.push(id);
            }
        }
        self.db().write("note flushed layers", |t| {
            let mut q = t
                .prepare("UPDATE layer SET boot = NULL WHERE id = ?1 AND boot = ?2")
                .map_err(Error::db("note flushed layers"))?;
            for id in &ids {
                q.execute([id.as_str(), boot])
                    .map_err(Error::db("note flushed layers"))?;
            }
            Ok(())
        })
    }
}

impl Store {
    /// Writes the few files of a layer's image to the disk; `false` if it was collected meanwhile.
    fn sync_image(&self, id: &LayerId) -> Result<bool> {
        let folder = self.layer_path(id);
        for name in [erofs::DATA, erofs::SPARSE, erofs::META] {
            let path = folder.join(name);
            match sync_file(&path) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(folder.join(erofs::META).exists())
    }
}

fn decide(t: &Transaction<'_>) -> rusqlite::Result<()> {
    t.execute(
        &format!("DELETE FROM snapshot WHERE {UNOWNED_SNAPSHOTS}"),
        [],
    )?;
    // A patch first, then what it lay on.
    while t.execute(UNUSED_LAYERS, [])? > 0 {}
    t.execute(UNUSED_BLOBS, [])?;
    Ok(())
}
