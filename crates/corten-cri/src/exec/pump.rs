//! Frames of `attach.sock` from and to a client's streams.

use std::io;

use bytes::Bytes;
use corten_shim::attach::{self, Attached, Decoder, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::stream::{Input, Output, Resizes, Streams};

/// Read at once, in bytes.
const READ: usize = 64 << 10;

/// What comes from a process.
pub(super) struct Frames {
    socket: OwnedReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// What goes to it. Held here: closing it would say that standard input has ended.
    write: Option<OwnedWriteHalf>,
}

impl Frames {
    pub fn new(attached: Attached) -> io::Result<Self> {
        let (socket, decoder) = attached.into_parts();
        socket.set_nonblocking(true)?;
        let (socket, write) = UnixStream::from_std(socket)?.into_split();
        Ok(Self {
            socket,
            decoder,
            buffer: Vec::new(),
            write: Some(write),
        })
    }

    /// The next frame; `None`: the process has exited, and this was all. May be dropped while it waits.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let frame = self.decoder.next_frame();
            let frame = frame.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if frame.is_some() {
                return Ok(frame);
            }
            self.buffer.reserve(READ);
            match self.socket.read_buf(&mut self.buffer).await {
                // The shim has closed while input was unread: its output has all arrived before.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(0) => return Ok(None),
                Ok(_) => self.decoder.feed(&self.buffer),
                Err(e) => return Err(e),
            }
            self.buffer.clear();
        }
    }
}

/// Carries bytes until the process has ended and all of its output was sent.
pub(super) async fn pump(mut frames: Frames, streams: Streams) -> io::Result<()> {
    let mut write = frames.write.take();
    let up = async {
        if let Some(write) = &mut write {
            // A process that is not there any more needs no input.
            let _ended = send(write, streams.stdin, streams.resize).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        done = receive(&mut frames, streams.stdout, streams.stderr) => done,
        never = up => never,
    }
}

/// A client that has gone does not stop the process: what it writes is then read and dropped.
async fn receive(
    frames: &mut Frames,
    mut stdout: Option<Output>,
    mut stderr: Option<Output>,
) -> io::Result<()> {
    while let Some(Frame { kind, payload }) = frames.next().await? {
        let to = match kind {
            attach::STDOUT => &mut stdout,
            attach::STDERR => &mut stderr,
            attach::ERROR => {
                let words = String::from_utf8_lossy(&payload);
                return Err(io::Error::other(words.into_owned()));
            }
            _ => continue,
        };
        if let Some(output) = to
            && output.send(Bytes::from(payload)).await.is_err()
        {
            *to = None;
        }
    }
    Ok(())
}

async fn send(
    to: &mut OwnedWriteHalf,
    mut stdin: Option<Input>,
    mut resize: Option<Resizes>,
) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        tokio::select! {
            bytes = next(&mut stdin), if stdin.is_some() => match bytes {
                Some(bytes) => attach::encode(&mut frame, attach::STDIN, &bytes),
                None => {
                    stdin = None;
                    attach::encode(&mut frame, attach::STDIN_END, &[]);
                }
            },
            size = size(&mut resize), if resize.is_some() => match size {
                Some(size) => {
                    let json = serde_json::to_vec(&size)?;
                    attach::encode(&mut frame, attach::RESIZE, &json);
                }
                None => resize = None,
            },
            else => return Ok(()),
        }
        to.write_all(&frame).await?;
        frame.clear();
    }
}

async fn next(stdin: &mut Option<Input>) -> Option<Bytes> {
    stdin.as_mut()?.next().await
}

/// The next size that the client's terminal has, in the shim's words.
pub(super) async fn size(resize: &mut Option<Resizes>) -> Option<attach::Size> {
    let size = resize.as_mut()?.next().await?;
    Some(attach::Size {
        rows: size.height,
        cols: size.width,
    })
}
