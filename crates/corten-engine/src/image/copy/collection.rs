//! The images of a folder or archive: an OCI layout, docker's archive, or skopeo's `dir:`.
//!
//! An archive of docker 25 or later is both a layout and docker's own; then the layout is read, whose manifests
//! are the ones that were pulled. An older one names a config and tars: its manifest is made here, the same each time.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use corten_registry::client::Descriptor;
use corten_registry::protocol::MANIFEST_MAX;
use corten_spec::digest::{Algorithm, Hasher};
use corten_spec::{Digest, media};
use serde::Deserialize;

use super::super::{ImageError, MAX_CONFIG};
use super::files::{Files, Packing, Section};
use crate::error::Error;

/// Images in one archive.
const IMAGES_MAX: usize = 4096;
/// containerd's annotation for the whole name.
const NAME: &str = "io.containerd.image.name";
/// OCI's; a whole name or a tag alone, as its writer saw fit.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What was found.
pub(crate) struct Collection {
    files: Files,
    form: Form,
    pub images: Vec<Found>,
    /// Manifests that are in no file.
    made: BTreeMap<Digest, Bytes>,
}

/// One image or index, and what the archive calls it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub names: Vec<String>,
    pub top: Descriptor,
}

/// How a digest becomes a file's name.
enum Form {
    Layout,
    Flat,
    Named(BTreeMap<Digest, String>),
}

#[derive(Deserialize)]
struct RawIndex {
    manifests: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEntry {
    digest: Digest,
    size: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An entry of docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Collection {
    pub fn read(files: Files) -> Result<Self, Error> {
        if let Some(index) = files.bytes("index.json", MANIFEST_MAX as u64)?
            && files.section("oci-layout")?.is_some()
        {
            let mut found = Self::layout(files, &index)?;
            found.add_docker_names()?;
            return Ok(found);
        }
        let Some(bytes) = files.bytes("manifest.json", MANIFEST_MAX as u64)? else {
            let why = "it has neither an index.json (OCI) nor a manifest.json (docker)";
            return Err(files.wrong(why));
        };
        match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'[') => Self::docker(files, &bytes),
            _ => Self::flat(files, bytes),
        }
    }

    pub fn label(&self) -> String {
        self.files.label()
    }

    /// The image that a place's `:TAG` means: by its whole name, or by the tag alone; without one, the only image.
    pub fn find(&self, wanted: Option<&str>) -> Result<usize, Error> {
        let Some(wanted) = wanted else {
            return match self.images.len() {
                1 => Ok(0),
                0 => Err(self.files.wrong("it has no image")),
                n => Err(self.files.wrong(format!(
                    "it has {n} images: name one of {}",
                    self.all_names().join(", ")
                ))),
            };
        };
        let full = wanted
            .parse::<corten_spec::Reference>()
            .map(|r| r.to_string());
        let fits = |name: &String| {
            let same = name
                .parse::<corten_spec::Reference>()
                .map(|r| r.to_string());
            name == wanted
                || matches!((&full, same), (Ok(a), Ok(b)) if *a == b)
                || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
        };
        let found = self.images.iter().position(|i| i.names.iter().any(fits));
        found.ok_or_else(|| {
            let names = self.all_names().join(", ");
            self.files
                .wrong(format!("it has no image {wanted:?}, only {names}"))
        })
    }

    fn all_names(&self) -> Vec<String> {
        let name = |i: &Found| i.names.first().cloned();
        let or_digest = |i: &Found| name(i).unwrap_or_else(|| i.top.digest.to_string());
        self.images.iter().map(or_digest).collect()
    }

