//! Blobs: streamed, bounded by their descriptor, resumed where a connection broke.
//!
//! ```text
//!  endpoint 1 ── cut ──► wait ──► Range: bytes=N- ── cut ──► … ── tries used up ──► endpoint 2 ──► …
//!      └───────────────────────────── what was delivered counts for all ────────────────┘
//! ```
//!
//! A [`Delivery`] is of a whole blob or of a part of one; `parts` makes a large blob of several at once.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use corten_spec::{Reference, digest::Hasher};
use http::StatusCode;
use http::header::{CONTENT_RANGE, RANGE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::parts;
use super::place::Place;
use super::resolve::nobody;
use super::session::Ask;
use super::status::{self, Subject};
use super::transport::Answer;
use super::{Client, Descriptor, Error};
use crate::protocol::header::{self, Span};
use crate::protocol::path;

/// So many bytes count as progress, which renews the tries: a registry that cuts after every byte must not keep us for ever.
const PROGRESS: u64 = 64 << 10;

/// Where the bytes go.
pub(super) enum Sink {
    Channel(mpsc::Sender<Bytes>),
    Buffer(Vec<u8>),
    /// A part's, which waits for its turn: so many bytes of it as there are permits.
    Waiting {
        to: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
        room: Arc<Semaphore>,
        most: u32,
    },
}

/// A blob, or a part of one, under way: what has been handed on so far.
pub(super) struct Delivery<'a> {
    pub client: &'a Client,
    pub reference: &'a Reference,
    pub descriptor: &'a Descriptor,
    pub position: u64,
    /// Where it ends: with the blob, unless it is a part.
    end: u64,
    /// Where a part may be tried first: a registry's storage, which it sent another part to.
    pub shortcut: Option<Place>,
    /// Where the last bytes came from.
    pub served_by: Option<Place>,
    /// There is one if the bytes are seen from the first on.
    hasher: Option<Hasher>,
    sink: Sink,
}

impl<'a> Delivery<'a> {
    pub fn new(
        client: &'a Client,
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        offset: u64,
        sink: Sink,
    ) -> Self {
        Self {
            client,
            reference,
            descriptor,
            position: offset,
            end: descriptor.size,
            shortcut: None,
            served_by: None,
            hasher: (offset == 0).then(|| descriptor.digest.hasher()),
            sink,
        }
    }

    /// Of a part, unverified.
    pub fn part(
        client: &'a Client,
        reference: &'a Reference,
        descriptor: &'a Descriptor,
        span: Span,
        sink: Sink,
    ) -> Self {
        Self {
            end: span.end,
            hasher: None,
            ..Self::new(client, reference, descriptor, span.start, sink)
        }
    }

    /// For a receiver that computes the digest anyway: twice is half a second of processor a gigabyte.
    pub fn unverified(self) -> Self {
        Self {
            hasher: None,
            ..self
        }
    }

