//! Images from one place to another, byte by byte as they are: the store, a registry, a layout, an archive, a folder.
//!
//! ```text
//!  Source ── manifest ──► index? ── every platform that is wanted ──► blobs ──► manifest ──► Target
//! ```
//! `push`, `save` and `copy` are this walk between different ends. What names comes after what is named, so a target
//! that is cut short holds nothing that points nowhere. Every blob is checked against its digest on its way, by us or by
//! the registry that takes it; none is held in memory.

pub(crate) mod bindings;
pub(crate) mod collection;
pub(crate) mod files;
pub mod place;
pub(crate) mod source;
pub(crate) mod target;
pub mod transfer;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use corten_registry::client::{Client, Descriptor, ParsedManifest, Readable};
use corten_registry::protocol::manifest::{self, Document, Index};
use corten_spec::{Digest, Platform, media};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{ImageError, Progress};
use crate::error::Error;
use source::Source;
use target::{Put, Target};

/// Blobs on their way at once.
const BLOBS_AT_ONCE: usize = 3;
/// Indexes within indexes; real ones have none.
pub(crate) const DEPTH_MAX: u32 = 4;

/// How much of an index is meant.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Everything that it names.
    All,
    /// Everything, if it is there; else what there is for this platform.
    Whole(Platform),
    /// One image for this platform, without the index.
    Platform(Platform),
}

/// An image manifest that was copied.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub manifest: ParsedManifest,
}

/// What a copy has done.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    /// What the source's name stands for at the target.
    pub top: Descriptor,
    pub images: Vec<Image>,
    /// The index was not whole, and only one platform's image was copied.
    pub narrowed: bool,
}

/// One walk from a source to a target.
pub(crate) struct Walk<'a> {
    pub source: &'a Source,
    pub target: &'a Target,
    pub progress: Arc<dyn Progress>,
    /// Digests that are there already, so that shared layers go once.
    pub done: BTreeSet<Digest>,
}

