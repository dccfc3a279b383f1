//! Layer rows.

use std::path::Path;

use corten_spec::Digest;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::collect::trash;
use crate::error::{Error, Result};
use crate::layer::{Done, Form, LayerId, Packing, Pending, erofs};
use crate::metadata::{Lease, int, now, owner, parsed};
use crate::snapshot::attach;
use crate::store::{Store, digest_of, rename, sync_file};

/// A layer, without its open ends.
#[derive(Clone, Debug)]
pub(crate) struct LayerRow {
    pub id: LayerId,
    /// A patch lies on this one.
    pub base: Option<LayerId>,
    /// What a patch was made for, bottom first.
    pub below: Vec<LayerId>,
    pub names_root: bool,
    pub opaque_root: bool,
    pub is_pending: bool,
    pub form: Form,
    /// The digest of an image's index.
    pub index: Option<Digest>,
    /// The measures of its files, if they are sealed.
    pub verity: Option<String>,
    boot: Option<String>,
}

/// A layer that was just made.
pub(crate) struct NewLayer<'a> {
    pub id: &'a LayerId,
    pub base: Option<&'a LayerId>,
    pub below: Option<&'a str>,
    pub form: Form,
    pub index: Option<&'a Digest>,
    pub done: &'a Done,
}

impl LayerRow {
    /// Is its folder there, and were its files written in this boot or flushed since? What is neither may have been hollowed out by
    /// a power cut: files with names and no bytes.
    pub fn is_sound(&self, store: &Store) -> Result<bool> {
        Ok(self.is_settled()? && self.is_there(store))
    }

    fn is_settled(&self) -> Result<bool> {
        match &self.boot {
            Some(boot) => Ok(boot == owner::boot()?),
            None => Ok(true),
        }
    }

    fn is_there(&self, store: &Store) -> bool {
        let folder = store.layer_path(&self.id);
        let place = folder.join("fs").is_dir();
        match self.form {
            Form::Folders => place,
            Form::Erofs(_) => {
                place
                    && [erofs::META, erofs::DATA]
                        .iter()
                        .all(|f| folder.join(f).is_file())
            }
        }
    }

    /// After a power cut, an image may still be as it was: its tar is the layer's diff id, and the index has a digest in the row.
    /// Checked by reading both, which takes a fraction of unpacking again; then it is sound for good.
    ///
    /// `false`: it is to be unpacked again.
    pub fn prove(&self, store: &Store) -> Result<bool> {
        let folder = store.layer_path(&self.id);
        let (Form::Erofs(Packing::Tar), Some(index), Some(diff_id)) =
            (self.form, &self.index, self.id.diff_id())
        else {
            return Ok(false);
        };
        // Expanded sparse files are in no digest.
        if !self.is_there(store) || folder.join(erofs::SPARSE).exists() {
            return Ok(false);
        }
        let (data, meta) = (folder.join(erofs::DATA), folder.join(erofs::META));
        if digest_of(&meta, index)? != *index || digest_of(&data, &diff_id)? != diff_id {
            return Ok(false);
        }
        sync_file(&meta)?;
        sync_file(&data)?;
        let boot = self.boot.as_deref();
        store.db().write("note a checked layer", |t| {
            t.execute(
                "UPDATE layer SET boot = NULL WHERE id = ?1 AND boot IS ?2",
                params![self.id.as_str(), boot],
            )
            .map_err(Error::db("note a checked layer"))?;
            Ok(true)
        })
    }
}

const COLUMNS: &str = "SELECT id, base, below, names_root, opaque_root, pending IS NOT NULL, boot, form, image, verity FROM layer";

pub(crate) fn get(c: &Connection, id: &LayerId) -> rusqlite::Result<Option<LayerRow>> {
    c.prepare(&format!("{COLUMNS} WHERE id = ?1"))?
        .query_row([id.as_str()], read)
        .optional()
}

