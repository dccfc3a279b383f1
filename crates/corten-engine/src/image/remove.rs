//! Removing names, and what only those names kept.

use corten_spec::{Digest, Reference};
use corten_store::ImageRecord;

use super::ImageError;
use super::filter::Filters;
use super::listing::is_untagged;
use crate::Engine;
use crate::error::Error;

/// What `rmi` or `image prune` did.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// The names that are gone.
    pub untagged: Vec<String>,
    /// The ids of images that went with their last name.
    pub deleted: Vec<Digest>,
    /// Bytes that the removal freed on disk.
    pub freed: u64,
}

impl Engine {
    /// Takes names away; blobs and layers go with their last user. An image that a
    /// container was made from, or that is mounted, stays, unless `force`: then the name goes and the layers stay until
    /// the container does. An id stands for all names of its image, several of which need `force`.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Removed, Error> {
        let record = self.image(name)?;
        let mut names = self.store.images()?;
        names.retain(|i| i.config == record.config);
        if !force {
            let users = self.containers()?;
            let user = users
                .iter()
                .find(|c| c.record.image_config == record.config);
            if let (1, Some(user)) = (names.len(), user) {
                return Err(Error::ImageInUse {
                    name: name.into(),
                    container: user.name.to_string(),
                });
            }
            if let (1, Some(mounted)) = (names.len(), self.mount_of(&record)?) {
                let (name, path) = (name.to_owned(), mounted.path);
                return Err(ImageError::Mounted { name, path }.into());
            }
        }
        let id = name.strip_prefix("sha256:").unwrap_or(name);
        let by_id = record.config.hex().starts_with(id)
            && (name.parse::<Reference>()).map_or(true, |r| r.to_string() != record.reference);
        let going: Vec<&ImageRecord> = match by_id {
            false => names
                .iter()
                .filter(|i| i.reference == record.reference)
                .collect(),
            true if names.len() > 1 && !force => {
                return Err(Error::ImageNames {
                    name: name.into(),
                    names: names.into_iter().map(|i| i.reference).collect(),
                });
            }
            true => names.iter().collect(),
        };
        let mut removed = Removed::default();
        for image in going {
            self.store.remove_image(&image.reference)?;
            removed.untagged.push(familiar(&image.reference));
        }
        if removed.untagged.len() == names.len() {
            removed.deleted.push(record.config);
        }
        removed.freed = self.store.collect()?;
        Ok(removed)
    }

    /// Removes the images that no container was made from and that have no tag; with `all`, those with tags, too.
    pub fn prune_images(&self, all: bool, filters: &Filters) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        for image in self.list_images(filters)? {
            let record = &image.record;
            let used = image.containers > 0 || self.mount_of(record)?.is_some();
            if used || !(all || is_untagged(&record.reference)) {
                continue;
            }
            self.store.remove_image(&record.reference)?;
            removed.untagged.push(familiar(&record.reference));
            let left = self.store.images()?;
            if left.iter().all(|i| i.config != record.config) {
                removed.deleted.push(record.config.clone());
            }
        }
        removed.freed = self.store.collect()?;
        Ok(removed)
    }
}

fn familiar(reference: &str) -> String {
    let parsed = reference.parse::<Reference>();
    parsed.map_or_else(|_| reference.to_owned(), |r| r.familiar())
}
