//! Bodies of requests: bytes at hand, or a part of a source that is read while it is sent.
//!
//! A source is read on a thread of its own, a few pieces ahead of the socket, so that an upload's
//! memory does not depend on its size. Every opening of a body reads anew, so a request can be sent again.

use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// One read from a source, in bytes; two of them wait at most.
const PIECE: u64 = 256 << 10;

/// What can be uploaded: it is read from any offset, as often as a registry makes us.
pub trait Readable: Read + Seek + Send + 'static {}

impl<T: Read + Seek + Send + 'static> Readable for T {}

/// A source that several tries take turns at.
#[derive(Clone)]
pub(super) struct Source {
    from: Arc<Mutex<dyn Readable>>,
    /// Why reading failed, for whoever sees the request break off.
    failure: Arc<Mutex<Option<io::Error>>>,
}

/// The body of a request, as often as it is needed.
#[derive(Clone)]
pub(super) enum Content {
    Bytes(Bytes),
    Part {
        source: Source,
        start: u64,
        length: u64,
        /// How much of it the connection has taken, in the present try.
        sent: Arc<AtomicU64>,
    },
}

/// One sending of a [`Content`].
pub(super) enum Outgoing {
    Bytes(Bytes),
    Part {
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        left: u64,
        sent: Arc<AtomicU64>,
    },
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(b) => write!(f, "{} bytes", b.len()),
            Self::Part { start, length, .. } => write!(f, "{length} bytes from {start}"),
        }
    }
}

impl Source {
    pub fn new(from: impl Readable) -> Self {
        Self {
            from: Arc::new(Mutex::new(from)),
            failure: Arc::default(),
        }
    }

    pub fn part(&self, start: u64, length: u64) -> Content {
        Content::Part {
            source: self.clone(),
            start,
            length,
            sent: Arc::default(),
        }
    }

    /// Why the last reading failed, if it did.
    pub fn failure(&self) -> Option<io::Error> {
        let mut failure = self.failure.lock().unwrap_or_else(|p| p.into_inner());
        failure.take()
    }

    /// Reads on a blocking thread into the channel, until all is sent or nobody listens.
    fn feed(&self, start: u64, length: u64, into: &mpsc::Sender<io::Result<Bytes>>) {
        // An earlier try's thread leaves as soon as it sees that its request is gone.
        let mut from = self.from.lock().unwrap_or_else(|p| p.into_inner());
        let mut left = length;
        let mut failed = from.seek(SeekFrom::Start(start)).err();
        while left > 0 && failed.is_none() {
            let mut piece = vec![0; usize::try_from(left.min(PIECE)).unwrap_or(0)];
            match from.read_exact(&mut piece) {
                Ok(()) => left -= piece.len() as u64,
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
            if into.blocking_send(Ok(piece.into())).is_err() {
                return;
            }
        }
        if let Some(error) = failed {
            let told = io::Error::from(error.kind());
            *self.failure.lock().unwrap_or_else(|p| p.into_inner()) = Some(error);
            // Where nobody listens any more nobody needs to hear of it.
            let _ = into.blocking_send(Err(told));
        }
    }
}

impl Content {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(b) => b.is_empty(),
            Self::Part { length, .. } => *length == 0,
        }
    }

    /// Starts reading, where there is something to read.
    pub fn open(&self) -> Outgoing {
        match self {
            Self::Bytes(bytes) => Outgoing::Bytes(bytes.clone()),
            Self::Part {
                source,
                start,
                length,
                sent,
            } => {
                let (tx, pieces) = mpsc::channel(2);
                let (source, start, left) = (source.clone(), *start, *length);
                sent.store(0, Ordering::Relaxed);
                tokio::task::spawn_blocking(move || source.feed(start, left, &tx));
                Outgoing::Part {
                    pieces,
                    left,
                    sent: sent.clone(),
                }
            }
        }
    }

    /// How much of a part the connection has taken; grows while it is sent.
    pub fn sent(&self) -> u64 {
        match self {
            Self::Bytes(_) => 0,
            Self::Part { sent, .. } => sent.load(Ordering::Relaxed),
        }
    }

    /// Is there more of it than the connection has taken?
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Bytes(_) => false,
            Self::Part { length, .. } => self.sent() < *length,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Part { pieces, left, sent } => pieces.poll_recv(cx).map(|piece| {
                let piece = piece?;
                Some(piece.map(|bytes| {
                    *left = left.saturating_sub(bytes.len() as u64);
                    sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Frame::data(bytes)
                }))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Bytes(b) if b.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part { left, .. } => *left,
        })
    }
}
