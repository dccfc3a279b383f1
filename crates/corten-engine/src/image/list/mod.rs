//! Manifest lists under construction: kept in the state folder until they are pushed.

mod entries;
mod push;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use corten_spec::{Digest, Reference, media};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ImageError;
use super::beside::Beside;
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
}

fn wrong(name: &str, why: &str) -> Error {
    ImageError::List {
        name: name.into(),
        why: why.into(),
    }
    .into()
}
