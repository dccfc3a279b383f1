//! The pulling and pushing end.
//!
//! ```text
//!  resolve, blob, push ─► attempt: mirrors, retry, resume ─► session: 401 flow, redirects ─► transport: pool, TCP, TLS, proxy
//!                                                              │
//!                                                              └─► auth: challenge, credentials, token
//! ```
//!
//! Each arrow goes one way. What is above the transport never sees a socket, and what is below the
//! session never sees a secret other than as a header.

pub mod config;
mod error;
pub mod proxy;
mod reader;

use std::sync::Arc;

use bytes::Bytes;
use corten_spec::{Digest, Platform, Reference};
use tokio::sync::mpsc;

pub use crate::protocol::manifest::{Descriptor, ParsedManifest};
pub use config::{ClientConfig, Retry, Timeouts};
pub use error::{Error, Hint};
pub use reader::BlobReader;

/// A registry client. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
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
            inner: Arc::new(Inner { config }),
        }
    }

    pub async fn resolve(
        &self,
        _reference: &Reference,
        _platform: &Platform,
    ) -> Result<Resolved, Error> {
        let _ = &self.inner.config;
        unimplemented!("lands with the transport")
    }

    pub async fn blob(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _offset: u64,
        _tx: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        unimplemented!("lands with the transport")
    }

    pub async fn blob_bytes(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _max: u64,
    ) -> Result<Vec<u8>, Error> {
        unimplemented!("lands with the transport")
    }

    /// Uploads a blob (in chunks, resumed after a cut), unless the repository has it already.
    pub async fn push_blob(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _from: impl std::io::Read + std::io::Seek + Send + 'static,
    ) -> Result<(), Error> {
        unimplemented!("lands with the transport")
    }

    /// Uploads a manifest or index under the reference's tag (or digest).
    pub async fn push_manifest(
        &self,
        _reference: &Reference,
        _media_type: &str,
        _bytes: Bytes,
    ) -> Result<Digest, Error> {
        unimplemented!("lands with the transport")
    }
}