    /// Downloads from the first endpoint that has it, and the rest from the next if that one fails.
    pub async fn run(mut self, endpoints: &[Arc<Endpoint>]) -> Result<Sink, Error> {
        let mut last = None;
        for endpoint in endpoints.iter().filter(|e| e.capabilities.pull) {
            match self.through(endpoint).await {
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
        Err(last.unwrap_or_else(|| nobody(self.reference.registry(), "pull")))
    }

    async fn through(&mut self, endpoint: &Arc<Endpoint>) -> Result<(), Error> {
        if parts::worth_while(self) {
            parts::run(self, endpoint).await?;
        }
        self.stream(endpoint).await
    }

    /// The next `length` bytes as a part by themselves.
    pub async fn stream_until(&mut self, endpoint: &Endpoint, length: u64) -> Result<(), Error> {
        let end = self.end;
        self.end = self.position.saturating_add(length).min(end);
        let streamed = self.stream(endpoint).await;
        self.end = end;
        streamed
    }

    /// What is missing, in one stream, as often as it takes.
    pub async fn stream(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        // Who asks for a blob has had its manifest, so the host was there.
        let retry = self.client.inner.session.config().retry;
        let mut backoff = Backoff::new(retry, true);
        while self.position < self.end || self.must_ask() {
            let before = self.position;
            match self.once(endpoint).await {
                Ok(()) => return Ok(()),
                Err(e) => {
                    if self.position - before >= PROGRESS {
                        backoff.progress();
                    }
                    // A shortcut that has run out is nothing to wait for.
                    match self.shortcut.take() {
                        Some(_) if !matches!(e, Error::Abandoned { .. }) => {}
                        _ => backoff.wait(e).await?,
                    }
                }
            }
        }
        Ok(())
    }

    /// An offset past the end is an error that a request would bring, and must not pass for a success.
    fn must_ask(&self) -> bool {
        self.position > self.descriptor.size
    }

    /// Is it a part, or the whole blob?
    fn is_part(&self) -> bool {
        self.end < self.descriptor.size
    }

    async fn once(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let answer = self.ask(endpoint).await?;
        self.take(answer).await
    }

    /// Asks for what is missing.
    async fn ask(&self, endpoint: &Endpoint) -> Result<Answer, Error> {
        let repository = self.reference.repository();
        let mut ask = Ask::get(repository, path::blob(repository, &self.descriptor.digest));
        ask.at = self.shortcut.clone();
        if self.is_part() {
            let last = self.end.saturating_sub(1);
            ask = ask.with(RANGE, &format!("bytes={}-{last}", self.position));
        } else if self.position > 0 {
            ask = ask.with(RANGE, &format!("bytes={}-", self.position));
        }
        self.client.inner.session.ask(endpoint, &ask).await
    }

    /// Takes an answer's body, from where it starts to where it ends or breaks off.
    async fn take(&mut self, mut answer: Answer) -> Result<(), Error> {
        let (start, end) = match answer.status {
            // Servers may ignore ranges (RFC 9110 §14.2): what we have comes again.
            StatusCode::OK if !self.is_part() => (0, self.descriptor.size),
            StatusCode::OK => {
                return Err(Error::NotARegistry {
                    host: answer.place.authority(),
                    why: "it sends all of a blob where a part was asked for".into(),
                });
            }
            StatusCode::PARTIAL_CONTENT => {
                let span = self.check_range(&answer)?;
                self.served_by = Some(answer.place.clone());
                (span.start, span.end)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.size_mismatch(&answer, 0)),
            _ => {
                let subject = Subject::Blob(&self.descriptor.digest);
                return Err(status::refusal(answer, subject, self.reference.repository()).await);
            }
        };
        if let Some(length) = answer.content_length()
            && start.saturating_add(length) != end
        {
            return Err(self.size_mismatch(&answer, start.saturating_add(length)));
        }
        let mut skip = self.position - start;
        while let Some(mut bytes) = answer.chunk().await.map_err(|e| self.located(e))? {
            let dropped = skip.min(bytes.len() as u64);
            skip -= dropped;
            bytes.advance(usize::try_from(dropped).unwrap_or(bytes.len()));
            if !bytes.is_empty() {
                self.deliver(bytes, &answer).await?;
            }
        }
        match self.position == self.end && skip == 0 {
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
        if end > self.end {
            return Err(self.size_mismatch(answer, end));
        }
        self.hand_on(bytes).await
    }

    /// The next bytes, known to be within bounds.
    pub async fn hand_on(&mut self, bytes: Bytes) -> Result<(), Error> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        let length = bytes.len() as u64;
        let abandoned = || Error::Abandoned {
            digest: self.descriptor.digest.clone(),
        };
        match &mut self.sink {
            Sink::Buffer(buffer) => buffer.extend_from_slice(&bytes),
            Sink::Channel(tx) => tx.send(bytes).await.map_err(|_| abandoned())?,
            Sink::Waiting { to, room, most } => {
                let want = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(*most);
                let permit = room.clone().acquire_many_owned(want).await;
                let permit = permit.map_err(|_| abandoned())?;
                to.send((bytes, permit)).map_err(|_| abandoned())?;
            }
        }
        self.position += length;
        Ok(())
    }

    fn check_range(&self, answer: &Answer) -> Result<Span, Error> {
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
            Some((span, _)) if span.start != self.position || span.end > self.end => {
                Err(wrong("is not the range that was asked for"))
            }
            Some((span, _)) => Ok(span),
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
