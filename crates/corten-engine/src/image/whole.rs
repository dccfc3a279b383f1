//! Images as Kubernetes has them: one thing by its id, with all names that it goes by, in whatever repository.

use std::collections::BTreeMap;

use corten_spec::{Digest, Kind, Reference};
use corten_store::ImageRecord;

use super::listing::{is_nameless, is_untagged};
use super::remove::Removed;
use crate::Engine;
use crate::error::Error;

/// An image with all its names.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The digest of its config: the same in every registry.
    pub id: Digest,
    /// `REGISTRY/REPOSITORY:TAG`, nothing left out.
    pub tags: Vec<String>,
    /// `REGISTRY/REPOSITORY@DIGEST`, of what was pulled: an index, where it was one.
    pub digests: Vec<String>,
    /// What it occupies unpacked, in bytes; layers that others share count in full.
    pub size: u64,
    /// One of its rows: they differ in name only, or in the index that led there.
    pub record: ImageRecord,
}

impl Engine {
    /// Every image once, by id.
    pub fn whole_images(&self) -> Result<Vec<Whole>, Error> {
        let mut by_id: BTreeMap<Digest, Vec<ImageRecord>> = BTreeMap::new();
        for record in self.store.images()? {
            by_id.entry(record.config.clone()).or_default().push(record);
        }
        by_id
            .into_values()
            .filter_map(|rows| self.whole(rows))
            .collect()
    }

    /// The image of a name (shorthand welcome), id or unique prefix of one. `None`: there is none.
    pub fn whole_image(&self, name: &str) -> Result<Option<Whole>, Error> {
        match self.image(name) {
            Ok(record) => self.whole(self.image_rows(&record.config)?).transpose(),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes an image by any of its names, and all names with it. Containers made from it keep their layers until they go,
    /// and so does whoever has it mounted. One that is not there is removed already.
    pub fn remove_whole_image(&self, name: &str) -> Result<Removed, Error> {
        let Some(whole) = self.whole_image(name)? else {
            return Ok(Removed::default());
        };
        let mut removed = Removed::default();
        for row in self.image_rows(&whole.id)? {
            match self.store.remove_image(&row.reference) {
                Ok(_) => removed.untagged.push(row.reference),
                // Another has done it meanwhile.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        removed.deleted.push(whole.id);
        removed.freed = self.store.collect()?;
        Ok(removed)
    }

    fn image_rows(&self, id: &Digest) -> Result<Vec<ImageRecord>, Error> {
        let mut rows = self.store.images()?;
        rows.retain(|r| r.config == *id);
        Ok(rows)
    }

    /// `None` of no rows: the image went between two looks.
    fn whole(&self, rows: Vec<ImageRecord>) -> Option<Result<Whole, Error>> {
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        for row in &rows {
            let Ok(reference) = row.reference.parse::<Reference>() else {
                continue;
            };
            if !is_untagged(&row.reference) {
                tags.push(row.reference.clone());
            }
            let (registry, repository) = (reference.registry(), reference.repository());
            let by_digest = format!("{registry}/{repository}@{}", row.target.digest);
            if !is_nameless(&row.reference) && !digests.contains(&by_digest) {
                digests.push(by_digest);
            }
        }
        let record = rows.into_iter().next()?;
        let sizes = self.store.layer_sizes(&record);
        Some(sizes.map_err(Error::from).map(|sizes| Whole {
            id: record.config.clone(),
            tags,
            digests,
            size: sizes.iter().sum(),
            record,
        }))
    }
}
