//! Manifests and tags. A manifest is taken only if it can be parsed, is what its digest says, and names
//! nothing that the repository lacks; so whatever can be resolved here can be pulled.

use corten_spec::Digest;
use http::StatusCode;
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;

use super::reply::{Failure, Reply, blocking, refuse};
use super::route::Given;
use super::storage::{Of, Storage};
use super::{PATIENCE, ServerError, State};
use crate::protocol::MANIFEST_MAX;
use crate::protocol::error_body::Code;
use crate::protocol::header::{DOCKER_CONTENT_DIGEST, OCI_SUBJECT};
use crate::protocol::manifest::{self, Document, Relation};
use crate::protocol::path::Key;

pub(super) async fn get(state: &State, name: &str, key: Key) -> Result<Reply, Failure> {
    let (storage, repository) = (state.storage.clone(), name.to_owned());
    let found = blocking(move || {
        let digest = match key {
            Key::Digest(digest) => Some(digest),
            Key::Tag(tag) => storage.tag(&repository, &tag)?,
        };
        let Some(digest) = digest else {
            return Ok(None);
        };
        let media_type = storage.linked(&repository, Of::Manifest, &digest)?;
        let bytes = storage.read(&digest)?;
        Ok(media_type.zip(bytes).map(|(m, b)| (digest, m, b)))
    })
    .await?;
    let (digest, media_type, bytes) = found.ok_or_else(|| unknown(name))?;
    Ok(Reply::new(StatusCode::OK)
        .bytes(&media_type, bytes)
        .header(ETAG, format!("\"{digest}\""))
        .named(DOCKER_CONTENT_DIGEST, digest.to_string()))
}

pub(super) async fn put(
    state: &State,
    name: &str,
    key: Key,
    given: Given,
) -> Result<Reply, Failure> {
    let content_type = given.header(CONTENT_TYPE).map(str::to_owned);
    let limited = Limited::new(given.body, MANIFEST_MAX).collect();
    let body = tokio::time::timeout(PATIENCE, limited).await;
    let invalid = |message: &str| refuse(StatusCode::BAD_REQUEST, Code::ManifestInvalid, message);
    let bytes = match body {
        Err(_) => return Err(invalid("the body did not come in time")),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let message = format!("a manifest has at most {MANIFEST_MAX} bytes");
            return Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::SizeInvalid,
                message,
            ));
        }
        Ok(Err(_)) => return Err(invalid("the body broke off")),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let document =
        manifest::parse(&bytes, content_type.as_deref()).map_err(|e| invalid(&explain(&e)))?;
    let relation = manifest::relation(&bytes).map_err(|e| invalid(&explain(&e)))?;
    let (digest, tag) = match key {
        Key::Digest(digest) => (digest, None),
        Key::Tag(tag) => (Digest::of(&bytes), Some(tag)),
    };
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != digest {
        let message = format!("the manifest is {actual}, not {digest}");
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            Code::DigestInvalid,
            message,
        ));
    }
    let subject = relation.as_ref().map(|r| r.subject.to_string());
    let put = Put {
        name: name.to_owned(),
        digest: digest.clone(),
        tag,
        bytes: bytes.to_vec(),
        document,
        relation,
    };
    let storage = state.storage.clone();
    if let Some(missing) = blocking(move || put.store(&storage)).await? {
        let message = format!("the manifest names {missing}, which this repository lacks");
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            Code::ManifestBlobUnknown,
            message,
        ));
    }
    let reply = Reply::new(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{name}/manifests/{digest}"))
        .named(DOCKER_CONTENT_DIGEST, digest.to_string());
    Ok(match subject {
        Some(subject) => reply.named(OCI_SUBJECT, subject),
        None => reply,
    })
}

/// Our message and the one below it: the client sees no chain.
fn explain(error: &manifest::ManifestError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A checked manifest on its way to disk.
struct Put {
    name: String,
    digest: Digest,
    tag: Option<String>,
    bytes: Vec<u8>,
    document: Document,
    relation: Option<Relation>,
}

impl Put {
    /// Stores it all, or nothing and the digest that is missing.
    fn store(&self, storage: &Storage) -> Result<Option<Digest>, ServerError> {
        let (media_type, wanted) = self.wanted();
        for (of, digest) in wanted {
            if storage.linked(&self.name, of, digest)?.is_none() {
                return Ok(Some(digest.clone()));
            }
        }
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
        storage.commit(
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
            storage.add_referrer(&self.name, &r.subject, &self.digest, descriptor.as_bytes())?;
        }
        match &self.tag {
            Some(tag) => storage
                .set_tag(&self.name, tag, &self.digest)
                .map(|()| None),
            None => Ok(None),
        }
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
        Key::Tag(tag) => storage.remove_tag(&repository, &tag),
        Key::Digest(digest) => remove(&storage, &repository, &digest),
    })
    .await?;
    match removed {
        true => Ok(Reply::new(StatusCode::ACCEPTED)),
        false => Err(unknown(name)),
    }
}

fn remove(storage: &Storage, name: &str, digest: &Digest) -> Result<bool, ServerError> {
    if storage.linked(name, Of::Manifest, digest)?.is_none() {
        return Ok(false);
    }
    // Tags first: killed in between, a tag may be missing but never point at nothing.
    for tag in storage.tags(name)?.unwrap_or_default() {
        if storage.tag(name, &tag)?.as_ref() == Some(digest) {
            storage.remove_tag(name, &tag)?;
        }
    }
    let bytes = storage.read(digest)?.unwrap_or_default();
    if let Ok(Some(r)) = manifest::relation(&bytes) {
        storage.remove_referrer(name, &r.subject, digest)?;
    }
    storage.unlink(name, Of::Manifest, digest)
}

fn unknown(name: &str) -> Failure {
    refuse(
        StatusCode::NOT_FOUND,
        Code::ManifestUnknown,
        format!("no such manifest in {name}"),
    )
}
