//! The shim's side of an attached client.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::output::write_some;
use crate::attach::{self, Decoder, Hello, Size};
use crate::log::Stream;

/// A connection to `attach.sock`.
#[derive(Debug)]
pub struct Client {
    pub id: u32,
    socket: OwnedFd,
    decoder: Decoder,
    behind: Vec<u8>,
    pub hello: Hello,
    /// The client has shut its writing side; it may read on.
    pub read_closed: bool,
    end_told: bool,
    gone: bool,
    /// All bytes that were ever to be sent.
    queued: u64,
    /// How many there were when the process had exited and all of its output was read.
    mark: Option<u64>,
}

/// What a frame asks for.
#[derive(Debug)]
pub enum Action {
    Stdin(Vec<u8>),
    StdinEnd,
    Resize(Size),
}

impl Client {
    /// Takes a connection, which must not block, before its hello.
    pub fn new(id: u32, socket: OwnedFd) -> Self {
        Self {
            id,
            socket,
            decoder: Decoder::default(),
            behind: Vec::new(),
            hello: Hello::default(),
            read_closed: false,
            end_told: false,
            gone: false,
            queued: 0,
            mark: None,
        }
    }

    /// Reads once. The frames are then taken with [`next_action`](Self::next_action) or [`greeting`](Self::greeting).
    pub fn receive(&mut self, scratch: &mut [u8]) {
        match rustix::io::read(&self.socket, &mut *scratch) {
            Ok(0) => self.read_closed = true,
            Ok(n) => self.decoder.feed(&scratch[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The hello, if it has come. `Err`: something else came first.
    pub fn greeting(&mut self) -> Result<Option<Hello>, String> {
        match self.decoder.next_frame() {
            Ok(None) => Ok(None),
            Ok(Some(frame)) if frame.kind == attach::HELLO => {
                let hello = serde_json::from_slice(&frame.payload);
                hello.map(Some).map_err(|e| format!("bad hello: {e}"))
            }
            Ok(Some(frame)) => Err(format!("frame {} came before the hello", frame.kind)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Answers the hello.
    pub fn welcome(&mut self, hello: Hello) {
        self.hello = hello;
        self.send(attach::HELLO, &[]);
    }

    pub fn refuse(&mut self, why: &str) {
        self.send(attach::ERROR, why.as_bytes());
    }

    pub fn next_action(&mut self) -> Option<Action> {
        loop {
            let frame = match self.decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) if self.read_closed && !self.end_told => {
                    self.end_told = true;
                    return self.hello.stdin.then_some(Action::StdinEnd);
                }
                Ok(None) => return None,
                Err(_) => {
                    self.gone = true;
                    return None;
                }
            };
            match frame.kind {
                attach::STDIN if self.hello.stdin => return Some(Action::Stdin(frame.payload)),
                attach::STDIN_END if self.hello.stdin => {
                    self.end_told = true;
                    return Some(Action::StdinEnd);
                }
                attach::RESIZE => match serde_json::from_slice(&frame.payload) {
                    Ok(size) => return Some(Action::Resize(size)),
                    Err(_) => self.gone = true,
                },
                // Input from a client that asked for none, or a frame of another protocol.
                _ => self.gone = true,
            }
            if self.gone {
                return None;
            }
        }
    }

    pub fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.hello.stdout,
            Stream::Stderr => self.hello.stderr,
        }
    }

    pub fn send_output(&mut self, stream: Stream, bytes: &[u8]) {
        let kind = match stream {
            Stream::Stdout => attach::STDOUT,
            Stream::Stderr => attach::STDERR,
        };
        self.send(kind, bytes);
    }

    fn send(&mut self, kind: u8, payload: &[u8]) {
        let before = self.behind.len();
        attach::encode(&mut self.behind, kind, payload);
        self.queued += (self.behind.len() - before) as u64;
        self.flush();
    }

    /// How many bytes it has taken.
    pub fn flush(&mut self) -> usize {
        let written = write_some(self.socket.as_fd(), &self.behind);
        match written {
            Ok(n) if n == self.behind.len() => self.behind = Vec::new(),
            Ok(n) => drop(self.behind.drain(..n)),
            Err(_) => self.gone = true,
        }
        written.unwrap_or(0)
    }

    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty() && !self.gone
    }

    /// Output that is queued from now on is another process's, if all of this one's is.
    pub fn mark(&mut self, all_read: bool) {
        self.mark = self.mark.or(Some(self.queued).filter(|_| all_read));
    }

    /// Whether it has not taken everything of its process.
    pub fn owes(&self) -> bool {
        let sent = self.queued - self.behind.len() as u64;
        self.is_behind() && self.mark.is_none_or(|m| sent < m)
    }

    pub fn is_gone(&self) -> bool {
        // Without any stream to send, a client that has stopped writing wants nothing more.
        self.gone || (self.read_closed && !self.hello.stdout && !self.hello.stderr)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
