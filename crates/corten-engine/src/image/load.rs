//! Load: the images of an archive or folder go into the store, each layer checked and unpacked as in a pull.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use corten_registry::client::{Descriptor, ParsedManifest};
use corten_registry::protocol::manifest::{self, Document};
use corten_spec::{Digest, Platform, Reference, media};
use corten_store::{Begin, ImageRecord, LayerDesc, LayerRef, Lease, Target};
use serde_json::Value;

use super::copy::collection::{Collection, Found};
use super::copy::files::{Files, Section};
use super::listing::NAMELESS;
use super::{ImageError, MAX_CONFIG, Progress};
use crate::error::Error;
use crate::{Engine, clock};

/// Where an archive comes from.
pub enum Input<'a> {
    Path(&'a Path),
    Stream(&'a mut dyn Read),
}

/// An image that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Whole references; none where the archive names none.
    pub names: Vec<String>,
    pub id: Digest,
}

/// What of an index was chosen.
struct Chosen {
    descriptor: Descriptor,
    bytes: Bytes,
    manifest: ParsedManifest,
}

impl Engine {
    /// Enters all images of an archive: docker's, an OCI layout's, plain or packed, or a folder's. Of an index, the image
    /// for `platform`.
    pub fn load(
        &self,
        input: Input<'_>,
        platform: &Platform,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Loaded>, Error> {
        let files = match input {
            Input::Path(path) => Files::open(path, self.paths.root())?,
            Input::Stream(stream) => {
                Files::from_stream(stream, "standard input", self.paths.root())?
            }
        };
        self.admit_archive(&files.label())?;
        let collection = Collection::read(files)?;
        let mut loaded = Vec::new();
        for found in &collection.images {
            loaded.push(self.load_one(&collection, found, platform, progress.as_ref())?);
        }
        Ok(loaded)
    }

    fn load_one(
        &self,
        collection: &Collection,
        found: &Found,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Loaded, Error> {
        let names = names(&found.names);
        let lease = self.store.lease("load")?;
        let top = collection.manifest(&found.top)?;
        let chosen = choose(collection, found, &top, platform)?;
        let config_digest = chosen.manifest.config.digest.clone();
        let config = collection.document(&config_digest, MAX_CONFIG)?;
        let broken = |reason| Error::ImageBroken {
            image: collection.label(),
            reason,
        };
        let parsed: Value = super::listing::parse(&collection.label(), "config", &config)?;
        let diff_ids = diff_ids(&parsed).ok_or_else(|| broken("its config lists no layers"))?;
        if diff_ids.len() != chosen.manifest.layers.len() {
            return Err(broken(
                "its manifest and its config differ in the number of layers",
            ));
        }
        self.store.put_blob(&lease, &found.top.digest, &top)?;
        self.store
            .put_blob(&lease, &chosen.descriptor.digest, &chosen.bytes)?;
        self.store.put_blob(&lease, &config_digest, &config)?;
        let layers = chosen.manifest.layers.iter().zip(diff_ids);
        progress.layers(&sizes(&chosen.manifest));
        let layers = layers
            .map(|(d, diff_id)| self.load_layer(collection, &lease, d, diff_id, progress))
            .collect::<Result<Vec<_>, Error>>()
            .map_err(|source| Error::Archive {
                archive: collection.label(),
                source: Box::new(source),
            })?;
        let record = ImageRecord {
            reference: String::new(),
            target: Target {
                digest: found.top.digest.clone(),
                size: top.len() as u64,
                media_type: match found.top.media_type.as_str() {
                    "" => chosen.manifest.media_type.clone(),
                    named => named.to_owned(),
                },
            },
            manifest: chosen.descriptor.digest,
            config: config_digest.clone(),
            size: layers.iter().map(|l| l.size).sum(),
            layers,
            pulled_at: clock::now().0,
        };
        self.name_image(record, &names)?;
        Ok(Loaded {
            names,
            id: config_digest,
        })
    }

    /// Gives an image its names; one without any gets the digest of its manifest.
    pub(crate) fn name_image(&self, record: ImageRecord, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            let images = self.store.images()?;
            if images.iter().any(|i| i.config == record.config) {
                return Ok(());
            }
            let reference = format!("{NAMELESS}@{}", record.manifest);
            let nameless = ImageRecord {
                reference,
                ..record
            };
            return Ok(self.store.put_image(nameless)?);
        }
        for name in names {
            self.store.put_image(ImageRecord {
                reference: name.clone(),
                ..record.clone()
            })?;
        }
        self.forget_nameless(&record.config)
    }

    fn load_layer(
        &self,
        collection: &Collection,
        lease: &Lease,
        descriptor: &Descriptor,
        diff_id: Digest,
        progress: &dyn Progress,
    ) -> Result<LayerRef, Error> {
        let desc = LayerDesc {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: descriptor.media_type.clone(),
            diff_id: diff_id.clone(),
        };
        let layer = match self.store.begin_layer(lease, &desc)? {
            Begin::Present(layer) => {
                progress.present(&descriptor.digest);
                layer
            }
            Begin::Ingest(ingest) => {
                let mut section = collection.blob(&descriptor.digest)?;
                if section.size() != descriptor.size {
                    return Err(ImageError::Archive {
                        archive: collection.label(),
                        why: format!(
                            "it has {} bytes of {}, not {}",
                            section.size(),
                            descriptor.digest,
                            descriptor.size
                        ),
                    }
                    .into());
                }
                let offset = ingest.offset();
                std::io::Seek::seek(&mut section, std::io::SeekFrom::Start(offset))
                    .map_err(Error::io("read", collection.label()))?;
                progress.advanced(&descriptor.digest, offset);
                let told = Told {
                    section,
                    digest: &descriptor.digest,
                    progress,
                };
                let layer = ingest.run(told)?;
                progress.done(&descriptor.digest);
                layer
            }
        };
        Ok(LayerRef {
            digest: desc.digest,
            size: desc.size,
            diff_id,
            layer,
        })
    }
}

/// A layer's bytes, of which the progress is told.
struct Told<'a> {
    section: Section,
    digest: &'a Digest,
    progress: &'a dyn Progress,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.section.read(buffer)?;
        self.progress.advanced(self.digest, n as u64);
        Ok(n)
    }
}

