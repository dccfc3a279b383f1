//! Uploads of blobs: mounted from another repository if that can be, else sent in one request or in chunks.
//!
//! ```text
//!  there? ──yes──► present
//!    │ no
//!    ▼
//!  mount ──201──► mounted
//!    │ 202, or refused
//!    ▼
//!  begin ──► PATCH … ──► PUT digest ──► uploaded        small blobs: PUT alone
//!    ▲          │ cut
//!    └── gone ──┴── GET: how far? ──► PATCH from there
//! ```

use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, StatusCode};

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::outgoing::{Content, Readable, Source};
use super::place::Place;
use super::session::{Access, Ask, Session};
use super::status::{self, Subject};
use super::transport::Answer;
use super::{Descriptor, Error};
use crate::protocol::{header, path, query};

/// Up to here a blob goes in a single PUT: what a cut costs is not worth a request more.
const SMALL: u64 = 4 << 20;
/// Chunks for a registry (or what stands before it) that refuses a request as too large.
const CHUNK: u64 = 16 << 20;

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there before.
    Present,
    /// The registry took it over from another repository; no bytes were sent.
    Mounted,
    Uploaded,
}

/// One blob on its way up.
pub(super) struct Upload<'a> {
    session: &'a Session,
    endpoint: &'a Endpoint,
    repository: &'a str,
    descriptor: &'a Descriptor,
    source: Source,
    /// Bytes in one request; all of it where there is no bound.
    chunk: Option<u64>,
    /// How often an upload was begun from its first byte.
    begun: u32,
}

/// An upload as the registry knows it.
struct Standing {
    at: Place,
    position: u64,
}

impl<'a> Upload<'a> {
    pub fn new(
        session: &'a Session,
        endpoint: &'a Endpoint,
        repository: &'a str,
        descriptor: &'a Descriptor,
        from: impl Readable,
    ) -> Self {
        Self {
            session,
            endpoint,
            repository,
            descriptor,
            source: Source::new(from),
            chunk: session.config().upload_chunk.map(|n| n.max(1)),
            begun: 0,
        }
    }

    /// Uploads, unless the repository has the blob or can take it over from repository `mount`.
    pub async fn run(mut self, mount: Option<&str>) -> Result<Pushed, Error> {
        let mut backoff = Backoff::new(self.session.config().retry, false);
        // Where the registry keeps what it got, over all tries.
        let mut standing: Option<Standing> = None;
        let mut mount = mount.filter(|from| *from != self.repository);
        loop {
            match self.once(&mut standing, mount, &mut backoff).await {
                Ok(pushed) => return Ok(pushed),
                Err(Error::Status { status: 413, .. }) if self.chunk.is_none() => {
                    self.chunk = Some(CHUNK);
                    standing = None;
                }
                Err(e) => {
                    if let Some(broken) = self.source.failure() {
                        return Err(Error::Source(broken));
                    }
                    backoff.wait(e).await?;
                }
            }
            // A second try must not depend on what the first may have failed by.
            mount = None;
        }
    }

    async fn once(
        &mut self,
        standing: &mut Option<Standing>,
        mount: Option<&str>,
        backoff: &mut Backoff,
    ) -> Result<Pushed, Error> {
        let tried = standing.is_some();
        let mut now = match standing.take() {
            Some(before) => self.resume(before).await?,
            None => None,
        };
        if now.is_none() && self.exists().await? {
            // The last request may have done its work and lost its answer.
            return Ok(if tried {
                Pushed::Uploaded
            } else {
                Pushed::Present
            });
        }
        if let (None, Some(from)) = (&now, mount) {
            match self.mount(from).await? {
                Mount::Done => return Ok(Pushed::Mounted),
                Mount::Instead(at) => now = Some(Standing { at, position: 0 }),
                Mount::Refused => {}
            }
        }
        let mut now = match now {
            Some(now) => now,
            None => self.begin().await?,
        };
        loop {
            let left = self.descriptor.size - now.position;
            if left == 0 || (left <= SMALL && self.chunk.is_none_or(|c| left <= c)) {
                let rest = self.source.part(now.position, left);
                *standing = Some(Standing {
                    at: now.at.clone(),
                    ..now
                });
                self.finish(now.at, rest).await?;
                return Ok(Pushed::Uploaded);
            }
            let length = left.min(self.chunk.unwrap_or(left));
            *standing = Some(Standing {
                at: now.at.clone(),
                ..now
            });
            now = self.append(now, length).await?;
            backoff.progress();
        }
    }

    async fn exists(&self) -> Result<bool, Error> {
        let path = path::blob(self.repository, &self.descriptor.digest);
        let answer = self.ask(Method::HEAD, path).send(self).await?;
        let there = match answer.status {
            StatusCode::OK => true,
            StatusCode::NOT_FOUND => false,
            _ => return Err(self.refusal(answer).await),
        };
        // One of another size cannot be what the digest names.
        let size = answer.content_length();
        if let Some(actual) = size.filter(|n| there && *n != self.descriptor.size) {
            return Err(Error::SizeMismatch {
                host: answer.place.authority(),
                what: format!("blob {}", self.descriptor.digest),
                expected: self.descriptor.size,
                actual,
            });
        }
        answer.discard().await;
        Ok(there)
    }

