//! Manifests as they are, images or not: fetched, looked for, uploaded, deleted.

use bytes::Bytes;
use corten_spec::{Digest, Reference, digest::Algorithm};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::outgoing::Content;
use super::session::{Access, Ask, Session};
use super::status::{self, Subject};
use super::transport::Answer;
use super::{Descriptor, Error};
use crate::protocol::header::{API_VERSION, DOCKER_CONTENT_DIGEST, OCI_SUBJECT};
use crate::protocol::manifest::{self, ManifestError};
use crate::protocol::{MANIFEST_MAX, path};

/// What is accepted where the caller does not choose: the types of images by name, since some registries
/// convert what is not asked for by name, and then anything.
pub const ANY: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json, */*";

/// A manifest, index or artifact as its registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// The digest is that of the bytes, and the one asked for if one was.
    pub descriptor: Descriptor,
    pub bytes: Bytes,
}

/// The manifests of one repository on one endpoint.
#[derive(Clone, Copy)]
pub(super) struct Manifests<'a> {
    pub session: &'a Session,
    pub endpoint: &'a Endpoint,
    pub reference: &'a Reference,
}

impl Manifests<'_> {
    fn repository(&self) -> &str {
        self.reference.repository()
    }

    /// Gets what `key` (a tag or digest) names, with retries. `reached`: the host has answered before.
    pub async fn get(&self, key: &str, accept: &str, reached: bool) -> Result<RawManifest, Error> {
        let mut backoff = Backoff::new(self.session.config().retry, reached);
        loop {
            match self.get_once(key, accept).await {
                Ok(fetched) => return Ok(fetched),
                Err(e) => backoff.wait(e).await?,
            }
        }
    }

    async fn get_once(&self, key: &str, accept: &str) -> Result<RawManifest, Error> {
        let path = path::manifest(self.repository(), key);
        let ask = Ask::get(self.repository(), path).with(ACCEPT, accept);
        let mut answer = self.session.ask(self.endpoint, &ask).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(answer).await);
        }
        let host = answer.place.authority();
        let what = format!("the manifest of {}", self.reference);
        let bytes = answer.bytes(&what, MANIFEST_MAX).await?;
        let content_type = answer.header(CONTENT_TYPE);
        if content_type.is_some_and(|t| t.starts_with("text/html")) {
            return Err(Error::NotARegistry {
                host,
                why: "it answers with a web page".into(),
            });
        }
        let digest = verify(&answer, &bytes, key, &host)?;
        let media_type = manifest::type_of(&bytes, content_type);
        Ok(RawManifest {
            descriptor: Descriptor {
                digest,
                size: bytes.len() as u64,
                media_type: media_type.map_err(|e| misread(e, self.reference, &host))?,
            },
            bytes,
        })
    }

    /// What a key names, without its bytes; `None` where there is no such thing.
    pub async fn head(&self, key: &str) -> Result<Option<Descriptor>, Error> {
        let path = path::manifest(self.repository(), key);
        let mut ask = Ask::get(self.repository(), path).with(ACCEPT, ANY);
        ask.method = Method::HEAD;
        let answer = self.asked(&ask).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refused(answer).await),
        }
        let digest = answer.header(DOCKER_CONTENT_DIGEST).map(str::parse);
        let known = match (digest, answer.content_length()) {
            (Some(Ok(digest)), Some(size)) => Some((digest, size)),
            _ => None,
        };
        let media_type = answer.header(CONTENT_TYPE).unwrap_or_default();
        let media_type = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        answer.discard().await;
        let asked = key.parse::<Digest>().ok();
        match known {
            Some((actual, _)) if asked.as_ref().is_some_and(|a| *a != actual) => {
                Err(Error::DigestMismatch {
                    host: self.endpoint.place("").authority(),
                    expected: asked.unwrap_or_else(|| actual.clone()),
                    actual,
                })
            }
            Some((digest, size)) => Ok(Some(Descriptor {
                digest,
                size,
                media_type,
            })),
            // Both headers are optional in the specification; the bytes know.
            None => self.get(key, ANY, true).await.map(|m| Some(m.descriptor)),
        }
    }

    /// Uploads; `true` if the registry says that it has understood the `subject`.
    pub async fn put(&self, key: &str, media_type: &str, bytes: &Bytes) -> Result<bool, Error> {
        let path = path::manifest(self.repository(), key);
        let access = Access::Push(self.repository().to_owned());
        let mut ask = Ask::new(Method::PUT, path, access).with(CONTENT_TYPE, media_type);
        if !ask.headers.contains_key(CONTENT_TYPE) {
            return Err(Error::MediaType {
                reference: self.reference.to_string(),
                media_type: media_type.into(),
            });
        }
        ask.body = Content::Bytes(bytes.clone());
        let mut backoff = Backoff::new(self.session.config().retry, true);
        loop {
            let failed = match self.session.ask(self.endpoint, &ask).await {
                Ok(answer) if answer.status == StatusCode::CREATED => {
                    let understood = answer.header(OCI_SUBJECT).is_some();
                    let host = answer.place.authority();
                    let kept = verify(&answer, bytes, key, &host);
                    answer.discard().await;
                    return kept.map(|_| understood);
                }
                Ok(answer) => status::refusal(answer, Subject::Upload, self.repository()).await,
                Err(e) => e,
            };
            backoff.wait(failed).await?;
        }
    }

    /// Deletes what a key names: by tag the tag alone (where the registry can), by digest the manifest.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = path::manifest(self.repository(), key);
        let access = Access::Delete(self.repository().to_owned());
        let answer = self.asked(&Ask::new(Method::DELETE, path, access)).await?;
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => {
                answer.discard().await;
                Ok(())
            }
            StatusCode::NOT_FOUND => Err(self.refused(answer).await),
            _ => Err(status::refusal(answer, Subject::Deletion, self.repository()).await),
        }
    }

    /// Asks, with retries of what passes by itself.
    pub async fn asked(&self, ask: &Ask) -> Result<Answer, Error> {
        asked(self.session, self.endpoint, ask).await
    }

    /// A 404 without a registry's error body may come from anything with a web server in it: ask whether it is a registry at all.
    async fn refused(&self, answer: Answer) -> Error {
        let marked = answer.headers.contains_key(API_VERSION);
        let reference = self.reference.to_string();
        let subject = Subject::Manifest(&reference);
        let error = status::refusal(answer, subject, self.repository()).await;
        let Error::UnknownManifest { host, said, .. } = &error else {
            return error;
        };
        if marked || !said.is_empty() {
            return error;
        }
        let ping = Ask::new(Method::GET, "/".into(), Access::Nothing);
        match self.session.ask(self.endpoint, &ping).await {
            Ok(ping) if !matches!(ping.status, StatusCode::OK | StatusCode::UNAUTHORIZED) => {
                Error::NotARegistry {
                    host: host.clone(),
                    why: format!("status {} to the version check", ping.status.as_u16()),
                }
            }
            _ => error,
        }
    }
}

/// One request until it is answered by something that waiting does not change.
pub(super) async fn asked(
    session: &Session,
    endpoint: &Endpoint,
    ask: &Ask,
) -> Result<Answer, Error> {
    let mut backoff = Backoff::new(session.config().retry, false);
    loop {
        let failed = match session.ask(endpoint, ask).await {
            Ok(a) if a.status == StatusCode::TOO_MANY_REQUESTS || a.status.is_server_error() => {
                status::other(a, "a request").await
            }
            Ok(answer) => return Ok(answer),
            Err(e) => e,
        };
        backoff.wait(failed).await?;
    }
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

/// A document that is none of what it should be.
pub(super) fn misread(error: ManifestError, reference: &Reference, host: &str) -> Error {
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
