//! A server's end of a connection: its streams, by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc::{self, WeakSender};

use super::frame::{self, Broken, Decoder, Frame};
use super::header::{Headers, Stored};
use crate::stream::channel::{self, Budget, Feed, Gone, Input, Outgoing, Output};
use crate::stream::session::Activity;

/// Streams that are open at a time: five hundred forwarded connections.
const STREAMS_MAX: usize = 1000;
/// New streams that nobody has looked at.
const WAITING: usize = 16;

#[derive(Debug, Default)]
struct Shared {
    streams: Mutex<HashMap<u32, Entry>>,
    replies: Mutex<Stored>,
    /// The last stream that was let in.
    last: AtomicU32,
}

#[derive(Debug)]
struct Entry {
    /// `None` after the client's end of it.
    feed: Option<Feed>,
    reset: Arc<AtomicBool>,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: there are too many.
    fn list(&self, id: u32, entry: Entry) -> bool {
        let mut streams = self.streams();
        let room = streams.len() < STREAMS_MAX;
        if room {
            streams.insert(id, entry);
        }
        room
    }
}

/// Takes a stream off the list when nobody uses it any more.
#[derive(Debug)]
struct Listed {
    id: u32,
    shared: Arc<Shared>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.streams().remove(&self.id);
    }
}

/// A stream that a client wants to open.
#[derive(Debug)]
pub(in crate::stream) struct Incoming(Stream);

/// An open stream.
#[derive(Debug)]
pub(in crate::stream) struct Stream {
    pub id: u32,
    pub headers: Headers,
    pub input: Input,
    pub output: Output,
    pub listed: OnList,
}

/// Held for as long as a stream is in use.
#[derive(Debug)]
pub(in crate::stream) struct OnList(Listed);

impl Incoming {
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// Lets it in.
    pub async fn accept(self) -> Result<Stream, Gone> {
        let Self(stream) = self;
        let room = stream.output.to.reserve().await.map_err(|_| Gone)?;
        {
            // Written and queued at once: the blocks of all replies are one stream to the client's decompressor.
            let replies = &stream.listed.0.shared.replies;
            let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
            room.send(Outgoing::Control(frame::reply(stream.id, &mut replies)));
        }
        Ok(stream)
    }

    pub async fn refuse(self, status: u32) -> Result<(), Gone> {
        self.0.reset(status).await
    }
}

impl Stream {
    /// Ends it in both directions.
    pub async fn reset(self, status: u32) -> Result<(), Gone> {
        let frame = frame::reset(self.id, status);
        let sent = self.output.to.send(Outgoing::Control(frame)).await;
        sent.map_err(|_| Gone)
    }
}

/// Where new streams come from, for as long as the client may open some.
#[derive(Debug)]
pub(in crate::stream) struct Acceptor {
    incoming: mpsc::Receiver<Incoming>,
    to: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

impl Acceptor {
    pub async fn next(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// From now on new streams are refused.
    pub async fn close(&mut self) {
        self.incoming.close();
        while let Some(incoming) = self.incoming.recv().await {
            let _gone = incoming.refuse(frame::REFUSED_STREAM).await;
        }
    }

    /// Says that no further stream will be answered.
    pub async fn go_away(&self) {
        let frame = frame::go_away(self.shared.last.load(Ordering::Relaxed), 0);
        let _gone = self.to.send(Outgoing::Control(frame)).await;
    }
}

/// The reading side.
#[derive(Debug)]
pub(in crate::stream) struct Reader {
    decoder: Decoder,
    shared: Arc<Shared>,
    /// `None` after the client's GOAWAY.
    accept: Option<mpsc::Sender<Incoming>>,
    /// Weak, so that the writer ends with the work.
    to: WeakSender<Outgoing>,
    budget: Budget,
    activity: Activity,
}

/// Both sides of a connection whose writer takes from the queue of `to`.
pub(in crate::stream) fn connection(
    to: mpsc::Sender<Outgoing>,
    activity: Activity,
) -> (Reader, Acceptor) {
    let (accept, incoming) = mpsc::channel(WAITING);
    let shared = Arc::new(Shared::default());
    let reader = Reader {
        decoder: Decoder::default(),
        shared: shared.clone(),
        accept: Some(accept),
        to: to.downgrade(),
        budget: Budget::new(),
        activity,
    };
    let acceptor = Acceptor {
        incoming,
        to,
        shared,
    };
    (reader, acceptor)
}

impl Reader {
    /// Reads until the client has gone, or is found not to speak the protocol.
    pub async fn run<R: AsyncRead + Unpin>(mut self, mut io: R) {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.handle(frame).await,
                Ok(None) => {
                    let read = self.activity.read(&mut io, self.decoder.buffer());
                    if !read.await.unwrap_or(false) {
                        return;
                    }
                }
                Err(broken) => return self.blame(broken),
            }
        }
    }

