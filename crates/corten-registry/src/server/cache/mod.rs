//! A registry that fetches what it lacks from another one, and keeps it.
//!
//! ```text
//!  manifest by tag ──► checked lately? ──yes──► ours
//!                         │ no: HEAD upstream ──► same ──► ours
//!                         │                  └──► another ──► fetched, verified, kept
//!                         └── no answer ──► ours, as long as it takes
//!  by digest, blob ──► ours, or fetched, verified, kept
//! ```
//!
//! What a digest names is never asked twice. Clients are told of nothing that upstream would not show this cache's own
//! account in that repository. Nothing can be pushed or deleted here.

mod download;
mod evict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use corten_spec::{Digest, Reference};
use http::StatusCode;
use http::header::RETRY_AFTER;
use tokio::sync::Semaphore;

use super::manifests::{Put, found};
use super::reply::{Failure, Reply, blocking, refuse, refuse_with};
use super::storage::Storage;
use super::{ServerError, blobs};
use crate::auth::docker_config::is_hub;
use crate::client::{ANY, Client, ClientConfig, Error, RawManifest, Referrer};
use crate::protocol::error_body::Code;
use crate::protocol::manifest;
use crate::protocol::path::Key;

use download::Download;
pub(super) use download::Growing;

/// After upstream gave no answer it is left in peace for so long where there is something of ours to give.
const REST: Duration = Duration::from_secs(10);
/// Downloads from upstream at once; more wait for their turn.
const DOWNLOADS_AT_ONCE: usize = 16;

/// A pull-through cache's settings.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// `https://HOST[:PORT]`, `http://HOST[:PORT]`, or `HOST[:PORT]`.
    pub upstream: String,
    /// How upstream is spoken to, and as whom.
    pub client: ClientConfig,
    /// How long a tag is what it was when last asked for.
    pub fresh: Duration,
    /// What was used longest ago goes when content takes more than this, in bytes.
    pub max_bytes: Option<u64>,
    /// What nobody has used for so long goes.
    pub max_idle: Option<Duration>,
}

impl CacheConfig {
    pub fn new(upstream: impl Into<String>, client: ClientConfig) -> Self {
        Self {
            upstream: upstream.into(),
            client,
            fresh: Duration::from_secs(60),
            max_bytes: None,
            max_idle: None,
        }
    }
}

pub(super) struct Cache {
    client: Client,
    /// Upstream, as references name it.
    registry: String,
    config: CacheConfig,
    storage: Arc<Storage>,
    downloads: Mutex<HashMap<Digest, Arc<Download>>>,
    turns: Semaphore,
    /// Until when upstream is not asked what we can answer.
    resting: Mutex<Option<Instant>>,
}

impl Cache {
    /// `registry` and `plain` are what [`registry`] makes of the upstream's address.
    pub fn new(
        config: CacheConfig,
        (registry, plain): (String, bool),
        storage: Arc<Storage>,
    ) -> Self {
        let mut client = config.client.clone();
        if plain {
            client.plain_http.insert(registry.clone());
        }
        Self {
            client: Client::new(client),
            registry,
            config,
            storage,
            downloads: Mutex::default(),
            turns: Semaphore::new(DOWNLOADS_AT_ONCE),
            resting: Mutex::default(),
        }
    }

    pub fn upstream(&self) -> &str {
        &self.registry
    }

    fn reference(&self, name: &str, key: &Key) -> Result<Reference, Failure> {
        let (tag, digest) = match key {
            Key::Tag(tag) => (Some(tag.as_str()), None),
            Key::Digest(digest) => (None, Some(digest.clone())),
        };
        Reference::new(&self.registry, name, tag, digest)
            .map_err(|e| refuse(StatusCode::BAD_REQUEST, Code::NameInvalid, e.to_string()))
    }

    fn is_resting(&self) -> bool {
        let resting = self.resting.lock().unwrap_or_else(|p| p.into_inner());
        resting.is_some_and(|until| until > Instant::now())
    }

