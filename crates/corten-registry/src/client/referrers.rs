//! What refers to a manifest (signatures, bills of materials): asked of the registry, or kept by clients
//! under a tag where the registry knows no such list ("Referrers Tag Schema" in the specification).

use std::collections::BTreeMap;

use bytes::Bytes;
use corten_spec::{Digest, media};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use super::lists::Pages;
use super::manifests::{ANY, Manifests, misread};
use super::session::Ask;
use super::status::{self, Subject};
use super::{Descriptor, Error};
use crate::protocol::manifest::{self, Referrer};
use crate::protocol::{MANIFEST_MAX, path, query};

/// How often a list under a tag is written again after another client wrote between our reading and our writing.
const RACES: u32 = 5;

/// The referrers of `subject`, of one artifact type or all.
pub(super) async fn list(
    at: Manifests<'_>,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Referrer>, Error> {
    let mut found = match asked(at, subject, artifact_type).await? {
        Some(found) => found,
        None => tagged(at, subject).await?,
    };
    // Registries need not filter, and say so only by a header's absence.
    if let Some(wanted) = artifact_type {
        found.retain(|r| r.artifact_type.as_deref() == Some(wanted));
    }
    Ok(found)
}

/// By the referrers API; `None` where the registry has none.
async fn asked(
    at: Manifests<'_>,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Option<Vec<Referrer>>, Error> {
    let repository = at.reference.repository();
    let mut path = path::referrers(repository, subject);
    if let Some(wanted) = artifact_type {
        path = query::append(&path, &[("artifactType", wanted)]);
    }
    let first = Ask::get(repository, path);
    let mut pages = Pages::new(at.session, at.endpoint, repository, first);
    let mut found: Vec<Referrer> = Vec::new();
    while let Some(mut answer) = pages.next().await? {
        let index = answer
            .header(CONTENT_TYPE)
            .is_some_and(|t| t.starts_with(media::OCI_INDEX));
        match answer.status {
            StatusCode::OK if index => {}
            // Unknown paths are answered in many ways; the specification's is 404.
            StatusCode::OK
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {
                answer.discard().await;
                return Ok(None);
            }
            _ => return Err(status::refusal(answer, Subject::List, repository).await),
        }
        let bytes = answer.bytes("a list of referrers", MANIFEST_MAX).await?;
        let page = manifest::referrers(&bytes);
        let host = || answer.place.authority();
        found.extend(page.map_err(|e| misread(e, at.reference, &host()))?);
        pages.bounded(found.len())?;
    }
    Ok(Some(found))
}

/// By the tag; a tag that is not there means none.
async fn tagged(at: Manifests<'_>, subject: &Digest) -> Result<Vec<Referrer>, Error> {
    let fetched = at.get(&path::referrers_tag(subject), ANY, true).await;
    let list = match fetched {
        Ok(list) => list,
        Err(Error::UnknownManifest { .. }) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let host = || at.endpoint.place("").authority();
    manifest::referrers(&list.bytes).map_err(|e| misread(e, at.reference, &host()))
}

/// After a manifest with a subject was uploaded to a registry that did not understand it: enters it under the tag.
pub(super) async fn enter(
    at: Manifests<'_>,
    descriptor: &Descriptor,
    bytes: &Bytes,
) -> Result<(), Error> {
    let relation = manifest::relation(bytes).map_err(|e| misread(e, at.reference, "the caller"))?;
    let Some(relation) = relation else {
        return Ok(());
    };
    let annotations = serde_json::from_value::<BTreeMap<String, String>>(relation.annotations);
    let entry = Referrer {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        artifact_type: relation.artifact_type,
        // What are no strings are no annotations.
        annotations: annotations.unwrap_or_default(),
    };
    edit(at, &relation.subject, |list| {
        let there = list.iter().any(|r| r.digest == entry.digest);
        if !there {
            list.push(entry.clone());
        }
        !there
    })
    .await
}

/// After such a manifest was deleted: takes it from the tag's list.
pub(super) async fn strike(
    at: Manifests<'_>,
    subject: &Digest,
    gone: &Digest,
) -> Result<(), Error> {
    edit(at, subject, |list| {
        let before = list.len();
        list.retain(|r| r.digest != *gone);
        list.len() < before
    })
    .await
}

/// Reads, changes, writes and reads again: there is no lock to be had, and the last writer wins. `change` tells
/// whether it had anything to do.
async fn edit(
    at: Manifests<'_>,
    subject: &Digest,
    change: impl Fn(&mut Vec<Referrer>) -> bool,
) -> Result<(), Error> {
    let tag = path::referrers_tag(subject);
    for _ in 0..RACES {
        let mut list = tagged(at, subject).await?;
        if !change(&mut list) {
            return Ok(());
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": list });
        at.put(&tag, media::OCI_INDEX, &index.to_string().into())
            .await?;
    }
    let mut list = tagged(at, subject).await?;
    match change(&mut list) {
        false => Ok(()),
        true => Err(Error::Contended {
            host: at.endpoint.place("").authority(),
            tag,
        }),
    }
}

/// Has the registry the API? Then it keeps the lists itself.
pub(super) async fn supported(at: Manifests<'_>, subject: &Digest) -> Result<bool, Error> {
    Ok(asked(at, subject, None).await?.is_some())
}
