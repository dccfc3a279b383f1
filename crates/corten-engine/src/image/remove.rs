//! Removing a name, and what only that name kept.

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
    /// the container does.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Removed, Error> {
        let record = self.image(name)?;
        if !force {
            let same_config = self
                .store
                .images()?
                .iter()
                .filter(|i| i.config == record.config)
                .count();
            let users = self.containers()?;
            let user = users
                .iter()
                .find(|c| c.record.image_config == record.config);
            if let (1, Some(user)) = (same_config, user) {
                return Err(Error::ImageInUse {
                    name: name.into(),
                    container: user.name.to_string(),
                });
            }
        }
        self.store.remove_image(&record.reference)?;
        let freed = self.store.collect()?;
        Ok(Removed {
            reference: record.reference,
            freed,
        })
    }
}
