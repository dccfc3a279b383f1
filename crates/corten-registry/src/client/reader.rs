//! The blocking end of a blob's channel, for consumers that live outside the async world.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::Receiver;

/// Reads a blob from its channel. A channel that closes before `remaining` bytes have come
/// is an error ([`io::ErrorKind::UnexpectedEof`]), never a short file: the reason for it is what
/// [`Client::blob`](super::Client::blob) returned. Must not be read on an async worker thread.
#[derive(Debug)]
pub struct BlobReader {
    from: Receiver<Bytes>,
    current: Bytes,
    remaining: u64,
}

impl BlobReader {
    /// `remaining` is the descriptor's size less the offset that the download starts at.
    pub fn new(from: Receiver<Bytes>, remaining: u64) -> Self {
        Self {
            from,
            current: Bytes::new(),
            remaining,
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.from.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None if self.remaining == 0 => return Ok(0),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..n]);
        self.remaining = self.remaining.saturating_sub(n as u64);
        Ok(n)
    }
}
