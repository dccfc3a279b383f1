//! Unpacked bytes from the inflating thread to the one that writes the tree, in a bounded number of buffers that go
//! round. Whoever stops first is noticed by the other at its next step.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::content::direct::Piece;

/// How many buffers may be full: what a slow disk can lag behind.
const FULL: usize = 4;

enum Message {
    /// The first `usize` bytes of it.
    Bytes(Piece, usize),
    End,
}

/// Writes into the pipe.
pub struct Sender {
    full: SyncSender<Message>,
    empty: Receiver<Piece>,
    made: usize,
}

/// Reads from it. The end of file is only believed if the sender said so: a sender that is gone is an error.
pub struct Pipe {
    full: Receiver<Message>,
    empty: SyncSender<Piece>,
    current: Option<Piece>,
    start: usize,
    end: usize,
    ended: bool,
}

/// The reader is gone.
#[derive(Debug)]
pub struct Closed;

pub fn pipe() -> (Sender, Pipe) {
    let (full_in, full_out) = sync_channel(FULL);
    // Never full: there are no more buffers than this.
    let (empty_in, empty_out) = sync_channel(FULL + 2);
    let sender = Sender {
        full: full_in,
        empty: empty_out,
        made: 0,
    };
    let pipe = Pipe {
        full: full_out,
        empty: empty_in,
        current: None,
        start: 0,
        end: 0,
        ended: false,
    };
    (sender, pipe)
}

impl Sender {
    /// A buffer to fill: a used one if there is any.
    pub fn buffer(&mut self) -> Result<Piece, Closed> {
        if let Ok(b) = self.empty.try_recv() {
            return Ok(b);
        }
        if self.made < FULL + 2 {
            self.made += 1;
            return Ok(Piece::new());
        }
        self.empty.recv().map_err(|_| Closed)
    }

    /// Sends the first `n` bytes of `buffer`.
    pub fn send(&self, buffer: Piece, n: usize) -> Result<(), Closed> {
        self.full
            .send(Message::Bytes(buffer, n))
            .map_err(|_| Closed)
    }

    pub fn end(self) -> Result<(), Closed> {
        self.full.send(Message::End).map_err(|_| Closed)
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end && !self.ended {
            if let Some(used) = self.current.take() {
                // The sender may be done with buffers and gone.
                let _ = self.empty.try_send(used);
            }
            self.start = 0;
            match self.full.recv() {
                Ok(Message::Bytes(bytes, n)) => {
                    self.current = Some(bytes);
                    self.end = n;
                }
                Ok(Message::End) => {
                    self.end = 0;
                    self.ended = true;
                }
                Err(_) => {
                    self.end = 0;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        let current = self.current.as_deref().unwrap_or_default();
        Ok(&current[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let n = have.len().min(out.len());
        out[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}
