//! Removing a name, and what only that name kept.

use corten_spec::Reference;

use crate::Engine;
use crate::error::Error;

/// What `rmi` did.
#[derive(Clone, Debug)]
pub struct Removed {
    pub reference: String,
    /// Bytes that the removal freed on disk.
    pub freed: u64,
}

impl Engine {
    /// Takes the reference away; blobs and layers go with their last user. An image that a
    /// container was made from stays, unless `force`: then the name goes and the layers stay until
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
        }
        let id = name.strip_prefix("sha256:").unwrap_or(name);
        let by_id = record.config.hex().starts_with(id)
            && (name.parse::<Reference>()).map_or(true, |r| r.to_string() != record.reference);
        match by_id {
            false => {
                self.store.remove_image(&record.reference)?;
            }
            true if names.len() > 1 && !force => {
                return Err(Error::ImageNames {
                    name: name.into(),
                    names: names.into_iter().map(|i| i.reference).collect(),
                });
            }
            true => {
                for image in &names {
                    self.store.remove_image(&image.reference)?;
                }
            }
        }
        let freed = self.store.collect()?;
        Ok(Removed {
            reference: record.reference,
            freed,
        })
    }
}
