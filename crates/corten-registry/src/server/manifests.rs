//! Manifests and tags. A manifest is taken only if it can be parsed, is what its digest says, and names
//! nothing that the repository lacks; so whatever can be resolved here can be pulled.

use std::sync::Arc;

use bytes::Bytes;
use corten_spec::Digest;
use corten_spec::reference::is_tag;
use http::StatusCode;
use http::header::{CONTENT_TYPE, LOCATION};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;

use super::reply::{Failure, Reply, blocking, refuse};
use super::route::Given;
use super::storage::{Of, Order, Storage};
use super::{PATIENCE, ServerError, State};
use crate::protocol::MANIFEST_MAX;
use crate::protocol::error_body::Code;
use crate::protocol::header::{DOCKER_CONTENT_DIGEST, OCI_SUBJECT, OCI_TAG};
use crate::protocol::manifest::{self, Document, Relation};
use crate::protocol::path::Key;
use crate::protocol::query;

/// Tags that one manifest may bring along.
const TAGS_MAX: usize = 64;

/// A manifest that a repository has here.
pub(super) struct Found {
    pub digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
}

impl Found {
    pub fn reply(&self) -> Reply {
        Reply::manifest(&self.digest, &self.media_type, self.bytes.clone())
    }
}

pub(super) async fn found(
    storage: &Arc<Storage>,
    name: &str,
    key: &Key,
) -> Result<Option<Found>, ServerError> {
    let (storage, repository, key) = (storage.clone(), name.to_owned(), key.clone());
    blocking(move || {
        let digest = match key {
            Key::Digest(digest) => Some(digest),
            Key::Tag(tag) => storage.tag(&repository, &tag)?,
        };
        let Some(digest) = digest else {
            return Ok(None);
        };
        let media_type = storage.used(&repository, Of::Manifest, &digest)?;
        let bytes = storage.read(&digest)?;
        Ok(media_type.zip(bytes).map(|(media_type, bytes)| Found {
            digest,
            media_type,
            bytes,
        }))
    })
    .await
}

pub(super) async fn get(state: &State, name: &str, key: Key) -> Result<Reply, Failure> {
    if let Some(cache) = &state.cache {
        return cache.manifest(name, key).await;
    }
    let found = found(&state.storage, name, &key).await?;
    Ok(found.ok_or_else(|| unknown(name))?.reply())
}