    async fn mount(&self, from: &str) -> Result<Mount, Error> {
        let digest = self.descriptor.digest.to_string();
        let path = path::uploads(self.repository);
        let path = query::append(&path, &[("mount", &digest), ("from", from)]);
        let access = Access::Mount {
            to: self.repository.to_owned(),
            from: from.to_owned(),
        };
        let ask = Ask::new(Method::POST, path, access);
        let answer = match self.session.ask(self.endpoint, &ask).await {
            Ok(answer) => answer,
            // Not to be let read there is no reason not to be let write here.
            Err(Error::Unauthorized { .. } | Error::Denied { .. }) => return Ok(Mount::Refused),
            Err(e) => return Err(e),
        };
        match answer.status {
            StatusCode::CREATED => {
                answer.discard().await;
                Ok(Mount::Done)
            }
            StatusCode::ACCEPTED => Ok(Mount::Instead(self.accepted(answer).await?.at)),
            s if s.is_client_error() && s != StatusCode::TOO_MANY_REQUESTS => {
                answer.discard().await;
                Ok(Mount::Refused)
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    async fn begin(&mut self) -> Result<Standing, Error> {
        self.begun += 1;
        if self.begun > self.session.config().retry.tries {
            return Err(Error::NotARegistry {
                host: self.endpoint.place("").authority(),
                why: format!("it has lost an upload {} times", self.begun - 1),
            });
        }
        let path = path::uploads(self.repository);
        let answer = self.ask(Method::POST, path).send(self).await?;
        // Only chunks have a smallest size; a registry that names one may still get all at once.
        let least = answer.header(header::OCI_CHUNK_MIN).map(str::trim);
        if let (Some(chunk), Some(Ok(least))) = (self.chunk, least.map(str::parse)) {
            self.chunk = Some(chunk.max(least));
        }
        let begun = self.accepted(answer).await?;
        Ok(Standing {
            position: 0,
            ..begun
        })
    }

    /// How far the registry got; `None` for an upload that it has forgotten.
    async fn resume(&self, before: Standing) -> Result<Option<Standing>, Error> {
        let answer = self.at(Method::GET, &before.at).send(self).await?;
        let known = answer.status.is_success();
        let got = answer.header(RANGE).and_then(header::upload_range);
        let next = answer.header(LOCATION).and_then(|l| answer.place.join(l));
        answer.discard().await;
        // `0-0` stands for one byte and for none, and a chunk in the wrong place is refused: such an
        // upload is begun anew.
        let got = got.filter(|s| known && s.end > 1 && s.end <= self.descriptor.size);
        Ok(got.map(|span| Standing {
            at: next.unwrap_or(before.at),
            position: span.end,
        }))
    }

    /// One PATCH. All of a blob at once needs no Content-Range, and some registries know it only without.
    async fn append(&self, now: Standing, length: u64) -> Result<Standing, Error> {
        let end = now.position + length;
        let mut ask = self.at(Method::PATCH, &now.at);
        if length < self.descriptor.size {
            ask.0 = ask
                .0
                .with(CONTENT_RANGE, &format!("{}-{}", now.position, end - 1));
        }
        let answer = ask
            .body(self.source.part(now.position, length))
            .send(self)
            .await?;
        self.still_there(&answer, now.position)?;
        let next = self.accepted(answer).await?;
        Ok(Standing {
            position: end,
            ..next
        })
    }

    async fn finish(&self, at: Place, rest: Content) -> Result<(), Error> {
        let digest = self.descriptor.digest.to_string();
        let at = Place {
            path: query::append(&at.path, &[("digest", &digest)]),
            ..at
        };
        let answer = self.at(Method::PUT, &at).body(rest).send(self).await?;
        self.still_there(&answer, self.descriptor.size)?;
        match answer.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT => {
                answer.discard().await;
                Ok(())
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    /// An upload that has been forgotten, or that stands elsewhere than we think (a cut request's bytes were still on
    /// their way), is looked at again as after a cut.
    fn still_there(&self, answer: &Answer, received: u64) -> Result<(), Error> {
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Err(Error::Cut {
                host: answer.place.authority(),
                what: format!("an upload of {}", self.descriptor.digest),
                received,
                tries: 1,
                source: None,
            }),
            _ => Ok(()),
        }
    }

    async fn accepted(&self, answer: Answer) -> Result<Standing, Error> {
        if answer.status != StatusCode::ACCEPTED {
            return Err(self.refusal(answer).await);
        }
        let at = answer.header(LOCATION).and_then(|l| answer.place.join(l));
        let host = answer.place.authority();
        answer.discard().await;
        let at = at.ok_or_else(|| Error::NotARegistry {
            host,
            why: "it does not say where an upload goes on".into(),
        })?;
        Ok(Standing { at, position: 0 })
    }

    async fn refusal(&self, answer: Answer) -> Error {
        status::refusal(answer, Subject::Upload, self.repository).await
    }

    fn ask(&self, method: Method, path: String) -> Step {
        Step(Ask::new(
            method,
            path,
            Access::Push(self.repository.to_owned()),
        ))
    }

    /// A request to where the registry keeps the upload.
    fn at(&self, method: Method, place: &Place) -> Step {
        let mut step = self.ask(method, String::new());
        step.0.at = Some(place.clone());
        step
    }
}

enum Mount {
    Done,
    /// The registry began an upload instead, here.
    Instead(Place),
    Refused,
}

/// A request of an upload.
struct Step(Ask);

impl Step {
    fn body(mut self, body: Content) -> Self {
        if !body.is_empty() {
            self.0 = self.0.with(CONTENT_TYPE, "application/octet-stream");
        }
        self.0.body = body;
        self
    }

    async fn send(self, upload: &Upload<'_>) -> Result<Answer, Error> {
        upload.session.ask(upload.endpoint, &self.0).await
    }
}
