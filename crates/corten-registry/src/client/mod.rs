//! The pulling and pushing end.
//!
//! ```text
//!  resolve, blob, push,   one operation: which mirror, how often, from where on
//!  manifests, lists, …
//!      │
//!      ▼
//!  session ──► login     one request: authentication, redirects, plain HTTP on loopback
//!      │
//!      ▼
//!  transport             one exchange: connection pool, proxy, TCP, TLS, bounds on waiting
//! ```
//!
//! Each arrow goes one way: what is above the transport never sees a socket, and what is above the
//! session never sees a secret.

mod backoff;
mod blob;
pub mod config;
mod connect;
mod document;
mod endpoint;
mod error;
mod hosts;
mod lists;
mod login;
mod manifests;
mod outgoing;
mod parts;
mod place;
pub mod proxy;
mod push;
mod reader;
mod referrers;
mod remote;
mod resolve;
mod session;
mod status;
mod tls;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use corten_spec::digest::{Algorithm, Hasher};
use corten_spec::{Digest, Platform, Reference};
use http::{Method, StatusCode};
use tokio::sync::mpsc;

pub use crate::protocol::manifest::{Descriptor, ParsedManifest, Referrer};
pub use config::{ClientConfig, Parallel, Retry, Timeouts};
pub use error::{Error, Hint};
pub use lists::Found;
pub use manifests::{ANY, RawManifest};
pub use outgoing::Readable;
pub use push::Pushed;
pub use reader::BlobReader;
pub use remote::RemoteBlob;

use crate::protocol::manifest::relation;
use crate::protocol::path;
use endpoint::{Endpoint, Turns};
use session::Session;

/// A registry client. Cheap to clone; clones share connections and tokens. Its futures need a tokio
/// runtime with I/O and time; connections live as long as the runtime that opened them.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    /// By registry; read from the files once.
    endpoints: Mutex<HashMap<String, Vec<Arc<Endpoint>>>>,
}

/// What a reference means for one platform.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the tag or digest names: an index, or the manifest itself.
    pub target: Descriptor,
    pub target_bytes: Bytes,
    /// The image manifest; the target's own where that is no index.
    pub manifest_digest: Digest,
    pub manifest_bytes: Bytes,
    pub manifest: ParsedManifest,
}

