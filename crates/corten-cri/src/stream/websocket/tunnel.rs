//! SPDY inside of WebSocket messages: how clients forward ports through proxies that let only WebSocket pass.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc::{self, WeakSender};

use super::channels::bye;
use super::frame::{self, Decoder, Frame};
use crate::stream::channel::{Outgoing, Output};
use crate::stream::session::Activity;

pub(in crate::stream) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Bytes on their way between the two protocols.
const BUFFER: usize = 64 << 10;

/// The reading side of the outer connection, what writes to it, and the inner connection.
pub(in crate::stream) fn tunnel(
    to: mpsc::Sender<Outgoing>,
    activity: Activity,
) -> (Outer, impl Future<Output = ()> + Send, DuplexStream) {
    let (inner, outer) = tokio::io::duplex(BUFFER);
    let (from_inner, to_inner) = tokio::io::split(outer);
    let reader = Outer {
        decoder: Decoder::default(),
        inner: to_inner,
        to: to.downgrade(),
        activity,
    };
    (reader, copy(from_inner, to), inner)
}

/// What SPDY writes, in messages, until it closes.
async fn copy(mut from: tokio::io::ReadHalf<DuplexStream>, to: mpsc::Sender<Outgoing>) {
    let output = Output::new(0, &to);
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BUFFER);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if output.send(buffer.split().freeze()).await.is_err() {
            return;
        }
    }
    bye(&to).await;
}

pub(in crate::stream) struct Outer {
    decoder: Decoder,
    inner: tokio::io::WriteHalf<DuplexStream>,
    to: WeakSender<Outgoing>,
    activity: Activity,
}

impl Outer {
    /// Passes on what messages hold, until the client has gone.
    pub async fn run<R: AsyncRead + Unpin>(mut self, mut io: R) {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(Frame::Part { bytes, .. })) => {
                    // After its end SPDY hears nothing; the close is then on its way.
                    let _ended = self.inner.write_all(&bytes).await;
                }
                Ok(Some(Frame::Ping(payload))) => self.say(frame::pong(&payload)).await,
                Ok(Some(Frame::Pong)) => {}
                Ok(Some(Frame::Close)) => return self.say(frame::close(frame::NORMAL)).await,
                Ok(None) => {
                    let read = self.activity.read(&mut io, self.decoder.buffer());
                    if !read.await.unwrap_or(false) {
                        return;
                    }
                }
                Err(broken) => {
                    tracing::debug!(%broken, "a WebSocket client is sent away");
                    return self.say(frame::close(frame::PROTOCOL_ERROR)).await;
                }
            }
        }
    }

    async fn say(&self, frame: Bytes) {
        if let Some(to) = self.to.upgrade() {
            let _gone = to.send(Outgoing::Control(frame)).await;
        }
    }
}
