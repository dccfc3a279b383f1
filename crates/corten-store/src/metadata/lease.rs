//! Leases: what work in flight needs, before an image, container or snapshot owns it.

use std::sync::Arc;

use corten_spec::Digest;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::error::{Error, Result};
use crate::layer::LayerId;
use crate::metadata::owner::Owner;
use crate::metadata::{Db, now};
use crate::store::Store;

/// A process's claim on blobs, layers and snapshots, against [`Store::collect`]. Ends when its last clone is
/// dropped, and when its process ends, however that happens.
#[derive(Clone)]
pub struct Lease(Arc<Held>);

struct Held {
    store: Store,
    id: i64,
}

impl Lease {
    pub(crate) fn take(store: &Store, purpose: &str) -> Result<Self> {
        let me = Owner::this_process()?;
        let id = store.db().write("take a lease", |t| {
            t.execute(
                "INSERT INTO lease (purpose, pid, started, boot, added) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![purpose, me.pid, me.started, me.boot, now()],
            )
            .map_err(Error::db("take a lease"))?;
            Ok(t.last_insert_rowid())
        })?;
        Ok(Self(Arc::new(Held {
            store: store.clone(),
            id,
        })))
    }

    /// Keeps a blob that is there. `false`: it is not there.
    pub fn hold_blob(&self, digest: &Digest) -> Result<bool> {
        self.0.store.db().write("hold a blob", |t| {
            let there = blob_size(t, digest)
                .map_err(Error::db("hold a blob"))?
                .is_some();
            if there {
                self.add_blob(t, digest)?;
            }
            Ok(there)
        })
    }

    /// Keeps the snapshot `key`, made or yet to be made, that no container row owns: of a build step, say.
    pub fn hold_snapshot(&self, key: &str) -> Result<()> {
        self.0.store.db().write("hold a snapshot", |t| {
            t.execute(
                "INSERT OR IGNORE INTO lease_snapshot (lease, key) VALUES (?1, ?2)",
                params![self.0.id, key],
            )
            .map_err(Error::db("hold a snapshot"))?;
            Ok(())
        })
    }

    /// As part of a transaction that has seen the blob's row.
    pub(crate) fn add_blob(&self, t: &Transaction<'_>, digest: &Digest) -> Result<()> {
        t.execute(
            "INSERT OR IGNORE INTO lease_blob (lease, blob) VALUES (?1, ?2)",
            params![self.0.id, digest.to_string()],
        )
        .map_err(Error::db("hold a blob"))?;
        Ok(())
    }

    /// As part of a transaction that has seen the layer's row.
    pub(crate) fn add_layer(&self, t: &Transaction<'_>, layer: &LayerId) -> Result<()> {
        t.execute(
            "INSERT OR IGNORE INTO lease_layer (lease, layer) VALUES (?1, ?2)",
            params![self.0.id, layer.as_str()],
        )
        .map_err(Error::db("hold a layer"))?;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nobody is left to tell; a row that stays is void as soon as this process is gone.
        let _ = self.store.db().read("end a lease", |c| {
            c.execute("DELETE FROM lease WHERE id = ?1", [self.id])
        });
        // What interrupted processes held was there for whoever goes on from it, and that was perhaps this one.
        for (id, _) in dead(self.store.db()).unwrap_or_default() {
            let _ = self.store.db().read("end a lease", |c| {
                c.execute("DELETE FROM lease WHERE id = ?1", [id])
            });
        }
    }
}

/// The size of a blob that has a row.
pub(crate) fn blob_size(c: &Connection, digest: &Digest) -> rusqlite::Result<Option<i64>> {
    c.query_row(
        "SELECT size FROM blob WHERE digest = ?1",
        [digest.to_string()],
        |r| r.get(0),
    )
    .optional()
}

/// Leases whose process is gone.
pub(crate) fn dead(db: &Db) -> Result<Vec<(i64, String)>> {
    let all = db.read("list the leases", |c| {
        let mut q = c.prepare("SELECT id, purpose, pid, started, boot FROM lease")?;
        let rows = q.query_map([], |r| {
            let owner = Owner {
                pid: r.get(2)?,
                started: r.get(3)?,
                boot: r.get(4)?,
            };
            Ok((r.get(0)?, r.get(1)?, owner))
        })?;
        rows.collect::<rusqlite::Result<Vec<(i64, String, Owner)>>>()
    })?;
    let mut dead = Vec::new();
    for (id, purpose, owner) in all {
        if !owner.is_alive()? {
            dead.push((id, purpose));
        }
    }
    Ok(dead)
}
