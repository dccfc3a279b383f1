//! The compressed bytes, passing once: out of the partial blob first, where an earlier try left some, then out
//! of the reader into the partial blob; all through the hash.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt as _;

use corten_spec::Digest;
use corten_spec::digest::Hasher;
use rustix::fs::Advice;

/// Read and written in one piece.
const PIECE: usize = 256 << 10;
/// After so many bytes the kernel is told to start writing, so that the one fsync at the end has little left to do.
const WRITE_BEHIND: u64 = 8 << 20;

/// Why the bytes stopped. The decoders between only carry an `io::Error`, so the reason waits here.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The reader failed, or ended early.
    Source(io::Error),
    /// The partial blob could not be read or written.
    File(io::Error),
    /// There are more bytes than the descriptor says.
    Long,
}

pub(crate) struct Tee<'a, R> {
    rest: R,
    file: &'a File,
    hasher: Hasher,
    /// Bytes that an earlier try left.
    resumed: u64,
    /// Bytes taken so far.
    taken: u64,
    /// Bytes that there are to be.
    size: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    written_behind: u64,
    ended: bool,
    fault: Option<Fault>,
}

impl<'a, R: Read> Tee<'a, R> {
    pub fn new(file: &'a File, resumed: u64, rest: R, digest: &Digest, size: u64) -> Self {
        Self {
            rest,
            file,
            hasher: digest.hasher(),
            resumed,
            taken: 0,
            size,
            buffer: vec![0; PIECE],
            start: 0,
            end: 0,
            written_behind: resumed,
            ended: false,
            fault: None,
        }
    }

    /// Takes what is left without anyone wanting it: for the digest.
    pub fn drain(&mut self) -> io::Result<()> {
        loop {
            let n = self.fill_buf()?.len();
            if n == 0 {
                return Ok(());
            }
            self.consume(n);
        }
    }

    pub fn fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Bytes taken so far, all of them on file.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The digest of all bytes taken.
    pub fn digest(self) -> Digest {
        self.hasher.finish()
    }

    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::Error::other("the compressed bytes broke off")
    }

    /// Fills the buffer with at least the four bytes that tell a packing, if there are as many.
    fn refill(&mut self) -> io::Result<usize> {
        let mut have = 0;
        while have < 4 {
            let n = self.piece(have)?;
            if n == 0 {
                break;
            }
            have += n;
        }
        Ok(have)
    }

    fn piece(&mut self, at: usize) -> io::Result<usize> {
        let (n, from_file) = match self.resumed - self.taken.min(self.resumed) {
            0 => match read(&mut self.rest, &mut self.buffer[at..]) {
                Ok(n) => (n, false),
                Err(e) => return Err(self.fail(Fault::Source(e))),
            },
            left => {
                let room =
                    (self.buffer.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                match self
                    .file
                    .read_at(&mut self.buffer[at..at + room], self.taken)
                {
                    Ok(0) => {
                        let e = io::ErrorKind::UnexpectedEof.into();
                        return Err(self.fail(Fault::File(e)));
                    }
                    Ok(n) => (n, true),
                    Err(e) => return Err(self.fail(Fault::File(e))),
                }
            }
        };
        if n == 0 && self.taken < self.size {
            let e = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the bytes end at {} of {}", self.taken, self.size),
            );
            return Err(self.fail(Fault::Source(e)));
        }
        if n as u64 > self.size - self.taken {
            return Err(self.fail(Fault::Long));
        }
        let bytes = &self.buffer[at..at + n];
        if !from_file && let Err(e) = self.file.write_all_at(bytes, self.taken) {
            return Err(self.fail(Fault::File(e)));
        }
        self.hasher.update(bytes);
        self.taken += n as u64;
        self.write_behind();
        Ok(n)
    }

    fn write_behind(&mut self) {
        let ready = self.taken.saturating_sub(self.written_behind);
        if ready >= WRITE_BEHIND {
            let length = std::num::NonZeroU64::new(ready);
            // Advice only: it starts the writing and drops what is clean of pages that nobody will read soon.
            let _ = rustix::fs::fadvise(self.file, self.written_behind, length, Advice::DontNeed);
            self.written_behind = self.taken;
        }
    }
}

fn read(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl<R: Read> BufRead for Tee<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.fault.is_some() {
                return Err(io::Error::other("the compressed bytes broke off"));
            }
            if !self.ended {
                self.end = self.refill()?;
                self.ended = self.end == 0;
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let n = have.len().min(out.len());
        out[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}
