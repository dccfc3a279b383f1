//! Another name for an image.

use corten_spec::{Digest, Reference};
use corten_store::ImageRecord;

use super::listing::is_nameless;
use crate::Engine;
use crate::error::Error;
use crate::image::ImageError;

impl Engine {
    /// Points `new` at what `old` (a name or id) means now. An image that loses its only name to this stays, without a tag.
    pub fn tag_image(&self, old: &str, new: &str) -> Result<ImageRecord, Error> {
        let reference: Reference = new.parse()?;
        if reference.digest().is_some() {
            return Err(ImageError::TagWithDigest { name: new.into() }.into());
        }
        // Held, or another process might remove the old name, and all with it, in between.
        let _lease = self.store.lease("tag")?;
        let record = self.image(old)?;
        let named = ImageRecord {
            reference: reference.to_string(),
            ..record
        };
        let id = named.config.clone();
        self.store.put_image(named)?;
        self.forget_nameless(&id)?;
        Ok(self.store.image(&reference.to_string())?)
    }

    /// An image that has got a name is no longer without one.
    pub(super) fn forget_nameless(&self, id: &Digest) -> Result<(), Error> {
        for image in self.store.images()? {
            if image.config == *id && is_nameless(&image.reference) {
                self.store.remove_image(&image.reference)?;
            }
        }
        Ok(())
    }
}
