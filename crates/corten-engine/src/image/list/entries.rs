//! What goes into a list: images of the store, and of registries, as far as the policy lets them.

use std::collections::BTreeMap;

use corten_registry::client::{ANY, Client, ClientConfig};
use corten_registry::protocol::manifest::{self, Document};
use corten_spec::{Digest, Platform, Reference};

use super::super::load::platform_of;
use super::super::{ImageError, MAX_CONFIG, copy};
use super::{ENTRIES_MAX, Entry, EntryPlatform, List, wrong};
use crate::Engine;
use crate::error::Error;

impl Engine {
    /// Adds an image of the store or, if it is not there, of its registry. Of an index, all images or the one for the host.
    pub fn add_to_list(
        &self,
        list: &mut List,
        image: &str,
        all: bool,
        client: ClientConfig,
    ) -> Result<Vec<Digest>, Error> {
        let found = match self.image(image) {
            Ok(record) => vec![self.local_entry(&record)?],
            Err(Error::ImageMissing { .. }) => {
                let reference: Reference = image.parse()?;
                copy::run(self.admitted_entries(&Client::new(client), &reference, all))?
            }
            Err(e) => return Err(e),
        };
        let digests = found.iter().map(|e| e.digest.clone()).collect();
        for entry in found {
            list.entries.retain(|e| e.digest != entry.digest);
            list.entries.push(entry);
        }
        if list.entries.len() > ENTRIES_MAX {
            return Err(wrong(&list.name, "it has too many images"));
        }
        self.keep(list)?;
        Ok(digests)
    }

    /// What the policy lets in of an image of a registry: pushing the list will copy it.
    async fn admitted_entries(
        &self,
        client: &Client,
        reference: &Reference,
        all: bool,
    ) -> Result<Vec<Entry>, Error> {
        self.refuse_rejected(reference)?;
        let (top, entries) = remote_entries(client, reference, all).await?;
        for entry in &entries {
            // A signature on one image of an index says nothing of the others.
            let digests = [&top, &entry.digest];
            self.admit(client, reference, &digests).await?;
        }
        Ok(entries)
    }

    fn local_entry(&self, record: &corten_store::ImageRecord) -> Result<Entry, Error> {
        let bytes = self.image_manifest_bytes(record)?;
        let config = self.config_of_image(record)?;
        let media_type = manifest::type_of(&bytes, None).map_err(|source| Error::Manifest {
            digest: record.manifest.clone(),
            source,
        })?;
        Ok(Entry {
            digest: record.manifest.clone(),
            size: bytes.len() as u64,
            media_type,
            platform: platform(&platform_of(&config)),
            annotations: BTreeMap::new(),
            origin: None,
        })
    }
}

async fn remote_entries(
    client: &Client,
    image: &Reference,
    all: bool,
) -> Result<(Digest, Vec<Entry>), Error> {
    let failed = |e| Error::registry("read", image, e);
    let raw = client.manifest(image, ANY).await.map_err(failed)?;
    let parsed = |bytes: &[u8], digest: &Digest| {
        manifest::parse(bytes, None).map_err(|source| Error::Manifest {
            digest: digest.clone(),
            source,
        })
    };
    let index = match parsed(&raw.bytes, &raw.descriptor.digest)? {
        Document::Manifest(m) => {
            let config = client.blob_bytes(image, &m.config, MAX_CONFIG).await;
            let config = super::super::listing::parse(
                &image.familiar(),
                "config",
                &config.map_err(failed)?,
            )?;
            let digest = raw.descriptor.digest;
            let entries = vec![Entry {
                digest: digest.clone(),
                size: raw.descriptor.size,
                media_type: raw.descriptor.media_type,
                platform: platform(&platform_of(&config)),
                annotations: BTreeMap::new(),
                origin: Some(image.to_string()),
            }];
            return Ok((digest, entries));
        }
        Document::Index(index) => index,
    };
    let host = Platform::host();
    let chosen: Vec<_> = match all {
        true => index.entries.iter().collect(),
        false => index.choose(&host).into_iter().collect(),
    };
    if chosen.is_empty() {
        return Err(ImageError::Platform {
            image: image.familiar(),
            wanted: host.to_string(),
            here: index.platforms(),
        }
        .into());
    }
    let entry = |e: &corten_registry::protocol::manifest::IndexEntry| Entry {
        digest: e.descriptor.digest.clone(),
        size: e.descriptor.size,
        media_type: e.descriptor.media_type.clone(),
        platform: e
            .platform
            .as_ref()
            .map_or_else(EntryPlatform::default, |p| EntryPlatform {
                os: p.os().to_string(),
                architecture: p.architecture().to_string(),
                variant: p.variant().clone().unwrap_or_default(),
                os_version: p.os_version().clone().unwrap_or_default(),
                os_features: p.os_features().clone().unwrap_or_default(),
            }),
        annotations: BTreeMap::new(),
        origin: Some(image.to_string()),
    };
    let entries = chosen.into_iter().map(entry).collect();
    Ok((raw.descriptor.digest, entries))
}

fn platform(p: &Platform) -> EntryPlatform {
    EntryPlatform {
        os: p.os.clone(),
        architecture: p.architecture.clone(),
        variant: p.variant.clone().unwrap_or_default(),
        ..EntryPlatform::default()
    }
}