impl Client {
    /// Opens nothing and reads nothing yet.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                session: Session::new(config),
                endpoints: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// Finds the manifest of `platform` behind a tag or digest. All bytes in the result have been
    /// checked against their digests; layers are of types that can be unpacked.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let endpoints = self.endpoints(reference.registry())?;
        resolve::resolve(&self.inner.session, &endpoints, reference, platform).await
    }

    /// Streams a blob into `tx` from byte `offset` on, which earlier tries have left with the caller. Cut connections, 429
    /// and 5xx are tried again, the rest by `Range`; never more than the descriptor's size is sent.
    ///
    /// With `offset` 0 the digest is verified before `Ok`; with another the caller must do that, as
    /// only they have the first bytes. After an error the bytes sent so far are as good as the
    /// connection was: a retry may start behind them, unless the error is [`Error::DigestMismatch`].
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        tx: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let endpoints = self.endpoints(reference.registry())?;
        let sink = blob::Sink::Channel(tx);
        let delivery = blob::Delivery::new(self, reference, descriptor, offset, sink);
        delivery.run(&endpoints).await.map(drop)
    }

    /// As [`blob`](Self::blob), with the digest left to the receiver, whatever the offset.
    pub async fn raw_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
        tx: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let endpoints = self.endpoints(reference.registry())?;
        let sink = blob::Sink::Channel(tx);
        let delivery = blob::Delivery::new(self, reference, descriptor, offset, sink).unverified();
        delivery.run(&endpoints).await.map(drop)
    }

    /// A small blob as a whole, such as an image's configuration: at most `max` bytes, verified.
    pub async fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        max: u64,
    ) -> Result<Vec<u8>, Error> {
        if descriptor.size > max {
            return Err(Error::TooLarge {
                host: reference.registry().into(),
                what: format!("blob {}", descriptor.digest),
                limit: max,
            });
        }
        let endpoints = self.endpoints(reference.registry())?;
        let sink = blob::Sink::Buffer(Vec::new());
        let delivery = blob::Delivery::new(self, reference, descriptor, 0, sink);
        match delivery.run(&endpoints).await? {
            blob::Sink::Buffer(bytes) => Ok(bytes),
            // The sink that went in comes out.
            blob::Sink::Channel(_) | blob::Sink::Waiting { .. } => Ok(Vec::new()),
        }
    }

    /// A blob as a source that can be read and sought, for [`push_blob`](Self::push_blob) to another registry.
    /// To be called on a tokio runtime, and to be read off it.
    pub fn open_blob(&self, reference: &Reference, descriptor: &Descriptor) -> RemoteBlob {
        RemoteBlob::new(self.clone(), reference.clone(), descriptor.clone())
    }

    /// The size of a blob in bytes, or `None` where the repository lacks it.
    pub async fn blob_size(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let repository = reference.repository();
        let mut ask = session::Ask::get(repository, path::blob(repository, digest));
        ask.method = Method::HEAD;
        let mut turns = self.turns(reference)?;
        loop {
            let endpoint = turns.next()?;
            let asked = manifests::asked(&self.inner.session, &endpoint, &ask).await;
            let Some(answer) = turns.heard(asked) else {
                continue;
            };
            match answer.status {
                StatusCode::OK => {
                    let size = answer.content_length();
                    return size.map(Some).ok_or_else(|| Error::NotARegistry {
                        host: answer.place.authority(),
                        why: "it does not say how large a blob is".into(),
                    });
                }
                StatusCode::NOT_FOUND => return Ok(None),
                _ => {
                    let subject = status::Subject::Blob(digest);
                    let refused = status::refusal(answer, subject, repository).await;
                    turns.heard::<()>(Err(refused));
                }
            }
        }
    }

    /// Uploads a blob, unless the repository has it already. `from` yields the descriptor's bytes;
    /// the registry checks them against its digest.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        from: impl Readable,
    ) -> Result<Pushed, Error> {
        self.push_blob_or_mount(reference, descriptor, None, from)
            .await
    }

    /// The same, but the registry is asked first to take the blob over from `mount`, another repository of its own.
    /// Where it does not, the blob is uploaded.
    pub async fn push_blob_or_mount(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount: Option<&str>,
        from: impl Readable,
    ) -> Result<Pushed, Error> {
        let endpoint = self.push_endpoint(reference)?;
        let (session, repository) = (&self.inner.session, reference.repository());
        push::Upload::new(session, &endpoint, repository, descriptor, from)
            .run(mount)
            .await
    }

    /// Deletes a blob from a repository.
    pub async fn delete_blob(&self, reference: &Reference, digest: &Digest) -> Result<(), Error> {
        let endpoint = self.push_endpoint(reference)?;
        let repository = reference.repository();
        let access = session::Access::Delete(repository.to_owned());
        let ask = session::Ask::new(Method::DELETE, path::blob(repository, digest), access);
        let answer = manifests::asked(&self.inner.session, &endpoint, &ask).await?;
        let subject = match answer.status {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => {
                answer.discard().await;
                return Ok(());
            }
            StatusCode::NOT_FOUND => status::Subject::Blob(digest),
            _ => status::Subject::Deletion,
        };
        Err(status::refusal(answer, subject, repository).await)
    }

    /// A manifest, index or artifact as it is, by the reference's digest or tag; checked against its digest and not
    /// looked into. `accept` is the header of that name; [`ANY`] where all is welcome.
    pub async fn manifest(
        &self,
        reference: &Reference,
        accept: &str,
    ) -> Result<RawManifest, Error> {
        let key = reference.manifest_key();
        let mut turns = self.turns(reference)?;
        loop {
            let endpoint = turns.next()?;
            let at = self.manifests(&endpoint, reference);
            if let Some(found) = turns.heard(at.get(&key, accept, false).await) {
                return Ok(found);
            }
        }
    }

    /// What a reference names, without its bytes; `None` where there is no such manifest.
    pub async fn head(&self, reference: &Reference) -> Result<Option<Descriptor>, Error> {
        let key = reference.manifest_key();
        let mut turns = self.turns(reference)?;
        loop {
            let endpoint = turns.next()?;
            let at = self.manifests(&endpoint, reference);
            if let Some(found) = turns.heard(at.head(&key).await) {
                return Ok(found);
            }
        }
    }

    /// Uploads a manifest or index under the reference's tag (by its digest where there is none). What
    /// it names must have been uploaded before. If it has a `subject` and the registry does not keep track of
    /// that, it is entered into the subject's list of referrers.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Error> {
        let endpoint = self.push_endpoint(reference)?;
        let mut hasher = match reference.digest() {
            Some(digest) => digest.hasher(),
            None => Hasher::new(Algorithm::Sha256),
        };
        hasher.update(&bytes);
        let digest = hasher.finish();
        let by_digest = || digest.to_string();
        let key = reference.tag().map_or_else(by_digest, str::to_owned);
        let at = self.manifests(&endpoint, reference);
        let understood = at.put(&key, media_type, &bytes).await?;
        // What is no JSON has no subject, and is none of our business.
        if !understood && matches!(relation(&bytes), Ok(Some(_))) {
            let descriptor = Descriptor {
                digest: digest.clone(),
                size: bytes.len() as u64,
                media_type: media_type.to_owned(),
            };
            referrers::enter(at, &descriptor, &bytes).await?;
        }
        Ok(digest)
    }

    /// Deletes a manifest by the reference's digest; by tag, where there is no digest, only the tag. A list of
    /// referrers that clients keep is corrected.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), Error> {
        let endpoint = self.push_endpoint(reference)?;
        let at = self.manifests(&endpoint, reference);
        let key = reference.manifest_key();
        let Some(digest) = reference.digest() else {
            return at.delete(&key).await;
        };
        let subject = match at.get(&key, ANY, false).await {
            Ok(manifest) => relation(&manifest.bytes).ok().flatten().map(|r| r.subject),
            // What is there cannot be read, and can be deleted all the same.
            Err(Error::Manifest { .. } | Error::MediaType { .. } | Error::TooLarge { .. }) => None,
            Err(e) => return Err(e),
        };
        at.delete(&key).await?;
        match subject {
            Some(subject) if !referrers::supported(at, &subject).await? => {
                referrers::strike(at, &subject, digest).await
            }
            _ => Ok(()),
        }
    }

    /// What refers to the manifest `digest` in the reference's repository, of one artifact type or all.
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, Error> {
        let mut turns = self.turns(reference)?;
        loop {
            let endpoint = turns.next()?;
            let at = self.manifests(&endpoint, reference);
            let listed = referrers::list(at, digest, artifact_type).await;
            if let Some(found) = turns.heard(listed) {
                return Ok(found);
            }
        }
    }

    /// All tags of the reference's repository, in the registry's order.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        let (session, repository) = (&self.inner.session, reference.repository());
        let mut turns = self.turns(reference)?;
        loop {
            let endpoint = turns.next()?;
            if let Some(found) = turns.heard(lists::tags(session, &endpoint, repository).await) {
                return Ok(found);
            }
        }
    }

    /// A small document by its URL, of something that belongs to a registry and lies elsewhere; `None` where there is none.
    pub async fn document(
        &self,
        registry: &str,
        url: &str,
        max: usize,
    ) -> Result<Option<Bytes>, Error> {
        let endpoint = self.own_endpoint(registry)?;
        document::get(&self.inner.session, &endpoint, url, max).await
    }

    /// Asks a registry (`HOST[:PORT]`) whether it lets us in, as whom the configuration names.
    pub async fn check(&self, registry: &str) -> Result<(), Error> {
        let endpoint = self.own_endpoint(registry)?;
        lists::ping(&self.inner.session, &endpoint).await
    }

    /// All repositories of a registry (`HOST[:PORT]`), as far as it tells.
    pub async fn catalog(&self, registry: &str) -> Result<Vec<String>, Error> {
        let endpoint = self.own_endpoint(registry)?;
        lists::catalog(&self.inner.session, &endpoint).await
    }

    /// At most `limit` repositories that have to do with `word`: by the registry's own search, else by name.
    pub async fn search(
        &self,
        registry: &str,
        word: &str,
        limit: usize,
    ) -> Result<Vec<Found>, Error> {
        let endpoint = self.own_endpoint(registry)?;
        lists::search(&self.inner.session, &endpoint, registry, word, limit).await
    }

    fn manifests<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        reference: &'a Reference,
    ) -> manifests::Manifests<'a> {
        manifests::Manifests {
            session: &self.inner.session,
            endpoint,
            reference,
        }
    }

    /// The endpoints that may say what the reference means.
    fn turns(&self, reference: &Reference) -> Result<Turns, Error> {
        let mut endpoints = self.endpoints(reference.registry())?;
        let by_digest = reference.digest().is_some();
        endpoints.retain(|e| e.capabilities.resolve || (by_digest && e.capabilities.pull));
        let nobody = resolve::nobody(reference.registry(), "resolve");
        Ok(Turns::new(endpoints, nobody))
    }

    fn endpoints(&self, registry: &str) -> Result<Vec<Arc<Endpoint>>, Error> {
        let mut known = self
            .inner
            .endpoints
            .lock()
            .unwrap_or_else(|p| p.into_inner());
        if let Some(list) = known.get(registry) {
            return Ok(list.clone());
        }
        let list = endpoint::endpoints(self.inner.session.config(), registry)?;
        known.insert(registry.to_owned(), list.clone());
        Ok(list)
    }

    /// A push goes to one place: the last that may take it, which is the registry itself wherever it can be.
    fn push_endpoint(&self, reference: &Reference) -> Result<Arc<Endpoint>, Error> {
        let list = self.endpoints(reference.registry())?;
        let able = list.into_iter().rev().find(|e| e.capabilities.push);
        able.ok_or_else(|| resolve::nobody(reference.registry(), "push"))
    }

    /// The registry itself: what it has is not for its mirrors to say.
    fn own_endpoint(&self, registry: &str) -> Result<Arc<Endpoint>, Error> {
        let last = self.endpoints(registry)?.pop();
        last.ok_or_else(|| resolve::nobody(registry, "list"))
    }
}

/// Reads text as a `hosts.toml`: see `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_hosts(text: &str) {
    let dir = std::path::Path::new("/certs");
    if let Ok(file) = hosts::parse(text, dir) {
        for host in file.mirrors.iter().chain(&file.server) {
            // What was read is an address, or is refused before anything is sent.
            let _ = place::Place::parse(&host.url);
        }
    }
}

/// Reads text as a URL and as a `Location`: see `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_place(text: &str) {
    if let Some(place) = place::Place::parse(text) {
        // What is shown is read as the same.
        assert_eq!(place::Place::parse(&place.to_string()), Some(place));
    }
    let home = place::Place {
        tls: true,
        host: "h".into(),
        port: 443,
        path: "/v2/a/x".into(),
    };
    if let Some(there) = home.join(text) {
        assert!(there.path.starts_with('/'), "{there}");
        assert!(there.path.parse::<http::Uri>().is_ok());
    }
}