pub(super) async fn put(
    state: &State,
    name: &str,
    key: Key,
    given: Given,
) -> Result<Reply, Failure> {
    let content_type = given.header(CONTENT_TYPE).map(str::to_owned);
    let more = more_tags(&given)?;
    let bytes = body(given).await?;
    let document =
        manifest::parse(&bytes, content_type.as_deref()).map_err(|e| invalid(&explain(&e)))?;
    let relation = manifest::relation(&bytes).map_err(|e| invalid(&explain(&e)))?;
    let (digest, tags) = match key {
        Key::Digest(digest) => (digest, more),
        Key::Tag(tag) => (Digest::of(&bytes), vec![tag]),
    };
    is(&bytes, &digest)?;
    let subject = relation.as_ref().map(|r| r.subject.to_string());
    let mut reply = Reply::new(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{name}/manifests/{digest}"))
        .named(DOCKER_CONTENT_DIGEST, digest.to_string());
    if let Some(subject) = subject {
        reply = reply.named(OCI_SUBJECT, subject);
    }
    if !tags.is_empty() {
        reply = reply.named(OCI_TAG, tags.join(", "));
    }
    let put = Put {
        name: name.to_owned(),
        digest,
        tags,
        bytes: bytes.to_vec(),
        document,
        relation,
        sparse: false,
    };
    let storage = state.storage.clone();
    match blocking(move || put.store(&storage)).await? {
        None => Ok(reply),
        Some(missing) => {
            let message = format!("the manifest names {missing}, which this repository lacks");
            let status = StatusCode::BAD_REQUEST;
            Err(refuse(status, Code::ManifestBlobUnknown, message))
        }
    }
}

fn invalid(message: &str) -> Failure {
    refuse(StatusCode::BAD_REQUEST, Code::ManifestInvalid, message)
}

/// A manifest's bytes, within bounds of size and time.
async fn body(given: Given) -> Result<Bytes, Failure> {
    let limited = Limited::new(given.body, MANIFEST_MAX).collect();
    match tokio::time::timeout(PATIENCE, limited).await {
        Err(_) => Err(invalid("the body did not come in time")),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let message = format!("a manifest has at most {MANIFEST_MAX} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(refuse(status, Code::SizeInvalid, message))
        }
        Ok(Err(_)) => Err(invalid("the body broke off")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

/// A manifest that is pushed by digest may bring its tags along (`?tag=a&tag=b`).
fn more_tags(given: &Given) -> Result<Vec<String>, Failure> {
    let tags: Vec<String> = query::all(given.query.as_deref(), "tag")
        .take(TAGS_MAX + 1)
        .collect();
    if tags.len() > TAGS_MAX {
        let message = format!("more than {TAGS_MAX} tags at once");
        return Err(refuse(StatusCode::URI_TOO_LONG, Code::TagInvalid, message));
    }
    match tags.iter().find(|t| !is_tag(t)) {
        None => Ok(tags),
        Some(odd) => {
            let message = format!("{odd:?} is no tag");
            Err(refuse(StatusCode::BAD_REQUEST, Code::TagInvalid, message))
        }
    }
}

fn is(bytes: &[u8], digest: &Digest) -> Result<(), Failure> {
    let mut hasher = digest.hasher();
    hasher.update(bytes);
    let actual = hasher.finish();
    match actual == *digest {
        true => Ok(()),
        false => {
            let message = format!("the manifest is {actual}, not {digest}");
            Err(refuse(
                StatusCode::BAD_REQUEST,
                Code::DigestInvalid,
                message,
            ))
        }
    }
}

/// Our message and the one below it: the client sees no chain.
fn explain(error: &manifest::ManifestError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A checked manifest on its way to disk.
pub(super) struct Put {
    pub name: String,
    pub digest: Digest,
    pub tags: Vec<String>,
    pub bytes: Vec<u8>,
    pub document: Document,
    pub relation: Option<Relation>,
    /// What it names need not be here.
    pub sparse: bool,
}

impl Put {
    /// Stores it all, or nothing and the digest that is missing.
    pub fn store(&self, storage: &Storage) -> Result<Option<Digest>, ServerError> {
        let (media_type, wanted) = self.wanted();
        let temporary = self.write(storage)?;
        // Until the manifest is linked nothing may take away what it names.
        let order = &storage.order()?;
        for (of, digest) in wanted {
            if !self.sparse && storage.linked(&self.name, of, digest)?.is_none() {
                // What stays of it all the same goes at the next start.
                let _ = std::fs::remove_file(&temporary);
                return Ok(Some(digest.clone()));
            }
        }
        storage.commit(
            order,
            &temporary,
            &self.name,
            Of::Manifest,
            &self.digest,
            media_type.as_bytes(),
        )?;
        if let Some(r) = &self.relation {
            let mut descriptor = json!({
                "mediaType": media_type, "digest": self.digest, "size": self.bytes.len(),
            });
            if let Some(t) = &r.artifact_type {
                descriptor["artifactType"] = json!(t);
            }
            if r.annotations.is_object() {
                descriptor["annotations"] = r.annotations.clone();
            }
            let descriptor = descriptor.to_string();
            storage.add_referrer(
                order,
                &self.name,
                &r.subject,
                &self.digest,
                descriptor.as_bytes(),
            )?;
        }
        for tag in &self.tags {
            storage.set_tag(order, &self.name, tag, &self.digest)?;
        }
        Ok(None)
    }

    fn write(&self, storage: &Storage) -> Result<std::path::PathBuf, ServerError> {
        let temporary = storage.upload(&format!("manifest-{}", super::upload::random_id()));
        let written = std::fs::File::create_new(&temporary).and_then(|mut f| {
            std::io::Write::write_all(&mut f, &self.bytes)?;
            f.sync_all()
        });
        written.map_err(|source| ServerError::Storage {
            doing: "write",
            path: temporary.clone(),
            source,
        })?;
        Ok(temporary)
    }

    /// What must be there first. Layers that may not be distributed are by their nature somewhere else.
    fn wanted(&self) -> (&str, Vec<(Of, &Digest)>) {
        match &self.document {
            Document::Manifest(m) => {
                let elsewhere =
                    |t: &str| t.contains(".nondistributable.") || t.contains(".foreign.");
                let layers = m.layers.iter().filter(|l| !elsewhere(&l.media_type));
                let blobs = std::iter::once(&m.config).chain(layers);
                (
                    &m.media_type,
                    blobs.map(|d| (Of::Blob, &d.digest)).collect(),
                )
            }
            Document::Index(i) => {
                let entries = i
                    .entries
                    .iter()
                    .map(|e| (Of::Manifest, &e.descriptor.digest));
                (&i.media_type, entries.collect())
            }
        }
    }
}

/// By tag only the tag goes; by digest the manifest, and every tag on it.
pub(super) async fn delete(state: &State, name: &str, key: Key) -> Result<Reply, Failure> {
    let (storage, repository) = (state.storage.clone(), name.to_owned());
    let removed = blocking(move || match key {
        Key::Tag(tag) => storage.remove_tag(&storage.order()?, &repository, &tag),
        Key::Digest(digest) => remove(&storage, &storage.order()?, &repository, &digest),
    })
    .await?;
    match removed {
        true => Ok(Reply::new(StatusCode::ACCEPTED)),
        false => Err(unknown(name)),
    }
}

/// Takes a manifest, its tags and its entry among the referrers from a repository.
pub(super) fn remove(
    storage: &Storage,
    order: &Order<'_>,
    name: &str,
    digest: &Digest,
) -> Result<bool, ServerError> {
    if storage.linked(name, Of::Manifest, digest)?.is_none() {
        return Ok(false);
    }
    // Tags first: killed in between, a tag may be missing but never point at nothing.
    for tag in storage.tags(name)?.unwrap_or_default() {
        if storage.tag(name, &tag)?.as_ref() == Some(digest) {
            storage.remove_tag(order, name, &tag)?;
        }
    }
    let bytes = storage.read(digest)?.unwrap_or_default();
    if let Ok(Some(r)) = manifest::relation(&bytes) {
        storage.remove_referrer(order, name, &r.subject, digest)?;
    }
    storage.unlink(order, name, Of::Manifest, digest)
}

fn unknown(name: &str) -> Failure {
    refuse(
        StatusCode::NOT_FOUND,
        Code::ManifestUnknown,
        format!("no such manifest in {name}"),
    )
}
