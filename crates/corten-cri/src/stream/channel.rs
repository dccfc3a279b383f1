//! Streams between a connection and a backend, bounded on both ways.
//!
//! ```text
//!   connection's reader ── Feed ──▶ Input ──▶ backend       bytes that wait are paid from the connection's Budget
//!   connection's writer ◀── queue of pieces ── Output ◀──   a full queue makes the sender wait
//! ```
//!
//! Neither SPDY as Kubernetes speaks it nor WebSocket has windows, so a stream that nobody reads stalls its connection's
//! reader, and thereby the client, once the budget is spent: all streams of it together, and never more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The largest piece of output, in bytes.
pub(super) const PIECE: usize = 64 << 10;
/// Pieces that wait for the connection's writer.
pub(super) const PIECES: usize = 8;
/// Input that waits in all streams of a connection, in bytes.
const BUDGET: usize = 4 << 20;
/// What a waiting piece costs beside its bytes.
const OVERHEAD: usize = 128;
/// A reader that has waited for so long asks whether the client is still there.
const STALL: Duration = Duration::from_secs(3);

/// The client has gone, or wants no more of this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

/// What the connection's writer is to send, in this order.
#[derive(Debug)]
pub(super) enum Outgoing {
    Data {
        channel: u32,
        bytes: Bytes,
    },
    End {
        channel: u32,
    },
    /// A whole frame of the connection's own protocol.
    Control(Bytes),
}

/// Bytes from the client.
#[derive(Debug)]
pub struct Input(mpsc::UnboundedReceiver<Piece>);

#[derive(Debug)]
enum Piece {
    Data(Bytes, OwnedSemaphorePermit),
    End,
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Data(Bytes),
    End,
    /// The stream was reset, or its client has gone.
    Gone,
}

impl Input {
    /// The next bytes; `None`: there are no more. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.receive().await {
            Received::Data(bytes) => Some(bytes),
            Received::End | Received::Gone => None,
        }
    }

    pub(super) async fn receive(&mut self) -> Received {
        match self.0.recv().await {
            Some(Piece::Data(bytes, _paid)) => Received::Data(bytes),
            Some(Piece::End) => {
                self.0.close();
                Received::End
            }
            None => Received::Gone,
        }
    }
}

/// How much input may wait in a connection.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET)))
    }
}

/// The reader's end of an [`Input`]. Dropped before its [`end`](Self::end), it says that the client has gone.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    to: mpsc::UnboundedSender<Piece>,
    budget: Budget,
}

pub(super) fn input(budget: &Budget) -> (Feed, Input) {
    let (to, from) = mpsc::unbounded_channel();
    let budget = budget.clone();
    (Feed { to, budget }, Input(from))
}

impl Feed {
    /// Passes bytes on as soon as there is room for them. `stalled` is called now and then while there is none.
    pub async fn data(&self, bytes: &[u8], mut stalled: impl FnMut()) {
        if self.to.is_closed() {
            return; // who reads it has seen enough, as with a shell's pipe
        }
        for piece in bytes.chunks(PIECE) {
            let cost = (piece.len() + OVERHEAD) as u32;
            let paid = loop {
                let paying = self.budget.0.clone().acquire_many_owned(cost);
                match tokio::time::timeout(STALL, paying).await {
                    Ok(paid) => break paid,
                    Err(_) => stalled(),
                }
            };
            // The semaphore is never closed. A copy, so that a byte that waits does not hold on to the buffer it came in.
            let Ok(paid) = paid else { return };
            let _nobody_reads = (self.to).send(Piece::Data(Bytes::copy_from_slice(piece), paid));
        }
    }

    pub fn end(&self) {
        let _nobody_reads = self.to.send(Piece::End);
    }
}

/// Bytes to the client.
#[derive(Clone, Debug)]
pub struct Output {
    pub(super) channel: u32,
    pub(super) to: mpsc::Sender<Outgoing>,
    /// The client wants no more of it.
    pub(super) reset: Arc<AtomicBool>,
}

impl Output {
    pub(super) fn new(channel: u32, to: &mpsc::Sender<Outgoing>) -> Self {
        Self {
            channel,
            to: to.clone(),
            reset: Arc::default(),
        }
    }

    /// Returns when the bytes are in the connection's queue: a client that reads slowly makes it wait.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let channel = self.channel;
            self.put(Outgoing::Data {
                channel,
                bytes: piece,
            })
            .await?;
        }
        Ok(())
    }

    /// Says that there is no more.
    pub(super) async fn end(&self) -> Result<(), Gone> {
        let channel = self.channel;
        self.put(Outgoing::End { channel }).await
    }

    async fn put(&self, outgoing: Outgoing) -> Result<(), Gone> {
        if self.reset.load(Ordering::Relaxed) {
            return Err(Gone);
        }
        self.to.send(outgoing).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_stalls_the_feed_and_is_bounded() {
        let budget = Budget::new();
        let ((feed, mut input), mut asked) = (input(&budget), 0);
        let mut sent = 0;
        let stuck = async {
            loop {
                feed.data(&[7; 1000], || asked += 1).await;
                sent += 1000;
            }
        };
        let stuck = tokio::time::timeout(STALL * 3 + STALL / 2, stuck);
        assert!(stuck.await.is_err(), "it never waits");
        assert_eq!(asked, 3);
        assert!(sent <= BUDGET && sent > BUDGET * 3 / 4, "{sent}");
        // One piece taken is room for one piece more.
        assert_eq!(input.next().await.unwrap().len(), 1000);
        feed.data(&[7; 1000], || panic!("there is room")).await;
        drop(input);
        feed.data(&[7; 1000], || panic!("nobody reads it")).await;
        assert_eq!(
            budget.0.available_permits(),
            BUDGET,
            "the dead are paid for"
        );
    }

    #[tokio::test]
    async fn an_end_is_told_from_a_loss() {
        let (feed, mut input) = input(&Budget::new());
        feed.data(b"a", || ()).await;
        feed.end();
        drop(feed);
        assert_eq!(input.receive().await, Received::Data("a".into()));
        assert_eq!(input.receive().await, Received::End);
        let (feed, mut input) = super::input(&Budget::new());
        drop(feed);
        assert_eq!(input.receive().await, Received::Gone);
    }
}