    /// Notes how upstream did.
    fn met<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let away = matches!(&outcome, Err(e) if is_away(e));
        if let Err(error) = &outcome
            && away
        {
            tracing::warn!(%error, upstream = self.registry, "upstream cannot be asked");
        }
        let mut resting = self.resting.lock().unwrap_or_else(|p| p.into_inner());
        *resting = away.then(|| Instant::now() + REST);
        outcome
    }

    pub async fn manifest(&self, name: &str, key: Key) -> Result<Reply, Failure> {
        let reference = self.reference(name, &key)?;
        let local = found(&self.storage, name, &key).await?;
        if let Key::Digest(_) = key {
            return match local {
                Some(found) => Ok(found.reply()),
                None => self.fetch(name, &reference, None).await,
            };
        }
        let Key::Tag(tag) = key else {
            return Err(unknown(name));
        };
        if let Some(found) = &local {
            let (storage, repository, asked) = (self.storage.clone(), name.to_owned(), tag.clone());
            let idle = blocking(move || storage.tag_idle(&repository, &asked)).await?;
            if self.is_resting() || idle.is_some_and(|i| i < self.config.fresh) {
                return Ok(found.reply());
            }
        }
        match (self.met(self.client.head(&reference).await), local) {
            (Ok(Some(now)), Some(found)) if now.digest == found.digest => {
                self.keep_tag(name, &tag, Some(found.digest.clone()))
                    .await?;
                Ok(found.reply())
            }
            (Ok(Some(now)), local) => {
                let by_digest = reference.with_digest(now.digest);
                match (self.fetch(name, &by_digest, Some(tag)).await, local) {
                    // It has a new one, and cannot give it: the old one will do for now.
                    (Err(_), Some(found)) if self.is_resting() => Ok(found.reply()),
                    (fetched, _) => fetched,
                }
            }
            (Ok(None), _) => {
                self.keep_tag(name, &tag, None).await?;
                Err(unknown(name))
            }
            (Err(e), Some(found)) if is_away(&e) => Ok(found.reply()),
            (Err(e), _) => Err(refused(&e)),
        }
    }

    /// Gets a manifest from upstream, and keeps it if it is of a kind that we understand.
    async fn fetch(
        &self,
        name: &str,
        reference: &Reference,
        tag: Option<String>,
    ) -> Result<Reply, Failure> {
        let fetched = self.client.manifest(reference, ANY).await;
        let fetched = self.met(fetched).map_err(|e| refused(&e))?;
        let RawManifest { descriptor, bytes } = fetched;
        let reply = Reply::manifest(&descriptor.digest, &descriptor.media_type, bytes.clone());
        let parsed = manifest::parse(&bytes, Some(&descriptor.media_type));
        let (Ok(document), Ok(relation)) = (parsed, manifest::relation(&bytes)) else {
            return Ok(reply);
        };
        let put = Put {
            name: name.to_owned(),
            digest: descriptor.digest,
            tags: tag.into_iter().collect(),
            bytes: bytes.to_vec(),
            document,
            relation,
            // Its parts come when somebody asks for them.
            sparse: true,
        };
        let storage = self.storage.clone();
        blocking(move || put.store(&storage)).await?;
        Ok(reply)
    }

    /// Writes down that a tag was asked for, and what it is; `None` where it is no more.
    async fn keep_tag(&self, name: &str, tag: &str, is: Option<Digest>) -> Result<(), ServerError> {
        let (storage, name, tag) = (self.storage.clone(), name.to_owned(), tag.to_owned());
        blocking(move || {
            let order = storage.order()?;
            match is {
                Some(digest) => storage.set_tag(&order, &name, &tag, &digest),
                None => storage.remove_tag(&order, &name, &tag).map(drop),
            }
        })
        .await
    }

    /// A blob, from ours or through us.
    pub async fn blob(
        self: &Arc<Self>,
        name: &str,
        digest: &Digest,
        range: Option<&str>,
        head: bool,
    ) -> Result<Reply, Failure> {
        if let Some(reply) = blobs::local(&self.storage, name, digest, range).await? {
            return Ok(reply);
        }
        let reference = self.reference(name, &Key::Digest(digest.clone()))?;
        // Also where another repository has brought it here already: upstream says whether this one may show it.
        let size = self.met(self.client.blob_size(&reference, digest).await);
        let size = size.map_err(|e| refused(&e))?;
        let size = size.ok_or_else(|| blobs::unknown(digest))?;
        if self.take_over(name, digest).await?
            && let Some(reply) = blobs::local(&self.storage, name, digest, range).await?
        {
            return Ok(reply);
        }
        if head {
            return Ok(blobs::head(digest, size));
        }
        let download = self.download(name, &reference, digest, size).await?;
        blobs::part(digest, size, range, |reply, span| {
            reply.growing(download.reader(size, span))
        })
    }

    /// Links content that is here already.
    async fn take_over(&self, name: &str, digest: &Digest) -> Result<bool, ServerError> {
        let (storage, name, digest) = (self.storage.clone(), name.to_owned(), digest.clone());
        blocking(move || storage.link(&storage.order()?, &name, &digest)).await
    }

    /// Upstream's tags; ours where it gives no answer.
    pub async fn tags(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let (storage, repository) = (self.storage.clone(), name.to_owned());
        let local = async || blocking(move || storage.tags(&repository)).await;
        if self.is_resting() {
            return Ok(local().await?);
        }
        let reference = self.reference(name, &Key::Tag("latest".into()))?;
        match self.met(self.client.tags(&reference).await) {
            Ok(mut tags) => {
                tags.sort();
                Ok(Some(tags))
            }
            Err(Error::Status { status: 404, .. }) => Ok(None),
            Err(e) if is_away(&e) => Ok(local().await?),
            Err(e) => Err(refused(&e)),
        }
    }

    /// Upstream's referrers, or `None` where it gives no answer and ours must do.
    pub async fn referrers(
        &self,
        name: &str,
        subject: &Digest,
    ) -> Result<Option<Vec<Referrer>>, Failure> {
        if self.is_resting() {
            return Ok(None);
        }
        let reference = self.reference(name, &Key::Digest(subject.clone()))?;
        let listed = self.client.referrers(&reference, subject, None).await;
        match self.met(listed) {
            Ok(list) => Ok(Some(list)),
            Err(e) if is_away(&e) => Ok(None),
            Err(e) => Err(refused(&e)),
        }
    }
}

