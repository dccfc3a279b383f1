//! One upgraded connection, from its first frame to its close, whichever protocol it speaks.
//!
//! ```text
//!   open ─── work done ──▶ draining ── all written ──▶ closing ── the client's end ──▶ closed
//!     │  what is queued goes out, however slowly            what the client still sends is read and dropped: closing
//!     │  the client takes it                                with bytes unread would reset the connection, and take our
//!     └─ client gone, nonsense, idle ──▶ closed             last words with it
//! ```

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::buf::Chain;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::channel::Outgoing;
use super::spdy::frame as spdy;
use super::websocket::frame as websocket;

/// How long a client that has gone, or is to go, is waited for.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is read at once, in bytes.
const READ: usize = 32 << 10;

/// When bytes last went either way.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    start: Instant,
    last: Arc<AtomicU64>,
}

impl Activity {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            last: Arc::default(),
        }
    }

    fn note(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    /// Returns when none have for so long.
    async fn idle(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            match (last + limit).checked_sub(self.start.elapsed()) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => sleep(rest).await,
            }
        }
    }

    /// Reads once. `Ok(false)`: there is no more.
    pub async fn read<R>(&self, io: &mut R, to: &mut BytesMut) -> io::Result<bool>
    where
        R: AsyncRead + Unpin,
    {
        to.reserve(READ);
        let n = io.read_buf(&mut to.limit(READ)).await?;
        self.note();
        Ok(n > 0)
    }
}

/// How pieces become frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Spdy,
    /// The first byte, or the first character, names the channel.
    Channels {
        base64: bool,
    },
    /// Bytes in messages, and nothing more.
    Messages,
}

impl Wire {
    fn encode(self, outgoing: Outgoing) -> Chain<Bytes, Bytes> {
        let (head, bytes) = match (self, outgoing) {
            (_, Outgoing::Control(frame)) => (frame, Bytes::new()),
            (Self::Spdy, Outgoing::Data { channel, bytes }) => {
                (spdy::data_head(channel, bytes.len(), false), bytes)
            }
            (Self::Spdy, Outgoing::End { channel }) => {
                (spdy::data_head(channel, 0, true), Bytes::new())
            }
            (Self::Channels { base64: false }, Outgoing::Data { channel, bytes }) => {
                let mut head = websocket::message_head(bytes.len() + 1, false);
                head.extend_from_slice(&[channel as u8]);
                (head.freeze(), bytes)
            }
            (Self::Channels { base64: true }, Outgoing::Data { channel, bytes }) => {
                let text = STANDARD.encode(bytes);
                let mut head = websocket::message_head(text.len() + 1, true);
                head.extend_from_slice(&[b'0' + channel as u8]);
                (head.freeze(), text.into())
            }
            (Self::Messages, Outgoing::Data { bytes, .. }) => {
                (websocket::message_head(bytes.len(), false).freeze(), bytes)
            }
            // A server cannot close a channel of its own; the connection's close is the end of all.
            (Self::Channels { .. } | Self::Messages, Outgoing::End { .. }) => {
                (Bytes::new(), Bytes::new())
            }
        };
        head.chain(bytes)
    }
}

/// Writes what comes, to the end of it, and then closes our direction.
pub(super) async fn write<W>(
    mut io: W,
    mut from: mpsc::Receiver<Outgoing>,
    wire: Wire,
    activity: Activity,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while let Some(first) = from.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            let mut frame = wire.encode(outgoing);
            while frame.has_remaining() {
                if io.write_buf(&mut frame).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                activity.note();
            }
            next = from.try_recv().ok();
        }
        io.flush().await?;
    }
    io.shutdown().await
}

/// Runs a connection's three parts. `reading` ends when the client has gone, and `writing` when every sender of
/// its queue is dropped, of which `working` has the only lasting ones.
pub(super) async fn conduct(
    reading: impl Future<Output = ()>,
    working: impl Future<Output = ()> + Send,
    writing: impl Future<Output = io::Result<()>>,
    activity: &Activity,
    limit: Duration,
) {
    let (mut reading, mut writing) = (pin!(reading), pin!(writing));
    let mut idle = pin!(activity.idle(limit));
    let mut working: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(working);
    tokio::select! {
        () = &mut working => {}
        () = &mut reading => {
            drop(working);
            // A client that was at fault is told so.
            let _lost = timeout(FAREWELL, writing).await;
            return;
        }
        _ = &mut writing => return,
        () = &mut idle => return,
    }
    drop(working);
    let written = tokio::select! {
        written = &mut writing => written,
        // It will not answer any more, but may be reading on.
        () = &mut reading => {
            let _lost = timeout(FAREWELL, writing).await;
            return;
        }
        () = &mut idle => return,
    };
    if written.is_ok() {
        let _late = timeout(FAREWELL, reading).await;
    }
}
