//! Compares the rows with what is on disk.
//!
//! What is on disk without a row is garbage, and a repair removes it. What has a row and is not on disk is unpacked again
//! where its blob is there; otherwise a repair takes away the images that need it, so that a pull brings them back.

use std::fmt;
use std::fs;

use corten_spec::Digest;

use crate::collect::{Sort, UNOWNED_SNAPSHOTS, orphans, stray_mounts};
use crate::error::{Error, Result};
use crate::layer::LayerId;
use crate::metadata::layer as rows;
use crate::metadata::{dead_leases, parsed};
use crate::snapshot::settle;
use crate::store::{Store, digest_of};

/// What sort of defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A blob that no row speaks of.
    OrphanBlob,
    /// A layer's folder that no row speaks of.
    OrphanLayer,
    /// A snapshot's folder that no row speaks of.
    OrphanSnapshot,
    /// What an interrupted pull left: partial bytes, or a half-written tree.
    Interrupted,
    /// A removal that was not finished.
    Trash,
    /// A lease whose process is gone.
    DeadLease,
    /// A snapshot that belongs to no container and no lease.
    UnownedSnapshot,
    /// A row whose folder is missing.
    LostSnapshot,
    /// A row whose file is missing, or has another size.
    LostBlob,
    /// A row whose folder is missing, or may have been hollowed out by a power cut.
    LostLayer,
    /// A layer's image that is mounted though no snapshot has it.
    StrayMount,
    /// An image that needs a blob or layer that is lost for good.
    BrokenImage,
    /// SQLite finds its own file damaged.
    Database,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OrphanBlob => "blob without a row",
            Self::OrphanLayer => "layer without a row",
            Self::OrphanSnapshot => "snapshot without a row",
            Self::Interrupted => "rest of an interrupted pull",
            Self::Trash => "unfinished removal",
            Self::DeadLease => "lease of a process that is gone",
            Self::UnownedSnapshot => "snapshot that no container has",
            Self::LostSnapshot => "snapshot whose folder is gone",
            Self::LostBlob => "blob that is gone or cut",
            Self::LostLayer => "layer that is gone, or was not flushed before a crash",
            Self::StrayMount => "mounted layer that no container has",
            Self::BrokenImage => "image that has lost a part",
            Self::Database => "damaged database",
        })
    }
}

/// Something that is not as the rows say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: Defect,
    /// A path, or the name of a row.
    pub where_: String,
    /// Put right by this very check.
    pub repaired: bool,
}

impl Store {
    /// Names everything that is on disk and not in the rows, or the other way round, and with `repair` puts it right.
    /// Looks at names and sizes; [`Store::verify_blob`] reads.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut check = Check {
            store: self,
            repair,
            found: Vec::new(),
        };
        check.database()?;
        check.leases()?;
        check.snapshots()?;
        check.blobs()?;
        check.layers()?;
        check.images()?;
        check.orphans()?;
        Ok(check.found)
    }

    /// Reads a blob whole and compares its digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`].
    pub fn verify_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        let found = match digest_of(&path, digest) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound {
                    what: "blob",
                    name: digest.to_string(),
                });
            }
            other => other?,
        };
        match found == *digest {
            true => Ok(()),
            false => Err(Error::Damaged {
                what: "blob",
                name: digest.to_string(),
                why: format!("its digest is now {found}"),
            }),
        }
    }
}

struct Check<'a> {
    store: &'a Store,
    repair: bool,
    found: Vec<Finding>,
}

