//! One stream from a process, and where it goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::log::Stream;

/// A stream of a process.
#[derive(Debug)]
pub struct Output {
    pub stream: Stream,
    /// Where it comes from, without blocking; `None` after its end.
    pub source: Option<OwnedFd>,
    pub sinks: Vec<Sink>,
}

/// A descriptor that takes everything: a FIFO, a file, a logger's pipe.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    behind: Vec<u8>,
    gone: bool,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            behind: Vec::new(),
            gone: false,
        }
    }

    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    fn send(&mut self, bytes: &[u8]) {
        match write_some(self.fd.as_fd(), bytes) {
            Ok(n) if n == bytes.len() => {}
            Ok(n) => self.behind.extend_from_slice(&bytes[n..]),
            // The reader is gone for good (a FIFO of ours always has one): the container goes on.
            Err(_) => self.gone = true,
        }
    }

    fn flush(&mut self) {
        match write_some(self.fd.as_fd(), &self.behind) {
            Ok(n) if n == self.behind.len() => self.behind = Vec::new(),
            Ok(n) => drop(self.behind.drain(..n)),
            Err(_) => self.gone = true,
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Output {
    pub fn send(&mut self, bytes: &[u8]) {
        self.sinks.iter_mut().for_each(|s| s.send(bytes));
        self.sinks.retain(|s| !s.gone);
    }

    pub fn flush(&mut self, sink: usize) {
        if let Some(sink) = self.sinks.get_mut(sink) {
            sink.flush();
        }
        // Positions are only asked for again at the next poll.
        self.sinks.retain(|s| !s.gone);
    }
}

/// Writes until the other side takes no more.
pub(super) fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(fd, &bytes[done..]) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
