//! Manifest lists under construction: kept in the state folder until they are pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use corten_registry::client::{ANY, Client, ClientConfig, Descriptor};
use corten_registry::protocol::manifest::{self, Document};
use corten_spec::{Digest, Platform, Reference, media};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::beside::Beside;
use super::copy::source::Source;
use super::copy::target::{Repository, Target};
use super::copy::{self, Walk};
use super::load::platform_of;
use super::{ImageError, MAX_CONFIG, Progress};
use crate::Engine;
use crate::error::Error;

/// Entries of one list; indexes have no more anywhere here.
const ENTRIES_MAX: usize = 4096;
const FILE_MAX: u64 = 8 << 20;

/// A list as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    pub name: String,
    /// Docker's manifest list instead of OCI's index.
    pub docker: bool,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub entries: Vec<Entry>,
}

/// One image of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    pub platform: EntryPlatform,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where it is: a repository, or this store where there is none.
    pub origin: Option<String>,
}

/// What an entry is for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EntryPlatform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// What `annotate` changes; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Annotate {
    pub os: Option<String>,
    pub architecture: Option<String>,
    pub variant: Option<String>,
    pub os_version: Option<String>,
    pub os_features: Vec<String>,
    pub annotations: BTreeMap<String, String>,
}

impl List {
    /// The index as it is pushed.
    pub fn document(&self) -> Value {
        let entry = |e: &Entry| {
            let mut entry = json!({
                "mediaType": e.media_type, "digest": e.digest, "size": e.size, "platform": e.platform,
            });
            if !e.annotations.is_empty() {
                entry["annotations"] = json!(e.annotations);
            }
            entry
        };
        let mut document = json!({
            "schemaVersion": 2,
            "mediaType": self.media_type(),
            "manifests": self.entries.iter().map(entry).collect::<Vec<_>>(),
        });
        if !self.annotations.is_empty() {
            document["annotations"] = json!(self.annotations);
        }
        document
    }

    fn media_type(&self) -> &'static str {
        match self.docker {
            true => media::DOCKER_LIST,
            false => media::OCI_INDEX,
        }
    }
}

impl Engine {
    fn list_path(&self, name: &Reference) -> PathBuf {
        let file = format!("{}.json", Digest::of(name.to_string().as_bytes()).hex());
        self.paths.root().join("manifests").join(file)
    }

    /// The list of that name.
    pub fn manifest_list(&self, name: &str) -> Result<List, Error> {
        let reference: Reference = name.parse()?;
        let path = self.list_path(&reference);
        let missing = || wrong(name, "there is none of that name here");
        let size = match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            meta => meta.map_err(Error::io("read", &path))?.len(),
        };
        if size > FILE_MAX {
            return Err(wrong(name, "its file is too large"));
        }
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Document { path, source })
    }

    /// All lists, by name.
    pub fn manifest_lists(&self) -> Result<Vec<List>, Error> {
        let folder = self.paths.root().join("manifests");
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read", &folder))?,
        };
        let mut lists: Vec<List> = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
                let list = serde_json::from_slice(&bytes);
                lists.push(list.map_err(|source| Error::Document { path, source })?);
            }
        }
        lists.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(lists)
    }

    /// A new list without entries; `amend`: one that is there stays as it is.
    pub fn create_list(&self, name: &str, docker: bool, amend: bool) -> Result<List, Error> {
        let reference: Reference = name.parse()?;
        match self.manifest_list(name) {
            Ok(list) if amend => return Ok(list),
            Ok(_) => return Err(wrong(name, "there is one already (--amend adds to it)")),
            Err(Error::Image(ImageError::List { .. })) => {}
            Err(e) => return Err(e),
        }
        let list = List {
            name: reference.to_string(),
            docker,
            annotations: BTreeMap::new(),
            entries: Vec::new(),
        };
        self.keep(&list)?;
        Ok(list)
    }

    /// Writes a list down.
    pub fn keep(&self, list: &List) -> Result<(), Error> {
        let path = self.list_path(&list.name.parse()?);
        let bytes = serde_json::to_vec(list).map_err(|source| Error::Document {
            path: path.clone(),
            source,
        })?;
        let new = Beside::create(&path)?;
        std::io::Write::write_all(&mut &new.file, &bytes).map_err(Error::io("write", &path))?;
        new.publish()
    }

    pub fn remove_list(&self, name: &str) -> Result<(), Error> {
        self.manifest_list(name)?;
        let path = self.list_path(&name.parse()?);
        fs::remove_file(&path).map_err(Error::io("remove", path))
    }

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

    /// Changes what the list says of one image: by its digest, or by a name whose image it is.
    pub fn annotate_list(
        &self,
        list: &mut List,
        image: &str,
        with: &Annotate,
    ) -> Result<(), Error> {
        let digest = self.digest_in(list, image)?;
        for entry in list.entries.iter_mut().filter(|e| e.digest == digest) {
            let to = &mut entry.platform;
            let set = |field: &mut String, value: &Option<String>| {
                if let Some(value) = value {
                    field.clone_from(value);
                }
            };
            set(&mut to.os, &with.os);
            set(&mut to.architecture, &with.architecture);
            set(&mut to.variant, &with.variant);
            set(&mut to.os_version, &with.os_version);
            if !with.os_features.is_empty() {
                to.os_features.clone_from(&with.os_features);
            }
            entry.annotations.extend(with.annotations.clone());
        }
        self.keep(list)
    }

    pub fn remove_from_list(&self, list: &mut List, image: &str) -> Result<Digest, Error> {
        let digest = self.digest_in(list, image)?;
        list.entries.retain(|e| e.digest != digest);
        self.keep(list)?;
        Ok(digest)
    }

    fn digest_in(&self, list: &List, image: &str) -> Result<Digest, Error> {
        let by_digest = image
            .rsplit('@')
            .next()
            .and_then(|d| d.parse::<Digest>().ok());
        let digest = match by_digest {
            Some(digest) => Some(digest),
            None => match self.image(image) {
                Ok(record) => Some(record.manifest),
                Err(_) => {
                    let named: Reference = image.parse()?;
                    let same = |e: &&Entry| e.origin.as_deref() == Some(&named.to_string());
                    list.entries.iter().find(same).map(|e| e.digest.clone())
                }
            },
        };
        let here = |d: &Digest| list.entries.iter().any(|e| e.digest == *d);
        digest
            .filter(here)
            .ok_or_else(|| wrong(&list.name, &format!("it has no image {image:?}")))
    }

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
            let config =
                super::listing::parse(&image.familiar(), "config", &config.map_err(failed)?)?;
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

fn wrong(name: &str, why: &str) -> Error {
    ImageError::List {
        name: name.into(),
        why: why.into(),
    }
    .into()
}
