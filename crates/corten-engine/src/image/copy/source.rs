//! Where a copy comes from.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use corten_registry::client::{ANY, Client, Descriptor, Readable};
use corten_registry::protocol::MANIFEST_MAX;
use corten_registry::protocol::manifest::{self, Document, Index, ParsedManifest};
use corten_spec::{Digest, Reference};
use corten_store::{ImageRecord, Store};

use super::collection::Collection;
use crate::error::Error;

/// One image or index somewhere.
#[derive(Clone)]
pub(crate) enum Source {
    Store {
        store: Store,
        record: Box<ImageRecord>,
    },
    Registry {
        client: Client,
        reference: Reference,
    },
    /// The image with this number of a folder or archive.
    Collection {
        collection: Arc<Collection>,
        number: usize,
    },
}

impl Source {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::Store { record, .. } => familiar(&record.reference),
            Self::Registry { reference, .. } => reference.familiar(),
            Self::Collection { collection, .. } => collection.label(),
        }
    }

    /// What the name stands for.
    pub async fn top(&self) -> Result<(Descriptor, Bytes), Error> {
        match self {
            Self::Store { store, record } => {
                let target = &record.target;
                let descriptor = Descriptor {
                    digest: target.digest.clone(),
                    size: target.size,
                    media_type: target.media_type.clone(),
                };
                let bytes = store.read_blob(&target.digest, MANIFEST_MAX as u64)?;
                Ok((descriptor, bytes.into()))
            }
            Self::Registry { client, reference } => {
                let failed = |e| Error::registry("read", reference, e);
                let raw = client.manifest(reference, ANY).await.map_err(failed)?;
                Ok((raw.descriptor, raw.bytes))
            }
            Self::Collection { collection, number } => {
                let descriptor = collection.images[*number].top.clone();
                let bytes = collection.manifest(&descriptor)?;
                Ok((descriptor, bytes))
            }
        }
    }

    /// A manifest that another one names; checked against its digest.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        match self {
            Self::Store { store, .. } => {
                let bytes = store.read_blob(&descriptor.digest, MANIFEST_MAX as u64)?;
                Ok(bytes.into())
            }
            Self::Registry { client, reference } => {
                let reference = reference.with_digest(descriptor.digest.clone());
                let failed = |e| Error::registry("read", &reference, e);
                let raw = client.manifest(&reference, ANY).await;
                Ok(raw.map_err(failed)?.bytes)
            }
            Self::Collection { collection, .. } => collection.manifest(descriptor),
        }
    }

    /// Is everything here that the index names, with all that those name?
    pub fn has_all(&self, index: &Index) -> Result<bool, Error> {
        for entry in &index.entries {
            if !self.has(&entry.descriptor)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Is the manifest here, and what it names? Registries have whole indexes.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        match self {
            Self::Registry { .. } => Ok(true),
            Self::Store { store, .. } => store_has(store, descriptor),
            Self::Collection { collection, .. } => collection.has(&descriptor.digest),
        }
    }

    /// The same image, by digest: a registry's tag may move between two requests.
    pub fn pinned(self, digest: &Digest) -> Self {
        match self {
            Self::Registry { client, reference } => Self::Registry {
                client,
                reference: reference.with_digest(digest.clone()),
            },
            other => other,
        }
    }

    /// A blob to read from; called on the runtime, and read off it.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Readable>, Error> {
        match self {
            Self::Store { store, .. } => {
                let path = store.blob_path(&descriptor.digest);
                match File::open(&path) {
                    Ok(file) => Ok(Box::new(file)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        Err(corten_store::Error::NotFound {
                            what: "blob",
                            name: descriptor.digest.to_string(),
                        }
                        .into())
                    }
                    Err(e) => Err(Error::io("open", path)(e)),
                }
            }
            Self::Registry { client, reference } => {
                Ok(Box::new(client.open_blob(reference, descriptor)))
            }
            Self::Collection { collection, .. } => {
                Ok(Box::new(collection.blob(&descriptor.digest)?))
            }
        }
    }

    /// The repository on a registry that a blob comes from.
    pub fn origin(&self) -> Option<&Reference> {
        match self {
            Self::Registry { reference, .. } => Some(reference),
            _ => None,
        }
    }
}

/// A manifest with its config and layers; of others, the manifest alone is looked for.
fn store_has(store: &Store, descriptor: &Descriptor) -> Result<bool, Error> {
    if !store.has_blob(&descriptor.digest)? {
        return Ok(false);
    }
    let bytes = store.read_blob(&descriptor.digest, MANIFEST_MAX as u64)?;
    let needed: Vec<Digest> = match manifest::parse(&bytes, None) {
        Ok(Document::Manifest(ParsedManifest { config, layers, .. })) => layers
            .into_iter()
            .chain([config])
            .map(|d| d.digest)
            .collect(),
        _ => Vec::new(),
    };
    for digest in needed {
        if !store.has_blob(&digest)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn familiar(reference: &str) -> String {
    let parsed = reference.parse::<Reference>();
    parsed.map_or_else(|_| reference.to_owned(), |r| r.familiar())
}
