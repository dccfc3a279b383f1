//! What is asked of registries besides images: tags, names, and what refers to an image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use bytes::Bytes;
use corten_registry::client::{ANY, Client, ClientConfig, Descriptor, Found, Referrer};
use corten_spec::digest::{Algorithm, Hasher};
use corten_spec::{Digest, Kind, Reference, media};
use serde_json::{Value, json};

use super::copy;
use super::listing::parse;
use crate::Engine;
use crate::error::Error;

/// OCI's type for "nothing" (Image Specification, "Guidance for an Empty Descriptor"), which is `{}`.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What is attached to an image.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// What the whole is: `application/spdx+json`, say.
    pub artifact_type: String,
    /// What the file is; as a rule, the same.
    pub media_type: String,
    pub annotations: BTreeMap<String, String>,
}

/// An artifact as its registry has it.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub digest: Digest,
    pub manifest: Value,
    /// The contents, in the order of the manifest, with the names that they were given.
    pub files: Vec<(Descriptor, Option<String>)>,
}

impl Engine {
    /// The tags of a repository, in the registry's order.
    pub fn remote_tags(
        &self,
        repository: &Reference,
        client: ClientConfig,
    ) -> Result<Vec<String>, Error> {
        copy::run(async {
            let client = Client::new(client);
            let tags = client.tags(repository).await;
            tags.map_err(|e| Error::registry("list the tags of", repository, e))
        })
    }

    /// Repositories of a registry that have to do with a word.
    pub fn search(
        &self,
        registry: &str,
        word: &str,
        limit: usize,
        client: ClientConfig,
    ) -> Result<Vec<Found>, Error> {
        copy::run(async {
            let client = Client::new(client);
            let found = client.search(registry, word, limit).await;
            found.map_err(|e| Error::registry_named("search in", registry, e))
        })
    }

    /// Does the registry let in whom the configuration names?
    pub fn check_login(&self, registry: &str, client: ClientConfig) -> Result<(), Error> {
        copy::run(async {
            let checked = Client::new(client).check(registry).await;
            checked.map_err(|e| Error::registry_named("log in to", registry, e))
        })
    }

    /// What an image of a registry is, and what refers to it.
    pub fn remote_referrers(
        &self,
        image: &Reference,
        artifact_type: Option<&str>,
        client: ClientConfig,
    ) -> Result<(Digest, Vec<Referrer>), Error> {
        copy::run(async {
            let client = Client::new(client);
            let subject = subject(&client, image).await?;
            let found = client
                .referrers(image, &subject.digest, artifact_type)
                .await;
            let found = found.map_err(|e| Error::registry("read what refers to", image, e))?;
            Ok((subject.digest, found))
        })
    }

    /// Puts a file into the image's repository as something that refers to it; returns the artifact's digest.
    pub fn attach_artifact(
        &self,
        image: &Reference,
        file: &Path,
        attachment: &Attachment,
        client: ClientConfig,
    ) -> Result<Digest, Error> {
        let (digest, size) = hash(file)?;
        let content = Descriptor {
            digest,
            size,
            media_type: attachment.media_type.clone(),
        };
        copy::run(async {
            let client = Client::new(client);
            let failed = |e| Error::registry("push to", image, e);
            let subject = subject(&client, image).await?;
            let from = File::open(file).map_err(Error::io("open", file))?;
            client
                .push_blob(image, &content, from)
                .await
                .map_err(failed)?;
            let empty = Descriptor {
                digest: Digest::of(b"{}"),
                size: 2,
                media_type: EMPTY.into(),
            };
            let nothing = Cursor::new(b"{}".as_slice());
            client
                .push_blob(image, &empty, nothing)
                .await
                .map_err(failed)?;
            let mut layer = described(&content);
            if let Some(name) = file.file_name().and_then(|n| n.to_str()) {
                layer["annotations"] = json!({ "org.opencontainers.image.title": name });
            }
            let mut manifest = json!({
                "schemaVersion": 2,
                "mediaType": media::OCI_MANIFEST,
                "artifactType": attachment.artifact_type,
                "config": described(&empty),
                "layers": [layer],
                "subject": described(&subject),
            });
            if !attachment.annotations.is_empty() {
                manifest["annotations"] = json!(attachment.annotations);
            }
            let bytes = Bytes::from(manifest.to_string());
            let by_digest = image.with_digest(Digest::of(&bytes)).untagged();
            let pushed = client.push_manifest(&by_digest, media::OCI_MANIFEST, bytes);
            pushed.await.map_err(failed)
        })
    }

    /// The manifest of an artifact, and what it holds.
    pub fn artifact(&self, name: &Reference, client: ClientConfig) -> Result<Artifact, Error> {
        copy::run(async {
            let client = Client::new(client);
            let raw = client.manifest(name, ANY).await;
            let raw = raw.map_err(|e| Error::registry("read", name, e))?;
            let manifest = parse(&name.familiar(), "manifest", &raw.bytes)?;
            Ok(Artifact {
                digest: raw.descriptor.digest,
                files: files(&manifest),
                manifest,
            })
        })
    }

    /// Writes one of an artifact's contents; what comes is checked before the end is reached.
    pub fn artifact_content(
        &self,
        name: &Reference,
        content: &Descriptor,
        mut out: impl Write + Send,
        client: ClientConfig,
    ) -> Result<(), Error> {
        copy::run(async {
            let client = Client::new(client);
            let mut blob = client.open_blob(name, content);
            // The reading waits for the runtime's threads, and is not done on one of them.
            let copied = tokio::task::block_in_place(|| std::io::copy(&mut blob, &mut out));
            copied.map_err(Error::io("copy", content.digest.to_string()))?;
            out.flush()
                .map_err(Error::io("write", content.digest.to_string()))
        })
    }
}

async fn subject(client: &Client, image: &Reference) -> Result<Descriptor, Error> {
    // Some registries leave out of a HEAD's answer what its descriptor needs.
    let raw = client.manifest(image, ANY).await;
    match raw {
        Ok(raw) => Ok(raw.descriptor),
        Err(e) if e.kind() == Kind::NotFound => Err(Error::registry("find", image, e)),
        Err(e) => Err(Error::registry("read", image, e)),
    }
}

fn described(d: &Descriptor) -> Value {
    json!({ "mediaType": d.media_type, "digest": d.digest, "size": d.size })
}

fn files(manifest: &Value) -> Vec<(Descriptor, Option<String>)> {
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let read = |layer: &Value| {
        let descriptor = Descriptor {
            digest: layer["digest"].as_str()?.parse().ok()?,
            size: layer["size"].as_u64()?,
            media_type: layer["mediaType"].as_str().unwrap_or_default().to_owned(),
        };
        let title = layer["annotations"]["org.opencontainers.image.title"].as_str();
        Some((descriptor, title.map(str::to_owned)))
    };
    layers.filter_map(read).collect()
}

fn hash(path: &Path) -> Result<(Digest, u64), Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}
