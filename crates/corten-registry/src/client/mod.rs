//! The pulling and pushing end.
//!
//! ```text
//!  resolve, blob, push   one operation: which mirror, how often, from where on
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
mod endpoint;
mod error;
mod hosts;
mod login;
mod place;
pub mod proxy;
mod push;
mod reader;
mod resolve;
mod session;
mod status;
mod tls;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use corten_spec::{Digest, Platform, Reference};
use tokio::sync::mpsc;

pub use crate::protocol::manifest::{Descriptor, ParsedManifest};
pub use config::{ClientConfig, Retry, Timeouts};
pub use error::{Error, Hint};
pub use reader::BlobReader;

use endpoint::Endpoint;
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
        let endpoints = self.endpoints(reference)?;
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
        let endpoints = self.endpoints(reference)?;
        let sink = blob::Sink::Channel(tx);
        let delivery = blob::Delivery::new(reference, descriptor, offset, sink);
        delivery
            .run(&self.inner.session, &endpoints)
            .await
            .map(drop)
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
        let endpoints = self.endpoints(reference)?;
        let sink = blob::Sink::Buffer(Vec::new());
        let delivery = blob::Delivery::new(reference, descriptor, 0, sink);
        match delivery.run(&self.inner.session, &endpoints).await? {
            blob::Sink::Buffer(bytes) => Ok(bytes),
            // The sink that went in comes out.
            blob::Sink::Channel(_) => Ok(Vec::new()),
        }
    }

    /// Uploads a blob, unless the repository has it already. `from` yields the descriptor's bytes;
    /// the registry checks them against its digest.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        from: impl std::io::Read + std::io::Seek + Send + 'static,
    ) -> Result<(), Error> {
        let endpoint = self.push_endpoint(reference)?;
        let upload = push::Upload {
            session: &self.inner.session,
            endpoint: &endpoint,
            reference,
            descriptor,
            from: Some(from),
        };
        upload.run().await
    }

    /// Uploads a manifest or index under the reference's tag (by its digest where there is none). What
    /// it names must have been uploaded before.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Error> {
        let endpoint = self.push_endpoint(reference)?;
        push::manifest(&self.inner.session, &endpoint, reference, media_type, bytes).await
    }

    fn endpoints(&self, reference: &Reference) -> Result<Vec<Arc<Endpoint>>, Error> {
        let registry = reference.registry();
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
        let list = self.endpoints(reference)?;
        let able = list.into_iter().rev().find(|e| e.capabilities.push);
        able.ok_or_else(|| resolve::nobody(reference, "push"))
    }
}
