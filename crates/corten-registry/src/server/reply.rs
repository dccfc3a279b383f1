//! Answers: their bodies, and the failures that are answers too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use corten_spec::Digest;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::ServerError;
use super::cache::Growing;
use crate::protocol::error_body::{Code, render};
use crate::protocol::header::{DOCKER_CONTENT_DIGEST, Span};

/// One read from disk, in bytes. Two of them wait at most, whatever the blob's size.
const PIECE: usize = 128 << 10;

pub(super) type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Bytes),
    File(tokio::fs::File, Span),
    Growing(Growing),
}

/// Why a request is not met: an answer with an error body, or our own failure, which is a 500.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(Box<Reply>),
    Internal(ServerError),
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::Internal(error)
    }
}

impl Reply {
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Content::Bytes(Bytes::new()),
        }
    }

    /// Values come from checked digests, names and numbers; one that is no header value all the same is left out.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }

    pub fn named(self, name: &'static str, value: impl AsRef<str>) -> Self {
        self.header(HeaderName::from_static(name), value)
    }

    pub fn bytes(mut self, content_type: &str, bytes: impl Into<Bytes>) -> Self {
        self.body = Content::Bytes(bytes.into());
        self.header(CONTENT_TYPE, content_type)
    }

    pub fn json(self, value: &serde_json::Value) -> Self {
        self.bytes("application/json", value.to_string())
    }

    pub fn file(mut self, file: tokio::fs::File, span: Span) -> Self {
        self.body = Content::File(file, span);
        self
    }

    pub fn growing(mut self, growing: Growing) -> Self {
        self.body = Content::Growing(growing);
        self
    }

    pub fn manifest(digest: &Digest, media_type: &str, bytes: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK)
            .bytes(media_type, bytes)
            .header(ETAG, format!("\"{digest}\""))
            .named(DOCKER_CONTENT_DIGEST, digest.to_string())
    }

    /// 304 in its place, if the client has named it as what it has (RFC 9110 §13.1.2).
    pub fn unless_known(self, known: Option<&str>) -> Self {
        let own = self.headers.get(ETAG).and_then(|v| v.to_str().ok());
        let same = |own: &str| {
            let mut listed = known.unwrap_or_default().split(',');
            listed.any(|k| k.trim().trim_start_matches("W/") == own)
        };
        if self.status != StatusCode::OK || !own.is_some_and(same) {
            return self;
        }
        Self {
            status: StatusCode::NOT_MODIFIED,
            body: Content::Bytes(Bytes::new()),
            ..self
        }
    }

    /// The size that HEAD answers with, where there is no body to take it from.
    pub fn sized(mut self, length: u64) -> Self {
        self.headers.insert(CONTENT_LENGTH, length.into());
        self
    }

    /// `head`: the headers of a GET without its body.
    pub fn into_response(self, head: bool) -> Response<ReplyBody> {
        let length = match &self.body {
            Content::Bytes(b) => b.len() as u64,
            Content::File(_, span) => span.end - span.start,
            Content::Growing(g) => g.span.end - g.span.start,
        };
        let body = match self.body {
            _ if head => empty(),
            Content::Bytes(bytes) => Full::new(bytes).map_err(|e| match e {}).boxed_unsync(),
            Content::File(file, span) => stream(file, span).boxed_unsync(),
            Content::Growing(growing) => grow(growing).boxed_unsync(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        if !bodiless.contains(&self.status) && !response.headers().contains_key(CONTENT_LENGTH) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        response
    }
}

fn empty() -> ReplyBody {
    Full::new(Bytes::new())
        .map_err(|e| match e {})
        .boxed_unsync()
}

/// A refusal with the specification's error body.
pub(super) fn refuse(status: StatusCode, code: Code, message: impl AsRef<str>) -> Failure {
    refuse_with(status, code, message, |r| r)
}

/// The same with headers, such as where an upload stands.
pub(super) fn refuse_with(
    status: StatusCode,
    code: Code,
    message: impl AsRef<str>,
    more: impl FnOnce(Reply) -> Reply,
) -> Failure {
    let body = render(code, message.as_ref(), serde_json::Value::Null);
    Failure::Refused(Box::new(more(
        Reply::new(status).bytes("application/json", body),
    )))
}

/// Runs storage work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    let done = tokio::task::spawn_blocking(work).await;
    // The task is never cancelled, and a panic in it is a bug to be passed on.
    done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

fn stream(mut file: tokio::fs::File, span: Span) -> FileBody {
    let (tx, rx) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut left = span.end - span.start;
        let mut failed = file.seek(io::SeekFrom::Start(span.start)).await.err();
        while left > 0 && failed.is_none() {
            let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut piece = bytes::BytesMut::with_capacity(want);
            match (&mut file).take(want as u64).read_buf(&mut piece).await {
                Ok(0) => failed = Some(io::ErrorKind::UnexpectedEof.into()),
                Err(e) => failed = Some(e),
                Ok(n) => {
                    left -= n as u64;
                    // The client went away: nobody to tell.
                    if tx.send(Ok(piece.freeze())).await.is_err() {
                        return;
                    }
                }
            }
        }
        if let Some(error) = failed {
            tracing::error!(%error, "cannot read a blob");
            let _ = tx.send(Err(error)).await;
        }
    });
    FileBody {
        rx,
        left: span.end - span.start,
    }
}

/// The same for a file that is still being written.
fn grow(mut growing: Growing) -> FileBody {
    let (tx, rx) = mpsc::channel(2);
    let left = growing.span.end - growing.span.start;
    tokio::spawn(async move {
        let mut position = growing.span.start;
        while position < growing.span.end {
            let piece = match growing.ready(position).await {
                Some(to) => read_at(&growing.file, position, to - position).await,
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            };
            let failed = piece.is_err();
            position += piece.as_ref().map_or(0, |p| p.len() as u64);
            if tx.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    FileBody { rx, left }
}

async fn read_at(file: &Arc<std::fs::File>, at: u64, most: u64) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt as _;
    let file = file.clone();
    let want = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; want];
        file.read_exact_at(&mut piece, at)?;
        Ok(Bytes::from(piece))
    });
    read.await
        .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

/// A part of a file, read ahead by a task of its own.
struct FileBody {
    rx: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        this.rx.poll_recv(cx).map(|piece| {
            piece.map(|p| {
                p.map(|bytes| {
                    this.left -= bytes.len() as u64;
                    Frame::data(bytes)
                })
            })
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
