//! Image rows: a reference, the documents behind it, and its layers from the bottom up.

use corten_spec::{Digest, Reference};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::error::{Error, Result};
use crate::layer::LayerId;
use crate::metadata::layer as rows;
use crate::metadata::{int, lease::blob_size, now, parsed};
use crate::snapshot::settle;
use crate::store::Store;

/// What a tag points at: an index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Of the compressed blob.
    pub digest: Digest,
    /// Of the compressed blob, in bytes.
    pub size: u64,
    /// Of the tar.
    pub diff_id: Digest,
    /// As unpacked. From a run of the ingest it goes in; settled on the layers below it comes out.
    pub layer: LayerId,
}

/// An image under one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// `Reference::to_string`.
    pub reference: String,
    pub target: Target,
    /// Of this host's platform; the same as the target where that is no index.
    pub manifest: Digest,
    /// Its digest is the image's id.
    pub config: Digest,
    /// Bottom first.
    pub layers: Vec<LayerRef>,
    /// Seconds since the epoch; zero is set to now by `put_image`.
    pub pulled_at: i64,
    /// In bytes, as the puller counts it.
    pub size: u64,
}

const COLUMNS: &str = "SELECT reference, target, target_size, target_media_type, manifest, config, pulled_at, size FROM image";

impl Store {
    /// Names an image, or points its reference at another one. Every blob and layer must be in the store
    /// (a lease sees to that), and layers that had something to learn from those below them learn it now.
    /// An image that loses its only name to this one stays, as `REPOSITORY@DIGEST` of its manifest.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the first blob or layer that is missing.
    pub fn put_image(&self, mut image: ImageRecord) -> Result<()> {
        let ids: Vec<LayerId> = image.layers.iter().map(|l| l.layer.clone()).collect();
        let (settled, _lease) = settle::settle(self, &ids)?;
        for (layer, settled) in image.layers.iter_mut().zip(settled) {
            layer.layer = settled;
        }
        if image.pulled_at == 0 {
            image.pulled_at = now();
        }
        self.db().write("write an image", |t| {
            let blobs = [&image.target.digest, &image.manifest, &image.config];
            for digest in blobs
                .into_iter()
                .chain(image.layers.iter().map(|l| &l.digest))
            {
                if blob_size(t, digest)
                    .map_err(Error::db("write an image"))?
                    .is_none()
                {
                    return Err(Error::NotFound {
                        what: "blob",
                        name: digest.to_string(),
                    });
                }
            }
            for l in &image.layers {
                let row = rows::get(t, &l.layer).map_err(Error::db("write an image"))?;
                row.ok_or_else(|| rows::missing(&l.layer))?;
            }
            keep_untagged(t, &image).map_err(Error::db("write an image"))?;
            insert(t, &image).map_err(Error::db("write an image"))
        })
    }

    /// What each layer of an image occupies as it is kept here, in bytes, bottom first.
    pub fn layer_sizes(&self, image: &ImageRecord) -> Result<Vec<u64>> {
        self.db().read("look up an image's layers", |c| {
            // A patch lies on the layer that it belongs to, and is a small thing beside it.
            let mut q = c.prepare(
                "SELECT l.size + coalesce(b.size, 0) FROM layer l LEFT JOIN layer b ON b.id = l.base WHERE l.id = ?1",
            )?;
            let size = |l: &LayerRef| {
                let found = q.query_row([l.layer.as_str()], |r| r.get::<_, i64>(0));
                found.optional().map(|s| s.unwrap_or(0).cast_unsigned())
            };
            image.layers.iter().map(size).collect()
        })
    }

    /// Finds an image by its full reference, by what a person types for it (`busybox`), by a digest that its tag
    /// points at (`busybox@sha256:…`), or by the id (the config's digest) or a prefix of it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`] where a prefix fits several ids.
    pub fn image(&self, name: &str) -> Result<ImageRecord> {
        let found = self.db().read("look up an image", |c| lookup(c, name))?;
        one_id(name, found)
    }

    /// All images, by reference.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        self.db().read("list the images", |c| {
            select(c, &format!("{COLUMNS} ORDER BY reference"), [])
        })
    }

    /// Forgets a reference; what nothing else needs then is left to [`Store::collect`]. `name` as for [`Store::image`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`] where an id has several references.
    pub fn remove_image(&self, name: &str) -> Result<ImageRecord> {
        self.db().write("remove an image", |t| {
            let mut found = lookup(t, name).map_err(Error::db("remove an image"))?;
            if found.len() > 1 {
                return Err(Error::Ambiguous {
                    what: "image",
                    name: name.into(),
                    candidates: found.into_iter().map(|i| i.reference).collect(),
                });
            }
            let image = found.pop().ok_or_else(|| Error::NotFound {
                what: "image",
                name: name.into(),
            })?;
            t.execute("DELETE FROM image WHERE reference = ?1", [&image.reference])
                .map_err(Error::db("remove an image"))?;
            Ok(image)
        })
    }
}