fn choose(
    collection: &Collection,
    found: &Found,
    top: &Bytes,
    platform: &Platform,
) -> Result<Chosen, Error> {
    let mut descriptor = found.top.clone();
    let mut bytes = top.clone();
    for _ in 0..super::copy::DEPTH_MAX {
        let typed = Some(descriptor.media_type.as_str()).filter(|t| !t.is_empty());
        let document = manifest::parse(&bytes, typed).map_err(|source| Error::Manifest {
            digest: descriptor.digest.clone(),
            source,
        })?;
        match document {
            Document::Manifest(manifest) => {
                let odd = |d: &&Descriptor| media::layer_compression(&d.media_type).is_none();
                if let Some(odd) = manifest.layers.iter().find(odd) {
                    return Err(Error::LayerType {
                        image: collection.label(),
                        media_type: odd.media_type.clone(),
                    });
                }
                return Ok(Chosen {
                    descriptor,
                    bytes,
                    manifest,
                });
            }
            Document::Index(index) => {
                let missing = || ImageError::Platform {
                    image: collection.label(),
                    wanted: platform.to_string(),
                    here: index.platforms(),
                };
                let entry = index.choose(platform).ok_or_else(missing)?;
                descriptor = entry.descriptor.clone();
                bytes = collection.manifest(&descriptor)?;
            }
        }
    }
    Err(ImageError::Archive {
        archive: collection.label(),
        why: "its indexes are nested too deeply".into(),
    }
    .into())
}

/// The names that are names; a tag alone, as OCI's annotation may have it, is none.
fn names(found: &[String]) -> Vec<String> {
    let whole = found.iter().filter(|n| n.contains([':', '/']));
    let parsed = whole.filter_map(|n| n.parse::<Reference>().ok());
    let mut names: Vec<String> = parsed.map(|r| r.to_string()).collect();
    names.dedup();
    names
}

pub(super) fn diff_ids(config: &Value) -> Option<Vec<Digest>> {
    let list = config["rootfs"]["diff_ids"].as_array()?;
    list.iter().map(|d| d.as_str()?.parse().ok()).collect()
}

/// What a config says that it is for.
pub(crate) fn platform_of(config: &Value) -> Platform {
    let text = |key: &str| {
        config[key]
            .as_str()
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
    };
    let host = Platform::host();
    Platform {
        os: text("os").unwrap_or(host.os),
        architecture: text("architecture").unwrap_or(host.architecture),
        variant: text("variant"),
    }
}

fn sizes(manifest: &ParsedManifest) -> Vec<(Digest, u64)> {
    let layers = manifest.layers.iter();
    layers.map(|l| (l.digest.clone(), l.size)).collect()
}