    pub fn has(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.made.contains_key(digest) || self.find_blob(digest)?.is_some())
    }

    pub fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        if let Some(made) = self.made.get(&descriptor.digest) {
            return Ok(made.clone());
        }
        let bytes = self.document(&descriptor.digest, MANIFEST_MAX as u64)?;
        Ok(bytes.into())
    }

    /// A small blob, checked against its digest.
    pub fn document(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, Error> {
        let section = self.blob(digest)?;
        if section.size() > max {
            return Err(self
                .files
                .wrong(format!("{digest} is larger than {max} bytes")));
        }
        let mut bytes = Vec::new();
        let mut reading = section.take(max);
        reading
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", self.label()))?;
        let mut hasher = digest.hasher();
        hasher.update(&bytes);
        let found = hasher.finish();
        match found == *digest {
            true => Ok(bytes),
            false => Err(ImageError::Member {
                archive: self.label(),
                member: self.file_of(digest).unwrap_or_default(),
                expected: digest.clone(),
                found,
            }
            .into()),
        }
    }

    pub fn blob(&self, digest: &Digest) -> Result<Section, Error> {
        let found = self.find_blob(digest)?;
        found.ok_or_else(|| {
            self.files
                .wrong(format!("it lacks {digest}, which it names"))
        })
    }

    fn find_blob(&self, digest: &Digest) -> Result<Option<Section>, Error> {
        match self.file_of(digest) {
            Some(name) => self.files.section(&name),
            None => Ok(None),
        }
    }

    fn file_of(&self, digest: &Digest) -> Option<String> {
        match &self.form {
            Form::Layout => Some(format!(
                "blobs/{}/{}",
                digest.algorithm().as_str(),
                digest.hex()
            )),
            Form::Flat => Some(digest.hex().to_owned()),
            Form::Named(names) => names.get(digest).cloned(),
        }
    }

    fn layout(files: Files, index: &[u8]) -> Result<Self, Error> {
        let what = format!("index.json of {}", files.label());
        let index: RawIndex = document(what, index)?;
        if index.manifests.len() > IMAGES_MAX {
            return Err(files.wrong(format!("it has more than {IMAGES_MAX} images")));
        }
        let mut images: Vec<Found> = Vec::new();
        for entry in index.manifests {
            let name = entry.annotations.get(NAME);
            let name = name.or(entry.annotations.get(REF_NAME)).cloned();
            // An image has an entry for each of its names.
            if let Some(same) = images.iter_mut().find(|i| i.top.digest == entry.digest) {
                same.names.extend(name);
                continue;
            }
            images.push(Found {
                names: name.into_iter().collect(),
                top: Descriptor {
                    digest: entry.digest,
                    size: entry.size,
                    media_type: entry.media_type,
                },
            });
        }
        Ok(Self {
            images,
            files,
            form: Form::Layout,
            made: BTreeMap::new(),
        })
    }

    /// Docker's tags of a layout's images, which one entry's annotation has no room for.
    fn add_docker_names(&mut self) -> Result<(), Error> {
        let Some(bytes) = self.files.bytes("manifest.json", MANIFEST_MAX as u64)? else {
            return Ok(());
        };
        let docker: Vec<DockerImage> =
            document(format!("manifest.json of {}", self.label()), &bytes)?;
        for found in &mut self.images {
            // Which of them is meant is told by the config alone.
            let path = format!(
                "blobs/{}/{}",
                found.top.digest.algorithm().as_str(),
                found.top.digest.hex()
            );
            let Some(manifest) = self.files.bytes(&path, MANIFEST_MAX as u64)? else {
                continue;
            };
            let Ok(serde_json::Value::Object(manifest)) = serde_json::from_slice(&manifest) else {
                continue;
            };
            let config = manifest.get("config").and_then(|c| c["digest"].as_str());
            let hex = config.and_then(|d| d.split(':').nth(1)).unwrap_or("-");
            for image in docker.iter().filter(|d| d.config.contains(hex)) {
                for tag in image.repo_tags.iter().flatten() {
                    let same = |n: &String| {
                        let a = n.parse::<corten_spec::Reference>();
                        a.is_ok_and(|a| tag.parse().is_ok_and(|b: corten_spec::Reference| a == b))
                    };
                    if !found.names.iter().any(same) {
                        found.names.push(tag.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// skopeo's `dir:`: one manifest, and blobs by their hexadecimal digits.
    fn flat(files: Files, manifest: Vec<u8>) -> Result<Self, Error> {
        let typed = corten_registry::protocol::manifest::type_of(&manifest, None);
        let digest = Digest::of(&manifest);
        let media_type = typed.map_err(|source| Error::Manifest {
            digest: digest.clone(),
            source,
        })?;
        let top = Descriptor {
            digest: digest.clone(),
            size: manifest.len() as u64,
            media_type,
        };
        let mut made = BTreeMap::from([(digest, Bytes::from(manifest))]);
        // The images of an index are files of their own here.
        if media::is_index(&top.media_type) {
            let index: RawIndex = document("the index".into(), &made[&top.digest])?;
            for entry in index.manifests {
                let name = format!("{}.manifest.json", entry.digest.hex());
                if let Some(bytes) = files.bytes(&name, MANIFEST_MAX as u64)?
                    && Digest::of(&bytes) == entry.digest
                {
                    made.insert(entry.digest, bytes.into());
                }
            }
        }
        Ok(Self {
            files,
            form: Form::Flat,
            images: vec![Found {
                names: Vec::new(),
                top,
            }],
            made,
        })
    }

    fn docker(files: Files, bytes: &[u8]) -> Result<Self, Error> {
        let entries: Vec<DockerImage> =
            document(format!("manifest.json of {}", files.label()), bytes)?;
        let mut found = Self {
            files,
            form: Form::Flat,
            images: Vec::new(),
            made: BTreeMap::new(),
        };
        let mut names = BTreeMap::new();
        for entry in entries {
            let top = found.make_manifest(&entry, &mut names)?;
            found.images.push(Found {
                names: entry.repo_tags.unwrap_or_default(),
                top,
            });
        }
        found.form = Form::Named(names);
        Ok(found)
    }

    fn make_manifest(
        &mut self,
        entry: &DockerImage,
        names: &mut BTreeMap<Digest, String>,
    ) -> Result<Descriptor, Error> {
        let lacks = |name: &str| self.files.wrong(format!("it lacks {name}, which it names"));
        let config = self.files.bytes(&entry.config, MAX_CONFIG)?;
        let config = config.ok_or_else(|| lacks(&entry.config))?;
        let config_digest = Digest::of(&config);
        names.insert(config_digest.clone(), entry.config.clone());
        let mut layers = Vec::new();
        for name in entry.layers.iter().flatten() {
            let section = self.files.section(name)?.ok_or_else(|| lacks(name))?;
            let size = section.size();
            let (digest, packing) = self.hash(section)?;
            let media_type = match packing {
                Packing::Plain => media::DOCKER_LAYER,
                Packing::Gzip => media::DOCKER_LAYER_GZIP,
                Packing::Zstd => media::DOCKER_LAYER_ZSTD,
            };
            layers.push(
                serde_json::json!({ "mediaType": media_type, "size": size, "digest": digest }),
            );
            names.insert(digest, name.clone());
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::DOCKER_MANIFEST,
            "config": { "mediaType": media::DOCKER_CONFIG, "size": config.len(), "digest": config_digest },
            "layers": layers,
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(&bytes);
        let top = Descriptor {
            digest: digest.clone(),
            size: bytes.len() as u64,
            media_type: media::DOCKER_MANIFEST.into(),
        };
        self.made.insert(digest, bytes);
        Ok(top)
    }

    fn hash(&self, mut section: Section) -> Result<(Digest, Packing), Error> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 256 << 10];
        let mut packing = None;
        loop {
            let n = section
                .read(&mut buffer)
                .map_err(Error::io("read", self.label()))?;
            packing = packing.or(Some(Packing::of(&buffer[..n])));
            if n == 0 {
                return Ok((hasher.finish(), packing.unwrap_or(Packing::Plain)));
            }
            hasher.update(&buffer[..n]);
        }
    }
}

fn document<T: serde::de::DeserializeOwned>(what: String, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { what, source }.into())
}
