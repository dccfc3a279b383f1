//! Another name for an image.

use corten_spec::Reference;
use corten_store::ImageRecord;

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
        self.store.put_image(named)?;
        Ok(self.store.image(&reference.to_string())?)
    }
}