/// Is it upstream's trouble, rather than an answer?
fn is_away(error: &Error) -> bool {
    match error {
        Error::Connect { .. }
        | Error::Timeout { .. }
        | Error::Slow { .. }
        | Error::Cut { .. }
        | Error::Tls { .. }
        | Error::Proxy { .. }
        | Error::NotARegistry { .. }
        | Error::RateLimited { .. } => true,
        Error::Status { status, .. } => *status >= 500,
        // What is wrong with one image, or with our account, says nothing of the others.
        _ => false,
    }
}

/// What a client is told of upstream's answer.
fn refused(error: &Error) -> Failure {
    let mut message = format!("upstream: {error}");
    if let Some(source) = std::error::Error::source(error) {
        message.push_str(&format!(": {source}"));
    }
    let (status, code) = match error {
        Error::UnknownManifest { .. } => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
        Error::UnknownBlob { .. } => (StatusCode::NOT_FOUND, Code::BlobUnknown),
        // A 401 would make clients send their passwords for upstream here.
        Error::Unauthorized { .. } | Error::Denied { .. } => (StatusCode::FORBIDDEN, Code::Denied),
        Error::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
        _ => (StatusCode::BAD_GATEWAY, Code::Unknown),
    };
    let wait = match error {
        Error::RateLimited { retry_after, .. } => *retry_after,
        _ => None,
    };
    refuse_with(status, code, message, |reply| match wait {
        Some(wait) => reply.header(RETRY_AFTER, wait.as_secs().to_string()),
        None => reply,
    })
}

fn unknown(name: &str) -> Failure {
    refuse(
        StatusCode::NOT_FOUND,
        Code::ManifestUnknown,
        format!("no such manifest in {name}, here or upstream"),
    )
}

/// How references name an upstream, and whether it speaks plain HTTP.
pub(super) fn registry(upstream: &str) -> Result<(String, bool), ServerError> {
    let bad = |why: &str| ServerError::Upstream {
        upstream: upstream.to_owned(),
        why: why.to_owned(),
    };
    let (scheme, rest) = upstream.split_once("://").unwrap_or(("", upstream));
    let plain = match scheme {
        "" | "https" => false,
        "http" => true,
        _ => return Err(bad("only http and https are spoken")),
    };
    let host = rest.trim_end_matches('/');
    if host.contains('/') || host.contains('@') || host.is_empty() {
        return Err(bad("a host and a port, no more"));
    }
    if is_hub(host) || host == "registry-1.docker.io" {
        return Ok(("docker.io".into(), plain));
    }
    // A name without dot and port is no registry to a reference; its port makes it one.
    let named = match host.contains(['.', ':']) || host == "localhost" {
        true => host.to_owned(),
        false => format!("{host}:{}", if plain { 80 } else { 443 }),
    };
    match Reference::new(&named, "a", Some("b"), None) {
        Ok(r) if r.registry() == named => Ok((named, plain)),
        _ => Err(bad("it cannot be the host of an image's name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_in_every_form() {
        let ok = |u: &str| registry(u).unwrap();
        assert_eq!(
            ok("https://registry-1.docker.io"),
            ("docker.io".into(), false)
        );
        assert_eq!(ok("docker.io"), ("docker.io".into(), false));
        assert_eq!(
            ok("http://127.0.0.1:5000/"),
            ("127.0.0.1:5000".into(), true)
        );
        assert_eq!(ok("https://quay.example"), ("quay.example".into(), false));
        assert_eq!(ok("http://mirror"), ("mirror:80".into(), true));
        for bad in [
            "",
            "https://",
            "ftp://x.y",
            "https://u:p@x.y",
            "https://x.y/v2",
            "http://a b",
        ] {
            assert!(registry(bad).is_err(), "{bad}");
        }
    }
}
