//! From a reference to the manifest of one platform. Every document is checked against the digest
//! that named it before it is parsed.

use std::sync::Arc;

use bytes::Bytes;
use corten_spec::{Platform, Reference, media};

use super::endpoint::Endpoint;
use super::manifests::{Manifests, misread};
use super::session::Session;
use super::{Descriptor, Error, ParsedManifest, Resolved};
use crate::protocol::manifest::{self, Document, Index};

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
    Err(last.unwrap_or_else(|| nobody(reference.registry(), "resolve")))
}

pub(super) fn nobody(registry: &str, what: &str) -> Error {
    Error::NotARegistry {
        host: registry.into(),
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
    let manifests = Manifests {
        session,
        endpoint,
        reference,
    };
    let got = manifests.get(key, WANTED, expected.is_some()).await?;
    let host = || endpoint.place("").authority();
    if let Some(expected) = expected
        && expected.size != got.descriptor.size
    {
        return Err(Error::SizeMismatch {
            host: host(),
            what: format!("the manifest of {reference}"),
            expected: expected.size,
            actual: got.descriptor.size,
        });
    }
    let document = manifest::parse(&got.bytes, Some(&got.descriptor.media_type));
    Ok(Fetched {
        document: document.map_err(|e| misread(e, reference, &host()))?,
        descriptor: got.descriptor,
        bytes: got.bytes,
    })
}