impl Walk<'_> {
    /// Copies what the source's name stands for.
    pub async fn run(&mut self, wanted: &Wanted) -> Result<Copied, Error> {
        let (top, bytes) = self.source.top().await?;
        let mut copied = Copied {
            top: top.clone(),
            images: Vec::new(),
            narrowed: false,
        };
        let index = match parse(&top, &bytes)? {
            Parsed::Index(index) => index,
            Parsed::Manifest(manifest) => {
                self.image(&top, bytes, manifest, true, &mut copied).await?;
                return Ok(copied);
            }
            Parsed::Artifact(artifact) => {
                self.artifact(&top, bytes, artifact, true).await?;
                return Ok(copied);
            }
        };
        let platform = match wanted {
            Wanted::All => None,
            Wanted::Platform(p) => Some(p),
            Wanted::Whole(p) => match self.source.has_all(&index)? {
                true => None,
                false => {
                    copied.narrowed = true;
                    Some(p)
                }
            },
        };
        match platform {
            None => self.index(&top, bytes, index, true, 0, &mut copied).await?,
            Some(p) => {
                copied.top = self.chosen(index, p, &mut copied).await?;
            }
        }
        Ok(copied)
    }

    /// Copies one manifest that is named by its digest, with all below it.
    pub async fn entry(&mut self, descriptor: &Descriptor) -> Result<(), Error> {
        let bytes = self.source.manifest(descriptor).await?;
        let mut copied = Copied {
            top: descriptor.clone(),
            images: Vec::new(),
            narrowed: false,
        };
        match parse(descriptor, &bytes)? {
            Parsed::Index(index) => {
                self.index(descriptor, bytes, index, false, 0, &mut copied)
                    .await
            }
            Parsed::Manifest(m) => self.image(descriptor, bytes, m, false, &mut copied).await,
            Parsed::Artifact(blobs) => self.artifact(descriptor, bytes, blobs, false).await,
        }
    }

    /// The image for one platform, without the index.
    async fn chosen(
        &mut self,
        mut index: Index,
        platform: &Platform,
        copied: &mut Copied,
    ) -> Result<Descriptor, Error> {
        for _ in 0..DEPTH_MAX {
            let entry = index.choose(platform).ok_or_else(|| ImageError::Platform {
                image: self.source.name(),
                wanted: platform.to_string(),
                here: index.platforms(),
            })?;
            let descriptor = entry.descriptor.clone();
            if !self.source.has(&descriptor)? {
                return Err(self.missing(platform, &index).into());
            }
            let bytes = self.source.manifest(&descriptor).await?;
            match parse(&descriptor, &bytes)? {
                Parsed::Index(inner) => index = inner,
                Parsed::Manifest(manifest) => {
                    self.image(&descriptor, bytes, manifest, true, copied)
                        .await?;
                    return Ok(descriptor);
                }
                Parsed::Artifact(_) => break,
            }
        }
        Err(ImageError::Platform {
            image: self.source.name(),
            wanted: platform.to_string(),
            here: Vec::new(),
        }
        .into())
    }

    /// The platforms of the index that are here.
    fn missing(&self, wanted: &Platform, index: &Index) -> ImageError {
        let mut here = index.clone();
        here.entries
            .retain(|e| self.source.has(&e.descriptor).unwrap_or(false));
        ImageError::Platform {
            image: self.source.name(),
            wanted: wanted.to_string(),
            here: here.platforms(),
        }
    }

    async fn index(
        &mut self,
        descriptor: &Descriptor,
        bytes: Bytes,
        index: Index,
        top: bool,
        depth: u32,
        copied: &mut Copied,
    ) -> Result<(), Error> {
        if depth >= DEPTH_MAX {
            return Err(ImageError::Archive {
                archive: self.source.name(),
                why: "its indexes are nested too deeply".into(),
            }
            .into());
        }
        for entry in index.entries {
            let inner = self.source.manifest(&entry.descriptor).await?;
            match parse(&entry.descriptor, &inner)? {
                Parsed::Index(index) => {
                    let walk =
                        self.index(&entry.descriptor, inner, index, false, depth + 1, copied);
                    Box::pin(walk).await?;
                }
                Parsed::Manifest(m) => {
                    self.image(&entry.descriptor, inner, m, false, copied)
                        .await?;
                }
                Parsed::Artifact(a) => {
                    self.artifact(&entry.descriptor, inner, a, false).await?;
                }
            }
        }
        self.target.put_manifest(descriptor, bytes, top).await
    }

    async fn image(
        &mut self,
        descriptor: &Descriptor,
        bytes: Bytes,
        manifest: ParsedManifest,
        top: bool,
        copied: &mut Copied,
    ) -> Result<(), Error> {
        let mut blobs = manifest.layers.clone();
        self.progress.layers(
            &blobs
                .iter()
                .map(|l| (l.digest.clone(), l.size))
                .collect::<Vec<_>>(),
        );
        blobs.push(manifest.config.clone());
        self.blobs(blobs).await?;
        self.target.put_manifest(descriptor, bytes, top).await?;
        copied.images.push(Image { manifest });
        Ok(())
    }

    /// A manifest that is no image: a signature, a bill of materials, whatever travels in this form.
    pub async fn artifact(
        &mut self,
        descriptor: &Descriptor,
        bytes: Bytes,
        blobs: Vec<Descriptor>,
        top: bool,
    ) -> Result<(), Error> {
        self.blobs(blobs).await?;
        self.target.put_manifest(descriptor, bytes, top).await
    }

    async fn blobs(&mut self, mut blobs: Vec<Descriptor>) -> Result<(), Error> {
        blobs.retain(|b| self.done.insert(b.digest.clone()));
        let slots = Arc::new(Semaphore::new(match self.target.takes_several() {
            true => BLOBS_AT_ONCE,
            false => 1,
        }));
        let mut tasks = JoinSet::new();
        for blob in blobs {
            let (source, target) = (self.source.clone(), self.target.clone());
            let (slots, progress) = (slots.clone(), self.progress.clone());
            tasks.spawn(async move {
                // The semaphore is never closed.
                let _slot = slots.acquire_owned().await;
                let from = source.blob(&blob)?;
                let from = Counted {
                    from,
                    digest: blob.digest.clone(),
                    progress: progress.clone(),
                };
                match target.put_blob(&source, &blob, Box::new(from)).await? {
                    Put::Present => progress.present(&blob.digest),
                    Put::Written => progress.done(&blob.digest),
                }
                Ok::<(), Error>(())
            });
        }
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        Ok(())
    }
}

