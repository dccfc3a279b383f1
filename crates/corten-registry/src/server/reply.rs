//! Answers: their bodies, and the failures that are answers too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::ServerError;
use crate::protocol::error_body::{Code, render};
use crate::protocol::header::Span;

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

    /// `head`: the headers of a GET without its body.
    pub fn into_response(self, head: bool) -> Response<ReplyBody> {
        let length = match &self.body {
            Content::Bytes(b) => b.len() as u64,
            Content::File(_, span) => span.end - span.start,
        };
        let body = match self.body {
            _ if head => empty(),
            Content::Bytes(bytes) => Full::new(bytes).map_err(|e| match e {}).boxed_unsync(),
            Content::File(file, span) => stream(file, span).boxed_unsync(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if self.status != StatusCode::NO_CONTENT {
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