    fn blame(&self, broken: Broken) {
        tracing::debug!(%broken, "a SPDY client is sent away");
        let last = self.shared.last.load(Ordering::Relaxed);
        self.try_say(frame::go_away(last, frame::PROTOCOL_ERROR));
    }

    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::Open {
                stream,
                fin,
                one_way,
                headers,
            } => self.open(stream, fin, one_way, headers).await,
            Frame::Data { stream, bytes, fin } => self.data(stream, &bytes, fin).await,
            Frame::More { stream, fin } => self.data(stream, &[], fin).await,
            Frame::Reset { stream } => {
                if let Some(entry) = self.shared.streams().remove(&stream) {
                    entry.reset.store(true, Ordering::Relaxed);
                }
            }
            // A client's are odd; an even one answers ours.
            Frame::Ping { id } if !id.is_multiple_of(2) => self.say(frame::ping(id)).await,
            Frame::Ping { .. } => {}
            Frame::GoAway => self.accept = None,
        }
    }

    async fn open(&mut self, id: u32, fin: bool, one_way: bool, headers: Headers) {
        let last = self.shared.last.load(Ordering::Relaxed);
        if id.is_multiple_of(2) || id <= last || one_way {
            return self.say(frame::reset(id, frame::PROTOCOL_ERROR)).await;
        }
        self.shared.last.store(id, Ordering::Relaxed);
        let refused = frame::reset(id, frame::REFUSED_STREAM);
        let (Some(accept), Some(to)) = (&self.accept, self.to.upgrade()) else {
            return self.say(refused).await;
        };
        let (feed, input) = channel::input(&self.budget);
        let output = Output::new(id, &to);
        let entry = Entry {
            feed: (!fin).then_some(feed.clone()),
            reset: output.reset.clone(),
        };
        if fin {
            feed.end();
        }
        if !self.shared.list(id, entry) {
            return self.say(refused).await;
        }
        let shared = self.shared.clone();
        let incoming = Incoming(Stream {
            id,
            headers,
            input,
            output,
            listed: OnList(Listed { id, shared }),
        });
        drop((feed, to));
        if accept.send(incoming).await.is_err() {
            self.say(refused).await;
        }
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        let feed = {
            let mut streams = self.shared.streams();
            let Some(entry) = streams.get_mut(&stream) else {
                return; // it was reset, or is of no more use
            };
            match fin {
                true => entry.feed.take(),
                false => entry.feed.clone(),
            }
        };
        let Some(feed) = feed else { return };
        // The answer proves that somebody is there; that it cannot be sent, that nobody is.
        feed.data(bytes, || self.try_say(frame::ping(2))).await;
        if fin {
            feed.end();
        }
    }

    async fn say(&self, frame: Bytes) {
        if let Some(to) = self.to.upgrade() {
            let _gone = to.send(Outgoing::Control(frame)).await;
        }
    }

    /// Unless the queue is full.
    fn try_say(&self, frame: Bytes) {
        if let Some(to) = self.to.upgrade() {
            let _full = to.try_send(Outgoing::Control(frame));
        }
    }
}
