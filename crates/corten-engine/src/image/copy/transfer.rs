//! `copy`: from place to place, through the store only where the place is the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_registry::client::{Client, ClientConfig};
use corten_registry::protocol::manifest::{self, Document};
use corten_spec::{Digest, Platform, Reference};

use super::super::beside::Beside;
use super::super::{ImageError, Progress};
use super::bindings::{Bindings, Layout};
use super::collection::Collection;
use super::files::Files;
use super::place::Place;
use super::source::Source;
use super::target::{Repository, Shelf, Target};
use super::{Copied, Walk, Wanted, copy_referrers};
use crate::Engine;
use crate::error::Error;
use crate::image::load::platform_of;

/// How to copy.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    pub client: ClientConfig,
    pub wanted: Wanted,
    /// Signatures and whatever else refers to the image, too.
    pub referrers: bool,
    /// An image whose digest would be another at the target is refused.
    pub preserve_digests: bool,
}

/// What was copied.
#[derive(Clone, Debug)]
pub struct Transferred {
    /// Of what the source's name stands for at the target.
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    /// Only one platform of an index was copied, as not all was there.
    pub narrowed: bool,
    pub referrers: usize,
}

impl Engine {
    /// Copies an image between two places. What the policy refuses is not copied.
    pub fn copy(
        &self,
        from: &Place,
        to: &Place,
        options: &CopyOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Transferred, Error> {
        super::run(self.transfer(from, to, options, progress))
    }

    pub(crate) async fn transfer(
        &self,
        from: &Place,
        to: &Place,
        options: &CopyOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Transferred, Error> {
        if let Place::Store(_) = to {
            return Err(ImageError::Place {
                text: to.to_string(),
                why: "into the store goes 'corten pull' or 'corten load'".into(),
            }
            .into());
        }
        if let Place::Registry(reference) = from {
            self.refuse_rejected(reference)?;
        }
        let client = Client::new(options.client.clone());
        let source = self.source(from, &client)?;
        let wanted = self.wanted(&source, options)?;
        let (top, bytes) = source.top().await?;
        self.admit_source(&source, &top.digest, &bytes, &wanted, &client)
            .await?;
        let source = source.pinned(&top.digest);
        let end = self.target(from, to, &client)?;
        let mut walk = Walk {
            source: &source,
            target: &end.target,
            progress,
            done: BTreeSet::new(),
        };
        let copied = walk.run(&wanted).await?;
        if options.preserve_digests && copied.top.digest != top.digest {
            return Err(ImageError::Place {
                text: from.to_string(),
                why: format!(
                    "{} is an index, and of it one image alone would be copied",
                    top.digest
                ),
            }
            .into());
        }
        let mut referrers = 0;
        if options.referrers {
            referrers = copy_referrers(&client, &mut walk, &copied.top.digest).await?;
        }
        let transferred = Transferred {
            digest: copied.top.digest.clone(),
            size: copied.top.size,
            media_type: copied.top.media_type.clone(),
            narrowed: copied.narrowed,
            referrers,
        };
        end.finish(&copied)?;
        Ok(transferred)
    }

    /// Of an image that is here, what is here of its index, whatever this host is.
    fn wanted(&self, source: &Source, options: &CopyOptions) -> Result<Wanted, Error> {
        match (source, &options.wanted) {
            (Source::Store { record, .. }, Wanted::Whole(_)) => {
                Ok(Wanted::Whole(platform_of(&self.config_of_image(record)?)))
            }
            (_, other) => Ok(other.clone()),
        }
    }

    /// What the policy says of it, before any layer moves.
    async fn admit_source(
        &self,
        source: &Source,
        top: &Digest,
        bytes: &[u8],
        wanted: &Wanted,
        client: &Client,
    ) -> Result<(), Error> {
        match source {
            Source::Registry { reference, .. } => {
                let chosen = chosen(bytes, wanted);
                let digests: Vec<&Digest> =
                    [Some(top), chosen.as_ref()].into_iter().flatten().collect();
                self.admit(client, reference, &digests).await.map(|_| ())
            }
            Source::Collection { .. } => self.admit_archive(&source.name()),
            // It was admitted when it came.
            Source::Store { .. } => Ok(()),
        }
    }

    fn source(&self, from: &Place, client: &Client) -> Result<Source, Error> {
        let (path, name) = match from {
            Place::Registry(reference) => {
                return Ok(Source::Registry {
                    client: client.clone(),
                    reference: reference.clone(),
                });
            }
            Place::Store(name) => {
                return Ok(Source::Store {
                    store: self.store.clone(),
                    record: Box::new(self.image(name)?),
                });
            }
            Place::Folder(path) => (path, None),
            Place::Layout { folder, tag } => (folder, tag.as_deref()),
            Place::LayoutArchive { file, tag } => (file, tag.as_deref()),
            Place::DockerArchive { file, name } => (file, name.as_deref()),
        };
        let collection = Collection::read(Files::open(path, self.paths.root())?)?;
        let number = collection.find(name)?;
        Ok(Source::Collection {
            collection: Arc::new(collection),
            number,
        })
    }

    /// Other repositories of the registry that are known to have certain blobs: of images that were pulled from there.
    pub(crate) fn mounts(&self, to: &Reference) -> Result<BTreeMap<Digest, String>, Error> {
        let mut known = BTreeMap::new();
        for image in self.store.images()? {
            let Ok(reference) = image.reference.parse::<Reference>() else {
                continue;
            };
            let elsewhere = reference.repository() != to.repository();
            if elsewhere && reference.registry() == to.registry() {
                let digests = image
                    .layers
                    .iter()
                    .map(|l| &l.digest)
                    .chain([&image.config]);
                for digest in digests {
                    known.insert(digest.clone(), reference.repository().to_owned());
                }
            }
        }
        Ok(known)
    }

    fn target(&self, from: &Place, to: &Place, client: &Client) -> Result<End, Error> {
        let mounts = |to: &Reference| match from {
            Place::Store(_) => self.mounts(to),
            _ => Ok(BTreeMap::new()),
        };
        match to {
            Place::Registry(reference) => Ok(End {
                target: Target::Registry(Repository {
                    client: client.clone(),
                    reference: reference.clone(),
                    mounts: Arc::new(mounts(reference)?),
                }),
                files: None,
            }),
            Place::Layout { folder, tag } => End::folder(folder, Layout::Oci, tag.as_ref()),
            Place::Folder(folder) => End::folder(folder, Layout::Flat, None),
            Place::LayoutArchive { file, tag } => End::archive(file, Layout::Oci, tag.as_ref()),
            Place::DockerArchive { file, name } => {
                End::archive(file, Layout::Docker, name.as_ref())
            }
            Place::Store(_) => Err(ImageError::Place {
                text: to.to_string(),
                why: "nothing is copied there".into(),
            }
            .into()),
        }
    }
}

/// A target with what is to be done at its end.
struct End {
    target: Target,
    files: Option<Ending>,
}

struct Ending {
    shelf: Arc<Shelf>,
    layout: Layout,
    names: Vec<String>,
    /// A layout's folder, whose index may be there already.
    folder: Option<PathBuf>,
    /// An archive's file, which gets its name at the end.
    file: Option<Beside>,
}

impl End {
    fn folder(folder: &Path, layout: Layout, name: Option<&String>) -> Result<Self, Error> {
        let shelf = Arc::new(Shelf::folder(folder, layout.form())?);
        Ok(Self {
            target: Target::Files(shelf.clone()),
            files: Some(Ending {
                shelf,
                layout,
                names: name.into_iter().cloned().collect(),
                folder: Some(folder.to_owned()),
                file: None,
            }),
        })
    }

    fn archive(file: &Path, layout: Layout, name: Option<&String>) -> Result<Self, Error> {
        let beside = Beside::create(file)?;
        let out = beside.file.try_clone().map_err(Error::io("open", file))?;
        let out = std::io::BufWriter::with_capacity(256 << 10, out);
        let shelf = Arc::new(Shelf::archive(Box::new(out)));
        Ok(Self {
            target: Target::Files(shelf.clone()),
            files: Some(Ending {
                shelf,
                layout,
                names: name.into_iter().cloned().collect(),
                folder: None,
                file: Some(beside),
            }),
        })
    }

    fn finish(self, copied: &Copied) -> Result<(), Error> {
        let Some(ending) = self.files else {
            return Ok(());
        };
        let mut bindings = Bindings::new(ending.layout);
        bindings.add(&ending.names, copied);
        let existing = ending.folder.as_deref().map(existing_index).transpose()?;
        bindings.write(&ending.shelf, existing.flatten())?;
        ending.shelf.finish()?;
        match ending.file {
            Some(beside) => beside.publish(),
            None => Ok(()),
        }
    }
}

/// The image that will be copied of an index, if it is one alone.
fn chosen(top: &[u8], wanted: &Wanted) -> Option<Digest> {
    let Wanted::Platform(platform) = wanted else {
        return None;
    };
    match manifest::parse(top, None) {
        Ok(Document::Index(index)) => Some(index.choose(platform)?.descriptor.digest.clone()),
        _ => None,
    }
}

pub(crate) fn existing_index(folder: &Path) -> Result<Option<Vec<u8>>, Error> {
    let path = folder.join("index.json");
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Whole(Platform::host())
    }
}