/// Several at once, in the order asked for.
///
/// # Errors
/// [`Error::NotFound`] names the first that is not there.
pub(crate) fn get_all(store: &Store, ids: &[LayerId]) -> Result<Vec<LayerRow>> {
    let rows = store.db().read("look up layers", |c| {
        let mut q = c.prepare(&format!("{COLUMNS} WHERE id = ?1"))?;
        ids.iter()
            .map(|id| q.query_row([id.as_str()], read).optional())
            .collect::<rusqlite::Result<Vec<_>>>()
    })?;
    ids.iter()
        .zip(rows)
        .map(|(id, row)| row.ok_or_else(|| missing(id)))
        .collect()
}

/// The same layers as they are now: inside a transaction nobody changes their form, and before it somebody may have.
pub(crate) fn again(t: &Transaction<'_>, stack: &[LayerRow]) -> Result<Vec<LayerRow>> {
    let row = |old: &LayerRow| {
        let row = get(t, &old.id).map_err(Error::db("look up layers"))?;
        row.ok_or_else(|| missing(&old.id))
    };
    stack.iter().map(row).collect()
}

pub(crate) fn all(store: &Store) -> Result<Vec<LayerRow>> {
    store.db().read("list the layers", |c| {
        let mut q = c.prepare(&format!("{COLUMNS} ORDER BY base IS NOT NULL, id"))?;
        q.query_map([], read)?.collect()
    })
}

pub(crate) fn missing(id: &LayerId) -> Error {
    Error::NotFound {
        what: "layer",
        name: id.to_string(),
    }
}

fn read(r: &Row<'_>) -> rusqlite::Result<LayerRow> {
    let base: Option<String> = r.get(1)?;
    let below: Option<String> = r.get(2)?;
    Ok(LayerRow {
        id: parsed(r, 0)?,
        base: base.map(|_| parsed(r, 1)).transpose()?,
        below: below
            .iter()
            .flat_map(|b| b.split(','))
            .filter_map(|id| id.parse().ok())
            .collect(),
        names_root: r.get(3)?,
        opaque_root: r.get(4)?,
        is_pending: r.get(5)?,
        boot: r.get(6)?,
        form: parsed(r, 7)?,
        index: match r.get_ref(8)? {
            rusqlite::types::ValueRef::Null => None,
            _ => Some(parsed(r, 8)?),
        },
        verity: r.get(9)?,
    })
}

/// The open ends of a layer.
pub(crate) fn pending(store: &Store, id: &LayerId) -> Result<Pending> {
    let bytes: Option<Vec<u8>> = store.db().read("look up a layer", |c| {
        c.query_row(
            "SELECT pending FROM layer WHERE id = ?1",
            [id.as_str()],
            |r| r.get(0),
        )
    })?;
    Pending::decode(&bytes.unwrap_or_default()).ok_or_else(|| Error::Damaged {
        what: "layer",
        name: id.to_string(),
        why: "its row has a malformed list of open ends".into(),
    })
}

/// The layers of a snapshot that are images.
pub(crate) fn images_of(c: &Connection, key: &str) -> rusqlite::Result<Vec<LayerId>> {
    let mut q = c.prepare(
        "SELECT l.id FROM snapshot_layer s JOIN layer l ON l.id = s.layer WHERE s.key = ?1 AND l.form != 'tree'
         UNION
         SELECT b.id FROM snapshot_layer s JOIN layer l ON l.id = s.layer JOIN layer b ON b.id = l.base
         WHERE s.key = ?1 AND b.form != 'tree'",
    )?;
    q.query_map([key], |r| parsed(r, 0))?.collect()
}

/// Has the layer unpacked again when it is next needed.
pub(crate) fn distrust(store: &Store, id: &LayerId) -> Result<()> {
    let op = "give up a layer's image";
    store.db().write(op, |t| {
        t.execute(
            "UPDATE layer SET boot = '', image = NULL, verity = NULL WHERE id = ?1",
            [id.as_str()],
        )
        .map(|_| ())
        .map_err(Error::db(op))
    })
}

