//! The compressed bytes, passing once: out of the partial blob first, where an earlier try left some, then out
//! of the reader into the partial blob; all through the hash.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt as _;

use corten_spec::Digest;
use corten_spec::digest::Hasher;
use rustix::fs::Advice;

use crate::content::direct::{Direct, Piece};

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
    /// The same file, once something is to be written.
    out: Option<Direct>,
    hasher: Hasher,
    /// Bytes that an earlier try left.
    resumed: u64,
    /// Bytes taken so far.
    taken: u64,
    /// Bytes that there are to be.
    size: u64,
    buffer: Piece,
    start: usize,
    end: usize,
    written_behind: u64,
    ended: bool,
    /// What the reader ended with.
    stopped: Option<io::Error>,
    fault: Option<Fault>,
}

impl<'a, R: Read> Tee<'a, R> {
    pub fn new(file: &'a File, resumed: u64, rest: R, digest: &Digest, size: u64) -> Self {
        Self {
            rest,
            file,
            out: None,
            hasher: digest.hasher(),
            resumed,
            taken: 0,
            size,
            buffer: Piece::new(),
            start: 0,
            end: 0,
            written_behind: resumed,
            ended: false,
            stopped: None,
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

    /// Fills the buffer, out of the file as long as an earlier try has left something there.
    fn refill(&mut self) -> io::Result<usize> {
        let (have, is_new) = match self.resumed.saturating_sub(self.taken) {
            0 => (self.receive(), true),
            left => (self.read_back(left)?, false),
        };
        let missing = self.size - self.taken;
        if have as u64 > missing {
            return Err(self.fail(Fault::Long));
        }
        if have == 0 && self.stopped.is_none() && missing > 0 {
            let e = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the bytes end at {} of {}", self.taken, self.size),
            );
            self.stopped = Some(e);
        }
        if have == 0
            && let Some(e) = self.stopped.take()
        {
            return Err(self.fail(Fault::Source(e)));
        }
        let bytes = &self.buffer[..have];
        if is_new && have > 0 {
            let file = match &mut self.out {
                Some(out) => out,
                none => match self.file.try_clone() {
                    Ok(file) => none.insert(Direct::new(file)),
                    Err(e) => return Err(self.fail(Fault::File(e))),
                },
            };
            if let Err(e) = file.write(bytes, self.taken) {
                return Err(self.fail(Fault::File(e)));
            }
        }
        self.hasher.update(bytes);
        self.taken += have as u64;
        self.write_behind();
        Ok(have)
    }

    /// As much as the reader gives, up to a bufferful. What it fails with is kept until those bytes are safe.
    fn receive(&mut self) -> usize {
        let mut have = 0;
        while have < self.buffer.len() && self.stopped.is_none() {
            match self.rest.read(&mut self.buffer[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.stopped = Some(e),
            }
        }
        have
    }

    fn read_back(&mut self, left: u64) -> io::Result<usize> {
        let room = self
            .buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match self.file.read_at(&mut self.buffer[..room], self.taken) {
            Ok(0) => {
                let e = io::ErrorKind::UnexpectedEof.into();
                Err(self.fail(Fault::File(e)))
            }
            Ok(n) => Ok(n),
            Err(e) => Err(self.fail(Fault::File(e))),
        }
    }

    fn write_behind(&mut self) {
        if self.out.as_ref().is_none_or(Direct::is_direct) {
            return;
        }
        let ready = self.taken.saturating_sub(self.written_behind);
        if ready >= WRITE_BEHIND {
            let length = std::num::NonZeroU64::new(ready);
            // Advice only: it starts the writing and drops what is clean of pages that nobody will read soon.
            let _ = rustix::fs::fadvise(self.file, self.written_behind, length, Advice::DontNeed);
            self.written_behind = self.taken;
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
