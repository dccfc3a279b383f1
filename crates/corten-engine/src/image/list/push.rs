//! A list on its way to a registry, with what it names.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use corten_registry::client::{Client, ClientConfig, Descriptor};
use corten_spec::{Digest, Reference};

use super::super::Progress;
use super::super::copy::source::Source;
use super::super::copy::target::{Repository, Target};
use super::super::copy::{self, Walk};
use super::{Entry, List, wrong};
use crate::Engine;
use crate::error::Error;

impl Engine {
    /// Uploads the list, and what it names where the target's repository lacks it; returns the list's digest.
    pub fn push_list(
        &self,
        list: &List,
        to: &Reference,
        client: ClientConfig,
        progress: Arc<dyn Progress>,
    ) -> Result<Digest, Error> {
        if list.entries.is_empty() {
            return Err(wrong(&list.name, "it has no images"));
        }
        let bytes = Bytes::from(list.document().to_string());
        let top = Descriptor {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            media_type: list.media_type().into(),
        };
        let client = Client::new(client);
        let target = Target::Registry(Repository {
            client: client.clone(),
            reference: to.clone(),
            mounts: Arc::new(self.mounts(to)?),
        });
        copy::run(async {
            for entry in &list.entries {
                let source = self.source_of(list, entry, &client)?;
                let mut walk = Walk {
                    source: &source,
                    target: &target,
                    progress: progress.clone(),
                    done: BTreeSet::new(),
                };
                let descriptor = Descriptor {
                    digest: entry.digest.clone(),
                    size: entry.size,
                    media_type: entry.media_type.clone(),
                };
                walk.entry(&descriptor).await?;
            }
            target.put_manifest(&top, bytes, true).await?;
            Ok(top.digest.clone())
        })
    }

    fn source_of(&self, list: &List, entry: &Entry, client: &Client) -> Result<Source, Error> {
        match &entry.origin {
            Some(origin) => Ok(Source::Registry {
                client: client.clone(),
                reference: origin.parse::<Reference>()?,
            }),
            None => {
                let mut images = self.store.images()?.into_iter();
                let gone = || {
                    wrong(
                        &list.name,
                        &format!("its image {} is here no more", entry.digest),
                    )
                };
                let record = images
                    .find(|i| i.manifest == entry.digest)
                    .ok_or_else(gone)?;
                Ok(Source::Store {
                    store: self.store.clone(),
                    record: Box::new(record),
                })
            }
        }
    }
}
