//! A client of the Task API.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use crate::ttrpc::frame::{Decoder, Event};

/// Answers that a client has not taken. Beyond this nothing more is read from it.
const BEHIND_MAX: usize = 1 << 20;

/// Where an answer goes: possibly long after the request, and possibly to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responder {
    pub connection: u32,
    pub stream: u32,
}

#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    behind: Vec<u8>,
    gone: bool,
    /// A foreign shim that tells of events.
    pub only_tells: bool,
}

impl Connection {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            behind: Vec::new(),
            gone: false,
            only_tells: false,
        }
    }

    pub fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.behind.len() < BEHIND_MAX);
        flags.set(PollFlags::OUT, self.is_behind());
        flags
    }

    /// Sends what waits, then reads once and returns the frames.
    pub fn ready(&mut self, scratch: &mut [u8]) -> Vec<Event> {
        self.flush();
        let mut events = Vec::new();
        if self.behind.len() >= BEHIND_MAX {
            return events;
        }
        match self.socket.read(scratch) {
            Ok(0) => self.gone = true,
            Ok(n) => self.decoder.feed(&scratch[..n], |event| events.push(event)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
        events
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.behind.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.behind.is_empty() && !self.gone {
            match self.socket.write(&self.behind) {
                Ok(n) => drop(self.behind.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
        self.behind.shrink_to(0);
    }

    pub fn hang_up(&mut self) {
        self.gone = true;
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty() && !self.gone
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
