//! Blobs: streamed, bounded by their descriptor, resumed where a connection broke.
//!
//! ```text
//!  endpoint 1 ── cut ──► wait ──► Range: bytes=N- ── cut ──► … ── tries used up ──► endpoint 2 ──► …
//!      └───────────────────────────── what was delivered counts for all ────────────────┘
//! ```

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use corten_spec::{Reference, digest::Hasher};
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::resolve::nobody;
use super::session::{Ask, Session};
use super::status::{self, Subject};
use super::transport::Answer;
use super::{Descriptor, Error};
use crate::protocol::{header, path};

/// So many bytes count as progress, which renews the tries: a registry that cuts after every byte must not keep us for ever.
const PROGRESS: u64 = 64 << 10;

/// Where the bytes go.
pub(super) enum Sink {
    Channel(mpsc::Sender<Bytes>),
    Buffer(Vec<u8>),
}

/// A blob under way: what has been handed on so far.
pub(super) struct Delivery<'a> {
    reference: &'a Reference,
    descriptor: &'a Descriptor,
    position: u64,
    /// There is one if the bytes are seen from the first on.
    hasher: Option<Hasher>,
    sink: Sink,
}

impl<'a> Delivery<'a> {
    pub fn new(
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        offset: u64,
        sink: Sink,
    ) -> Self {
        Self {
            reference,
            descriptor,
            position: offset,
            hasher: (offset == 0).then(|| descriptor.digest.hasher()),
            sink,
        }
    }

    /// Downloads from the first endpoint that has it, and the rest from the next if that one fails.
    pub async fn run(
        mut self,
        session: &Session,
        endpoints: &[Arc<Endpoint>],
    ) -> Result<Sink, Error> {
        let mut last = None;
        for endpoint in endpoints.iter().filter(|e| e.capabilities.pull) {
            match self.through(session, endpoint).await {
                Ok(()) => {
                    self.verify(endpoint)?;
                    return Ok(self.sink);
                }
                Err(e @ Error::Abandoned { .. }) => return Err(e),
                Err(e) => {
                    tracing::debug!(host = endpoint.account, error = %e, "cannot download here");
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or_else(|| nobody(self.reference, "pull")))
    }

    async fn through(&mut self, session: &Session, endpoint: &Endpoint) -> Result<(), Error> {
        // Who asks for a blob has had its manifest, so the host was there.
        let mut backoff = Backoff::new(session.config().retry, true);
        while self.position < self.descriptor.size || self.must_ask() {
            let before = self.position;
            match self.once(session, endpoint).await {
                Ok(()) => return Ok(()),
                Err(e) => {
                    if self.position - before >= PROGRESS {
                        backoff.progress();
                    }
                    backoff.wait(e).await?;
                }
            }
        }
        Ok(())
    }

    /// An offset past the end is an error that a request would bring, and must not pass for a success.
    fn must_ask(&self) -> bool {
        self.position > self.descriptor.size
    }

    async fn once(&mut self, session: &Session, endpoint: &Endpoint) -> Result<(), Error> {
        let repository = self.reference.repository();
        let mut ask = Ask::get(repository, path::blob(repository, &self.descriptor.digest));
        // A blob is its bytes as pushed: a proxy's compression would change them.
        ask.headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.position > 0 {
            let range = format!("bytes={}-", self.position);
            // Digits are always a header value.
            let value =
                HeaderValue::from_str(&range).unwrap_or(HeaderValue::from_static("bytes=0-"));
            ask.headers.insert(RANGE, value);
        }
        let mut answer = session.ask(endpoint, &ask).await?;
        let mut skip = match answer.status {
            // Servers may ignore ranges (RFC 9110 §14.2): what we have comes again.
            StatusCode::OK => self.position,
            StatusCode::PARTIAL_CONTENT => {
                self.check_range(&answer)?;
                0
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.size_mismatch(&answer, 0)),
            _ => {
                let subject = Subject::Blob(&self.descriptor.digest);
                return Err(status::refusal(answer, subject, repository).await);
            }
        };
        let start = self.position - skip;
        if let Some(length) = answer.content_length()
            && start.saturating_add(length) != self.descriptor.size
        {
            return Err(self.size_mismatch(&answer, start.saturating_add(length)));
        }
        while let Some(mut bytes) = answer.chunk().await.map_err(|e| self.located(e))? {
            let dropped = skip.min(bytes.len() as u64);
            skip -= dropped;
            bytes.advance(usize::try_from(dropped).unwrap_or(bytes.len()));
            if !bytes.is_empty() {
                self.deliver(bytes, &answer).await?;
            }
        }
        match self.position == self.descriptor.size && skip == 0 {
            true => Ok(()),
            // Chunked and unmarked bodies end early without a word from HTTP.
            false => Err(Error::Cut {
                host: answer.place.authority(),
                what: self.what(),
                received: self.position,
                tries: 1,
                source: None,
            }),
        }
    }

    async fn deliver(&mut self, bytes: Bytes, answer: &Answer) -> Result<(), Error> {
        let end = self.position + bytes.len() as u64;
        if end > self.descriptor.size {
            return Err(self.size_mismatch(answer, end));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        match &mut self.sink {
            Sink::Buffer(buffer) => buffer.extend_from_slice(&bytes),
            Sink::Channel(tx) => tx.send(bytes).await.map_err(|_| Error::Abandoned {
                digest: self.descriptor.digest.clone(),
            })?,
        }
        self.position = end;
        Ok(())
    }

    fn check_range(&self, answer: &Answer) -> Result<(), Error> {
        let got = answer.header(CONTENT_RANGE).and_then(header::content_range);
        let wrong = |why: &str| Error::NotARegistry {
            host: answer.place.authority(),
            why: format!("its Content-Range {why}"),
        };
        match got {
            None => Err(wrong("is missing or malformed")),
            Some((_, Some(total))) if total != self.descriptor.size => {
                Err(self.size_mismatch(answer, total))
            }
            Some((span, _)) if span.start != self.position => {
                Err(wrong("is not the range that was asked for"))
            }
            Some(_) => Ok(()),
        }
    }

    fn verify(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let Some(actual) = self.hasher.take().map(Hasher::finish) else {
            return Ok(());
        };
        match actual == self.descriptor.digest {
            true => Ok(()),
            false => Err(Error::DigestMismatch {
                host: endpoint.place("").authority(),
                expected: self.descriptor.digest.clone(),
                actual,
            }),
        }
    }

    fn what(&self) -> String {
        format!("blob {}", self.descriptor.digest)
    }

    fn size_mismatch(&self, answer: &Answer, actual: u64) -> Error {
        Error::SizeMismatch {
            host: answer.place.authority(),
            what: self.what(),
            expected: self.descriptor.size,
            actual,
        }
    }

    /// The transport knows of one answer, a person wants to know how far the blob got.
    fn located(&self, error: Error) -> Error {
        match error {
            Error::Cut { host, source, .. } => Error::Cut {
                host,
                what: self.what(),
                received: self.position,
                tries: 1,
                source,
            },
            other => other,
        }
    }
}
