//! Containers' connections over TCP: queries with their length before them (RFC 1035, 4.2.2), any
//! number on one connection, answered in the order in which the answers are there (RFC 7766).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::super::packet::MAX_QUERY;
use super::{Client, Poll, Server, Source};

/// Connections of one container.
const MAX_STREAMS: usize = 32;
/// Answers that a client has not taken yet; beyond, its queries are not read.
const MAX_OUTPUT: usize = 128 << 10;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Streams {
    all: HashMap<u64, Stream>,
    next: u64,
}

#[derive(Debug)]
struct Stream {
    sandbox: u64,
    socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    deadline: Instant,
}

impl Streams {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn forget(&mut self, sandbox: u64) {
        self.all.retain(|_, s| s.sandbox != sandbox);
    }

    pub fn expire(&mut self, now: Instant) {
        self.all.retain(|_, s| s.deadline > now);
    }

    fn admit(&mut self, sandbox: u64, socket: TcpStream, poll: &Poll) {
        let count = self.all.values().filter(|s| s.sandbox == sandbox).count();
        let number = self.next;
        if count >= MAX_STREAMS
            || socket.set_nonblocking(true).is_err()
            || poll
                .add(&socket, Source::Stream(number), EventFlags::IN)
                .is_err()
        {
            return;
        }
        self.next += 1;
        let stream = Stream {
            sandbox,
            socket,
            input: Vec::new(),
            output: Vec::new(),
            deadline: Instant::now() + IDLE,
        };
        self.all.insert(number, stream);
    }

    /// Sends an answer, or keeps it until the client takes it.
    pub(super) fn deliver(&mut self, number: u64, bytes: &[u8], poll: &Poll) {
        let Some(stream) = self.all.get_mut(&number) else {
            return;
        };
        stream.push(bytes);
        if stream.flush(number, poll).is_err() {
            self.all.remove(&number);
        }
    }
}

impl Stream {
    fn push(&mut self, bytes: &[u8]) {
        // Answers are cut to this before.
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(&bytes[..usize::from(length)]);
    }

    fn flush(&mut self, number: u64, poll: &Poll) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.output.drain(..written);
                    self.deadline = Instant::now() + IDLE;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let flags = match self.output.len() {
            0 => EventFlags::IN,
            1..MAX_OUTPUT => EventFlags::IN | EventFlags::OUT,
            _ => EventFlags::OUT,
        };
        poll.change(&self.socket, Source::Stream(number), flags);
        Ok(())
    }

    /// Reads what is there, but for what is not to be worked on yet.
    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; MAX_QUERY];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.input.extend_from_slice(&bytes[..length]);
                Ok(())
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// The next query that has come whole. `Err`: none of ours is as long.
    fn next(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let Some((length, rest)) = self.input.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_QUERY {
            return Err(());
        }
        if rest.len() < length {
            return Ok(None);
        }
        let query = rest[..length].to_vec();
        self.input.drain(..2 + length);
        self.deadline = Instant::now() + IDLE;
        Ok(Some(query))
    }
}

impl Server {
    pub(super) fn connections(&mut self, number: u64) {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return;
        };
        // One at a time: the loop comes back while there are more.
        if let Ok((socket, _)) = sandbox.tcp.accept() {
            self.streams.admit(number, socket, &self.poll);
        }
    }

    pub(super) fn stream(&mut self, number: u64, flags: EventFlags) {
        let over = EventFlags::HUP | EventFlags::ERR;
        let readable = flags.contains(EventFlags::IN);
        let worked = match self.streams.all.get_mut(&number) {
            None => return,
            Some(stream) => match readable {
                true => stream.fill(),
                false if flags.intersects(over) => Err(io::ErrorKind::ConnectionReset.into()),
                false => Ok(()),
            },
        };
        if worked.is_err() || self.answer_stream(number).is_err() {
            self.streams.all.remove(&number);
        }
    }

    fn answer_stream(&mut self, number: u64) -> Result<(), ()> {
        let mut output = std::mem::take(&mut self.output);
        let mut result = Ok(());
        while let Some(stream) = self.streams.all.get_mut(&number) {
            let sandbox = stream.sandbox;
            if stream.output.len() >= MAX_OUTPUT {
                break;
            }
            let query = match stream.next() {
                Ok(Some(query)) => query,
                Ok(None) => break,
                Err(()) => {
                    result = Err(());
                    break;
                }
            };
            output.clear();
            self.query(sandbox, Client::Stream(number), &query, &mut output);
            if let Some(stream) = self.streams.all.get_mut(&number)
                && !output.is_empty()
            {
                stream.push(&output);
            }
        }
        self.output = output;
        if let Some(stream) = self.streams.all.get_mut(&number) {
            result = result.and(stream.flush(number, &self.poll).map_err(drop));
        }
        result
    }
}
