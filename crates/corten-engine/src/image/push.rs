//! Push: what is here goes up as it came down, byte for byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use corten_registry::client::{Client, ClientConfig};
use corten_spec::{Digest, Platform, Reference};
use corten_store::{ImageRecord, Lease};

use super::Progress;
use super::copy::source::Source;
use super::copy::target::{Repository, Target};
use super::copy::{self, Walk, Wanted};
use super::load::platform_of;
use crate::Engine;
use crate::error::Error;

/// What to push, and how.
#[derive(Clone, Debug)]
pub struct PushOptions {
    pub client: ClientConfig,
    /// One platform of an index, instead of all that is here.
    pub platform: Option<Platform>,
}

/// What was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub reference: Reference,
    pub digest: Digest,
    /// Of the manifest or index, in bytes.
    pub size: u64,
    /// The image's index names more than is here; this is one platform's image alone.
    pub narrowed: bool,
}

impl Engine {
    /// Uploads the image that `name` means, to where the name says.
    pub fn push(
        &self,
        name: &str,
        options: &PushOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed, Error> {
        let record = self.image(name)?;
        // An id names no place to push to; the reference itself does.
        let reference: Reference = name.parse()?;
        // What is pushed must not be collected meanwhile.
        let lease = self.store.lease("push")?;
        hold(&lease, &record)?;
        let wanted = match &options.platform {
            Some(p) => Wanted::Platform(p.clone()),
            None => Wanted::Whole(platform_of(&self.config_of_image(&record)?)),
        };
        let source = Source::Store {
            store: self.store.clone(),
            record: Box::new(record),
        };
        let target = Target::Registry(Repository {
            client: Client::new(options.client.clone()),
            reference: reference.clone(),
            mounts: Arc::new(self.mounts(&reference)?),
        });
        let mut walk = Walk {
            source: &source,
            target: &target,
            progress,
            done: BTreeSet::new(),
        };
        let copied = copy::run(walk.run(&wanted))?;
        Ok(Pushed {
            reference,
            digest: copied.top.digest,
            size: copied.top.size,
            narrowed: copied.narrowed,
        })
    }

    /// The tagged names here of one repository, for pushing all of them.
    pub fn tags_of(&self, repository: &str) -> Result<Vec<String>, Error> {
        let wanted: Reference = repository.parse()?;
        let mut found = Vec::new();
        for image in self.store.images()? {
            let Ok(reference) = image.reference.parse::<Reference>() else {
                continue;
            };
            let same = reference.registry() == wanted.registry()
                && reference.repository() == wanted.repository();
            if same && reference.tag().is_some() {
                found.push(reference.to_string());
            }
        }
        match found.is_empty() {
            true => Err(Error::ImageMissing {
                name: repository.into(),
            }),
            false => Ok(found),
        }
    }
}

/// Keeps all of an image's blobs, whatever becomes of its names meanwhile.
pub(super) fn hold(lease: &Lease, record: &ImageRecord) -> Result<(), Error> {
    let documents = [&record.target.digest, &record.manifest, &record.config];
    for digest in documents
        .into_iter()
        .chain(record.layers.iter().map(|l| &l.digest))
    {
        lease.hold_blob(digest)?;
    }
    Ok(())
}