/// Copies what refers to a manifest: what names it as its subject, and what cosign keeps under tags.
pub(crate) async fn copy_referrers(
    client: &Client,
    walk: &mut Walk<'_>,
    subject: &Digest,
) -> Result<usize, Error> {
    let Source::Registry { reference, .. } = walk.source else {
        return Ok(0);
    };
    let reference = reference.clone();
    let failed = |e| Error::registry("read what refers to", &reference, e);
    let mut count = 0;
    for referrer in client
        .referrers(&reference, subject, None)
        .await
        .map_err(failed)?
    {
        let descriptor = Descriptor {
            digest: referrer.digest,
            size: referrer.size,
            media_type: referrer.media_type,
        };
        let bytes = walk.source.manifest(&descriptor).await?;
        let blobs = artifact_blobs(&descriptor, &bytes)?;
        walk.artifact(&descriptor, bytes, blobs, false).await?;
        count += 1;
    }
    for suffix in ["sig", "att", "sbom"] {
        let tag = format!(
            "{}-{}.{suffix}",
            subject.algorithm().as_str(),
            subject.hex()
        );
        let Some(tagged) = reference.with_tag(&tag) else {
            continue;
        };
        let Some(found) = client.head(&tagged).await.map_err(failed)? else {
            continue;
        };
        let raw = client
            .manifest(&tagged, corten_registry::client::ANY)
            .await
            .map_err(failed)?;
        let blobs = artifact_blobs(&found, &raw.bytes)?;
        walk.blobs(blobs).await?;
        walk.target
            .put_tagged(&raw.descriptor, raw.bytes, &tag)
            .await?;
        count += 1;
    }
    Ok(count)
}

/// What a manifest is, as far as copying goes.
enum Parsed {
    Index(Index),
    Manifest(ParsedManifest),
    Artifact(Vec<Descriptor>),
}

fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Parsed, Error> {
    let typed = Some(descriptor.media_type.as_str()).filter(|t| !t.is_empty());
    match manifest::parse(bytes, typed) {
        Ok(Document::Index(index)) => Ok(Parsed::Index(index)),
        Ok(Document::Manifest(m)) => {
            let layer = |d: &Descriptor| media::layer_compression(&d.media_type).is_some();
            match m.layers.iter().all(layer) {
                true => Ok(Parsed::Manifest(m)),
                false => {
                    let mut blobs = m.layers;
                    blobs.push(m.config);
                    Ok(Parsed::Artifact(blobs))
                }
            }
        }
        Err(source) => Err(Error::Manifest {
            digest: descriptor.digest.clone(),
            source,
        }),
    }
}

fn artifact_blobs(descriptor: &Descriptor, bytes: &[u8]) -> Result<Vec<Descriptor>, Error> {
    match parse(descriptor, bytes)? {
        Parsed::Artifact(blobs) => Ok(blobs),
        Parsed::Manifest(m) => Ok(m.layers.into_iter().chain([m.config]).collect()),
        Parsed::Index(_) => Ok(Vec::new()),
    }
}

/// Tells the progress what is read.
struct Counted {
    from: Box<dyn Readable>,
    digest: Digest,
    progress: Arc<dyn Progress>,
}

impl std::io::Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.progress.advanced(&self.digest, n as u64);
        Ok(n)
    }
}

impl std::io::Seek for Counted {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.from.seek(to)
    }
}

/// A runtime for as long as one command transfers.
pub(crate) fn run<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::io("start threads for", "/proc/self/task"))?;
    let done = threads.block_on(work);
    threads.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}
