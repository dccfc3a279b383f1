//! From a reference to the manifest of one platform. Every document is checked against the digest
//! that named it before it is parsed.

use std::sync::Arc;

use bytes::Bytes;
use corten_spec::{Digest, Platform, Reference, digest::Algorithm, media};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::session::{Ask, Session};
use super::status::{self, Subject};
use super::transport::Answer;
use super::{Descriptor, Error, ParsedManifest, Resolved};
use crate::protocol::header::{API_VERSION, DOCKER_CONTENT_DIGEST};
use crate::protocol::manifest::{self, Document, Index, ManifestError};
use crate::protocol::{MANIFEST_MAX, path};

/// An index may list indexes; real ones do so once.
const DEPTH_MAX: u32 = 4;
/// What images are asked for as, in the order of liking.
const WANTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// What very old registries call the configurations of images that they converted.
const OCTETS: &str = "application/octet-stream";

/// A fetched document.
struct Fetched {
    descriptor: Descriptor,
    bytes: Bytes,
    document: Document,
}

/// Resolves through the first endpoint that has the reference.
pub(super) async fn resolve(
    session: &Session,
    endpoints: &[Arc<Endpoint>],
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, Error> {
    let mut last = None;
    // By digest any mirror will do; what a tag means only those may say that are trusted with it.
    let by_digest = reference.digest().is_some();
    let able = |e: &&Arc<Endpoint>| e.capabilities.resolve || (by_digest && e.capabilities.pull);
    for endpoint in endpoints.iter().filter(able) {
        match through(session, endpoint, reference, platform).await {
            Ok(resolved) => return Ok(resolved),
            Err(e) => {
                tracing::debug!(host = endpoint.account, error = %e, "cannot resolve here");
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| nobody(reference, "resolve")))
}

pub(super) fn nobody(reference: &Reference, what: &str) -> Error {
    Error::NotARegistry {
        host: reference.registry().into(),
        why: format!("its hosts.toml names no host with the capability to {what}"),
    }
}

async fn through(
    session: &Session,
    endpoint: &Endpoint,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, Error> {
    let top = fetch(
        session,
        endpoint,
        reference,
        &reference.manifest_key(),
        None,
    )
    .await?;
    let (target, target_bytes) = (top.descriptor.clone(), top.bytes.clone());
    let mut current = top;
    for _ in 0..DEPTH_MAX {
        let index = match current.document {
            Document::Manifest(manifest) => {
                check_is_image(reference, &manifest)?;
                return Ok(Resolved {
                    target,
                    target_bytes,
                    manifest_digest: current.descriptor.digest,
                    manifest_bytes: current.bytes,
                    manifest,
                });
            }
            Document::Index(index) => index,
        };
        let chosen = choose(reference, &index, platform)?;
        let key = chosen.digest.to_string();
        current = fetch(session, endpoint, reference, &key, Some(&chosen)).await?;
    }
    Err(Error::NoPlatform {
        reference: reference.to_string(),
        wanted: format!("{platform} within {DEPTH_MAX} nested indexes"),
        available: Vec::new(),
    })
}

fn choose(reference: &Reference, index: &Index, platform: &Platform) -> Result<Descriptor, Error> {
    let chosen = index.choose(platform).ok_or_else(|| Error::NoPlatform {
        reference: reference.to_string(),
        wanted: platform.to_string(),
        available: index.platforms(),
    })?;
    Ok(chosen.descriptor.clone())
}

/// Charts, signatures and the like travel in image manifests too; what they hold is told by these types.
fn check_is_image(reference: &Reference, manifest: &ParsedManifest) -> Result<(), Error> {
    let config = &manifest.config.media_type;
    let fine = matches!(
        config.as_str(),
        media::OCI_CONFIG | media::DOCKER_CONFIG | OCTETS
    );
    let odd = match fine {
        false => Some(config),
        true => {
            let types = manifest.layers.iter().map(|l| &l.media_type);
            types
                .into_iter()
                .find(|t| media::layer_compression(t).is_none())
        }
    };
    odd.map_or(Ok(()), |t| {
        Err(Error::MediaType {
            reference: reference.to_string(),
            media_type: t.clone(),
        })
    })
}

/// Gets a document, with retries. `expected` is the index entry that named it.
async fn fetch(
    session: &Session,
    endpoint: &Endpoint,
    reference: &Reference,
    key: &str,
    expected: Option<&Descriptor>,
) -> Result<Fetched, Error> {
    let mut backoff = Backoff::new(session.config().retry, expected.is_some());
    loop {
        match once(session, endpoint, reference, key, expected).await {
            Ok(fetched) => return Ok(fetched),
            Err(e) => backoff.wait(e).await?,
        }
    }
}

async fn once(
    session: &Session,
    endpoint: &Endpoint,
    reference: &Reference,
    key: &str,
    expected: Option<&Descriptor>,
) -> Result<Fetched, Error> {
    let repository = reference.repository();
    let mut ask = Ask::get(repository, path::manifest(repository, key));
    ask.headers.insert(ACCEPT, HeaderValue::from_static(WANTED));
    let mut answer = session.ask(endpoint, &ask).await?;
    if answer.status != StatusCode::OK {
        return Err(refused(session, endpoint, answer, reference).await);
    }
    let host = answer.place.authority();
    let what = format!("the manifest of {reference}");
    let bytes = answer.bytes(&what, MANIFEST_MAX).await?;
    let content_type = answer.header(CONTENT_TYPE);
    if content_type.is_some_and(|t| t.starts_with("text/html")) {
        return Err(Error::NotARegistry {
            host,
            why: "it answers with a web page".into(),
        });
    }
    let digest = verify(&answer, &bytes, key, &host)?;
    if let Some(expected) = expected
        && expected.size != bytes.len() as u64
    {
        return Err(Error::SizeMismatch {
            host,
            what,
            expected: expected.size,
            actual: bytes.len() as u64,
        });
    }
    let document =
        manifest::parse(&bytes, content_type).map_err(|e| misread(e, reference, &host))?;
    let media_type = match &document {
        Document::Manifest(m) => m.media_type.clone(),
        Document::Index(i) => i.media_type.clone(),
    };
    Ok(Fetched {
        descriptor: Descriptor {
            digest,
            size: bytes.len() as u64,
            media_type,
        },
        bytes,
        document,
    })
}

/// The digest of what came, which must be the one asked for, or (by tag) the one that the registry announces.
fn verify(answer: &Answer, bytes: &[u8], key: &str, host: &str) -> Result<Digest, Error> {
    let asked = key.parse::<Digest>().ok();
    let announced = answer
        .header(DOCKER_CONTENT_DIGEST)
        .and_then(|v| v.parse::<Digest>().ok());
    let expected = asked.or(announced);
    let algorithm = expected
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let mut hasher = corten_spec::digest::Hasher::new(algorithm);
    hasher.update(bytes);
    let actual = hasher.finish();
    match expected {
        Some(expected) if expected != actual => Err(Error::DigestMismatch {
            host: host.into(),
            expected,
            actual,
        }),
        _ => Ok(actual),
    }
}

fn misread(error: ManifestError, reference: &Reference, host: &str) -> Error {
    match error {
        ManifestError::MediaType(media_type) => Error::MediaType {
            reference: reference.to_string(),
            media_type,
        },
        source => Error::Manifest {
            host: host.into(),
            reference: reference.to_string(),
            source,
        },
    }
}

/// A 404 without a registry's error body may come from anything with a web server in it: ask whether it is a registry at all.
async fn refused(
    session: &Session,
    endpoint: &Endpoint,
    answer: Answer,
    reference: &Reference,
) -> Error {
    let marked = answer.headers.contains_key(API_VERSION);
    let error = status::refusal(
        answer,
        Subject::Manifest(&reference.to_string()),
        reference.repository(),
    )
    .await;
    let Error::UnknownManifest { host, said, .. } = &error else {
        return error;
    };
    if marked || !said.is_empty() {
        return error;
    }
    match session.ask(endpoint, &Ask::get("", "/".into())).await {
        Ok(ping) if !matches!(ping.status, StatusCode::OK | StatusCode::UNAUTHORIZED) => {
            Error::NotARegistry {
                host: host.clone(),
                why: format!("status {} to the version check", ping.status.as_u16()),
            }
        }
        _ => error,
    }
}
