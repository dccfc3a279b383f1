//! The attach protocol: a container's stdio over `attach.sock` in its bundle.
//!
//! ```text
//!   frame    = type u8, length u32 big endian, payload (at most 64 KiB)
//!   client ──▶ shim    9 hello (JSON), 0 stdin bytes, 255 stdin ends, 4 resize (JSON)
//!   shim ──▶ client    9 hello taken, 8 error (text), 1 stdout, 2 stderr; then end of file
//! ```
//!
//! A client says hello first and may do so before the process is started. End of file
//! comes after the process has exited and all of its output was sent. A client that reads slowly
//! slows the container; nothing is dropped. This module has the frames and the client's
//! side; the shim's is in `stdio`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The socket's name in the bundle.
pub const SOCKET: &str = "attach.sock";

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const RESIZE: u8 = 4;
pub const ERROR: u8 = 8;
pub const HELLO: u8 = 9;
pub const STDIN_END: u8 = 255;

/// The largest payload of a frame.
pub const MAX_PAYLOAD: usize = 64 << 10;
const HEADER: usize = 5;

/// The first frame: which process, and which of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Empty: the container's init.
    #[serde(default)]
    pub exec_id: String,
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub stdout: bool,
    #[serde(default)]
    pub stderr: bool,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub payload: Vec<u8>,
}

/// A frame whose payload exceeds [`MAX_PAYLOAD`]: the peer does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an attach frame of {len} bytes exceeds the bound of {MAX_PAYLOAD}")]
pub struct TooLong {
    pub len: usize,
}

/// Appends a frame, or several if the payload needs them.
pub fn encode(to: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let whole = std::iter::once(payload).filter(|p| p.is_empty());
    for piece in payload.chunks(MAX_PAYLOAD).chain(whole) {
        to.push(kind);
        to.extend_from_slice(&(piece.len() as u32).to_be_bytes());
        to.extend_from_slice(piece);
    }
}

/// Collects bytes until they are frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Decoder {
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if its bytes are here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, TooLong> {
        let rest = &self.bytes[self.at..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, a, b, c, d] = *header;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > MAX_PAYLOAD {
            return Err(TooLong { len });
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.at += HEADER + len;
        if self.at == self.bytes.len() {
            self.bytes = Vec::new();
            self.at = 0;
        }
        Ok(Some(Frame { kind, payload }))
    }
}

/// A client's end.
#[derive(Debug)]
pub struct Attached {
    socket: UnixStream,
    decoder: Decoder,
}

/// Connects, says hello and waits until it is taken.
pub fn connect(bundle: &Path, hello: &Hello) -> Result<Attached, Error> {
    let path = bundle.join(SOCKET);
    let fail = |source| Error::Connect {
        path: path.clone(),
        source,
    };
    let socket = crate::client::connect_in(bundle, SOCKET).map_err(fail)?;
    let mut attached = Attached {
        socket,
        decoder: Decoder::default(),
    };
    let hello = serde_json::to_vec(hello).map_err(|e| fail(e.into()))?;
    attached.send(HELLO, &hello).map_err(fail)?;
    match attached.read_frame().map_err(fail)? {
        Some(Frame { kind: HELLO, .. }) => Ok(attached),
        Some(Frame {
            kind: ERROR,
            payload,
        }) => Err(Error::Refused {
            message: String::from_utf8_lossy(&payload).into_owned(),
        }),
        Some(_) => Err(fail(io::ErrorKind::InvalidData.into())),
        None => Err(fail(io::ErrorKind::UnexpectedEof.into())),
    }
}

impl Attached {
    /// Sends standard input.
    pub fn stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes
            .chunks(MAX_PAYLOAD)
            .try_for_each(|b| self.send(STDIN, b))
    }

    /// Says that there is no more of it.
    pub fn end_stdin(&mut self) -> io::Result<()> {
        self.send(STDIN_END, &[])
    }

    pub fn resize(&mut self, size: Size) -> io::Result<()> {
        let json = serde_json::to_vec(&size)?;
        self.send(RESIZE, &json)
    }

    fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        encode(&mut bytes, kind, payload);
        self.socket.write_all(&bytes)
    }

    /// Waits for the next frame. `None`: the process has exited and everything was read.
    pub fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// A frame that is here already. For callers that poll: call [`fill`](Self::fill)
    /// once when the descriptor is readable, then this until it gives `None`.
    pub fn buffered(&mut self) -> io::Result<Option<Frame>> {
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        self.decoder.next_frame().map_err(invalid)
    }

    /// Reads once from the socket. `false`: it has ended.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 << 10];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.decoder.feed(&bytes[..n]);
                    return Ok(true);
                }
                // The shim closed while input of ours was unread: its output has all arrived before.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The socket, and what has come over it already: for callers with a loop of their own.
    pub fn into_parts(self) -> (UnixStream, Decoder) {
        (self.socket, self.decoder)
    }

    /// A second handle on the socket, for a thread that sends while this one reads.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            decoder: Decoder::default(),
        })
    }
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }

        #[test]
        fn frames_survive_any_cut(
            frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..8),
            cut in 1usize..64,
        ) {
            let mut bytes = Vec::new();
            for (kind, payload) in &frames {
                encode(&mut bytes, *kind, payload);
            }
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push((frame.kind, frame.payload));
                }
            }
            prop_assert_eq!(found, frames);
        }
    }

    #[test]
    fn a_long_payload_is_split_and_a_long_frame_refused() {
        let mut bytes = Vec::new();
        encode(&mut bytes, STDOUT, &vec![7; MAX_PAYLOAD + 1]);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        assert_eq!(
            decoder.next_frame().unwrap().unwrap().payload.len(),
            MAX_PAYLOAD
        );
        assert_eq!(decoder.next_frame().unwrap().unwrap().payload, [7]);
        decoder.feed(&[STDIN, 0, 1, 0, 1]);
        assert_eq!(decoder.next_frame(), Err(TooLong { len: 65537 }));
    }
}