/// The blobs that hold a layer, with their sizes.
pub(crate) fn blobs(store: &Store, id: &LayerId) -> Result<Vec<(Digest, u64)>> {
    store.db().read("look up a layer's blobs", |c| {
        let mut q = c.prepare(
            "SELECT b.digest, b.size FROM layer_blob l JOIN blob b ON b.digest = l.blob WHERE l.layer = ?1",
        )?;
        q.query_map([id.as_str()], |r| {
            Ok((parsed(r, 0)?, r.get::<_, i64>(1)?.cast_unsigned()))
        })?
        .collect()
    })
}

/// Puts layer and blob under the lease if both are here, belong together, and are sound.
pub(crate) fn hold(store: &Store, lease: &Lease, id: &LayerId, blob: &Digest) -> Result<bool> {
    let op = "look up a layer";
    store.db().write(op, |t| {
        let belongs = t
            .query_row(
                "SELECT 1 FROM layer_blob WHERE layer = ?1 AND blob = ?2",
                [id.as_str(), &blob.to_string()],
                |_| Ok(()),
            )
            .optional()
            .map_err(Error::db(op))?
            .is_some();
        let row = get(t, id).map_err(Error::db(op))?;
        let Some(row) = row.filter(|_| belongs) else {
            return Ok(false);
        };
        if !row.is_sound(store)? || !store.blob_path(blob).exists() {
            return Ok(false);
        }
        lease.add_blob(t, blob)?;
        lease.add_layer(t, id)?;
        Ok(true)
    })
}

/// Gives a finished tree its name and row, inside the transaction that is the lock for both. If there is a sound
/// layer of that name, `tree` stays where it is, for its maker to remove.
pub(crate) fn publish(
    store: &Store,
    t: &Transaction<'_>,
    tree: &Path,
    new: &NewLayer<'_>,
) -> Result<()> {
    let op = "add a layer";
    let row = get(t, new.id).map_err(Error::db(op))?;
    if let Some(row) = &row
        && row.is_sound(store)?
    {
        return Ok(());
    }
    let place = store.layer_path(new.id);
    attach::detach(&place)?;
    trash::put(store, &place)?;
    rename(tree, &place)?;
    let pending = new.done.pending.encode();
    t.execute(
        "INSERT INTO layer (id, base, below, form, names_root, opaque_root, pending, size, entries, boot, added, image)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, form = excluded.form, image = excluded.image, verity = NULL",
        params![
            new.id.as_str(),
            new.base.map(LayerId::as_str),
            new.below,
            new.form.as_str(),
            new.done.names_root,
            new.done.opaque_root,
            (!pending.is_empty()).then_some(pending),
            int(new.done.size),
            int(new.done.entries),
            owner::boot()?,
            now(),
            new.index.map(Digest::to_string),
        ],
    )
    .map_err(Error::db(op))?;
    Ok(())
}

/// Notes that the blob unpacks to the layer.
pub(crate) fn add_blob(t: &Transaction<'_>, id: &LayerId, blob: &Digest) -> Result<()> {
    t.execute(
        "INSERT OR IGNORE INTO layer_blob (layer, blob) VALUES (?1, ?2)",
        [id.as_str(), &blob.to_string()],
    )
    .map_err(Error::db("add a layer"))?;
    Ok(())
}

/// What `layer` became on the stack `below`, if that was found out before.
pub(crate) fn settled(
    c: &Connection,
    layer: &LayerId,
    below: &str,
) -> rusqlite::Result<Option<LayerId>> {
    c.query_row(
        "SELECT result FROM settled WHERE layer = ?1 AND below = ?2",
        [layer.as_str(), below],
        |r| parsed(r, 0),
    )
    .optional()
}

pub(crate) fn add_settled(
    t: &Transaction<'_>,
    layer: &LayerId,
    below: &str,
    result: &LayerId,
) -> Result<()> {
    t.execute(
        "INSERT OR REPLACE INTO settled (layer, below, result) VALUES (?1, ?2, ?3)",
        [layer.as_str(), below, result.as_str()],
    )
    .map_err(Error::db("settle a layer"))?;
    Ok(())
}
