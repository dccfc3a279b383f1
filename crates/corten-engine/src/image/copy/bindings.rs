//! What a layout or archive says of its images when all of them are in it: `index.json`, docker's `manifest.json`.

use corten_registry::protocol::MANIFEST_MAX;
use corten_spec::Reference;
use serde_json::{Value, json};

use super::super::ImageError;
use super::target::{Form, Shelf};
use super::{Copied, Image};
use crate::error::Error;

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// OCI's layout alone.
    Oci,
    /// The same with docker's `manifest.json`, as docker writes it since 25.
    Docker,
    /// skopeo's `dir:`.
    Flat,
}

impl Layout {
    pub fn form(self) -> Form {
        match self {
            Self::Oci | Self::Docker => Form::Layout,
            Self::Flat => Form::Flat,
        }
    }
}

/// Collects the entries, and writes the files at the end.
pub(crate) struct Bindings {
    layout: Layout,
    entries: Vec<Value>,
    docker: Vec<Value>,
}

impl Bindings {
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            entries: Vec::new(),
            docker: Vec::new(),
        }
    }

    /// `names`: whole references, or tags alone, as the layout's user named them.
    pub fn add(&mut self, names: &[String], copied: &Copied) {
        let entry = |annotations: Value| {
            let mut entry = json!({
                "mediaType": copied.top.media_type,
                "digest": copied.top.digest,
                "size": copied.top.size,
            });
            if annotations.as_object().is_some_and(|a| !a.is_empty()) {
                entry["annotations"] = annotations;
            }
            entry
        };
        if names.is_empty() {
            self.entries.push(entry(json!({})));
        }
        for name in names {
            self.entries.push(entry(self.annotations(name)));
        }
        // Docker's form has no platforms: one image a name.
        if let Some(image) = copied.images.first() {
            self.docker.push(docker_entry(names, image));
        }
    }

    /// A layout's user finds an image by the very word that it was given. A whole name goes into containerd's annotation,
    /// too; docker has only the tag in OCI's.
    fn annotations(&self, name: &str) -> Value {
        let whole = name.parse::<Reference>();
        let Some(reference) = whole.ok().filter(|r| r.to_string() == name) else {
            return json!({ "org.opencontainers.image.ref.name": name });
        };
        let short = match (self.layout, reference.tag()) {
            (Layout::Docker, Some(tag)) => tag,
            _ => name,
        };
        json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": short,
        })
    }

    /// Writes what there is to write. Entries of a layout that is there already stay, but for those of the same name.
    pub fn write(self, shelf: &Shelf, existing: Option<Vec<u8>>) -> Result<(), Error> {
        if self.layout == Layout::Flat {
            return shelf.document("version", b"Directory Transport Version: 1.1\n");
        }
        let mut entries = match existing {
            Some(bytes) => kept(&bytes, &self.entries)?,
            None => Vec::new(),
        };
        entries.extend(self.entries);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": corten_spec::media::OCI_INDEX,
            "manifests": entries,
        });
        shelf.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        shelf.document("index.json", index.to_string().as_bytes())?;
        if self.layout == Layout::Docker {
            shelf.document(
                "manifest.json",
                Value::from(self.docker).to_string().as_bytes(),
            )?;
        }
        Ok(())
    }
}

fn kept(index: &[u8], new: &[Value]) -> Result<Vec<Value>, Error> {
    let wrong = |source| ImageError::Document {
        what: "the layout's index.json".into(),
        source,
    };
    if index.len() > MANIFEST_MAX {
        return Err(ImageError::Archive {
            archive: "the layout".into(),
            why: "its index.json is too large".into(),
        }
        .into());
    }
    let index: Value = serde_json::from_slice(index).map_err(wrong)?;
    let name = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].clone();
    let replaced = |old: &Value| {
        new.iter().any(|n| match name(n) {
            Value::Null => n["digest"] == old["digest"],
            named => named == name(old),
        })
    };
    let old = index["manifests"].as_array().cloned().unwrap_or_default();
    Ok(old.into_iter().filter(|o| !replaced(o)).collect())
}

fn docker_entry(names: &[String], image: &Image) -> Value {
    let path = |d: &corten_spec::Digest| format!("blobs/{}/{}", d.algorithm().as_str(), d.hex());
    let familiar = |n: &String| n.parse::<Reference>().map(|r| r.familiar());
    let tags: Vec<String> = names.iter().filter_map(|n| familiar(n).ok()).collect();
    json!({
        "Config": path(&image.manifest.config.digest),
        "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
        "Layers": image.manifest.layers.iter().map(|l| path(&l.digest)).collect::<Vec<_>>(),
    })
}
