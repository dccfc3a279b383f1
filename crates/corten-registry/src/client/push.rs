//! Uploads: blobs in chunks, so that a cut costs one chunk, then the manifest that names them.

use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use corten_spec::{Digest, Reference};
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::place::Place;
use super::session::{Ask, Session};
use super::status::{self, Subject};
use super::transport::Answer;
use super::{Descriptor, Error};
use crate::protocol::{header, path, query};

/// Bytes in one request. The whole of one is held in memory, once.
const CHUNK: u64 = 4 << 20;

/// One blob on its way up.
pub(super) struct Upload<'a, R> {
    pub session: &'a Session,
    pub endpoint: &'a Endpoint,
    pub reference: &'a Reference,
    pub descriptor: &'a Descriptor,
    /// Away while a blocking task reads from it.
    pub from: Option<R>,
}

impl<R: Read + Seek + Send + 'static> Upload<'_, R> {
    /// Uploads, unless the repository has the blob.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.session.config().retry, false);
        // Where the registry keeps what it got, over all tries.
        let mut at: Option<Place> = None;
        loop {
            match self.once(&mut at, &mut backoff).await {
                Ok(()) => return Ok(()),
                Err(e) => backoff.wait(e).await?,
            }
        }
    }

    async fn once(&mut self, at: &mut Option<Place>, backoff: &mut Backoff) -> Result<(), Error> {
        let mut position = match at.take() {
            Some(place) => self.resume(place, at).await?,
            None => {
                if self.exists().await? {
                    return Ok(());
                }
                0
            }
        };
        if at.is_none() {
            let path = path::uploads(self.reference.repository());
            let answer = self
                .send(Method::POST, path, None, Bytes::new(), None)
                .await?;
            *at = Some(self.accepted(answer, StatusCode::ACCEPTED).await?);
            position = 0;
        }
        while let Some(place) = at.clone() {
            let left = self.descriptor.size - position;
            let chunk = self.read(position, left.min(CHUNK)).await?;
            if left <= CHUNK {
                return self.finish(place, chunk).await;
            }
            let end = position + chunk.len() as u64;
            let range = format!("{position}-{}", end - 1);
            let answer = self
                .send(
                    Method::PATCH,
                    String::new(),
                    Some(place),
                    chunk,
                    Some(&range),
                )
                .await?;
            *at = Some(self.accepted(answer, StatusCode::ACCEPTED).await?);
            position = end;
            backoff.progress();
        }
        Ok(())
    }

    async fn exists(&self) -> Result<bool, Error> {
        let path = path::blob(self.reference.repository(), &self.descriptor.digest);
        let answer = self
            .send(Method::HEAD, path, None, Bytes::new(), None)
            .await?;
        let there = match answer.status {
            StatusCode::OK => true,
            StatusCode::NOT_FOUND => false,
            _ => {
                let repository = self.reference.repository();
                return Err(status::refusal(answer, Subject::Upload, repository).await);
            }
        };
        answer.discard().await;
        Ok(there)
    }

    /// How far the registry got; an upload that it has forgotten starts anew.
    async fn resume(&self, place: Place, at: &mut Option<Place>) -> Result<u64, Error> {
        let answer = self
            .send(
                Method::GET,
                String::new(),
                Some(place.clone()),
                Bytes::new(),
                None,
            )
            .await?;
        let known = answer.status.is_success();
        let got = answer.header(RANGE).and_then(header::upload_range);
        let next = answer.header(LOCATION).and_then(|l| answer.place.join(l));
        answer.discard().await;
        // `0-0` stands for one byte and for none, and a chunk in the wrong place is refused: such an
        // upload is begun anew.
        match got.filter(|s| known && s.end > 1 && s.end <= self.descriptor.size) {
            None => Ok(0),
            Some(span) => {
                *at = Some(next.unwrap_or(place));
                Ok(span.end)
            }
        }
    }

    async fn finish(&self, place: Place, chunk: Bytes) -> Result<(), Error> {
        let digest = self.descriptor.digest.to_string();
        let place = Place {
            path: query::append(&place.path, &[("digest", &digest)]),
            ..place
        };
        let answer = self
            .send(Method::PUT, String::new(), Some(place), chunk, None)
            .await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT => {
                answer.discard().await;
                Ok(())
            }
            _ => Err(status::refusal(answer, Subject::Upload, self.reference.repository()).await),
        }
    }

    async fn accepted(&self, answer: Answer, wanted: StatusCode) -> Result<Place, Error> {
        if answer.status != wanted {
            return Err(
                status::refusal(answer, Subject::Upload, self.reference.repository()).await,
            );
        }
        let place = answer.header(LOCATION).and_then(|l| answer.place.join(l));
        let host = answer.place.authority();
        answer.discard().await;
        place.ok_or_else(|| Error::NotARegistry {
            host,
            why: "it does not say where an upload goes on".into(),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        at: Option<Place>,
        body: Bytes,
        range: Option<&str>,
    ) -> Result<Answer, Error> {
        let mut ask = Ask {
            method,
            at,
            body,
            push: true,
            ..Ask::get(self.reference.repository(), path)
        };
        let octets = HeaderValue::from_static("application/octet-stream");
        if !ask.body.is_empty() {
            ask.headers.insert(CONTENT_TYPE, octets);
        }
        if let Some(value) = range.and_then(|r| HeaderValue::from_str(r).ok()) {
            ask.headers.insert(CONTENT_RANGE, value);
        }
        self.session.ask(self.endpoint, &ask).await
    }

    /// Reads on a blocking thread; a source that is shorter than its descriptor is an error.
    async fn read(&mut self, position: u64, length: u64) -> Result<Bytes, Error> {
        let gone = || Error::Source(std::io::ErrorKind::NotConnected.into());
        let mut from = self.from.take().ok_or_else(gone)?;
        let task = tokio::task::spawn_blocking(move || {
            let read = from.seek(SeekFrom::Start(position)).and_then(|_| {
                let mut chunk = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                from.read_exact(&mut chunk)?;
                Ok(Bytes::from(chunk))
            });
            (from, read)
        });
        let (from, read) = task
            .await
            .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        self.from = Some(from);
        read.map_err(Error::Source)
    }
}

/// Uploads a manifest under the reference's tag, else its digest.
pub(super) async fn manifest(
    session: &Session,
    endpoint: &Endpoint,
    reference: &Reference,
    media_type: &str,
    bytes: Bytes,
) -> Result<Digest, Error> {
    let digest = reference.digest().map_or_else(
        || Digest::of(&bytes),
        |d| {
            let mut hasher = d.hasher();
            hasher.update(&bytes);
            hasher.finish()
        },
    );
    let key = reference
        .tag()
        .map_or_else(|| digest.to_string(), str::to_owned);
    let repository = reference.repository();
    let mut ask = Ask {
        method: Method::PUT,
        body: bytes,
        push: true,
        ..Ask::get(repository, path::manifest(repository, &key))
    };
    let content_type = HeaderValue::from_str(media_type).map_err(|_| Error::MediaType {
        reference: reference.to_string(),
        media_type: media_type.into(),
    })?;
    ask.headers.insert(CONTENT_TYPE, content_type);
    let mut backoff = Backoff::new(session.config().retry, true);
    loop {
        let sent = match session.ask(endpoint, &ask).await {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                answer.discard().await;
                return Ok(digest);
            }
            Ok(answer) => status::refusal(answer, Subject::Upload, repository).await,
            Err(e) => e,
        };
        backoff.wait(sent).await?;
    }
}