impl Check<'_> {
    fn note(&mut self, what: Defect, where_: String, repaired: bool) {
        self.found.push(Finding {
            what,
            where_,
            repaired,
        });
    }

    fn database(&mut self) -> Result<()> {
        let lines: Vec<String> = self.store.db().read("check itself", |c| {
            let mut q = c.prepare("PRAGMA quick_check(10)")?;
            q.query_map([], |r| r.get(0))?.collect()
        })?;
        for line in lines.into_iter().filter(|l| l != "ok") {
            self.note(Defect::Database, line, false);
        }
        Ok(())
    }

    fn leases(&mut self) -> Result<()> {
        for (id, purpose) in dead_leases(self.store.db())? {
            if self.repair {
                self.execute("DELETE FROM lease WHERE id = ?1", id)?;
            }
            self.note(
                Defect::DeadLease,
                format!("lease {id}: {purpose}"),
                self.repair,
            );
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<()> {
        let unowned = self.texts(&format!(
            "SELECT key FROM snapshot WHERE {UNOWNED_SNAPSHOTS}"
        ))?;
        for key in unowned {
            if self.repair {
                // The folder has no owner then, and is swept up below.
                self.execute("DELETE FROM snapshot WHERE key = ?1", &key)?;
            }
            self.note(Defect::UnownedSnapshot, key, self.repair);
        }
        for key in self.texts("SELECT key FROM snapshot")? {
            let path = self.store.folder("snapshots").join(&key).join("fs");
            if !path.is_dir() && self.is_snapshot(&key, &path)? {
                // What a container wrote cannot be brought back; removing the container puts it right.
                self.note(Defect::LostSnapshot, key, false);
            }
        }
        Ok(())
    }

    /// Does the row still stand without its folder? Asked in a transaction that keeps removals out: one takes
    /// both away in its own.
    fn is_snapshot(&self, key: &str, path: &std::path::Path) -> Result<bool> {
        let op = "look at a snapshot again";
        self.store.db().write(op, |t| {
            let rows: i64 = t
                .query_row("SELECT count(*) FROM snapshot WHERE key = ?1", [key], |r| {
                    r.get(0)
                })
                .map_err(Error::db(op))?;
            Ok(rows > 0 && !path.is_dir())
        })
    }

    fn blobs(&mut self) -> Result<()> {
        let blobs: Vec<(Digest, i64)> = self.store.db().read("list the blobs", |c| {
            let mut q = c.prepare("SELECT digest, size FROM blob")?;
            q.query_map([], |r| Ok((parsed(r, 0)?, r.get(1)?)))?
                .collect()
        })?;
        for (digest, size) in blobs {
            let path = self.store.blob_path(&digest);
            if fs::metadata(&path).is_ok_and(|m| m.len() == size.cast_unsigned()) {
                continue;
            }
            let text = digest.to_string();
            self.drop_images(
                "SELECT reference FROM image WHERE ?1 IN (target, manifest, config)
                 UNION SELECT reference FROM image_layer WHERE blob = ?1",
                &text,
            )?;
            if self.repair {
                self.execute("DELETE FROM lease_blob WHERE blob = ?1", &text)?;
                self.execute("DELETE FROM blob WHERE digest = ?1", &text)?;
            }
            self.note(Defect::LostBlob, text, self.repair);
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<()> {
        for row in rows::all(self.store)? {
            if row.is_sound(self.store)? {
                continue;
            }
            let mended =
                self.repair && settle::mend(self.store, std::slice::from_ref(&row)).is_ok();
            if !mended {
                self.layer_is_lost(&row.id)?;
            }
            self.note(Defect::LostLayer, row.id.to_string(), mended);
        }
        Ok(())
    }

    /// No blob to unpack it from. A container on it has lost its root; only the images can be put right.
    fn layer_is_lost(&mut self, id: &LayerId) -> Result<()> {
        self.drop_images(
            "SELECT reference FROM image_layer i JOIN layer l ON l.id = i.layer WHERE ?1 IN (l.id, l.base)",
            id.as_str(),
        )
    }

    /// Images whose rows are whole can still lack a document: of an older database, say.
    fn images(&mut self) -> Result<()> {
        for image in self.store.images()? {
            for digest in [&image.target.digest, &image.manifest, &image.config] {
                if !self.store.has_blob(digest)? {
                    self.drop_images("SELECT ?1", &image.reference)?;
                }
            }
        }
        Ok(())
    }

    fn drop_images(&mut self, sql: &str, key: &str) -> Result<()> {
        let references: Vec<String> = self.store.db().read("look up images", |c| {
            let mut q = c.prepare(sql)?;
            q.query_map([key], |r| r.get(0))?.collect()
        })?;
        for reference in references {
            if self
                .found
                .iter()
                .any(|f| f.what == Defect::BrokenImage && f.where_ == reference)
            {
                continue;
            }
            if self.repair {
                self.execute("DELETE FROM image WHERE reference = ?1", &reference)?;
            }
            self.note(Defect::BrokenImage, reference, self.repair);
        }
        Ok(())
    }

    fn orphans(&mut self) -> Result<()> {
        let (strays, found) = self.store.db().write("look for orphans", |t| {
            Ok((stray_mounts(self.store, t)?, orphans(self.store, t)?))
        })?;
        for path in strays {
            self.note(Defect::StrayMount, path.display().to_string(), self.repair);
        }
        for orphan in found {
            let what = match orphan.sort {
                Sort::Blob => Defect::OrphanBlob,
                Sort::Layer => Defect::OrphanLayer,
                Sort::Snapshot => Defect::OrphanSnapshot,
                Sort::Partial => Defect::Interrupted,
            };
            self.note(what, orphan.path.display().to_string(), self.repair);
        }
        for path in crate::collect::list(&self.store.folder("trash"))? {
            self.note(Defect::Trash, path.display().to_string(), self.repair);
        }
        if self.repair {
            self.store.sweep()?;
        }
        Ok(())
    }

    fn texts(&self, sql: &str) -> Result<Vec<String>> {
        self.store.db().read("check", |c| {
            let mut q = c.prepare(sql)?;
            q.query_map([], |r| r.get(0))?.collect()
        })
    }

    fn execute(&self, sql: &str, key: impl rusqlite::ToSql) -> Result<()> {
        self.store.db().write("repair", |t| {
            t.execute(sql, [key]).map_err(Error::db("repair"))?;
            Ok(())
        })
    }
}
