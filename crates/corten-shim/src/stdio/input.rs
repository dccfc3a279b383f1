//! A process's standard input, and who writes to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::output::{SPLICE, write_some};

/// Standard input: a pipe's writing end, or the terminal's master.
#[derive(Debug)]
pub struct Input {
    pub sink: Option<OwnedFd>,
    /// A terminal has no end of input; the character ^D is its user's to send.
    console: bool,
    behind: Vec<u8>,
    /// `splice` found no room; the bytes are still in the FIFO.
    full: bool,
    fifo: Option<Fifo>,
    closing: bool,
    /// Whether it ends with the first attached client's.
    pub once: bool,
}

#[derive(Debug)]
pub struct Fifo {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

impl Fifo {
    /// Opens for reading without waiting for a writer. Such a descriptor does not report a
    /// hang-up before a first writer has come and gone (fifo(7)).
    pub fn open(path: PathBuf) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { fd, path })
    }
}

impl Input {
    pub fn new(sink: OwnedFd, console: bool, fifo: Option<Fifo>, once: bool) -> Self {
        Self {
            sink: Some(sink),
            console,
            behind: Vec::new(),
            full: false,
            fifo,
            closing: false,
            once,
        }
    }

    pub fn is_behind(&self) -> bool {
        self.full || !self.behind.is_empty()
    }

    pub fn fifo(&self) -> Option<BorrowedFd<'_>> {
        self.fifo.as_ref().map(|f| f.fd.as_fd())
    }

    /// Passes bytes on, or keeps them.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.behind.is_empty() {
            self.behind.extend_from_slice(bytes);
            return;
        }
        let Some(sink) = &self.sink else {
            return; // the process has closed its end: as a shell's pipe, the rest is nobody's
        };
        match write_some(sink.as_fd(), bytes) {
            Ok(n) => self.behind.extend_from_slice(&bytes[n..]),
            Err(_) => self.end(),
        }
    }

    /// Writes what was kept, and then closes if that was asked for meanwhile.
    pub fn flush(&mut self, scratch: &mut [u8]) {
        self.full = false;
        let behind = std::mem::take(&mut self.behind);
        self.push(&behind);
        if self.closing && !self.is_behind() {
            self.close(scratch);
        }
    }

    /// Reads the FIFO once.
    pub fn read_fifo(&mut self, scratch: &mut [u8]) {
        let Some(fifo) = &self.fifo else { return };
        if let Some(sink) = self.sink.as_ref().filter(|_| !self.console) {
            match splice(&fifo.fd, None, sink, None, SPLICE, SpliceFlags::NONBLOCK) {
                Ok(0) => return self.writer_left(),
                // If there was something to move, it is the process that has no room.
                Err(Errno::AGAIN) => {
                    self.full = rustix::io::ioctl_fionread(&fifo.fd).is_ok_and(|n| n > 0);
                    return;
                }
                Ok(_) | Err(Errno::INTR) => return,
                Err(Errno::PIPE) => return self.end(),
                // Not two pipes: the client has named a file.
                Err(_) => {}
            }
        }
        match rustix::io::read(&fifo.fd, &mut *scratch) {
            Ok(0) => self.writer_left(),
            Ok(n) => self.push(&scratch[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.fifo = None,
        }
    }

    /// The last writer has closed the FIFO. For a pipe that is the end of input; a terminal
    /// may be attached to again, so its FIFO is opened anew (a descriptor that has hung up stays so).
    fn writer_left(&mut self) {
        if !self.console {
            return self.end();
        }
        self.fifo = self.fifo.take().and_then(|f| Fifo::open(f.path).ok());
    }

    /// Closes standard input once what is on its way has been passed on: what is kept here
    /// and what the FIFO holds now.
    pub fn close(&mut self, scratch: &mut [u8]) {
        if self.console {
            return;
        }
        self.closing = true;
        while !self.is_behind()
            && let Some(fifo) = &self.fifo
        {
            match rustix::io::read(&fifo.fd, &mut *scratch) {
                Ok(n) if n > 0 => self.push(&scratch[..n]),
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        if !self.is_behind() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.sink = None;
        self.fifo = None;
        self.behind = Vec::new();
        self.full = false;
    }
}