fn one_id(name: &str, mut found: Vec<ImageRecord>) -> Result<ImageRecord> {
    if found.iter().any(|i| i.config != found[0].config) {
        return Err(Error::Ambiguous {
            what: "image",
            name: name.into(),
            candidates: found
                .iter()
                .map(|i| format!("{} ({})", i.config.short(), i.reference))
                .collect(),
        });
    }
    match found.is_empty() {
        true => Err(Error::NotFound {
            what: "image",
            name: name.into(),
        }),
        false => Ok(found.swap_remove(0)),
    }
}

/// A reference goes before an id, as with docker: `cafe` may be both.
fn lookup(c: &Connection, name: &str) -> rusqlite::Result<Vec<ImageRecord>> {
    let by = |clause: &str, key: &str| select(c, &format!("{COLUMNS} WHERE {clause}"), [key]);
    let found = by("reference = ?1", name)?;
    if !found.is_empty() {
        return Ok(found);
    }
    if let Ok(reference) = name.parse::<Reference>() {
        let found = by("reference = ?1", &reference.to_string())?;
        if !found.is_empty() {
            return Ok(found);
        }
        if let Some(digest) = reference.digest() {
            let mut found = by("?1 IN (target, manifest)", &digest.to_string())?;
            found.retain(|i| same_repository(&i.reference, &reference));
            found.truncate(1);
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    let id = name.strip_prefix("sha256:").unwrap_or(name);
    match id.is_empty() || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(Vec::new()),
        false => by(
            "substr(config, 1, length(?1)) = ?1",
            &format!("sha256:{id}"),
        ),
    }
}

fn same_repository(stored: &str, wanted: &Reference) -> bool {
    stored
        .parse::<Reference>()
        .is_ok_and(|r| r.registry() == wanted.registry() && r.repository() == wanted.repository())
}

fn select(
    c: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<ImageRecord>> {
    let mut q = c.prepare(sql)?;
    let mut images = q
        .query_map(params, read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if images.is_empty() {
        return Ok(images);
    }
    let mut layers = c.prepare(
        "SELECT blob, size, diff_id, layer FROM image_layer WHERE reference = ?1 ORDER BY position",
    )?;
    for image in &mut images {
        image.layers = layers
            .query_map([&image.reference], |r| {
                Ok(LayerRef {
                    digest: parsed(r, 0)?,
                    size: r.get::<_, i64>(1)?.cast_unsigned(),
                    diff_id: parsed(r, 2)?,
                    layer: parsed(r, 3)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
    }
    Ok(images)
}

fn read(r: &Row<'_>) -> rusqlite::Result<ImageRecord> {
    Ok(ImageRecord {
        reference: r.get(0)?,
        target: Target {
            digest: parsed(r, 1)?,
            size: r.get::<_, i64>(2)?.cast_unsigned(),
            media_type: r.get(3)?,
        },
        manifest: parsed(r, 4)?,
        config: parsed(r, 5)?,
        layers: Vec::new(),
        pulled_at: r.get(6)?,
        size: r.get::<_, i64>(7)?.cast_unsigned(),
    })
}

/// A tag that moves must not take away an image that nothing else names: it keeps a name without a tag.
fn keep_untagged(t: &Transaction<'_>, new: &ImageRecord) -> rusqlite::Result<()> {
    let by_name = format!("{COLUMNS} WHERE reference = ?1");
    let Some(old) = select(t, &by_name, [&new.reference])?.pop() else {
        return Ok(());
    };
    let named = select(
        t,
        &format!("{COLUMNS} WHERE config = ?1"),
        [old.config.to_string()],
    )?;
    let tagged = new.reference.parse::<Reference>();
    let Some(reference) = tagged.ok().filter(|r| r.tag().is_some()) else {
        return Ok(());
    };
    if old.config == new.config || named.len() > 1 {
        return Ok(());
    }
    let untagged = Reference::new(
        reference.registry(),
        reference.repository(),
        None,
        Some(old.manifest.clone()),
    );
    // Made of the parts of a name that parsed.
    let Ok(untagged) = untagged else {
        return Ok(());
    };
    let reference = untagged.to_string();
    insert(t, &ImageRecord { reference, ..old })
}

fn insert(t: &Transaction<'_>, i: &ImageRecord) -> rusqlite::Result<()> {
    // Its layer rows go with the old row.
    t.execute("DELETE FROM image WHERE reference = ?1", [&i.reference])?;
    t.execute(
        "INSERT INTO image (reference, target, target_size, target_media_type, manifest, config, pulled_at, size)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            i.reference,
            i.target.digest.to_string(),
            int(i.target.size),
            i.target.media_type,
            i.manifest.to_string(),
            i.config.to_string(),
            i.pulled_at,
            int(i.size)
        ],
    )?;
    let mut q = t.prepare(
        "INSERT INTO image_layer (reference, position, blob, size, diff_id, layer) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (position, l) in i.layers.iter().enumerate() {
        q.execute(params![
            i.reference,
            int(position as u64),
            l.digest.to_string(),
            int(l.size),
            l.diff_id.to_string(),
            l.layer.as_str()
        ])?;
    }
    Ok(())
}
