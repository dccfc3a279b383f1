//! Unpacked bytes from the inflating thread to the one that writes the tree, in a bounded number of buffers that go
//! round. Whoever stops first is noticed by the other at its next step.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Size of a buffer, and how many may be full: what a slow disk can lag behind.
const BUFFER: usize = 256 << 10;
const FULL: usize = 6;

enum Piece {
    /// The first `usize` bytes of it.
    Bytes(Vec<u8>, usize),
    End,
}

/// Writes into the pipe.
pub struct Sender {
    full: SyncSender<Piece>,
    empty: Receiver<Vec<u8>>,
    made: usize,
}

/// Reads from it. The end of file is only believed if the sender said so: a sender that is gone is an error.
pub struct Pipe {
    full: Receiver<Piece>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
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
        current: Vec::new(),
        start: 0,
        end: 0,
        ended: false,
    };
    (sender, pipe)
}

impl Sender {
    /// A buffer to fill: a used one if there is any.
    pub fn buffer(&mut self) -> Result<Vec<u8>, Closed> {
        if let Ok(b) = self.empty.try_recv() {
            return Ok(b);
        }
        if self.made < FULL + 2 {
            self.made += 1;
            return Ok(vec![0; BUFFER]);
        }
        self.empty.recv().map_err(|_| Closed)
    }

    /// Sends the first `n` bytes of `buffer`.
    pub fn send(&self, buffer: Vec<u8>, n: usize) -> Result<(), Closed> {
        self.full.send(Piece::Bytes(buffer, n)).map_err(|_| Closed)
    }

    pub fn end(self) -> Result<(), Closed> {
        self.full.send(Piece::End).map_err(|_| Closed)
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end && !self.ended {
            let used = std::mem::take(&mut self.current);
            if !used.is_empty() {
                // The sender may be done with buffers and gone.
                let _ = self.empty.try_send(used);
            }
            self.start = 0;
            match self.full.recv() {
                Ok(Piece::Bytes(bytes, n)) => {
                    self.current = bytes;
                    self.end = n;
                }
                Ok(Piece::End) => {
                    self.end = 0;
                    self.ended = true;
                }
                Err(_) => {
                    self.end = 0;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        Ok(&self.current[self.start..self.end])
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
